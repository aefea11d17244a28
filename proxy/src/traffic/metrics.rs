//! What traffic control counts: only what is out of the ordinary, and how many endpoints there are. Labels are closed, and
//! services are counted one by one up to a cap.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
};

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use super::{PickError, Unretried};

/// Services with series of their own; the others share those of `other`.
const MAX_SERVICES: usize = 500;

/// Handles to everything that traffic control counts.
pub(super) struct TrafficMetrics {
    endpoints: IntGaugeVec,
    ejections: IntCounterVec,
    overflows: IntCounterVec,
    retries: IntCounterVec,
    known: Mutex<HashMap<Box<str>, ()>>,
}

/// The series of one service.
pub(super) struct ServiceMetrics {
    service: Arc<str>,
    all: Series,
    /// What this balancer has added to the gauges.
    ready: AtomicI64,
    aside: AtomicI64,
}

#[derive(Clone)]
struct Series {
    endpoints: IntGaugeVec,
    ejections: IntCounterVec,
    overflows: IntCounterVec,
    retries: IntCounterVec,
}

impl TrafficMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let endpoints = IntGaugeVec::new(
            Opts::new(
                "squire_endpoints",
                "Endpoints that requests may be sent to, and ejected ones.",
            ),
            &["service", "state"],
        )?;
        registry.register(Box::new(endpoints.clone()))?;
        Ok(Self {
            endpoints,
            ejections: counters(
                "squire_endpoint_ejections_total",
                "Endpoints set aside because they kept failing, tried again, and taken back.",
                &["service", "event"],
            )?,
            overflows: counters(
                "squire_overflows_total",
                "Requests that no endpoint was picked for, by what was in the way.",
                &["service", "limit"],
            )?,
            retries: counters(
                "squire_retries_total",
                "Failed tries that were made again, or why not.",
                &["service", "result"],
            )?,
            known: Mutex::default(),
        })
    }

    /// The series of a service.
    pub(super) fn of(&self, service: &str) -> ServiceMetrics {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let own = known.contains_key(service) || known.len() < MAX_SERVICES;
        if own {
            known.insert(service.into(), ());
        }
        let metrics = ServiceMetrics {
            service: if own { service } else { "other" }.into(),
            all: Series {
                endpoints: self.endpoints.clone(),
                ejections: self.ejections.clone(),
                overflows: self.overflows.clone(),
                retries: self.retries.clone(),
            },
            ready: AtomicI64::new(0),
            aside: AtomicI64::new(0),
        };
        metrics.start_at_zero();
        metrics
    }
}

impl ServiceMetrics {
    /// A rate needs its zero.
    fn start_at_zero(&self) {
        for event in ["ejected", "probed", "returned"] {
            let _ = self.all.ejections.with_label_values(&[&*self.service, event]);
        }
        for limit in PickError::LIMITS {
            let _ = self.all.overflows.with_label_values(&[&*self.service, limit.as_str()]);
        }
        let reasons = Unretried::ALL.map(Unretried::as_str);
        for result in reasons.into_iter().chain(["sent"]) {
            let _ = self.all.retries.with_label_values(&[&*self.service, result]);
        }
    }

    pub(super) fn ejected(&self) {
        self.ejection("ejected");
    }

    pub(super) fn probed(&self) {
        self.ejection("probed");
    }

    pub(super) fn returned(&self) {
        self.ejection("returned");
    }

    fn ejection(&self, event: &str) {
        self.all.ejections.with_label_values(&[&*self.service, event]).inc();
    }

    pub(super) fn overflow(&self, error: PickError) {
        self.all
            .overflows
            .with_label_values(&[&*self.service, error.as_str()])
            .inc();
    }

    pub(super) fn retry(&self, result: &str) {
        self.all.retries.with_label_values(&[&*self.service, result]).inc();
    }

    /// How many endpoints this balancer has now. Several balancers of one service add up.
    pub(super) fn endpoints(&self, ready: usize, ejected: usize) {
        self.count("ready", &self.ready, ready);
        self.count("ejected", &self.aside, ejected);
    }

    fn count(&self, state: &str, counted: &AtomicI64, now: usize) {
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let before = counted.swap(now, Relaxed);
        self.all
            .endpoints
            .with_label_values(&[&*self.service, state])
            .add(now - before);
    }
}

impl Drop for ServiceMetrics {
    fn drop(&mut self) {
        self.endpoints(0, 0);
    }
}
