//! Everything that is pushed, once for all streams, and in which order it last changed. A stream reads the names that
//! changed since the point it has reached; a name that changed often is read once. One writer, many readers; the lock
//! is held for a look-up or a swap, never across an `.await`. (Snapshots copied at each change would cost more than the
//! lock: 100,000 entries for one pod that moved.)

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Bound,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use prost::bytes::Bytes;
use squire_mesh::spiffe::SpiffeId;
use tokio::sync::watch;

use super::{Kind, Resource, Version};

/// Names of removed resources that are remembered, per kind. A stream that has not read further than what was forgotten
/// has to start over.
const MAX_TOMBSTONES: usize = 65_536;

/// The identity that each workload's certificate must show; `None` for workloads that have none.
pub type Identities = HashMap<Arc<str>, Option<SpiffeId>>;

/// How far each kind has got: the point of its last change. 0 until it has been published.
pub(super) type Heads = [u64; Kind::ALL.len()];

/// What a publication changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Resources that are new or have another version.
    pub changed: usize,
    /// Resources that are gone.
    pub removed: usize,
    /// Resources there are now.
    pub total: usize,
}

/// What is different about the resources of one kind.
#[derive(Debug, Default)]
pub struct Amendment {
    /// Resources that are new or others; one that is what it was changes nothing.
    pub put: Vec<Resource>,
    /// Names of resources that are gone.
    pub gone: Vec<Arc<str>>,
}

impl Amendment {
    /// Whether nothing is different.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.put.is_empty() && self.gone.is_empty()
    }
}

/// Everything that is pushed.
#[derive(Debug)]
pub struct Catalog {
    inner: RwLock<Inner>,
    heads: watch::Sender<Heads>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Counts up with every change of any resource; the point in time of this catalog.
    point: u64,
    shelves: [Shelf; Kind::ALL.len()],
    identities: Arc<Identities>,
}

/// All resources of one kind.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    entries: HashMap<Arc<str>, Entry>,
    /// Which resources each alias stands for, in order of their names; at least one.
    aliases: HashMap<Arc<str>, Vec<Arc<str>>>,
    /// The point at which each name, present or removed, last changed: each name once.
    changes: BTreeMap<u64, Arc<str>>,
    /// When each removed name was removed.
    tombstones: HashMap<Arc<str>, u64>,
    /// The latest removal that has been forgotten.
    forgotten: u64,
    /// The point of the last change; 0 until first published.
    head: u64,
}

/// One resource, and when it last changed.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) version: Version,
    pub(super) encoded: Bytes,
    pub(super) aliases: Arc<[Arc<str>]>,
    pub(super) changed: u64,
}

impl Default for Catalog {
    fn default() -> Self {
        Self {
            inner: RwLock::default(),
            heads: watch::Sender::new([0; Kind::ALL.len()]),
        }
    }
}

impl Catalog {
    /// Replaces all resources of some kinds in one swap. What did not change keeps its place. Nothing of a kind is shown
    /// to anybody before its first publication: an empty catalog must not look like an empty mesh.
    pub fn publish(
        &self,
        kinds: impl IntoIterator<Item = (Kind, Vec<Resource>)>,
        identities: Option<Arc<Identities>>,
    ) -> Vec<(Kind, Published)> {
        let mut inner = self.write();
        if let Some(identities) = identities {
            inner.identities = identities;
        }
        let results = inner.publish(kinds, Shelf::replace);
        self.tell(inner);
        results
    }

    /// Takes in what is different about the resources of some kinds, and about the identities of workloads (`None`: there
    /// is no such workload any more); everything else is as it was. For a kind that was never published this is its first
    /// publication.
    pub fn amend(
        &self,
        kinds: impl IntoIterator<Item = (Kind, Amendment)>,
        identities: impl IntoIterator<Item = (Arc<str>, Option<Option<SpiffeId>>)>,
    ) -> Vec<(Kind, Published)> {
        let mut inner = self.write();
        // Nobody else holds them, unless they came with a publication of everything.
        let known = Arc::make_mut(&mut inner.identities);
        for (uid, identity) in identities {
            match identity {
                Some(identity) => known.insert(uid, identity),
                None => known.remove(&uid),
            };
        }
        let results = inner.publish(kinds, Shelf::amend);
        self.tell(inner);
        results
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        // As for reading.
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, inner: RwLockWriteGuard<'_, Inner>) {
        let heads: Heads = std::array::from_fn(|at| inner.shelves[at].head);
        drop(inner);
        // Two publications may get here in either order: a head never goes back, or streams would wait for what is there.
        self.heads.send_modify(|told| {
            for (told, head) in told.iter_mut().zip(heads) {
                *told = head.max(*told);
            }
        });
    }

    /// Tells of every publication.
    pub(super) fn watch(&self) -> watch::Receiver<Heads> {
        self.heads.subscribe()
    }

    /// The identity of a workload: `None` if there is no such workload.
    pub(crate) fn identity(&self, uid: &str) -> Option<Option<SpiffeId>> {
        self.read().identities.get(uid).cloned()
    }

    /// Reads one shelf. Keep it short.
    pub(super) fn with<R>(&self, kind: Kind, read: impl FnOnce(&Shelf) -> R) -> R {
        read(&self.read().shelves[kind.index()])
    }

    /// How many resources of a kind there are.
    pub fn len(&self, kind: Kind) -> usize {
        self.with(kind, |shelf| shelf.entries.len())
    }

    /// The version of a kind: grows with every change, 0 until first published. Not the same after a restart.
    pub fn version(&self, kind: Kind) -> u64 {
        self.with(kind, Shelf::head)
    }

    /// Whether no kind has been published yet.
    pub fn is_empty(&self) -> bool {
        self.read().shelves.iter().all(|shelf| shelf.head == 0)
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        // A writer that panicked has left whole entries: each step keeps the maps consistent enough to read.
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn publish<T>(
        &mut self,
        kinds: impl IntoIterator<Item = (Kind, T)>,
        change: impl Fn(&mut Shelf, T, &mut u64) -> Published,
    ) -> Vec<(Kind, Published)> {
        let Self { point, shelves, .. } = self;
        // Even an empty publication moves the head, so that streams that wait for the first one wake up.
        *point += 1;
        let kinds = kinds.into_iter();
        kinds
            .map(|(kind, news)| (kind, change(&mut shelves[kind.index()], news, point)))
            .collect()
    }
}

impl Shelf {
    /// The point of the last change; 0 until first published.
    pub(super) fn head(&self) -> u64 {
        self.head
    }

    /// Whether removals have been forgotten that a reader who stands at `point` has not seen.
    pub(super) fn has_forgotten_since(&self, point: u64) -> bool {
        self.forgotten > point
    }

    /// A resource by its name.
    pub(super) fn find(&self, name: &str) -> Option<(&Arc<str>, &Entry)> {
        self.entries.get_key_value(name)
    }

    /// Everything that a name stands for: the resource of that name, or those that have it as an alias.
    pub(super) fn selected<'s>(&'s self, name: &str) -> impl Iterator<Item = (&'s Arc<str>, &'s Entry)> + use<'s> {
        let by_alias = self.aliases.get(name).into_iter().flatten();
        let by_alias = by_alias.filter_map(|name| self.entries.get_key_value(name));
        self.entries.get_key_value(name).into_iter().chain(by_alias)
    }

    /// When a name was removed, if it was and is still remembered.
    #[cfg(test)]
    fn removed(&self, name: &str) -> Option<u64> {
        self.tombstones.get(name).copied()
    }

    /// Every name that changed after `point`, oldest change first.
    pub(super) fn changes_since(&self, point: u64) -> impl Iterator<Item = (u64, &Arc<str>)> {
        self.changes
            .range((Bound::Excluded(point), Bound::Unbounded))
            .map(|(point, name)| (*point, name))
    }

    fn replace(&mut self, all: Vec<Resource>, point: &mut u64) -> Published {
        let wanted: HashSet<Arc<str>> = all.iter().map(|resource| Arc::clone(&resource.name)).collect();
        let mut gone: Vec<Arc<str>> = self
            .entries
            .keys()
            .filter(|name| !wanted.contains(*name))
            .cloned()
            .collect();
        gone.sort_unstable();
        let mut published = Published {
            changed: 0,
            removed: gone.len(),
            total: wanted.len(),
        };
        self.head = self.head.max(*point);
        for resource in all {
            published.changed += usize::from(self.put(resource, point));
        }
        for name in gone {
            self.remove(name, point);
        }
        self.forget();
        published
    }

    fn amend(&mut self, amendment: Amendment, point: &mut u64) -> Published {
        let mut published = Published::default();
        self.head = self.head.max(*point);
        for resource in amendment.put {
            published.changed += usize::from(self.put(resource, point));
        }
        for name in amendment.gone {
            if self.entries.contains_key(&name) {
                published.removed += 1;
                self.remove(name, point);
            }
        }
        published.total = self.entries.len();
        self.forget();
        published
    }

    /// Whether the resource is new or has another version.
    fn put(&mut self, resource: Resource, point: &mut u64) -> bool {
        let Resource {
            name,
            version,
            encoded,
            aliases,
        } = resource;
        match self.entries.get(&name) {
            Some(entry) if entry.version == version => return false,
            Some(entry) => {
                let (changed, before) = (entry.changed, Arc::clone(&entry.aliases));
                self.changes.remove(&changed);
                if before != aliases {
                    self.unlist(&name, &before);
                    self.list(&name, &aliases);
                }
            }
            None => {
                let removed = self.tombstones.remove(&name);
                removed.and_then(|removed| self.changes.remove(&removed));
                self.list(&name, &aliases);
            }
        }
        let changed = self.step(&name, point);
        self.entries.insert(
            name,
            Entry {
                version,
                encoded,
                aliases,
                changed,
            },
        );
        true
    }

    fn list(&mut self, name: &Arc<str>, aliases: &[Arc<str>]) {
        for alias in aliases {
            let names = self.aliases.entry(Arc::clone(alias)).or_default();
            if let Err(place) = names.binary_search(name) {
                names.insert(place, Arc::clone(name));
            }
        }
    }

    fn unlist(&mut self, name: &Arc<str>, aliases: &[Arc<str>]) {
        for alias in aliases {
            let Some(names) = self.aliases.get_mut(alias) else {
                continue;
            };
            if let Ok(place) = names.binary_search(name) {
                names.remove(place);
            }
            if names.is_empty() {
                self.aliases.remove(alias);
            }
        }
    }

    fn remove(&mut self, name: Arc<str>, point: &mut u64) {
        if let Some(entry) = self.entries.remove(&name) {
            self.changes.remove(&entry.changed);
            self.unlist(&name, &entry.aliases);
        }
        let removed = self.step(&name, point);
        self.tombstones.insert(name, removed);
    }

    fn step(&mut self, name: &Arc<str>, point: &mut u64) -> u64 {
        *point += 1;
        self.changes.insert(*point, Arc::clone(name));
        self.head = *point;
        *point
    }

    /// Forgets the oldest removals beyond the bound.
    fn forget(&mut self) {
        let excess = self.tombstones.len().saturating_sub(MAX_TOMBSTONES);
        if excess == 0 {
            return;
        }
        let mut points: Vec<u64> = self.tombstones.values().copied().collect();
        points.sort_unstable();
        for point in points.into_iter().take(excess) {
            if let Some(name) = self.changes.remove(&point) {
                self.tombstones.remove(&name);
            }
            self.forgotten = point;
        }
    }
}

#[cfg(test)]
mod tests {
    use squire_mesh::wire::squire as wire;

    use super::*;

    fn service(name: &str, hostname: &str) -> Resource {
        let message = wire::Service {
            name: name.into(),
            hostnames: vec![hostname.into()],
            ..Default::default()
        };
        Resource::new(Kind::Service, name.into(), &message)
    }

    fn publish(catalog: &Catalog, all: &[(&str, &str)]) -> Published {
        let resources = all.iter().map(|(name, content)| service(name, content)).collect();
        catalog.publish([(Kind::Service, resources)], None)[0].1
    }

    fn changes(catalog: &Catalog, since: u64) -> Vec<String> {
        catalog.with(Kind::Service, |shelf| {
            shelf.changes_since(since).map(|(_, name)| name.to_string()).collect()
        })
    }

    fn head(catalog: &Catalog) -> u64 {
        catalog.with(Kind::Service, Shelf::head)
    }

    #[test]
    fn publications_side_by_side_are_all_told() {
        for _ in 0..300 {
            let catalog = Catalog::default();
            std::thread::scope(|scope| {
                let catalog = &catalog;
                for kind in Kind::ALL {
                    scope.spawn(move || catalog.publish([(kind, Vec::new())], None));
                }
            });
            let told = *catalog.watch().borrow();
            for kind in Kind::ALL {
                assert_eq!(told[kind.index()], catalog.version(kind), "{kind:?}");
            }
        }
    }

    #[test]
    fn only_what_differs_counts_as_changed() {
        let catalog = Catalog::default();
        assert_eq!(head(&catalog), 0, "not published");
        assert_eq!(
            publish(&catalog, &[("a", "1"), ("b", "1")]),
            Published {
                changed: 2,
                removed: 0,
                total: 2
            }
        );
        let before = head(&catalog);
        assert_eq!(
            publish(&catalog, &[("a", "1"), ("b", "2")]),
            Published {
                changed: 1,
                removed: 0,
                total: 2
            }
        );
        assert_eq!(changes(&catalog, before), ["b"]);
        assert_eq!(
            publish(&catalog, &[("b", "2")]),
            Published {
                changed: 0,
                removed: 1,
                total: 1
            }
        );
        assert_eq!(changes(&catalog, 0), ["b", "a"]);
    }

    #[test]
    fn a_name_that_changes_often_is_read_once_and_a_return_undoes_its_removal() {
        let catalog = Catalog::default();
        for content in ["1", "2", "3"] {
            publish(&catalog, &[("a", content)]);
            publish(&catalog, &[]);
        }
        publish(&catalog, &[("a", "4")]);
        assert_eq!(changes(&catalog, 0), ["a"]);
        assert_eq!(catalog.with(Kind::Service, |shelf| shelf.removed("a")), None);
    }

    #[test]
    fn an_amendment_touches_what_it_names_and_ends_as_if_everything_had_been_published() {
        let catalog = Catalog::default();
        let amend = |put: &[(&str, &str)], gone: &[&str], identities: &[(&str, Option<Option<SpiffeId>>)]| {
            let amendment = Amendment {
                put: put.iter().map(|(name, content)| service(name, content)).collect(),
                gone: gone.iter().map(|name| Arc::from(*name)).collect(),
            };
            let identities = identities
                .iter()
                .map(|(uid, identity)| (Arc::from(*uid), identity.clone()));
            catalog.amend([(Kind::Service, amendment)], identities)[0].1
        };
        let counts = |changed, removed, total| Published {
            changed,
            removed,
            total,
        };
        assert_eq!(amend(&[], &[], &[]), counts(0, 0, 0));
        assert!(head(&catalog) > 0, "the first publication, although there is nothing");
        assert_eq!(
            amend(&[("a", "1"), ("b", "1")], &[], &[("w", Some(None))]),
            counts(2, 0, 2)
        );
        assert_eq!(catalog.identity("w"), Some(None));
        let before = head(&catalog);
        assert_eq!(amend(&[("b", "1"), ("c", "1")], &["nobody"], &[]), counts(1, 0, 3));
        assert_eq!(changes(&catalog, before), ["c"]);
        assert_eq!(amend(&[], &["a"], &[("w", None)]), counts(0, 1, 2));
        assert_eq!(catalog.identity("w"), None);
        let before = head(&catalog);
        assert_eq!(publish(&catalog, &[("b", "1"), ("c", "1")]), counts(0, 0, 2));
        assert_eq!(changes(&catalog, before), Vec::<String>::new());
    }

    #[test]
    fn an_empty_publication_is_a_publication() {
        let catalog = Catalog::default();
        let mut watch = catalog.watch();
        publish(&catalog, &[]);
        assert!(watch.has_changed().unwrap());
        assert!(watch.borrow_and_update()[Kind::Service.index()] > 0);
        assert_eq!(
            watch.borrow()[Kind::Workload.index()],
            0,
            "the others still wait for their first"
        );
    }

    #[test]
    fn removals_are_remembered_up_to_a_bound() {
        let catalog = Catalog::default();
        let names: Vec<String> = (0..=MAX_TOMBSTONES).map(|at| at.to_string()).collect();
        let all: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
        publish(&catalog, &all);
        let before = head(&catalog);
        publish(&catalog, &[]);
        let after = head(&catalog);
        catalog.with(Kind::Service, |shelf| {
            assert!(
                shelf.has_forgotten_since(before),
                "a reader from before the removals has missed one"
            );
            assert!(!shelf.has_forgotten_since(after));
            assert_eq!(shelf.changes.len(), MAX_TOMBSTONES);
        });
    }
}
