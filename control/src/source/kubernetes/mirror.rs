//! What is known of the API server's objects: each one's last good state, what is wrong with its latest, and how well each
//! kind is followed. A list replaces the objects of its kind in one step. Whoever asks is told what is different since it was
//! last asked; whoever waits hears of a change only when there is one that matters.

mod followed;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use kube::runtime::watcher::Event;
use squire_mesh::{spiffe::TrustDomain, svid::Revocations, workload::Interner};
use tokio::sync::watch;

pub(super) use self::followed::Held;
use self::followed::{Content, Followed, Trouble, Unasked};
use super::{
    accounts::Accounts,
    kinds::{KINDS, Kind, Role},
    raw::Raw,
    remarks::{Condition, Judged},
};
use crate::{
    facts::{self, Key},
    inventory::SharedFact,
    manifest::{Object, Problem, Severity},
    push::epoch_seconds,
    source::{FileView, News, Review},
};

/// What is known of the API server's objects.
pub struct Mirror {
    domain: TrustDomain,
    review: Review,
    state: Mutex<State>,
    changes: watch::Sender<u64>,
    revoked: watch::Sender<Arc<Revocations>>,
}

#[derive(Default)]
struct State {
    interner: Interner,
    generation: u64,
    complete: bool,
    kinds: [Followed; KINDS.len()],
    /// Facts that nobody has asked for yet.
    news: Unasked,
    accounts: Accounts,
}

impl Mirror {
    /// Nothing is known yet.
    pub(super) fn new(domain: TrustDomain, review: Review) -> Self {
        Self {
            domain,
            review,
            state: Mutex::default(),
            changes: watch::Sender::default(),
            revoked: watch::Sender::default(),
        }
    }

    /// Tells of every change that matters.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn revoked(&self) -> watch::Receiver<Arc<Revocations>> {
        self.revoked.subscribe()
    }

    /// Takes in what a watch has said.
    pub(super) fn apply(&self, kind: &'static Kind, event: Event<Raw>) {
        let now = SystemTime::now();
        let mut guard = self.lock();
        let state = &mut *guard;
        let followed = &mut state.kinds[kind.index()];
        let mut changed = followed.trouble.take().is_some();
        followed.absent = false;
        match event {
            Event::Init => followed.incoming = Some(BTreeMap::new()),
            Event::InitApply(raw) => {
                let read = self.read(
                    kind,
                    raw,
                    followed.objects(),
                    &mut state.interner,
                    &mut state.accounts,
                    now,
                );
                if let (Some((key, held)), Some(incoming)) = (read, &mut followed.incoming) {
                    incoming.insert(key, held);
                }
            }
            Event::InitDone => {
                let listed = followed.incoming.take().unwrap_or_default();
                if kind.role == Role::Account {
                    let gone = followed.objects().keys().filter(|key| !listed.contains_key(*key));
                    gone.for_each(|key| state.accounts.deleted(key, now));
                }
                changed |= followed.listed.is_none() | followed.replace(listed, &mut state.news);
                followed.listed = Some(now);
            }
            Event::Apply(raw) => {
                let read = self.read(
                    kind,
                    raw,
                    followed.objects(),
                    &mut state.interner,
                    &mut state.accounts,
                    now,
                );
                if let Some((key, held)) = read {
                    changed |= followed.put(key, held, &mut state.news);
                }
            }
            Event::Delete(raw) => {
                let key = key_of(&raw, &mut state.interner);
                changed |= followed.remove(&key, &mut state.news);
                if kind.role == Role::Account {
                    state.accounts.deleted(&key, now);
                }
            }
        }
        self.settle(state, changed, now);
    }

    /// There is no such kind: all of its objects are gone with it.
    pub(super) fn absent(&self, kind: &'static Kind) {
        let now = SystemTime::now();
        let mut guard = self.lock();
        let state = &mut *guard;
        let followed = &mut state.kinds[kind.index()];
        let news = !followed.absent || followed.trouble.is_some();
        followed.replace(BTreeMap::new(), &mut state.news);
        (followed.absent, followed.listed) = (true, Some(now));
        (followed.incoming, followed.trouble) = (None, None);
        self.settle(state, news, now);
    }

    /// A kind cannot be followed; what was read of it stays.
    pub(super) fn troubled(&self, kind: &'static Kind, why: String, fix: &'static str) {
        let now = SystemTime::now();
        let mut state = self.lock();
        let trouble = &mut state.kinds[kind.index()].trouble;
        let since = trouble.as_ref().map_or(now, |trouble| trouble.since);
        let news = trouble.as_ref().is_none_or(|trouble| trouble.why != why);
        *trouble = Some(Trouble { since, why, fix });
        self.settle(&mut state, news, now);
    }

    /// A kind is followed again, although nothing has happened.
    pub(super) fn well(&self, kind: &'static Kind) {
        let mut state = self.lock();
        let news = state.kinds[kind.index()].trouble.take().is_some();
        self.settle(&mut state, news, SystemTime::now());
    }

    /// Forgets what concerns nothing any more; the number of the last change.
    pub(super) fn tidy(&self, now: SystemTime) -> u64 {
        let mut state = self.lock();
        state.interner.trim_if_grown();
        let forgotten = state.accounts.forget_old(now);
        self.settle(&mut state, forgotten, now);
        state.generation
    }

    /// What is known now; of facts, what is different since this was last asked. Of objects that say something of workloads
    /// only those are looked at that are new or odd.
    pub(super) fn news(&self) -> News {
        let mut guard = self.lock();
        let state = &mut *guard;
        let mut news = News {
            complete: state.complete,
            changes: state.news.take(),
            ..News::default()
        };
        let unlisted = KINDS
            .iter()
            .zip(&state.kinds)
            .filter(|(_, followed)| followed.listed.is_none());
        let unlisted: Vec<_> = unlisted.map(|(kind, _)| kind.label()).collect();
        if !unlisted.is_empty() {
            news.problems
                .push(problem(unlisted.join(", "), "not listed yet".to_owned(), ""));
        }
        for (kind, followed) in KINDS.iter().zip(&state.kinds) {
            news.problems.extend(followed.problem(kind));
            news.files.push(FileView {
                file: kind.label().to_owned(),
                good: followed.listed.is_some() && followed.trouble.is_none(),
                in_force_since: followed.listed.map(epoch_seconds),
                bad_since: followed.trouble.as_ref().map(|trouble| epoch_seconds(trouble.since)),
            });
            news.problems
                .extend(followed.odd().flat_map(|held| &held.problems).cloned());
            if kind.role == Role::Kept {
                let kept = followed.objects().values().filter_map(|held| match &held.content {
                    Content::Object(object) => Some(Arc::clone(object)),
                    Content::Unknown | Content::Account | Content::Fact(_) => None,
                });
                news.others.extend(kept);
            }
        }
        news
    }

    /// The oldest moment since when a last good state stands in for something.
    pub(super) fn stale_since(&self) -> Option<SystemTime> {
        let state = self.lock();
        let troubled = state.kinds.iter().filter(|followed| followed.listed.is_some());
        let troubled = troubled.filter_map(|followed| followed.trouble.as_ref().map(|trouble| trouble.since));
        let odd = state.kinds.iter().flat_map(Followed::odd);
        troubled.chain(odd.filter_map(|held| held.stale_since)).min()
    }

    /// Conditions that the status of an object should have, and has not.
    pub(super) fn conditions_due(&self) -> Vec<Condition> {
        let state = self.lock();
        let kept = KINDS
            .iter()
            .zip(&state.kinds)
            .filter(|(kind, _)| kind.role == Role::Kept);
        let held =
            kept.flat_map(|(kind, followed)| followed.objects().iter().map(move |(key, held)| (kind, key, held)));
        held.filter_map(|(kind, key, held)| Condition::due(kind, key, held.judged.as_ref()?, &held.problems))
            .collect()
    }

    /// Which generation of an object was read last, and what is wrong with it, if its last good state stands in for it.
    pub(super) fn latest(&self, kind: &str, namespace: &str, name: &str) -> Option<(i64, Option<String>)> {
        let mut state = self.lock();
        let index = KINDS.iter().position(|known| known.kind == kind)?;
        let key = Key {
            namespace: state.interner.text(namespace),
            name: state.interner.text(name),
        };
        let held = state.kinds[index].objects().get(&key)?;
        let errors = held
            .problems
            .iter()
            .filter(|problem| problem.severity == Severity::Error);
        let errors: Vec<&str> = errors.map(|problem| problem.message.as_str()).collect();
        let wrong = (!errors.is_empty()).then(|| errors.join("; "));
        Some((held.judged.as_ref()?.generation(), wrong))
    }

    /// Reads one object; none: it has no name, and so is no object.
    fn read(
        &self,
        kind: &'static Kind,
        raw: Raw,
        known: &BTreeMap<Key, Held>,
        interner: &mut Interner,
        accounts: &mut Accounts,
        now: SystemTime,
    ) -> Option<(Key, Held)> {
        raw.meta.name.as_ref()?;
        let key = key_of(&raw, interner);
        let known = known.get(&key);
        let held = match kind.role {
            Role::Account => {
                accounts.present(&key, &raw);
                Held::good(Content::Account)
            }
            Role::Fact => fact(raw, known, interner, now)?,
            Role::Kept => self.kept(raw, known, now)?,
        };
        Some((key, held))
    }

    /// A policy, a setting or a route. While its latest version is wrong, the last good one stays; without one, the latest
    /// itself is in force, of which what is not understood never allows anything.
    fn kept(&self, raw: Raw, known: Option<&Held>, now: SystemTime) -> Option<Held> {
        let judged = Some(Judged::read(&raw));
        let object = Object::from_value("", without_status(raw.value))?;
        let problems = (self.review)(&object);
        let before = known
            .map(|held| &held.content)
            .filter(|before| matches!(before, Content::Object(_)));
        let wrong = problems.iter().any(|problem| problem.severity == Severity::Error);
        let (content, stale_since) = match before {
            Some(before) if wrong => (
                before.clone(),
                Some(known.and_then(|held| held.stale_since).unwrap_or(now)),
            ),
            Some(Content::Object(before)) if before.value == object.value => {
                (Content::Object(Arc::clone(before)), None)
            }
            _ => (Content::Object(Arc::new(object)), None),
        };
        Some(Held {
            content,
            problems,
            stale_since,
            judged,
        })
    }

    /// Draws what follows from a change, and tells of it if it matters.
    fn settle(&self, state: &mut State, changed: bool, now: SystemTime) {
        if !state.complete && state.kinds.iter().all(|followed| followed.listed.is_some()) {
            state.complete = true;
            let present = &state.kinds[account_kind()].objects();
            let facts = state.kinds.iter().flat_map(|followed| followed.objects().values());
            let pods = facts.filter_map(|held| match &held.content {
                Content::Fact(SharedFact::Pod(pod)) if !pod.ended => Some(pod),
                _ => None,
            });
            for pod in pods {
                let key = Key {
                    namespace: Arc::clone(&pod.key.namespace),
                    name: Arc::clone(&pod.service_account),
                };
                // A pod is only made when its account exists: it has been deleted since.
                if !present.contains_key(&key) {
                    state.accounts.deleted(&key, now);
                }
            }
        } else if !changed {
            return;
        }
        if let Some(revocations) = state.accounts.revocations(&self.domain) {
            self.revoked.send_replace(Arc::new(revocations));
        }
        state.generation += 1;
        // While lists come in there is nothing to do yet; once they are complete, there is.
        if state.complete || state.kinds.iter().any(|followed| followed.trouble.is_some()) {
            self.changes.send_replace(state.generation);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is whole before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A problem of no file.
fn problem(object: String, message: String, fix: &str) -> Problem {
    Problem {
        severity: Severity::Error,
        file: "".into(),
        document: 0,
        line: 0,
        object: Some(object),
        path: String::new(),
        message,
        fix: fix.to_owned(),
    }
}

/// A fact; while the object's latest version is wrong, the one before stays.
fn fact(raw: Raw, known: Option<&Held>, interner: &mut Interner, now: SystemTime) -> Option<Held> {
    let text = |key: &str| {
        raw.value
            .get(key)
            .and_then(serde_json::Value::as_str)
            .map(str::to_owned)
    };
    let (api_version, kind) = (text("apiVersion")?, text("kind")?);
    let object = format!(
        "{kind} {}{}",
        raw.meta
            .namespace
            .as_deref()
            .map(|namespace| format!("{namespace}/"))
            .unwrap_or_default(),
        raw.meta.name.as_deref().unwrap_or_default()
    );
    match facts::read(&api_version, &kind, raw.value, interner) {
        Ok(Some(fact)) => {
            let fact = Content::Fact(fact.into());
            let before = known.map(|held| &held.content).filter(|before| **before == fact);
            Some(Held::good(before.cloned().unwrap_or(fact)))
        }
        Ok(None) => None,
        Err(error) => {
            let content = known.map_or(Content::Unknown, |held| held.content.clone());
            let stale = (content != Content::Unknown).then(|| known.and_then(|held| held.stale_since).unwrap_or(now));
            let fix = if stale.is_some() {
                "mend the field; until then the last good state of this object stays in force"
            } else {
                "mend the field; until then the mesh does not know this object"
            };
            let mut problem = problem(object, error.why(), fix);
            problem.path = error.path().unwrap_or_default().to_owned();
            Some(Held {
                content,
                problems: vec![problem],
                stale_since: stale,
                judged: None,
            })
        }
    }
}

fn key_of(raw: &Raw, interner: &mut Interner) -> Key {
    Key {
        namespace: interner.text(raw.meta.namespace.as_deref().unwrap_or_default()),
        name: interner.text(raw.meta.name.as_deref().unwrap_or_default()),
    }
}

/// What others write about an object, and what changes with every write, is no part of what it says.
fn without_status(mut value: serde_json::Value) -> serde_json::Value {
    if let Some(map) = value.as_object_mut() {
        map.remove("status");
    }
    if let Some(metadata) = value.get_mut("metadata").and_then(serde_json::Value::as_object_mut) {
        metadata.remove("resourceVersion");
        metadata.remove("generation");
    }
    value
}

fn account_kind() -> usize {
    // One of the kinds is.
    KINDS
        .iter()
        .position(|kind| kind.role == Role::Account)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
