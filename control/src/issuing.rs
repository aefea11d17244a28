//! The control plane's side of the CA: opens (or founds) it, hosts its issuing service, and keeps our own certificate
//! fresh. It knows nothing of policies, workloads or who is sent what: code that signs and code that decides never
//! import each other.

mod counting;
mod own;
mod roots;
mod shared;

use std::{
    path::Path,
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use squire_ca::{
    admin,
    attest::{Attestor, JoinTokens, Oidc, OidcConfig, Renewal, ServiceAccounts},
    authority::CertificateAuthority,
    jwt::JwtIssuingService,
    roster::Evidence,
    seal::Seal,
    service::{IssuingService, PeerIdentity},
    store::{Alarm, DirStore, Store, Watched},
};
use squire_mesh::{
    bundle::TrustBundle,
    spiffe::SpiffeId,
    svid::Revocations,
    wire::{
        ca::istio_certificate_service_server::IstioCertificateServiceServer,
        squire::jwt_svid_service_server::JwtSvidServiceServer,
    },
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Status, service::interceptor::InterceptedService};

use self::{
    counting::{Counting, alarm},
    own::{own_id, renew, settings},
    roots::publish_bundle,
};
use crate::{
    config::{CaKey, Config, JwtConfig},
    error::ControlError,
    expiry::{Expiries, Expiry},
    listener::Tls,
    metrics::Metrics,
    peer::Peer,
    reports::{ReportView, Witness},
};

/// After a failure to renew our own certificate, or to write the roots.
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
        let (ca, store, directory) = match &shared {
            Some(shared) => {
                let (ca, store) = shared
                    .open(&config.trust_domain, alarm)
                    .await
                    .map_err(|error| failed(&error))?;
                tasks.spawn(until(stop.clone(), shared.maintain(Arc::clone(&ca))));
                tasks.spawn(until(stop.clone(), shared.follow(Arc::clone(&ca))));
                tasks.spawn(until(stop.clone(), shared.turn(Arc::clone(&ca), config.rotate_root_at)));
                tasks.spawn(until(stop.clone(), shared.confer(Arc::clone(&ca))));
                tasks.spawn(until(stop.clone(), shared.obey(Arc::clone(&ca))));
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
                tasks.spawn(until(stop.clone(), Arc::clone(&ca).turn(config.rotate_root_at)));
                open_socket(&config.ca_dir, &ca, stop, tasks);
                let store: Arc<dyn Store> = Arc::<DirStore>::clone(&directory);
                (ca, store, Some(directory))
            }
        };
        let endpoints = &config.bundle_endpoints;
        if endpoints.spiffe.is_some() || endpoints.web.is_some() {
            ca.publish_for(fetched_within(endpoints.refresh_hint));
        }
        let id = own_id(config)?;
        let svid = ca.issue_own(id.clone(), None, SystemTime::now()).await;
        let svid = svid.map_err(|error| failed(&error))?;
        if let Some(shared) = &shared {
            // From now on the leader knows of this replica; what it did before that is read before anybody is issued anything.
            shared.read_again(&ca).await;
        }
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
            let mut status = serde_json::to_value(&status).map_err(|error| error.to_string())?;
            if ca.is_rotating() {
                let progress = ca.progress(SystemTime::now());
                status["rotation"] = serde_json::to_value(&progress).map_err(|error| error.to_string())?;
            }
            Ok(status)
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

/// How long after a change other meshes have certainly fetched our bundle: they look once in each `hint`, and one look may
/// take a while.
fn fetched_within(hint: Duration) -> Duration {
    hint + hint / 4 + Duration::from_secs(5)
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
