//! What live connections stand on: it is judged again with every push, so it must stay known while they live.

use std::{collections::HashSet, net::IpAddr};

use squire_mesh::workload::{Selector, WorkloadUid};

use crate::{
    connection::{Direction, Registry},
    state::Snapshot,
};

/// The other ends of all live connections.
pub(super) struct InUse {
    addresses: HashSet<IpAddr>,
    workloads: HashSet<WorkloadUid>,
}

impl InUse {
    pub(super) fn of(connections: &Registry) -> Self {
        let (mut addresses, mut workloads) = (HashSet::new(), HashSet::new());
        for connection in connections.all() {
            match connection.direction {
                Direction::Inbound => addresses.insert(connection.client.ip().to_canonical()),
                Direction::Outbound => addresses.insert(connection.destination.ip().to_canonical()),
            };
            let facts = connection.facts();
            addresses.extend(facts.upstream.map(|upstream| upstream.ip().to_canonical()));
            workloads.extend(facts.peer_workload.clone());
        }
        Self { addresses, workloads }
    }

    /// Whether a live connection stands on something that this selects.
    pub(super) fn covers(&self, selector: &Selector, snapshot: &Snapshot) -> bool {
        match selector {
            Selector::Workload(uid) => self.workloads.contains(uid),
            Selector::Address(address) => self.addresses.contains(address),
            Selector::Service(service) => {
                let known = snapshot.service(service.as_str());
                let mut vips = known.iter().flat_map(|service| &service.vips);
                let mut members = snapshot.endpoints(service.as_str());
                vips.any(|vip| self.addresses.contains(&vip.to_canonical()))
                    || members.any(|member| self.workloads.contains(&member.uid))
            }
        }
    }
}
