//! Where an outbound connection goes: from the address the application dialled to the endpoints that may serve it, by
//! the tables the control plane pushed. Decides no policy and opens nothing.

use std::{net::SocketAddr, sync::Arc};

use squire_mesh::{
    spiffe::SpiffeId,
    workload::{Service, Transport, Workload},
};

use crate::{
    config::{Host, HostPort},
    http::Declared,
    link::Framing,
    state::{Named, Snapshot},
};

/// What the application asked for.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// The original destination of a captured connection.
    Address(SocketAddr),
    /// The configured destination of an explicit listener.
    Name(HostPort),
}

/// How an endpoint is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Via {
    /// Mutual TLS with exactly this peer.
    Mesh(SpiffeId, Framing),
    /// As it is.
    Plaintext,
}

/// One place that may serve the connection.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) via: Via,
    /// The workload there; none: outside the mesh.
    pub(crate) workload: Option<Arc<Workload>>,
}

/// Where a connection or request goes.
#[derive(Debug, Clone)]
pub(crate) enum Route {
    /// To a port of a Service: any of its endpoints.
    Service(Arc<Service>, u16),
    /// To this endpoint and no other.
    Endpoint(Box<Endpoint>),
}

impl Route {
    /// What is declared to be spoken there.
    pub(crate) fn declared(&self, snapshot: &Snapshot) -> Declared {
        match self {
            Self::Service(service, port) => {
                Declared::of(service.port(*port).and_then(|port| port.app_protocol.as_deref()))
            }
            Self::Endpoint(endpoint) => match endpoint.workload.as_deref() {
                Some(workload) => declared(snapshot, workload, endpoint.address.port()),
                None => Declared::Nothing,
            },
        }
    }
}

/// What is declared for a port of a workload: by itself, or by a Service it backs.
pub(crate) fn declared(snapshot: &Snapshot, workload: &Workload, port: u16) -> Declared {
    let own = workload.app_protocol(port);
    let by_service = || {
        workload.services.iter().find_map(|membership| {
            let pair = membership.ports.iter().find(|pair| pair.target_port == port)?;
            let service = snapshot.service(membership.service.as_str())?;
            service.port(pair.service_port)?.app_protocol.as_deref()
        })
    };
    Declared::of(own.or_else(by_service))
}

/// Where the target leads.
pub(crate) fn route(snapshot: &Snapshot, target: &Target) -> Result<Route, &'static str> {
    match target {
        Target::Address(address) => by_address(snapshot, *address),
        Target::Name(HostPort {
            host: Host::Ip(ip),
            port,
        }) => by_address(snapshot, SocketAddr::new(*ip, *port)),
        Target::Name(HostPort {
            host: Host::Name(name),
            port,
        }) => match snapshot.named(name) {
            Some(Named::Service(service)) => Ok(Route::Service(Arc::clone(service), *port)),
            Some(Named::Workload(workload)) => Ok(Route::Endpoint(Box::new(endpoint(workload, *port)?))),
            None => Err("no service or workload of that name is known to the mesh"),
        },
    }
}

fn by_address(snapshot: &Snapshot, address: SocketAddr) -> Result<Route, &'static str> {
    if let Some(service) = snapshot.service_at(address.ip()) {
        return Ok(Route::Service(Arc::clone(service), address.port()));
    }
    let workload = snapshot
        .workloads_at(address.ip())
        .find(|workload| !workload.host_network);
    Ok(Route::Endpoint(Box::new(match workload {
        Some(workload) => Endpoint {
            address,
            via: via(workload, address.port())?,
            workload: Some(Arc::clone(workload)),
        },
        None => Endpoint {
            address,
            via: Via::Plaintext,
            workload: None,
        },
    })))
}

/// How a workload is reached on a port.
pub(crate) fn endpoint(workload: &Arc<Workload>, port: u16) -> Result<Endpoint, &'static str> {
    let ip = workload.addresses.first().ok_or("the workload has no address")?;
    Ok(Endpoint {
        address: SocketAddr::new(*ip, port),
        via: via(workload, port)?,
        workload: Some(Arc::clone(workload)),
    })
}

/// How a port is reached: in plain bytes where its mode is DISABLE, whatever stands in front of the workload.
fn via(workload: &Workload, port: u16) -> Result<Via, &'static str> {
    if !workload.takes_mtls(port) {
        return Ok(Via::Plaintext);
    }
    let framing = match workload.transport {
        Transport::Plaintext => return Ok(Via::Plaintext),
        Transport::Squire => Framing::Squire,
        Transport::SpiffeTls => Framing::Plain,
    };
    let identity = workload
        .identity
        .clone()
        .ok_or("the workload speaks mutual TLS but has no identity to expect")?;
    Ok(Via::Mesh(identity, framing))
}
