//! A Pod or WorkloadEntry, as far as selectors and EndpointSlices look at it.

use std::{net::IpAddr, sync::Arc};

use squire_mesh::workload::{LabelSet, NamedPort};

use crate::facts::{EntryFact, PodFact};

/// Something that a selector may select.
#[derive(Clone, Debug)]
pub(super) enum Member {
    Pod(Arc<PodFact>),
    Entry(Arc<EntryFact>),
}

impl Member {
    pub(super) fn namespace(&self) -> &Arc<str> {
        match self {
            Self::Pod(pod) => &pod.key.namespace,
            Self::Entry(entry) => &entry.key.namespace,
        }
    }

    pub(super) fn labels(&self) -> &LabelSet {
        match self {
            Self::Pod(pod) => &pod.labels,
            Self::Entry(entry) => &entry.labels,
        }
    }

    pub(super) fn ports(&self) -> &[NamedPort] {
        match self {
            Self::Pod(pod) => &pod.ports,
            Self::Entry(entry) => &entry.ports,
        }
    }

    pub(super) fn is_entry(&self) -> bool {
        matches!(self, Self::Entry(_))
    }

    /// Whether it can back anything: a Pod that has ended, or has no address yet, cannot.
    pub(super) fn is_live(&self) -> bool {
        match self {
            Self::Pod(pod) => !pod.ended && !pod.addresses.is_empty(),
            Self::Entry(_) => true,
        }
    }

    /// The addresses that are its alone, by which an EndpointSlice may mean it.
    pub(super) fn own_addresses(&self) -> &[IpAddr] {
        match self {
            Self::Pod(pod) if pod.host_network => &[],
            Self::Pod(pod) => &pod.addresses,
            Self::Entry(entry) => std::slice::from_ref(&entry.address),
        }
    }
}
