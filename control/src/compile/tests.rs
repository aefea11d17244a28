//! From objects as people write them to what a proxy is told.

use serde_json::{Value, json};
use squire_mesh::workload::{Interner, Transport};

use super::{Mesh, Settings, mesh};
use crate::{facts, inventory::Inventory};

fn compile(objects: impl IntoIterator<Item = Value>) -> Mesh {
    let mut interner = Interner::default();
    let mut inventory = Inventory::default();
    for object in objects {
        let (api, kind) = (
            object["apiVersion"].as_str().unwrap().to_owned(),
            object["kind"].as_str().unwrap().to_owned(),
        );
        let fact = facts::read(&api, &kind, object, &mut interner)
            .unwrap()
            .expect("a kind we know");
        assert!(inventory.add(fact.into()), "added once");
    }
    let settings = Settings {
        trust_domain: "cluster.local".parse().unwrap(),
        cluster_domain: "cluster.local".to_owned(),
    };
    mesh(&inventory, &settings, &mut interner)
}

fn pod(name: &str, address: &str, label: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": label}},
        "spec": {"serviceAccountName": label, "containers": [
            {"name": "app", "ports": [{"name": "web", "containerPort": 8080}]}]},
        "status": {"podIP": address}})
}

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
}

fn slice(service: &str, endpoints: Value, ports: Value) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{service}-1"), "namespace": "shop", "labels": {"kubernetes.io/service-name": service}},
        "endpoints": endpoints, "ports": ports})
}

/// `workload: service:port→port …` of every workload that backs something.
fn backing(mesh: &Mesh) -> Vec<String> {
    let lines = mesh
        .workloads
        .values()
        .filter(|workload| !workload.services.is_empty())
        .map(|workload| {
            let of = |membership: &squire_mesh::workload::Membership| {
                let pairs = membership
                    .ports
                    .iter()
                    .map(|pair| format!("{}→{}", pair.service_port, pair.target_port));
                format!("{} {}", membership.service, pairs.collect::<Vec<_>>().join(","))
            };
            format!(
                "{}: {}",
                workload.uid,
                workload.services.iter().map(of).collect::<Vec<_>>().join("; ")
            )
        });
    lines.collect()
}

#[test]
fn without_slices_the_selector_and_the_named_port_decide() {
    let mesh = compile([
        pod("web-1", "10.0.0.1", "web"),
        pod("web-2", "10.0.0.2", "web"),
        pod("db-1", "10.0.0.3", "db"),
        service(
            "web",
            json!({"clusterIP": "10.96.0.1", "selector": {"app": "web"},
            "ports": [{"name": "a", "port": 80, "targetPort": "web"}, {"name": "b", "port": 81, "targetPort": 9}]}),
        ),
        service(
            "nobody",
            json!({"selector": {"app": "web", "tier": "none"}, "ports": [{"port": 80}]}),
        ),
        service(
            "unnamed",
            json!({"selector": {"app": "db"}, "ports": [{"port": 80, "targetPort": "absent"}]}),
        ),
    ]);
    assert_eq!(
        backing(&mesh),
        ["shop/web-1: shop/web 80→8080,81→9", "shop/web-2: shop/web 80→8080,81→9"]
    );
}

#[test]
fn a_slice_wins_over_the_selector() {
    let mesh = compile([
        pod("web-1", "10.0.0.1", "web"),
        pod("web-2", "10.0.0.2", "web"),
        service(
            "web",
            json!({"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80}]}),
        ),
        slice(
            "web",
            json!([{"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "web-1"}},
                   {"addresses": ["10.0.0.2"], "conditions": {"ready": false}}]),
            json!([{"name": "http", "port": 8080}]),
        ),
    ]);
    assert_eq!(backing(&mesh), ["shop/web-1: shop/web 80→8080"]);
}

#[test]
fn addresses_of_slices_become_their_pod_their_entry_or_a_bare_workload() {
    let entry = json!({"apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry",
        "metadata": {"name": "vm1", "namespace": "shop"}, "spec": {"address": "10.9.0.1"}});
    let mesh = compile([
        pod("web-1", "10.0.0.1", "web"),
        entry,
        service("web", json!({"ports": [{"port": 80}]})),
        slice(
            "web",
            json!([{"addresses": ["10.0.0.1"]}, {"addresses": ["10.9.0.1"]}, {"addresses": ["192.0.2.7"]}]),
            json!([{"port": 8080}]),
        ),
    ]);
    assert_eq!(
        backing(&mesh),
        [
            "shop/address/192.0.2.7: shop/web 80→8080",
            "shop/entry/vm1: shop/web 80→8080",
            "shop/web-1: shop/web 80→8080"
        ]
    );
    let bare = mesh.workloads.get("shop/address/192.0.2.7").unwrap();
    assert_eq!(
        (bare.transport, &bare.identity, bare.labels.is_empty()),
        (Transport::Plaintext, &None, true)
    );
    assert!(
        bare.namespace_labels.is_empty(),
        "no namespace selector may match what is not a pod"
    );
}

#[test]
fn a_workload_entry_is_selected_like_a_pod_and_keeps_its_own_ports() {
    let entry = json!({"apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry",
        "metadata": {"name": "vm1", "namespace": "shop", "annotations": {"squire.mesh/transport": "spiffe-tls"}},
        "spec": {"address": "10.9.0.1", "serviceAccount": "db", "labels": {"app": "db"}, "ports": {"pg": 15432}}});
    let mesh = compile([
        entry,
        service(
            "db",
            json!({"selector": {"app": "db"}, "ports": [{"name": "pg", "port": 5432}, {"name": "x", "port": 9}]}),
        ),
    ]);
    assert_eq!(backing(&mesh), ["shop/entry/vm1: shop/db 5432→15432,9→9"]);
    let vm = mesh.workloads.get("shop/entry/vm1").unwrap();
    assert_eq!(
        vm.identity.as_ref().unwrap().to_string(),
        "spiffe://cluster.local/ns/shop/sa/db"
    );
    assert_eq!(vm.transport, Transport::SpiffeTls);
}

#[test]
fn services_have_names_and_addresses_and_headless_ones_only_names() {
    let mesh = compile([
        service(
            "web",
            json!({"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": 80},
            {"name": "dns", "port": 53, "protocol": "UDP"}]}),
        ),
        service("pg", json!({"clusterIP": "None", "ports": [{"port": 5432}]})),
    ]);
    let web = mesh.services.get("shop/web").unwrap();
    let names: Vec<_> = web.hostnames.iter().map(|name| &**name).collect();
    assert_eq!(names, ["web", "web.shop", "web.shop.svc", "web.shop.svc.cluster.local"]);
    assert_eq!((web.vips.len(), web.ports.len()), (1, 1), "a sidecar carries TCP only");
    assert_eq!(web.ports[0].app_protocol.as_deref(), Some("http"));
    assert!(mesh.services.get("shop/pg").unwrap().vips.is_empty());
}

#[test]
fn a_service_declares_the_protocol_of_the_port_behind_it() {
    let ports = json!([{"name": "x", "port": 80, "targetPort": "web", "appProtocol": "kubernetes.io/h2c"}]);
    let mesh = compile([
        pod("web-1", "10.0.0.1", "web"),
        service("web", json!({"selector": {"app": "web"}, "ports": ports})),
    ]);
    assert_eq!(
        mesh.workloads.get("shop/web-1").unwrap().app_protocol(8080),
        Some("http2")
    );
}

#[test]
fn pods_without_an_address_and_shared_addresses_are_remarked_on() {
    let mut nowhere = pod("nowhere", "", "web");
    nowhere["status"] = Value::Null;
    let mut ended = pod("ended", "10.0.0.1", "web");
    ended["status"]["phase"] = json!("Succeeded");
    let mesh = compile([pod("a", "10.0.0.1", "web"), pod("b", "10.0.0.1", "web"), nowhere, ended]);
    assert_eq!(mesh.workloads.len(), 2);
    let objects: Vec<_> = mesh.remarks.iter().map(|remark| &*remark.object).collect();
    assert_eq!(objects, ["Pod shop/nowhere", "Pod shop/b"], "{:?}", mesh.remarks);
}

#[test]
fn namespaces_give_their_labels_declared_or_not() {
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "a"}}});
    let undeclared = compile([pod("a", "10.0.0.1", "web")]);
    let declared = compile([pod("a", "10.0.0.1", "web"), namespace]);
    for (mesh, team) in [(undeclared, None), (declared, Some("a"))] {
        let labels = &mesh.workloads.get("shop/a").unwrap().namespace_labels;
        assert_eq!(
            (labels.get("kubernetes.io/metadata.name"), labels.get("team")),
            (Some("shop"), team)
        );
    }
}
