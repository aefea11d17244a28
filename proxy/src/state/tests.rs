//! The state as the control plane's updates make it.

use prost_types::Any;
use squire_mesh::{wire::squire as wire, workload::WorkloadUid};

use super::*;

mod selected;

const DOMAIN: &str = "cluster.local";

fn root() -> Vec<u8> {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    params.self_signed(&key).unwrap().der().to_vec()
}

fn store() -> (Store, State) {
    let domain = DOMAIN.parse().unwrap();
    let bootstrap = TrustBundles::new([squire_mesh::bundle::TrustBundle::new(domain, [root().into()], 0).unwrap()]);
    Store::new(
        WorkloadUid::pod("shop", "web-0"),
        DOMAIN.parse().unwrap(),
        Arc::new(bootstrap),
    )
}

fn change<M: prost::Message>(kind: Kind, name: &str, message: &M) -> Change {
    let any = Any {
        type_url: kind.type_url().to_owned(),
        value: message.encode_to_vec(),
    };
    Change {
        name: name.to_owned(),
        version: "1".to_owned(),
        resource: Some(any),
    }
}

fn update(kind: Kind, changed: Vec<Change>, removed: &[&str]) -> Update {
    let removed = removed.iter().map(|name| (*name).to_owned()).collect();
    Update {
        kind,
        version: "v1".to_owned(),
        changed,
        removed,
    }
}

fn workload(namespace: &str, name: &str, address: [u8; 4]) -> wire::Workload {
    wire::Workload {
        uid: format!("{namespace}/{name}"),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        service_account: name.to_owned(),
        trust_domain: DOMAIN.to_owned(),
        addresses: vec![address.to_vec().into()],
        transport: wire::Transport::Squire.into(),
        services: vec![wire::Membership {
            service: "shop/db".to_owned(),
            ports: vec![wire::PortPair {
                service_port: 5432,
                target_port: 15432,
            }],
        }],
        ..wire::Workload::default()
    }
}

fn put(workload: &wire::Workload) -> Update {
    update(
        Kind::Workload,
        vec![change(Kind::Workload, &workload.uid, workload)],
        &[],
    )
}

fn service(name: &str, vip: [u8; 4]) -> wire::Service {
    wire::Service {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        hostnames: vec![format!("{name}.shop.svc.cluster.local")],
        vips: vec![vip.to_vec().into()],
        ports: vec![wire::ServicePort {
            port: 5432,
            ..wire::ServicePort::default()
        }],
        traffic: None,
    }
}

fn bundle(roots: Vec<Vec<u8>>) -> Update {
    let roots = roots.into_iter().map(Into::into).collect();
    let message = wire::TrustBundle {
        trust_domain: DOMAIN.to_owned(),
        roots,
        sequence: 1,
        ..Default::default()
    };
    update(
        Kind::TrustBundle,
        vec![change(Kind::TrustBundle, DOMAIN, &message)],
        &[],
    )
}

fn uids<'a>(workloads: impl Iterator<Item = &'a Arc<Workload>>) -> Vec<&'a str> {
    workloads.map(|w| w.uid.as_str()).collect()
}

#[test]
fn a_workload_is_found_by_uid_address_and_service_until_it_moves_or_goes() {
    let (mut store, state) = store();
    store.apply(put(&workload("shop", "db-0", [10, 0, 0, 1]))).unwrap();
    let first = state.borrow().clone();
    assert_eq!(uids(first.workloads_at("10.0.0.1".parse().unwrap())), ["shop/db-0"]);
    assert_eq!(
        uids(first.workloads_at("::ffff:10.0.0.1".parse().unwrap())),
        ["shop/db-0"],
        "mapped addresses too"
    );
    assert_eq!(uids(first.endpoints("shop/db")), ["shop/db-0"]);

    let mut moved = workload("shop", "db-0", [10, 0, 0, 2]);
    moved.services.clear();
    store.apply(put(&moved)).unwrap();
    let second = state.borrow().clone();
    assert_eq!(second.workloads_at("10.0.0.1".parse().unwrap()).len(), 0);
    assert_eq!(uids(second.workloads_at("10.0.0.2".parse().unwrap())), ["shop/db-0"]);
    assert_eq!(second.endpoints("shop/db").len(), 0);
    assert_eq!(
        first.endpoints("shop/db").len(),
        1,
        "an older snapshot stays what it was"
    );

    store
        .apply(update(Kind::Workload, vec![], &["shop/db-0", "shop/never-known"]))
        .unwrap();
    assert_eq!(state.borrow().counts(), (0, 0));
    assert_eq!(state.borrow().workloads_at("10.0.0.2".parse().unwrap()).len(), 0);
}

#[test]
fn workloads_that_share_an_address_are_all_found_there() {
    let (mut store, state) = store();
    for name in ["a", "b"] {
        let shared = wire::Workload {
            host_network: true,
            ..workload("shop", name, [10, 0, 0, 9])
        };
        store.apply(put(&shared)).unwrap();
    }
    let address = "10.0.0.9".parse().unwrap();
    assert_eq!(uids(state.borrow().workloads_at(address)), ["shop/a", "shop/b"]);
    store.apply(update(Kind::Workload, vec![], &["shop/a"])).unwrap();
    assert_eq!(uids(state.borrow().workloads_at(address)), ["shop/b"]);
}

#[test]
fn only_ready_endpoints_that_serve_the_port_are_offered() {
    let (mut store, state) = store();
    store.apply(put(&workload("shop", "db-0", [10, 0, 0, 1]))).unwrap();
    store
        .apply(put(&wire::Workload {
            unready: true,
            ..workload("shop", "db-1", [10, 0, 0, 2])
        }))
        .unwrap();
    let snapshot = state.borrow().clone();
    let offered: Vec<_> = snapshot
        .ready_endpoints("shop/db", 5432)
        .map(|(w, p)| (w.uid.as_str(), p))
        .collect();
    assert_eq!(offered, [("shop/db-0", 15432)]);
    assert_eq!(snapshot.ready_endpoints("shop/db", 80).count(), 0);
}

#[test]
fn names_lead_to_services_first_and_then_to_workloads() {
    let (mut store, state) = store();
    store.apply(put(&workload("shop", "db-0", [10, 0, 0, 1]))).unwrap();
    let entry = wire::Workload {
        uid: "shop/entry/vm".to_owned(),
        ..workload("shop", "vm", [10, 0, 0, 3])
    };
    store.apply(put(&entry)).unwrap();
    let db = service("db", [10, 96, 0, 1]);
    store
        .apply(update(Kind::Service, vec![change(Kind::Service, "shop/db", &db)], &[]))
        .unwrap();
    let snapshot = state.borrow().clone();
    let named = |host: &str| match snapshot.named(host) {
        Some(Named::Service(service)) => format!("service {}", service.name.as_str()),
        Some(Named::Workload(workload)) => format!("workload {}", workload.uid.as_str()),
        None => "nothing".to_owned(),
    };
    for (host, expected) in [
        ("db.shop.svc.cluster.local", "service shop/db"),
        ("db.shop", "service shop/db"),
        ("db-0.shop", "workload shop/db-0"),
        ("vm.shop", "workload shop/entry/vm"),
        ("db-0.db.shop.svc.cluster.local", "workload shop/db-0"),
        ("db-1.db.shop.svc.cluster.local", "nothing"),
        ("db", "nothing"),
        ("nobody.shop", "nothing"),
    ] {
        assert_eq!(named(host), expected, "{host}");
    }
    assert_eq!(
        snapshot
            .service_at("10.96.0.1".parse().unwrap())
            .map(|s| s.name.as_str()),
        Some("shop/db")
    );
}

#[test]
fn our_own_workload_and_policy_come_and_go_with_their_resources() {
    let (mut store, state) = store();
    store.apply(put(&workload("shop", "web-0", [10, 0, 0, 5]))).unwrap();
    let policy = change(Kind::Policy, "shop/web-0", &wire::Policy::from(&Table::default()));
    store.apply(update(Kind::Policy, vec![policy], &[])).unwrap();
    assert!(state.borrow().me.is_some() && state.borrow().policy.is_some());
    assert!(
        !state.borrow().tables.complete(),
        "bundles, services and revocations are still to come"
    );
    store.apply(update(Kind::Policy, vec![], &[])).unwrap();
    assert!(state.borrow().policy.is_some(), "an empty update takes nothing away");
    store.apply(update(Kind::Policy, vec![], &["shop/web-0"])).unwrap();
    assert!(state.borrow().policy.is_none(), "no policy, nothing allowed");
}

#[test]
fn one_bad_resource_refuses_the_whole_update_and_the_last_good_state_stays() {
    let (mut store, mut state) = store();
    store.apply(put(&workload("shop", "db-0", [10, 0, 0, 1]))).unwrap();
    state.borrow_and_update();
    let good = workload("shop", "db-1", [10, 0, 0, 2]);
    let bad = wire::Workload {
        addresses: vec![vec![1, 2, 3].into()],
        ..workload("shop", "db-2", [0; 4])
    };
    let changes = [&good, &bad].map(|w| change(Kind::Workload, &w.uid, w));
    let refused = store
        .apply(update(Kind::Workload, changes.to_vec(), &["shop/db-0"]))
        .unwrap_err();
    assert!(
        refused
            .to_string()
            .starts_with("workload update \"v1\" refused: shop/db-2: "),
        "{refused}"
    );
    assert!(state.has_changed().unwrap(), "the refusal shows");
    let snapshot = state.borrow().clone();
    assert_eq!(uids(snapshot.workloads()), ["shop/db-0"]);
    assert_eq!(snapshot.tables.of(Kind::Workload).refused.as_ref(), Some(&refused));
    assert_eq!(
        store.held(Kind::Workload).count(),
        1,
        "what was refused is not claimed after a reconnect"
    );

    store.apply(put(&good)).unwrap();
    assert!(
        state.borrow().tables.of(Kind::Workload).refused.is_none(),
        "a good update ends the refusal"
    );
}

#[test]
fn each_way_a_resource_can_be_wrong_is_named() {
    let good = workload("shop", "db-0", [10, 0, 0, 1]);
    let right = change(Kind::Workload, "shop/db-0", &good);
    let cases = [
        (
            Change {
                resource: None,
                ..right.clone()
            },
            "shop/db-0: it holds no resource",
        ),
        (
            Change {
                name: "shop/db-9".to_owned(),
                ..right.clone()
            },
            "shop/db-9: its content is \"shop/db-0\"",
        ),
        (
            Change {
                resource: right.resource.clone().map(|any| Any {
                    type_url: "other".to_owned(),
                    ..any
                }),
                ..right.clone()
            },
            "shop/db-0: its type is \"other\"",
        ),
        (
            Change {
                resource: right.resource.clone().map(|any| Any {
                    value: vec![0xff; 5],
                    ..any
                }),
                ..right.clone()
            },
            "shop/db-0: cannot be decoded",
        ),
    ];
    for (wrong, expected) in cases {
        let (mut store, _state) = store();
        let refused = store.apply(update(Kind::Workload, vec![wrong], &[])).unwrap_err();
        assert!(refused.reasons[0].starts_with(expected), "{refused}");
    }
    let (mut store, _state) = store();
    let many = vec![
        Change {
            resource: None,
            ..right
        };
        50
    ];
    let refused = store.apply(update(Kind::Workload, many, &[])).unwrap_err();
    assert_eq!((refused.reasons.len(), refused.reasons[5].as_str()), (6, "and more"));
}

#[test]
fn another_workloads_policy_is_refused() {
    let (mut store, _state) = store();
    let other = change(Kind::Policy, "shop/db-0", &wire::Policy::from(&Table::default()));
    let refused = store.apply(update(Kind::Policy, vec![other], &[])).unwrap_err();
    assert!(
        refused.reasons[0].contains("its content is \"shop/web-0\""),
        "{refused}"
    );
}

#[test]
fn a_pushed_bundle_replaces_the_bootstrap_file_and_our_own_roots_cannot_be_taken_away() {
    let (mut store, state) = store();
    let bootstrap = state.borrow().bundles.digest().to_owned();
    store.apply(bundle(vec![root(), root()])).unwrap();
    let pushed = state.borrow().bundles.clone();
    assert_ne!(pushed.digest(), bootstrap);
    assert_eq!(pushed.get(&DOMAIN.parse().unwrap()).map(|b| b.roots().len()), Some(2));

    store.apply(bundle(vec![])).expect_err("no roots");
    store
        .apply(update(Kind::TrustBundle, vec![], &[DOMAIN]))
        .expect_err("removed");
    store.apply(bundle(vec![vec![1, 2, 3]])).expect_err("not a certificate");
    assert_eq!(state.borrow().bundles.digest(), pushed.digest());

    let other = TrustBundles::new([]);
    store.bootstrap(Arc::new(other));
    assert_eq!(
        state.borrow().bundles.digest(),
        pushed.digest(),
        "the file counts no more"
    );
}

#[test]
fn another_domains_bundle_comes_and_goes_without_touching_ours() {
    let (mut store, state) = store();
    let other = wire::TrustBundle {
        trust_domain: "other.org".to_owned(),
        roots: vec![root().into()],
        sequence: 1,
        ..Default::default()
    };
    store
        .apply(update(
            Kind::TrustBundle,
            vec![change(Kind::TrustBundle, "other.org", &other)],
            &[],
        ))
        .unwrap();
    assert_eq!(state.borrow().bundles.iter().count(), 2);
    store.apply(update(Kind::TrustBundle, vec![], &["other.org"])).unwrap();
    assert_eq!(state.borrow().bundles.iter().count(), 1);
}

#[test]
fn revocations_are_replaced_and_taken_back() {
    let (mut store, state) = store();
    let revoked = wire::RevokedIdentity {
        spiffe_id: "spiffe://cluster.local/ns/a/sa/b".to_owned(),
        reason: "stolen".to_owned(),
        issued_before: 0,
    };
    let message = wire::Revocation {
        identities: vec![revoked],
        serials: vec![],
    };
    store
        .apply(update(
            Kind::Revocation,
            vec![change(Kind::Revocation, "revocations", &message)],
            &[],
        ))
        .unwrap();
    assert!(!state.borrow().revocations.is_empty());
    store.apply(update(Kind::Revocation, vec![], &["revocations"])).unwrap();
    assert!(state.borrow().revocations.is_empty());
}

#[test]
fn what_is_held_is_offered_to_the_next_stream() {
    let (mut store, _state) = store();
    store.apply(put(&workload("shop", "db-0", [10, 0, 0, 1]))).unwrap();
    store.apply(put(&workload("shop", "db-1", [10, 0, 0, 2]))).unwrap();
    store.apply(update(Kind::Workload, vec![], &["shop/db-0"])).unwrap();
    let held: Vec<_> = store.held(Kind::Workload).collect();
    assert_eq!(held, [("shop/db-1".to_owned(), "1".to_owned())]);
    assert_eq!(store.subscription(Kind::Policy), ["shop/web-0"]);
}

#[test]
fn forgotten_strings_are_given_back() {
    let (mut store, _state) = store();
    for round in 0..20_000u32 {
        let mut churning = workload("shop", "db-0", [10, 0, 0, 1]);
        churning.labels = [("round".to_owned(), round.to_string())].into();
        store.apply(put(&churning)).unwrap();
    }
    assert!(store.interned() < 5_000, "{} strings and sets", store.interned());
}

#[test]
fn a_bare_name_is_a_service_of_the_own_namespace_alone() {
    let (mut store, state) = store();
    let bare = |namespace: &str, name: &str| wire::Service {
        namespace: namespace.to_owned(),
        hostnames: vec![name.to_owned()],
        ..service(name, [10, 96, 0, 1])
    };
    let services = [("other", "db"), ("shop", "db"), ("other", "cache")];
    let changes =
        services.map(|(namespace, name)| change(Kind::Service, &format!("{namespace}/{name}"), &bare(namespace, name)));
    store.apply(update(Kind::Service, changes.into(), &[])).unwrap();
    let named = |host: &str| match state.borrow().named(host) {
        Some(Named::Service(service)) => Some(service.name.to_string()),
        Some(Named::Workload(_)) | None => None,
    };
    assert_eq!(named("db"), None, "nobody knows yet where we are");
    store.apply(put(&workload("shop", "web-0", [10, 0, 0, 9]))).unwrap();
    assert_eq!(named("db").as_deref(), Some("shop/db"));
    assert_eq!(named("cache"), None, "another namespace's");
}
