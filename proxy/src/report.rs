//! Tells the control plane what this sidecar trusts and who it is: the evidence that a rotation waits for. Sent when it
//! changes and as a heartbeat, on the connection that the stream is on. A report that fails is not kept: the next one
//! says it all.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use squire_mesh::{
    bundle::TrustBundle,
    wire::squire::{ReportRequest, report_service_client::ReportServiceClient},
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tonic::Status;

use crate::{
    channel::Channel,
    config::Config,
    identity::{self, Issued},
    state::{Snapshot, State},
    vitals::Vitals,
};

/// Between heartbeats, unless the control plane wants another pace.
const INTERVAL: Duration = Duration::from_secs(10);
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Bounds on the pace the control plane may ask for.
const PACE: std::ops::RangeInclusive<u32> = 1..=300;

/// What live connections stand on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// Sequence number of our trust domain's bundle that they were judged by.
    pub bundle: u64,
    /// Some stand on a root of it that does not sign any more.
    pub on_old_root: bool,
}

/// The task that reports.
pub struct Reporter {
    /// Whose sidecar this is.
    pub config: Arc<Config>,
    /// Who we are.
    pub identity: identity::Receiver,
    /// What we trust.
    pub state: State,
    /// The connection to the control plane, while there is one.
    pub channel: watch::Receiver<Option<Channel>>,
    /// Where the admin endpoint really listens.
    pub admin: SocketAddr,
    /// Whether live connections stand on a root that does not sign any more, as of which bundle.
    pub standing: watch::Receiver<Standing>,
    /// Counts reports.
    pub vitals: Arc<Vitals>,
}

impl Reporter {
    /// Runs until what it follows has ended.
    pub async fn run(mut self) {
        while let Ok(channel) = self.connected().await {
            let report = self.report();
            let evidence = Evidence::of(&report);
            let pace = match self.send(channel, report).await {
                Ok(pace) => pace,
                Err(status) => {
                    tracing::warn!(reason = status.message(), code = ?status.code(), "the control plane did not take a report");
                    INTERVAL
                }
            };
            tokio::select! {
                () = sleep(pace) => {}
                ended = self.changed(&evidence) => if ended.is_err() { return },
            }
        }
    }

    /// Waits for a connection.
    async fn connected(&mut self) -> Result<Channel, watch::error::RecvError> {
        loop {
            let channel = self.channel.borrow_and_update().clone();
            match channel {
                Some(channel) => return Ok(channel),
                None => self.channel.changed().await?,
            }
        }
    }

    /// Waits until a report would say something new, or there is another connection to say it on.
    async fn changed(&mut self, said: &Evidence) -> Result<(), watch::error::RecvError> {
        while Evidence::of(&self.report()) == *said {
            tokio::select! {
                changed = self.channel.changed() => return changed,
                changed = self.identity.changed() => changed?,
                changed = self.state.changed() => changed?,
                changed = self.standing.changed() => changed?,
            }
        }
        Ok(())
    }

    async fn send(&self, channel: Channel, report: ReportRequest) -> Result<Duration, Status> {
        let origin = channel.origin();
        let mut client = ReportServiceClient::with_origin(channel, origin);
        let asked = SystemTime::now();
        let answer = timeout(CALL_TIMEOUT, client.report(report)).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        self.vitals.reported(answer.is_ok());
        let answer = answer?.into_inner();
        self.compare_clocks(asked, answer.now);
        let seconds = answer.next_seconds;
        Ok(if PACE.contains(&seconds) {
            Duration::from_secs(seconds.into())
        } else {
            INTERVAL
        })
    }

    /// The control plane said its time somewhere between our question and its answer.
    fn compare_clocks(&self, asked: SystemTime, theirs: i64) {
        let answered = SystemTime::now();
        if theirs == 0 {
            // An older control plane does not say.
            return;
        }
        let half = answered.duration_since(asked).unwrap_or_default() / 2;
        let seconds = unix_seconds(asked + half) - theirs;
        if self.vitals.clock_measured(seconds) {
            tracing::warn!(
                seconds,
                "our clock is not the control plane's (ahead: positive): certificates are refused beyond five minutes; \
                 correct the one that is wrong"
            );
        }
    }

    fn report(&mut self) -> ReportRequest {
        let issued = self.identity.borrow_and_update().last().cloned();
        let snapshot = Arc::clone(&self.state.borrow_and_update());
        let standing = *self.standing.borrow_and_update();
        let own = snapshot.bundles.get(&self.config.trust_domain);
        let sequence = own.map_or(0, TrustBundle::sequence);
        let report = ReportRequest {
            workload: self.config.workload.to_string(),
            bundle_digest: snapshot.bundles.digest().to_owned(),
            admin_address: self.admin_address(&snapshot).to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            now: unix_seconds(SystemTime::now()),
            own_bundle_digest: own.map(TrustBundle::digest).unwrap_or_default(),
            own_bundle_sequence: sequence,
            // Not judged by this bundle yet: it may be so.
            stands_on_old_root: standing.on_old_root || standing.bundle != sequence,
            ..ReportRequest::default()
        };
        match issued {
            Some(issued) => with_svid(report, &issued),
            None => report,
        }
    }

    /// Where people reach us: an admin endpoint that listens everywhere is reached at the workload's own address.
    fn admin_address(&self, snapshot: &Snapshot) -> SocketAddr {
        let own = snapshot.me.as_ref().and_then(|me| me.addresses.first());
        match own {
            Some(own) if self.admin.ip().is_unspecified() => SocketAddr::new(*own, self.admin.port()),
            _ => self.admin,
        }
    }
}

fn with_svid(report: ReportRequest, issued: &Issued) -> ReportRequest {
    ReportRequest {
        svid_issuer: issued.svid.issuer_key().map(hex).unwrap_or_default(),
        svid_root: issued.root.to_string(),
        svid_serial: issued.svid.serial().to_string(),
        svid_not_after: unix_seconds(issued.not_after),
        svid_renew_at: unix_seconds(issued.renew_at),
        ..report
    }
}

/// The part of a report that a gate waits for.
#[derive(PartialEq, Eq)]
struct Evidence {
    bundle_digest: String,
    own_bundle_sequence: u64,
    stands_on_old_root: bool,
    svid_serial: String,
    admin_address: String,
}

impl Evidence {
    fn of(report: &ReportRequest) -> Self {
        Self {
            bundle_digest: report.bundle_digest.clone(),
            own_bundle_sequence: report.own_bundle_sequence,
            stands_on_old_root: report.stands_on_old_root,
            svid_serial: report.svid_serial.clone(),
            admin_address: report.admin_address.clone(),
        }
    }
}

fn unix_seconds(time: SystemTime) -> i64 {
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
