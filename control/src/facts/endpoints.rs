//! What the mesh knows of an EndpointSlice: which addresses back a Service, on which ports.

use std::{net::IpAddr, sync::Arc};

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use squire_mesh::workload::{Interner, PortProtocol};

use super::{FactError, Key, key, names};

/// One address of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointFact {
    /// The address; of several, which are fungible, the first.
    pub address: IpAddr,
    /// The Pod behind it, where the slice names one.
    pub pod: Option<Key>,
    /// It may be sent new connections.
    pub ready: bool,
    /// Its failure zone.
    pub zone: Option<Arc<str>>,
    /// Its node.
    pub node: Option<Arc<str>>,
}

/// One port of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// The name of the Service port it belongs to.
    pub name: Arc<str>,
    /// The number on the endpoints.
    pub port: u16,
    /// Its transport protocol.
    pub protocol: PortProtocol,
}

/// An EndpointSlice, reduced to what the mesh needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceFact {
    /// Namespace and name.
    pub key: Key,
    /// The Service it belongs to, in its own namespace; `None` where it belongs to none.
    pub service: Option<Key>,
    /// Its addresses; none for slices of names (FQDN).
    pub endpoints: Vec<EndpointFact>,
    /// Its ports.
    pub ports: Vec<SlicePort>,
}

impl SliceFact {
    /// From the typed object.
    pub fn read(slice: EndpointSlice, interner: &mut Interner) -> Result<Self, FactError> {
        let key = key(&slice.metadata, interner)?;
        let labels = slice.metadata.labels.unwrap_or_default();
        let service = labels.get("kubernetes.io/service-name").filter(|name| !name.is_empty());
        let service = service.map(|name| Key {
            namespace: key.namespace.clone(),
            name: interner.text(name),
        });
        let mut endpoints = Vec::new();
        if slice.address_type != "FQDN" {
            for (at, each) in slice.endpoints.iter().flatten().enumerate() {
                endpoints.extend(endpoint(at, each, &key, interner)?);
            }
        }
        let mut ports = Vec::new();
        for (at, port) in slice.ports.iter().flatten().enumerate() {
            // A port without a number means all ports: nothing a Service port could lead to.
            let Some(number) = port.port else { continue };
            ports.push(SlicePort {
                name: interner.text(port.name.as_deref().unwrap_or_default()),
                port: names::port(&format!("ports[{at}].port"), number.into())?,
                protocol: names::protocol(&format!("ports[{at}].protocol"), port.protocol.as_deref())?,
            });
        }
        Ok(Self {
            key,
            service,
            endpoints,
            ports,
        })
    }
}

fn endpoint(
    at: usize,
    endpoint: &Endpoint,
    slice: &Key,
    interner: &mut Interner,
) -> Result<Option<EndpointFact>, FactError> {
    let Some(address) = endpoint.addresses.first() else {
        return Ok(None);
    };
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let target = endpoint
        .target_ref
        .as_ref()
        .filter(|target| target.kind.as_deref() == Some("Pod"));
    let pod = target.and_then(|target| {
        let namespace = target.namespace.as_deref().unwrap_or(&slice.namespace);
        Some(Key {
            namespace: interner.text(namespace),
            name: interner.text(target.name.as_deref()?),
        })
    });
    Ok(Some(EndpointFact {
        address: names::address(&format!("endpoints[{at}].addresses[0]"), address)?,
        pod,
        ready: conditions.ready.unwrap_or(true) && !conditions.terminating.unwrap_or(false),
        zone: endpoint.zone.as_deref().and_then(|zone| interner.optional(zone)),
        node: endpoint.node_name.as_deref().and_then(|node| interner.optional(node)),
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn endpoints_ports_and_conditions_are_read() {
        let slice = json!({
            "metadata": {"name": "db-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "db"}},
            "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "db-0"}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                {"addresses": []},
            ],
            "ports": [{"name": "pg", "port": 5432}, {"name": "all"}],
        });
        let fact = SliceFact::read(serde_json::from_value(slice).unwrap(), &mut Interner::default()).unwrap();
        assert_eq!(fact.service.unwrap().to_string(), "shop/db");
        assert_eq!(fact.endpoints.len(), 2);
        assert_eq!(fact.endpoints[0].pod.as_ref().unwrap().to_string(), "shop/db-0");
        assert_eq!((fact.endpoints[0].ready, fact.endpoints[1].ready), (true, false));
        assert_eq!(fact.ports.len(), 1);
    }
}
