//! Who backs which Service. Where EndpointSlices exist for a Service they say it; a directory has no endpoints
//! controller, so where there are none the Service's selector is applied to the Pods here. WorkloadEntries are selected
//! in both cases: no slice would ever name them.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use squire_mesh::workload::{Membership, NamedPort, PortPair, PortProtocol, ServiceName, WorkloadUid};

use super::{index::Index, member::Member};
use crate::facts::{EndpointFact, Key, ServiceFact, SliceFact, Target};

/// An address behind a Service that no Pod or WorkloadEntry holds.
#[derive(Debug)]
pub(super) struct Bare {
    pub(super) namespace: Arc<str>,
    pub(super) address: IpAddr,
    pub(super) node: Option<Arc<str>>,
    pub(super) zone: Option<Arc<str>>,
    pub(super) memberships: Vec<Membership>,
}

/// What may make a member back one Service.
#[derive(Default)]
struct Backing<'i> {
    slices: Vec<&'i SliceFact>,
    selected: bool,
}

/// The Services that a Pod or WorkloadEntry backs, sorted by name.
pub(super) fn memberships(index: &Index, uid: &WorkloadUid, member: &Member) -> Vec<Membership> {
    let mut services: BTreeMap<&Key, Backing<'_>> = BTreeMap::new();
    for slice in index.slices_for(uid, member) {
        if let Some(service) = &slice.service {
            services.entry(service).or_default().slices.push(slice);
        }
    }
    for service in index.selecting(member) {
        services.entry(&service.key).or_default().selected = true;
    }
    let mut found = Vec::new();
    for (key, backing) in services {
        let Some(service) = index.service(key) else { continue };
        let name = ServiceName::new(&key.namespace, &key.name);
        for slice in backing.slices {
            let is_it = |endpoint: &EndpointFact| index.holder(&slice.key.namespace, endpoint).as_ref() == Some(uid);
            for _ in slice
                .endpoints
                .iter()
                .filter(|endpoint| endpoint.ready && is_it(endpoint))
            {
                join(&mut found, &name, slice_pairs(service, slice));
            }
        }
        if backing.selected && (member.is_entry() || !index.has_slices(key)) {
            let pairs = selected_pairs(service, member);
            if !pairs.is_empty() || service.ports.is_empty() {
                join(&mut found, &name, pairs);
            }
        }
    }
    found
}

/// What stands at an address that no Pod or WorkloadEntry holds, if it backs anything.
pub(super) fn bare(index: &Index, namespace: &Arc<str>, address: IpAddr) -> Option<Bare> {
    let mut services: BTreeMap<&Key, Vec<&SliceFact>> = BTreeMap::new();
    for slice in index.slices_at(namespace, address) {
        if let Some(service) = &slice.service {
            services.entry(service).or_default().push(slice);
        }
    }
    let mut found: Option<Bare> = None;
    for (key, slices) in services {
        let Some(service) = index.service(key) else { continue };
        let name = ServiceName::new(&key.namespace, &key.name);
        for slice in slices {
            let here = slice
                .endpoints
                .iter()
                .filter(|endpoint| endpoint.address == address && endpoint.ready);
            for endpoint in here.filter(|endpoint| index.holder(namespace, endpoint).is_none()) {
                let bare = found.get_or_insert_with(|| Bare {
                    namespace: Arc::clone(namespace),
                    address,
                    node: endpoint.node.clone(),
                    zone: endpoint.zone.clone(),
                    memberships: Vec::new(),
                });
                join(&mut bare.memberships, &name, slice_pairs(service, slice));
            }
        }
    }
    found
}

/// Service port → endpoint port, by the name that both give the port.
fn slice_pairs(service: &ServiceFact, slice: &SliceFact) -> Vec<PortPair> {
    let tcp = service.ports.iter().filter(|port| port.protocol == PortProtocol::Tcp);
    let pair = |port: &crate::facts::ServicePortFact| {
        let same = |each: &&crate::facts::SlicePort| each.protocol == PortProtocol::Tcp && each.name == port.name;
        let target = slice.ports.iter().find(same)?;
        Some(PortPair {
            service_port: port.port,
            target_port: target.port,
        })
    };
    tcp.filter_map(pair).collect()
}

/// Service port → port of one selected workload; ports whose name that workload does not have are left out.
fn selected_pairs(service: &ServiceFact, member: &Member) -> Vec<PortPair> {
    let named = |name: &str| {
        let same = |port: &&NamedPort| port.protocol == PortProtocol::Tcp && &*port.name == name;
        member.ports().iter().find(same).map(|port| port.port)
    };
    let tcp = service.ports.iter().filter(|port| port.protocol == PortProtocol::Tcp);
    let pair = |port: &crate::facts::ServicePortFact| {
        let target_port = match &port.target {
            Target::Name(name) => named(name),
            // A WorkloadEntry may map the name of the Service port to a number of its own.
            Target::Number(number) if member.is_entry() => Some(named(&port.name).unwrap_or(*number)),
            Target::Number(number) => Some(*number),
        }?;
        Some(PortPair {
            service_port: port.port,
            target_port,
        })
    };
    tcp.filter_map(pair).collect()
}

/// Adds pairs to the membership in `service`; several slices may name one workload.
fn join(memberships: &mut Vec<Membership>, service: &ServiceName, mut pairs: Vec<PortPair>) {
    match memberships.last_mut().filter(|last| last.service == *service) {
        Some(last) => {
            pairs.extend(last.ports.iter().copied());
            pairs.sort_unstable();
            pairs.dedup();
            last.ports = pairs.into();
        }
        None => memberships.push(Membership {
            service: service.clone(),
            ports: pairs.into(),
        }),
    }
}
