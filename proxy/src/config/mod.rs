//! The configuration of a sidecar, once it is known to be right. This room is the only one that reads the environment;
//! it opens no sockets and does not look at what the named files hold.

mod problem;
mod raw;
mod read;
mod settings;
mod source;
mod tree;
mod values;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use squire_mesh::{
    probe::Probes,
    spiffe::{SpiffeId, TrustDomain},
    workload::WorkloadUid,
};

pub use problem::{Problem, Problems};
pub use settings::{PREFIX, SETTINGS, Setting, reference};
pub use source::Sources;

/// A configuration that is complete and consistent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The workload this sidecar stands beside.
    pub workload: WorkloadUid,
    /// The trust domain it belongs to.
    pub trust_domain: TrustDomain,
    /// The identity the CA has to give it; `None`: whatever the token attests.
    pub identity: Option<SpiffeId>,
    /// PEM file with the roots to start with, until the control plane pushes newer ones.
    pub trust_bundle: PathBuf,
    /// File with the bearer token that proves who we are to the CA; read anew at every use.
    pub token: PathBuf,
    /// Where the control plane listens, and who it has to be.
    pub control: Authority,
    /// Where the CA listens, and who it has to be.
    pub ca: Authority,
    /// Where the admin endpoint listens; port 0 lets the system choose.
    pub admin: SocketAddr,
    /// Who may see its pages that tell more than figures and readiness.
    pub admin_details: AdminDetails,
    /// Probes of the application, which the admin endpoint puts to it.
    pub probes: Probes,
    /// How connections reach this sidecar.
    pub mode: Mode,
    /// Address to dial peers from; `None`: the workload's own in explicit mode, the system's choice otherwise.
    pub bind_source: Option<IpAddr>,
    /// Bounds on what is served at once.
    pub limits: Limits,
    /// Mesh connections kept for the next application connection.
    pub pool: Pool,
    /// What becomes of redirected connections to addresses the mesh does not know.
    pub unknown: Unknown,
    /// Which workloads the control plane tells us of.
    pub subscription: Subscription,
    /// Which code protects TLS records after the handshake.
    pub tls_engine: TlsEngine,
    /// Keys of tokens that come by URL are fetched again when they are older than this.
    pub token_keys_refresh: Duration,
    /// Which code speaks HTTP/2 with applications and peers.
    pub http2_engine: Http2Engine,
    /// How long live connections get at shutdown.
    pub drain_grace: Duration,
    /// Lifetime to ask the CA for.
    pub svid_lifetime: Duration,
    /// What is logged, and how.
    pub log: Log,
    /// Where access-log lines go.
    pub access_log: AccessLog,
    /// Where the application asks for identities of its own; `None`: nowhere.
    pub workload_api: Option<WorkloadApi>,
}

/// Which workloads the control plane tells a sidecar of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscription {
    /// All, or those that its connections need.
    pub mode: SubscriptionMode,
    /// On demand: how long a connection waits for an answer.
    pub timeout: Duration,
    /// On demand: how long what no connection uses is kept.
    pub keep: Duration,
    /// On demand: how many addresses, services and names may be asked for.
    pub max_selectors: usize,
}

/// See [`Subscription`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscriptionMode {
    /// All there are.
    All,
    /// Those that connections need, from when they need them.
    OnDemand,
}

/// The SPIFFE Workload API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadApi {
    /// The Unix socket.
    pub socket: PathBuf,
    /// Who may connect.
    pub users: Users,
}

/// Users of this machine, by user ID as the kernel tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Users {
    /// The one that the sidecar runs as.
    Own,
    /// Whoever reaches the socket: right where the file system says who does, as in a pod.
    Any,
    /// These, and the one that the sidecar runs as.
    These(Vec<u32>),
}

impl Users {
    /// Whether this user is one of them; `own`: whom the sidecar runs as.
    #[must_use]
    pub fn admits(&self, user: u32, own: u32) -> bool {
        user == own
            || match self {
                Self::Own => false,
                Self::Any => true,
                Self::These(users) => users.contains(&user),
            }
    }
}

/// One end of the control plane: an address and the identity expected there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// Where to dial.
    pub address: HostPort,
    /// Who has to answer.
    pub id: SpiffeId,
}

/// How connections reach the sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Redirected by the kernel; the original destination is read from the socket. IPv4 and IPv6.
    Transparent {
        /// Connections to the workload.
        inbound: u16,
        /// Connections the workload opens.
        outbound: u16,
    },
    /// Listeners that each stand for one destination; needs no privileges.
    Explicit {
        /// Connections to the workload.
        inbound: Vec<InboundListener>,
        /// Connections the workload opens.
        outbound: Vec<OutboundListener>,
    },
}

/// An explicit listener for peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundListener {
    /// Where peers connect.
    pub listen: SocketAddr,
    /// Where the application listens.
    pub app: SocketAddr,
    /// The workload's port in policy and metrics.
    pub port: u16,
}

/// An explicit listener for the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboundListener {
    /// Where the application connects.
    pub listen: SocketAddr,
    /// What it reaches there; names are those of pushed services and workloads, such as `db.shop`.
    pub to: HostPort,
}

/// Bounds on what is served at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Application connections, both directions together.
    pub max_connections: usize,
    /// Inbound TLS handshakes under way.
    pub max_pending_handshakes: usize,
    /// From accept to verified peer.
    pub handshake_timeout: Duration,
    /// From the first byte of an HTTP/1 request's head to its last.
    pub head_timeout: Duration,
    /// For a client to take anything of a response that waits for it.
    pub stall_timeout: Duration,
    /// For TCP connect, to peers and to the application.
    pub connect_timeout: Duration,
}

/// Mesh connections kept for the next application connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Kept ready for each peer that is in use.
    pub ready: usize,
    /// Idle ones kept for one peer.
    pub max_idle_per_peer: usize,
    /// Closed when unused for so long.
    pub idle_timeout: Duration,
}

/// What becomes of redirected connections to addresses that are neither a service's nor a workload's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// They go there, in plaintext, if policy allows it.
    Passthrough,
    /// They are refused: the mesh is all there is.
    Refuse,
}

/// Who may see the pages of the admin endpoint that tell who talks to whom and how the sidecar is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminDetails {
    /// Whoever reaches the endpoint.
    Anyone,
    /// Only who comes over loopback, as `kubectl port-forward` does; the others see figures, readiness and probes.
    Loopback,
}

/// Which code protects TLS records after the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsEngine {
    /// Our own, in place.
    Squire,
    /// rustls: slower, and there in case ours is in doubt.
    Rustls,
}

/// Which code speaks HTTP/2 with applications and peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Http2Engine {
    /// Our own, made for passing on.
    #[default]
    Squire,
    /// The `h2` crate: slower, and there in case ours is in doubt.
    H2,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// `info`, or per target: `info,squire_proxy::xds=debug`.
    pub filter: String,
    /// The form of each line.
    pub format: LogFormat,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Where access-log lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLog {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}

/// A host and a port, as written; the host is an IP address or a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// IP address or name.
    pub host: Host,
    /// Port.
    pub port: u16,
}

/// An IP address or a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// An address.
    Ip(IpAddr),
    /// A name, lower case, without a trailing dot.
    Name(Arc<str>),
}

/// Why a text is not a `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HostPortError(&'static str);

impl Config {
    /// Reads file, environment and flags (the later ones win) and checks everything.
    ///
    /// # Errors
    /// Every problem found in any of the sources.
    pub fn load(sources: &Sources) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let config = sources.read(&mut problems).and_then(|node| {
            let raw = raw::Raw::read(node, &mut problems);
            raw.valid(&mut problems)
        });
        problems.into_result(config)
    }
}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return match address.port() {
                0 => Err(HostPortError("port 0 cannot be dialled")),
                port => Ok(Self {
                    host: Host::Ip(address.ip()),
                    port,
                }),
            };
        }
        let (host, port) = text.rsplit_once(':').ok_or(HostPortError("no port"))?;
        let port = port
            .parse()
            .map_err(|_| HostPortError("the port is not a number from 1 to 65535"))?;
        if port == 0 {
            return Err(HostPortError("port 0 cannot be dialled"));
        }
        Ok(Self {
            host: Host::Name(name(host)?),
            port,
        })
    }
}

/// A DNS name of letters, digits, `-` and `_`.
fn name(text: &str) -> Result<Arc<str>, HostPortError> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    if text.len() > 253 || !text.split('.').all(label) {
        return Err(HostPortError("the host is neither an IP address nor a DNS name"));
    }
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(HostPortError("the host looks like an IP address but is none"));
    }
    Ok(text.to_ascii_lowercase().into())
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests;
