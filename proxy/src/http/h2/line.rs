//! The HTTP/2 connections to one place, shared by all streams that go there: a stream takes the least busy one; another is
//! opened when all are busy; at the limit a stream waits for room. It knows no routes and no policy.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{
    limits::Limits,
    upstream::{Grounds, Signals, Slot, Upstream},
    wire::Error,
};
use crate::dial::DialError;

/// Nothing could be opened. Shared by all streams that waited for it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unreachable(Arc<str>);

impl From<DialError> for Unreachable {
    fn from(error: DialError) -> Self {
        Self(error.to_string().into())
    }
}

impl From<Error> for Unreachable {
    fn from(error: Error) -> Self {
        Self(error.to_string().into())
    }
}

/// All connections to one place.
pub(super) struct Line {
    limits: Limits,
    connections: Mutex<Vec<Arc<Upstream>>>,
    /// One opens at a time; the others find what it has opened, or share its failure.
    opening: tokio::sync::Mutex<Option<(Instant, Unreachable)>>,
    pub(super) signals: Signals,
}

impl Line {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            connections: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            signals: Signals {
                freed: Arc::default(),
                going_away: Arc::default(),
            },
        }
    }

    /// Room for one stream on a connection that is there and stands on the grounds of today (`current`).
    pub(super) fn slot_now(&self, current: impl Fn(&Grounds) -> bool) -> Option<Slot> {
        self.take(current, self.limits.ample)
    }

    /// The same on any connection, opened by `open` if need be.
    pub(super) async fn slot<F, O>(&self, current: impl Fn(&Grounds) -> bool, open: O) -> Result<Slot, Unreachable>
    where
        O: Fn() -> F,
        F: Future<Output = Result<Arc<Upstream>, Unreachable>>,
    {
        let asked = Instant::now();
        loop {
            let freed = self.signals.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if let Some(slot) = self.take(&current, self.limits.ample) {
                return Ok(slot);
            }
            if self.has_room() {
                let mut opening = self.opening.lock().await;
                if let Some(slot) = self.take(&current, self.limits.ample) {
                    return Ok(slot);
                }
                if let Some((at, failure)) = &*opening
                    && *at >= asked
                {
                    return Err(failure.clone());
                }
                match open().await {
                    Ok(upstream) => self.lock().push(upstream),
                    Err(failure) => {
                        *opening = Some((Instant::now(), failure.clone()));
                        return Err(failure);
                    }
                }
                continue;
            }
            match self.take(&current, usize::MAX) {
                Some(slot) => return Ok(slot),
                None => freed.await,
            }
        }
    }

    /// Takes in a connection that was opened elsewhere, if one more may be open here.
    pub(super) fn adopt(&self, upstream: Arc<Upstream>) {
        match self.has_room() {
            true => self.lock().push(upstream),
            false => upstream.retire(),
        }
    }

    /// Retires what is outdated or has been idle for so long, cuts what has lost its grounds, forgets what is over. Returns
    /// how many are left.
    pub(super) fn sweep(
        &self,
        idle: Duration,
        current: impl Fn(&Grounds) -> bool,
        grounded: impl Fn(&Grounds) -> bool,
    ) -> usize {
        let mut connections = self.lock();
        for upstream in &*connections {
            if !grounded(&upstream.grounds) {
                upstream.cut();
            } else if !current(&upstream.grounds) || upstream.idle_for(idle) {
                upstream.retire();
            }
        }
        connections.retain(|upstream| !upstream.is_over());
        connections.len()
    }

    /// Whether streams are open on a connection with such grounds.
    pub(super) fn any_active(&self, with: impl Fn(&Grounds) -> bool) -> bool {
        let connections = self.lock();
        connections
            .iter()
            .any(|upstream| upstream.active() > 0 && with(&upstream.grounds))
    }

    fn take(&self, current: impl Fn(&Grounds) -> bool, most: usize) -> Option<Slot> {
        let mut connections = self.lock();
        connections.retain(|upstream| !upstream.is_over());
        let usable = connections.iter().filter(|upstream| current(&upstream.grounds));
        let least = usable
            .filter(|upstream| !upstream.is_retired())
            .min_by_key(|upstream| upstream.active())?;
        least.slot(most)
    }

    /// Whether another connection may be opened. Retired ones do not count: they close by themselves.
    fn has_room(&self) -> bool {
        let connections = self.lock();
        connections.iter().filter(|upstream| !upstream.is_retired()).count() < self.limits.connections
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Upstream>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Told whenever a server wants no more streams on a connection, or has closed one.
    pub(super) fn going_away(&self) -> Arc<Notify> {
        Arc::clone(&self.signals.going_away)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        for upstream in &*self.lock() {
            upstream.retire();
        }
    }
}
