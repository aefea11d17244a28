//! Figures about the sidecar's own life, as opposed to its connections: SVID renewals and expiry, how current the state
//! is, whether the control plane is there. It measures; it decides nothing.

use std::{
    sync::Mutex,
    time::{Instant, SystemTime},
};

use prometheus::{GaugeVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, core::Collector};

use crate::{
    identity::Issued,
    state::{Kind, Snapshot},
};

/// A clock that is further than this from the control plane's is worth a word: certificates are backdated by five minutes.
const SKEWED: i64 = 60;

/// The figures, registered once.
pub struct Vitals {
    renewals: IntCounterVec,
    not_after: IntGauge,
    renewal_due: IntGauge,
    generation: IntGauge,
    clock_skew: IntGauge,
    updates: IntCounterVec,
    age: GaugeVec,
    workloads: IntGauge,
    services: IntGauge,
    connected: IntGauge,
    streams: IntCounterVec,
    reports: IntCounterVec,
    admin_refused: IntCounter,
    /// When the control plane was last connected; `None` while it is, or never was.
    lost: Mutex<Option<Instant>>,
}

impl Vitals {
    /// Registers every figure.
    ///
    /// # Errors
    /// When the registry holds a figure of the same name already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let vitals = Self {
            renewals: counters(
                registry,
                "squire_svid_renewals_total",
                "Attempts to get an SVID, by result.",
                &["result"],
            )?,
            not_after: gauge(
                registry,
                "squire_svid_not_after_timestamp_seconds",
                "When our SVID ends; 0: we have none.",
            )?,
            renewal_due: gauge(
                registry,
                "squire_svid_renewal_due_timestamp_seconds",
                "When our SVID is, or was, to be renewed; 0: we have none.",
            )?,
            clock_skew: gauge(
                registry,
                "squire_clock_skew_seconds",
                "Our clock less the control plane's, as measured with the last report.",
            )?,
            generation: gauge(
                registry,
                "squire_svid_generation",
                "SVIDs issued to this process so far.",
            )?,
            updates: counters(
                registry,
                "squire_state_updates_total",
                "Updates from the control plane, by kind and result.",
                &["kind", "result"],
            )?,
            age: gauges(
                registry,
                "squire_state_age_seconds",
                "How long a table has gone without word from the control plane, by kind; 0 while it is current.",
                &["kind"],
            )?,
            workloads: gauge(registry, "squire_state_workloads", "Workloads known.")?,
            services: gauge(registry, "squire_state_services", "Services known.")?,
            connected: gauge(
                registry,
                "squire_control_connected",
                "1 while the control plane's stream is open.",
            )?,
            streams: counters(
                registry,
                "squire_control_streams_total",
                "Attempts to open the stream, by result.",
                &["result"],
            )?,
            reports: counters(
                registry,
                "squire_control_reports_total",
                "Reports to the control plane, by result.",
                &["result"],
            )?,
            admin_refused: counter(
                registry,
                "squire_admin_refused_total",
                "Admin connections refused: too many were open.",
            )?,
            lost: Mutex::new(None),
        };
        vitals.show_zeros();
        Ok(vitals)
    }

    /// A figure that is not there yet cannot be told from one that is not measured.
    fn show_zeros(&self) {
        for counters in [&self.renewals, &self.streams, &self.reports] {
            counters.with_label_values(&["success"]);
            counters.with_label_values(&["failure"]);
        }
        self.renewals.with_label_values(&["expired"]);
        for kind in Kind::ALL {
            self.updates.with_label_values(&[kind.label(), "applied"]);
            self.updates.with_label_values(&[kind.label(), "refused"]);
        }
    }

    /// A new SVID is in use.
    pub(crate) fn renewed(&self, issued: &Issued) {
        self.renewals.with_label_values(&["success"]).inc();
        let end = issued
            .not_after
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        self.not_after.set(i64::try_from(end.as_secs()).unwrap_or(i64::MAX));
        let due = issued
            .renew_at
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        self.renewal_due.set(i64::try_from(due.as_secs()).unwrap_or(i64::MAX));
        self.generation
            .set(i64::try_from(issued.generation).unwrap_or(i64::MAX));
    }

    /// No SVID was issued.
    pub(crate) fn renewal_failed(&self) {
        self.renewals.with_label_values(&["failure"]).inc();
    }

    /// The SVID has ended before a newer one came.
    pub(crate) fn expired(&self) {
        self.renewals.with_label_values(&["expired"]).inc();
    }

    /// An update was applied, or refused.
    pub(crate) fn updated(&self, kind: Kind, applied: bool) {
        let result = if applied { "applied" } else { "refused" };
        self.updates.with_label_values(&[kind.label(), result]).inc();
    }

    /// The stream is open.
    pub(crate) fn connected(&self) {
        self.streams.with_label_values(&["success"]).inc();
        self.connected.set(1);
        *self.lost() = None;
    }

    /// The stream has ended, or could not be opened.
    pub(crate) fn disconnected(&self, failed_to_open: bool) {
        if failed_to_open {
            self.streams.with_label_values(&["failure"]).inc();
        }
        self.connected.set(0);
        self.lost().get_or_insert_with(Instant::now);
    }

    /// A report was taken, or not.
    pub(crate) fn reported(&self, taken: bool) {
        self.reports
            .with_label_values(&[if taken { "success" } else { "failure" }])
            .inc();
    }

    /// Our clock is that far ahead of the control plane's. Says whether that is more than it was by a minute or so.
    pub(crate) fn clock_measured(&self, seconds: i64) -> bool {
        let before = self.clock_skew.get();
        self.clock_skew.set(seconds);
        let skewed = |seconds: i64| seconds.abs() > SKEWED;
        skewed(seconds) && !skewed(before)
    }

    /// An admin connection was turned away.
    pub(crate) fn admin_refused(&self) {
        self.admin_refused.inc();
    }

    /// Brings what is measured by looking up to date; called before the figures are read.
    pub(crate) fn look(&self, snapshot: &Snapshot) {
        let (workloads, services) = snapshot.counts();
        self.workloads.set(i64::try_from(workloads).unwrap_or(i64::MAX));
        self.services.set(i64::try_from(services).unwrap_or(i64::MAX));
        for kind in Kind::ALL {
            self.age
                .with_label_values(&[kind.label()])
                .set(self.age_of(kind, snapshot));
        }
    }

    /// Seconds since a table was last known to be what the control plane has: since the stream was lost, or since the
    /// refused update came. A table that was never told has no age.
    fn age_of(&self, kind: Kind, snapshot: &Snapshot) -> f64 {
        let table = snapshot.tables.of(kind);
        if table.applied.is_none() {
            return 0.0;
        }
        let lost = self.lost().map_or(0.0, |since| since.elapsed().as_secs_f64());
        let refused = table.refused.as_ref().and_then(|refused| refused.since.elapsed().ok());
        lost.max(refused.map_or(0.0, |age| age.as_secs_f64()))
    }

    fn lost(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        // Nobody panics while holding it; if somebody did, the value would still be good.
        self.lost.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, figure: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(figure.clone()))?;
    Ok(figure)
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    register(registry, IntCounter::new(name, help)?)
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    register(registry, IntGauge::new(name, help)?)
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, prometheus::Error> {
    register(registry, GaugeVec::new(Opts::new(name, help), labels)?)
}
