//! Where this sidecar takes an outbound connection, given what it is and how it was told to behave: never to itself, to
//! the application beside it without mutual TLS, outside the mesh only where that is allowed. Which endpoints a
//! destination has is `route.rs`'s; policy is asked elsewhere.

use std::net::{IpAddr, SocketAddr};

use crate::{
    config::Unknown,
    route::{Endpoint, Target, Via},
    state::Snapshot,
};

/// What this sidecar knows of itself.
#[derive(Debug)]
pub(crate) struct Destinations {
    /// Its listeners: to dial them would be a loop.
    pub(crate) own: Vec<SocketAddr>,
    /// The kernel redirects; what this process dials on the pod's own addresses reaches the application.
    pub(crate) transparent: bool,
    /// What becomes of connections to addresses the mesh does not know.
    pub(crate) unknown: Unknown,
}

impl Destinations {
    /// One endpoint that was chosen for a target: whether and how we may go there.
    pub(crate) fn settle(
        &self,
        snapshot: &Snapshot,
        target: &Target,
        endpoint: &mut Endpoint,
    ) -> Result<(), &'static str> {
        // An endpoint is dialled in the family that the application dialled, if it can be.
        if let (Target::Address(like), Some(workload)) = (target, &endpoint.workload)
            && like.is_ipv4() != endpoint.address.is_ipv4()
            && let Some(ip) = of_family(&workload.addresses, like.ip())
        {
            endpoint.address.set_ip(ip);
        }
        if self.is_own(snapshot, endpoint.address) {
            return Err("the destination is this sidecar itself");
        }
        if !self.is_known(snapshot, target, endpoint) {
            return Err("the mesh does not know the destination, and unknownDestinations is refuse");
        }
        // A pod that calls itself, through its Service perhaps: over loopback, where nobody redirects.
        if self.transparent && is_beside_us(snapshot, endpoint) {
            endpoint.via = Via::Plaintext;
        }
        Ok(())
    }

    /// Whether an address is one of our own listeners.
    pub(crate) fn is_own(&self, snapshot: &Snapshot, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        let here = || {
            let pods = |ip| snapshot.me.as_ref().is_some_and(|me| me.addresses.contains(&ip));
            ip.is_loopback() || ip.is_unspecified() || pods(ip)
        };
        self.own.iter().any(|listener| {
            let everywhere = listener.ip().is_unspecified() && here();
            listener.port() == address.port() && (everywhere || listener.ip().to_canonical() == ip)
        })
    }

    fn is_known(&self, snapshot: &Snapshot, target: &Target, endpoint: &Endpoint) -> bool {
        match (self.unknown, target) {
            (Unknown::Passthrough, _) | (_, Target::Name(_)) => true,
            // Host-network pods share an address, so none of them is the endpoint's workload.
            (Unknown::Refuse, Target::Address(_)) => {
                endpoint.workload.is_some() || snapshot.workloads_at(endpoint.address.ip()).len() > 0
            }
        }
    }
}

/// The address of a family like `like`'s, where there is one.
pub(crate) fn of_family(addresses: &[IpAddr], like: IpAddr) -> Option<IpAddr> {
    let same = |address: &&IpAddr| address.to_canonical().is_ipv4() == like.to_canonical().is_ipv4();
    addresses.iter().find(same).or(addresses.first()).copied()
}

fn is_beside_us(snapshot: &Snapshot, endpoint: &Endpoint) -> bool {
    let (Some(me), Some(workload)) = (&snapshot.me, &endpoint.workload) else {
        return false;
    };
    me.uid == workload.uid
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use prost_types::Any;
    use squire_mesh::{wire::squire as wire, workload::WorkloadUid};

    use super::*;
    use crate::{
        route::{self, Route, route},
        state::{Change, Kind, Store, Update},
        tls::fixture::Ca,
    };

    fn update(kind: Kind, name: &str, message: &impl prost::Message) -> Update {
        let resource = Any {
            type_url: kind.type_url().to_owned(),
            value: message.encode_to_vec(),
        };
        let change = Change {
            name: name.to_owned(),
            version: "1".to_owned(),
            resource: Some(resource),
        };
        Update {
            kind,
            version: "1".into(),
            changed: vec![change],
            removed: Vec::new(),
        }
    }

    fn workload(name: &str, last: u8, host_network: bool) -> wire::Workload {
        let membership = wire::Membership {
            service: "shop/web".into(),
            ports: vec![wire::PortPair {
                service_port: 80,
                target_port: 8080,
            }],
        };
        wire::Workload {
            uid: format!("shop/{name}"),
            namespace: "shop".into(),
            name: name.into(),
            service_account: name.into(),
            trust_domain: "cluster.local".into(),
            addresses: vec![vec![10, 0, 0, last].into(), {
                let mut v6 = vec![0xfd; 1];
                v6.resize(15, 0);
                v6.push(last);
                v6.into()
            }],
            transport: if host_network {
                wire::Transport::Plaintext.into()
            } else {
                wire::Transport::Squire.into()
            },
            host_network,
            services: if name == "web" { vec![membership] } else { Vec::new() },
            ..wire::Workload::default()
        }
    }

    /// We are `web`; there is `db`, a host-network pod on 10.0.0.9, and Service `web` on 10.96.0.1 and fd96::1.
    fn snapshot() -> Arc<Snapshot> {
        let uid = WorkloadUid::pod("shop", "web");
        let (mut store, state) = Store::new(uid, "cluster.local".parse().unwrap(), Ca::new().bundles());
        for (name, last, host) in [("web", 1, false), ("db", 2, false), ("agent", 9, true)] {
            let workload = workload(name, last, host);
            store.apply(update(Kind::Workload, &workload.uid, &workload)).unwrap();
        }
        let mut v6 = vec![0xfd, 0x96];
        v6.resize(15, 0);
        v6.push(1);
        let service = wire::Service {
            namespace: "shop".into(),
            name: "web".into(),
            vips: vec![vec![10, 96, 0, 1].into(), v6.into()],
            ports: vec![wire::ServicePort {
                port: 80,
                ..wire::ServicePort::default()
            }],
            ..wire::Service::default()
        };
        store.apply(update(Kind::Service, "shop/web", &service)).unwrap();
        Arc::clone(&state.borrow())
    }

    fn destinations(transparent: bool, unknown: Unknown) -> Destinations {
        Destinations {
            own: vec!["0.0.0.0:15001".parse().unwrap(), "[::]:15006".parse().unwrap()],
            transparent,
            unknown,
        }
    }

    fn to(destinations: &Destinations, address: &str) -> Result<(String, bool), &'static str> {
        let target = Target::Address(address.parse().unwrap());
        let snapshot = snapshot();
        let mut endpoint = match route(&snapshot, &target)? {
            Route::Endpoint(endpoint) => *endpoint,
            Route::Service(service, port) => {
                let (workload, port) = snapshot
                    .ready_endpoints(service.name.as_str(), port)
                    .next()
                    .ok_or("none")?;
                route::endpoint(workload, port)?
            }
        };
        destinations.settle(&snapshot, &target, &mut endpoint)?;
        Ok((endpoint.address.to_string(), endpoint.via == Via::Plaintext))
    }

    #[test]
    fn the_pods_own_service_is_reached_without_mutual_tls_where_the_kernel_redirects() {
        let transparent = destinations(true, Unknown::Passthrough);
        assert_eq!(to(&transparent, "10.96.0.1:80"), Ok(("10.0.0.1:8080".to_owned(), true)));
        let explicit = destinations(false, Unknown::Passthrough);
        assert_eq!(to(&explicit, "10.96.0.1:80"), Ok(("10.0.0.1:8080".to_owned(), false)));
        assert_eq!(
            to(&transparent, "10.0.0.2:5432"),
            Ok(("10.0.0.2:5432".to_owned(), false))
        );
    }

    #[test]
    fn an_endpoint_is_dialled_in_the_family_its_service_was() {
        let transparent = destinations(true, Unknown::Passthrough);
        assert_eq!(
            to(&transparent, "[fd96::1]:80"),
            Ok(("[fd00::1]:8080".to_owned(), true))
        );
    }

    #[test]
    fn the_sidecar_never_dials_itself() {
        let transparent = destinations(true, Unknown::Passthrough);
        for address in ["10.0.0.1:15001", "127.0.0.1:15001", "[fd00::1]:15006", "[::1]:15006"] {
            assert!(to(&transparent, address).is_err(), "{address}");
        }
        for address in ["10.0.0.2:15001", "10.0.0.1:15002"] {
            assert!(to(&transparent, address).is_ok(), "{address}");
        }
    }

    #[test]
    fn what_the_mesh_does_not_know_is_refused_only_when_that_is_wanted() {
        let passing = destinations(true, Unknown::Passthrough);
        assert_eq!(to(&passing, "192.0.2.1:443"), Ok(("192.0.2.1:443".to_owned(), true)));
        let strict = destinations(true, Unknown::Refuse);
        assert!(
            to(&strict, "192.0.2.1:443")
                .unwrap_err()
                .contains("unknownDestinations")
        );
        for known in ["10.0.0.2:5432", "10.96.0.1:80", "10.0.0.9:9100"] {
            assert!(to(&strict, known).is_ok(), "{known}");
        }
    }
}
