//! What proxies report about themselves: the roots they trust, the certificate they hold, where their admin endpoint is.
//! The last report of each is kept; it is the evidence that rotation and `squire connections` stand on. Only a proxy
//! that has proved to be a workload can report for it.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, SystemTime},
};

use serde::Serialize;
use squire_mesh::{
    spiffe::SpiffeId,
    wire::squire::{
        ReportRequest, ReportResponse,
        report_service_server::{ReportService, ReportServiceServer},
    },
    workload::WorkloadUid,
};
use tonic::{Request, Response, Status};

use crate::{
    metrics::{Metrics, count},
    peer,
    push::{Catalog, epoch_seconds},
};

/// How often a proxy is asked to report.
const EVERY: Duration = Duration::from_secs(30);
/// A proxy that has not reported for this long is gone.
const GONE: Duration = Duration::from_secs(15 * 60);
/// Proxies whose reports are kept.
const MAX_REPORTS: usize = 200_000;
/// Longest text in a report.
const MAX_TEXT: usize = 512;
/// A clock that is further than this from ours is worth a word: certificates are backdated by five minutes.
const SKEWED: i64 = 60;
/// Largest report.
const MAX_MESSAGE: usize = 1024 * 1024;

/// The last report of one proxy.
#[derive(Clone, Debug, Serialize)]
pub struct ReportView {
    /// The identity it proved.
    pub spiffe_id: String,
    /// When it came, in seconds since the epoch.
    pub received: u64,
    /// Digest of the roots it trusts.
    pub bundle_digest: String,
    /// Key identifier of the certificate that signed its SVID.
    pub svid_issuer: String,
    /// SHA-256 of the root above it.
    pub svid_root: String,
    /// Serial number of its SVID.
    pub svid_serial: String,
    /// When its SVID ends, in seconds since the epoch.
    pub svid_not_after: i64,
    /// When its SVID is going to be renewed, in seconds since the epoch; 0: it does not say.
    pub svid_renew_at: i64,
    /// Where its admin endpoint is.
    pub admin_address: String,
    /// Its version.
    pub version: String,
    /// Its clock less ours, in seconds.
    pub clock_skew: i64,
    /// Digest of the roots of its own trust domain that it trusts.
    pub own_bundle_digest: String,
    /// Sequence number of the bundle they came with.
    pub own_bundle_sequence: u64,
    /// Some of its connections stand on a root that does not sign any more.
    pub stands_on_old_root: bool,
}

/// Hears every report that was taken.
pub trait Witness: Send + Sync {
    /// This workload, with this identity, has reported.
    fn saw(&self, id: &SpiffeId, workload: &str, report: &ReportView, now: SystemTime);
}

impl ReportView {
    /// Whether the proxy has not reported for so long that it is taken for gone.
    #[must_use]
    pub fn is_gone(&self, now: SystemTime) -> bool {
        epoch_seconds(now).saturating_sub(self.received) >= GONE.as_secs()
    }
}

/// Whether a clock is too far from ours.
#[must_use]
pub(crate) fn is_skewed(seconds: i64) -> bool {
    seconds.abs() > SKEWED
}

/// The last reports of all proxies.
pub struct Reports {
    catalog: Arc<Catalog>,
    metrics: Metrics,
    last: Mutex<HashMap<Arc<str>, ReportView>>,
    witness: OnceLock<Box<dyn Witness>>,
}

impl Reports {
    /// No reports yet. `catalog` knows which identity each workload has.
    pub fn new(catalog: Arc<Catalog>, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self {
            catalog,
            metrics,
            last: Mutex::default(),
            witness: OnceLock::new(),
        })
    }

    /// Has every report heard by this witness too; the first one given stays.
    pub fn heard_by(&self, witness: Box<dyn Witness>) {
        let _ = self.witness.set(witness);
    }

    /// The tonic service.
    pub fn service(self: &Arc<Self>) -> ReportServiceServer<Service> {
        ReportServiceServer::new(Service(Arc::clone(self))).max_decoding_message_size(MAX_MESSAGE)
    }

    /// The last report of each proxy that still reports, by workload.
    pub fn view(&self) -> HashMap<Arc<str>, ReportView> {
        self.lock().clone()
    }

    fn take(&self, id: &SpiffeId, report: ReportRequest, now: SystemTime) -> Result<(), Status> {
        let uid: WorkloadUid = report
            .workload
            .parse()
            .map_err(|error| Status::invalid_argument(format!("{error}")))?;
        self.check_identity(&uid, id)?;
        let texts = [
            &report.bundle_digest,
            &report.svid_issuer,
            &report.svid_root,
            &report.svid_serial,
            &report.own_bundle_digest,
        ];
        if texts
            .into_iter()
            .chain([&report.admin_address, &report.version])
            .any(|text| text.len() > MAX_TEXT)
        {
            return Err(Status::invalid_argument(format!(
                "a text of more than {MAX_TEXT} bytes"
            )));
        }
        let received = epoch_seconds(now);
        let view = ReportView {
            spiffe_id: id.to_string(),
            received,
            bundle_digest: report.bundle_digest,
            svid_issuer: report.svid_issuer,
            svid_root: report.svid_root,
            svid_serial: report.svid_serial,
            svid_not_after: report.svid_not_after,
            svid_renew_at: report.svid_renew_at,
            admin_address: report.admin_address,
            version: report.version,
            clock_skew: report.now.saturating_sub_unsigned(received),
            own_bundle_digest: report.own_bundle_digest,
            own_bundle_sequence: report.own_bundle_sequence,
            stands_on_old_root: report.stands_on_old_root,
        };
        if let Some(witness) = self.witness.get() {
            witness.saw(id, uid.as_str(), &view, now);
        }
        if is_skewed(view.clock_skew)
            && !self
                .lock()
                .get(uid.as_str())
                .is_some_and(|last| is_skewed(last.clock_skew))
        {
            let (workload, seconds) = (uid.as_str(), view.clock_skew);
            tracing::warn!(
                workload,
                seconds,
                "the clock of a proxy is not ours (ahead: positive): certificates are refused beyond five minutes; \
                 correct the one that is wrong"
            );
        }
        let mut last = self.lock();
        if last.len() >= MAX_REPORTS && !last.contains_key(uid.as_str()) {
            last.retain(|_, report| received.saturating_sub(report.received) < GONE.as_secs());
            if last.len() >= MAX_REPORTS {
                return Err(Status::resource_exhausted("more proxies report than are kept"));
            }
        }
        last.insert(uid.to_shared(), view);
        Ok(())
    }

    /// The workload's own identity, or at least its namespace while the workload is not known yet.
    fn check_identity(&self, uid: &WorkloadUid, id: &SpiffeId) -> Result<(), Status> {
        let accepted = match self.catalog.identity(uid.as_str()) {
            Some(identity) => identity.as_ref() == Some(id),
            None => id.namespace() == Some(uid.namespace()),
        };
        let refusal = || Status::permission_denied(format!("{id} cannot report for workload {uid}"));
        if accepted { Ok(()) } else { Err(refusal()) }
    }

    /// Forgets proxies that have not reported for long.
    pub fn forget_gone(&self, now: SystemTime) {
        self.lock().retain(|_, report| !report.is_gone(now));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, ReportView>> {
        // Whole records are put in and taken out: a panic elsewhere has left none in halves.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Reports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reports")
            .field("last", &self.lock().len())
            .finish_non_exhaustive()
    }
}

/// `squire.v1.ReportService`.
#[derive(Debug)]
pub struct Service(Arc<Reports>);

#[tonic::async_trait]
impl ReportService for Service {
    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportResponse>, Status> {
        let reports = &self.0;
        let taken = peer::required(&request)
            .and_then(|(_, peer)| reports.take(peer.id(), request.into_inner(), SystemTime::now()));
        count(
            &reports.metrics.reports,
            if taken.is_ok() { "taken" } else { "refused" },
        )
        .inc();
        taken?;
        Ok(Response::new(ReportResponse {
            next_seconds: u32::try_from(EVERY.as_secs()).unwrap_or(u32::MAX),
            now: i64::try_from(epoch_seconds(SystemTime::now())).unwrap_or(i64::MAX),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reports() -> Arc<Reports> {
        let catalog = Arc::new(Catalog::default());
        let identity = Some("spiffe://cluster.local/ns/shop/sa/web".parse().unwrap());
        let identities = [
            (Arc::from("shop/web-1"), identity),
            (Arc::from("shop/address/10.0.0.1"), None),
        ];
        catalog.publish([], Some(Arc::new(identities.into_iter().collect())));
        Reports::new(catalog, Metrics::new().unwrap())
    }

    fn report(workload: &str) -> ReportRequest {
        ReportRequest {
            workload: workload.into(),
            admin_address: "127.0.0.1:15020".into(),
            now: 105,
            ..Default::default()
        }
    }

    #[test]
    fn a_workload_reports_for_itself_alone() {
        let reports = reports();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        for (id, workload, accepted) in [
            ("spiffe://cluster.local/ns/shop/sa/web", "shop/web-1", true),
            ("spiffe://cluster.local/ns/shop/sa/db", "shop/web-1", false),
            ("spiffe://cluster.local/ns/shop/sa/db", "shop/not-known-yet", true),
            ("spiffe://cluster.local/ns/other/sa/db", "shop/not-known-yet", false),
            ("spiffe://cluster.local/ns/shop/sa/web", "shop/address/10.0.0.1", false),
            ("spiffe://cluster.local/ns/shop/sa/web", "no uid", false),
        ] {
            let taken = reports.take(&id.parse().unwrap(), report(workload), now);
            assert_eq!(taken.is_ok(), accepted, "{id} {workload}: {taken:?}");
        }
        assert_eq!(reports.view().len(), 2);
        assert_eq!(reports.view()["shop/web-1"].clock_skew, 5);
    }

    #[test]
    fn who_does_not_report_any_more_is_forgotten() {
        let reports = reports();
        let id = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        reports.take(&id, report("shop/web-1"), now).unwrap();
        reports.forget_gone(now + GONE / 2);
        assert_eq!(reports.view().len(), 1);
        reports.forget_gone(now + GONE);
        assert!(reports.view().is_empty());
    }

    #[test]
    fn long_texts_are_refused() {
        let id = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
        let long = ReportRequest {
            version: "v".repeat(MAX_TEXT + 1),
            ..report("shop/web-1")
        };
        assert!(reports().take(&id, long, SystemTime::now()).is_err());
    }
}
