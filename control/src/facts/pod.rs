//! What the mesh knows of a Pod: who it is, where it is, how it is reached.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use k8s_openapi::{
    api::core::v1::{Container, Pod, PodStatus},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use squire_mesh::{
    ports,
    workload::{Interner, LabelSet, NamedPort, Owner, Transport},
};

use super::{FactError, Key, key, names};

/// The container that makes a pod a squire.
const PROXY_CONTAINER: &str = "squire-proxy";

/// A Pod, reduced to what the mesh needs.
#[derive(Clone, Debug, PartialEq)]
pub struct PodFact {
    /// Namespace and name.
    pub key: Key,
    /// Its service account, `default` where none is given.
    pub service_account: Arc<str>,
    /// Its addresses; empty until it has one.
    pub addresses: Vec<IpAddr>,
    /// It has ended (`Succeeded`, `Failed`): its address may already belong to another.
    pub ended: bool,
    /// It may be sent new connections.
    pub ready: bool,
    /// It lives in the network namespace of its node.
    pub host_network: bool,
    /// How it is reached.
    pub transport: Transport,
    /// Its labels.
    pub labels: LabelSet,
    /// Its named container ports.
    pub ports: Vec<NamedPort>,
    /// The node it runs on.
    pub node: Option<Arc<str>>,
    /// The failure zone, where its labels tell.
    pub zone: Option<Arc<str>>,
    /// What owns it.
    pub owner: Option<Owner>,
}

impl PodFact {
    /// From the typed object.
    pub fn read(pod: Pod, interner: &mut Interner) -> Result<Self, FactError> {
        let key = key(&pod.metadata, interner)?;
        let spec = pod.spec.unwrap_or_default();
        let status = pod.status.unwrap_or_default();
        let phase = status.phase.as_deref();
        let ended = matches!(phase, Some("Succeeded" | "Failed"));
        let init = spec.init_containers.as_deref().unwrap_or_default();
        let squired = init
            .iter()
            .chain(&spec.containers)
            .any(|container| container.name == PROXY_CONTAINER);
        let account = spec
            .service_account_name
            .as_deref()
            .filter(|name| !name.is_empty())
            .unwrap_or("default");
        names::required("spec.serviceAccountName", Some(account))?;
        let sidecars = init
            .iter()
            .filter(|container| container.restart_policy.as_deref() == Some("Always"));
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        Ok(Self {
            service_account: interner.text(account),
            addresses: addresses(&status)?,
            ended,
            ready: !ended && pod.metadata.deletion_timestamp.is_none() && is_ready(&status),
            host_network: spec.host_network.unwrap_or_default(),
            transport: transport(&pod.metadata, squired)?,
            ports: named_ports(sidecars.chain(&spec.containers), interner)?,
            node: spec.node_name.as_deref().and_then(|name| interner.optional(name)),
            zone: labels
                .get("topology.kubernetes.io/zone")
                .and_then(|zone| interner.optional(zone)),
            owner: owner(&pod.metadata, interner),
            labels: interner.labels(labels),
            key,
        })
    }
}

fn addresses(status: &PodStatus) -> Result<Vec<IpAddr>, FactError> {
    let listed = status.pod_ips.as_deref().unwrap_or_default();
    let mut all = Vec::with_capacity(listed.len().max(1));
    if let Some(first) = status.pod_ip.as_deref().filter(|text| !text.is_empty()) {
        all.push(names::address("status.podIP", first)?);
    }
    for (at, listed) in listed.iter().enumerate() {
        let address = names::address(&format!("status.podIPs[{at}].ip"), &listed.ip)?;
        if !all.contains(&address) {
            all.push(address);
        }
    }
    Ok(all)
}

/// The `Ready` condition. A status written by hand, without any condition, counts as ready unless its phase says it is
/// not running.
fn is_ready(status: &PodStatus) -> bool {
    let running = matches!(status.phase.as_deref(), None | Some("Running"));
    match status.conditions.as_deref() {
        None | Some([]) => running,
        Some(conditions) => conditions
            .iter()
            .any(|each| each.type_ == "Ready" && each.status == "True"),
    }
}

/// The declared transport of a Pod or WorkloadEntry, else what the presence of a squire suggests.
pub(super) fn transport(metadata: &ObjectMeta, squired: bool) -> Result<Transport, FactError> {
    let find = |pairs: &Option<BTreeMap<String, String>>, key: &str| pairs.as_ref()?.get(key).cloned();
    for (place, pairs) in [("labels", &metadata.labels), ("annotations", &metadata.annotations)] {
        if let Some(text) = find(pairs, ports::TRANSPORT) {
            let path = format!("metadata.{place}[{:?}]", ports::TRANSPORT);
            return text.parse().map_err(|error| FactError::field(path, format!("{error}")));
        }
    }
    let injected = find(&metadata.annotations, ports::INJECTED).as_deref() == Some("true");
    Ok(if squired || injected {
        Transport::Squire
    } else {
        Transport::Plaintext
    })
}

fn named_ports<'a>(
    containers: impl Iterator<Item = &'a Container>,
    interner: &mut Interner,
) -> Result<Vec<NamedPort>, FactError> {
    let mut named = Vec::new();
    for container in containers {
        for (at, port) in container.ports.iter().flatten().enumerate() {
            let path = |field: &str| format!("spec.containers[{}].ports[{at}].{field}", container.name);
            let number = names::port(&path("containerPort"), port.container_port.into())?;
            let protocol = names::protocol(&path("protocol"), port.protocol.as_deref())?;
            if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
                let app_protocol = names::app_protocol(None, name).map(|text| interner.text(text));
                named.push(NamedPort {
                    name: interner.text(name),
                    port: number,
                    protocol,
                    app_protocol,
                });
            }
        }
    }
    Ok(named)
}

/// The controller of a pod. A ReplicaSet that a Deployment made is named after it plus the template's hash: then it is
/// the Deployment that people know.
fn owner(metadata: &ObjectMeta, interner: &mut Interner) -> Option<Owner> {
    let controller = metadata
        .owner_references
        .iter()
        .flatten()
        .find(|each| each.controller == Some(true))?;
    let hash = metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get("pod-template-hash"));
    let deployment = hash
        .filter(|_| controller.kind == "ReplicaSet")
        .and_then(|hash| controller.name.strip_suffix(hash.as_str()))
        .and_then(|name| name.strip_suffix('-'));
    let (kind, name) = deployment.map_or((&*controller.kind, &*controller.name), |name| ("Deployment", name));
    Some(Owner {
        kind: interner.text(kind),
        name: interner.text(name),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(value: Value) -> Result<PodFact, FactError> {
        PodFact::read(serde_json::from_value(value).unwrap(), &mut Interner::default())
    }

    #[test]
    fn a_hand_written_pod_needs_little() {
        let fact = pod(json!({"metadata": {"name": "web"}, "status": {"podIP": "127.10.0.1"}})).unwrap();
        assert_eq!(fact.key.to_string(), "default/web");
        assert_eq!(
            (&*fact.service_account, fact.ready, fact.ended),
            ("default", true, false)
        );
        assert_eq!(fact.transport, Transport::Plaintext);
        assert_eq!(fact.addresses, ["127.10.0.1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn readiness_follows_condition_phase_and_deletion() {
        let not_ready = json!([{"type": "Ready", "status": "False"}]);
        let ready = json!([{"type": "ContainersReady", "status": "False"}, {"type": "Ready", "status": "True"}]);
        for (status, deleted, expected) in [
            (json!({"phase": "Running", "conditions": ready}), false, true),
            (json!({"phase": "Running", "conditions": ready}), true, false),
            (json!({"phase": "Running", "conditions": not_ready}), false, false),
            (json!({"phase": "Running"}), false, true),
            (json!({"phase": "Pending"}), false, false),
            (json!({"phase": "Failed", "conditions": ready}), false, false),
        ] {
            let stamp = if deleted {
                json!("2026-01-01T00:00:00Z")
            } else {
                Value::Null
            };
            let metadata = json!({"name": "web", "deletionTimestamp": stamp});
            let fact = pod(json!({"metadata": metadata, "status": status})).unwrap();
            assert_eq!(fact.ready, expected, "{status} deleted={deleted}");
        }
    }

    #[test]
    fn transport_is_declared_or_follows_from_the_sidecar() {
        let named = |name: &str| json!([{"name": name}]);
        for (metadata, spec, expected) in [
            (
                json!({"labels": {"squire.mesh/transport": "spiffe-tls"}}),
                json!({}),
                Transport::SpiffeTls,
            ),
            (
                json!({"annotations": {"squire.mesh/transport": "squire"}}),
                json!({}),
                Transport::Squire,
            ),
            (
                json!({"annotations": {"squire.mesh/injected": "true"}}),
                json!({}),
                Transport::Squire,
            ),
            (
                json!({"annotations": {"squire.mesh/injected": "yes"}}),
                json!({}),
                Transport::Plaintext,
            ),
            (
                json!({}),
                json!({"initContainers": named("squire-proxy")}),
                Transport::Squire,
            ),
            (
                json!({}),
                json!({"containers": named("squire-proxy")}),
                Transport::Squire,
            ),
            (
                json!({"labels": {"squire.mesh/transport": "plaintext"}}),
                json!({"containers": named("squire-proxy")}),
                Transport::Plaintext,
            ),
            (json!({}), json!({"containers": named("app")}), Transport::Plaintext),
        ] {
            let (mut metadata, mut spec) = (metadata, spec);
            metadata["name"] = json!("web");
            if spec.get("containers").is_none() {
                spec["containers"] = json!([]);
            }
            let fact = pod(json!({"metadata": metadata, "spec": spec})).unwrap();
            assert_eq!(fact.transport, expected, "{metadata} {spec}");
        }
        let error = pod(json!({"metadata": {"name": "web", "labels": {"squire.mesh/transport": "mtls"}}})).unwrap_err();
        assert!(error.to_string().contains("spiffe-tls"), "{error}");
    }

    #[test]
    fn named_ports_of_containers_and_sidecars_count_those_of_init_containers_do_not() {
        let port = |name: &str, port: u16| json!([{"name": name, "containerPort": port}]);
        let fact = pod(json!({"metadata": {"name": "web"}, "spec": {
            "initContainers": [
                {"name": "once", "ports": port("once", 1)},
                {"name": "side", "restartPolicy": "Always", "ports": port("metrics", 9090)},
            ],
            "containers": [{"name": "app", "ports": [
                {"name": "http", "containerPort": 8080}, {"containerPort": 9},
                {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            ]}],
        }}))
        .unwrap();
        let seen: Vec<_> = fact
            .ports
            .iter()
            .map(|port| (&*port.name, port.port, port.app_protocol.as_deref()))
            .collect();
        assert_eq!(
            seen,
            [("metrics", 9090, None), ("http", 8080, Some("http")), ("dns", 53, None)]
        );
    }

    #[test]
    fn the_owner_people_know_is_the_deployment() {
        let owned = |kind: &str, name: &str| json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "1", "controller": true}]);
        for (kind, name, expected) in [
            ("ReplicaSet", "web-5d4f", ("Deployment", "web")),
            ("ReplicaSet", "web-other", ("ReplicaSet", "web-other")),
            ("StatefulSet", "pg", ("StatefulSet", "pg")),
        ] {
            let labels = json!({"pod-template-hash": "5d4f"});
            let metadata = json!({"name": "p", "labels": labels, "ownerReferences": owned(kind, name)});
            let owner = pod(json!({"metadata": metadata})).unwrap().owner.unwrap();
            assert_eq!((&*owner.kind, &*owner.name), expected);
        }
    }

    #[test]
    fn dual_stack_addresses_are_kept_once_and_in_order() {
        let ips = json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]);
        let fact = pod(json!({"metadata": {"name": "web"}, "status": {"podIP": "10.0.0.1", "podIPs": ips}})).unwrap();
        assert_eq!(fact.addresses.len(), 2);
        let error = pod(json!({"metadata": {"name": "web"}, "status": {"podIP": "10.0.0"}})).unwrap_err();
        assert_eq!(error.path(), Some("status.podIP"));
    }
}
