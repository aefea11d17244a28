//! What one stream wants of one kind, and how far it has been served: a point in the catalog, the names it asked for,
//! what its proxy holds, and at most one response in flight. A name may be an alias: then it stands for every resource
//! that has it, and the proxy holds each for as long as any of its names stands for it. A pure state machine; the stream
//! drives it.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use prost::bytes::Bytes;
use squire_mesh::wire::discovery::DeltaDiscoveryRequest;

use super::{
    Version,
    catalog::{Entry, Shelf},
    resource::answered,
};

/// Bytes of resources after which a response is full. Proxies accept 4 MiB.
const PAGE_BYTES: usize = 512 * 1024;
/// Names a stream may subscribe to, of one kind.
pub(super) const MAX_NAMES: usize = 200_000;
/// Longer names are nobody's.
const MAX_NAME: usize = 512;
/// The name that subscribes to everything.
const WILDCARD: &str = "*";

/// What one stream wants of one kind.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    /// A request for this kind has come.
    started: bool,
    wildcard: bool,
    names: HashSet<Arc<str>>,
    /// Names to be answered although they may not have changed.
    fresh: BTreeSet<Arc<str>>,
    /// What the proxy holds. Wildcard: what it held when it connected, until the first pass has compared it.
    held: HashMap<Arc<str>, Version>,
    /// Names were given up: some of what is held may have no name left that stands for it.
    review: bool,
    /// Everything up to this point of the catalog has been sent.
    point: u64,
    /// Wildcard: the head of the catalog when the first pass began; the pass ends there. `None` before and after.
    first_pass: Option<u64>,
    in_flight: Option<InFlight>,
    next_nonce: u64,
}

#[derive(Debug)]
struct InFlight {
    nonce: String,
    point: u64,
}

/// The next response.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) resources: Vec<Bytes>,
    pub(super) removed: Vec<Arc<str>>,
    pub(super) nonce: String,
    /// The point of the catalog that the proxy has when it has applied this.
    pub(super) point: u64,
    /// More of the first pass is to come: a proxy that was told nothing yet does not have the whole table after this.
    pub(super) partial: bool,
}

/// What a request said about an earlier response.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// Nothing, or about a response that is not the last one.
    None,
    /// The response up to this point was applied.
    Ack(u64),
    /// The response up to this point was refused.
    Nack(u64, String),
}

/// Why a stream cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    /// More names than one stream may have.
    #[error("more than {MAX_NAMES} names, or a name longer than {MAX_NAME} bytes: subscribe to \"*\" instead")]
    TooMuch,
    /// Removals were forgotten before this stream had read them.
    #[error("this stream fell behind too far: reconnect with initial_resource_versions")]
    FellBehind,
}

impl Subscription {
    /// Takes in a request of this kind. `only` limits what the stream may see to one name.
    pub(super) fn request(&mut self, request: DeltaDiscoveryRequest, only: Option<&Arc<str>>) -> Result<Reply, Broken> {
        let first = !std::mem::replace(&mut self.started, true);
        if first {
            self.wildcard = request.resource_names_subscribe.is_empty();
            let held = request.initial_resource_versions.into_iter();
            // An unreadable version is no version of ours: the resource differs.
            self.held = held
                .map(|(name, version)| (name.into(), version.parse().unwrap_or(Version::UNKNOWN)))
                .collect();
        }
        let wanted = request.resource_names_subscribe;
        if self.names.len() + wanted.len() > MAX_NAMES || wanted.iter().any(|name| name.len() > MAX_NAME) {
            return Err(Broken::TooMuch);
        }
        for name in wanted {
            if name == WILDCARD {
                self.wildcard = true;
                // A wildcard that comes late begins where the catalog begins.
                self.point = 0;
                self.first_pass = None;
            } else {
                let name: Arc<str> = name.into();
                self.fresh.insert(Arc::clone(&name));
                if !self.names.insert(Arc::clone(&name)) {
                    // Who asks again is answered again, whatever we think it holds.
                    self.held.remove(&name);
                }
            }
        }
        for name in request.resource_names_unsubscribe {
            if name == WILDCARD && std::mem::take(&mut self.wildcard) {
                // What it asked for by name is all that it keeps; from here on we know what that is.
                self.fresh.extend(self.names.iter().cloned());
            }
            self.review |= self.names.remove(name.as_str());
            self.fresh.remove(name.as_str());
        }
        if let Some(only) = only.filter(|_| self.wildcard) {
            // All that may be seen is one name: everything means that.
            self.wildcard = false;
            self.names.insert(Arc::clone(only));
            self.fresh.insert(Arc::clone(only));
        }
        Ok(self.reply(
            &request.response_nonce,
            request.error_detail.map(|detail| detail.message),
        ))
    }

    fn reply(&mut self, nonce: &str, refused: Option<String>) -> Reply {
        match self.in_flight.take_if(|sent| !nonce.is_empty() && sent.nonce == nonce) {
            None => Reply::None,
            Some(sent) => match refused {
                None => Reply::Ack(sent.point),
                Some(why) => Reply::Nack(sent.point, why),
            },
        }
    }

    /// The next response, if there is something to say and nothing in flight. `only` as in [`Self::request`].
    pub(super) fn next(&mut self, shelf: &Shelf, only: Option<&Arc<str>>) -> Result<Option<Page>, Broken> {
        let nothing_new = self.fresh.is_empty() && !self.review && self.point >= shelf.head();
        if !self.started || self.in_flight.is_some() || shelf.head() == 0 || nothing_new {
            return Ok(None);
        }
        let mut page = Draft::default();
        self.answer_fresh(shelf, only, &mut page);
        if self.wildcard {
            self.read_all(shelf, &mut page)?;
        } else {
            self.read_named(shelf, only, &mut page);
        }
        if page.is_empty() {
            return Ok(None);
        }
        self.next_nonce += 1;
        let nonce = format!("{:x}", self.next_nonce);
        self.in_flight = Some(InFlight {
            nonce: nonce.clone(),
            point: self.point,
        });
        let partial = if self.wildcard {
            self.first_pass.is_some()
        } else {
            self.point == 0
        };
        Ok(Some(Page {
            partial,
            resources: page.resources,
            removed: page.removed,
            nonce,
            point: self.point,
        }))
    }

    /// Names just subscribed to get an answer in any case: what they stand for, less what the proxy holds already, or that
    /// it is nothing. An alias is answered once all that it stands for has been sent.
    fn answer_fresh(&mut self, shelf: &Shelf, only: Option<&Arc<str>>, page: &mut Draft) {
        while !page.is_full() {
            let Some(name) = self.fresh.pop_first() else { break };
            let mut found = shelf.selected(&name).filter(|(name, _)| allows(only, name)).peekable();
            let none = found.peek().is_none();
            for (name_of_one, entry) in found {
                if page.is_full() && !self.wildcard {
                    // What went out is held by then.
                    self.fresh.insert(name);
                    return;
                }
                self.put(name_of_one, entry, page);
            }
            if none {
                self.held.remove(&name);
                page.remove(&name);
            } else if shelf.find(&name).is_none() {
                page.answer(&name);
            }
        }
    }

    /// Sends a resource, unless the proxy holds it.
    fn put(&mut self, name: &Arc<str>, entry: &Entry, page: &mut Draft) {
        if self.held.get(name) == Some(&entry.version) {
            return;
        }
        if !self.wildcard {
            self.held.insert(Arc::clone(name), entry.version);
        }
        page.put(name, &entry.encoded);
    }

    /// Wildcard: everything that changed since the point reached. The first time that is everything there is, less what
    /// the proxy already holds, and the removal of what it holds in vain.
    fn read_all(&mut self, shelf: &Shelf, page: &mut Draft) -> Result<(), Broken> {
        if self.point == 0 && self.first_pass.is_none() {
            self.first_pass = Some(shelf.head());
        }
        let began = self.first_pass.unwrap_or(0);
        if shelf.has_forgotten_since(began.max(self.point)) {
            return Err(Broken::FellBehind);
        }
        for (point, name) in shelf.changes_since(self.point) {
            if page.is_full() {
                return Ok(());
            }
            let held = self.held.remove(name);
            match shelf.find(name) {
                Some((_, entry)) if held == Some(entry.version) => {}
                Some((name, entry)) => page.put(name, &entry.encoded),
                // What was removed before the first pass began only concerns a proxy that still holds it.
                None if point > began || held.is_some() => page.remove(name),
                None => {}
            }
            self.point = point;
        }
        self.point = shelf.head();
        if self.first_pass.take().is_some() {
            let mut vain: Vec<Arc<str>> = std::mem::take(&mut self.held).into_keys().collect();
            vain.sort_unstable();
            vain.iter().for_each(|name| page.remove(name));
            page.closes = true;
        }
        Ok(())
    }

    /// What the names stand for and has changed since the point reached; the first answer to each name was given as a
    /// fresh one. Where more has changed than is held it is cheaper to look at everything that is wanted and held.
    fn read_named(&mut self, shelf: &Shelf, only: Option<&Arc<str>>, page: &mut Draft) {
        let since = self.point;
        let few = shelf.head() - since <= (self.names.len() + self.held.len()) as u64;
        let complete = if few && since != 0 && !self.review && !shelf.has_forgotten_since(since) {
            self.read_changes(shelf, only, page)
        } else {
            self.compare(shelf, only, page)
        };
        if complete {
            self.point = shelf.head();
            self.review = false;
        }
    }

    /// Reads what changed. Whether it came to the end.
    fn read_changes(&mut self, shelf: &Shelf, only: Option<&Arc<str>>, page: &mut Draft) -> bool {
        for (point, name) in shelf.changes_since(self.point) {
            if page.is_full() {
                return false;
            }
            let wanted = |(name, entry): &(&Arc<str>, &Entry)| allows(only, name) && self.wants(name, entry);
            match shelf.find(name).filter(wanted) {
                Some((name, entry)) => self.put(name, entry, page),
                None if self.held.remove(name).is_some() => page.remove(name),
                None => {}
            }
            self.point = point;
        }
        true
    }

    /// Looks at everything that is wanted, and at everything that is held. Whether it came to the end.
    fn compare(&mut self, shelf: &Shelf, only: Option<&Arc<str>>, page: &mut Draft) -> bool {
        let names = std::mem::take(&mut self.names);
        for name in &names {
            if self.fresh.contains(name) {
                continue;
            }
            for (name, entry) in shelf.selected(name).filter(|(name, _)| allows(only, name)) {
                if page.is_full() {
                    break;
                }
                self.put(name, entry, page);
            }
        }
        self.names = names;
        let vain = |name: &&Arc<str>| {
            let found = shelf.find(name);
            !found.is_some_and(|(name, entry)| allows(only, name) && self.wants(name, entry))
        };
        let mut vain: Vec<Arc<str>> = self.held.keys().filter(vain).cloned().collect();
        vain.sort_unstable();
        for name in vain {
            if page.is_full() {
                break;
            }
            self.held.remove(&name);
            page.remove(&name);
        }
        !page.is_full()
    }

    /// Whether one of the names stands for a resource.
    fn wants(&self, name: &str, entry: &Entry) -> bool {
        self.names.contains(name) || entry.aliases.iter().any(|alias| self.names.contains(alias))
    }

    /// Whether a response waits for its acknowledgement.
    #[cfg(test)]
    pub(super) fn is_pending(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Whether a request of this kind has come.
    pub(super) fn is_started(&self) -> bool {
        self.started
    }

    /// How many names it asked for; `None` for everything.
    pub(super) fn asked(&self) -> Option<usize> {
        (!self.wildcard).then_some(self.names.len())
    }
}

/// Whether what may be seen is limited to another name.
fn allows(only: Option<&Arc<str>>, name: &str) -> bool {
    only.is_none_or(|only| **only == *name)
}

/// A response in the making: each name once.
#[derive(Default)]
struct Draft {
    resources: Vec<Bytes>,
    removed: Vec<Arc<str>>,
    names: HashSet<Arc<str>>,
    bytes: usize,
    /// It ends the first pass, and says so even when it says nothing else: "there is none" is an answer too.
    closes: bool,
}

impl Draft {
    fn put(&mut self, name: &Arc<str>, encoded: &Bytes) {
        if self.names.insert(Arc::clone(name)) {
            self.bytes += encoded.len();
            self.resources.push(encoded.clone());
        }
    }

    fn remove(&mut self, name: &Arc<str>) {
        if self.names.insert(Arc::clone(name)) {
            self.bytes += name.len();
            self.removed.push(Arc::clone(name));
        }
    }

    fn answer(&mut self, alias: &str) {
        let answer = answered(alias);
        self.bytes += answer.len();
        self.resources.push(answer);
    }

    fn is_full(&self) -> bool {
        self.bytes >= PAGE_BYTES
    }

    fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.removed.is_empty() && !self.closes
    }
}

#[cfg(test)]
mod tests;
