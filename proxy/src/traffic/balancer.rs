//! The balancer of one port of one service: of two endpoints taken at random, the one with less load (P2C with peak-EWMA);
//! our own zone first while it has enough healthy endpoints; endpoints that keep failing are set aside and tried again with
//! one request at a time; limits on what is under way. It dials nothing and reads no clock.

mod endpoints;
mod picked;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Instant,
};

use squire_mesh::traffic::TrafficSettings;

pub use self::picked::{Picked, TryResult};
use self::{
    endpoints::{Endpoints, Seat},
    picked::Phase,
};
use super::{budget::Budget, metrics::ServiceMetrics};
use crate::{http::LocalReply, state::Snapshot};

/// What an endpoint is picked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// One request: latency and requests under way count, and limits apply.
    Request,
    /// One connection: the number of connections counts.
    Connection,
}

/// Why no endpoint was picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PickError {
    /// Nobody is ready on that port.
    NoEndpoint(&'static str),
    /// As many requests are under way to the service as may be (`squire.mesh/max-requests`).
    TooManyRequests,
    /// As many wait for a connection as may (`squire.mesh/max-pending-requests`).
    TooManyPending,
    /// Every endpoint has as many as it may (`squire.mesh/max-requests-per-endpoint`).
    EndpointsFull,
}

impl PickError {
    /// Every limit, for the metric's labels.
    pub(super) const LIMITS: [Self; 3] = [Self::TooManyRequests, Self::TooManyPending, Self::EndpointsFull];

    /// A label: a closed set.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoEndpoint(_) => "no_endpoint",
            Self::TooManyRequests => "max_requests",
            Self::TooManyPending => "max_pending_requests",
            Self::EndpointsFull => "max_requests_per_endpoint",
        }
    }

    /// What the client is told.
    pub(crate) fn reply(self) -> LocalReply {
        LocalReply::text(
            503,
            match self {
                Self::NoEndpoint(_) => "the service has no ready endpoint",
                Self::TooManyRequests | Self::TooManyPending | Self::EndpointsFull => "too many requests under way",
            },
        )
    }
}

/// See the module.
pub(super) struct Balancer {
    service: Box<str>,
    port: u16,
    active: AtomicU32,
    pending: AtomicU32,
    state: Mutex<State>,
    metrics: ServiceMetrics,
}

struct State {
    endpoints: Endpoints,
    budget: Budget,
}

impl Balancer {
    pub(super) fn new(service: &str, port: u16, metrics: ServiceMetrics) -> Self {
        Self {
            service: service.into(),
            port,
            active: AtomicU32::new(0),
            pending: AtomicU32::new(0),
            state: Mutex::new(State {
                endpoints: Endpoints::new(rand::random()),
                budget: Budget::default(),
            }),
            metrics,
        }
    }

    pub(super) fn metrics(&self) -> &ServiceMetrics {
        &self.metrics
    }

    pub(super) fn pick(
        self: &Arc<Self>,
        snapshot: &Arc<Snapshot>,
        what: Use,
        excluded: &[SocketAddr],
        now: Instant,
    ) -> Result<Picked, PickError> {
        let picked = self.try_pick(snapshot, what, excluded, now);
        if let Err(error) = picked {
            self.metrics.overflow(error);
        }
        let (seat, probe) = picked?;
        seat.load.outstanding.fetch_add(1, Relaxed);
        let phase = match what {
            Use::Request => Phase::Pending,
            Use::Connection => Phase::Connection,
        };
        if phase == Phase::Pending {
            self.pending.fetch_add(1, Relaxed);
        }
        Ok(Picked::new(Arc::clone(self), seat, phase, probe))
    }

    fn try_pick(
        &self,
        snapshot: &Arc<Snapshot>,
        what: Use,
        excluded: &[SocketAddr],
        now: Instant,
    ) -> Result<(Arc<Seat>, bool), PickError> {
        let mut state = self.state();
        state
            .endpoints
            .refresh(snapshot, &self.service, self.port, &self.metrics);
        let settings = *state.endpoints.settings();
        if what == Use::Request {
            self.within_limits(&settings)?;
            if excluded.is_empty() {
                state.budget.deposit(now);
            }
        }
        if excluded.is_empty()
            && let Some(seat) = state.endpoints.probe(now)
        {
            self.metrics.probed();
            return Ok((seat, true));
        }
        state.endpoints.choose(what, excluded, now).map(|seat| (seat, false))
    }

    fn within_limits(&self, settings: &TrafficSettings) -> Result<(), PickError> {
        let pending = self.pending.load(Relaxed);
        if pending >= settings.max_pending {
            return Err(PickError::TooManyPending);
        }
        if self.active.load(Relaxed).saturating_add(pending) >= settings.max_active {
            return Err(PickError::TooManyRequests);
        }
        Ok(())
    }

    /// Takes a retry from the budget.
    pub(super) fn withdraw(&self, now: Instant) -> bool {
        let mut state = self.state();
        let settings = *state.endpoints.settings();
        state
            .budget
            .withdraw(settings.retry_percent, settings.retry_min_per_second, now)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
