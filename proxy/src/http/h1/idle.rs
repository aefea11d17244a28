//! Upstream connections of HTTP/1 between two requests, shared by all clients of this sidecar: bounded, closed when
//! unused, and never used again once the grounds for them are gone.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use squire_mesh::{spiffe::SpiffeId, svid::VerifiedPeer};

use super::{outbound::UpWire, wire::Wire as _};
use crate::{authorize::lasting, metrics::Series, state::Snapshot};

/// Whom an upstream connection leads to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct UpKey {
    pub(crate) address: SocketAddr,
    /// The identity that is expected there; none: plaintext.
    pub(crate) peer: Option<SpiffeId>,
}

/// An upstream connection that carries no request.
pub(crate) struct IdleUp {
    pub(crate) wire: UpWire,
    pub(crate) peer: Option<Arc<VerifiedPeer>>,
    /// Generation of our own credentials.
    pub(crate) generation: u64,
    pub(crate) series: Arc<Series>,
    since: Instant,
}

impl IdleUp {
    pub(crate) fn new(wire: UpWire, peer: Option<Arc<VerifiedPeer>>, generation: u64, series: Arc<Series>) -> Self {
        Self {
            wire,
            peer,
            generation,
            series,
            since: Instant::now(),
        }
    }

    /// Whether it may carry another request now.
    pub(crate) fn is_good(&mut self, snapshot: &Snapshot, generation: u64) -> bool {
        let trusted = self
            .peer
            .as_ref()
            .is_none_or(|peer| self.generation == generation && lasting(snapshot, peer, SystemTime::now()));
        trusted && self.wire.is_quiet()
    }
}

/// All idle upstream connections.
pub(crate) struct IdleUpstreams {
    max_per_key: usize,
    idle_time: Duration,
    idle: Mutex<HashMap<UpKey, Vec<IdleUp>>>,
}

impl IdleUpstreams {
    pub(crate) fn new(max_per_key: usize, idle_time: Duration) -> Self {
        Self {
            max_per_key,
            idle_time,
            idle: Mutex::default(),
        }
    }

    /// How long one may be unused.
    pub(crate) fn idle_time(&self) -> Duration {
        self.idle_time
    }

    /// The one used last that is still good.
    pub(crate) fn take(&self, key: &UpKey, snapshot: &Snapshot, generation: u64) -> Option<IdleUp> {
        loop {
            let mut up = self.lock().get_mut(key)?.pop()?;
            if up.is_good(snapshot, generation) {
                return Some(up);
            }
            up.wire.retire();
        }
    }

    /// Keeps one for the next request.
    pub(crate) fn put(&self, key: UpKey, mut up: IdleUp) {
        up.since = Instant::now();
        let mut idle = self.lock();
        let kept = idle.entry(key).or_default();
        if kept.len() < self.max_per_key {
            kept.push(up);
        } else {
            drop(idle);
            up.wire.retire();
        }
    }

    /// Closes what is old, ended, or no longer trusted; called every few seconds and whenever trust changes.
    pub(crate) fn sweep(&self, snapshot: &Snapshot, generation: u64) {
        let mut gone = Vec::new();
        self.lock().retain(|_, kept| {
            for mut up in std::mem::take(kept) {
                if up.since.elapsed() < self.idle_time && up.is_good(snapshot, generation) {
                    kept.push(up);
                } else {
                    gone.push(up);
                }
            }
            !kept.is_empty()
        });
        for up in gone {
            up.wire.retire();
        }
    }

    /// Closes everything.
    pub(crate) fn clear(&self) {
        let all = std::mem::take(&mut *self.lock());
        for up in all.into_values().flatten() {
            up.wire.retire();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<UpKey, Vec<IdleUp>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
