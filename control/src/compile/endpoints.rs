//! Who backs which Service. Where EndpointSlices exist for a Service they say it; a directory has no endpoints
//! controller, so where there are none the Service's selector is applied to the Pods here. WorkloadEntries are selected
//! in both cases: no slice would ever name them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use squire_mesh::workload::{LabelSet, Membership, NamedPort, PortPair, PortProtocol, ServiceName, WorkloadUid};

use crate::{
    facts::{EndpointFact, Key, ServiceFact, SliceFact, Target},
    inventory::Inventory,
};

/// An address behind a Service that no Pod or WorkloadEntry holds.
#[derive(Debug)]
pub(super) struct Bare {
    pub(super) namespace: Arc<str>,
    pub(super) address: IpAddr,
    pub(super) node: Option<Arc<str>>,
    pub(super) zone: Option<Arc<str>>,
    pub(super) memberships: Vec<Membership>,
}

/// The memberships of all workloads, each list sorted by Service.
#[derive(Debug, Default)]
pub(super) struct Memberships {
    pub(super) of_workloads: HashMap<WorkloadUid, Vec<Membership>>,
    pub(super) bare: Vec<Bare>,
}

pub(super) fn memberships(inventory: &Inventory) -> Memberships {
    let index = Index::of(inventory);
    let mut found = Memberships::default();
    let mut bare: BTreeMap<(Arc<str>, IpAddr), Bare> = BTreeMap::new();
    // Services in order of their names: so are the memberships of each workload.
    for service in inventory.services.values() {
        let name = ServiceName::new(&service.key.namespace, &service.key.name);
        let slices = index.slices.get(&service.key).map_or(&[][..], |slices| slices);
        for slice in slices {
            for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.ready) {
                let pairs = slice_pairs(service, slice);
                match index.holder(&slice.key.namespace, endpoint) {
                    Some(uid) => join(found.of_workloads.entry(uid).or_default(), &name, pairs),
                    None => {
                        let key = (Arc::clone(&slice.key.namespace), endpoint.address);
                        let bare = bare.entry(key).or_insert_with(|| bare_of(&slice.key, endpoint));
                        join(&mut bare.memberships, &name, pairs);
                    }
                }
            }
        }
        let Some(selector) = &service.selector else { continue };
        for candidate in index.selected(&service.key.namespace, selector) {
            if slices.is_empty() || candidate.entry {
                let pairs = selected_pairs(service, candidate);
                if !pairs.is_empty() || service.ports.is_empty() {
                    join(
                        found.of_workloads.entry(candidate.uid.clone()).or_default(),
                        &name,
                        pairs,
                    );
                }
            }
        }
    }
    found.bare = bare.into_values().collect();
    found
}

/// A Pod or WorkloadEntry that a selector may select.
struct Candidate<'a> {
    uid: WorkloadUid,
    labels: &'a LabelSet,
    ports: &'a [NamedPort],
    entry: bool,
}

/// What the Services look for, found without walking over everything for each of them.
struct Index<'a> {
    candidates: Vec<Candidate<'a>>,
    by_label: HashMap<(&'a str, &'a str, &'a str), Vec<usize>>,
    by_address: HashMap<(&'a str, IpAddr), usize>,
    pods: HashSet<&'a Key>,
    slices: HashMap<&'a Key, Vec<&'a SliceFact>>,
}

impl<'a> Index<'a> {
    fn of(inventory: &'a Inventory) -> Self {
        let mut index = Self {
            candidates: Vec::with_capacity(inventory.pods.len() + inventory.entries.len()),
            by_label: HashMap::new(),
            by_address: HashMap::new(),
            pods: HashSet::new(),
            slices: HashMap::new(),
        };
        for pod in inventory
            .pods
            .values()
            .filter(|pod| !pod.ended && !pod.addresses.is_empty())
        {
            let uid = WorkloadUid::pod(&pod.key.namespace, &pod.key.name);
            let addresses = if pod.host_network { &[][..] } else { &pod.addresses };
            index.pods.insert(&pod.key);
            index.add(
                &pod.key,
                addresses,
                Candidate {
                    uid,
                    labels: &pod.labels,
                    ports: &pod.ports,
                    entry: false,
                },
            );
        }
        for entry in inventory.entries.values() {
            let uid = WorkloadUid::entry(&entry.key.namespace, &entry.key.name);
            let addresses = std::slice::from_ref(&entry.address);
            index.add(
                &entry.key,
                addresses,
                Candidate {
                    uid,
                    labels: &entry.labels,
                    ports: &entry.ports,
                    entry: true,
                },
            );
        }
        for slice in inventory.slices.values() {
            if let Some(service) = &slice.service {
                index.slices.entry(service).or_default().push(slice);
            }
        }
        index
    }

    fn add(&mut self, key: &'a Key, addresses: &[IpAddr], candidate: Candidate<'a>) {
        let at = self.candidates.len();
        for (label, value) in candidate.labels.iter() {
            self.by_label
                .entry((&key.namespace, label, value))
                .or_default()
                .push(at);
        }
        for address in addresses {
            self.by_address.entry((&key.namespace, *address)).or_insert(at);
        }
        self.candidates.push(candidate);
    }

    fn selected(&self, namespace: &str, selector: &LabelSet) -> Vec<&Candidate<'a>> {
        let lists = selector
            .iter()
            .map(|(key, value)| self.by_label.get(&(namespace, key, value)));
        // The shortest of the lists that all have to agree; one label nobody has means an empty one.
        let shortest = lists
            .map(|list| list.map_or(&[][..], |list| list))
            .min_by_key(|list| list.len())
            .unwrap_or(&[]);
        let candidates = shortest.iter().map(|at| &self.candidates[*at]);
        candidates
            .filter(|candidate| candidate.labels.contains_all(selector.iter()))
            .collect()
    }

    fn holder(&self, namespace: &str, endpoint: &EndpointFact) -> Option<WorkloadUid> {
        if let Some(pod) = endpoint.pod.as_ref().filter(|pod| self.pods.contains(pod)) {
            return Some(WorkloadUid::pod(&pod.namespace, &pod.name));
        }
        let at = self.by_address.get(&(namespace, endpoint.address))?;
        Some(self.candidates[*at].uid.clone())
    }
}

fn bare_of(slice: &Key, endpoint: &EndpointFact) -> Bare {
    Bare {
        namespace: Arc::clone(&slice.namespace),
        address: endpoint.address,
        node: endpoint.node.clone(),
        zone: endpoint.zone.clone(),
        memberships: Vec::new(),
    }
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
fn selected_pairs(service: &ServiceFact, candidate: &Candidate<'_>) -> Vec<PortPair> {
    let named = |name: &str| {
        let same = |port: &&NamedPort| port.protocol == PortProtocol::Tcp && &*port.name == name;
        candidate.ports.iter().find(same).map(|port| port.port)
    };
    let tcp = service.ports.iter().filter(|port| port.protocol == PortProtocol::Tcp);
    let pair = |port: &crate::facts::ServicePortFact| {
        let target_port = match &port.target {
            Target::Name(name) => named(name),
            // A WorkloadEntry may map the name of the Service port to a number of its own.
            Target::Number(number) if candidate.entry => Some(named(&port.name).unwrap_or(*number)),
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
