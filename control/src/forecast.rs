//! What would fail, and when, if the control plane stopped now: from what proxies report of their SVIDs, and from the ends of
//! what the CA signs with. Pure but for the figures it sets; it signs nothing and asks nobody.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use prometheus::{IntGauge, IntGaugeVec, Opts};
use serde::Serialize;

use crate::{
    expiry::{Expiries, Expiry},
    metrics::Metrics,
    push::epoch_seconds,
    reports::{ReportView, Reports, is_skewed},
};

/// Names that are listed of each kind; the counts say how many there are.
const MAX_NAMED: usize = 100;

/// The forecast. All times are seconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Forecast {
    /// When it was made.
    pub now: u64,
    /// Proxies that hold an SVID and have reported it lately.
    pub proxies: usize,
    /// The first one whose SVID ends, if the control plane stopped now.
    pub first: Option<Failure>,
    /// From then on half of them are nobody.
    pub half: Option<u64>,
    /// From then on all of them are.
    pub all: Option<u64>,
    /// Proxies that should have renewed their SVID long ago.
    pub overdue: Named,
    /// Proxies whose clock is too far from ours.
    pub skewed: Named,
    /// The largest difference of a proxy's clock from ours, in seconds: its clock less ours.
    pub largest_skew: i64,
    /// What the CA signs with, in the order in which it ends.
    pub expiries: Vec<Expiry>,
}

/// When one workload fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Which.
    pub workload: String,
    /// When its SVID ends.
    pub at: u64,
}

/// Some proxies, by the workload they stand beside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Named {
    /// How many there are.
    pub count: usize,
    /// The first hundred, and what is to be said of each.
    pub named: BTreeMap<String, String>,
}

impl Named {
    fn add(&mut self, workload: &str, words: impl FnOnce() -> String) {
        self.count += 1;
        if self.named.len() < MAX_NAMED {
            self.named.insert(workload.to_owned(), words());
        }
    }
}

/// From the last reports of all proxies.
pub fn forecast<'r>(
    reports: impl IntoIterator<Item = (&'r str, &'r ReportView)>,
    mut expiries: Vec<Expiry>,
    now: SystemTime,
) -> Forecast {
    let now = epoch_seconds(now);
    let (mut overdue, mut skewed, mut largest_skew) = (Named::default(), Named::default(), 0_i64);
    let mut ends: Vec<(u64, &str)> = Vec::new();
    for (workload, report) in reports {
        if report.clock_skew.abs() > largest_skew.abs() {
            largest_skew = report.clock_skew;
        }
        if is_skewed(report.clock_skew) {
            skewed.add(workload, || format!("{:+} s", report.clock_skew));
        }
        let seconds = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
        let Some(end) = seconds(report.svid_not_after) else {
            continue;
        };
        ends.push((end, workload));
        // Half of the time between the renewal it planned and the end has passed without it: many attempts have failed.
        if let Some(due) = seconds(report.svid_renew_at)
            && now > due + end.saturating_sub(due) / 2
        {
            overdue.add(workload, || format!("since {} s", now - due));
        }
    }
    ends.sort_unstable();
    expiries.sort_by_key(|expiry| expiry.not_after);
    let half = ends.len().div_ceil(2);
    Forecast {
        now,
        proxies: ends.len(),
        first: ends.first().map(|(at, workload)| Failure {
            workload: (*workload).to_owned(),
            at: *at,
        }),
        half: half.checked_sub(1).and_then(|at| ends.get(at)).map(|(at, _)| *at),
        all: ends.last().map(|(at, _)| *at),
        overdue,
        skewed,
        largest_skew,
        expiries,
    }
}

/// Makes forecasts, and keeps the figures that alarms stand on.
#[derive(Clone)]
pub struct Forecaster {
    reports: Arc<Reports>,
    expiries: Expiries,
    not_after: IntGaugeVec,
    proxies: IntGauge,
    earliest: IntGauge,
    overdue: IntGauge,
    skewed: IntGauge,
    largest_skew: IntGauge,
}

impl Forecaster {
    /// Registers the figures.
    ///
    /// # Errors
    /// When there is one of the same name already.
    pub fn new(reports: Arc<Reports>, expiries: Expiries, metrics: &Metrics) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| IntGauge::with_opts(Opts::new(name, help).namespace("squire_control"));
        let not_after = Opts::new(
            "squire_ca_not_after_timestamp_seconds",
            "When the first of its kind ends: root, intermediate, jwt_key (another should have taken its place), control_svid",
        );
        let forecaster = Self {
            reports,
            expiries,
            not_after: IntGaugeVec::new(not_after, &["what"])?,
            proxies: gauge(
                "proxies_reporting",
                "Proxies that hold an SVID and have reported it lately",
            )?,
            earliest: gauge(
                "proxy_svid_not_after_earliest_timestamp_seconds",
                "When the first proxy's SVID ends; 0: none has reported",
            )?,
            overdue: gauge(
                "proxies_overdue",
                "Proxies that should have renewed their SVID long ago",
            )?,
            skewed: gauge(
                "proxies_skewed",
                "Proxies whose clock differs from ours by more than a minute",
            )?,
            largest_skew: gauge(
                "clock_skew_seconds",
                "The largest difference of a proxy's clock from ours: its clock less ours",
            )?,
        };
        metrics.register(forecaster.not_after.clone())?;
        for gauge in [
            &forecaster.proxies,
            &forecaster.earliest,
            &forecaster.overdue,
            &forecaster.skewed,
            &forecaster.largest_skew,
        ] {
            metrics.register(gauge.clone())?;
        }
        Ok(forecaster)
    }

    /// The forecast at this moment; the figures say the same from now on.
    pub fn look(&self, now: SystemTime) -> Forecast {
        let reports = self.reports.view();
        let lately = |report: &ReportView| !report.is_gone(now);
        let reports = reports.iter().filter(|(_, report)| lately(report));
        let forecast = forecast(reports.map(|(uid, report)| (&**uid, report)), (self.expiries)(), now);
        let gauge = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let seconds = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.proxies.set(gauge(forecast.proxies));
        self.earliest
            .set(forecast.first.as_ref().map_or(0, |first| seconds(first.at)));
        self.overdue.set(gauge(forecast.overdue.count));
        self.skewed.set(gauge(forecast.skewed.count));
        self.largest_skew.set(forecast.largest_skew);
        // In the order in which they end: the first of each kind is the one that counts.
        for expiry in forecast.expiries.iter().rev() {
            let figure = self.not_after.with_label_values(&[expiry.what]);
            figure.set(seconds(expiry.not_after));
        }
        forecast
    }
}

impl std::fmt::Debug for Forecaster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forecaster").finish_non_exhaustive()
    }
}

/// How long from one moment to another, for people: the two largest units.
#[must_use]
pub fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [(86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let first = units.iter().position(|(unit, _)| seconds >= *unit).unwrap_or(3);
    let (unit, name) = units[first];
    let rest = units.get(first + 1).map(|(next, name)| (seconds % unit / next, name));
    match rest {
        Some((more, next)) if more > 0 => format!("{} {name} {more} {next}", seconds / unit),
        _ => format!("{} {name}", seconds / unit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(not_after: i64, renew_at: i64, clock_skew: i64) -> ReportView {
        ReportView {
            own_bundle_digest: String::new(),
            own_bundle_sequence: 0,
            stands_on_old_root: false,
            spiffe_id: "spiffe://cluster.local/ns/shop/sa/web".into(),
            received: 1000,
            bundle_digest: String::new(),
            svid_issuer: String::new(),
            svid_root: String::new(),
            svid_serial: String::new(),
            svid_not_after: not_after,
            svid_renew_at: renew_at,
            admin_address: String::new(),
            version: String::new(),
            clock_skew,
        }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn it_says_who_fails_first_and_when_half_and_all_have_failed() {
        let reports = [
            ("shop/c", report(4000, 2500, 0)),
            ("shop/a", report(2000, 1500, 0)),
            ("shop/b", report(3000, 2000, 0)),
            ("shop/waiting", report(0, 0, 0)),
        ];
        let reports = || reports.iter().map(|(name, report)| (*name, report));
        let expiry = |what, not_after| Expiry {
            what,
            name: String::new(),
            not_after,
        };
        let made = forecast(
            reports(),
            vec![expiry("root", 9000), expiry("intermediate", 5000)],
            at(1000),
        );
        assert_eq!(made.proxies, 3, "who has no SVID has nothing to lose");
        let first = made.first.unwrap();
        assert_eq!((first.workload.as_str(), first.at), ("shop/a", 2000));
        assert_eq!((made.half, made.all), (Some(3000), Some(4000)), "two of three are half");
        assert_eq!(made.expiries[0].what, "intermediate");
        assert_eq!((made.overdue.count, made.skewed.count), (0, 0));
        let two = forecast(reports().take(2), vec![], at(1000));
        assert_eq!(two.half, Some(2000), "one of two is half");
        let none = forecast([], vec![], at(1000));
        assert_eq!((none.first, none.half, none.all), (None, None, None));
    }

    #[test]
    fn who_missed_a_renewal_and_whose_clock_is_off_is_named() {
        let reports = [
            ("shop/late", report(3000, 1000, 0)),
            ("shop/busy", report(3000, 1500, -59)),
            ("shop/ahead", report(3000, 2500, 240)),
        ];
        let made = forecast(reports.iter().map(|(name, report)| (*name, report)), vec![], at(2001));
        assert_eq!(made.overdue.named.keys().collect::<Vec<_>>(), ["shop/late"]);
        assert_eq!(made.skewed.named["shop/ahead"], "+240 s");
        assert_eq!((made.skewed.count, made.largest_skew), (1, 240));
    }

    #[test]
    fn spans_are_told_in_two_units() {
        for (seconds, told) in [
            (0, "0 s"),
            (59, "59 s"),
            (61, "1 min 1 s"),
            (7200, "2 h"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), told);
        }
    }
}
