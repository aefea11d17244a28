//! Figures of federation. Trust domains are labels: there are as many as the admin has configured.

use prometheus::{IntCounterVec, IntGaugeVec, Opts};
use squire_mesh::bundle::TrustBundle;

use crate::metrics::Metrics;

/// What may come of a fetch.
const RESULTS: [&str; 5] = ["ok", "unreachable", "refused", "unusable", "older"];

/// The figures, registered once.
#[derive(Debug, Clone)]
pub struct FederationFigures {
    fetches: IntCounterVec,
    fetched: IntGaugeVec,
    sequence: IntGaugeVec,
    roots: IntGaugeVec,
    not_after: IntGaugeVec,
}

impl FederationFigures {
    /// Registers every figure.
    ///
    /// # Errors
    /// When there is one of the same name already.
    pub fn register(metrics: &Metrics) -> Result<Self, prometheus::Error> {
        let opts = |name: &str, help: &str| Opts::new(name, help).namespace("squire_federation");
        let figures = Self {
            fetches: IntCounterVec::new(
                opts(
                    "fetches_total",
                    "Attempts to get the bundle of another trust domain, by result",
                ),
                &["trust_domain", "result"],
            )?,
            fetched: IntGaugeVec::new(
                opts(
                    "bundle_fetched_timestamp_seconds",
                    "When the bundle of another trust domain was last seen at its endpoint: its age; 0: never",
                ),
                &["trust_domain"],
            )?,
            sequence: IntGaugeVec::new(opts("bundle_sequence", "Its sequence number"), &["trust_domain"])?,
            roots: IntGaugeVec::new(opts("bundle_roots", "Roots in it"), &["trust_domain"])?,
            not_after: IntGaugeVec::new(
                opts(
                    "bundle_not_after_timestamp_seconds",
                    "When the first of its roots ends; 0: it has none",
                ),
                &["trust_domain"],
            )?,
        };
        metrics.register(figures.fetches.clone())?;
        for gauge in [&figures.fetched, &figures.sequence, &figures.roots, &figures.not_after] {
            metrics.register(gauge.clone())?;
        }
        Ok(figures)
    }

    /// There is a trust domain to look after; it starts with zeros.
    pub(super) fn begin(&self, domain: &str) {
        for result in RESULTS {
            self.fetches.with_label_values(&[domain, result]);
        }
        self.fetched.with_label_values(&[domain]);
    }

    /// There is not any more.
    pub(super) fn end(&self, domain: &str) {
        for result in RESULTS {
            self.fetches.remove_label_values(&[domain, result]).ok();
        }
        for gauge in [&self.fetched, &self.sequence, &self.roots, &self.not_after] {
            gauge.remove_label_values(&[domain]).ok();
        }
    }

    pub(super) fn counted(&self, domain: &str, result: &'static str) {
        self.fetches.with_label_values(&[domain, result]).inc();
    }

    /// What is held, and when it was last seen at its endpoint, in seconds since the epoch (0: never).
    pub(super) fn held(&self, bundle: &TrustBundle, seen: u64) {
        let domain = [bundle.trust_domain().as_str()];
        let seconds = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.fetched.with_label_values(&domain).set(seconds(seen));
        self.sequence.with_label_values(&domain).set(seconds(bundle.sequence()));
        self.roots
            .with_label_values(&domain)
            .set(i64::try_from(bundle.roots().len()).unwrap_or(i64::MAX));
        let first = bundle.roots().iter().map(|root| root.not_after()).min();
        let first = first.map_or(0, crate::push::epoch_seconds);
        self.not_after.with_label_values(&domain).set(seconds(first));
    }
}
