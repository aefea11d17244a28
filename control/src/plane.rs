//! Puts the rooms of the control plane together, starts them, and stops them in order: unready first, then streams, then
//! the endpoints.

mod follow;
mod publish;

use std::{
    net::SocketAddr,
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use squire_ca::store::Store;
use tokio::{net::TcpListener, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    follow::{Member, Parts},
    publish::{all_revoked, publish_bundles, publish_revocations},
};
use crate::{
    admin,
    config::Config,
    error::ControlError,
    federation::{Endpoints, Federation, FederationFigures},
    forecast::Forecaster,
    issuing::{Issuing, Shared},
    listener::Door,
    memory,
    metrics::Metrics,
    pages::ControlPages,
    push::{Ads, Catalog, Fleet},
    reports::Reports,
};

/// A proxy whose connection is silent for this long is asked whether it is still there.
const PING_EVERY: Duration = Duration::from_secs(20);
/// A proxy that does not answer within this time is not.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How often to look whether the CA's directory is let go of at the end, and for how long.
const RELEASE: Duration = Duration::from_millis(2);
const RELEASE_LIMIT: Duration = Duration::from_secs(2);
/// How often reports of proxies that are gone are cleared away.
const SWEEP: Duration = Duration::from_secs(60);

/// Runs a control plane until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start, or an endpoint fails.
pub async fn run(config: Config) -> Result<(), ControlError> {
    let signal = stop_signal()?;
    tokio::pin!(signal);
    // A cluster that does not answer is waited for, but not against a signal.
    let running = tokio::select! {
        running = Running::start(config) => running?,
        signal = &mut signal => {
            tracing::info!(signal, "stopping before the control plane has started");
            return Ok(());
        }
    };
    tokio::select! {
        signal = signal => tracing::info!(signal, "stopping"),
        () = running.stop.cancelled() => tracing::error!("stopping, because a part of the control plane has failed"),
    }
    running.stop().await
}

/// A control plane that runs.
pub struct Running {
    grpc: SocketAddr,
    admin: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
    server: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
    grace: Duration,
    ca_store: Weak<dyn Store>,
}

impl Running {
    /// Starts everything; returns once both endpoints listen.
    ///
    /// # Errors
    /// When the configuration is wrong, the CA cannot be opened, or an address is taken.
    pub async fn start(config: Config) -> Result<Self, ControlError> {
        config.check()?;
        let grpc = listen("the gRPC endpoint (--grpc)", config.grpc).await?;
        let admin = listen("the admin endpoint (--admin)", config.admin).await?;
        let metrics = Metrics::new().map_err(ControlError::Metrics)?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (catalog, fleet) = (Arc::new(Catalog::default()), Arc::new(Fleet::default()));
        let parts = Parts {
            config: &config,
            catalog: &catalog,
            metrics: &metrics,
            stop: &stop,
            tasks: &tasks,
        };
        let cluster = parts.enter_cluster().await?;
        let shared = cluster.as_ref().filter(|_| config.ca_dir.as_os_str().is_empty());
        let shared = shared.map(shared_ca);
        let issuing = Issuing::open(&config, shared, &metrics, &stop, &tasks).await?;
        let ca_store = issuing.store();
        let (followed, gone) = parts.follow_objects(cluster.as_ref());
        let revoked = all_revoked(issuing.revocations(), gone, &stop, &tasks);
        let (issuer, jwt_issuer) = (issuing.service(revoked.clone())?, issuing.jwt_service(revoked.clone())?);
        let reports = Reports::new(Arc::clone(&catalog), metrics.clone());
        reports.heard_by(issuing.witness());
        let ads = Ads::new(
            Arc::clone(&catalog),
            Arc::clone(&fleet),
            metrics.clone(),
            revoked.clone(),
            stop.clone(),
        );
        let figures = FederationFigures::register(&metrics).map_err(ControlError::Metrics)?;
        let (federation, federated, federation_views) = Federation::new(
            config.trust_domain.clone(),
            followed.federated,
            config.federation_dir.clone(),
            figures,
        );
        serve_bundle(&config, &issuing, &stop, &tasks).await?;
        let pages = ControlPages {
            metrics: metrics.clone(),
            status: followed.status,
            catalog: Arc::clone(&catalog),
            fleet,
            reports: Arc::clone(&reports),
            bundle: issuing.bundle(),
            ca: Box::new(issuing.view()),
            federation: federation_views,
            forecaster: Forecaster::new(Arc::clone(&reports), issuing.expiries(), &metrics)
                .map_err(ControlError::Metrics)?,
        };

        let door = Door {
            tls: issuing.tls(),
            revocations: revoked.clone(),
            limits: config.limits,
            metrics: metrics.clone(),
            stop: stop.clone(),
        };
        let (grpc_address, admin_address) = (local(&grpc, config.grpc), local(&admin, config.admin));
        issuing.advertise(grpc_address);
        let running = Self {
            grpc: grpc_address,
            admin: admin_address,
            server: tokio::spawn(
                tonic::transport::Server::builder()
                    .http2_keepalive_interval(Some(PING_EVERY))
                    .http2_keepalive_timeout(Some(PING_TIMEOUT))
                    .max_concurrent_streams(16)
                    .http2_max_header_list_size(16 * 1024)
                    .add_service(issuer)
                    .add_service(jwt_issuer)
                    .add_service(ads)
                    .add_service(reports.service())
                    .serve_with_incoming_shutdown(door.open(grpc), stop.clone().cancelled_owned()),
            ),
            grace: config.limits.grace,
            ca_store,
            stop: stop.clone(),
            tasks: tasks.clone(),
        };
        tasks.spawn(publish_revocations(
            revoked,
            Arc::clone(&catalog),
            metrics.clone(),
            stop.clone(),
        ));
        tasks.spawn(memory::keep_tidy(stop.clone()));
        tasks.spawn(federation.run(stop.clone()));
        tasks.spawn(publish_bundles(
            issuing.bundle(),
            federated,
            catalog,
            metrics,
            stop.clone(),
        ));
        tasks.spawn(sweep(reports, stop.clone()));
        tasks.spawn(admin::serve(admin, Arc::new(pages), stop));
        tracing::info!(grpc = %grpc_address, admin = %admin_address, objects = %config.objects, "the control plane has started");
        Ok(running)
    }

    /// Where proxies connect.
    pub fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    /// Where people and Prometheus connect.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Stops: streams are told to come back later, then everything ends, by force after the grace period.
    ///
    /// # Errors
    /// When the gRPC endpoint had failed.
    pub async fn stop(self) -> Result<(), ControlError> {
        self.stop.cancel();
        self.tasks.close();
        let abort = self.server.abort_handle();
        let ended = timeout(self.grace, async { tokio::join!(self.server, self.tasks.wait()).0 }).await;
        // Connections and the log's writer let go of the CA a moment later; only then may another process run it.
        let released = async {
            while self.ca_store.strong_count() > 0 {
                tokio::time::sleep(RELEASE).await;
            }
        };
        if timeout(RELEASE_LIMIT, released).await.is_err() {
            tracing::warn!("the CA's store is still held; it is free once this process has ended");
        }
        match ended {
            Ok(Ok(served)) => served.map_err(ControlError::Serve),
            Ok(Err(_)) => Err(ControlError::Interrupted("serving gRPC")),
            Err(_) => {
                tracing::warn!(grace = ?self.grace, "some connections did not end in time: closed");
                abort.abort();
                Ok(())
            }
        }
    }
}

/// Opens the bundle endpoints that are configured.
async fn serve_bundle(
    config: &Config,
    issuing: &Issuing,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> Result<(), ControlError> {
    let wanted = &config.bundle_endpoints;
    let endpoints = Endpoints::new(issuing.bundle(), wanted.refresh_hint, stop.clone());
    if let Some(address) = wanted.spiffe {
        let listener = listen("the bundle endpoint (--bundle-endpoint)", address).await?;
        tracing::info!(address = %local(&listener, address), "our bundle is served (https_spiffe)");
        tasks.spawn(endpoints.clone().serve_spiffe(listener, issuing.tls()));
    }
    if let Some((address, files)) = &wanted.web {
        let listener = listen("the bundle endpoint (--bundle-endpoint-web)", *address).await?;
        tracing::info!(address = %local(&listener, *address), "our bundle is served (https_web)");
        let serving = endpoints.serve_web(listener, files.clone());
        tasks.spawn(serving.map_err(ControlError::BundleEndpoint)?);
    }
    Ok(())
}

async fn sweep(reports: Arc<Reports>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => reports.forget_gone(SystemTime::now()),
        }
    }
}

async fn listen(what: &'static str, address: SocketAddr) -> Result<TcpListener, ControlError> {
    TcpListener::bind(address)
        .await
        .map_err(|why| ControlError::Listen { what, address, why })
}

fn local(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}

/// The CA that the replicas of this member's cluster share.
fn shared_ca(member: &Member) -> Shared {
    let leads = member.leads.clone();
    Shared::new(member.client.clone(), &member.namespace, &member.replica, leads)
}

/// From here on, signals no longer end the process; the future ends at the first one.
fn stop_signal() -> Result<impl Future<Output = &'static str>, ControlError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(ControlError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ControlError::Signals)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}
