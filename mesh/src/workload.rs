//! Workloads and services as every room sees them: who someone is, where they are, how they are reached. Built by the
//! control plane from Kubernetes objects, pushed as `squire.v1.Workload` and `squire.v1.Service`, looked up by the
//! proxy. Immutable and compact: strings are shared through an [`Interner`]. It decides nothing and resolves no name.

mod labels;
mod names;
mod plaintext;
mod selector;
mod wire;

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

pub use labels::{Interner, LabelSet};
pub use names::{NameError, ServiceName, UidKind, WorkloadUid};
pub use plaintext::PlaintextPorts;
pub use selector::{Selector, SelectorError};
pub use wire::WireError;

use crate::{spiffe::SpiffeId, traffic::Traffic};

/// How a workload is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// No mutual TLS: plain bytes, or the application's own TLS, untouched.
    Plaintext,
    /// A squire stands in front of it: ALPN `squire/1`.
    Squire,
    /// It terminates SPIFFE mutual TLS itself: ALPN `squire-tls/1`.
    SpiffeTls,
}

impl Transport {
    /// The value of the label or annotation `squire.mesh/transport`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Squire => "squire",
            Self::SpiffeTls => "spiffe-tls",
        }
    }

    /// Whether connections to it are mutual TLS, and so need an identity to expect.
    pub const fn is_mtls(self) -> bool {
        matches!(self, Self::Squire | Self::SpiffeTls)
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A value of `squire.mesh/transport` that is none of the three.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown transport {0:?}: use \"squire\", \"spiffe-tls\" or \"plaintext\"")]
pub struct UnknownTransport(pub String);

impl FromStr for Transport {
    type Err = UnknownTransport;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "plaintext" => Ok(Self::Plaintext),
            "squire" => Ok(Self::Squire),
            "spiffe-tls" => Ok(Self::SpiffeTls),
            other => Err(UnknownTransport(other.to_owned())),
        }
    }
}

/// The transport protocol of a container port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PortProtocol {
    /// TCP, the default.
    #[default]
    Tcp,
    /// UDP: never captured by a sidecar, but policies name it.
    Udp,
    /// SCTP: never captured by a sidecar, but policies name it.
    Sctp,
}

impl fmt::Display for PortProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// A container port that has a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NamedPort {
    /// The name policies and Services refer to.
    pub name: Arc<str>,
    /// Its number.
    pub port: u16,
    /// Its transport protocol; names resolve per protocol.
    pub protocol: PortProtocol,
    /// The declared application protocol (`http`, `grpc`, …), if any.
    pub app_protocol: Option<Arc<str>>,
}

/// Where one port of a Service leads on one workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortPair {
    /// The port of the Service.
    pub service_port: u16,
    /// The port of the workload.
    pub target_port: u16,
}

/// One Service that a workload backs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Membership {
    /// The Service.
    pub service: ServiceName,
    /// Its ports, as this workload serves them.
    pub ports: Box<[PortPair]>,
}

/// What owns a workload (Deployment `web`): names for metrics that do not change with every pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// `Deployment`, `StatefulSet`, …
    pub kind: Arc<str>,
    /// Its name, in the workload's namespace.
    pub name: Arc<str>,
}

/// A pod, a machine outside the cluster, or a bare address behind a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its name in the mesh.
    pub uid: WorkloadUid,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name within the namespace.
    pub name: Arc<str>,
    /// The identity its certificate must show; `None` for addresses that have none.
    pub identity: Option<SpiffeId>,
    /// Its addresses, in order of preference. Shared with other workloads where `host_network`.
    pub addresses: Box<[IpAddr]>,
    /// How it is reached.
    pub transport: Transport,
    /// Ports on which mutual TLS must not be started, although the transport is mutual TLS; `None`: there are none.
    pub plaintext_ports: Option<Box<PlaintextPorts>>,
    /// It lives in its node's network namespace: its addresses are not its own.
    pub host_network: bool,
    /// New connections may be sent to it. An unready workload is still known by its address.
    pub ready: bool,
    /// Its labels, which policies select by.
    pub labels: LabelSet,
    /// The labels of its namespace, `kubernetes.io/metadata.name` included.
    pub namespace_labels: LabelSet,
    /// Its named ports.
    pub ports: Box<[NamedPort]>,
    /// The Services it backs, sorted by name.
    pub services: Box<[Membership]>,
    /// The node it runs on.
    pub node: Option<Arc<str>>,
    /// The failure zone it runs in.
    pub zone: Option<Arc<str>>,
    /// What owns it.
    pub owner: Option<Owner>,
}

impl Workload {
    /// The number behind a port name, for one protocol.
    pub fn named_port(&self, name: &str, protocol: PortProtocol) -> Option<u16> {
        self.ports
            .iter()
            .find(|port| port.protocol == protocol && &*port.name == name)
            .map(|port| port.port)
    }

    /// Whether a client starts mutual TLS on this port: it can be, and the effective mode is not DISABLE.
    pub fn takes_mtls(&self, port: u16) -> bool {
        let plaintext = self.plaintext_ports.as_ref();
        self.transport.is_mtls() && !plaintext.is_some_and(|ports| ports.contains(port))
    }

    /// Whether `other` shares the network of the node that this one runs on: kubelet's probes come from such an address.
    pub fn runs_on_node_of(&self, other: &Self) -> bool {
        self.node.is_some() && other.host_network && other.node == self.node
    }

    /// The application protocol declared for a TCP port, if any.
    pub fn app_protocol(&self, port: u16) -> Option<&str> {
        let declared = self
            .ports
            .iter()
            .find(|named| named.protocol == PortProtocol::Tcp && named.port == port)?;
        declared.app_protocol.as_deref()
    }

    /// The Service port → workload port pairs by which it backs `service`.
    pub fn membership(&self, service: &str) -> Option<&Membership> {
        self.services
            .iter()
            .find(|membership| membership.service.as_str() == service)
    }
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServicePort {
    /// Its number.
    pub port: u16,
    /// Its name; empty where the Service has a single unnamed port.
    pub name: Arc<str>,
    /// The declared application protocol (`appProtocol`, else from the port's name), if any.
    pub app_protocol: Option<Arc<str>>,
}

/// A Service: names and virtual addresses. Its endpoints are the workloads whose `services` name it.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// `namespace/name`.
    pub name: ServiceName,
    /// Every DNS name that leads to it.
    pub hostnames: Box<[Arc<str>]>,
    /// Its virtual addresses; empty for a headless Service.
    pub vips: Box<[IpAddr]>,
    /// Its ports.
    pub ports: Box<[ServicePort]>,
    /// How requests to it are spread; none: no routes, and every setting at its default.
    pub traffic: Option<Box<Traffic>>,
}

impl Service {
    /// The port with this number.
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.port == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transport_names_round_trip() {
        for transport in [Transport::Plaintext, Transport::Squire, Transport::SpiffeTls] {
            assert_eq!(transport.as_str().parse(), Ok(transport));
        }
        assert!("Squire".parse::<Transport>().is_err(), "names are exact");
        assert!("".parse::<Transport>().is_err());
    }

    #[test]
    fn a_workload_stays_compact() {
        // 1,000 workloads must fit into 1 MiB with their strings: the struct itself may take a quarter of that.
        assert!(size_of::<Workload>() <= 256, "{} bytes", size_of::<Workload>());
        assert!(size_of::<NamedPort>() <= 40, "{} bytes", size_of::<NamedPort>());
    }
}
