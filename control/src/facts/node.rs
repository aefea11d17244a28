//! What the mesh knows of a Node: the addresses that its own processes speak from, kubelet's probes among them.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use squire_mesh::workload::Interner;

use super::{FactError, names};

/// A Node, reduced to what the mesh needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFact {
    /// Its name.
    pub name: Arc<str>,
    /// Its internal addresses, and the first of each range that it gives pods addresses from: where its processes' own end
    /// of a bridge to its pods mostly lies.
    pub addresses: Vec<IpAddr>,
}

impl NodeFact {
    /// From the typed object.
    pub fn read(node: Node, interner: &mut Interner) -> Result<Self, FactError> {
        let name = names::required("metadata.name", node.metadata.name.as_deref())?;
        let mut addresses = Vec::new();
        let reported = node.status.and_then(|status| status.addresses).unwrap_or_default();
        for (index, reported) in reported.iter().enumerate() {
            if reported.type_ == "InternalIP" {
                let path = format!("status.addresses[{index}].address");
                addresses.push(names::address(&path, &reported.address)?);
            }
        }
        let ranges = node.spec.and_then(|spec| spec.pod_cidrs).unwrap_or_default();
        for (index, range) in ranges.iter().enumerate() {
            let range: IpNet = range.parse().map_err(|_| {
                FactError::field(
                    format!("spec.podCIDRs[{index}]"),
                    format!("{range:?} is not a range of addresses"),
                )
            })?;
            addresses.extend(range.hosts().next());
        }
        addresses.sort_unstable();
        addresses.dedup();
        Ok(Self {
            name: interner.text(name),
            addresses,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_speaks_from_its_internal_addresses_and_its_end_of_the_pods_bridge() {
        let read =
            |value: serde_json::Value| NodeFact::read(serde_json::from_value(value).unwrap(), &mut Interner::default());
        let node = read(json!({
            "metadata": {"name": "n-1"}, "spec": {"podCIDRs": ["10.1.2.0/24", "fd00:1::/64"]},
            "status": {"addresses": [
                {"type": "InternalIP", "address": "192.0.2.7"}, {"type": "Hostname", "address": "n-1"},
                {"type": "ExternalIP", "address": "203.0.113.7"},
            ]},
        }));
        let addresses: Vec<String> = node.unwrap().addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses[..2], ["10.1.2.1", "192.0.2.7"], "{addresses:?}");
        assert_eq!(addresses.len(), 3);
        let wrong = json!({"metadata": {"name": "n-1"}, "spec": {"podCIDRs": ["10.1"]}});
        assert_eq!(read(wrong).unwrap_err().path(), Some("spec.podCIDRs[0]"));
    }
}
