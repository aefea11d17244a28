//! The objects of a running control plane, as its admin endpoint shows them at `/debug/objects`.

use std::{collections::BTreeMap, net::IpAddr};

use serde::Deserialize;
use serde_json::Value;
use squire_mesh::{
    spiffe::{SpiffeId, TrustDomain},
    workload::{
        Interner, Membership, NamedPort, Owner, PortPair, PortProtocol, ServiceName, Transport, Workload, WorkloadUid,
    },
};

use crate::{compile::Mesh, manifest::Object};

#[derive(Debug, Deserialize)]
struct Document {
    trust_domain: String,
    workloads: Vec<WorkloadLine>,
    policies: Vec<Value>,
}

#[derive(Debug, Deserialize)]
struct WorkloadLine {
    uid: String,
    namespace: String,
    name: String,
    spiffe_id: Option<String>,
    addresses: Vec<IpAddr>,
    transport: String,
    ready: bool,
    host_network: bool,
    labels: BTreeMap<String, String>,
    namespace_labels: BTreeMap<String, String>,
    ports: Vec<PortLine>,
    services: Vec<ServiceLine>,
    node: Option<String>,
    owner: Option<String>,
}

#[derive(Debug, Deserialize)]
struct PortLine {
    name: String,
    port: u16,
    protocol: ProtocolLine,
    app_protocol: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum ProtocolLine {
    Tcp,
    Udp,
    Sctp,
}

impl From<ProtocolLine> for PortProtocol {
    fn from(line: ProtocolLine) -> Self {
        match line {
            ProtocolLine::Tcp => Self::Tcp,
            ProtocolLine::Udp => Self::Udp,
            ProtocolLine::Sctp => Self::Sctp,
        }
    }
}

#[derive(Debug, Deserialize)]
struct ServiceLine {
    service: String,
    ports: Vec<(u16, u16)>,
}

/// What a control plane has in force.
pub(super) struct InForce {
    /// The trust domain that it signs for.
    pub(super) trust_domain: String,
    pub(super) mesh: Mesh,
    pub(super) objects: Vec<Object>,
}

/// Workloads and policy objects from the text of the page.
pub(super) fn read(text: &str) -> Result<InForce, String> {
    let document: Document = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut interner = Interner::default();
    let mut mesh = Mesh::default();
    for line in document.workloads {
        let workload = workload(line, &mut interner)?;
        mesh.workloads.insert(workload.uid.clone(), workload);
    }
    let objects = document
        .policies
        .into_iter()
        .filter_map(|value| Object::from_value("control plane", value));
    let trust_domain: TrustDomain = document.trust_domain.parse().map_err(|error| format!("{error}"))?;
    Ok(InForce {
        trust_domain: trust_domain.as_str().to_owned(),
        mesh,
        objects: objects.collect(),
    })
}

fn workload(line: WorkloadLine, interner: &mut Interner) -> Result<Workload, String> {
    let uid: WorkloadUid = line.uid.parse().map_err(|error| format!("{error}"))?;
    let transport: Transport = line.transport.parse().map_err(|error| format!("{uid}: {error}"))?;
    let identity = line.spiffe_id.map(|id| id.parse::<SpiffeId>()).transpose();
    let membership = |line: &ServiceLine| -> Result<Membership, String> {
        let service: ServiceName = line.service.parse().map_err(|error| format!("{error}"))?;
        let pair = |(service_port, target_port): &(u16, u16)| PortPair {
            service_port: *service_port,
            target_port: *target_port,
        };
        Ok(Membership {
            service,
            ports: line.ports.iter().map(pair).collect(),
        })
    };
    let services = line.services.iter().map(membership).collect::<Result<_, _>>()?;
    let port = |line: &PortLine| NamedPort {
        name: line.name.as_str().into(),
        port: line.port,
        protocol: line.protocol.into(),
        app_protocol: line.app_protocol.as_deref().map(Into::into),
    };
    let owner = line.owner.as_deref().and_then(|owner| owner.split_once('/'));
    Ok(Workload {
        identity: identity.map_err(|error| format!("{uid}: {error}"))?,
        namespace: interner.text(&line.namespace),
        name: interner.text(&line.name),
        addresses: line.addresses.into(),
        transport,
        plaintext_ports: None,
        host_network: line.host_network,
        ready: line.ready,
        labels: interner.labels(&line.labels),
        namespace_labels: interner.labels(&line.namespace_labels),
        ports: line.ports.iter().map(port).collect(),
        services,
        node: line.node.as_deref().map(Into::into),
        zone: None,
        owner: owner.map(|(kind, name)| Owner {
            kind: kind.into(),
            name: name.into(),
        }),
        uid,
    })
}
