//! Mesh connections kept for the next application connection, so that it neither waits nor pays for a handshake. Keyed
//! by peer identity and address; bounded; one of another SVID or trust bundle is never used again. A link is given out
//! to one application connection at a time, and only while its peer is still trusted.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant, SystemTime},
};

use squire_mesh::{spiffe::SpiffeId, svid::VerifiedPeer};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::{
    authorize::lasting,
    credentials::{Credentials, CredentialsWatch},
    dial::{DialError, Dialer},
    link::{Ended, Event, Framing, Link, LinkStream, frame::Control},
    metrics::{LinkEvent, Metrics},
    state::State,
    tls::handshake::Parameters,
};

/// How long a peer may take to answer our reset before its link is given up.
const RESET_ANSWER: Duration = Duration::from_secs(1);

/// How many links are kept, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Kept ready for each peer that is in use.
    pub(crate) ready: usize,
    /// Idle ones kept for one peer.
    pub(crate) max_idle_per_peer: usize,
    /// Closed when unused for so long.
    pub(crate) idle_timeout: Duration,
}

/// Whom a link leads to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) peer: SpiffeId,
    pub(crate) address: SocketAddr,
    pub(crate) from: Option<IpAddr>,
}

/// A link in use by one application connection.
pub(crate) struct Leased {
    pub(crate) link: Box<Link>,
    pub(crate) peer: Arc<VerifiedPeer>,
    pub(crate) parameters: Parameters,
    /// How long its handshake took, where this application connection had to wait for it.
    pub(crate) handshake: Option<Duration>,
    /// Names the application connection on the link.
    pub(crate) sequence: u32,
    pub(crate) generation: u64,
}

struct Idle {
    leased: Leased,
    since: Instant,
}

#[derive(Default)]
struct Entry {
    idle: Vec<Idle>,
    preparing: usize,
    last_used: Option<Instant>,
}

/// All idle links.
pub(crate) struct Pool {
    limits: Limits,
    dialer: Arc<Dialer>,
    credentials: CredentialsWatch,
    state: State,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    entries: Mutex<HashMap<Key, Entry>>,
}

impl Pool {
    pub(crate) fn new(
        limits: Limits,
        dialer: Arc<Dialer>,
        credentials: CredentialsWatch,
        state: State,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
    ) -> Arc<Self> {
        Arc::new(Self {
            limits,
            dialer,
            credentials,
            state,
            metrics,
            tasks,
            entries: Mutex::default(),
        })
    }

    /// A link to `key`, from the pool or newly dialled.
    pub(crate) async fn lease(self: &Arc<Self>, key: &Key) -> Result<Leased, DialError> {
        let credentials = self.current()?;
        if let Some(mut leased) = self.take(key, credentials.generation) {
            self.metrics.link(LinkEvent::Reused);
            self.prepare(key);
            leased.sequence = leased.sequence.wrapping_add(1);
            return Ok(leased);
        }
        self.metrics.link(LinkEvent::Dialled);
        let leased = self.dial(&credentials, key).await?;
        self.prepare(key);
        Ok(leased)
    }

    /// Takes a link back after its application connection has ended in order.
    pub(crate) fn give_back(&self, key: &Key, mut leased: Leased) {
        let current = self
            .credentials
            .borrow()
            .as_ref()
            .map(|credentials| credentials.generation);
        if !leased.link.reusable() || current != Some(leased.generation) {
            self.metrics.link(LinkEvent::Superseded);
            return leased.link.close();
        }
        leased.handshake = None;
        let mut entries = self.lock();
        let entry = entries.entry(key.clone()).or_default();
        if entry.idle.len() >= self.limits.max_idle_per_peer {
            drop(entries);
            self.metrics.link(LinkEvent::Expired);
            return leased.link.close();
        }
        entry.idle.push(Idle {
            leased,
            since: Instant::now(),
        });
    }

    /// After an abort whose RESET has been pushed: the link comes back once both ends agree that the application
    /// connection is over. `answered`: the peer's RESET has come already.
    pub(crate) fn settle(self: &Arc<Self>, key: Key, mut leased: Leased, answered: bool) {
        let pool = Arc::clone(self);
        self.tasks.spawn(async move {
            let settling = leased.link.settle(leased.sequence, answered);
            if timeout(RESET_ANSWER, settling).await == Ok(true) {
                pool.give_back(&key, leased);
            }
        });
    }

    /// Begins an application connection named `id` on a leased link, as a byte stream that brings the link back.
    pub(crate) fn stream(self: &Arc<Self>, key: Key, mut leased: Leased, id: u64) -> LinkStream {
        let sequence = leased.sequence;
        leased.link.push(Control::Open { sequence, id });
        self.stream_begun(key, leased)
    }

    /// The application connection that has been begun on a leased link, as a byte stream that brings the link back.
    pub(crate) fn stream_begun(self: &Arc<Self>, key: Key, leased: Leased) -> LinkStream {
        let Leased {
            link,
            peer,
            parameters,
            handshake,
            sequence,
            generation,
        } = leased;
        let pool = Arc::clone(self);
        let give_back = move |link, ended| {
            let leased = Leased {
                link,
                peer,
                parameters,
                handshake,
                sequence,
                generation,
            };
            match ended {
                Ended::Complete => pool.give_back(&key, leased),
                Ended::Aborted { answered } => pool.settle(key, leased, answered),
            }
        };
        LinkStream::accepted(link, sequence, Box::new(give_back))
    }

    /// Closes what is old, lost or no longer ours; called every few seconds and whenever trust changes.
    pub(crate) fn sweep(&self) {
        let generation = self
            .credentials
            .borrow()
            .as_ref()
            .map(|credentials| credentials.generation);
        let mut closing = Vec::new();
        let mut kept = 0;
        let mut entries = self.lock();
        entries.retain(|_, entry| {
            let unused = entry
                .last_used
                .is_none_or(|at| at.elapsed() >= self.limits.idle_timeout);
            let spare = if unused { 0 } else { self.limits.ready };
            let all = std::mem::take(&mut entry.idle);
            let first_spare = all.len().saturating_sub(spare);
            for (index, mut idle) in all.into_iter().enumerate() {
                let event = if generation != Some(idle.leased.generation) {
                    LinkEvent::Superseded
                } else if !alive(&mut idle.leased.link) {
                    LinkEvent::Lost
                } else if idle.since.elapsed() >= self.limits.idle_timeout && index < first_spare {
                    LinkEvent::Expired
                } else {
                    entry.idle.push(idle);
                    continue;
                };
                closing.push((event, idle.leased.link));
            }
            kept += entry.idle.len();
            !entry.idle.is_empty() || entry.preparing > 0 || !unused
        });
        drop(entries);
        self.metrics.idle_links(kept);
        for (event, link) in closing {
            self.metrics.link(event);
            link.close();
        }
    }

    /// Closes everything that is idle.
    pub(crate) fn clear(&self) {
        for (_, entry) in self.lock().drain() {
            for idle in entry.idle {
                idle.leased.link.close();
            }
        }
        self.metrics.idle_links(0);
    }

    fn current(&self) -> Result<Arc<Credentials>, DialError> {
        self.credentials.borrow().clone().ok_or(DialError::NoIdentity)
    }

    /// The idle link used last, if it is still good.
    fn take(&self, key: &Key, generation: u64) -> Option<Leased> {
        loop {
            let mut leased = {
                let mut entries = self.lock();
                let entry = entries.get_mut(key)?;
                entry.last_used = Some(Instant::now());
                entry.idle.pop()?.leased
            };
            let trusted = || lasting(&self.state.borrow(), &leased.peer, SystemTime::now());
            let event = if leased.generation != generation || !trusted() {
                LinkEvent::Superseded
            } else if !alive(&mut leased.link) {
                LinkEvent::Lost
            } else {
                return Some(leased);
            };
            self.metrics.link(event);
            leased.link.close();
        }
    }

    async fn dial(&self, credentials: &Credentials, key: &Key) -> Result<Leased, DialError> {
        let dialled = self
            .dialer
            .mesh(credentials, &key.peer, Framing::Squire, key.address, key.from)
            .await?;
        Ok(Leased {
            link: dialled.link,
            peer: dialled.peer,
            parameters: dialled.parameters,
            handshake: Some(dialled.took),
            sequence: 1,
            generation: credentials.generation,
        })
    }

    /// Dials ahead, so that the next application connection to `key` finds a link.
    fn prepare(self: &Arc<Self>, key: &Key) {
        let missing = {
            let mut entries = self.lock();
            let entry = entries.entry(key.clone()).or_default();
            entry.last_used = Some(Instant::now());
            let missing = self.limits.ready.saturating_sub(entry.idle.len() + entry.preparing);
            // One at a time for each lease: a burst does not dial twice what it needs.
            let missing = missing.min(1);
            entry.preparing += missing;
            missing
        };
        if missing == 0 {
            return;
        }
        let (pool, key) = (Arc::clone(self), key.clone());
        self.tasks.spawn(async move {
            let dialled = match pool.current() {
                Ok(credentials) => Box::pin(pool.dial(&credentials, &key)).await,
                Err(error) => Err(error),
            };
            if let Some(entry) = pool.lock().get_mut(&key) {
                entry.preparing = entry.preparing.saturating_sub(1);
            }
            match dialled {
                Ok(mut leased) => {
                    pool.metrics.link(LinkEvent::Prepared);
                    // The first application connection on it is number 1.
                    leased.sequence = 0;
                    pool.give_back(&key, leased);
                }
                Err(error) => tracing::debug!(peer = %key.peer, %error, "no link could be prepared"),
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether nothing has come from the peer that ends an idle link.
fn alive(link: &mut Link) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        return match link.poll_event(&mut cx) {
            Poll::Pending => true,
            // The late answer to a reset of an earlier application connection.
            Poll::Ready(Ok(Event::Reset { .. })) => continue,
            Poll::Ready(_) => false,
        };
    }
}
