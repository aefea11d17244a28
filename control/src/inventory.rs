//! Every fact the control plane knows at one moment, whatever source it came from, and how two such moments differ. It
//! draws no conclusions: that is `compile`.

use std::{collections::BTreeMap, sync::Arc};

use crate::facts::{EntryFact, Fact, Key, NamespaceFact, NodeFact, PodFact, ServiceFact, SliceFact};

/// Every fact the control plane knows at one moment.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    facts: BTreeMap<FactId, SharedFact>,
}

/// What kind of object a fact is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FactKind {
    /// A Namespace.
    Namespace,
    /// A Node.
    Node,
    /// A Pod.
    Pod,
    /// An Istio WorkloadEntry.
    Entry,
    /// A Service.
    Service,
    /// An EndpointSlice.
    Slice,
}

/// Which object a fact is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FactId {
    /// Its kind.
    pub kind: FactKind,
    /// Its namespace, empty for Namespaces and Nodes, and its name.
    pub key: Key,
}

/// What is known of an object now; `None`: it is gone.
#[derive(Clone, Debug)]
pub struct Change {
    /// The object.
    pub id: FactId,
    /// Its fact.
    pub fact: Option<SharedFact>,
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

impl PartialEq for SharedFact {
    fn eq(&self, other: &Self) -> bool {
        /// Mostly they are the same, and then nothing has to be compared.
        fn like<T: PartialEq>(one: &Arc<T>, other: &Arc<T>) -> bool {
            Arc::ptr_eq(one, other) || one == other
        }
        match (self, other) {
            (Self::Namespace(one), Self::Namespace(other)) => like(one, other),
            (Self::Pod(one), Self::Pod(other)) => like(one, other),
            (Self::Service(one), Self::Service(other)) => like(one, other),
            (Self::Slice(one), Self::Slice(other)) => like(one, other),
            (Self::Entry(one), Self::Entry(other)) => like(one, other),
            (Self::Node(one), Self::Node(other)) => like(one, other),
            _ => false,
        }
    }
}

impl SharedFact {
    /// Which object it is about.
    #[must_use]
    pub fn id(&self) -> FactId {
        let cluster_wide = |name: &Arc<str>| Key {
            namespace: "".into(),
            name: Arc::clone(name),
        };
        let (kind, key) = match self {
            Self::Namespace(fact) => (FactKind::Namespace, cluster_wide(&fact.name)),
            Self::Node(fact) => (FactKind::Node, cluster_wide(&fact.name)),
            Self::Pod(fact) => (FactKind::Pod, fact.key.clone()),
            Self::Entry(fact) => (FactKind::Entry, fact.key.clone()),
            Self::Service(fact) => (FactKind::Service, fact.key.clone()),
            Self::Slice(fact) => (FactKind::Slice, fact.key.clone()),
        };
        FactId { kind, key }
    }
}

impl Inventory {
    /// Adds a fact. `false` if an object of that kind and name is already there: then the first one stays.
    pub fn add(&mut self, fact: SharedFact) -> bool {
        let id = fact.id();
        let vacant = !self.facts.contains_key(&id);
        if vacant {
            self.facts.insert(id, fact);
        }
        vacant
    }

    /// How many objects of a kind it knows.
    #[must_use]
    pub fn count(&self, kind: FactKind) -> usize {
        self.names(kind).count()
    }

    /// The names of the objects of a kind, in order.
    pub fn names(&self, kind: FactKind) -> impl Iterator<Item = &Key> {
        self.facts.keys().filter(move |id| id.kind == kind).map(|id| &id.key)
    }

    /// What has to change for `before` to become this: nothing for facts that say the same.
    #[must_use]
    pub fn changes_since(&self, before: &Self) -> Vec<Change> {
        let gone = before.facts.keys().filter(|id| !self.facts.contains_key(*id));
        let gone = gone.map(|id| Change {
            id: id.clone(),
            fact: None,
        });
        let other = self
            .facts
            .iter()
            .filter(|(id, fact)| before.facts.get(*id) != Some(fact));
        let other = other.map(|(id, fact)| Change {
            id: id.clone(),
            fact: Some(fact.clone()),
        });
        gone.chain(other).collect()
    }
}
