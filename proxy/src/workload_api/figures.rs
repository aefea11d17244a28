//! Figures of the Workload API.

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// The methods of the API, as labels.
pub(super) const METHODS: [&str; 5] = [
    "FetchX509SVID",
    "FetchX509Bundles",
    "FetchJWTSVID",
    "FetchJWTBundles",
    "ValidateJWTSVID",
];

/// The figures, registered once.
#[derive(Debug)]
pub struct WorkloadApiFigures {
    requests: IntCounterVec,
    streams: IntGaugeVec,
    refused: IntCounterVec,
    not_after: IntGauge,
}

impl WorkloadApiFigures {
    /// Registers every figure.
    ///
    /// # Errors
    /// When the registry holds a figure of the same name already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let opts = |name: &str, help: &str| Opts::new(name, help).namespace("squire_workload_api");
        let figures = Self {
            requests: IntCounterVec::new(
                opts(
                    "requests_total",
                    "Requests of the application, by method and result; for streams, when they end.",
                ),
                &["method", "result"],
            )?,
            streams: IntGaugeVec::new(opts("streams", "Open streams, by method."), &["method"])?,
            refused: IntCounterVec::new(
                opts(
                    "refused_total",
                    "What was turned away: its user may not ask, the header was missing, too many.",
                ),
                &["reason"],
            )?,
            not_after: IntGauge::with_opts(opts(
                "svid_not_after_timestamp_seconds",
                "When the application's SVID ends; 0: it has none.",
            ))?,
        };
        registry.register(Box::new(figures.requests.clone()))?;
        registry.register(Box::new(figures.streams.clone()))?;
        registry.register(Box::new(figures.refused.clone()))?;
        registry.register(Box::new(figures.not_after.clone()))?;
        for method in METHODS {
            figures.streams.with_label_values(&[method]);
            for result in ["ok", "failed"] {
                figures.requests.with_label_values(&[method, result]);
            }
        }
        for reason in ["user", "header", "limit"] {
            figures.refused.with_label_values(&[reason]);
        }
        Ok(figures)
    }

    pub(super) fn answered(&self, method: &'static str, good: bool) {
        let result = if good { "ok" } else { "failed" };
        self.requests.with_label_values(&[method, result]).inc();
    }

    pub(super) fn opened(&self, method: &'static str) {
        self.streams.with_label_values(&[method]).inc();
    }

    pub(super) fn closed(&self, method: &'static str) {
        self.streams.with_label_values(&[method]).dec();
    }

    pub(super) fn refused(&self, reason: &'static str) {
        self.refused.with_label_values(&[reason]).inc();
    }

    /// When the application's SVID ends, in seconds since the epoch; 0: there is none.
    pub(super) fn svid_ends(&self, seconds: u64) {
        self.not_after.set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }
}
