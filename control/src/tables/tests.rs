use std::collections::BTreeMap;

use prost::Message;
use squire_mesh::{
    policy::Table,
    spiffe::SpiffeId,
    wire::{discovery, squire as wire},
    workload::{Interner, LabelSet, Transport, WorkloadUid},
};

use super::*;
use crate::{
    compile::{Settings, mesh},
    facts,
    inventory::Inventory,
    manifest::Manifest,
};

const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-web, namespace: shop}
spec:
  selector: {matchLabels: {app: db}}
  action: ALLOW
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}]
";

fn peer_authentication(name: &str, selector: &str, mtls: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
         metadata: {{name: {name}, namespace: shop}}\nspec: {{{selector} {mtls}}}\n"
    )
}

const DB_METRICS_PLAIN: &str = "selector: {matchLabels: {app: db}}, mtls: {mode: STRICT},";

/// A shop with its tables, changed step by step.
struct Shop {
    tables: Tables,
    objects: BTreeMap<String, Arc<Object>>,
    workloads: BTreeMap<WorkloadUid, Workload>,
    /// Pods that are not what they were at the last update.
    changed: BTreeSet<WorkloadUid>,
    /// Every policy that was told, as far as it was not taken back.
    told: BTreeMap<Arc<str>, Resource>,
}

impl Shop {
    fn with(pods: &[(&str, &str)]) -> Self {
        let trust_domain: TrustDomain = "cluster.local".parse().unwrap();
        let mut shop = Self {
            tables: Tables::new(trust_domain),
            objects: BTreeMap::new(),
            workloads: BTreeMap::new(),
            changed: BTreeSet::new(),
            told: BTreeMap::new(),
        };
        shop.pods(pods);
        shop
    }

    fn new() -> Self {
        Self::with(&[("db-1", "db"), ("db-2", "db"), ("web-1", "web")])
    }

    fn pods(&mut self, pods: &[(&str, &str)]) {
        let pods: String = pods
            .iter()
            .map(|(name, app)| {
                format!(
                    "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {app}}}, \
                     annotations: {{squire.mesh/injected: \"true\"}}}}\nstatus: {{podIP: 127.10.0.1}}\n---\n"
                )
            })
            .collect();
        let mut interner = Interner::default();
        let mut inventory = Inventory::default();
        for object in Manifest::parse("pods.yaml", &pods).objects {
            let fact = facts::read(&object.api_version, &object.kind, object.value, &mut interner)
                .unwrap()
                .unwrap();
            inventory.add(fact.into());
        }
        let settings = Settings {
            trust_domain: "cluster.local".parse().unwrap(),
            cluster_domain: String::new(),
        };
        let mut now = mesh(&inventory, &settings, &mut interner).workloads;
        // As `compile` does it: what is known of their policy stays noted.
        for (uid, workload) in &mut now {
            let before = self.workloads.get(uid);
            workload.plaintext_ports = before.and_then(|before| before.plaintext_ports.clone());
        }
        let all = self.workloads.keys().chain(now.keys());
        let changed = all.filter(|uid| self.workloads.get(*uid) != now.get(*uid));
        self.changed.extend(changed.cloned());
        self.workloads = now;
    }

    /// Adds or replaces the objects in a text; the others stay the same `Arc`s.
    fn apply(&mut self, text: &str) -> Update {
        for object in Manifest::parse("policy.yaml", text).objects {
            self.objects
                .insert(format!("{} {}", object.kind, object.name), Arc::new(object));
        }
        self.update()
    }

    fn remove(&mut self, name: &str) -> Update {
        assert!(self.objects.remove(name).is_some());
        self.update()
    }

    fn update(&mut self) -> Update {
        let objects: Vec<_> = self.objects.values().map(Arc::clone).collect();
        let changed = std::mem::take(&mut self.changed);
        let before = self.workloads.clone();
        let update = self.tables.update(&objects, &mut self.workloads, &changed);
        for resource in &update.resources {
            self.told.insert(Arc::clone(&resource.name), resource.clone());
        }
        for name in &update.removed {
            assert!(self.told.remove(name).is_some(), "{name} was told of");
        }
        for (uid, workload) in &before {
            let told = changed.contains(uid) || update.noted.contains(uid);
            assert!(
                told || self.workloads[uid] == *workload,
                "{uid} has changed, and nobody knows"
            );
        }
        // Whatever was kept is what a control plane that has just started would make.
        let mut fresh = Self::with(&[]);
        fresh.workloads = self.workloads.clone();
        let everybody: Vec<_> = fresh.workloads.keys().cloned().collect();
        let anew = fresh.tables.update(&objects, &mut fresh.workloads, &everybody);
        let version = |resource: &Resource| (Arc::clone(&resource.name), resource.version);
        let kept: Vec<_> = self.told.values().map(version).collect();
        assert_eq!(kept, anew.resources.iter().map(version).collect::<Vec<_>>());
        assert_eq!(update.problems, anew.problems);
        assert_eq!(self.workloads, fresh.workloads);
        update
    }

    fn takes_mtls(&self, port: u16) -> Vec<(&str, bool)> {
        let workloads = self.workloads.values();
        workloads
            .map(|workload| (&*workload.name, workload.takes_mtls(port)))
            .collect()
    }
}

fn table(resource: &Resource) -> Table {
    let envelope = discovery::Resource::decode(resource.encoded.clone()).unwrap();
    wire::Policy::decode(&*envelope.resource.unwrap().value)
        .unwrap()
        .try_into()
        .unwrap()
}

#[test]
fn every_workload_has_a_table_and_only_the_selected_ones_have_the_policy() {
    let Update {
        resources,
        problems,
        compiled,
        ..
    } = Shop::new().apply(POLICY);
    assert_eq!(problems, []);
    let names: Vec<_> = resources.iter().map(|resource| &*resource.name).collect();
    assert_eq!(names, ["shop/db-1", "shop/db-2", "shop/web-1"]);
    assert_eq!(
        resources[0].version, resources[1].version,
        "pods with the same labels share a table"
    );
    assert_eq!(compiled, 2);
    assert_eq!(table(&resources[0]).authorization.allow.len(), 1);
    assert_eq!(table(&resources[2]).authorization.allow.len(), 0);
}

#[test]
fn a_change_compiles_only_the_tables_it_concerns() {
    let mut shop = Shop::new();
    assert_eq!(shop.apply(POLICY).compiled, 2, "everything once");
    assert_eq!(shop.update().compiled, 0, "nothing has changed");
    let changed = POLICY.replace("sa/web", "sa/other");
    assert_eq!(shop.apply(&changed).compiled, 1, "the policy selects db alone");
    let moved = changed.replace("app: db", "app: web");
    assert_eq!(
        shop.apply(&moved).compiled,
        2,
        "whom it selected before, and whom it selects now"
    );
    assert_eq!(
        shop.apply(&moved.replace("namespace: shop", "namespace: other"))
            .compiled,
        1
    );
    assert_eq!(
        shop.remove("AuthorizationPolicy only-web").compiled,
        0,
        "it selected nobody here"
    );
    let everybody = peer_authentication("default", "", "mtls: {mode: STRICT}");
    assert_eq!(shop.apply(&everybody).compiled, 2);
    let settings = "apiVersion: squire.mesh/v1\nkind: MeshConfig\nmetadata: {name: mesh}\n\
                    spec: {pathNormalization: NONE}\n";
    assert_eq!(shop.apply(settings).compiled, 2, "settings concern every table");
}

#[test]
fn a_pod_that_comes_or_goes_compiles_at_most_its_own_table() {
    let mut shop = Shop::new();
    shop.apply(POLICY);
    shop.pods(&[("db-1", "db"), ("db-2", "db"), ("db-3", "db"), ("web-1", "web")]);
    assert_eq!(shop.update().compiled, 0, "it shares the table of its siblings");
    shop.pods(&[("db-1", "db"), ("web-1", "web"), ("new-1", "new")]);
    let update = shop.update();
    let gone: Vec<_> = update.removed.iter().map(|name| &**name).collect();
    assert_eq!(
        (update.compiled, update.resources.len(), gone),
        (1, 1, vec!["shop/db-2", "shop/db-3"])
    );
    shop.pods(&[("web-1", "web")]);
    shop.update();
    assert_eq!(
        shop.tables.groups.by_key.len(),
        1,
        "tables that nobody needs are dropped"
    );
}

#[test]
fn clients_are_told_where_mutual_tls_is_disabled_and_only_of_whom_that_concerns() {
    let mut shop = Shop::new();
    shop.update();
    assert!(shop.takes_mtls(9090).iter().all(|(_, mtls)| *mtls));
    let before = shop.workloads.clone();
    let metrics = peer_authentication("db", DB_METRICS_PLAIN, "portLevelMtls: {9090: {mode: DISABLE}}");
    assert_eq!(shop.apply(&metrics).compiled, 1);
    assert_eq!(
        shop.takes_mtls(9090),
        [("db-1", false), ("db-2", false), ("web-1", true)]
    );
    assert!(shop.takes_mtls(5432).iter().all(|(_, mtls)| *mtls));
    let untouched = |(uid, workload): (&WorkloadUid, &Workload)| (before[uid] == *workload).then(|| uid.to_string());
    let same: Vec<_> = shop.workloads.iter().filter_map(untouched).collect();
    assert_eq!(same, ["shop/web-1"], "what is pushed of the others has not changed");

    let everybody = peer_authentication("default", "", "mtls: {mode: DISABLE}");
    shop.apply(&everybody);
    assert_eq!(
        shop.takes_mtls(5432),
        [("db-1", true), ("db-2", true), ("web-1", false)],
        "the workload's own mode counts more than the namespace's"
    );
    shop.remove("PeerAuthentication default");
    shop.remove("PeerAuthentication db");
    assert_eq!(shop.workloads, before);
}

#[test]
fn a_policy_that_cannot_be_understood_is_an_error_of_its_file() {
    let bad = POLICY.replace("ALLOW", "PERMIT");
    let object = Manifest::parse("policy.yaml", &bad).objects.remove(0);
    let problems = review()(&object);
    assert!(
        problems[0].to_string().starts_with("policy.yaml:7: error: "),
        "{problems:?}"
    );
    assert_eq!(review()(&Manifest::parse("policy.yaml", POLICY).objects[0]), []);
}

#[test]
fn settings_for_another_trust_domain_are_remarked_on() {
    let settings = "apiVersion: squire.mesh/v1\nkind: MeshConfig\nmetadata: {name: mesh}\n\
                    spec: {trustDomain: other.example}\n";
    let problems = Shop::new().apply(settings).problems;
    assert!(problems[0].message.contains("other.example"), "{problems:?}");
}

#[test]
fn of_ten_thousand_workloads_only_those_that_a_change_concerns_are_touched() {
    let policy = |n: usize| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p{n}, namespace: ns-{}}}\n\
             spec: {{selector: {{matchLabels: {{app: app-{}}}}}, rules: [{{}}]}}\n",
            n / 10,
            n % 10
        )
    };
    let read = |text: &str| Arc::new(Manifest::parse("policy.yaml", text).objects.remove(0));
    let mut objects: Vec<_> = (0..1000).map(|n| read(&policy(n))).collect();
    let mut interner = Interner::default();
    let mut pod = |n: usize, app: usize| {
        let namespace = interner.text(&format!("ns-{}", n / 100));
        let (name, trust_domain) = (format!("pod-{n}"), "cluster.local".parse().unwrap());
        Workload {
            uid: WorkloadUid::pod(&namespace, &name),
            name: name.as_str().into(),
            identity: SpiffeId::workload(&trust_domain, &namespace, "app").ok(),
            addresses: [].into(),
            transport: Transport::Squire,
            plaintext_ports: None,
            host_network: false,
            ready: true,
            labels: interner.labels([("app", format!("app-{app}"))]),
            namespace_labels: LabelSet::default(),
            namespace,
            ports: [].into(),
            services: [].into(),
            node: None,
            zone: None,
            owner: None,
        }
    };
    let pods = (0..10_000).map(|n| pod(n, n % 10));
    let mut workloads: BTreeMap<_, _> = pods.map(|pod| (pod.uid.clone(), pod)).collect();
    let everybody: Vec<_> = workloads.keys().cloned().collect();
    let mut tables = Tables::new("cluster.local".parse().unwrap());
    let mut counts = |objects: &[Arc<Object>], workloads: &mut _, changed: &[WorkloadUid]| {
        let update = tables.update(objects, workloads, changed);
        (update.compiled, update.resources.len(), update.looked_at)
    };
    assert_eq!(
        counts(&objects, &mut workloads, &everybody),
        (1000, 10_000, 20_000),
        "everything once"
    );
    assert_eq!(
        counts(&objects, &mut workloads, &[]),
        (0, 0, 0),
        "nothing has changed, nobody is looked at"
    );
    let one = WorkloadUid::pod("ns-43", "pod-4321");
    workloads.insert(one.clone(), pod(4321, 7));
    assert_eq!(
        counts(&objects, &mut workloads, std::slice::from_ref(&one)),
        (0, 1, 2),
        "it joins others that have a table"
    );
    workloads.insert(one.clone(), pod(4321, 11));
    assert_eq!(
        counts(&objects, &mut workloads, std::slice::from_ref(&one)),
        (1, 1, 2),
        "nobody else is like it"
    );
    objects[77] = read(&policy(77).replace("[{}]", "[]"));
    assert_eq!(
        counts(&objects, &mut workloads, &[]),
        (1, 10, 10),
        "ten pods have the labels that the policy selects"
    );
    objects.remove(500);
    assert_eq!(counts(&objects, &mut workloads, &[]), (1, 10, 10));
    objects.push(read(&policy(0).replace("namespace: ns-0", "namespace: istio-system")));
    assert_eq!(
        counts(&objects, &mut workloads, &[]),
        (100, 1000, 1000),
        "a policy of the root namespace, wherever its label is"
    );
    workloads.remove(&one);
    assert_eq!(
        counts(&objects, &mut workloads, &[one]),
        (0, 0, 1),
        "a pod that goes touches nobody"
    );
}

#[test]
fn a_policy_that_is_written_anew_and_says_the_same_is_not_told() {
    let mut shop = Shop::new();
    shop.apply(POLICY);
    let update = shop.apply(POLICY);
    assert_eq!((update.compiled, update.resources.len()), (1, 0));
}
