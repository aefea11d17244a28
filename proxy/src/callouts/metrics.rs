//! What callouts count. Declared once; labels are closed sets.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

/// Counters of token verification and external authorization.
pub(crate) struct CalloutMetrics {
    verifications: IntCounterVec,
    key_fetches: IntCounterVec,
    checks: IntCounterVec,
    check_duration: HistogramVec,
}

impl CalloutMetrics {
    /// Declares everything in `registry`.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        let duration = HistogramVec::new(
            HistogramOpts::new(
                "squire_ext_authz_duration_seconds",
                "How long external authorization took, by kind of provider.",
            )
            .buckets(vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0]),
            &["kind"],
        )?;
        registry.register(Box::new(duration.clone()))?;
        Ok(Self {
            verifications: counters(
                "squire_jwt_verifications_total",
                "Requests by what came of their token: none, valid, or why it was refused.",
                &["result"],
            )?,
            key_fetches: counters(
                "squire_jwt_key_fetches_total",
                "Attempts to get a JSON Web Key Set, by result.",
                &["result"],
            )?,
            checks: counters(
                "squire_ext_authz_checks_total",
                "Checks by kind of provider and result.",
                &["kind", "result"],
            )?,
            check_duration: duration,
        })
    }

    /// What came of a request's token.
    pub(crate) fn verified(&self, result: &'static str) {
        self.verifications.with_label_values(&[result]).inc();
    }

    /// Whether keys came.
    pub(crate) fn fetched(&self, good: bool) {
        let result = if good { "success" } else { "failure" };
        self.key_fetches.with_label_values(&[result]).inc();
    }

    /// What a provider said, and after how long.
    pub(crate) fn checked(&self, kind: &'static str, result: &'static str, took: Duration) {
        self.checks.with_label_values(&[kind, result]).inc();
        self.check_duration
            .with_label_values(&[kind])
            .observe(took.as_secs_f64());
    }
}

#[cfg(test)]
impl CalloutMetrics {
    pub(crate) fn verifications(&self, result: &str) -> u64 {
        self.verifications.with_label_values(&[result]).get()
    }

    pub(crate) fn fetches(&self, result: &str) -> u64 {
        self.key_fetches.with_label_values(&[result]).get()
    }

    pub(crate) fn checks(&self, kind: &str, result: &str) -> u64 {
        self.checks.with_label_values(&[kind, result]).get()
    }
}
