//! Addresses for one demo: a subnet of 127.0.0.0/8 that no other demo uses, with an address for every pod, and ports that
//! nothing listens on. The claim lasts as long as the value; nothing is configured on the machine.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hasher as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
};

use squire_mesh::ports;

use super::workload::Workload;

/// Subnets tried before the demo gives up.
const TRIES: u64 = 64;
/// From this try on, the ports people know are taken for occupied on every address.
const USUAL_PORTS: u64 = 8;

/// Where everything of one demo is.
#[derive(Debug)]
pub(super) struct Place {
    subnet: [u8; 2],
    ports: Ports,
    _claim: Option<TcpListener>,
}

/// The ports in use on the addresses of a subnet.
#[derive(Debug, Clone, Copy)]
struct Ports {
    db: u16,
    http: u16,
    admin: u16,
    control: u16,
    control_admin: u16,
}

impl Place {
    /// Finds a subnet where every address that will be needed is free, and keeps other demos out of it.
    pub(super) fn claim() -> anyhow::Result<Self> {
        let mut last = None;
        for attempt in 0..TRIES {
            let place = Self::candidate(random(attempt), attempt);
            match place.try_claim() {
                Ok(claim) => {
                    return Ok(Self {
                        _claim: Some(claim),
                        ..place
                    });
                }
                Err(error) => last = Some(error),
            }
        }
        let why = last.map_or_else(String::new, |error| format!(": {error}"));
        anyhow::bail!(
            "no free addresses in 127.0.0.0/8 after {TRIES} tries{why}; check that the loopback interface is up"
        )
    }

    fn candidate(random: u64, attempt: u64) -> Self {
        let [second, third, ..] = random.to_le_bytes();
        Self {
            // Away from 127.0.x.x and 127.1.x.x, which people and resolvers use.
            subnet: [16 + second % 224, third],
            ports: Ports::for_attempt(attempt),
            _claim: None,
        }
    }

    /// Listens once on every address; the listener that is given back stays.
    fn try_claim(&self) -> std::io::Result<TcpListener> {
        let claim = TcpListener::bind((self.ip(254), self.ports.control_admin))?;
        let mut needed = vec![self.control(), self.control_admin()];
        for workload in Workload::ALL {
            needed.extend([
                self.pod(workload),
                self.app(workload),
                self.outbound(workload),
                self.admin(workload),
            ]);
        }
        let held: Result<Vec<_>, _> = needed.into_iter().map(TcpListener::bind).collect();
        held.map(|_| claim)
    }

    fn ip(&self, last: u8) -> IpAddr {
        let [second, third] = self.subnet;
        Ipv4Addr::new(127, second, third, last).into()
    }

    /// The address of a pod.
    pub(super) fn pod_ip(&self, workload: Workload) -> IpAddr {
        self.ip(10 + workload as u8)
    }

    /// What stands for a pod's own loopback interface, which no other pod would see.
    fn loopback(&self, workload: Workload) -> IpAddr {
        self.ip(110 + workload as u8)
    }

    fn port(&self, workload: Workload) -> u16 {
        match workload {
            Workload::Db => self.ports.db,
            Workload::Web | Workload::Api | Workload::Batch => self.ports.http,
        }
    }

    /// The port of `db`, at its pod and in policy.
    pub(super) fn db_port(&self) -> u16 {
        self.ports.db
    }

    /// Where peers reach a workload: its sidecar listens there.
    pub(super) fn pod(&self, workload: Workload) -> SocketAddr {
        SocketAddr::new(self.pod_ip(workload), self.port(workload))
    }

    /// Where the application itself listens.
    pub(super) fn app(&self, workload: Workload) -> SocketAddr {
        SocketAddr::new(self.loopback(workload), self.port(workload))
    }

    /// Where an application reaches `db`: its own sidecar listens there.
    pub(super) fn outbound(&self, workload: Workload) -> SocketAddr {
        SocketAddr::new(self.loopback(workload), self.ports.control + 1)
    }

    /// The admin endpoint of a sidecar.
    pub(super) fn admin(&self, workload: Workload) -> SocketAddr {
        SocketAddr::new(self.pod_ip(workload), self.ports.admin)
    }

    /// Where sidecars reach the control plane.
    pub(super) fn control(&self) -> SocketAddr {
        SocketAddr::new(self.ip(1), self.ports.control)
    }

    /// The admin endpoint of the control plane.
    pub(super) fn control_admin(&self) -> SocketAddr {
        SocketAddr::new(self.ip(1), self.ports.control_admin)
    }
}

impl Ports {
    /// The ports people know; where something listens on one of them on every address, others below the ephemeral range.
    fn for_attempt(attempt: u64) -> Self {
        if attempt < USUAL_PORTS {
            return Self {
                db: 5432,
                http: 8080,
                admin: ports::ADMIN,
                control: ports::CONTROL,
                control_admin: ports::CONTROL_ADMIN,
            };
        }
        let first = 20_000 + u16::try_from(attempt % 1000).unwrap_or(0) * 8;
        Self {
            db: first,
            http: first + 1,
            admin: first + 2,
            control: first + 3,
            control_admin: first + 5,
        }
    }
}

/// Another number each time.
fn random(salt: u64) -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(salt);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_listeners_of_a_place_share_an_address() {
        for attempt in [0, USUAL_PORTS, TRIES] {
            let place = Place::candidate(7, attempt);
            let mut seen = HashSet::from([place.control(), place.control_admin()]);
            for workload in Workload::ALL {
                for address in [
                    place.pod(workload),
                    place.app(workload),
                    place.outbound(workload),
                    place.admin(workload),
                ] {
                    assert!(address.ip().is_loopback());
                    assert!(seen.insert(address), "{address} twice");
                }
            }
        }
    }

    #[test]
    fn two_demos_at_once_get_two_subnets() {
        let (one, other) = (Place::claim().unwrap(), Place::claim().unwrap());
        assert_ne!(one.subnet, other.subnet);
    }

    #[test]
    fn a_claimed_subnet_is_refused_to_others() {
        let place = Place::candidate(99, 0);
        let Ok(claim) = place.try_claim() else { return };
        assert!(place.try_claim().is_err());
        drop(claim);
        assert!(place.try_claim().is_ok());
    }
}
