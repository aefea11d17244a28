//! A state with services, endpoints and routes, for the tests next door.

use std::sync::Arc;

use prost_types::Any;
use squire_mesh::{
    bundle::{TrustBundle, TrustBundles},
    traffic::Traffic,
    wire::squire as wire,
    workload::WorkloadUid,
};

use crate::state::{Change, Kind, Snapshot, State, Store, Update};

/// Writes the state as the control plane would.
pub(super) struct Fixture {
    store: Store,
    state: State,
}

/// One endpoint of `shop/web`, port 80.
#[derive(Clone, Copy)]
pub(super) struct Pod {
    pub(super) number: u16,
    pub(super) zone: &'static str,
    pub(super) ready: bool,
}

impl Pod {
    pub(super) fn new(number: u16) -> Self {
        Self {
            number,
            zone: "",
            ready: true,
        }
    }

    pub(super) fn zoned(number: u16, zone: &'static str) -> Self {
        Self {
            zone,
            ..Self::new(number)
        }
    }
}

impl Fixture {
    /// A sidecar in this zone.
    pub(super) fn new(zone: &str) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut root = rcgen::CertificateParams::default();
        root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root = root.self_signed(&key).unwrap().der().to_vec();
        let domain: squire_mesh::spiffe::TrustDomain = "cluster.local".parse().unwrap();
        let bundle = TrustBundle::new(domain.clone(), [root.into()], 0).unwrap();
        let uid = WorkloadUid::pod("shop", "me");
        let (store, state) = Store::new(uid, domain, Arc::new(TrustBundles::new([bundle])));
        let mut fixture = Self { store, state };
        let me = wire::Workload {
            zone: zone.to_owned(),
            ..workload("me", [10, 9, 9, 9])
        };
        fixture.put(Kind::Workload, "shop/me", &me);
        fixture
    }

    fn put(&mut self, kind: Kind, name: &str, message: &impl prost::Message) {
        let any = Any {
            type_url: kind.type_url().to_owned(),
            value: message.encode_to_vec(),
        };
        let change = Change {
            name: name.to_owned(),
            version: String::new(),
            resource: Some(any),
        };
        self.update(kind, vec![change], vec![]);
    }

    fn update(&mut self, kind: Kind, changed: Vec<Change>, removed: Vec<String>) {
        let version = "1".to_owned();
        self.store
            .apply(Update {
                kind,
                version,
                changed,
                removed,
            })
            .unwrap();
    }

    /// A service with ports 80 and 81.
    pub(super) fn service(&mut self, name: &str, traffic: Option<&Traffic>) {
        let port = |port| wire::ServicePort {
            port,
            ..wire::ServicePort::default()
        };
        let service = wire::Service {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            hostnames: vec![],
            vips: vec![],
            ports: vec![port(80), port(81)],
            traffic: traffic.map(wire::Traffic::from),
        };
        self.put(Kind::Service, &format!("shop/{name}"), &service);
    }

    /// These are the endpoints of `shop/web`.
    pub(super) fn pods(&mut self, pods: &[Pod]) {
        let before: Vec<_> = self.store.held(Kind::Workload).map(|(name, _)| name).collect();
        for pod in pods {
            let [high, low] = pod.number.to_be_bytes();
            let name = format!("web-{}", pod.number);
            let web = wire::Workload {
                zone: pod.zone.to_owned(),
                unready: !pod.ready,
                services: vec![wire::Membership {
                    service: "shop/web".to_owned(),
                    ports: vec![wire::PortPair {
                        service_port: 80,
                        target_port: 8080,
                    }],
                }],
                ..workload(&name, [10, 0, high, low])
            };
            self.put(Kind::Workload, &web.uid.clone(), &web);
        }
        let stays = |name: &str| name == "shop/me" || pods.iter().any(|pod| name == format!("shop/web-{}", pod.number));
        let gone: Vec<_> = before.into_iter().filter(|name| !stays(name)).collect();
        self.update(Kind::Workload, vec![], gone);
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.state.borrow())
    }
}

fn workload(name: &str, address: [u8; 4]) -> wire::Workload {
    wire::Workload {
        uid: format!("shop/{name}"),
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        service_account: "web".to_owned(),
        trust_domain: "cluster.local".to_owned(),
        addresses: vec![address.to_vec().into()],
        transport: wire::Transport::Squire.into(),
        ..wire::Workload::default()
    }
}
