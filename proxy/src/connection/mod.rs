//! The record of one connection, from accept to its end: who, where, how, how much. Metrics, access log and
//! `/connections` all read this one value. `Record::close` ends it; dropping it does the same with a worse reason.

mod cut;
mod facts;
mod live;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime},
};

pub use self::{cut::Cut, facts::Direction, live::ConnectionView, live::Registry};
pub(crate) use self::{
    facts::{Application, Carrier, Facts},
    live::seconds,
};
use squire_mesh::spiffe::SpiffeId;

use self::{cut::CutSwitch, facts::Quiet};
use crate::{
    access_log::AccessLog,
    forward::Interrupted,
    metrics::{Metrics, Series},
    outcome::Outcome,
};

/// One live connection. Shared between the task that serves it, `/connections`, and whoever may have to cut it.
pub struct Connection {
    pub(crate) id: u64,
    pub(crate) direction: Direction,
    /// Who connected.
    pub(crate) client: SocketAddr,
    /// Where to: the original destination.
    pub(crate) destination: SocketAddr,
    opened: Instant,
    opened_at: SystemTime,
    /// Bytes from the side that opened the connection, and back to it.
    from_client: AtomicU64,
    to_client: AtomicU64,
    requests: AtomicU64,
    facts: Mutex<Facts>,
    series: OnceLock<Arc<Series>>,
    cut: CutSwitch,
}

impl Connection {
    /// What is known so far.
    pub(crate) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks whoever serves the connection to end it. The first reason counts.
    pub(crate) fn cut(&self, reason: Cut) {
        self.cut.throw(reason);
    }

    /// Ready once the connection has to be cut; wakes the task when that happens.
    pub(crate) fn poll_cut(&self, cx: &mut Context<'_>) -> Poll<Cut> {
        self.cut.poll(cx)
    }

    /// Bytes from whoever opened the connection.
    pub(crate) fn count_from_client(&self, bytes: usize) {
        self.from_client.fetch_add(bytes as u64, Relaxed);
        if let Some(series) = self.series.get() {
            series.from_client.inc_by(bytes as u64);
        }
    }

    /// Bytes back to whoever opened the connection.
    pub(crate) fn count_to_client(&self, bytes: usize) {
        self.to_client.fetch_add(bytes as u64, Relaxed);
        if let Some(series) = self.series.get() {
            series.to_client.inc_by(bytes as u64);
        }
    }

    /// From now on its bytes count for these two principals too. The first call counts.
    pub(crate) fn count_in(&self, series: Arc<Series>) {
        let _ = self.series.set(series);
    }

    /// Where its bytes count.
    pub(crate) fn series(&self) -> Option<&Arc<Series>> {
        self.series.get()
    }

    /// Whether the streams of its application go over connections that many share, each with grounds of its own.
    pub(crate) fn shares_upstreams(&self) -> bool {
        self.direction == Direction::Outbound && self.facts().application == Application::Http2
    }

    /// Bytes from the application beside us to its peer.
    pub(crate) fn count_to_peer(&self, bytes: usize) {
        match self.direction {
            Direction::Inbound => self.count_to_client(bytes),
            Direction::Outbound => self.count_from_client(bytes),
        }
    }

    /// Bytes from the peer to the application beside us.
    pub(crate) fn count_from_peer(&self, bytes: usize) {
        match self.direction {
            Direction::Inbound => self.count_from_client(bytes),
            Direction::Outbound => self.count_to_client(bytes),
        }
    }

    /// The accepted side failed.
    pub(crate) fn near_failed(&self, error: io::Error) -> Interrupted {
        match self.direction {
            Direction::Inbound => Interrupted::Far(error),
            Direction::Outbound => Interrupted::App(error),
        }
    }

    /// The dialled side failed.
    pub(crate) fn far_failed(&self, error: io::Error) -> Interrupted {
        match self.direction {
            Direction::Inbound => Interrupted::App(error),
            Direction::Outbound => Interrupted::Far(error),
        }
    }

    /// The verified identities of source and destination, as far as they are known.
    pub(crate) fn principals<'a>(&self, facts: &'a Facts) -> (Option<&'a SpiffeId>, Option<&'a SpiffeId>) {
        let (local, peer) = (facts.local.as_ref(), facts.peer.as_ref().map(|peer| peer.id()));
        match self.direction {
            Direction::Inbound => (peer, local),
            Direction::Outbound => (local, peer),
        }
    }

    /// Bytes from and to whoever opened the connection, so far.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.from_client.load(Relaxed), self.to_client.load(Relaxed))
    }

    /// One more request on it.
    pub(crate) fn count_request(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    /// Requests on it so far.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// Asks whoever serves the connection to judge its open request again: policy has changed.
    pub(crate) fn judge_again(&self) {
        self.cut.judge_again();
    }

    /// Whether its open request has to be judged again; asked after [`Connection::poll_cut`], whose waker serves both.
    pub(crate) fn to_be_judged(&self) -> bool {
        self.cut.to_be_judged()
    }

    /// Asks whoever serves the connection to give up what it keeps for the next request, if it has carried requests and
    /// none for so long. Called every second; asks once after each request.
    pub(crate) fn rest_after(&self, limit: Duration) {
        let requests = self.requests();
        let mut facts = self.facts();
        match &mut facts.quiet {
            Some(quiet) if quiet.requests == requests => {
                if !quiet.told && quiet.since.elapsed() >= limit {
                    quiet.told = true;
                    self.cut.let_rest();
                }
            }
            quiet => *quiet = (requests > 0).then(|| Quiet::since_now(requests)),
        }
    }

    /// Whether it is to give that up now; asked after [`Connection::poll_cut`], whose waker serves both.
    pub(crate) fn is_to_rest(&self) -> bool {
        self.cut.is_to_rest()
    }

    /// How long it has been open.
    pub(crate) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// When it was opened, by the wall clock.
    pub(crate) fn opened_at(&self) -> SystemTime {
        self.opened_at
    }
}

/// What records need of the rest of the proxy.
pub(crate) struct Recorder {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) access_log: AccessLog,
}

impl Recorder {
    /// Opens the record of a connection from `client` to `destination` that was accepted at `since`, or of the next one
    /// on a link.
    pub(crate) fn open(
        self: &Arc<Self>,
        direction: Direction,
        id: u64,
        since: Instant,
        (client, destination): (SocketAddr, SocketAddr),
        facts: Facts,
    ) -> Record {
        let connection = Arc::new(Connection {
            id,
            direction,
            client,
            destination,
            opened: since,
            opened_at: SystemTime::now() - since.elapsed(),
            from_client: AtomicU64::new(0),
            to_client: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            facts: Mutex::new(facts),
            series: OnceLock::new(),
            cut: CutSwitch::default(),
        });
        self.metrics.opened(direction);
        self.registry.insert(&connection);
        Record {
            connection,
            recorder: Arc::clone(self),
            closed: false,
        }
    }
}

/// The one handle that ends a [`Connection`].
pub(crate) struct Record {
    connection: Arc<Connection>,
    recorder: Arc<Recorder>,
    closed: bool,
}

impl Record {
    /// Ends the record: metrics, access log and registry from one value.
    pub(crate) fn close(mut self, outcome: &Outcome) {
        self.end(outcome);
    }

    fn end(&mut self, outcome: &Outcome) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        let recorder = &self.recorder;
        recorder.registry.remove(&self.connection);
        recorder.metrics.closed(&self.connection, outcome);
        recorder.access_log.write(&self.connection, outcome);
    }
}

impl std::ops::Deref for Record {
    type Target = Arc<Connection>;

    fn deref(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.end(&Outcome::Abandoned);
    }
}
