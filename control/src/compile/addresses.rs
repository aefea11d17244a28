//! Which workload has which address: one address, two workloads, and a connection from it could be either, so people have
//! to know.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use squire_mesh::workload::{UidKind, Workload, WorkloadUid};

use super::Remark;

/// Who has which address as its own.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    holders: HashMap<IpAddr, BTreeSet<WorkloadUid>>,
    /// Addresses with several holders.
    shared: BTreeSet<IpAddr>,
}

impl Addresses {
    pub(super) fn take(&mut self, workload: &Workload) {
        for address in own(workload) {
            let holders = self.holders.entry(*address).or_default();
            holders.insert(workload.uid.clone());
            if holders.len() > 1 {
                self.shared.insert(*address);
            }
        }
    }

    pub(super) fn give_up(&mut self, workload: &Workload) {
        for address in own(workload) {
            let Some(holders) = self.holders.get_mut(address) else {
                continue;
            };
            holders.remove(&workload.uid);
            if holders.len() < 2 {
                self.shared.remove(address);
            }
            if holders.is_empty() {
                self.holders.remove(address);
            }
        }
    }

    /// Each workload that has an address of one before it.
    pub(super) fn remarks(&self) -> impl Iterator<Item = Remark> {
        let shared = self
            .shared
            .iter()
            .filter_map(|address| Some((address, self.holders.get(address)?)));
        shared.flat_map(|(address, holders)| {
            let pairs = holders.iter().zip(holders.iter().skip(1));
            pairs.map(move |(other, uid)| Remark {
                object: object_of(uid),
                message: format!("it has the address {address} of {other} too: which is meant is undefined"),
            })
        })
    }
}

/// The addresses that are nobody else's.
fn own(workload: &Workload) -> &[IpAddr] {
    if workload.host_network {
        &[]
    } else {
        &workload.addresses
    }
}

/// The object behind a workload, as people know it.
fn object_of(uid: &WorkloadUid) -> String {
    let name = uid.as_str().rsplit('/').next().unwrap_or_default();
    let kind = match uid.kind() {
        UidKind::Pod => "Pod",
        UidKind::Entry => "WorkloadEntry",
        UidKind::Address => "address",
    };
    format!("{kind} {}/{name}", uid.namespace())
}
