//! A Kubernetes API server as the source of truth: one watch for each kind, kept through lost connections, restarts,
//! expired resource versions and withdrawn permissions. Nothing is said before every kind has been listed once; a list
//! replaces what was known of its kind in one step; what cannot be read stays as it was last read.

mod accounts;
mod follow;
mod kinds;
mod mirror;
mod raw;
mod remarks;
mod route_status;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use squire_mesh::{spiffe::TrustDomain, svid::Revocations, workload::Interner};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::{
    kinds::KINDS, mirror::Mirror, remarks::publish as publish_remarks, route_status::publish as publish_route_status,
};
use super::{News, Placed, Review, Scan, Source};
use crate::metrics::Metrics;

/// No change for this long: a burst has ended.
const QUIET: Duration = Duration::from_millis(15);
/// Changes wait no longer than this, however many follow.
const LATEST: Duration = Duration::from_millis(150);
/// Look in any case: ages are shown.
const IDLE: Duration = Duration::from_secs(2);
/// For a connection to the API server.
const CONNECT: Duration = Duration::from_secs(5);

/// How the API server is reached: as `kubectl` does it, or as a pod does.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// A kubeconfig; none: `KUBECONFIG`, `~/.kube/config`, or the service account of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// The context in it; none: the current one.
    pub context: Option<String>,
}

impl Access {
    /// A client; nothing is asked yet.
    ///
    /// # Errors
    /// When there is no usable configuration.
    pub async fn client(&self) -> Result<Client, AccessError> {
        let options = KubeConfigOptions {
            context: self.context.clone(),
            ..KubeConfigOptions::default()
        };
        let wrong = |error: kube::config::KubeconfigError| AccessError(error.to_string());
        let mut config = match &self.kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path).map_err(wrong)?;
                Config::from_custom_kubeconfig(file, &options).await.map_err(wrong)?
            }
            None if self.context.is_some() => Config::from_kubeconfig(&options).await.map_err(wrong)?,
            None => Config::infer().await.map_err(|error| AccessError(error.to_string()))?,
        };
        config.connect_timeout = Some(CONNECT);
        Client::try_from(config).map_err(|error| AccessError(error.to_string()))
    }
}

/// Why there is no way to the API server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no way to the Kubernetes API server: {0}; name a kubeconfig with --kubeconfig, or run in a pod with a service account"
)]
pub struct AccessError(String);

/// The API server as a source.
pub struct Cluster {
    mirror: Arc<Mirror>,
    seen: u64,
    changes: watch::Receiver<u64>,
}

impl Cluster {
    /// Starts to watch; `tasks` end at `stop`. `review` judges the objects that give no fact.
    pub fn watch(
        client: &Client,
        domain: TrustDomain,
        review: Review,
        metrics: &Metrics,
        stop: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let mirror = Arc::new(Mirror::new(domain, review));
        follow::start(client, &mirror, metrics, stop, tasks);
        Self {
            changes: mirror.changes(),
            mirror,
            seen: 0,
        }
    }

    /// What is known, shared with whoever writes remarks on it.
    pub fn mirror(&self) -> Arc<Mirror> {
        Arc::clone(&self.mirror)
    }

    /// Identities whose service account is gone, or was made anew.
    pub fn revoked(&self) -> watch::Receiver<Arc<Revocations>> {
        self.mirror.revoked()
    }
}

impl Source for Cluster {
    fn scan(&mut self, _: &mut Interner) -> Scan {
        let now = self.mirror.tidy(SystemTime::now());
        let changed = now != self.seen;
        self.seen = now;
        Scan {
            changed,
            unsettled: false,
        }
    }

    fn news(&mut self) -> News {
        self.mirror.news()
    }

    fn place(&self, _: &str) -> Option<Placed> {
        None
    }

    fn stale_since(&self) -> Option<SystemTime> {
        self.mirror.stale_since()
    }

    async fn due(&mut self) {
        let changes = &mut self.changes;
        if *changes.borrow_and_update() == self.seen && timeout(IDLE, changes.changed()).await.is_err() {
            return;
        }
        let latest = Instant::now() + LATEST;
        loop {
            let quiet = latest.min(Instant::now() + QUIET);
            match timeout_at(quiet, changes.changed()).await {
                Ok(Ok(())) => {}
                // The mirror is gone only when this is: no reason to run in circles.
                Ok(Err(_)) => return sleep(IDLE).await,
                Err(_) => return,
            }
        }
    }
}
