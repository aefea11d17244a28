//! Every fact, and who selects, names or holds whom: so that a change finds those it concerns, and nobody else is looked
//! at. It makes no workload.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    ops::Bound,
    sync::Arc,
};

use squire_mesh::workload::WorkloadUid;

use super::{concerned::Concerned, member::Member};
use crate::{
    facts::{EndpointFact, Key, NamespaceFact, NodeFact, ServiceFact, SliceFact},
    inventory::{Change, FactKind, SharedFact},
    labelled::Labelled,
};

/// An address within a namespace: that of an EndpointSlice and of what stands behind it.
pub(super) type Place = (Arc<str>, IpAddr);

/// Who holds an address, in the order in which they count: Pods before WorkloadEntries.
type Holder = (bool, WorkloadUid);

/// Every fact, and who selects, names or holds whom.
#[derive(Debug, Default)]
pub(super) struct Index {
    members: BTreeMap<WorkloadUid, Member>,
    services: BTreeMap<Key, Arc<ServiceFact>>,
    slices: HashMap<Key, Arc<SliceFact>>,
    namespaces: HashMap<Arc<str>, Arc<NamespaceFact>>,
    nodes: HashMap<Arc<str>, Arc<NodeFact>>,
    /// Members that may be selected, by each of their labels.
    labelled: Labelled<WorkloadUid>,
    /// Services, by one label that they ask for.
    selecting: Labelled<Key>,
    holders: HashMap<Place, BTreeSet<Holder>>,
    slices_of: HashMap<Key, BTreeSet<Key>>,
    slices_naming: HashMap<WorkloadUid, BTreeSet<Key>>,
    slices_at: HashMap<Place, BTreeSet<Key>>,
    nodes_at: HashMap<IpAddr, BTreeSet<Arc<str>>>,
}

impl Index {
    pub(super) fn member(&self, uid: &WorkloadUid) -> Option<&Member> {
        self.members.get(uid)
    }

    pub(super) fn service(&self, key: &Key) -> Option<&Arc<ServiceFact>> {
        self.services.get(key)
    }

    pub(super) fn namespace(&self, name: &str) -> Option<&NamespaceFact> {
        self.namespaces.get(name).map(|fact| &**fact)
    }

    /// The node at an address; of several, the last by name.
    pub(super) fn node_at(&self, address: IpAddr) -> Option<&NodeFact> {
        let name = self.nodes_at.get(&address)?.last()?;
        self.nodes.get(name).map(|fact| &**fact)
    }

    /// Whom an endpoint of a slice in `namespace` means: the Pod that it names, else whoever holds its address.
    pub(super) fn holder(&self, namespace: &Arc<str>, endpoint: &EndpointFact) -> Option<WorkloadUid> {
        let named = endpoint
            .pod
            .as_ref()
            .map(|pod| WorkloadUid::pod(&pod.namespace, &pod.name));
        let live = |uid: &WorkloadUid| self.members.get(uid).is_some_and(Member::is_live);
        named.filter(live).or_else(|| {
            let holders = self.holders.get(&(Arc::clone(namespace), endpoint.address))?;
            holders.first().map(|(_, uid)| uid.clone())
        })
    }

    /// Slices that may mean a member, by its name or by an address; in the order of their names.
    pub(super) fn slices_for(&self, uid: &WorkloadUid, member: &Member) -> Vec<&SliceFact> {
        let named = self.slices_naming.get(uid).into_iter().flatten();
        let at = |address: &IpAddr| self.keys_at(member.namespace(), *address);
        let addressed = member.own_addresses().iter().filter_map(at).flatten();
        let keys: BTreeSet<&Key> = named.chain(addressed).collect();
        self.slices(keys)
    }

    /// Slices with an endpoint at this place, in the order of their names.
    pub(super) fn slices_at(&self, namespace: &Arc<str>, address: IpAddr) -> Vec<&SliceFact> {
        self.slices(self.keys_at(namespace, address).into_iter().flatten())
    }

    fn slices<'k>(&self, keys: impl IntoIterator<Item = &'k Key>) -> Vec<&SliceFact> {
        let found = keys.into_iter().filter_map(|key| self.slices.get(key));
        found.map(|slice| &**slice).collect()
    }

    fn keys_at(&self, namespace: &Arc<str>, address: IpAddr) -> Option<&BTreeSet<Key>> {
        self.slices_at.get(&(Arc::clone(namespace), address))
    }

    pub(super) fn has_slices(&self, service: &Key) -> bool {
        self.slices_of.contains_key(service)
    }

    /// Services whose selector selects a member.
    pub(super) fn selecting(&self, member: &Member) -> impl Iterator<Item = &ServiceFact> {
        let under = |(key, value): (&str, &str)| self.selecting.find(member.namespace(), key, value);
        let keys = member.labels().iter().filter_map(under).flatten();
        let services = keys.filter_map(|key| self.services.get(key)).map(|service| &**service);
        services.filter(|service| {
            let selector = service.selector.as_ref();
            selector.is_some_and(|selector| member.labels().contains_all(selector.iter()))
        })
    }

    /// Takes in what is new of one object, and notes whom that concerns.
    pub(super) fn apply(&mut self, change: Change, concerned: &mut Concerned) {
        let Change { id, fact } = change;
        match id.kind {
            FactKind::Pod | FactKind::Entry => {
                let uid = match id.kind {
                    FactKind::Pod => WorkloadUid::pod(&id.key.namespace, &id.key.name),
                    _ => WorkloadUid::entry(&id.key.namespace, &id.key.name),
                };
                let member = match fact {
                    Some(SharedFact::Pod(pod)) => Some(Member::Pod(pod)),
                    Some(SharedFact::Entry(entry)) => Some(Member::Entry(entry)),
                    _ => None,
                };
                self.put_member(uid, member, concerned);
            }
            FactKind::Service => {
                let service = match fact {
                    Some(SharedFact::Service(service)) => Some(service),
                    _ => None,
                };
                self.put_service(id.key, service, concerned);
            }
            FactKind::Slice => {
                let slice = match fact {
                    Some(SharedFact::Slice(slice)) => Some(slice),
                    _ => None,
                };
                self.put_slice(id.key, slice, concerned);
            }
            FactKind::Namespace => {
                concerned.members.extend(self.of_namespace(&id.key.name).cloned());
                match fact {
                    Some(SharedFact::Namespace(namespace)) => self.namespaces.insert(id.key.name, namespace),
                    _ => self.namespaces.remove(&id.key.name),
                };
            }
            FactKind::Node => {
                let node = match fact {
                    Some(SharedFact::Node(node)) => Some(node),
                    _ => None,
                };
                self.put_node(id.key.name, node, concerned);
            }
        }
    }

    /// Those who hold an address whose meaning has changed are concerned too.
    pub(super) fn settle(&self, concerned: &mut Concerned) {
        for place in &concerned.places {
            let holders = self.holders.get(place).into_iter().flatten();
            concerned.members.extend(holders.map(|(_, uid)| uid.clone()));
        }
    }

    fn of_namespace(&self, namespace: &str) -> impl Iterator<Item = &WorkloadUid> {
        let prefix = format!("{namespace}/");
        let from = (Bound::Included(prefix.as_str()), Bound::Unbounded);
        let from = self.members.range::<str, _>(from);
        let uids: Vec<_> = from
            .map(|(uid, _)| uid)
            .take_while(|uid| uid.as_str().starts_with(&prefix))
            .collect();
        uids.into_iter()
    }

    fn put_member(&mut self, uid: WorkloadUid, member: Option<Member>, concerned: &mut Concerned) {
        if let Some(old) = self.members.remove(&uid) {
            self.concern_places(&uid, &old, concerned);
            self.unlink_member(&uid, &old);
        }
        if let Some(new) = member {
            self.concern_places(&uid, &new, concerned);
            self.link_member(&uid, &new);
            self.members.insert(uid.clone(), new);
        }
        concerned.members.insert(uid);
    }

    /// What an address means may depend on who holds it, and on whether the Pod that a slice names lives.
    fn concern_places(&self, uid: &WorkloadUid, member: &Member, concerned: &mut Concerned) {
        let namespace = member.namespace();
        let own = member
            .own_addresses()
            .iter()
            .map(|address| (Arc::clone(namespace), *address));
        concerned.places.extend(own);
        let slices = self.slices_naming.get(uid).into_iter().flatten();
        for slice in slices.filter_map(|key| self.slices.get(key)) {
            let names = |endpoint: &&EndpointFact| names(endpoint).as_ref() == Some(uid);
            let endpoints = slice.endpoints.iter().filter(names);
            let places = endpoints.map(|endpoint| (Arc::clone(&slice.key.namespace), endpoint.address));
            concerned.places.extend(places);
        }
    }

    fn link_member(&mut self, uid: &WorkloadUid, member: &Member) {
        if !member.is_live() {
            return;
        }
        let namespace = member.namespace();
        self.labelled.insert(namespace, member.labels().iter(), uid);
        for address in member.own_addresses() {
            let place = (Arc::clone(namespace), *address);
            self.holders
                .entry(place)
                .or_default()
                .insert((member.is_entry(), uid.clone()));
        }
    }

    fn unlink_member(&mut self, uid: &WorkloadUid, member: &Member) {
        if !member.is_live() {
            return;
        }
        let namespace = member.namespace();
        self.labelled.remove(namespace, member.labels().iter(), uid);
        for address in member.own_addresses() {
            let place = (Arc::clone(namespace), *address);
            take(&mut self.holders, &place, &(member.is_entry(), uid.clone()));
        }
    }

    fn put_service(&mut self, key: Key, service: Option<Arc<ServiceFact>>, concerned: &mut Concerned) {
        let first = |service: &ServiceFact| -> Option<(String, String)> {
            let (key, value) = service.selector.as_ref()?.iter().next()?;
            Some((key.to_owned(), value.to_owned()))
        };
        if let Some(old) = self.services.remove(&key) {
            self.concern_selected(&old, concerned);
            if let Some((label, value)) = first(&old) {
                self.selecting
                    .remove(&key.namespace, std::iter::once((&*label, &*value)), &key);
            }
        }
        if let Some(new) = service {
            self.concern_selected(&new, concerned);
            if let Some((label, value)) = first(&new) {
                self.selecting
                    .insert(&key.namespace, std::iter::once((&*label, &*value)), &key);
            }
            self.services.insert(key.clone(), new);
        }
        for slice in self.slices_of.get(&key).into_iter().flatten() {
            if let Some(slice) = self.slices.get(slice) {
                concerned.endpoints(&slice.key, &slice.endpoints);
            }
        }
        concerned.services.insert(key);
    }

    fn concern_selected(&self, service: &ServiceFact, concerned: &mut Concerned) {
        let Some(selector) = &service.selector else { return };
        let candidates = self.labelled.fewest(&service.key.namespace, selector.iter());
        let selected = |uid: &&WorkloadUid| {
            let member = self.members.get(*uid);
            member.is_some_and(|member| member.labels().contains_all(selector.iter()))
        };
        concerned
            .members
            .extend(candidates.into_iter().flatten().filter(selected).cloned());
    }

    fn put_slice(&mut self, key: Key, slice: Option<Arc<SliceFact>>, concerned: &mut Concerned) {
        let old = self.slices.remove(&key);
        concerned.slice(old.as_deref(), slice.as_deref());
        let had = |index: &Self, slice: &Option<Arc<SliceFact>>| {
            let service = slice.as_ref().and_then(|slice| slice.service.as_ref());
            service.map(|service| (service.clone(), index.has_slices(service)))
        };
        let before = [had(self, &old), had(self, &slice)];
        if let Some(old) = old {
            self.unlink_slice(&old);
        }
        if let Some(new) = slice {
            self.link_slice(&new);
            self.slices.insert(key, new);
        }
        // While a Service has slices, its selector says nothing of Pods.
        for (service, had) in before.into_iter().flatten() {
            if had != self.has_slices(&service)
                && let Some(service) = self.services.get(&service)
            {
                self.concern_selected(&Arc::clone(service), concerned);
            }
        }
    }

    fn link_slice(&mut self, slice: &SliceFact) {
        let key = &slice.key;
        if let Some(service) = &slice.service {
            self.slices_of.entry(service.clone()).or_default().insert(key.clone());
        }
        for endpoint in &slice.endpoints {
            let place = (Arc::clone(&key.namespace), endpoint.address);
            self.slices_at.entry(place).or_default().insert(key.clone());
            if let Some(uid) = names(endpoint) {
                self.slices_naming.entry(uid).or_default().insert(key.clone());
            }
        }
    }

    fn unlink_slice(&mut self, slice: &SliceFact) {
        let key = &slice.key;
        if let Some(service) = &slice.service {
            take(&mut self.slices_of, service, key);
        }
        for endpoint in &slice.endpoints {
            take(
                &mut self.slices_at,
                &(Arc::clone(&key.namespace), endpoint.address),
                key,
            );
            if let Some(uid) = names(endpoint) {
                take(&mut self.slices_naming, &uid, key);
            }
        }
    }

    fn put_node(&mut self, name: Arc<str>, node: Option<Arc<NodeFact>>, concerned: &mut Concerned) {
        if let Some(old) = self.nodes.remove(&name) {
            for address in &old.addresses {
                take(&mut self.nodes_at, address, &name);
                concerned.nodes.insert(*address);
            }
        }
        if let Some(new) = node {
            for address in &new.addresses {
                self.nodes_at.entry(*address).or_default().insert(Arc::clone(&name));
                concerned.nodes.insert(*address);
            }
            self.nodes.insert(name, new);
        }
    }
}

/// The Pod that an endpoint names.
fn names(endpoint: &EndpointFact) -> Option<WorkloadUid> {
    let pod = endpoint.pod.as_ref()?;
    Some(WorkloadUid::pod(&pod.namespace, &pod.name))
}

/// Takes one thing out of a set; a set that becomes empty is dropped.
fn take<K: std::hash::Hash + Eq, T: Ord>(sets: &mut HashMap<K, BTreeSet<T>>, key: &K, thing: &T) {
    if let Some(set) = sets.get_mut(key) {
        set.remove(thing);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}
