//! What NetworkPolicy makes of nodes, of workloads on their node's network, and of addresses that show another identity
//! (spec §1.5.17, §1.5.18, §1.6.21): facts of the workload table, which the evaluator's lines cannot say.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::sync::Arc;

use squire_mesh::{
    policy::{
        Connection, Decision, Destination, Kind, LabelSelector, NamespaceMatch, NetworkGate, NetworkPolicy,
        NetworkRule, ObjectRef, Operator, Peer, Principal, Request, Requirement, Source, Table, Why, ingress,
    },
    spiffe::SpiffeId,
    workload::{LabelSet, Transport, Workload, WorkloadUid},
};

fn client(host_network: bool) -> Workload {
    let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
    Workload {
        uid: WorkloadUid::pod("shop", "web-1"),
        namespace: "shop".into(),
        name: "web-1".into(),
        identity: Some(id),
        addresses: ["10.0.0.1".parse().unwrap()].into(),
        transport: Transport::Squire,
        plaintext_ports: None,
        host_network,
        ready: true,
        labels: [("app", "web")].into_iter().collect(),
        namespace_labels: LabelSet::default(),
        ports: [].into(),
        services: [].into(),
        node: None,
        zone: None,
        owner: None,
    }
}

/// Nobody gets in but pods with `app: web`, and as many other rules as make looking at labels worth while.
fn isolated(other_rules: usize) -> Table {
    let rule = |app: String| NetworkRule {
        peers: Some(
            [Peer::Pods {
                namespace: NamespaceMatch::Own("shop".into()),
                pods: LabelSelector(
                    [Requirement {
                        key: "app".into(),
                        operator: Operator::In([app.into()].into()),
                    }]
                    .into(),
                ),
            }]
            .into(),
        ),
        ports: None,
    };
    let others = (0..other_rules).map(|n| rule(format!("other-{n}")));
    let rules = others.chain([rule("web".to_owned())]).collect();
    let object = ObjectRef::new(Kind::NetworkPolicy, "shop", "db");
    Table {
        ingress: NetworkGate::Isolated([Arc::new(NetworkPolicy::new(object, rules))].into()),
        ..Table::default()
    }
}

fn ask(table: &Table, source: Source<'_>) -> Decision {
    let destination = Destination {
        ip: "10.0.0.2".parse().unwrap(),
        port: 5432,
        workload: None,
    };
    let connection = Connection {
        mutual_tls: source.principal.is_some(),
        ..Connection::default()
    };
    ingress(table, &Request::connection(source, destination, connection))
}

fn at(workload: &Workload) -> Source<'_> {
    Source::workload(workload.addresses[0], workload)
}

#[test]
fn traffic_from_the_pods_own_node_always_passes() {
    let source = Source::external("10.9.9.9".parse().unwrap());
    assert_eq!(ask(&isolated(0), source).why, Why::IngressNotAllowed);
    let node = Source {
        own_node: true,
        ..source
    };
    assert_eq!(ask(&isolated(0), node).why, Why::AlwaysPasses);
}

#[test]
fn a_workload_on_its_nodes_network_has_no_labels_that_selectors_could_match() {
    for other_rules in [0, 20] {
        let table = isolated(other_rules);
        let allowed = ask(&table, at(&client(false)));
        assert_eq!(allowed.by.unwrap().rule, Some(u16::try_from(other_rules).unwrap()));
        assert_eq!(ask(&table, at(&client(true))).why, Why::IngressNotAllowed);
    }
}

#[test]
fn an_address_that_shows_another_identity_is_denied_although_its_labels_match() {
    let client = client(false);
    let table = isolated(20);
    let own = at(&client).with_principal(Principal::new("spiffe://cluster.local/ns/shop/sa/web"));
    assert!(ask(&table, own).is_allowed());
    let stranger = at(&client).with_principal(Principal::new("spiffe://cluster.local/ns/shop/sa/other"));
    assert_eq!(ask(&table, stranger).why, Why::AddressIdentityMismatch);
}
