//! Puts the injector together, starts it and stops it in order: unready first, then no new connections, then the end.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use kube::Client;
use rustls::RootCertStore;
use squire_mesh::spiffe::TrustDomain;
use tokio::{
    net::TcpListener,
    signal::unix::{self, SignalKind},
    sync::{Notify, watch},
    time::{interval, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    admin,
    certificate::{self, Issuer},
    gaps,
    inject::Cluster,
    metrics::Metrics,
    settings::{Settings, SettingsError},
    trust::{self, Roots},
    webhook::{self, Webhook},
};

/// How often the API server's version is asked for: clusters are upgraded under us.
const VERSION_EVERY: Duration = Duration::from_secs(300);

/// How an injector runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the API server reaches the webhook.
    pub listen: SocketAddr,
    /// Where people and Prometheus connect.
    pub admin: SocketAddr,
    /// Where certificates come from.
    pub issuer: Issuer,
    /// What sidecars are like.
    pub settings: Settings,
    /// PEM file: only clients with a certificate under these roots may ask; none: whoever reaches the port.
    pub clients: Option<PathBuf>,
    /// How long requests are still taken after the signal to stop, until no API server sends any more.
    pub linger: Duration,
}

/// Why the injector cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The settings are wrong.
    #[error("the settings: {0}")]
    Settings(#[from] SettingsError),
    /// No way to the API server.
    #[error("the Kubernetes API server: {0}; run this in a pod, or with a kubeconfig")]
    Kubernetes(Box<kube::Error>),
    /// An address is taken.
    #[error("{what} {address}: {source}; choose another address, or stop what listens there")]
    Listen {
        /// Which endpoint.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// TLS cannot be set up.
    #[error("--client-ca: {0}")]
    Clients(io::Error),
    /// A figure was declared twice.
    #[error("metrics: {0}; this is a bug, please report it")]
    Metrics(#[from] prometheus::Error),
    /// Signals cannot be listened to.
    #[error("signals: {0}")]
    Signals(io::Error),
}

impl RunError {
    /// Whether another configuration would help.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::Settings(_) | Self::Clients(_))
    }
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start.
pub async fn run(config: Config) -> Result<(), RunError> {
    config.settings.check()?;
    let domain: TrustDomain = config
        .settings
        .trust_domain
        .parse()
        .map_err(|error| SettingsError(vec![format!("trustDomain: {error}")]))?;
    let signal = signal().map_err(RunError::Signals)?;
    let renew = unix::signal(SignalKind::user_defined1()).map_err(RunError::Signals)?;
    let metrics = Metrics::new()?;
    let clients = config
        .clients
        .as_deref()
        .map(client_roots)
        .transpose()
        .map_err(RunError::Clients)?;
    let listener = listen("the webhook (--listen)", config.listen).await?;
    let admin_listener = listen("the admin endpoint (--admin)", config.admin).await?;
    let client = Client::try_default()
        .await
        .map_err(|error| RunError::Kubernetes(Box::new(error)))?;
    let minor = minor(&client)
        .await
        .map_err(|error| RunError::Kubernetes(Box::new(error)))?;

    let stop = CancellationToken::new();
    let (cluster_sender, cluster) = watch::channel(Cluster { minor });
    let (roots_sender, roots) = watch::channel(Roots::default());
    let (bundle_sender, bundles) = watch::channel(None);
    let (meshed_sender, meshed) = watch::channel(trust::Meshed::new());
    let (certificate_sender, certificate) = watch::channel(None);
    let (gaps_sender, gaps) = watch::channel(gaps::Gaps::new());

    tokio::spawn(trust::follow_roots(client.clone(), domain, roots_sender));
    tokio::spawn(bundles_of(roots.clone(), bundle_sender));
    tokio::spawn(trust::follow_namespaces(client.clone(), meshed_sender));
    tokio::spawn(trust::keep_ca_bundle(client.clone(), roots.clone(), metrics.clone()));
    tokio::spawn(trust::distribute(
        client.clone(),
        roots,
        meshed.clone(),
        metrics.clone(),
    ));
    tokio::spawn(gaps::follow(client.clone(), meshed, gaps_sender, metrics.clone()));
    let renewal = Arc::new(Notify::new());
    tokio::spawn(renew_at(renew, Arc::clone(&renewal)));
    tokio::spawn(certificate::keep(
        config.issuer,
        bundles,
        renewal,
        certificate_sender,
        metrics.clone(),
    ));
    tokio::spawn(follow_version(client, cluster_sender));
    let pages = admin::Pages {
        metrics: metrics.clone(),
        certificate: certificate.clone(),
        gaps,
        stop: stop.clone(),
    };
    tokio::spawn(admin::serve(admin_listener, Arc::new(pages)));

    let tls = webhook::tls_config(certificate, clients).map_err(RunError::Clients)?;
    let webhook = Webhook {
        settings: config.settings,
        cluster,
        metrics,
    };
    let closing = CancellationToken::new();
    let served = tokio::spawn(webhook::serve(listener, tls, Arc::new(webhook), closing.clone()));
    tracing::info!(webhook = %config.listen, admin = %config.admin, kubernetes = format!("1.{minor}"), "the injector has started");
    let signal = signal.await;
    tracing::info!(signal, linger = ?config.linger, "stopping");
    stop.cancel();
    sleep(config.linger).await;
    closing.cancel();
    if served.await.is_err() {
        tracing::error!("the webhook ended badly");
    }
    Ok(())
}

/// The bundle alone, for who asks for certificates.
async fn bundles_of(
    mut roots: watch::Receiver<Roots>,
    bundles: watch::Sender<Option<Arc<squire_mesh::bundle::TrustBundle>>>,
) {
    loop {
        let bundle = roots.borrow_and_update().bundle.clone();
        bundles.send_replace(bundle);
        if roots.changed().await.is_err() {
            return;
        }
    }
}

async fn follow_version(client: Client, cluster: watch::Sender<Cluster>) {
    let mut ticks = interval(VERSION_EVERY);
    loop {
        ticks.tick().await;
        match minor(&client).await {
            Ok(minor) => drop(cluster.send_replace(Cluster { minor })),
            Err(error) => tracing::warn!(%error, "the API server does not say its version; the last one known stays"),
        }
    }
}

/// `34+` of a managed cluster is 34; one that cannot be read is as old as can be.
async fn minor(client: &Client) -> kube::Result<u32> {
    let version = client.apiserver_version().await?;
    let digits: String = version.minor.chars().take_while(char::is_ascii_digit).collect();
    Ok(digits.parse().unwrap_or(0))
}

fn client_roots(path: &std::path::Path) -> io::Result<RootCertStore> {
    let named = |error: &dyn std::fmt::Display| io::Error::other(format!("{}: {error}", path.display()));
    let pem = std::fs::read(path).map_err(|error| named(&error))?;
    webhook::client_roots(&pem).map_err(|error| named(&error))
}

async fn listen(what: &'static str, address: SocketAddr) -> Result<TcpListener, RunError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| RunError::Listen { what, address, source })
}

/// SIGUSR1 asks for another certificate at once.
async fn renew_at(mut signal: unix::Signal, renewal: Arc<Notify>) {
    while signal.recv().await.is_some() {
        tracing::info!("SIGUSR1: renewing the certificate now");
        renewal.notify_one();
    }
}

fn signal() -> io::Result<impl Future<Output = &'static str>> {
    let mut terminate = unix::signal(SignalKind::terminate())?;
    let mut interrupt = unix::signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}
