//! One endpoint that was picked, as long as it is used: it counts as load until it is dropped, and is told what came of it.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use super::{Balancer, Seat};
use crate::route::Endpoint;

/// How a try went, as far as the endpoint is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TryResult {
    /// It answered (or the connection came about).
    Success,
    /// It could not be reached, broke off, was too slow, or says itself that it is unwell.
    Failure,
}

impl TryResult {
    /// 500, 502, 503 and 504 are failures.
    #[must_use]
    pub fn of_status(status: u16) -> Self {
        match status {
            500 | 502..=504 => Self::Failure,
            _ => Self::Success,
        }
    }

    /// DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE and DATA_LOSS are failures.
    #[must_use]
    pub fn of_grpc_status(status: u32) -> Self {
        match status {
            4 | 13..=15 => Self::Failure,
            _ => Self::Success,
        }
    }
}

/// What the guard counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// A request without a connection.
    Pending,
    /// A request on a connection.
    Active,
    /// A connection of bytes.
    Connection,
}

/// One endpoint, picked for one try. It counts as under way until it is dropped; dropped without a word, the try counts as
/// cancelled and says nothing about the endpoint.
pub struct Picked {
    balancer: Arc<Balancer>,
    seat: Arc<Seat>,
    phase: Phase,
    /// It is the one try of an ejected endpoint.
    probe: bool,
}

impl Picked {
    pub(super) fn new(balancer: Arc<Balancer>, seat: Arc<Seat>, phase: Phase, probe: bool) -> Self {
        Self {
            balancer,
            seat,
            phase,
            probe,
        }
    }

    /// Where to go.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.seat.endpoint
    }

    /// A request has its connection: it waits no more.
    pub fn connected(&mut self) {
        if self.phase == Phase::Pending {
            self.balancer.active.fetch_add(1, Relaxed);
            self.balancer.pending.fetch_sub(1, Relaxed);
            self.phase = Phase::Active;
        }
    }

    /// How the try went: at the head of the response (or when connecting is over), `latency` after the request was sent (or
    /// dialling began). The endpoint counts as busy until the guard is dropped.
    pub fn responded(&mut self, result: TryResult, latency: Duration, now: Instant) {
        let load = &self.seat.load;
        match result {
            TryResult::Success => {
                load.observe(latency, now);
                if load.failures.load(Relaxed) != 0 {
                    load.failures.store(0, Relaxed);
                }
                if std::mem::take(&mut self.probe) {
                    self.balancer.returned(&self.seat);
                }
            }
            TryResult::Failure => {
                load.observe_failure(latency, now);
                let failures = load.failures.fetch_add(1, Relaxed).saturating_add(1);
                self.balancer.failed(&self.seat, failures, now);
                self.probe = false;
            }
        }
    }

    /// [`Self::responded`], and the try is over.
    pub fn finish(mut self, result: TryResult, latency: Duration, now: Instant) {
        self.responded(result, latency, now);
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        self.seat.load.outstanding.fetch_sub(1, Relaxed);
        match self.phase {
            Phase::Pending => self.balancer.pending.fetch_sub(1, Relaxed),
            Phase::Active => self.balancer.active.fetch_sub(1, Relaxed),
            Phase::Connection => 0,
        };
        if self.probe {
            self.balancer.state().endpoints.unprobed(&self.seat);
        }
    }
}

impl Balancer {
    fn returned(&self, seat: &Arc<Seat>) {
        if self.state().endpoints.reinstate(seat, &self.metrics) {
            tracing::info!(service = %self.service, address = %seat.endpoint.address, "endpoint answers again");
        }
    }

    fn failed(&self, seat: &Arc<Seat>, failures: u32, now: Instant) {
        let ejected = self.state().endpoints.failed(seat, failures, now, &self.metrics);
        if let Some(time) = ejected {
            tracing::warn!(
                service = %self.service,
                address = %seat.endpoint.address,
                failures,
                ?time,
                "endpoint ejected: it keeps failing"
            );
        }
    }
}
