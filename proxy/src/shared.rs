//! What every connection of this sidecar shares. Made once at the start; only read afterwards.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use squire_mesh::spiffe::TrustDomain;
use tokio::sync::{Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    callouts::Callouts,
    connection::Recorder,
    credentials::CredentialsWatch,
    demand::{Demand, Need, Unanswered},
    destinations::Destinations,
    dial::Dialer,
    http::{h1::IdleUpstreams, h2::Upstreams},
    metrics::Metrics,
    pool::Pool,
    report::Standing,
    state::Snapshot,
    state::State,
    traffic::Traffic,
    workload_api::Handed,
};

/// Everything a connection needs that is not its own.
pub(crate) struct Shared {
    pub(crate) state: State,
    /// Where to ask for what is not known; none: everything is.
    pub(crate) demand: Option<Demand>,
    pub(crate) credentials: CredentialsWatch,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) pool: Arc<Pool>,
    /// Tokens and external authorization.
    pub(crate) callouts: Callouts,
    /// Which endpoint takes what.
    pub(crate) traffic: Traffic,
    /// HTTP/2 connections to peers and servers.
    pub(crate) http2: Upstreams,
    /// HTTP/1 connections to upstreams between two requests.
    pub(crate) upstreams: Arc<IdleUpstreams>,
    /// How long the head of an HTTP/1 request may take.
    pub(crate) head_timeout: Duration,
    /// How long a client of HTTP/1 may take nothing of a response that waits for it.
    pub(crate) stall_timeout: Duration,
    /// Inbound TLS handshakes under way.
    pub(crate) handshakes: Arc<Semaphore>,
    /// Address to dial peers from, where configured.
    pub(crate) bind_source: Option<IpAddr>,
    /// In explicit mode peers are dialled from the workload's own address.
    pub(crate) explicit: bool,
    /// Where outbound connections may be taken.
    pub(crate) destinations: Destinations,
    pub(crate) tasks: TaskTracker,
    /// No new work; what is under way may finish.
    pub(crate) draining: CancellationToken,
    pub(crate) ids: Ids,
    /// Whose identities ours is one of.
    pub(crate) trust_domain: TrustDomain,
    /// What live connections stand on; for the control plane.
    pub(crate) standing: watch::Sender<Standing>,
    /// The application's own SVIDs, which stand on a root like connections do.
    pub(crate) handed: Handed,
}

/// Where connection ids come from.
pub(crate) struct Ids(AtomicU64);

impl Default for Ids {
    fn default() -> Self {
        Self(AtomicU64::new(rand::random()))
    }
}

impl Shared {
    /// The newest state.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.state.borrow())
    }

    /// Waits until what a connection needs is known; the snapshot to take after that is the newest.
    pub(crate) async fn known(&self, need: Need<'_>) -> Result<(), Unanswered> {
        match &self.demand {
            None => Ok(()),
            Some(demand) => demand.known(need).await,
        }
    }

    /// A connection id: unique here, and improbable anywhere else.
    pub(crate) fn next_id(&self) -> u64 {
        // An odd step visits every number before it repeats one.
        self.ids.0.fetch_add(0x9E37_79B9_7F4A_7C15, Relaxed)
    }

    /// Generation of the credentials in use; 0: there are none.
    pub(crate) fn generation(&self) -> u64 {
        self.credentials
            .borrow()
            .as_ref()
            .map_or(0, |credentials| credentials.generation)
    }

    /// The address to dial peers from.
    pub(crate) fn source(&self, snapshot: &Snapshot) -> Option<IpAddr> {
        self.bind_source.or_else(|| {
            let me = snapshot.me.as_ref().filter(|_| self.explicit)?;
            me.addresses.first().copied()
        })
    }
}
