//! Puts the sidecar together and keeps it running: identity, state, reports and admin around the data path. It only
//! composes; every part has its own room.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Instant};

use prometheus::Registry;
use tokio::{
    sync::{Notify, watch},
    task::{JoinError, JoinSet},
};

use crate::{
    admin::{Admin, Pages},
    config::{Config, SubscriptionMode},
    connection,
    data_path::{self, Inputs},
    demand::{Demand, Questions},
    identity::{self, Renewal, svids},
    memory,
    metrics::Metrics,
    open_files,
    probes::Prober,
    readiness::Readiness,
    report::{Reporter, Standing},
    roots::{Roots, RootsError},
    shutdown::{Shutdown, Signals},
    state::{State, Store},
    vitals::Vitals,
    workload_api, xds,
};

/// Why the sidecar could not start, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Nobody to trust.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// The admin endpoint cannot listen.
    #[error("admin endpoint {address}: {source}; choose another address with `admin`, or stop what listens there")]
    Admin {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The Workload API's socket cannot be opened.
    #[error("the Workload API's socket {}: {source}; see workloadApi.socket: its directory must be there, writable, and the path free", path.display())]
    WorkloadApi {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// The data path cannot start.
    #[error("the data path cannot start: {0}; check the listeners in the configuration, and what else listens there")]
    DataPath(io::Error),
    /// Signals cannot be listened to.
    #[error("signals cannot be listened to: {0}")]
    Signals(io::Error),
    /// A figure was declared twice.
    #[error("metrics: {0}; this is a bug, please report it")]
    Metrics(#[from] prometheus::Error),
    /// A part that runs for ever has ended.
    #[error("a part of the sidecar has failed: {0}; this is a bug, please report it")]
    Failed(JoinError),
}

impl RunError {
    /// The process's exit code: 78 for the configuration, 69 for what is not available, 70 for our own faults.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Roots(_) => 78,
            Self::Admin { .. } | Self::WorkloadApi { .. } | Self::DataPath(_) | Self::Signals(_) => 69,
            Self::Metrics(_) | Self::Failed(_) => 70,
        }
    }
}

/// Runs the sidecar until it is told to stop and has drained.
///
/// # Errors
/// When it cannot start, or a part of it fails; everything else is dealt with inside.
pub async fn run(config: Config) -> Result<(), RunError> {
    let started = Instant::now();
    let config = Arc::new(config);
    let signals = Signals::listen().map_err(RunError::Signals)?;
    open_files::raise(config.limits.max_connections);
    let shutdown = Shutdown::default();
    let registry = Registry::new();
    let metrics = Arc::new(Metrics::new(registry.clone())?);
    let vitals = Arc::new(Vitals::register(&registry)?);
    let roots = Roots::open(&config)?;
    let listen = Admin::listen(config.admin).await;
    let admin = listen.map_err(|source| RunError::Admin {
        address: config.admin,
        source,
    })?;
    let renew_now = Arc::new(Notify::new());

    let mut tasks = JoinSet::new();
    tasks.spawn(signals.drive(shutdown.clone(), Arc::clone(&renew_now)));
    let (standing, stands) = watch::channel(Standing::default());
    let told = Told {
        admin: admin.address(),
        stands,
    };
    let for_application = roots.clone();
    let handed = workload_api::Handed::default();
    let connections = Arc::new(connection::Registry::default());
    let (uid, domain) = (config.workload.clone(), config.trust_domain.clone());
    let (mut store, state) = Store::new(uid, domain, Arc::clone(roots.at_start()));
    let (demand, questions) = match config.subscription.mode {
        SubscriptionMode::All => (None, None),
        SubscriptionMode::OnDemand => {
            store.on_demand();
            let of = Arc::clone(&connections);
            let (demand, questions) = Demand::new(config.subscription, state.clone(), of, &registry)?;
            (Some(demand), Some(questions))
        }
    };
    let identity = follow_control(&mut tasks, &config, roots, &vitals, told, renew_now, (store, questions));
    if let Some(api) = &config.workload_api {
        let endpoint = workload_api::Endpoint::open(api).map_err(|source| RunError::WorkloadApi {
            path: api.socket.clone(),
            source,
        })?;
        tracing::info!(socket = %api.socket.display(), "the Workload API listens");
        let parts = workload_api::Parts {
            config: Arc::clone(&config),
            roots: for_application,
            identity: identity.clone(),
            state: state.clone(),
            figures: Arc::new(workload_api::WorkloadApiFigures::register(&registry)?),
            handed: handed.clone(),
        };
        tasks.spawn(workload_api::serve(endpoint, parts));
    }
    let readiness = Arc::new(Readiness::new(
        &config,
        identity.clone(),
        state.clone(),
        shutdown.drain.clone(),
    ));
    let pages = Pages {
        registry,
        vitals,
        readiness: Arc::clone(&readiness),
        connections: {
            let connections = Arc::clone(&connections);
            Box::new(move || serde_json::to_value(connections.snapshot()).unwrap_or_default())
        },
        config: Arc::clone(&config),
        identity: identity.clone(),
        state: state.clone(),
        prober: Prober::new(config.probes.clone()),
    };
    tracing::info!(address = %admin.address(), "the admin endpoint listens");
    tasks.spawn(admin.serve(Arc::new(pages)));

    let inputs = Inputs {
        identity: svids(identity.clone()),
        state: state.clone(),
        demand,
        metrics,
        registry: connections,
        standing,
        handed,
    };
    let data_path = data_path::start(&config, inputs).map_err(RunError::DataPath)?;
    for address in data_path.addresses() {
        tracing::info!(%address, "listening");
    }
    readiness.listening();
    tasks.spawn(log_when_ready(readiness, identity, state, started));

    tokio::select! {
        () = shutdown.drain.cancelled() => {}
        error = failed(&mut tasks) => return Err(RunError::Failed(error)),
    }
    let cut = data_path.drain(shutdown.force.clone()).await;
    tracing::info!(cut, "drained");
    Ok(())
}

/// What only the rest of the sidecar knows and the control plane is told.
struct Told {
    admin: SocketAddr,
    stands: watch::Receiver<Standing>,
}

/// Starts what keeps us somebody and tells us everything.
fn follow_control(
    tasks: &mut JoinSet<()>,
    config: &Arc<Config>,
    roots: Roots,
    vitals: &Arc<Vitals>,
    told: Told,
    renew_now: Arc<Notify>,
    (store, questions): (Store, Option<Questions>),
) -> identity::Receiver {
    let state = store.follow();
    let (renewal, identity) = Renewal::new(
        Arc::clone(config),
        roots.clone(),
        state.clone(),
        Arc::clone(vitals),
        renew_now,
    );
    let (client, channel) = xds::Client::new(Arc::clone(config), roots, identity.clone(), store, Arc::clone(vitals));
    let client = client.answering(questions);
    let reporter = Reporter {
        config: Arc::clone(config),
        identity: identity.clone(),
        state,
        channel,
        admin: told.admin,
        standing: told.stands,
        vitals: Arc::clone(vitals),
    };
    tasks.spawn(renewal.run());
    tasks.spawn(client.run());
    tasks.spawn(reporter.run());
    identity
}

/// One line that says how long it took, or what it still waits for.
async fn log_when_ready(
    readiness: Arc<Readiness>,
    mut identity: watch::Receiver<identity::Identity>,
    mut state: State,
    started: Instant,
) {
    loop {
        identity.mark_unchanged();
        state.mark_unchanged();
        if readiness.missing().is_empty() {
            let after_ms = started.elapsed().as_millis();
            tracing::info!(after_ms, "ready");
            // The first push was read in one go.
            return memory::settled();
        }
        let changed = tokio::select! {
            changed = identity.changed() => changed,
            changed = state.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Waits until a part has panicked: a sidecar that lacks one must not look alive.
async fn failed(tasks: &mut JoinSet<()>) -> JoinError {
    loop {
        match tasks.join_next().await {
            Some(Ok(())) => {}
            Some(Err(error)) => return error,
            None => std::future::pending().await,
        }
    }
}
