//! Every fact the control plane knows at one moment, whatever source it came from. Immutable once built; a change makes
//! a new one that shares what stayed the same. It draws no conclusions: that is `compile`.

use std::{collections::BTreeMap, sync::Arc};

use crate::facts::{EntryFact, Fact, Key, NamespaceFact, NodeFact, PodFact, ServiceFact, SliceFact};

/// Every fact the control plane knows at one moment.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// Namespaces that were declared; others exist with no label but their name.
    pub namespaces: BTreeMap<Arc<str>, Arc<NamespaceFact>>,
    /// Pods.
    pub pods: BTreeMap<Key, Arc<PodFact>>,
    /// Services.
    pub services: BTreeMap<Key, Arc<ServiceFact>>,
    /// EndpointSlices.
    pub slices: BTreeMap<Key, Arc<SliceFact>>,
    /// WorkloadEntries.
    pub entries: BTreeMap<Key, Arc<EntryFact>>,
    /// Nodes.
    pub nodes: BTreeMap<Arc<str>, Arc<NodeFact>>,
}

/// A fact that can be shared between inventories.
#[derive(Clone, Debug)]
pub enum SharedFact {
    /// A Namespace.
    Namespace(Arc<NamespaceFact>),
    /// A Pod.
    Pod(Arc<PodFact>),
    /// A Service.
    Service(Arc<ServiceFact>),
    /// An EndpointSlice.
    Slice(Arc<SliceFact>),
    /// A WorkloadEntry.
    Entry(Arc<EntryFact>),
    /// A Node.
    Node(Arc<NodeFact>),
}

impl From<Fact> for SharedFact {
    fn from(fact: Fact) -> Self {
        match fact {
            Fact::Namespace(fact) => Self::Namespace(Arc::new(fact)),
            Fact::Pod(fact) => Self::Pod(Arc::new(fact)),
            Fact::Service(fact) => Self::Service(Arc::new(fact)),
            Fact::Slice(fact) => Self::Slice(Arc::new(fact)),
            Fact::Entry(fact) => Self::Entry(Arc::new(fact)),
            Fact::Node(fact) => Self::Node(Arc::new(fact)),
        }
    }
}

impl Inventory {
    /// Adds a fact. `false` if an object of that kind and name is already there: then the first one stays.
    pub fn add(&mut self, fact: SharedFact) -> bool {
        fn once<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: V) -> bool {
            let vacant = !map.contains_key(&key);
            if vacant {
                map.insert(key, value);
            }
            vacant
        }
        match fact {
            SharedFact::Namespace(fact) => once(&mut self.namespaces, Arc::clone(&fact.name), fact),
            SharedFact::Pod(fact) => once(&mut self.pods, fact.key.clone(), fact),
            SharedFact::Service(fact) => once(&mut self.services, fact.key.clone(), fact),
            SharedFact::Slice(fact) => once(&mut self.slices, fact.key.clone(), fact),
            SharedFact::Entry(fact) => once(&mut self.entries, fact.key.clone(), fact),
            SharedFact::Node(fact) => once(&mut self.nodes, Arc::clone(&fact.name), fact),
        }
    }
}
