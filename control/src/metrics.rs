//! Every metric of the control plane, declared once. Labels are closed sets; no names of workloads, no addresses.

use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
    core::Collector,
};

use crate::push::Kind;

/// Every metric of the control plane.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each metric's help says what it is")]
pub struct Metrics {
    registry: Registry,
    pub ready: IntGauge,
    pub files: IntGaugeVec,
    pub problems: IntGauge,
    pub stale_seconds: IntGauge,
    pub scans: IntCounterVec,
    pub compile_seconds: Histogram,
    pub workloads_compiled: IntCounter,
    pub tables_compiled: IntCounter,
    pub resources_encoded: IntCounter,
    pub resources: IntGaugeVec,
    pub resource_changes: IntCounterVec,
    pub streams: IntGauge,
    pub stream_ends: IntCounterVec,
    pub responses: IntCounterVec,
    pub acks: IntCounterVec,
    pub nacks: IntCounterVec,
    pub ack_seconds: Histogram,
    pub reports: IntCounterVec,
    pub connections: IntGauge,
    pub handshakes: IntCounterVec,
    pub limit_hits: IntCounterVec,
    pub leads: IntGauge,
    pub watch_up: IntGaugeVec,
    pub watch_events: IntCounterVec,
    pub watch_errors: IntCounterVec,
    pub remarks: IntCounterVec,
}

impl Metrics {
    /// All metrics in a registry of their own.
    ///
    /// # Errors
    /// If two metrics have one name: never, as a test shows.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            add(
                &registry,
                IntCounterVec::new(Opts::new(name, help).namespace("squire_control"), labels)?,
            )
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            add(
                &registry,
                IntGaugeVec::new(Opts::new(name, help).namespace("squire_control"), labels)?,
            )
        };
        let gauge = |name: &str, help: &str| {
            add(
                &registry,
                IntGauge::with_opts(Opts::new(name, help).namespace("squire_control"))?,
            )
        };
        let seconds = |name: &str, help: &str| {
            let buckets = prometheus::exponential_buckets(0.0005, 2.0, 15)?;
            let opts = HistogramOpts::new(name, help)
                .namespace("squire_control")
                .buckets(buckets);
            add(&registry, Histogram::with_opts(opts)?)
        };
        let metrics = Self {
            ready: gauge(
                "ready",
                "1 once every file has been read without an error at least once",
            )?,
            files: gauges(
                "files",
                "Files in the directory, by what came of the last attempt to read them",
                &["state"],
            )?,
            problems: gauge("problems", "Errors and warnings that /debug/problems shows")?,
            stale_seconds: gauge(
                "stale_seconds",
                "Age of the oldest last good state that stands in for a bad file",
            )?,
            scans: counter("scans_total", "Looks at the directory, by what they found", &["result"])?,
            compile_seconds: seconds("compile_seconds", "Time from changed objects to published resources")?,
            workloads_compiled: add(
                &registry,
                IntCounter::with_opts(
                    Opts::new(
                        "workloads_compiled_total",
                        "Workloads made from objects: a change makes those that it concerns",
                    )
                    .namespace("squire_control"),
                )?,
            )?,
            tables_compiled: add(
                &registry,
                IntCounter::with_opts(
                    Opts::new(
                        "tables_compiled_total",
                        "Policy tables compiled: a change compiles those that it concerns",
                    )
                    .namespace("squire_control"),
                )?,
            )?,
            resources_encoded: add(
                &registry,
                IntCounter::with_opts(
                    Opts::new(
                        "resources_encoded_total",
                        "Workloads and services encoded: a change encodes those that it touches",
                    )
                    .namespace("squire_control"),
                )?,
            )?,
            resources: gauges("resources", "Resources in the catalog", &["kind"])?,
            resource_changes: counter(
                "resource_changes_total",
                "Resources changed or removed",
                &["kind", "change"],
            )?,
            streams: gauge("streams", "Open discovery streams")?,
            stream_ends: counter(
                "stream_ends_total",
                "Discovery streams that ended, by reason",
                &["reason"],
            )?,
            responses: counter("responses_total", "Discovery responses sent", &["kind"])?,
            acks: counter("acks_total", "Discovery responses acknowledged", &["kind"])?,
            nacks: counter("nacks_total", "Discovery responses refused by a proxy", &["kind"])?,
            ack_seconds: seconds("ack_seconds", "Time from a discovery response to its acknowledgement")?,
            reports: counter("reports_total", "Reports of proxies", &["outcome"])?,
            connections: gauge("connections", "Open connections of the gRPC endpoint")?,
            handshakes: counter(
                "handshakes_total",
                "TLS handshakes of the gRPC endpoint, by outcome",
                &["outcome"],
            )?,
            limit_hits: counter("limit_hits_total", "Times that a limit made somebody wait", &["limit"])?,
            leads: gauge(
                "leads",
                "1 while this replica leads: it keeps the CA in order and writes remarks",
            )?,
            watch_up: gauges(
                "watch_up",
                "1 while a kind of the API server is followed; 0 while it cannot be, or does not exist",
                &["kind"],
            )?,
            watch_events: counter(
                "watch_events_total",
                "What watches of the API server said",
                &["kind", "event"],
            )?,
            watch_errors: counter(
                "watch_errors_total",
                "Lists and watches that failed and were tried again, by reason",
                &["reason"],
            )?,
            remarks: counter(
                "remarks_total",
                "Status conditions and Events written to the API server, by outcome",
                &["outcome"],
            )?,
            registry,
        };
        metrics.open_series();
        Ok(metrics)
    }

    /// Series that exist from the start read 0, and not nothing, until something happens.
    fn open_series(&self) {
        for kind in Kind::ALL {
            for counter in [&self.responses, &self.acks, &self.nacks] {
                counter.with_label_values(&[kind.label()]);
            }
            self.resources.with_label_values(&[kind.label()]);
        }
        for state in ["good", "bad"] {
            self.files.with_label_values(&[state]);
        }
        for limit in ["connections", "handshakes"] {
            self.limit_hits.with_label_values(&[limit]);
        }
    }

    /// Registers a metric of another room, such as the CA's.
    ///
    /// # Errors
    /// If a metric of that name is already there.
    pub fn register(&self, metric: impl Collector + 'static) -> Result<(), prometheus::Error> {
        self.registry.register(Box::new(metric))
    }

    /// The text exposition format.
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics could not be rendered");
        }
        text
    }
}

/// A counter of one label value.
pub(crate) fn count(counters: &IntCounterVec, value: &str) -> IntCounter {
    counters.with_label_values(&[value])
}

fn add<M: Collector + Clone + 'static>(registry: &Registry, metric: M) -> Result<M, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_metrics_have_their_own_name_and_start_at_zero() {
        let text = String::from_utf8(Metrics::new().unwrap().render()).unwrap();
        assert!(text.contains("squire_control_nacks_total{kind=\"policy\"} 0"), "{text}");
        assert!(
            text.lines()
                .filter(|line| !line.starts_with('#'))
                .all(|line| line.starts_with("squire_control_"))
        );
    }
}
