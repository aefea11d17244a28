//! The control plane's side of the CA: opens (or founds) it, hosts its issuing service, and keeps our own certificate
//! fresh. It knows nothing of policies, workloads or who is sent what: code that signs and code that decides never
//! import each other.

mod shared;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use prometheus::{Histogram, HistogramOpts, IntCounterVec, Opts};
use squire_ca::{
    admin,
    attest::{Attestor, JoinTokens, Oidc, OidcConfig, Renewal, ServiceAccounts},
    authority::{CertificateAuthority, OWN},
    jwt::JwtIssuingService,
    roster::Evidence,
    seal::Seal,
    service::{IssuingService, Observer, PeerIdentity},
    store::{Alarm, DirStore, OPERATIONS, Store, Watched},
};
use squire_mesh::{
    bundle::{TrustBundle, TrustBundles},
    ports,
    spiffe::SpiffeId,
    svid::{Revocations, Role, identify},
    tls::{ClientAuth, Svid, open_server_config, server_config},
    wire::{
        ca::istio_certificate_service_server::IstioCertificateServiceServer,
        squire::jwt_svid_service_server::JwtSvidServiceServer,
    },
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Status, service::interceptor::InterceptedService};

use crate::{
    config::{CaKey, Config, JwtConfig},
    error::ControlError,
    expiry::{Expiries, Expiry},
    listener::Tls,
    metrics::{Metrics, count},
    peer::Peer,
    reports::{ReportView, Witness},
};

/// After a failure to renew our own certificate.
const RETRY: Duration = Duration::from_secs(10);

pub use shared::Shared;

/// The CA and what follows from it.
pub struct Issuing {
    ca: Arc<CertificateAuthority>,
    store: Arc<dyn Store>,
    /// The store, where it is a directory.
    directory: Option<Arc<DirStore>>,
    /// What judges service-account tokens, where there is a cluster.
    reviewer: Option<kube::Client>,
    tls: watch::Receiver<Arc<Tls>>,
    metrics: Metrics,
    jwt: Option<JwtConfig>,
    issue_rate: u32,
}

/// The issuing service with the peer's identity put where it looks for it.
pub type IssuingServer =
    InterceptedService<IstioCertificateServiceServer<IssuingService>, fn(Request<()>) -> Result<Request<()>, Status>>;

/// The service of JWT-SVIDs, likewise.
pub type JwtIssuingServer =
    InterceptedService<JwtSvidServiceServer<JwtIssuingService>, fn(Request<()>) -> Result<Request<()>, Status>>;

impl Issuing {
    /// Opens the CA of a configuration, or founds one where there is none, and issues our own certificate. `tasks` keep
    /// both in order until `stop`. Where it is shared by the replicas of a cluster, the one that leads founds it.
    ///
    /// # Errors
    /// When it cannot be opened, belongs to another trust domain, or is damaged.
    pub async fn open(
        config: &Config,
        shared: Option<Shared>,
        metrics: &Metrics,
        stop: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Result<Self, ControlError> {
        let place = shared.as_ref().map_or_else(|| config.ca_dir.clone(), Shared::place);
        let failed = |error: &dyn std::fmt::Display| ControlError::ca(&place, &error);
        let alarm = alarm(metrics).map_err(ControlError::Metrics)?;
        let reviewer = shared.as_ref().map(Shared::client);
        let (ca, store, directory) = match shared {
            Some(shared) => {
                let (ca, store) = shared
                    .open(&config.trust_domain, alarm)
                    .await
                    .map_err(|error| failed(&error))?;
                tasks.spawn(until(stop.clone(), shared.maintain(Arc::clone(&ca))));
                tasks.spawn(until(stop.clone(), shared.follow(Arc::clone(&ca))));
                tasks.spawn(until(stop.clone(), shared.publish_roots(&ca)));
                (ca, store, None)
            }
            None => {
                let (dir, domain) = (config.ca_dir.clone(), config.trust_domain.clone());
                let key = config.ca_key.clone();
                let opened =
                    tokio::task::spawn_blocking(move || open_or_found(&dir, key.as_ref(), &domain, alarm)).await;
                let (ca, directory) = opened
                    .map_err(|_| ControlError::Interrupted("opening the CA"))?
                    .map_err(|error| failed(&error))?;
                tasks.spawn(until(stop.clone(), Arc::clone(&ca).maintain()));
                // Replicas that share a store issue without each other's knowledge: only where there is one signer does it
                // know whom a gate has to wait for.
                tasks.spawn(until(stop.clone(), Arc::clone(&ca).turn(config.rotate_root_at)));
                open_socket(&config.ca_dir, &ca, stop, tasks);
                let store: Arc<dyn Store> = Arc::<DirStore>::clone(&directory);
                (ca, store, Some(directory))
            }
        };
        let id = own_id(config)?;
        let svid = ca.issue_own(id.clone(), None, SystemTime::now()).await;
        let svid = svid.map_err(|error| failed(&error))?;
        let bundles = ca.watch_bundle();
        let first = settings(&Arc::new(svid.clone()), &bundles.borrow());
        let (sender, tls) = watch::channel(Arc::new(first));
        if let Some(file) = &config.trust_bundle_file {
            tasks.spawn(until(stop.clone(), publish_bundle(file.clone(), ca.watch_bundle())));
        }
        tasks.spawn(until(stop.clone(), renew(Arc::clone(&ca), id, svid, bundles, sender)));
        Ok(Self {
            ca,
            store,
            directory,
            reviewer,
            tls,
            metrics: metrics.clone(),
            jwt: config.jwt.clone(),
            issue_rate: config.limits.issue_rate,
        })
    }

    /// Shows whether anything still holds the CA's store, and so the lock of its directory.
    pub fn store(&self) -> Weak<dyn Store> {
        Arc::downgrade(&self.store)
    }

    /// What the CA holds, for people: no secret is in it. To be called where blocking is allowed.
    pub fn view(&self) -> impl Fn() -> Result<serde_json::Value, String> + Send + Sync + use<> {
        let ca = Arc::clone(&self.ca);
        move || {
            let status = ca.status().map_err(|error| error.to_string())?;
            serde_json::to_value(&status).map_err(|error| error.to_string())
        }
    }

    /// What the listener shows, renewed by itself.
    pub fn tls(&self) -> watch::Receiver<Arc<Tls>> {
        self.tls.clone()
    }

    /// The roots that proxies must trust.
    pub fn bundle(&self) -> watch::Receiver<Arc<TrustBundle>> {
        self.ca.watch_bundle()
    }

    /// Takes reports of proxies for the evidence that a rotation waits for.
    pub fn witness(&self) -> Box<dyn Witness> {
        Box::new(Evidenced(Arc::clone(&self.ca)))
    }

    /// When what the CA signs with ends, and our own certificate.
    pub fn expiries(&self) -> Expiries {
        let (ca, tls) = (Arc::clone(&self.ca), self.tls());
        Arc::new(move || {
            let bundle = ca.bundle();
            let roots = bundle.roots().iter();
            let mut all: Vec<_> = roots
                .map(|root| Expiry::new("root", root.digest().to_string(), root.not_after()))
                .collect();
            all.push(Expiry::new("intermediate", String::new(), ca.intermediate_ends()));
            all.extend(ca.jwt_key_ends().map(|(kid, end)| Expiry::new("jwt_key", kid, end)));
            let svid = Arc::clone(&tls.borrow().svid);
            all.push(Expiry::new("control_svid", svid.serial().to_string(), svid.not_after()));
            all
        })
    }

    /// What is revoked.
    pub fn revocations(&self) -> watch::Receiver<Arc<Revocations>> {
        self.ca.watch_revocations()
    }

    /// Tells other processes on this machine where the service is.
    pub fn advertise(&self, address: std::net::SocketAddr) {
        if let Some(Err(error)) = self.directory.as_ref().map(|directory| directory.advertise(address)) {
            tracing::warn!(%error, "commands on this machine will not find this CA by themselves");
        }
    }

    /// The issuing service, which refuses whoever is `revoked`.
    ///
    /// # Errors
    /// When the keys of the token issuer cannot be read.
    pub fn service(&self, revoked: watch::Receiver<Arc<Revocations>>) -> Result<IssuingServer, ControlError> {
        let domain = self.ca.trust_domain().clone();
        let mut attestors: Vec<Box<dyn Attestor>> = vec![
            Box::new(JoinTokens::new(Arc::clone(&self.store), domain.clone())),
            Box::new(Renewal::new(domain.clone())),
        ];
        // The cluster's own word on its tokens, and no other beside it.
        if let Some(client) = &self.reviewer {
            attestors.push(Box::new(ServiceAccounts::new(client.clone(), domain.clone())));
        } else if let Some(jwt) = &self.jwt {
            let config = OidcConfig {
                issuer: jwt.issuer.clone(),
                audience: jwt.audience.clone(),
                jwks: jwt.jwks.clone(),
            };
            let oidc = Oidc::new(config, domain).map_err(|error| ControlError::Tokens(error.to_string()))?;
            attestors.push(Box::new(oidc));
        }
        let observer = Counting::new(&self.metrics, "squire_ca", "certificates").map_err(ControlError::Metrics)?;
        let service = IssuingService::new(Arc::clone(&self.ca), attestors, revoked, Arc::new(observer));
        let service = service.limited(self.issue_rate);
        Ok(InterceptedService::new(service.into_server(), name_peer))
    }

    /// The service of JWT-SVIDs.
    ///
    /// # Errors
    /// When its metrics are there already.
    pub fn jwt_service(&self, revoked: watch::Receiver<Arc<Revocations>>) -> Result<JwtIssuingServer, ControlError> {
        let observer = Counting::new(&self.metrics, "squire_ca_jwt", "JWT-SVIDs").map_err(ControlError::Metrics)?;
        let domain = self.ca.trust_domain().clone();
        let service = JwtIssuingService::new(Arc::clone(&self.ca), domain, revoked, Arc::new(observer));
        Ok(InterceptedService::new(service.into_server(), name_peer))
    }
}

/// Counts failures of the CA's store.
fn alarm(metrics: &Metrics) -> Result<Alarm, prometheus::Error> {
    let failures = Opts::new("store_failures_total", "Operations of the CA's store that failed").namespace("squire_ca");
    let failures = IntCounterVec::new(failures, &["operation"])?;
    metrics.register(failures.clone())?;
    for operation in OPERATIONS {
        failures.with_label_values(&[operation]);
    }
    Ok(Arc::new(move |operation| {
        failures.with_label_values(&[operation]).inc()
    }))
}

/// Our own identity, which proxies expect when they dial.
fn own_id(config: &Config) -> Result<SpiffeId, ControlError> {
    SpiffeId::workload(&config.trust_domain, ports::SYSTEM_NAMESPACE, ports::CONTROL_ACCOUNT)
        .map_err(|error| ControlError::ca(&config.ca_dir, &error))
}

fn open_socket(dir: &Path, ca: &Arc<CertificateAuthority>, stop: &CancellationToken, tasks: &TaskTracker) {
    match admin::listen(dir) {
        Ok(socket) => drop(tasks.spawn(until(stop.clone(), admin::serve(socket, Arc::clone(ca))))),
        Err(error) => {
            tracing::error!(%error, "the CA's admin socket cannot be opened: `squire ca revoke` and `rotate` will not work beside this process")
        }
    }
}

type Opened = (Arc<CertificateAuthority>, Arc<DirStore>);

fn open_or_found(
    dir: &Path,
    key: Option<&CaKey>,
    domain: &squire_mesh::spiffe::TrustDomain,
    alarm: Alarm,
) -> Result<Opened, squire_ca::authority::CaError> {
    let now = SystemTime::now();
    let seal = match key {
        None => None,
        Some(CaKey::PassphraseFile(file)) => Some(Arc::new(Seal::passphrase_file(file)?)),
        Some(CaKey::Command(command)) => Some(Arc::new(Seal::command(command))),
    };
    let store = if dir.exists() {
        DirStore::open(dir)?
    } else {
        DirStore::create(dir)?
    };
    let store = Arc::new(store.sealed_by(seal));
    if store.seal_if_plain()? {
        tracing::info!("the CA's state was kept in plain text and is encrypted from now on");
    }
    let shared: Arc<dyn Store> = Arc::new(Watched::new(Arc::<DirStore>::clone(&store), alarm));
    if shared.load()?.is_none() {
        CertificateAuthority::init(&shared, domain, now)?;
        tracing::info!(dir = %dir.display(), %domain, "there was no CA here: a new one has been founded");
    }
    Ok((CertificateAuthority::open(shared, Some(domain), now)?, store))
}

fn settings(svid: &Arc<Svid>, bundle: &TrustBundle) -> Tls {
    let bundles = Arc::new(TrustBundles::new([bundle.clone()]));
    let config = server_config(Arc::clone(svid), Arc::clone(&bundles), ClientAuth::Optional, &[b"h2"]);
    let open = open_server_config(svid, &[b"http/1.1"]);
    Tls {
        config,
        open,
        svid: Arc::clone(svid),
        bundles,
    }
}

/// Hands reports on to the CA.
struct Evidenced(Arc<CertificateAuthority>);

impl Witness for Evidenced {
    fn saw(&self, id: &SpiffeId, workload: &str, report: &ReportView, now: SystemTime) {
        let ends = u64::try_from(report.svid_not_after).unwrap_or(0);
        let evidence = Evidence {
            bundle_digest: report.own_bundle_digest.clone(),
            bundle_sequence: report.own_bundle_sequence,
            svid_root: report.svid_root.clone(),
            svid_serial: report.svid_serial.clone(),
            svid_not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(ends),
            stands_on_old_root: report.stands_on_old_root,
        };
        self.0.roster().report(id.clone(), workload, evidence, now);
    }
}

/// What we show and trust ourselves, for the evidence that a rotation waits for.
fn report_own(ca: &CertificateAuthority, svid: &Svid, bundle: &TrustBundle) {
    let now = SystemTime::now();
    let bundles = TrustBundles::new([bundle.clone()]);
    match identify(svid.chain(), &bundles, now, Role::Server) {
        Ok(own) => {
            let evidence = Evidence {
                bundle_digest: bundle.digest(),
                bundle_sequence: bundle.sequence(),
                svid_root: own.root().to_string(),
                svid_serial: svid.serial().to_string(),
                svid_not_after: svid.not_after(),
                stands_on_old_root: false,
            };
            ca.roster().report(svid.id().clone(), OWN, evidence, now);
        }
        Err(error) => tracing::error!(%error, "our own certificate is not good under our own roots"),
    }
}

/// Whether another root signs now than the one our certificate stands on.
fn is_outdated(svid: &Svid, bundle: &TrustBundle) -> bool {
    let bundles = TrustBundles::new([bundle.clone()]);
    let own = identify(svid.chain(), &bundles, SystemTime::now(), Role::Server);
    match (own, bundle.signing()) {
        (Ok(own), Some(signing)) => own.root() != signing.root,
        (Ok(_), None) => false,
        (Err(_), _) => true,
    }
}

/// Keeps a file with the roots current, for whoever has to trust them before it can ask: replaced as a whole.
async fn publish_bundle(file: PathBuf, mut bundles: watch::Receiver<Arc<TrustBundle>>) {
    loop {
        let pem = bundles.borrow_and_update().to_pem();
        let aside = file.with_extension("new");
        let written = async {
            tokio::fs::write(&aside, pem).await?;
            tokio::fs::File::open(&aside).await?.sync_all().await?;
            tokio::fs::rename(&aside, &file).await
        };
        if let Err(error) = written.await {
            tracing::error!(%error, file = %file.display(), "the roots cannot be written; trying again");
            tokio::time::sleep(RETRY).await;
            continue;
        }
        if bundles.changed().await.is_err() {
            return;
        }
    }
}

/// Renews our own certificate at half of its life and when another root signs, and shows it with the current bundle.
async fn renew(
    ca: Arc<CertificateAuthority>,
    id: SpiffeId,
    svid: Svid,
    mut bundles: watch::Receiver<Arc<TrustBundle>>,
    tls: watch::Sender<Arc<Tls>>,
) {
    let mut svid = Arc::new(svid);
    let mut wait = half_life(&svid);
    loop {
        report_own(&ca, &svid, &bundles.borrow());
        tokio::select! {
            () = tokio::time::sleep(wait) => match ca.issue_own(id.clone(), None, SystemTime::now()).await {
                Ok(new) => {
                    tracing::info!(serial = %new.serial(), "our own certificate has been renewed");
                    svid = Arc::new(new);
                    wait = half_life(&svid);
                }
                Err(error) => {
                    tracing::error!(%error, "our own certificate could not be renewed; trying again");
                    wait = RETRY;
                    continue;
                }
            },
            changed = bundles.changed() => {
                if changed.is_err() {
                    return;
                }
                wait = if is_outdated(&svid, &bundles.borrow()) { Duration::ZERO } else { half_life(&svid) };
            }
        }
        let next = settings(&svid, &bundles.borrow_and_update());
        tls.send_replace(Arc::new(next));
    }
}

/// Half of what is left of a certificate's life; a minute at most when clocks are odd.
fn half_life(svid: &Svid) -> Duration {
    let left = svid.not_after().duration_since(SystemTime::now()).unwrap_or_default();
    (left / 2).max(RETRY)
}

async fn until(stop: CancellationToken, task: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = task => {}
    }
}

/// Puts the peer where the CA's service looks for it.
fn name_peer(mut request: Request<()>) -> Result<Request<()>, Status> {
    let verified = request
        .extensions()
        .get::<Peer>()
        .and_then(|peer| peer.verified.clone());
    request
        .extensions_mut()
        .insert(PeerIdentity(verified.map(|peer| (*peer).clone())));
    Ok(request)
}

/// Counts what an issuing service does.
struct Counting {
    issued: IntCounterVec,
    refused: IntCounterVec,
    seconds: Histogram,
}

impl Counting {
    fn new(metrics: &Metrics, namespace: &str, what: &str) -> Result<Self, prometheus::Error> {
        let opts = |name: &str, help: String| Opts::new(name, help).namespace(namespace);
        let issued = opts("issued_total", format!("Issued {what}, by what proved the identity"));
        let refused = opts("refused_total", format!("Refused {what}, by reason"));
        let seconds = HistogramOpts::new("issue_seconds", "Time to attest, sign and log").namespace(namespace);
        let counting = Self {
            issued: IntCounterVec::new(issued, &["attestor"])?,
            refused: IntCounterVec::new(refused, &["reason"])?,
            seconds: Histogram::with_opts(seconds.buckets(prometheus::exponential_buckets(0.0005, 2.0, 14)?))?,
        };
        // A figure that is not there yet cannot be told from one that is not measured.
        counting.issued.with_label_values(&["svid"]);
        counting.refused.with_label_values(&["revoked"]);
        metrics.register(counting.issued.clone())?;
        metrics.register(counting.refused.clone())?;
        metrics.register(counting.seconds.clone())?;
        Ok(counting)
    }
}

impl Observer for Counting {
    fn issued(&self, attestor: &'static str, took: Duration) {
        count(&self.issued, attestor).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    fn refused(&self, reason: &'static str) {
        count(&self.refused, reason).inc();
    }
}
