//! Starts and ends the data path: opens the listeners, serves what they accept, and drains in order (stop accepting, let
//! what is under way finish, cut the rest). The pages of a connection are `inbound.rs` and `outbound.rs`.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use squire_mesh::tls::Svid;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    accept::{Destination, accept_all, listen},
    access_log::AccessLog,
    callouts::{self, Callouts},
    config::{self, Config, Mode},
    connection::{Cut, Recorder, Registry},
    credentials,
    demand::Demand,
    destinations::Destinations,
    dial::{Dialer, Timeouts},
    http::{h1::IdleUpstreams, h2::Upstreams},
    inbound,
    metrics::Metrics,
    outbound,
    pool::{Limits, Pool},
    report::Standing,
    route::Target,
    shared::{Ids, Shared},
    state::State,
    tls::records::Engine,
    traffic::Traffic,
    watch_grounds,
    workload_api::Handed,
};

/// What the rest of the sidecar gives to the data path.
pub struct Inputs {
    /// Our SVID; `None` until the first is issued.
    pub identity: watch::Receiver<Option<Arc<Svid>>>,
    /// What the control plane pushed.
    pub state: State,
    /// Where to ask for what it has not; none: that is everything.
    pub demand: Option<Demand>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Live connections.
    pub registry: Arc<Registry>,
    /// To be told what live connections stand on.
    pub standing: watch::Sender<Standing>,
    /// The application's own SVIDs.
    pub handed: Handed,
}

/// The running data path.
pub struct DataPath {
    shared: Arc<Shared>,
    stop: CancellationToken,
    grace: Duration,
    addresses: Vec<SocketAddr>,
}

/// Opens the listeners and starts serving. Connections that come before identity and policy are there are refused with
/// that reason.
///
/// # Errors
/// When a listener cannot be opened or the access log cannot be written; the message says which.
pub fn start(config: &Config, inputs: Inputs) -> io::Result<DataPath> {
    let Inputs {
        identity,
        state,
        demand,
        metrics,
        registry,
        standing,
        handed,
    } = inputs;
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let (publish, credentials) = watch::channel(None);
    tokio::spawn(credentials::follow(
        identity,
        state.clone(),
        Engine::from(config.tls_engine),
        publish,
        stop.clone(),
    ));
    let timeouts = Timeouts {
        connect: config.limits.connect_timeout,
        handshake: config.limits.handshake_timeout,
    };
    let dialer = Arc::new(Dialer {
        timeouts,
        metrics: Arc::clone(&metrics),
    });
    let limits = Limits {
        ready: config.pool.ready,
        max_idle_per_peer: config.pool.max_idle_per_peer,
        idle_timeout: config.pool.idle_timeout,
    };
    let pool = Pool::new(
        limits,
        Arc::clone(&dialer),
        credentials.clone(),
        state.clone(),
        Arc::clone(&metrics),
        tasks.clone(),
    );
    let traffic = Traffic::new(metrics.registry()).map_err(io::Error::other)?;
    let access_log = access_log(&config.access_log, &metrics)?;
    let recorder = Arc::new(Recorder {
        metrics,
        registry,
        access_log,
    });
    let listeners = open(&config.mode)?;
    let addresses: Vec<_> = listeners
        .iter()
        .filter_map(|listener| listener.tcp.local_addr().ok())
        .collect();
    let explicit = matches!(config.mode, Mode::Explicit { .. });
    let way = callouts::mesh::Mesh {
        state: state.clone(),
        demand: demand.clone(),
        credentials: credentials.clone(),
        dialer: Arc::clone(&dialer),
        pool: Arc::clone(&pool),
        bind_source: config.bind_source,
        explicit,
    };
    let callouts = Callouts::new(
        Arc::new(way),
        None,
        config.token_keys_refresh,
        recorder.metrics.registry(),
    )
    .map_err(io::Error::other)?;
    let shared = Arc::new(Shared {
        state,
        demand,
        credentials,
        metrics: Arc::clone(&recorder.metrics),
        recorder,
        dialer,
        pool,
        callouts,
        traffic,
        http2: Upstreams::new(config.http2_engine, config.limits.stall_timeout),
        upstreams: Arc::new(IdleUpstreams::new(
            config.pool.max_idle_per_peer,
            config.pool.idle_timeout,
        )),
        head_timeout: config.limits.head_timeout,
        stall_timeout: config.limits.stall_timeout,
        handshakes: Arc::new(Semaphore::new(config.limits.max_pending_handshakes)),
        bind_source: config.bind_source,
        explicit,
        destinations: Destinations {
            own: addresses.clone(),
            transparent: matches!(config.mode, Mode::Transparent { .. }),
            unknown: config.unknown,
        },
        tasks,
        draining: stop.child_token(),
        ids: Ids::default(),
        trust_domain: config.trust_domain.clone(),
        standing,
        handed,
    });
    tokio::spawn(watch_grounds::watch(Arc::clone(&shared), stop.clone()));
    let slots = Arc::new(Semaphore::new(
        config.limits.max_connections.min(Semaphore::MAX_PERMITS),
    ));
    for listener in listeners {
        // Tracked: until it has stopped, there may be more to come.
        shared
            .tasks
            .spawn(serve(Arc::clone(&shared), listener, Arc::clone(&slots)));
    }
    Ok(DataPath {
        shared,
        stop,
        grace: config.drain_grace,
        addresses,
    })
}

impl DataPath {
    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Stops accepting, lets what is open finish within the grace period (or until `force`), then cuts the rest. Returns
    /// how many had to be cut.
    pub async fn drain(self, force: CancellationToken) -> usize {
        let shared = &self.shared;
        shared.draining.cancel();
        shared.upstreams.clear();
        shared.pool.clear();
        shared.http2.sweep(shared);
        shared.tasks.close();
        tokio::select! {
            done = timeout(self.grace, shared.tasks.wait()) => if done.is_ok() { self.stop.cancel(); return 0 },
            () = force.cancelled() => {}
        }
        let open = shared.recorder.registry.len();
        watch_grounds::cut_all(shared, Cut::Draining);
        // What was cut ends at its next poll; links without an application connection just go.
        let _ = timeout(Duration::from_secs(1), shared.tasks.wait()).await;
        self.stop.cancel();
        open
    }
}

struct Listener {
    tcp: TcpListener,
    destination: Destination,
    role: Role,
}

enum Role {
    Inbound,
    Outbound(Option<Target>),
}

fn open(mode: &Mode) -> io::Result<Vec<Listener>> {
    match mode {
        Mode::Transparent { inbound, outbound } => {
            let mut listeners = Vec::new();
            for (port, make) in [(*inbound, Role::inbound as fn() -> Role), (*outbound, Role::captured)] {
                let destination = Destination::Original;
                let v4 = listen(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port))?;
                listeners.push(Listener {
                    tcp: v4,
                    destination,
                    role: make(),
                });
                match listen(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)) {
                    Ok(tcp) => listeners.push(Listener {
                        tcp,
                        destination,
                        role: make(),
                    }),
                    Err(error) => tracing::info!(%error, "no IPv6 here; serving IPv4 only"),
                }
            }
            Ok(listeners)
        }
        Mode::Explicit { inbound, outbound } => {
            let inbound = inbound.iter().map(|listener| {
                let config::InboundListener {
                    listen: address,
                    app,
                    port,
                } = *listener;
                let destination = Destination::Fixed {
                    address: SocketAddr::new(address.ip(), port),
                    app,
                    port,
                };
                Ok(Listener {
                    tcp: listen(address)?,
                    destination,
                    role: Role::Inbound,
                })
            });
            let outbound = outbound.iter().map(|listener| {
                let address = match &listener.to.host {
                    config::Host::Ip(ip) => SocketAddr::new(*ip, listener.to.port),
                    config::Host::Name(_) => SocketAddr::new(listener.listen.ip(), listener.to.port),
                };
                let destination = Destination::Fixed {
                    address,
                    app: address,
                    port: address.port(),
                };
                let role = Role::Outbound(Some(Target::Name(listener.to.clone())));
                Ok(Listener {
                    tcp: listen(listener.listen)?,
                    destination,
                    role,
                })
            });
            inbound.chain(outbound).collect()
        }
    }
}

impl Role {
    fn inbound() -> Self {
        Self::Inbound
    }

    fn captured() -> Self {
        Self::Outbound(None)
    }
}

async fn serve(shared: Arc<Shared>, listener: Listener, slots: Arc<Semaphore>) {
    let (metrics, stop) = (Arc::clone(&shared.metrics), shared.draining.clone());
    let Listener { tcp, destination, role } = listener;
    accept_all(tcp, destination, slots, metrics, stop, |accepted| {
        let tasks = shared.tasks.clone();
        let shared = Arc::clone(&shared);
        match &role {
            Role::Inbound => tasks.spawn(inbound::serve(shared, accepted)),
            Role::Outbound(target) => {
                let target = target.clone().unwrap_or(Target::Address(accepted.destination));
                tasks.spawn(outbound::serve(shared, accepted, target))
            }
        };
    })
    .await;
}

fn access_log(target: &config::AccessLog, metrics: &Arc<Metrics>) -> io::Result<AccessLog> {
    let metrics = Arc::clone(metrics);
    match target {
        config::AccessLog::Off => Ok(AccessLog::off(metrics)),
        config::AccessLog::Stdout => AccessLog::stdout(metrics),
        config::AccessLog::File(path) => AccessLog::file(path, metrics).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("cannot write the access log {}: {error}", path.display()),
            )
        }),
    }
}

#[cfg(test)]
mod tests;
