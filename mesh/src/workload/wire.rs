//! `squire.v1.Workload` and `squire.v1.Service` to and from their domain types. Whatever is not exactly understood is an
//! error here, never a guess: a proxy refuses such a message and keeps what it had.

use std::net::IpAddr;

use super::{
    Interner, Membership, NameError, NamedPort, Owner, PlaintextPorts, PortPair, PortProtocol, Service, ServiceName,
    ServicePort, Transport, Workload, WorkloadUid,
};
use crate::{
    spiffe::{SpiffeId, TrustDomain},
    traffic::{Traffic, TrafficError},
    wire::squire as wire,
};

/// Why a message is not a workload or a service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A resource name that does not parse.
    #[error(transparent)]
    Name(#[from] NameError),
    /// An address of another length than 4 or 16 bytes.
    #[error("{of}: an address of {bytes} bytes; IPv4 takes 4, IPv6 takes 16")]
    Address {
        /// The resource.
        of: String,
        /// Its length.
        bytes: usize,
    },
    /// A port outside 1..=65535.
    #[error("{of}: port {port} is not within 1..=65535")]
    Port {
        /// The resource.
        of: String,
        /// The number.
        port: u32,
    },
    /// A transport or protocol this version does not know.
    #[error("{of}: unknown {field} {value}; is the control plane newer than this proxy?")]
    Unknown {
        /// The resource.
        of: String,
        /// The field.
        field: &'static str,
        /// The number in it.
        value: i32,
    },
    /// The parts of the identity make no SPIFFE ID.
    #[error("{of}: no SPIFFE ID from its trust domain, namespace and service account: {why}")]
    Identity {
        /// The resource.
        of: String,
        /// What is wrong.
        why: String,
    },
    /// Its routes or settings.
    #[error("{of}: {why}")]
    Traffic {
        /// The resource.
        of: String,
        /// What is wrong.
        why: TrafficError,
    },
    /// Reached by mutual TLS, but without an identity to expect.
    #[error("{of}: transport {transport} needs a service account: without it no identity could be expected")]
    NoIdentity {
        /// The resource.
        of: String,
        /// The transport.
        transport: Transport,
    },
}

impl Workload {
    /// From the wire, sharing strings and label sets through `interner`.
    pub fn from_wire(message: wire::Workload, interner: &mut Interner) -> Result<Self, WireError> {
        let uid: WorkloadUid = message.uid.parse()?;
        let of = uid.as_str();
        let transport = transport(of, message.transport)?;
        let identity = identity(&message)?;
        if transport.is_mtls() && identity.is_none() {
            return Err(WireError::NoIdentity {
                of: of.to_owned(),
                transport,
            });
        }
        Ok(Self {
            namespace: interner.text(&message.namespace),
            name: interner.text(&message.name),
            identity,
            addresses: addresses(of, &message.addresses)?,
            transport,
            plaintext_ports: plaintext_ports(of, message.plaintext_ports.as_ref())?,
            host_network: message.host_network,
            ready: !message.unready,
            labels: interner.labels(&message.labels),
            namespace_labels: interner.labels(&message.namespace_labels),
            ports: message
                .ports
                .iter()
                .map(|port| named_port(of, port, interner))
                .collect::<Result<_, _>>()?,
            services: message
                .services
                .iter()
                .map(|each| membership(of, each, interner))
                .collect::<Result<_, _>>()?,
            node: interner.optional(&message.node),
            zone: interner.optional(&message.zone),
            owner: interner.optional(&message.owner_kind).map(|kind| Owner {
                kind,
                name: interner.text(&message.owner_name),
            }),
            uid,
        })
    }
}

impl TryFrom<wire::Workload> for Workload {
    type Error = WireError;

    fn try_from(message: wire::Workload) -> Result<Self, Self::Error> {
        Self::from_wire(message, &mut Interner::default())
    }
}

impl From<&Workload> for wire::Workload {
    fn from(workload: &Workload) -> Self {
        let identity = workload.identity.as_ref();
        let pairs = |labels: &super::LabelSet| labels.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let text = |text: &Option<std::sync::Arc<str>>| text.as_deref().unwrap_or_default().to_owned();
        let owner = workload.owner.as_ref();
        Self {
            uid: workload.uid.to_string(),
            namespace: workload.namespace.to_string(),
            name: workload.name.to_string(),
            service_account: identity
                .and_then(SpiffeId::service_account)
                .unwrap_or_default()
                .to_owned(),
            trust_domain: identity.map(|id| id.trust_domain().to_string()).unwrap_or_default(),
            addresses: workload.addresses.iter().map(octets).collect(),
            transport: match workload.transport {
                Transport::Plaintext => wire::Transport::Plaintext,
                Transport::Squire => wire::Transport::Squire,
                Transport::SpiffeTls => wire::Transport::SpiffeTls,
            }
            .into(),
            node: text(&workload.node),
            host_network: workload.host_network,
            labels: pairs(&workload.labels),
            namespace_labels: pairs(&workload.namespace_labels),
            ports: workload.ports.iter().map(wire::NamedPort::from).collect(),
            services: workload.services.iter().map(wire::Membership::from).collect(),
            unready: !workload.ready,
            zone: text(&workload.zone),
            owner_kind: owner.map(|owner| owner.kind.to_string()).unwrap_or_default(),
            owner_name: owner.map(|owner| owner.name.to_string()).unwrap_or_default(),
            plaintext_ports: workload.plaintext_ports.as_deref().map(wire::PlaintextPorts::from),
        }
    }
}

impl From<&PlaintextPorts> for wire::PlaintextPorts {
    fn from(ports: &PlaintextPorts) -> Self {
        let (otherwise, except) = ports.parts();
        Self {
            otherwise,
            except: except.iter().map(|port| u32::from(*port)).collect(),
        }
    }
}

impl From<&NamedPort> for wire::NamedPort {
    fn from(port: &NamedPort) -> Self {
        Self {
            name: port.name.to_string(),
            port: port.port.into(),
            protocol: match port.protocol {
                PortProtocol::Tcp => wire::PortProtocol::Tcp,
                PortProtocol::Udp => wire::PortProtocol::Udp,
                PortProtocol::Sctp => wire::PortProtocol::Sctp,
            }
            .into(),
            app_protocol: port.app_protocol.as_deref().unwrap_or_default().to_owned(),
        }
    }
}

impl From<&Membership> for wire::Membership {
    fn from(membership: &Membership) -> Self {
        let pair = |pair: &PortPair| wire::PortPair {
            service_port: pair.service_port.into(),
            target_port: pair.target_port.into(),
        };
        Self {
            service: membership.service.to_string(),
            ports: membership.ports.iter().map(pair).collect(),
        }
    }
}

impl Service {
    /// From the wire, sharing strings through `interner`.
    pub fn from_wire(message: wire::Service, interner: &mut Interner) -> Result<Self, WireError> {
        let name: ServiceName = format!("{}/{}", message.namespace, message.name).parse()?;
        let of = name.as_str();
        let service_port = |port: &wire::ServicePort| {
            Ok(ServicePort {
                port: number(of, port.port)?,
                name: interner.text(&port.name),
                app_protocol: interner.optional(&port.app_protocol),
            })
        };
        let ports = message
            .ports
            .iter()
            .map(service_port)
            .collect::<Result<_, WireError>>()?;
        let vips = addresses(of, &message.vips)?;
        let hostnames = message.hostnames.iter().map(|name| interner.text(name)).collect();
        let traffic = message
            .traffic
            .map(|traffic| Traffic::from_wire(traffic, name.namespace()))
            .transpose()
            .map_err(|why| WireError::Traffic { of: of.to_owned(), why })?;
        Ok(Self {
            hostnames,
            vips,
            ports,
            traffic: traffic.filter(|traffic| !traffic.is_default()).map(Box::new),
            name,
        })
    }
}

impl TryFrom<wire::Service> for Service {
    type Error = WireError;

    fn try_from(message: wire::Service) -> Result<Self, Self::Error> {
        Self::from_wire(message, &mut Interner::default())
    }
}

impl From<&Service> for wire::Service {
    fn from(service: &Service) -> Self {
        let port = |port: &ServicePort| wire::ServicePort {
            port: port.port.into(),
            name: port.name.to_string(),
            app_protocol: port.app_protocol.as_deref().unwrap_or_default().to_owned(),
        };
        Self {
            namespace: service.name.namespace().to_owned(),
            name: service.name.name().to_owned(),
            hostnames: service.hostnames.iter().map(ToString::to_string).collect(),
            vips: service.vips.iter().map(octets).collect(),
            ports: service.ports.iter().map(port).collect(),
            traffic: service.traffic.as_deref().map(wire::Traffic::from),
        }
    }
}

fn identity(message: &wire::Workload) -> Result<Option<SpiffeId>, WireError> {
    if message.service_account.is_empty() {
        return Ok(None);
    }
    let failed = |why: String| WireError::Identity {
        of: message.uid.clone(),
        why,
    };
    let trust_domain: TrustDomain = message
        .trust_domain
        .parse()
        .map_err(|error| failed(format!("{error}")))?;
    SpiffeId::workload(&trust_domain, &message.namespace, &message.service_account)
        .map(Some)
        .map_err(|error| failed(error.to_string()))
}

fn transport(of: &str, value: i32) -> Result<Transport, WireError> {
    match wire::Transport::try_from(value) {
        Ok(wire::Transport::Plaintext) => Ok(Transport::Plaintext),
        Ok(wire::Transport::Squire) => Ok(Transport::Squire),
        Ok(wire::Transport::SpiffeTls) => Ok(Transport::SpiffeTls),
        Ok(wire::Transport::Unspecified) | Err(_) => Err(WireError::Unknown {
            of: of.to_owned(),
            field: "transport",
            value,
        }),
    }
}

fn plaintext_ports(of: &str, ports: Option<&wire::PlaintextPorts>) -> Result<Option<Box<PlaintextPorts>>, WireError> {
    let Some(ports) = ports else { return Ok(None) };
    let except = ports.except.iter().map(|port| number(of, *port));
    let except: Vec<u16> = except.collect::<Result<_, _>>()?;
    Ok(PlaintextPorts::new(ports.otherwise, except).map(Box::new))
}

fn named_port(of: &str, port: &wire::NamedPort, interner: &mut Interner) -> Result<NamedPort, WireError> {
    let protocol = match wire::PortProtocol::try_from(port.protocol) {
        Ok(wire::PortProtocol::Tcp) => PortProtocol::Tcp,
        Ok(wire::PortProtocol::Udp) => PortProtocol::Udp,
        Ok(wire::PortProtocol::Sctp) => PortProtocol::Sctp,
        Err(_) => {
            return Err(WireError::Unknown {
                of: of.to_owned(),
                field: "port protocol",
                value: port.protocol,
            });
        }
    };
    Ok(NamedPort {
        name: interner.text(&port.name),
        port: number(of, port.port)?,
        protocol,
        app_protocol: interner.optional(&port.app_protocol),
    })
}

fn membership(of: &str, membership: &wire::Membership, interner: &mut Interner) -> Result<Membership, WireError> {
    let service: ServiceName = membership.service.parse()?;
    let pair = |pair: &wire::PortPair| {
        Ok(PortPair {
            service_port: number(of, pair.service_port)?,
            target_port: number(of, pair.target_port)?,
        })
    };
    let ports = membership.ports.iter().map(pair).collect::<Result<_, WireError>>()?;
    Ok(Membership {
        service: service.shared_by(|name| interner.text(name)),
        ports,
    })
}

fn number(of: &str, port: u32) -> Result<u16, WireError> {
    let number = u16::try_from(port).ok().filter(|number| *number != 0);
    number.ok_or_else(|| WireError::Port {
        of: of.to_owned(),
        port,
    })
}

fn addresses<B: AsRef<[u8]>>(of: &str, all: &[B]) -> Result<Box<[IpAddr]>, WireError> {
    let one = |address: &B| {
        let bytes = address.as_ref();
        let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
        let v6 = || <[u8; 16]>::try_from(bytes).map(IpAddr::from);
        v4.or_else(|_| v6()).map_err(|_| WireError::Address {
            of: of.to_owned(),
            bytes: bytes.len(),
        })
    };
    all.iter().map(one).collect()
}

fn octets<B: From<Vec<u8>>>(address: &IpAddr) -> B {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec().into(),
        IpAddr::V6(v6) => v6.octets().to_vec().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload() -> Workload {
        let trust_domain: TrustDomain = "cluster.local".parse().unwrap();
        Workload {
            uid: WorkloadUid::pod("shop", "web-1"),
            namespace: "shop".into(),
            name: "web-1".into(),
            identity: Some(SpiffeId::workload(&trust_domain, "shop", "web").unwrap()),
            addresses: ["127.10.0.1".parse().unwrap(), "fd00::1".parse().unwrap()].into(),
            transport: Transport::Squire,
            plaintext_ports: PlaintextPorts::new(false, [9090]).map(Box::new),
            host_network: false,
            ready: true,
            labels: [("app", "web"), ("empty", "")].into_iter().collect(),
            namespace_labels: [("kubernetes.io/metadata.name", "shop")].into_iter().collect(),
            ports: [NamedPort {
                name: "http".into(),
                port: 8080,
                protocol: PortProtocol::Tcp,
                app_protocol: Some("http".into()),
            }]
            .into(),
            services: [Membership {
                service: ServiceName::new("shop", "web"),
                ports: [PortPair {
                    service_port: 80,
                    target_port: 8080,
                }]
                .into(),
            }]
            .into(),
            node: Some("n1".into()),
            zone: None,
            owner: Some(Owner {
                kind: "Deployment".into(),
                name: "web".into(),
            }),
        }
    }

    #[test]
    fn a_workload_survives_the_wire() {
        let before = workload();
        assert_eq!(Workload::try_from(wire::Workload::from(&before)), Ok(before));
    }

    #[test]
    fn a_service_survives_the_wire() {
        let before = Service {
            name: ServiceName::new("shop", "web"),
            hostnames: ["web.shop.svc".into(), "web".into()].into(),
            vips: ["10.96.0.1".parse().unwrap()].into(),
            ports: [ServicePort {
                port: 80,
                name: "http".into(),
                app_protocol: None,
            }]
            .into(),
            traffic: None,
        };
        assert_eq!(Service::try_from(wire::Service::from(&before)), Ok(before));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        type Spoil = fn(&mut wire::Workload);
        let cases: [(&str, Spoil); 10] = [
            ("uid", |m| m.uid = "no/such/form".into()),
            ("address", |m| m.addresses = vec![vec![1, 2, 3].into()]),
            ("transport 0", |m| m.transport = 0),
            ("transport 9", |m| m.transport = 9),
            ("port 0", |m| m.ports[0].port = 0),
            ("port 65536", |m| m.services[0].ports[0].target_port = 65_536),
            ("plaintext port", |m| {
                m.plaintext_ports.as_mut().unwrap().except[0] = 65_536;
            }),
            ("protocol", |m| m.ports[0].protocol = 7),
            ("trust domain", |m| m.trust_domain = "not a domain".into()),
            ("identity", |m| m.service_account.clear()),
        ];
        for (what, spoil) in cases {
            let mut message = wire::Workload::from(&workload());
            spoil(&mut message);
            let error = Workload::try_from(message).expect_err(what).to_string();
            assert!(error.len() > 20, "{what}: {error}");
        }
    }

    #[test]
    fn plaintext_needs_no_identity() {
        let mut message = wire::Workload::from(&workload());
        message.service_account.clear();
        message.transport = wire::Transport::Plaintext.into();
        assert_eq!(Workload::try_from(message).map(|workload| workload.identity), Ok(None));
    }

    #[test]
    fn an_interner_shares_what_many_workloads_have_in_common() {
        let mut interner = Interner::default();
        let message = wire::Workload::from(&workload());
        Workload::from_wire(message.clone(), &mut interner).unwrap();
        let once = interner.len();
        Workload::from_wire(message, &mut interner).unwrap();
        assert_eq!(interner.len(), once);
    }
}
