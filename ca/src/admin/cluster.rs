//! Commands for a CA that the replicas of a cluster share: a Secret asks, the replica that leads does it and writes the answer
//! into the same Secret. Whoever may make Secrets in the control plane's namespace may read the CA's key there too: the
//! cluster says who is an admin, and its audit log who asked. Nothing here decides, the CA does.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::StreamExt as _;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams},
    runtime::watcher::{self, Event, watcher},
};
use tokio::time::{sleep, timeout};

use super::{Command, Reply, execute};
use crate::authority::CertificateAuthority;

/// What the Secrets are labelled with.
const LABEL: &str = "squire.mesh/ca";
const COMMAND: &str = "command";
const ASKED: &str = "command.json";
const ANSWER: &str = "reply.json";
/// A command is answered within this time: a leader that has just ended is replaced sooner.
const LIMIT: Duration = Duration::from_secs(60);
/// Between two looks for an answer.
const LOOK: Duration = Duration::from_millis(300);
/// After the API server did not let us watch.
const PAUSE: Duration = Duration::from_secs(1);

/// Why the replicas could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClusterAskError {
    /// The API server refused, or could not be reached.
    #[error(
        "the control plane cannot be asked through the API server: {0}; the right to create, get and delete Secrets in its namespace is needed"
    )]
    Api(#[from] kube::Error),
    /// Nobody has answered.
    #[error(
        "no replica of the control plane has answered within {LIMIT:?}: see whether one leads (`squire_control_leads`)"
    )]
    Silent,
    /// The answer is not one.
    #[error("the control plane answered something else: is it another version of squire? {0}")]
    Other(String),
}

/// Asks the replica that leads.
///
/// # Errors
/// When it cannot be asked, or does not answer in time; it may have done what was asked.
pub async fn ask_cluster(client: Client, namespace: &str, command: &Command) -> Result<Reply, ClusterAskError> {
    let api: Api<Secret> = Api::namespaced(client, namespace);
    let text = serde_json::to_vec(command).map_err(|error| ClusterAskError::Other(error.to_string()))?;
    let secret = Secret {
        metadata: ObjectMeta {
            generate_name: Some("squire-ca-command-".to_owned()),
            labels: Some(BTreeMap::from([(LABEL.to_owned(), COMMAND.to_owned())])),
            ..ObjectMeta::default()
        },
        type_: Some("squire.mesh/ca-command".to_owned()),
        data: Some(BTreeMap::from([(ASKED.to_owned(), ByteString(text))])),
        ..Secret::default()
    };
    let made = api.create(&PostParams::default(), &secret).await?;
    let name = made.metadata.name.unwrap_or_default();
    let answered = timeout(LIMIT, answer_of(&api, &name)).await;
    // A command may hold a private key: it does not stay.
    let removed = api.delete(&name, &DeleteParams::default()).await;
    let reply = answered.unwrap_or(Err(ClusterAskError::Silent))?;
    removed?;
    Ok(reply)
}

async fn answer_of(api: &Api<Secret>, name: &str) -> Result<Reply, ClusterAskError> {
    loop {
        let answer = api.get(name).await?.data.and_then(|mut data| data.remove(ANSWER));
        if let Some(answer) = answer {
            return serde_json::from_slice(&answer.0).map_err(|error| ClusterAskError::Other(error.to_string()));
        }
        sleep(LOOK).await;
    }
}

/// Does what Secrets of this namespace ask for, until it is dropped. To be run by the replica that leads.
pub async fn serve_cluster(client: Client, namespace: &str, ca: Arc<CertificateAuthority>) {
    let api: Api<Secret> = Api::namespaced(client, namespace);
    let config = watcher::Config::default().labels(&format!("{LABEL}={COMMAND}"));
    let mut events = Box::pin(watcher(api.clone(), config));
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::InitApply(secret) | Event::Apply(secret)) => serve_one(&api, secret, &ca).await,
            Ok(Event::Init | Event::InitDone | Event::Delete(_)) => {}
            Err(error) => {
                tracing::warn!(%error, "admin commands cannot be watched: trying again");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn serve_one(api: &Api<Secret>, secret: Secret, ca: &Arc<CertificateAuthority>) {
    let (name, data) = (
        secret.metadata.name.unwrap_or_default(),
        secret.data.unwrap_or_default(),
    );
    let Some(asked) = data.get(ASKED).filter(|_| !data.contains_key(ANSWER)) else {
        return;
    };
    let reply = match serde_json::from_slice::<Command>(&asked.0) {
        Ok(command) => {
            let ca = Arc::clone(ca);
            let done = tokio::task::spawn_blocking(move || execute(&ca, command, SystemTime::now())).await;
            done.unwrap_or_else(|error| Reply::Refused {
                mistaken: false,
                why: format!("it was interrupted: {error}"),
            })
        }
        Err(error) => Reply::Refused {
            mistaken: true,
            why: format!("not a command of this version of squire: {error}"),
        },
    };
    let refused = matches!(reply, Reply::Refused { .. });
    tracing::info!(name, refused, "an admin command was answered");
    let written = async {
        let text = serde_json::to_string(&reply).map_err(kube::Error::SerdeError)?;
        // The command is not needed any more, and may hold a private key.
        let patch = serde_json::json!({"data": {ASKED: null}, "stringData": {ANSWER: text}});
        api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await
    };
    if let Err(error) = written.await {
        tracing::warn!(%error, name, "the answer to an admin command could not be written");
    }
}
