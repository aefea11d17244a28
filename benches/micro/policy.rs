//! How long a decision takes, and how long compiling does. The tables are made from real objects by the control plane's own
//! code, so that what is measured is what runs.

#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a benchmark may fail"
)]

use std::{
    hint::black_box,
    sync::{Arc, LazyLock},
    time::Duration,
};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use serde_json::{Value, json};
use squire_control::{
    compile::{Compiler, Mesh, Settings},
    facts,
    inventory::{Change, Inventory, SharedFact},
    manifest::Object,
    policy::{MeshConfig, PolicySet, Subject},
    tables::Tables,
};
use squire_mesh::{
    policy::{Connection, Destination, Http, Principal, Request, Source, Table, decide_inbound},
    spiffe::{SpiffeId, TrustDomain},
    workload::{Interner, Transport, Workload, WorkloadUid},
};

/// A workload as the table of workloads has it: interned labels, as many as pods of a Deployment usually carry.
fn workload(namespace: &str, app: &str) -> Workload {
    let domain: TrustDomain = "cluster.local".parse().unwrap();
    let mut interner = Interner::default();
    Workload {
        uid: WorkloadUid::pod(namespace, app),
        namespace: namespace.into(),
        name: app.into(),
        identity: Some(SpiffeId::workload(&domain, namespace, "web").unwrap()),
        addresses: [].into(),
        transport: Transport::Squire,
        plaintext_ports: None,
        host_network: false,
        ready: true,
        labels: interner.labels([
            ("app", app),
            ("app.kubernetes.io/name", app),
            ("app.kubernetes.io/part-of", "shop"),
            ("pod-template-hash", "6d4b75cb6d"),
            ("version", "v1"),
        ]),
        namespace_labels: interner.labels([("kubernetes.io/metadata.name", namespace), ("team", "front")]),
        ports: [].into(),
        services: [].into(),
        node: None,
        zone: None,
        owner: None,
    }
}

static CLIENT: LazyLock<Workload> = LazyLock::new(|| workload("client", "client-9"));
static DB: LazyLock<Workload> = LazyLock::new(|| workload("shop", "db"));

fn object(kind: &str, namespace: &str, name: &str, spec: &Value) -> Object {
    let version = if kind == "NetworkPolicy" {
        "networking.k8s.io/v1"
    } else {
        "security.istio.io/v1"
    };
    let metadata = json!({ "name": name, "namespace": namespace });
    Object::from_value(
        "bench",
        json!({ "apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec }),
    )
    .unwrap()
}

/// Ten policies of ten rules; only the last rule of the last policy matches.
fn ten_by_ten(http: bool) -> Vec<Object> {
    let policy = |p: usize| {
        let rules: Vec<Value> = (0..10)
            .map(|rule| {
                let n = p * 10 + rule;
                let account = if n == 99 {
                    "web".to_owned()
                } else {
                    format!("account-{n}")
                };
                let mut value = json!({
                    "from": [{"source": {"principals": [format!("cluster.local/ns/client/sa/{account}")]}}],
                    "to": [{"operation": {"ports": ["8080"]}}],
                });
                if http {
                    // Here every rule knows the caller, so that paths and headers have to be looked at.
                    value["from"] = json!([{"source": {"namespaces": ["client"]}}]);
                    let path = if n == 99 {
                        "/orders/{*}/items".to_owned()
                    } else {
                        format!("/service-{n}/{{*}}/items")
                    };
                    value["to"] = json!([{"operation": {"methods": ["GET", "POST"], "paths": [path]}}]);
                    value["when"] = json!([{"key": "request.headers[x-tenant]", "values": ["acme", "tenant-*"]}]);
                }
                value
            })
            .collect();
        object(
            "AuthorizationPolicy",
            "shop",
            &format!("allow-{p}"),
            &json!({"selector": {"matchLabels": {"app": "db"}}, "rules": rules}),
        )
    };
    (0..10).map(policy).collect()
}

/// Ten NetworkPolicies of ten rules; only the last rule of the last policy matches.
fn ten_network_policies() -> Vec<Object> {
    let policy = |p: usize| {
        let rule = |rule: usize| {
            json!({
                "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "client"}},
                          "podSelector": {"matchLabels": {"app": if p * 10 + rule == 99 { "client-9".to_owned() } else { format!("other-{rule}") }}}}],
                "ports": [{"port": 8080}],
            })
        };
        let rules: Vec<Value> = (0..10).map(rule).collect();
        object(
            "NetworkPolicy",
            "shop",
            &format!("np-{p}"),
            &json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": rules}),
        )
    };
    (0..10).map(policy).collect()
}

fn set(objects: &[Object]) -> PolicySet {
    PolicySet::from_objects(objects, MeshConfig::default()).0
}

fn db() -> Subject<'static> {
    Subject {
        namespace: "shop",
        labels: vec![("app", "db"), ("version", "v1")],
        selectable: true,
    }
}

fn connection() -> Request<'static> {
    let source = Source::workload("10.0.0.9".parse().unwrap(), &*CLIENT)
        .with_principal(Principal::new("spiffe://cluster.local/ns/client/sa/web"));
    let destination = Destination {
        ip: "10.0.1.1".parse().unwrap(),
        port: 8080,
        workload: Some(&*DB),
    };
    Request::connection(
        source,
        destination,
        Connection {
            mutual_tls: true,
            ..Connection::default()
        },
    )
}

const HEADERS: [(&str, &str); 6] = [
    ("accept", "*/*"),
    ("user-agent", "bench"),
    ("content-type", "application/json"),
    ("x-request-id", "0123456789"),
    ("x-tenant", "tenant-7"),
    ("traceparent", "00-0-0-00"),
];

fn deciding(c: &mut Criterion) {
    let mut group = c.benchmark_group("decide");
    let mut measure = |name: &str, table: &Table, request: &Request<'_>| {
        assert!(
            decide_inbound(table, request).is_allowed(),
            "{name} must reach the last rule and allow"
        );
        group.bench_function(name, |b| {
            b.iter(|| decide_inbound(black_box(table), black_box(request)))
        });
    };
    let request = connection();
    let http = request.with_http(Http::new("GET", Some("/orders/42/items?page=1"), "db.shop", &HEADERS));
    let l4 = ten_by_ten(false);
    measure("l4, 10 policies x 10 rules", &set(&l4).compile(&db()), &request);
    measure(
        "networkpolicy, 10 policies x 10 rules",
        &set(&ten_network_policies()).compile(&db()),
        &request,
    );
    measure(
        "l7, 10 policies x 10 rules, paths and headers",
        &set(&ten_by_ten(true)).compile(&db()),
        &http,
    );
    let mut many = l4;
    many.extend((0..1000).map(|n| {
        let spec = json!({"selector": {"matchLabels": {"app": format!("other-{n}")}}, "action": "DENY", "rules": [{}]});
        object("AuthorizationPolicy", "shop", &format!("other-{n}"), &spec)
    }));
    measure(
        "l4, beside 1000 policies that do not select it",
        &set(&many).compile(&db()),
        &request,
    );
    group.finish();
}

/// 100 namespaces of 100 workloads, and 10 policies in each: NetworkPolicies and AuthorizationPolicies by label.
fn city() -> Vec<Object> {
    (0..1000)
        .map(|n| {
            let namespace = format!("ns-{}", n / 10);
            let labels = json!({"app": format!("app-{}", n % 10)});
            if n % 2 == 0 {
                let spec = json!({"podSelector": {"matchLabels": labels}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"role": "client"}}}]}]});
                object("NetworkPolicy", &namespace, &format!("p-{n}"), &spec)
            } else {
                let spec = json!({"selector": {"matchLabels": labels}, "rules": [{"from": [{"source": {"namespaces": [namespace]}}]}]});
                object("AuthorizationPolicy", &namespace, &format!("p-{n}"), &spec)
            }
        })
        .collect()
}

fn compiling(c: &mut Criterion) {
    let mut group = c.benchmark_group("compile");
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    let objects = city();
    let names: Vec<(String, String)> = (0..10_000)
        .map(|n| (format!("ns-{}", n / 100), format!("app-{}", n % 10)))
        .collect();
    group.bench_function("10,000 workloads x 1,000 policies, objects included", |b| {
        b.iter(|| {
            let set = set(&objects);
            let tables: Vec<Table> = names
                .iter()
                .map(|(namespace, app)| {
                    set.compile(&Subject {
                        namespace,
                        labels: vec![("app", app), ("pod", "x"), ("role", "client")],
                        selectable: true,
                    })
                })
                .collect();
            black_box(tables)
        });
    });
    group.finish();
}

/// The 10,000 pods of the city, ten of each Deployment and 100 in each namespace, with a Service for each Deployment.
fn citizens() -> (Inventory, Interner) {
    let (mut inventory, mut interner) = (Inventory::default(), Interner::default());
    let namespaces = (0..100).map(|n| format!("ns-{n}"));
    for (n, namespace) in namespaces.enumerate() {
        for app in 0..10 {
            let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("app-{app}"), "namespace": namespace},
                "spec": {"selector": {"app": format!("app-{app}")}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}});
            inventory.add(fact(service, &mut interner));
        }
        for pod in 0..100 {
            inventory.add(citizen(n * 100 + pod, "client", &mut interner));
        }
    }
    (inventory, interner)
}

fn citizen(n: usize, role: &str, interner: &mut Interner) -> SharedFact {
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod-{n}"), "namespace": format!("ns-{}", n / 100),
                     "labels": {"app": format!("app-{}", n % 10), "role": role, "squire.mesh/transport": "squire"}},
        "spec": {"serviceAccountName": format!("app-{}", n % 10), "containers": [{"name": "app", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"podIP": format!("10.{}.{}.1", n / 200, n % 200)}});
    fact(pod, interner)
}

fn fact(object: Value, interner: &mut Interner) -> SharedFact {
    let text = |key: &str| object[key].as_str().unwrap().to_owned();
    let (version, kind) = (text("apiVersion"), text("kind"));
    facts::read(&version, &kind, object, interner).unwrap().unwrap().into()
}

/// What the control plane keeps from one change to the next.
struct Plane {
    compiler: Compiler,
    tables: Tables,
    mesh: Mesh,
    interner: Interner,
}

impl Plane {
    fn new() -> Self {
        let trust_domain: TrustDomain = "cluster.local".parse().unwrap();
        let settings = Settings {
            trust_domain: trust_domain.clone(),
            cluster_domain: "cluster.local".to_owned(),
        };
        Self {
            compiler: Compiler::new(settings),
            tables: Tables::new(trust_domain),
            mesh: Mesh::default(),
            interner: Interner::default(),
        }
    }

    /// From what has changed to encoded tables. How many workloads got another table, and how many were looked at.
    fn change(&mut self, changes: impl IntoIterator<Item = Change>, policies: &[Arc<Object>]) -> (usize, usize) {
        let touched = self.compiler.apply(changes, &mut self.mesh, &mut self.interner);
        let update = self
            .tables
            .update(policies, &mut self.mesh.workloads, &touched.workloads);
        (update.resources.len(), touched.looked_at + update.looked_at)
    }
}

/// What the control plane does with a change: from facts and policy objects to workloads and encoded tables.
fn changing(c: &mut Criterion) {
    let mut group = c.benchmark_group("mesh of 10,000 pods x 1,000 policies");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    let policies: Vec<Arc<Object>> = city().into_iter().map(Arc::new).collect();
    let (citizens, mut interner) = citizens();
    let everything = || citizens.changes_since(&Inventory::default());
    group.bench_function("all of it", |b| {
        b.iter_batched(
            || (Plane::new(), everything()),
            |(mut plane, everything)| {
                assert_eq!(plane.change(everything, &policies).0, 10_000);
                plane
            },
            BatchSize::PerIteration,
        );
    });
    let mut plane = Plane::new();
    plane.change(everything(), &policies);
    let mut versions = [
        citizen(4321, "moved", &mut interner),
        citizen(4321, "client", &mut interner),
    ]
    .into_iter()
    .cycle();
    group.bench_function("one pod changes", |b| {
        b.iter(|| {
            let fact = versions.next().unwrap();
            let change = Change {
                id: fact.id(),
                fact: Some(fact),
            };
            let (told, looked_at) = plane.change([change], &policies);
            assert!(
                told == 1 && looked_at <= 4,
                "it alone: {told} were told, {looked_at} looked at"
            );
        });
    });
    let other = json!({"podSelector": {"matchLabels": {"app": "app-0"}}, "ingress": []});
    let other = Arc::new(object("NetworkPolicy", "ns-0", "p-0", &other));
    let mut edited = policies.clone();
    let mut versions = [other, Arc::clone(&policies[0])].into_iter().cycle();
    group.bench_function("one policy changes", |b| {
        b.iter(|| {
            edited[0] = versions.next().unwrap();
            let (told, looked_at) = plane.change([], &edited);
            assert_eq!((told, looked_at), (10, 10), "the pods that it selects");
        });
    });
    group.finish();
}

criterion_group!(benches, deciding, compiling, changing);
criterion_main!(benches);
