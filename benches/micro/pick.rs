//! What choosing an endpoint costs for each request: pick, connected, finish, with 2, 100 and 5,000 endpoints. The state is
//! written by the sidecar's own store, from the messages that the control plane sends.

#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a benchmark may fail"
)]

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use squire_mesh::{bundle::TrustBundles, wire::squire as wire, workload::WorkloadUid};
use squire_proxy::{
    state::{Change, Kind, Snapshot, Store, Update},
    traffic::{Traffic, TryResult},
};

fn change(kind: Kind, name: &str, message: &impl prost::Message) -> Change {
    let resource = prost_types::Any {
        type_url: kind.type_url().to_owned(),
        value: message.encode_to_vec(),
    };
    Change {
        name: name.to_owned(),
        version: String::new(),
        resource: Some(resource),
    }
}

fn pod(number: u16) -> Change {
    let [high, low] = number.to_be_bytes();
    let uid = format!("shop/web-{number}");
    let workload = wire::Workload {
        uid: uid.clone(),
        namespace: "shop".to_owned(),
        name: format!("web-{number}"),
        service_account: "web".to_owned(),
        trust_domain: "cluster.local".to_owned(),
        addresses: vec![vec![10, 0, high, low].into()],
        transport: wire::Transport::Squire.into(),
        services: vec![wire::Membership {
            service: "shop/web".to_owned(),
            ports: vec![wire::PortPair {
                service_port: 80,
                target_port: 8080,
            }],
        }],
        ..wire::Workload::default()
    };
    change(Kind::Workload, &uid, &workload)
}

fn snapshot(pods: u16) -> Arc<Snapshot> {
    let uid = WorkloadUid::pod("shop", "me");
    let domain = "cluster.local".parse().unwrap();
    let (mut store, state) = Store::new(uid, domain, Arc::new(TrustBundles::new([])));
    let service = wire::Service {
        namespace: "shop".to_owned(),
        name: "web".to_owned(),
        ports: vec![wire::ServicePort {
            port: 80,
            ..wire::ServicePort::default()
        }],
        ..wire::Service::default()
    };
    let updates = [
        (Kind::Service, vec![change(Kind::Service, "shop/web", &service)]),
        (Kind::Workload, (0..pods).map(pod).collect()),
    ];
    for (kind, changed) in updates {
        let version = "1".to_owned();
        let removed = Vec::new();
        store
            .apply(Update {
                kind,
                version,
                changed,
                removed,
            })
            .unwrap();
    }
    Arc::clone(&state.borrow())
}

fn picks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick");
    group.measurement_time(Duration::from_secs(3));
    for pods in [2, 100, 5_000] {
        let snapshot = snapshot(pods);
        let traffic = Traffic::new(&prometheus::Registry::new()).unwrap();
        let start = Instant::now();
        let mut step = 0_u32;
        group.bench_function(format!("{pods} endpoints"), |bencher| {
            bencher.iter(|| {
                step = step.wrapping_add(1);
                let now = start + Duration::from_micros(u64::from(step));
                let mut picked = traffic.pick(black_box(&snapshot), "shop/web", 80, &[], now).unwrap();
                picked.connected();
                picked.finish(TryResult::Success, Duration::from_millis(1), now);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, picks);
criterion_main!(benches);
