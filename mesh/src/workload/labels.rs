//! Labels, and the interner that lets thousands of workloads share the same few strings and label sets. It holds no
//! selectors: matching is the policy's business.

use std::{collections::HashSet, fmt, sync::Arc};

type Pair = (Arc<str>, Arc<str>);

/// A set of labels: sorted by key, each key once, shared and immutable.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct LabelSet(Arc<[Pair]>);

impl LabelSet {
    /// The value of a label; `None` where the key is absent (an empty value is `Some("")`).
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(present, _)| (**present).cmp(key)).ok()?;
        Some(&self.0[at].1)
    }

    /// Whether every pair is present with exactly that value.
    pub fn contains_all<'a>(&self, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> bool {
        pairs.into_iter().all(|(key, value)| self.get(key) == Some(value))
    }

    /// The pairs, sorted by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    /// How many labels.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Default for LabelSet {
    fn default() -> Self {
        Self(Arc::new([]))
    }
}

impl<K: AsRef<str>, V: AsRef<str>> FromIterator<(K, V)> for LabelSet {
    /// Of equal keys the last one counts.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Interner::default().labels(pairs)
    }
}

impl fmt::Debug for LabelSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Shares equal strings and equal label sets. One per store of workloads; not shared between threads.
#[derive(Debug, Default)]
pub struct Interner {
    strings: HashSet<Arc<str>>,
    sets: HashSet<LabelSet>,
    /// How many there were when it last forgot.
    trimmed: usize,
}

impl Interner {
    /// The shared copy of a text.
    pub fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(shared) = self.strings.get(text) {
            return Arc::clone(shared);
        }
        let shared: Arc<str> = text.into();
        self.strings.insert(Arc::clone(&shared));
        shared
    }

    /// The shared copy of a text; `None` for the empty one.
    pub fn optional(&mut self, text: &str) -> Option<Arc<str>> {
        (!text.is_empty()).then(|| self.text(text))
    }

    /// The shared set of these labels. Of equal keys the last one counts.
    pub fn labels<K: AsRef<str>, V: AsRef<str>>(&mut self, pairs: impl IntoIterator<Item = (K, V)>) -> LabelSet {
        let mut sorted: Vec<Pair> = pairs
            .into_iter()
            .map(|(key, value)| (self.text(key.as_ref()), self.text(value.as_ref())))
            .collect();
        sorted.reverse();
        sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
        sorted.dedup_by(|(a, _), (b, _)| a == b);
        let set = LabelSet(sorted.into());
        if let Some(shared) = self.sets.get(&set) {
            return shared.clone();
        }
        self.sets.insert(set.clone());
        set
    }

    /// Forgets what nobody else holds. Call it now and then, after workloads have gone.
    pub fn trim(&mut self) {
        self.sets.retain(|set| Arc::strong_count(&set.0) > 1);
        self.strings.retain(|text| Arc::strong_count(text) > 1);
        self.trimmed = self.len();
    }

    /// The same, once enough has been added that looking through all of it costs little for each.
    pub fn trim_if_grown(&mut self) {
        const FEW: usize = 1024;
        if self.len() > self.trimmed + self.trimmed / 4 + FEW {
            self.trim();
        }
    }

    /// How many strings and label sets it holds.
    pub fn len(&self) -> usize {
        self.strings.len() + self.sets.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_found_by_key_and_absence_differs_from_empty() {
        let labels: LabelSet = [("tier", "db"), ("app", "pg"), ("canary", "")].into_iter().collect();
        assert_eq!(
            (labels.get("app"), labels.get("canary"), labels.get("none")),
            (Some("pg"), Some(""), None)
        );
        assert!(labels.contains_all([("app", "pg"), ("canary", "")]));
        assert!(!labels.contains_all([("none", "")]));
        assert_eq!(
            labels.iter().map(|(key, _)| key).collect::<Vec<_>>(),
            ["app", "canary", "tier"]
        );
    }

    #[test]
    fn the_last_of_equal_keys_counts() {
        let labels: LabelSet = [("app", "old"), ("app", "new")].into_iter().collect();
        assert_eq!((labels.get("app"), labels.len()), (Some("new"), 1));
    }

    #[test]
    fn equal_sets_share_memory_and_trim_forgets_the_unused() {
        let mut interner = Interner::default();
        let a = interner.labels([("app", "web")]);
        let b = interner.labels([("app", "web")]);
        assert!(Arc::ptr_eq(&a.0, &b.0));
        interner.labels([("app", "gone")]);
        interner.trim();
        assert_eq!(interner.len(), 3, "one set, two strings");
        drop((a, b));
        interner.trim();
        assert!(interner.is_empty());
    }

    #[test]
    fn what_nobody_holds_is_forgotten_as_it_piles_up() {
        let mut interner = Interner::default();
        let held = interner.text("held");
        for n in 0..100_000 {
            interner.text(&n.to_string());
            interner.trim_if_grown();
            assert!(interner.len() <= 1026, "{n}");
        }
        assert!(Arc::ptr_eq(&held, &interner.text("held")));
    }
}
