//! The data path's metrics: each is declared here once, with closed or bounded labels, never an address. Children are
//! resolved once per connection; on the hot path a metric is one atomic addition.

mod decisions;
mod requests;
mod series;

use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::Collector,
};

use self::{
    decisions::Decisions,
    series::{SeriesKey, SeriesTable},
};
pub(crate) use self::{
    requests::{Method, RequestKey},
    series::Series,
};
use crate::{
    connection::{Connection, Cut, Direction},
    http::h2::Refusal,
    outcome::Outcome,
    tls::handshake::Parameters,
};

/// Handles to everything the data path counts.
pub struct Metrics {
    registry: Registry,
    opened: IntCounterVec,
    open: IntGaugeVec,
    duration: HistogramVec,
    handshakes: IntCounterVec,
    handshake_failures: IntCounterVec,
    handshakes_pending: IntGauge,
    handshake_duration: HistogramVec,
    decisions: Decisions,
    cut: IntCounterVec,
    limits: IntCounterVec,
    http_refused: IntCounterVec,
    accept_errors: IntCounterVec,
    access_log_lost: IntCounter,
    http2_refused: IntCounterVec,
    links: IntCounterVec,
    idle_links: IntGauge,
    dial: Histogram,
    series: SeriesTable,
}

/// What happened to a mesh connection in the pool.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LinkEvent {
    /// Dialled because an application connection waited for it.
    Dialled,
    /// Dialled ahead of need.
    Prepared,
    /// Taken from the pool for an application connection.
    Reused,
    /// Closed after its idle time, or as one too many.
    Expired,
    /// Closed because our SVID or the trust bundle changed.
    Superseded,
    /// Found closed, or retired by the peer.
    Lost,
}

impl LinkEvent {
    const ALL: [Self; 6] = [
        Self::Dialled,
        Self::Prepared,
        Self::Reused,
        Self::Expired,
        Self::Superseded,
        Self::Lost,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Dialled => "dialled",
            Self::Prepared => "prepared",
            Self::Reused => "reused",
            Self::Expired => "expired",
            Self::Superseded => "superseded",
            Self::Lost => "lost",
        }
    }
}

impl Metrics {
    /// Declares everything in `registry`.
    ///
    /// # Errors
    /// When a name is registered twice.
    pub fn new(registry: Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            declare(&registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let seconds =
            |name: &str, help: &str, buckets: &[f64]| HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let metrics = Self {
            opened: counters(
                "squire_connections_opened_total",
                "Connections accepted.",
                &["direction"],
            )?,
            open: declare(
                &registry,
                IntGaugeVec::new(
                    Opts::new("squire_connections_open", "Connections open now."),
                    &["direction"],
                )?,
            )?,
            duration: declare(
                &registry,
                HistogramVec::new(
                    seconds(
                        "squire_connection_duration_seconds",
                        "From accept to the end of a connection.",
                        &[0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 600.0, 3600.0],
                    ),
                    &["direction"],
                )?,
            )?,
            handshakes: counters(
                "squire_handshakes_total",
                "Finished mutual TLS handshakes, by what was negotiated.",
                &["role", "version", "suite", "group"],
            )?,
            handshake_failures: counters(
                "squire_handshake_failures_total",
                "Mutual TLS handshakes that did not succeed, by reason.",
                &["role", "reason"],
            )?,
            handshakes_pending: declare(
                &registry,
                IntGauge::new("squire_handshakes_pending", "Inbound mutual TLS handshakes under way.")?,
            )?,
            handshake_duration: declare(
                &registry,
                HistogramVec::new(
                    seconds(
                        "squire_handshake_duration_seconds",
                        "Duration of finished mutual TLS handshakes.",
                        &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5],
                    ),
                    &["role"],
                )?,
            )?,
            decisions: Decisions::new(counters(
                "squire_decisions_total",
                "Policy decisions, by verdict and the object and rule that decided.",
                &decisions::LABELS,
            )?),
            cut: counters(
                "squire_connections_cut_total",
                "Live connections that were cut, by reason.",
                &["reason"],
            )?,
            limits: counters(
                "squire_limit_hits_total",
                "How often a configured limit was reached.",
                &["limit"],
            )?,
            http_refused: counters(
                "squire_http_refused_total",
                "What came on HTTP connections and was no request that can be served safely, by reason.",
                &["reason"],
            )?,
            accept_errors: counters("squire_accept_errors_total", "Failed accepts, by cause.", &["cause"])?,
            access_log_lost: declare(
                &registry,
                IntCounter::new(
                    "squire_access_log_lost_total",
                    "Access-log lines that could not be written.",
                )?,
            )?,
            http2_refused: counters(
                "squire_http2_refused_total",
                "HTTP/2 connections and requests that were refused for what the client did, by reason.",
                &["reason"],
            )?,
            links: counters(
                "squire_mesh_connections_total",
                "What happened to outbound mesh connections.",
                &["event"],
            )?,
            idle_links: declare(
                &registry,
                IntGauge::new(
                    "squire_mesh_connections_idle",
                    "Outbound mesh connections ready for reuse.",
                )?,
            )?,
            dial: declare(
                &registry,
                Histogram::with_opts(seconds(
                    "squire_connect_duration_seconds",
                    "TCP connect to the application or the destination.",
                    &[0.0001, 0.0005, 0.001, 0.005, 0.025, 0.1, 0.5, 2.5],
                ))?,
            )?,
            series: SeriesTable::new(&registry)?,
            registry: registry.clone(),
        };
        metrics.start_at_zero();
        Ok(metrics)
    }

    /// Where the sidecar's other metrics are registered too.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// A rate needs its zero: series with closed labels exist from the start.
    fn start_at_zero(&self) {
        for direction in [Direction::Inbound, Direction::Outbound] {
            let _ = self.opened.with_label_values(&[direction.as_str()]);
            let _ = self.open.with_label_values(&[direction.as_str()]);
        }
        for cut in Cut::ALL {
            let _ = self.cut.with_label_values(&[cut.outcome_label()]);
        }
        for reason in crate::http::h1::REFUSALS {
            let _ = self.http_refused.with_label_values(&[reason]);
        }
        for event in LinkEvent::ALL {
            let _ = self.links.with_label_values(&[event.as_str()]);
        }
        for limit in ["connections", "pending_handshakes"] {
            let _ = self.limits.with_label_values(&[limit]);
        }
        let _ = self.accept_errors.with_label_values(&["descriptors"]);
        for refusal in Refusal::ALL {
            let _ = self.http2_refused.with_label_values(&[refusal.as_str()]);
        }
    }

    pub(crate) fn opened(&self, direction: Direction) {
        self.opened.with_label_values(&[direction.as_str()]).inc();
        self.open.with_label_values(&[direction.as_str()]).inc();
    }

    /// How often a connection was opened or closed.
    pub(crate) fn opened_and_closed(&self) -> u64 {
        [Direction::Inbound, Direction::Outbound]
            .iter()
            .map(|direction| {
                let opened = self.opened.with_label_values(&[direction.as_str()]).get();
                let open = self.open.with_label_values(&[direction.as_str()]).get();
                2 * opened - u64::try_from(open).unwrap_or_default().min(opened)
            })
            .sum()
    }

    pub(crate) fn closed(&self, connection: &Connection, outcome: &Outcome) {
        let direction = connection.direction.as_str();
        self.open.with_label_values(&[direction]).dec();
        self.duration
            .with_label_values(&[direction])
            .observe(connection.age().as_secs_f64());
        if let Outcome::Interrupted(crate::forward::Interrupted::Cut(cut)) = outcome {
            self.cut.with_label_values(&[cut.outcome_label()]).inc();
        }
        let series = match connection.series() {
            Some(series) => std::sync::Arc::clone(series),
            None => self.series_of(connection),
        };
        series.closed(outcome.label());
    }

    /// The series in which the bytes and the end of `connection` count: by its two principals.
    pub(crate) fn series_of(&self, connection: &Connection) -> std::sync::Arc<Series> {
        let facts = connection.facts();
        let (source, destination) = connection.principals(&facts);
        self.series
            .resolve(&SeriesKey::new(connection.direction, source, destination))
    }

    pub(crate) fn decided(&self, direction: Direction, decision: &squire_mesh::policy::Decision) {
        self.decisions.count(direction, decision);
    }

    pub(crate) fn handshake(&self, role: &str, parameters: Parameters, took: Duration) {
        let labels = [role, parameters.version, parameters.suite, parameters.group];
        self.handshakes.with_label_values(&labels).inc();
        self.handshake_duration
            .with_label_values(&[role])
            .observe(took.as_secs_f64());
    }

    pub(crate) fn handshake_failed(&self, role: &str, reason: &str) {
        self.handshake_failures.with_label_values(&[role, reason]).inc();
    }

    /// Counts an inbound handshake as under way until the returned guard is dropped.
    pub(crate) fn handshake_pending(&self) -> impl Drop + use<> {
        Pending::new(&self.handshakes_pending)
    }

    pub(crate) fn limit_hit(&self, limit: &str) {
        self.limits.with_label_values(&[limit]).inc();
    }

    pub(crate) fn http_refused(&self, reason: &str) {
        self.http_refused.with_label_values(&[reason]).inc();
    }

    pub(crate) fn accept_failed(&self, cause: &str) {
        self.accept_errors.with_label_values(&[cause]).inc();
    }

    pub(crate) fn access_log_lost(&self) {
        self.access_log_lost.inc();
    }

    pub(crate) fn http2_refused(&self, refusal: Refusal) {
        self.http2_refused.with_label_values(&[refusal.as_str()]).inc();
    }

    pub(crate) fn link(&self, event: LinkEvent) {
        self.links.with_label_values(&[event.as_str()]).inc();
    }

    pub(crate) fn idle_links(&self, count: usize) {
        self.idle_links.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn connected(&self, took: Duration) {
        self.dial.observe(took.as_secs_f64());
    }

    /// Forgets series of principals that have had no connection for a while; called now and then.
    pub(crate) fn expire_idle_series(&self) {
        self.series.expire_idle();
    }
}

/// One more in a gauge, as long as it lives.
struct Pending(IntGauge);

impl Pending {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn declare<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
