//! Whom a change concerns: what has to be compiled anew, and nothing else.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use squire_mesh::workload::WorkloadUid;

use super::index::Place;
use crate::facts::{EndpointFact, Key, SliceFact};

/// Whom a change concerns.
#[derive(Debug, Default)]
pub(super) struct Concerned {
    /// Pods and WorkloadEntries.
    pub(super) members: BTreeSet<WorkloadUid>,
    /// Addresses that may stand for themselves.
    pub(super) places: BTreeSet<Place>,
    /// Services.
    pub(super) services: BTreeSet<Key>,
    /// Addresses of nodes.
    pub(super) nodes: BTreeSet<IpAddr>,
}

impl Concerned {
    /// Everything behind these endpoints of a slice.
    pub(super) fn endpoints<'e>(&mut self, slice: &Key, endpoints: impl IntoIterator<Item = &'e EndpointFact>) {
        for endpoint in endpoints {
            let pod = endpoint.pod.as_ref();
            self.members
                .extend(pod.map(|pod| WorkloadUid::pod(&pod.namespace, &pod.name)));
            self.places.insert((slice.namespace.clone(), endpoint.address));
        }
    }

    /// What another version of a slice says about others than the one before: of hundreds of endpoints mostly one.
    pub(super) fn slice(&mut self, old: Option<&SliceFact>, new: Option<&SliceFact>) {
        match (old, new) {
            (Some(old), Some(new)) if old.service == new.service && old.ports == new.ports => {
                self.endpoints(&new.key, missing_from(old, &new.endpoints));
                self.endpoints(&new.key, missing_from(new, &old.endpoints));
            }
            (old, new) => {
                for slice in old.into_iter().chain(new) {
                    self.endpoints(&slice.key, &slice.endpoints);
                }
            }
        }
    }
}

/// The endpoints that a slice does not have exactly so.
fn missing_from<'e>(slice: &SliceFact, endpoints: &'e [EndpointFact]) -> impl Iterator<Item = &'e EndpointFact> {
    let mut known: HashMap<IpAddr, Vec<&EndpointFact>> = HashMap::with_capacity(slice.endpoints.len());
    for endpoint in &slice.endpoints {
        known.entry(endpoint.address).or_default().push(endpoint);
    }
    let missing = endpoints.iter().filter(|endpoint| {
        let there = known.get(&endpoint.address);
        !there.is_some_and(|there| there.contains(endpoint))
    });
    missing.collect::<Vec<_>>().into_iter()
}
