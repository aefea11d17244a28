//! One change after the other must lead where everything at once leads, and look at nobody whom it does not concern.

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};
use squire_mesh::workload::Interner;

use super::{Compiler, Mesh, Settings, Touched, mesh};
use crate::{
    facts,
    inventory::{Inventory, SharedFact},
};

fn settings() -> Settings {
    Settings {
        trust_domain: "cluster.local".parse().unwrap(),
        cluster_domain: "cluster.local".to_owned(),
    }
}

fn fact(object: &Value, interner: &mut Interner) -> SharedFact {
    let text = |key: &str| object[key].as_str().unwrap().to_owned();
    let fact = facts::read(&text("apiVersion"), &text("kind"), object.clone(), interner);
    fact.unwrap().unwrap().into()
}

fn inventory<'v>(objects: impl IntoIterator<Item = &'v Value>, interner: &mut Interner) -> Inventory {
    let mut inventory = Inventory::default();
    for object in objects {
        assert!(inventory.add(fact(object, interner)), "once: {object}");
    }
    inventory
}

/// A mesh that is changed step by step.
struct History {
    compiler: Compiler,
    known: Inventory,
    mesh: Mesh,
    interner: Interner,
}

impl History {
    fn new() -> Self {
        Self {
            compiler: Compiler::new(settings()),
            known: Inventory::default(),
            mesh: Mesh::default(),
            interner: Interner::default(),
        }
    }

    fn becomes<'v>(&mut self, objects: impl IntoIterator<Item = &'v Value>) -> Touched {
        let now = inventory(objects, &mut self.interner);
        let changes = now.changes_since(&self.known);
        self.known = now;
        let before = self.mesh.clone();
        let services = self.compiler.services().clone();
        let touched = self.compiler.apply(changes, &mut self.mesh, &mut self.interner);
        let all = before.workloads.keys().chain(self.mesh.workloads.keys());
        for uid in all.filter(|uid| !touched.workloads.contains(*uid)) {
            assert_eq!(
                before.workloads.get(uid),
                self.mesh.workloads.get(uid),
                "{uid} has changed, and nobody knows"
            );
        }
        assert_eq!(touched.services, services != *self.compiler.services());
        touched
    }

    fn is_as_if_made_anew(&mut self) {
        let anew = mesh(&self.known, &settings(), &mut self.interner);
        assert_eq!(self.mesh.workloads, anew.workloads);
        assert_eq!(*self.compiler.services(), anew.services);
        assert_eq!(self.mesh.remarks, anew.remarks);
    }
}

const NAMESPACES: [&str; 2] = ["bank", "shop"];
const ADDRESSES: [&str; 5] = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "fd00::1"];
const APPS: [&str; 3] = ["web", "api", "db"];

/// An object of a small world, in which names, addresses and labels meet often; and what tells it from the others.
fn object(random: &mut StdRng) -> (String, Value) {
    let namespace = *NAMESPACES.choose(random).unwrap();
    let app = *APPS.choose(random).unwrap();
    let number = random.random_range(0..4);
    let address = *ADDRESSES.choose(random).unwrap();
    let value = match random.random_range(0..12) {
        0..4 => {
            let phase = *["Running", "Running", "Running", "Succeeded"].choose(random).unwrap();
            let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": format!("pod-{number}"), "namespace": namespace, "labels": {"app": app, "tier": "x"}},
                "spec": {"serviceAccountName": app, "hostNetwork": random.random_ratio(1, 6),
                         "containers": [{"name": "app", "ports": [{"name": "http", "containerPort": 8080}, {"name": app, "containerPort": 9000}]}]},
                "status": {"podIP": address, "phase": phase}});
            if random.random_ratio(1, 6) {
                pod["status"] = Value::Null;
            }
            pod
        }
        4..6 => json!({"apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry",
            "metadata": {"name": format!("vm-{number}"), "namespace": namespace},
            "spec": {"address": address, "serviceAccount": app, "labels": {"app": app}, "ports": {"http": 8081}}}),
        6..8 => {
            let selector = if random.random_ratio(1, 5) {
                Value::Null
            } else {
                json!({"app": app})
            };
            let protocols = [Value::Null, json!("http"), json!("kubernetes.io/h2c")];
            let protocol = protocols.choose(random).unwrap();
            let targets = [json!("http"), json!(8080), json!(app)];
            let target = targets.choose(random).unwrap();
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("svc-{number}"), "namespace": namespace},
                "spec": {"selector": selector, "ports": [{"name": "p", "port": 80, "targetPort": target, "appProtocol": protocol}]}})
        }
        8..10 => {
            let count = random.random_range(0..4);
            let endpoints: Vec<Value> = (0..count)
                .map(|_| {
                    let mut endpoint = json!({"addresses": [ADDRESSES.choose(random).unwrap()], "conditions": {"ready": random.random_ratio(3, 4)}});
                    if random.random_ratio(1, 2) {
                        let pod = format!("pod-{}", random.random_range(0..4));
                        endpoint["targetRef"] = json!({"kind": "Pod", "name": pod});
                    }
                    endpoint
                })
                .collect();
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": format!("slice-{number}"), "namespace": namespace,
                             "labels": {"kubernetes.io/service-name": format!("svc-{}", random.random_range(0..4))}},
                "endpoints": endpoints, "ports": [{"name": "p", "port": random.random_range(8080..8082)}]})
        }
        10 => {
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": {"team": app}}})
        }
        _ => json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("node-{number}")},
            "status": {"addresses": [{"type": "InternalIP", "address": address}]}}),
    };
    let of = format!(
        "{} {}/{}",
        value["kind"], value["metadata"]["namespace"], value["metadata"]["name"]
    );
    (of, value)
}

#[test]
fn a_thousand_changes_lead_where_everything_at_once_leads() {
    for seed in 0..20 {
        let random = &mut StdRng::seed_from_u64(seed);
        let (mut history, mut objects) = (History::new(), std::collections::BTreeMap::new());
        for _ in 0..50 {
            for _ in 0..random.random_range(1..4) {
                let (name, value) = object(random);
                if random.random_ratio(1, 3) {
                    objects.remove(&name);
                } else {
                    objects.insert(name, value);
                }
            }
            history.becomes(objects.values());
            history.is_as_if_made_anew();
        }
    }
}

/// 100 namespaces with 100 pods and ten Services each: 5 that select and 5 with EndpointSlices.
fn city() -> Vec<Value> {
    let mut objects = Vec::new();
    for n in 0..100 {
        let namespace = format!("ns-{n}");
        objects.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}));
        for pod in 0..100 {
            objects.push(citizen(n, pod, &format!("app-{}", pod % 10)));
        }
        for app in 0..10 {
            let name = format!("app-{app}");
            objects.push(
                json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
                "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}),
            );
            if app >= 5 {
                let endpoints: Vec<Value> = (0..10).map(|each| endpoint(n, each * 10 + app)).collect();
                objects.push(
                    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                    "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": name}},
                    "endpoints": endpoints, "ports": [{"name": "http", "port": 8080}]}),
                );
            }
        }
    }
    objects
}

fn citizen(namespace: usize, pod: usize, app: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod-{pod}"), "namespace": format!("ns-{namespace}"), "labels": {"app": app}},
        "spec": {"serviceAccountName": app, "containers": [{"name": "app", "ports": [{"name": "web", "containerPort": 8080}]}]},
        "status": {"podIP": format!("10.1.{namespace}.{pod}")}})
}

fn endpoint(namespace: usize, pod: usize) -> Value {
    json!({"addresses": [format!("10.1.{namespace}.{pod}")], "targetRef": {"kind": "Pod", "name": format!("pod-{pod}")}})
}

#[test]
fn of_ten_thousand_workloads_only_those_that_a_change_concerns_are_looked_at() {
    let (mut history, mut objects) = (History::new(), city());
    let mut step = |objects: &[Value]| {
        let touched = history.becomes(objects);
        (touched.looked_at, touched.workloads.len(), touched.services)
    };
    assert_eq!(
        step(&objects),
        (20_000, 10_000, true),
        "everything once, and what may stand at its address"
    );
    assert_eq!(
        step(&objects),
        (0, 0, false),
        "nothing has changed, nobody is looked at"
    );
    let at = |objects: &[Value], kind: &str, namespace: &str, name: &str| {
        let found = objects.iter().position(|object| {
            let metadata = &object["metadata"];
            object["kind"] == kind && metadata["namespace"] == namespace && metadata["name"] == name
        });
        found.unwrap()
    };
    let pod = at(&objects, "Pod", "ns-7", "pod-41");
    objects[pod] = citizen(7, 41, "app-2");
    assert_eq!(step(&objects), (2, 1, false), "a pod, and its address");
    let gone = objects.remove(pod);
    assert_eq!(step(&objects), (2, 1, false));
    objects.push(gone);
    assert_eq!(step(&objects), (2, 1, false));
    let slice = at(&objects, "EndpointSlice", "ns-9", "app-6");
    objects[slice]["endpoints"][3]["conditions"] = json!({"ready": false});
    assert_eq!(
        step(&objects),
        (2, 1, false),
        "of ten endpoints the one that is not ready any more"
    );
    let service = at(&objects, "Service", "ns-3", "app-4");
    objects[service]["spec"]["ports"][0]["port"] = json!(81);
    assert_eq!(step(&objects), (10, 10, true), "the ten pods that it selects");
    let namespace = objects
        .iter()
        .position(|object| object["metadata"]["name"] == "ns-50")
        .unwrap();
    objects[namespace]["metadata"]["labels"] = json!({"team": "a"});
    assert_eq!(step(&objects), (100, 100, false), "those of its namespace");
    history.is_as_if_made_anew();
}
