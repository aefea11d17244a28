//! Workloads that policy cannot tell apart, and their one table. A change of policy finds its groups by namespace and
//! label, a change of a workload finds its own; nothing walks over all of them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use squire_mesh::{
    wire::squire as wire,
    workload::{LabelSet, PlaintextPorts, UidKind, Workload, WorkloadUid},
};

use crate::{
    labelled::Labelled,
    policy::{Concern, PolicySet, Reach, Subject},
    push::Content,
};

/// Workloads with the same key have the same table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    namespace: Arc<str>,
    labels: LabelSet,
    selectable: bool,
}

/// A table, encoded, and what clients must know of it.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) content: Content,
    plaintext_ports: Option<PlaintextPorts>,
}

/// Those who share a key.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) table: Option<Compiled>,
    pub(super) members: BTreeSet<WorkloadUid>,
}

/// Every group, and where each workload belongs.
#[derive(Debug, Default)]
pub(super) struct Groups {
    pub(super) by_key: HashMap<Key, Group>,
    key_of: HashMap<WorkloadUid, Key>,
    in_namespace: HashMap<Arc<str>, BTreeSet<Key>>,
    labelled: Labelled<Key>,
}

/// What became of a workload.
pub(super) enum Placed {
    /// It stays in its group, or has none.
    Same,
    /// It is in a group that was there already.
    Moved,
    /// It is in a group that has no table yet.
    New(Key),
    /// It has no group any more.
    Gone,
}

impl Key {
    pub(super) fn of(workload: &Workload) -> Self {
        Self {
            namespace: Arc::clone(&workload.namespace),
            labels: workload.labels.clone(),
            selectable: !workload.host_network && workload.uid.kind() != UidKind::Address,
        }
    }

    fn subject(&self) -> Subject<'_> {
        Subject {
            namespace: &self.namespace,
            labels: self.labels.iter().collect(),
            selectable: self.selectable,
        }
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let parts = (&self.namespace, self.selectable).cmp(&(&other.namespace, other.selectable));
        parts.then_with(|| self.labels.iter().cmp(other.labels.iter()))
    }
}

impl Compiled {
    pub(super) fn new(set: &PolicySet, key: &Key) -> Self {
        let table = set.compile(&key.subject());
        Self {
            plaintext_ports: table.mutual_tls.plaintext_ports(),
            content: Content::of(&wire::Policy::from(&table)),
        }
    }

    /// What clients of a workload must know.
    pub(super) fn note(&self, workload: &Workload) -> Option<Box<PlaintextPorts>> {
        let ports = self.plaintext_ports.as_ref().filter(|_| workload.transport.is_mtls());
        ports.map(|ports| Box::new(ports.clone()))
    }
}

impl PartialEq for Compiled {
    fn eq(&self, other: &Self) -> bool {
        self.content.version() == other.content.version() && self.plaintext_ports == other.plaintext_ports
    }
}

impl Groups {
    /// The table of a workload.
    pub(super) fn table(&self, uid: &WorkloadUid) -> Option<&Compiled> {
        self.by_key.get(self.key_of.get(uid)?)?.table.as_ref()
    }

    /// Puts a workload where it belongs now; `None`: it needs no table.
    pub(super) fn place(&mut self, uid: &WorkloadUid, key: Option<Key>) -> Placed {
        let before = self.key_of.get(uid);
        // Namespaces and labels are shared: mostly this compares pointers.
        if before == key.as_ref() {
            return Placed::Same;
        }
        if let Some(before) = before.cloned() {
            self.leave(uid, &before);
        }
        let Some(key) = key else {
            self.key_of.remove(uid);
            return Placed::Gone;
        };
        self.key_of.insert(uid.clone(), key.clone());
        let new = !self.by_key.contains_key(&key);
        if new {
            self.labelled.insert(&key.namespace, key.labels.iter(), &key);
            let namespace = self.in_namespace.entry(Arc::clone(&key.namespace)).or_default();
            namespace.insert(key.clone());
        }
        let group = self.by_key.entry(key.clone()).or_default();
        group.members.insert(uid.clone());
        if group.table.is_none() {
            Placed::New(key)
        } else {
            Placed::Moved
        }
    }

    /// A group that nobody is in is dropped, and its table with it.
    fn leave(&mut self, uid: &WorkloadUid, key: &Key) {
        let Some(group) = self.by_key.get_mut(key) else { return };
        group.members.remove(uid);
        if !group.members.is_empty() {
            return;
        }
        self.by_key.remove(key);
        self.labelled.remove(&key.namespace, key.labels.iter(), key);
        if let Some(namespace) = self.in_namespace.get_mut(&key.namespace) {
            namespace.remove(key);
            if namespace.is_empty() {
                self.in_namespace.remove(&key.namespace);
            }
        }
    }

    /// The groups whose tables a change of policy makes out of date.
    pub(super) fn concerned(&self, concern: &Concern) -> BTreeSet<Key> {
        let mut found = BTreeSet::new();
        for object in concern.objects() {
            let candidates: Box<dyn Iterator<Item = &Key>> = match object.reach() {
                Reach::Nothing => continue,
                Reach::Label {
                    namespace: Some(namespace),
                    key,
                    value,
                } => Box::new(self.labelled.find(namespace, key, value).into_iter().flatten()),
                Reach::Label {
                    namespace: None,
                    key,
                    value,
                } => Box::new(self.labelled.find_anywhere(key, value)),
                Reach::Namespace(namespace) => Box::new(self.in_namespace.get(namespace).into_iter().flatten()),
                Reach::Mesh => Box::new(self.by_key.keys()),
            };
            found.extend(candidates.filter(|key| object.concerns(&key.subject())).cloned());
        }
        found
    }
}
