//! What is counted of issuing: certificates and refusals, how long they take, failures of the CA's store.

use std::{sync::Arc, time::Duration};

use prometheus::{Histogram, HistogramOpts, IntCounterVec, Opts};
use squire_ca::{
    service::Observer,
    store::{Alarm, OPERATIONS},
};

use crate::metrics::{Metrics, count};

/// Counts failures of the CA's store.
pub(super) fn alarm(metrics: &Metrics) -> Result<Alarm, prometheus::Error> {
    let failures = Opts::new("store_failures_total", "Operations of the CA's store that failed").namespace("squire_ca");
    let failures = IntCounterVec::new(failures, &["operation"])?;
    metrics.register(failures.clone())?;
    for operation in OPERATIONS {
        failures.with_label_values(&[operation]);
    }
    Ok(Arc::new(move |operation| {
        failures.with_label_values(&[operation]).inc()
    }))
}

/// Counts what an issuing service does.
pub(super) struct Counting {
    issued: IntCounterVec,
    refused: IntCounterVec,
    seconds: Histogram,
}

impl Counting {
    pub(super) fn new(metrics: &Metrics, namespace: &str, what: &str) -> Result<Self, prometheus::Error> {
        let opts = |name: &str, help: String| Opts::new(name, help).namespace(namespace);
        let issued = opts("issued_total", format!("Issued {what}, by what proved the identity"));
        let refused = opts("refused_total", format!("Refused {what}, by reason"));
        let seconds = HistogramOpts::new("issue_seconds", "Time to attest, sign and log").namespace(namespace);
        let counting = Self {
            issued: IntCounterVec::new(issued, &["attestor"])?,
            refused: IntCounterVec::new(refused, &["reason"])?,
            seconds: Histogram::with_opts(seconds.buckets(prometheus::exponential_buckets(0.0005, 2.0, 14)?))?,
        };
        // A figure that is not there yet cannot be told from one that is not measured.
        counting.issued.with_label_values(&["svid"]);
        counting.refused.with_label_values(&["revoked"]);
        metrics.register(counting.issued.clone())?;
        metrics.register(counting.refused.clone())?;
        metrics.register(counting.seconds.clone())?;
        Ok(counting)
    }
}

impl Observer for Counting {
    fn issued(&self, attestor: &'static str, took: Duration) {
        count(&self.issued, attestor).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    fn refused(&self, reason: &'static str) {
        count(&self.refused, reason).inc();
    }
}
