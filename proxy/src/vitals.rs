//! Figures about the sidecar's own life, as opposed to its connections: SVID renewals and expiry, how current the state
//! is, whether the control plane is there. It measures; it decides nothing.

use std::{
    sync::Mutex,
    time::{Instant, SystemTime},
};

use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::{
    identity::Issued,
    state::{Kind, Snapshot},
};

/// The figures, registered once.
pub struct Vitals {
    renewals: IntCounterVec,
    not_after: Gauge,
    generation: IntGauge,
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
        let with = |registry: &Registry, name: &str, help: &str, label: &str| {
            let counter = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let not_after = Gauge::new(
            "squire_svid_not_after_timestamp_seconds",
            "When our SVID ends, seconds since the epoch; 0: we have none.",
        )?;
        registry.register(Box::new(not_after.clone()))?;
        let age = GaugeVec::new(
            Opts::new(
                "squire_state_age_seconds",
                "How long a table has gone without word from the control plane, by kind; 0 while it is current.",
            ),
            &["kind"],
        )?;
        registry.register(Box::new(age.clone()))?;
        let admin_refused = IntCounter::new(
            "squire_admin_refused_total",
            "Admin connections refused because too many were open.",
        )?;
        registry.register(Box::new(admin_refused.clone()))?;
        Ok(Self {
            renewals: with(
                registry,
                "squire_svid_renewals_total",
                "Attempts to get an SVID, by result.",
                "result",
            )?,
            not_after,
            generation: gauge("squire_svid_generation", "SVIDs issued to this process so far.")?,
            updates: {
                let opts = Opts::new(
                    "squire_state_updates_total",
                    "Updates from the control plane, by kind and result.",
                );
                let counter = IntCounterVec::new(opts, &["kind", "result"])?;
                registry.register(Box::new(counter.clone()))?;
                counter
            },
            age,
            workloads: gauge("squire_state_workloads", "Workloads known.")?,
            services: gauge("squire_state_services", "Services known.")?,
            connected: gauge(
                "squire_control_connected",
                "1 while the control plane's stream is open.",
            )?,
            streams: with(
                registry,
                "squire_control_streams_total",
                "Attempts to open the stream, by result.",
                "result",
            )?,
            reports: with(
                registry,
                "squire_control_reports_total",
                "Reports to the control plane, by result.",
                "result",
            )?,
            admin_refused,
            lost: Mutex::new(None),
        })
    }

    /// A new SVID is in use.
    pub(crate) fn renewed(&self, issued: &Issued) {
        self.renewals.with_label_values(&["success"]).inc();
        let end = issued
            .not_after
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        self.not_after.set(end.as_secs_f64());
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
