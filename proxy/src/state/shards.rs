//! A map from a key to any number of values that is cheap to copy and cheap to change after a copy: sorted buckets, each
//! shared until it is written to. What the proxy looks up per connection lives in such maps. It knows nothing of what it
//! holds.

use std::{
    borrow::Borrow,
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher, Hash},
    sync::Arc,
};

/// Entries per bucket, on average, above which the number of buckets doubles. A change copies one bucket, and the list
/// of buckets.
const FULL: usize = 32;

type Bucket<K, V> = Arc<Vec<(K, V)>>;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Shards<K, V> {
    /// A power of two of them; within each, sorted by key, equal keys in order of insertion.
    buckets: Vec<Bucket<K, V>>,
    len: usize,
}

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        Self {
            buckets: vec![Arc::default()],
            len: 0,
        }
    }
}

impl<K: Ord + Hash + Clone, V: Clone> Shards<K, V> {
    /// Every value of a key, in order of insertion.
    pub(super) fn all<'s, Q: Ord + Hash + ?Sized>(
        &'s self,
        key: &Q,
    ) -> impl ExactSizeIterator<Item = &'s V> + use<'s, K, V, Q>
    where
        K: Borrow<Q>,
    {
        let bucket = &self.buckets[index(key, self.buckets.len())];
        let start = bucket.partition_point(|(k, _)| k.borrow() < key);
        let count = bucket[start..].partition_point(|(k, _)| k.borrow() == key);
        bucket[start..start + count].iter().map(|(_, value)| value)
    }

    /// The first value of a key.
    pub(super) fn first<Q: Ord + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.all(key).next()
    }

    /// Adds a value behind those the key has.
    pub(super) fn insert(&mut self, key: K, value: V) {
        if self.len >= self.buckets.len() * FULL {
            self.grow();
        }
        let at = index(&key, self.buckets.len());
        let bucket = Arc::make_mut(&mut self.buckets[at]);
        let position = bucket.partition_point(|(k, _)| *k <= key);
        bucket.insert(position, (key, value));
        self.len += 1;
    }

    /// Takes out the first value of a key that is the one meant.
    pub(super) fn remove<Q: Ord + Hash + ?Sized>(&mut self, key: &Q, meant: impl Fn(&V) -> bool) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let at = index(key, self.buckets.len());
        let position = self.buckets[at]
            .iter()
            .position(|(k, v)| k.borrow() == key && meant(v))?;
        let (_, value) = Arc::make_mut(&mut self.buckets[at]).remove(position);
        self.len -= 1;
        Some(value)
    }

    /// All values, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &V> {
        self.buckets
            .iter()
            .flat_map(|bucket| bucket.iter().map(|(_, value)| value))
    }

    /// How many values there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn grow(&mut self) {
        let count = self.buckets.len() * 2;
        let mut grown: Vec<Vec<(K, V)>> = (0..count).map(|_| Vec::new()).collect();
        // Entries leave each bucket in order, and two old buckets never meet in a new one: order is kept.
        for entry in self.buckets.iter().flat_map(|bucket| bucket.iter()) {
            grown[index(&entry.0, count)].push(entry.clone());
        }
        self.buckets = grown.into_iter().map(Arc::new).collect();
    }
}

/// Keys come from our own control plane: no secret seed is needed.
fn index<Q: Hash + ?Sized>(key: &Q, count: usize) -> usize {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(key);
    // The count is a power of two, so the low bits choose, and doubling splits each bucket in two.
    (hash & (count as u64 - 1)) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_copy_does_not_see_later_changes_and_shares_what_did_not_change() {
        let mut shards = Shards::default();
        for key in 0..10_000u32 {
            shards.insert(key, key);
        }
        let copy = shards.clone();
        shards.remove(&7, |_| true);
        shards.insert(7, 70);
        assert_eq!((copy.first(&7), shards.first(&7)), (Some(&7), Some(&70)));
        let changed = copy
            .buckets
            .iter()
            .zip(&shards.buckets)
            .filter(|(a, b)| !Arc::ptr_eq(a, b))
            .count();
        assert_eq!(changed, 1, "only the bucket of the key was copied");
        assert!(
            shards.buckets.iter().all(|bucket| bucket.len() < 4 * FULL),
            "buckets stay small"
        );
    }

    proptest! {
        #[test]
        fn it_does_what_a_plain_list_does(
            steps in prop::collection::vec((any::<bool>(), 0u8..80, 0u16..4), 0..600)
        ) {
            let mut shards: Shards<u8, u16> = Shards::default();
            let mut list: Vec<(u8, u16)> = Vec::new();
            for (add, key, value) in steps {
                if add {
                    shards.insert(key, value);
                    list.push((key, value));
                } else {
                    let removed = shards.remove(&key, |v| *v == value);
                    let position = list.iter().position(|entry| *entry == (key, value));
                    prop_assert_eq!(removed, position.map(|p| list.remove(p).1));
                }
            }
            prop_assert_eq!(shards.len(), list.len());
            prop_assert_eq!(shards.iter().count(), list.len());
            for key in 0..80 {
                let ours: Vec<u16> = shards.all(&key).copied().collect();
                let theirs: Vec<u16> = list.iter().filter(|(k, _)| *k == key).map(|(_, v)| *v).collect();
                prop_assert_eq!(ours, theirs);
            }
        }
    }
}
