//! The application's SVID: another one for the sidecar's identity, under a key that is made for the application. It is
//! issued when somebody asks, renewed while anybody listens, and forgotten when nobody does.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

use super::{Handed, Parts, figures::WorkloadApiFigures};
use crate::{
    backoff::Backoff,
    config::Config,
    identity::{self, IssueError, Issued, KeyedSvid},
    roots::Roots,
    state::State,
};

/// Bounds of the wait after a failed attempt.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(8);
/// The wall clock may be set while we sleep: look at it now and then.
const CLOCK_CHECK: Duration = Duration::from_secs(30);
/// When a root leaves the bundle, all renew: not all in the same moment.
const SPREAD: Duration = Duration::from_secs(2);

/// Follows the application's SVID; `None` while there is none.
pub(super) type Follower = watch::Receiver<Option<Arc<KeyedSvid>>>;

/// Where to ask for it.
pub(super) struct ApplicationSvids {
    publish: watch::Sender<Option<Arc<KeyedSvid>>>,
    wanted: Arc<Notify>,
}

/// The task that keeps it current.
pub(super) struct Keeper {
    config: Arc<Config>,
    roots: Roots,
    identity: identity::Receiver,
    state: State,
    publish: watch::Sender<Option<Arc<KeyedSvid>>>,
    wanted: Arc<Notify>,
    figures: Arc<WorkloadApiFigures>,
    handed: Handed,
}

impl ApplicationSvids {
    /// Nothing until somebody asks.
    pub(super) fn new(parts: &Parts) -> (Self, Keeper) {
        let (publish, wanted) = (watch::Sender::new(None), Arc::new(Notify::new()));
        let keeper = Keeper {
            config: Arc::clone(&parts.config),
            roots: parts.roots.clone(),
            identity: parts.identity.clone(),
            state: parts.state.clone(),
            publish: publish.clone(),
            wanted: Arc::clone(&wanted),
            figures: Arc::clone(&parts.figures),
            handed: parts.handed.clone(),
        };
        (Self { publish, wanted }, keeper)
    }

    /// Asks for it, for as long as the follower lives.
    pub(super) fn follow(&self) -> Follower {
        let follower = self.publish.subscribe();
        self.wanted.notify_one();
        follower
    }
}

impl Keeper {
    /// Runs until it is dropped.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
        loop {
            self.until_wanted().await;
            let Ok(own) = self.own().await else { return };
            match self.attempt(&own).await {
                Ok(svid) => {
                    backoff.reset();
                    tracing::info!(serial = %svid.svid.serial(), "an SVID was issued to the application");
                    let svid = Arc::new(svid);
                    let listened = self.publish.receiver_count() > 0;
                    self.handed.add(svid.root, svid.not_after, listened, SystemTime::now());
                    self.tell(Some(Arc::clone(&svid)));
                    self.until_due(&svid, own.generation).await;
                }
                Err(error) => {
                    let wait = backoff.wait();
                    tracing::warn!(%error, retry_in_ms = wait.as_millis(), "no SVID was issued to the application");
                    self.forget_if_ended();
                    sleep(wait).await;
                }
            }
        }
    }

    async fn until_wanted(&self) {
        while self.publish.receiver_count() == 0 {
            self.tell(None);
            self.wanted.notified().await;
        }
    }

    /// The sidecar's own SVID; an error when nobody will ever bring one.
    async fn own(&mut self) -> Result<Arc<Issued>, watch::error::RecvError> {
        loop {
            if let Some(issued) = self.identity.borrow_and_update().valid() {
                return Ok(Arc::clone(issued));
            }
            self.forget_if_ended();
            self.identity.changed().await?;
        }
    }

    async fn attempt(&self, own: &Issued) -> Result<KeyedSvid, IssueError> {
        let snapshot = Arc::clone(&self.state.borrow());
        identity::another(&self.config, &self.roots, &snapshot, own).await
    }

    /// Until it is to be renewed: late in its life, when its root has left the bundle, or when the sidecar's own was renewed
    /// (`generation`: the one it was asked for with).
    async fn until_due(&mut self, svid: &KeyedSvid, generation: u64) {
        loop {
            let held = {
                let snapshot = self.state.borrow_and_update();
                snapshot.bundles.holds(svid.svid.id().trust_domain(), svid.root)
            };
            if !held {
                return sleep(SPREAD.mul_f64(rand::random())).await;
            }
            let Ok(left) = svid.renew_at.duration_since(SystemTime::now()) else {
                return;
            };
            let newer = |identity: &identity::Identity| identity.valid().is_some_and(|own| own.generation > generation);
            let following = tokio::select! {
                () = sleep(left.min(CLOCK_CHECK)) => true,
                changed = self.state.changed() => changed.is_ok(),
                renewed = async { self.identity.wait_for(newer).await.is_ok() } => {
                    if renewed {
                        return;
                    }
                    false
                }
            };
            if !following {
                // What is followed has ended: so does the process.
                return std::future::pending().await;
            }
        }
    }

    /// An SVID that has ended is worth nothing to anybody.
    fn forget_if_ended(&self) {
        let ended = |svid: &Arc<KeyedSvid>| svid.not_after <= SystemTime::now();
        if self.publish.borrow().as_ref().is_some_and(ended) {
            tracing::error!("the application's SVID has expired and was not renewed");
            self.tell(None);
        }
    }

    fn tell(&self, svid: Option<Arc<KeyedSvid>>) {
        let end = svid.as_ref().map_or(SystemTime::UNIX_EPOCH, |svid| svid.not_after);
        let end = end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.figures.svid_ends(end.as_secs());
        self.publish.send_replace(svid);
    }
}
