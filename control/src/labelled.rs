//! Things of a namespace, found by one label and its value. It knows neither selectors nor workloads: what it finds are
//! candidates, and whoever asks looks closer.

use std::collections::{BTreeSet, HashMap};

type ByValue<T> = HashMap<Box<str>, BTreeSet<T>>;
type ByKey<T> = HashMap<Box<str>, ByValue<T>>;

/// Things by namespace, label and value.
#[derive(Debug)]
pub(crate) struct Labelled<T> {
    namespaces: HashMap<Box<str>, ByKey<T>>,
}

impl<T> Default for Labelled<T> {
    fn default() -> Self {
        Self {
            namespaces: HashMap::new(),
        }
    }
}

impl<T: Ord + Clone> Labelled<T> {
    /// Adds a thing under each of these labels.
    pub(crate) fn insert<'l>(&mut self, namespace: &str, labels: impl Iterator<Item = (&'l str, &'l str)>, thing: &T) {
        for (key, value) in labels {
            let by_key = self.namespaces.entry(namespace.into()).or_default();
            let by_value = by_key.entry(key.into()).or_default();
            by_value.entry(value.into()).or_default().insert(thing.clone());
        }
    }

    /// Removes a thing from under these labels; what becomes empty is dropped.
    pub(crate) fn remove<'l>(&mut self, namespace: &str, labels: impl Iterator<Item = (&'l str, &'l str)>, thing: &T) {
        for (key, value) in labels {
            let Some(by_key) = self.namespaces.get_mut(namespace) else {
                return;
            };
            let Some(by_value) = by_key.get_mut(key) else { continue };
            if let Some(things) = by_value.get_mut(value) {
                things.remove(thing);
                if things.is_empty() {
                    by_value.remove(value);
                }
            }
            if by_value.is_empty() {
                by_key.remove(key);
            }
            if by_key.is_empty() {
                self.namespaces.remove(namespace);
            }
        }
    }

    /// What is there under one label with this value.
    pub(crate) fn find(&self, namespace: &str, key: &str, value: &str) -> Option<&BTreeSet<T>> {
        self.namespaces.get(namespace)?.get(key)?.get(value)
    }

    /// The same in every namespace.
    pub(crate) fn find_anywhere(&self, key: &str, value: &str) -> impl Iterator<Item = &T> {
        self.namespaces
            .values()
            .filter_map(move |by_key| by_key.get(key)?.get(value))
            .flatten()
    }

    /// The fewest candidates for something that needs all of these labels; none for no labels.
    pub(crate) fn fewest<'s, 'l>(
        &'s self,
        namespace: &str,
        labels: impl Iterator<Item = (&'l str, &'l str)>,
    ) -> Option<&'s BTreeSet<T>> {
        let mut fewest: Option<&BTreeSet<T>> = None;
        for (key, value) in labels {
            // One label that nobody has: nobody has them all.
            let found = self.find(namespace, key, value)?;
            if fewest.is_none_or(|fewest| found.len() < fewest.len()) {
                fewest = Some(found);
            }
        }
        fewest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_are_found_by_any_of_their_labels_and_leave_nothing_behind() {
        let mut labelled = Labelled::default();
        let (one, other) = ([("app", "web"), ("tier", "front")], [("app", "web"), ("tier", "back")]);
        labelled.insert("shop", one.into_iter(), &1);
        labelled.insert("shop", other.into_iter(), &2);
        labelled.insert("bank", one.into_iter(), &3);
        let find = |labelled: &Labelled<i32>, key, value| {
            labelled
                .find("shop", key, value)
                .map(|found| found.iter().copied().collect::<Vec<_>>())
        };
        assert_eq!(find(&labelled, "app", "web"), Some(vec![1, 2]));
        assert_eq!(find(&labelled, "tier", "back"), Some(vec![2]));
        assert_eq!(find(&labelled, "tier", "none"), None);
        assert_eq!(labelled.find_anywhere("tier", "front").count(), 2);
        let fewest = labelled.fewest("shop", other.into_iter()).unwrap();
        assert_eq!(fewest.iter().collect::<Vec<_>>(), [&2]);
        assert!(
            labelled
                .fewest("shop", [("app", "web"), ("x", "y")].into_iter())
                .is_none()
        );
        assert!(labelled.fewest("shop", [].into_iter()).is_none());
        labelled.remove("shop", one.into_iter(), &1);
        labelled.remove("shop", other.into_iter(), &2);
        labelled.remove("bank", one.into_iter(), &3);
        assert!(labelled.namespaces.is_empty());
    }
}
