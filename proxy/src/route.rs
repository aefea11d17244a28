//! Where an outbound connection goes: from the address the application dialled to the endpoints that may serve it, by
//! the tables the control plane pushed. Decides no policy and opens nothing.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use squire_mesh::{
    spiffe::SpiffeId,
    workload::{Transport, Workload},
};

use crate::{
    config::{Host, HostPort},
    destinations::of_family,
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

/// Endpoints tried before a connection is given up.
const TRIES: usize = 3;

/// The endpoints to try, in order.
pub(crate) fn route(snapshot: &Snapshot, target: &Target) -> Result<Vec<Endpoint>, &'static str> {
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
            Some(Named::Service(service)) => by_service(snapshot, service.name.as_str(), *port, None),
            Some(Named::Workload(workload)) => Ok(vec![endpoint(workload, *port, None)?]),
            None => Err("no service or workload of that name is known to the mesh"),
        },
    }
}

fn by_address(snapshot: &Snapshot, address: SocketAddr) -> Result<Vec<Endpoint>, &'static str> {
    if let Some(service) = snapshot.service_at(address.ip()) {
        return by_service(snapshot, service.name.as_str(), address.port(), Some(address.ip()));
    }
    let workload = snapshot
        .workloads_at(address.ip())
        .find(|workload| !workload.host_network);
    Ok(vec![match workload {
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
    }])
}

/// `like`: the address that was dialled; endpoints are then dialled in its family, if they can be.
fn by_service(
    snapshot: &Snapshot,
    service: &str,
    port: u16,
    like: Option<IpAddr>,
) -> Result<Vec<Endpoint>, &'static str> {
    let mut ready: Vec<_> = snapshot.ready_endpoints(service, port).collect();
    if ready.is_empty() {
        return Err("the service has no ready endpoint for that port");
    }
    // A random few, each endpoint as likely as the next.
    let count = ready.len().min(TRIES);
    for index in 0..count {
        let other = rand::random_range(index..ready.len());
        ready.swap(index, other);
    }
    ready[..count]
        .iter()
        .map(|(workload, port)| endpoint(workload, *port, like))
        .collect()
}

/// How a workload is reached on a port; `like`: in the family of this address, if it can be.
pub(crate) fn endpoint(workload: &Arc<Workload>, port: u16, like: Option<IpAddr>) -> Result<Endpoint, &'static str> {
    let addresses = &workload.addresses;
    let ip = like.map_or(addresses.first().copied(), |like| of_family(addresses, like));
    let ip = ip.ok_or("the workload has no address")?;
    Ok(Endpoint {
        address: SocketAddr::new(ip, port),
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
