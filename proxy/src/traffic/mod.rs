//! Traffic control at outbound: which rule a request falls under and where it may go (`Traffic::plan`), which endpoint
//! takes it (`Traffic::pick`), and whether a failed try may be made again (`Traffic::retry`). It opens nothing, waits for
//! nothing and reads no clock: `now` is handed in.
//!
//! The order of calls for one request:
//! ```text
//! plan(service, port, head) ─▶ Reply: answer it
//!        └▶ Forward ─▶ pick ─▶ dial ─▶ connected ─▶ send ─▶ responded(result, latency) ─▶ … body … ─▶ drop
//!                       ▲        └──── failed ────────────────┐
//!                       └─ wait ◀─ Ok(backoff) ◀─ retry(…) ◀──┘ ─▶ Err: answer with what failed
//! ```
//! A pick costs the same whatever the number of endpoints: each (service, port) has a balancer that is rebuilt only when the
//! endpoints of that service have changed.

mod balancer;
mod budget;
#[cfg(test)]
mod fixture;
mod load;
mod metrics;
mod plan;
mod retry;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use prometheus::Registry;
use squire_mesh::workload::Service;

use self::balancer::{Balancer, Use};
pub use self::balancer::{PickError, Picked, TryResult};
pub(crate) use self::{
    plan::{Forward, Plan},
    retry::{Attempt, Body, Failed, RetryPolicy, Unretried},
};
use crate::{http::RequestView, state::Snapshot};

/// Balancers above which those of services that are gone are looked for.
const SWEEP_AT: usize = 64;

/// Everything outbound traffic shares. One per sidecar.
pub struct Traffic {
    balancers: Mutex<Balancers>,
    metrics: metrics::TrafficMetrics,
}

#[derive(Default)]
struct Balancers {
    of: HashMap<Arc<str>, Vec<(u16, Arc<Balancer>)>>,
    sweep_at: usize,
}

impl Traffic {
    /// Declares its metrics in `registry`.
    ///
    /// # Errors
    /// When a name is registered twice.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            balancers: Mutex::default(),
            metrics: metrics::TrafficMetrics::new(registry)?,
        })
    }

    /// What becomes of a request that the application sends to this port of this service: a reply of our own, or where to
    /// forward it and what to change. Backends are drawn by weight, so each call may answer differently.
    #[allow(clippy::unused_self, reason = "the one door to traffic control")]
    pub(crate) fn plan(&self, snapshot: &Snapshot, service: &Service, port: u16, request: &RequestView<'_>) -> Plan {
        plan::plan(snapshot, service, port, request, rand::random())
    }

    /// An endpoint for one try of a request. `excluded`: addresses that were tried before (empty on the first try, which
    /// also counts towards the retry budget); they are taken again only if there is nothing else.
    ///
    /// # Errors
    /// When there is no endpoint, or a limit is reached: answer with `PickError::reply`.
    pub fn pick(
        &self,
        snapshot: &Arc<Snapshot>,
        service: &str,
        port: u16,
        excluded: &[SocketAddr],
        now: Instant,
    ) -> Result<Picked, PickError> {
        self.balancer(snapshot, service, port)
            .pick(snapshot, Use::Request, excluded, now)
    }

    /// An endpoint for a connection of bytes: the one with fewer connections from here. Tell [`Picked::responded`] whether
    /// connecting succeeded, and keep the guard as long as the connection. Limits on requests do not apply.
    ///
    /// # Errors
    /// When there is no endpoint.
    pub(crate) fn pick_connection(
        &self,
        snapshot: &Arc<Snapshot>,
        service: &str,
        port: u16,
        excluded: &[SocketAddr],
        now: Instant,
    ) -> Result<Picked, PickError> {
        self.balancer(snapshot, service, port)
            .pick(snapshot, Use::Connection, excluded, now)
    }

    /// Whether to try again, and after what wait. Takes a retry from the service's budget if so.
    ///
    /// # Errors
    /// Why not; answer the client with what failed.
    pub(crate) fn retry(
        &self,
        snapshot: &Arc<Snapshot>,
        forward: &Forward,
        attempt: &Attempt<'_>,
        now: Instant,
    ) -> Result<Duration, Unretried> {
        let balancer = self.balancer(snapshot, forward.service.as_str(), forward.port);
        let wait = retry::may_retry(&forward.retry, attempt, rand::random())
            .and_then(|wait| balancer.withdraw(now).then_some(wait).ok_or(Unretried::Budget));
        balancer.metrics().retry(match &wait {
            Ok(_) => "sent",
            Err(why) => why.as_str(),
        });
        wait
    }

    fn balancer(&self, snapshot: &Arc<Snapshot>, service: &str, port: u16) -> Arc<Balancer> {
        let mut balancers = self.balancers();
        let known = balancers.of.get(service).and_then(|ports| of_port(ports, port));
        if let Some(balancer) = known {
            return Arc::clone(balancer);
        }
        balancers.sweep(snapshot);
        let balancer = Arc::new(Balancer::new(service, port, self.metrics.of(service)));
        let ports = balancers.of.entry(service.into()).or_default();
        ports.push((port, Arc::clone(&balancer)));
        balancer
    }

    fn balancers(&self) -> MutexGuard<'_, Balancers> {
        self.balancers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn of_port(ports: &[(u16, Arc<Balancer>)], port: u16) -> Option<&Arc<Balancer>> {
    ports.iter().find(|(of, _)| *of == port).map(|(_, balancer)| balancer)
}

impl Balancers {
    /// Forgets services that are gone, whenever there have become many.
    fn sweep(&mut self, snapshot: &Snapshot) {
        if self.of.len() >= self.sweep_at.max(SWEEP_AT) {
            self.of.retain(|service, _| snapshot.service(service).is_some());
            self.sweep_at = self.of.len() * 2;
        }
    }
}

#[cfg(test)]
mod tests;
