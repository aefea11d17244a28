//! What is known of one kind: its objects, and how well it is followed. Objects that are odd are known apart, so that
//! nobody has to look for them among thousands that are not; facts that are different are noted until somebody asks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use super::super::{kinds::Kind, remarks::Judged};
use crate::{
    facts::Key,
    inventory::{Change, FactId, SharedFact},
    manifest::{Object, Problem},
};

/// What is known of one kind.
#[derive(Default)]
pub(super) struct Followed {
    objects: BTreeMap<Key, Held>,
    /// Those with problems, or of which the latest version is not in force.
    odd: BTreeSet<Key>,
    /// A list that has begun, and is not whole yet.
    pub(super) incoming: Option<BTreeMap<Key, Held>>,
    /// When a list was last complete.
    pub(super) listed: Option<SystemTime>,
    /// There is no such kind on this API server.
    pub(super) absent: bool,
    pub(super) trouble: Option<Trouble>,
}

pub(super) struct Trouble {
    pub(super) since: SystemTime,
    pub(super) why: String,
    pub(super) fix: &'static str,
}

/// One object.
#[derive(Clone)]
pub(in super::super) struct Held {
    pub(super) content: Content,
    /// What is wrong with its latest version.
    pub(super) problems: Vec<Problem>,
    /// Since when `content` is of an earlier version.
    pub(super) stale_since: Option<SystemTime>,
    /// What its status says of it, as far as that is ours.
    pub(super) judged: Option<Judged>,
}

#[derive(Clone)]
pub(super) enum Content {
    /// Nothing good was ever read of it.
    Unknown,
    Fact(SharedFact),
    Object(Arc<Object>),
    Account,
}

/// Facts that are different since somebody last asked.
#[derive(Default)]
pub(super) struct Unasked(BTreeMap<FactId, Option<SharedFact>>);

impl Followed {
    pub(super) fn objects(&self) -> &BTreeMap<Key, Held> {
        &self.objects
    }

    /// Objects with problems, or of which the latest version is not in force.
    pub(super) fn odd(&self) -> impl Iterator<Item = &Held> {
        self.odd.iter().filter_map(|key| self.objects.get(key))
    }

    /// Takes in one object. Whether anybody has to hear of it.
    pub(super) fn put(&mut self, key: Key, held: Held, news: &mut Unasked) -> bool {
        if held.is_odd() {
            self.odd.insert(key.clone());
        } else {
            self.odd.remove(&key);
        }
        let before = self.objects.get(&key);
        news.note(before, Some(&held));
        let changed = before.is_none_or(|before| !before.like(&held));
        self.objects.insert(key, held);
        changed
    }

    /// Forgets one object. Whether it was known.
    pub(super) fn remove(&mut self, key: &Key, news: &mut Unasked) -> bool {
        self.odd.remove(key);
        let before = self.objects.remove(key);
        news.note(before.as_ref(), None);
        before.is_some()
    }

    /// Takes these objects for all there are. Whether anybody has to hear of it.
    pub(super) fn replace(&mut self, listed: BTreeMap<Key, Held>, news: &mut Unasked) -> bool {
        let gone = self.objects.keys().filter(|key| !listed.contains_key(*key));
        let gone: Vec<Key> = gone.cloned().collect();
        let mut changed = !gone.is_empty();
        for key in &gone {
            self.remove(key, news);
        }
        for (key, held) in listed {
            changed |= self.put(key, held, news);
        }
        changed
    }

    /// What is wrong with following a kind.
    pub(super) fn problem(&self, kind: &Kind) -> Option<Problem> {
        let trouble = self.trouble.as_ref()?;
        let message = if self.listed.is_some() {
            format!("cannot be watched: {}; what was last read stays in force", trouble.why)
        } else {
            format!("cannot be listed: {}", trouble.why)
        };
        Some(super::problem(format!("all {}", kind.plural), message, trouble.fix))
    }
}

impl Unasked {
    /// Everything noted, which is forgotten by that.
    pub(super) fn take(&mut self) -> Vec<Change> {
        let noted = std::mem::take(&mut self.0).into_iter();
        noted.map(|(id, fact)| Change { id, fact }).collect()
    }

    fn note(&mut self, before: Option<&Held>, now: Option<&Held>) {
        let fact = |held: Option<&Held>| match held.map(|held| &held.content) {
            Some(Content::Fact(fact)) => Some(fact.clone()),
            Some(Content::Unknown | Content::Object(_) | Content::Account) | None => None,
        };
        let (before, now) = (fact(before), fact(now));
        if before != now
            && let Some(known) = now.as_ref().or(before.as_ref())
        {
            self.0.insert(known.id(), now);
        }
    }
}

impl Held {
    pub(super) fn good(content: Content) -> Self {
        Self {
            content,
            problems: Vec::new(),
            stale_since: None,
            judged: None,
        }
    }

    fn is_odd(&self) -> bool {
        !self.problems.is_empty() || self.stale_since.is_some()
    }

    /// Whether nobody has to hear of the difference.
    fn like(&self, other: &Self) -> bool {
        self.content == other.content && self.problems == other.problems && self.judged == other.judged
    }
}

impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unknown, Self::Unknown) | (Self::Account, Self::Account) => true,
            (Self::Fact(one), Self::Fact(other)) => one == other,
            // What says the same is kept as the same.
            (Self::Object(one), Self::Object(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}
