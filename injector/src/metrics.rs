//! Every figure of the injector, declared once; labels come from closed sets.

use std::time::Duration;

use prometheus::{
    Encoder as _, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::{owner::Owner, review::Result as Outcome};

/// The figures, shared by everything that counts.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    admissions: IntCounterVec,
    seconds: Histogram,
    refused: IntCounterVec,
    certificate_expiry: IntGauge,
    renewals: IntCounterVec,
    bundle_patches: IntCounter,
    bundle_maps: IntGauge,
    gaps: IntGaugeVec,
}

impl Metrics {
    /// Declares them.
    ///
    /// # Errors
    /// When one is declared twice.
    pub fn new() -> Result<Self, prometheus::Error> {
        let opts = |name: &str, help: &str| Opts::new(name, help).namespace("squire_injector");
        let seconds = HistogramOpts::new("admission_seconds", "Time from a review's first byte to its answer")
            .namespace("squire_injector")
            .buckets(prometheus::exponential_buckets(0.000_25, 2.0, 14)?);
        let metrics = Self {
            registry: Registry::new(),
            admissions: IntCounterVec::new(
                opts(
                    "admissions_total",
                    "Pods reviewed, by what came of it and who made the pod",
                ),
                &["result", "owner"],
            )?,
            seconds: Histogram::with_opts(seconds)?,
            refused: IntCounterVec::new(
                opts(
                    "refused_total",
                    "Connections and requests that were no reviews, by reason",
                ),
                &["reason"],
            )?,
            certificate_expiry: IntGauge::with_opts(opts(
                "certificate_expiry_seconds",
                "When the webhook's certificate expires, in seconds since the epoch",
            ))?,
            renewals: IntCounterVec::new(opts("renewals_total", "Certificates asked for, by result"), &["result"])?,
            bundle_patches: IntCounter::with_opts(opts(
                "ca_bundle_patches_total",
                "Times the webhook configuration's caBundle was brought up to date",
            ))?,
            bundle_maps: IntGauge::with_opts(opts(
                "bundle_config_maps",
                "Meshed namespaces whose trust-bundle ConfigMap is up to date",
            ))?,
            gaps: IntGaugeVec::new(
                opts(
                    "gap_pods",
                    "Pods of meshed namespaces that run without a sidecar, by reason",
                ),
                &["reason"],
            )?,
        };
        let all: [Box<dyn prometheus::core::Collector>; 8] = [
            Box::new(metrics.admissions.clone()),
            Box::new(metrics.seconds.clone()),
            Box::new(metrics.refused.clone()),
            Box::new(metrics.certificate_expiry.clone()),
            Box::new(metrics.renewals.clone()),
            Box::new(metrics.bundle_patches.clone()),
            Box::new(metrics.bundle_maps.clone()),
            Box::new(metrics.gaps.clone()),
        ];
        for collector in all {
            metrics.registry.register(collector)?;
        }
        Ok(metrics)
    }

    /// A review was answered.
    pub(crate) fn admission(&self, result: Outcome, owner: Owner, took: Duration) {
        self.admissions
            .with_label_values(&[result.label(), owner.as_str()])
            .inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// Something came that is no review.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.with_label_values(&[reason]).inc();
    }

    /// A certificate was issued, or not.
    pub(crate) fn renewal(&self, expiry: Option<u64>) {
        let result = if expiry.is_some() { "success" } else { "failure" };
        self.renewals.with_label_values(&[result]).inc();
        if let Some(expiry) = expiry {
            self.certificate_expiry.set(i64::try_from(expiry).unwrap_or(i64::MAX));
        }
    }

    pub(crate) fn bundle_patched(&self) {
        self.bundle_patches.inc();
    }

    pub(crate) fn bundle_maps(&self, count: usize) {
        self.bundle_maps.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn gap(&self, reason: &'static str, count: usize) {
        let gauge = self.gaps.with_label_values(&[reason]);
        gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// All of them, in Prometheus' text format.
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        // Writing to memory fails only for a figure without a name, and all have one.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text
    }
}
