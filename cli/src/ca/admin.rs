//! Where an admin's command is done: by the process that runs the CA, over the socket in its directory, or here when
//! nobody runs it; in a cluster by the replica that leads. There is one writer of a CA's state at any time.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use anyhow::anyhow;
use squire_ca::{
    admin::{Command, Reply, ask, ask_cluster, execute},
    authority::CertificateAuthority,
    state::State,
    status::Status,
    store::{DirStore, Store as _, StoreError},
};
use squire_mesh::spiffe::TrustDomain;

use super::{KeyArgs, Place};
use crate::{
    cluster::ClusterArgs,
    exit::{Failure, block_on},
    policy::page,
};

/// Whose CA: that of a directory, or the one that the replicas of a cluster share.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Asked {
    /// Directory of the CA's keys and state (the control plane's --ca-dir)
    #[arg(
        long,
        value_name = "DIR",
        env = "SQUIRE_CA_DIR",
        required_unless_present = "kubernetes"
    )]
    dir: Option<PathBuf>,
    #[command(flatten)]
    key: KeyArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
}

impl Asked {
    /// Has a command done. What the CA refuses is a failure here.
    pub(super) fn perform(&self, command: Command) -> Result<Reply, Failure> {
        if self.cluster.is_asked_for() {
            return self.ask(command);
        }
        let place = self.place();
        match place.open() {
            Ok(store) => {
                let now = SystemTime::now();
                let ca = CertificateAuthority::open(Arc::new(store), None, now)?;
                done(execute(&ca, command, now))
            }
            Err(StoreError::Locked { .. }) => self.ask(command),
            Err(other) => Err(other.into()),
        }
    }

    /// Asks whoever runs the CA, and nobody else: a CA that nobody runs is not opened here, where it would be in the way of a
    /// control plane that starts.
    pub(super) fn ask(&self, command: Command) -> Result<Reply, Failure> {
        if !self.cluster.is_asked_for() {
            return done(ask(&self.place().dir, &command).map_err(Failure::unavailable)?);
        }
        let mut reply = None;
        block_on(async {
            let (client, namespace) = self.cluster.client().await.map_err(Failure::unavailable)?;
            let answer = ask_cluster(client, namespace, &command).await;
            reply = Some(answer.map_err(Failure::unavailable)?);
            Ok(())
        })?;
        done(reply.ok_or_else(|| Failure::unavailable(anyhow!("nothing was answered")))?)
    }

    /// The state of a CA in a directory, which can be read beside the process that runs it; none of a cluster's.
    pub(super) fn read(&self) -> Result<Option<State>, Failure> {
        if self.cluster.is_asked_for() {
            return Ok(None);
        }
        let place = self.place();
        let state = place.shared()?.load()?;
        Ok(Some(state.ok_or(StoreError::NotInitialised(place.dir))?))
    }

    /// Whether there is a process that goes on with what it was asked for.
    pub(super) fn is_run(&self) -> bool {
        self.cluster.is_asked_for() || DirStore::owner(&self.place().dir).is_some()
    }

    /// Of which trust domain it is the CA.
    pub(super) fn trust_domain(&self) -> Result<TrustDomain, Failure> {
        let name = match self.page("/ca/status")? {
            Some(page) => {
                let status: serde_json::Value = serde_json::from_str(&page).map_err(Failure::unavailable)?;
                status["trust_domain"].as_str().unwrap_or_default().to_owned()
            }
            None => Status::read(&self.place().shared()?)?.trust_domain,
        };
        name.parse().map_err(Failure::configuration)
    }

    /// A page of the cluster's control plane about its CA; none of a directory's.
    pub(super) fn page(&self, path: &str) -> Result<Option<String>, Failure> {
        page::of_cluster(&self.cluster, path)
    }

    /// Where the CA of a directory is.
    pub(super) fn place(&self) -> Place {
        Place {
            // Only a cluster goes without.
            dir: self.dir.clone().unwrap_or_default(),
            key: self.key.clone(),
        }
    }
}

fn done(reply: Reply) -> Result<Reply, Failure> {
    match reply {
        Reply::Refused { mistaken: true, why } => Err(Failure::usage(anyhow!(why))),
        Reply::Refused { mistaken: false, why } => Err(Failure::unavailable(anyhow!(why))),
        done => Ok(done),
    }
}

/// Another answer than the command has.
pub(super) fn unexpected(reply: &Reply) -> Failure {
    Failure::unavailable(anyhow!(
        "the process that runs this CA answered something else ({reply:?}): is it another version of squire?"
    ))
}
