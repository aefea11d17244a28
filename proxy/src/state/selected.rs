//! What a sidecar that subscribes on demand has asked for, and what of it has been answered. Readers look a selector up in
//! the snapshot without waiting or allocating, and leave a mark that it was used. When something is asked for, and when it
//! is given up, is decided elsewhere.
//!
//! A selector that has been answered says what there is *not*, so it must never be believed too early: then a peer of the
//! mesh would pass for a stranger. Therefore
//! - only the control plane says when a workload goes, for it knows what it has sent on this stream; giving up a selector
//!   drops nothing here;
//! - a selector is not given up while an answer to it may be under way: asked for again, it would take that for its own.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use squire_mesh::workload::{Selector, ServiceName, WorkloadUid};

use super::{Snapshot, Store, Update, shards::Shards};

/// When a selector was last used, in seconds of a clock that whoever uses it agrees on.
#[derive(Debug, Default)]
pub(crate) struct LastUse(AtomicU32);

impl LastUse {
    /// It is used now.
    pub(crate) fn mark(&self, now: u32) {
        self.0.store(now, Relaxed);
    }

    /// When it was.
    pub(crate) fn at(&self) -> u32 {
        self.0.load(Relaxed)
    }
}

/// The selectors that have been answered: all that they select is held.
#[derive(Clone, Default)]
pub(super) struct Answered {
    workloads: Shards<WorkloadUid, Arc<LastUse>>,
    addresses: Shards<IpAddr, Arc<LastUse>>,
    services: Shards<ServiceName, Arc<LastUse>>,
}

impl Answered {
    fn insert(&mut self, selector: &Selector, last_use: &Arc<LastUse>) {
        self.remove(selector);
        let last_use = Arc::clone(last_use);
        match selector {
            Selector::Workload(uid) => self.workloads.insert(uid.clone(), last_use),
            Selector::Address(address) => self.addresses.insert(*address, last_use),
            Selector::Service(service) => self.services.insert(service.clone(), last_use),
        }
    }

    fn remove(&mut self, selector: &Selector) {
        match selector {
            Selector::Workload(uid) => self.workloads.remove(uid, |_| true),
            Selector::Address(address) => self.addresses.remove(address, |_| true),
            Selector::Service(service) => self.services.remove(service, |_| true),
        };
    }

    fn len(&self) -> usize {
        self.workloads.len() + self.addresses.len() + self.services.len()
    }
}

impl Snapshot {
    /// Whether all that is at this address is held; marks it as used.
    pub(crate) fn holds_address(&self, address: IpAddr, now: u32) -> bool {
        self.holds(|answered| answered.addresses.first(&address.to_canonical()), now)
    }

    /// Whether all that backs this service is held; marks it as used.
    pub(crate) fn holds_service(&self, service: &str, now: u32) -> bool {
        self.holds(|answered| answered.services.first(service), now)
    }

    /// Whether it is known if there is a workload with this uid; marks it as used.
    pub(crate) fn holds_workload(&self, uid: &str, now: u32) -> bool {
        self.holds(|answered| answered.workloads.first(uid), now)
    }

    /// Whether a selector has been answered.
    pub(crate) fn answers(&self, selector: &Selector) -> bool {
        self.answered.as_ref().is_none_or(|answered| match selector {
            Selector::Workload(uid) => answered.workloads.first(uid).is_some(),
            Selector::Address(address) => answered.addresses.first(address).is_some(),
            Selector::Service(service) => answered.services.first(service).is_some(),
        })
    }

    /// How many selectors have been answered; none: everything is held.
    pub(crate) fn selectors(&self) -> Option<usize> {
        self.answered.as_ref().map(Answered::len)
    }

    fn holds<'s>(&'s self, find: impl FnOnce(&'s Answered) -> Option<&'s Arc<LastUse>>, now: u32) -> bool {
        let Some(answered) = &self.answered else {
            return true;
        };
        let found = find(answered);
        if let Some(last_use) = found {
            last_use.mark(now);
        }
        found.is_some()
    }
}

/// Everything that is asked for, answered or not.
#[derive(Debug, Default)]
pub(super) struct Wanted(HashMap<Selector, Want>);

#[derive(Debug, Default)]
struct Want {
    last_use: Arc<LastUse>,
    /// It has been answered on the stream that is open; until then an answer may be under way.
    settled: bool,
}

impl Wanted {
    /// The names to subscribe to.
    pub(super) fn names(&self) -> Vec<String> {
        self.0.keys().map(ToString::to_string).collect()
    }

    /// Whether a resource of this name without content is the answer to an alias.
    pub(super) fn is_answer(name: &str) -> bool {
        name.parse().is_ok_and(|selector: Selector| selector.is_alias())
    }
}

impl Store {
    /// From now on only our own workload is asked for, and what [`Self::want`] adds. To be said before anything is held.
    pub fn on_demand(&mut self) {
        let mut wanted = Wanted::default();
        wanted.0.insert(Selector::Workload(self.uid.clone()), Want::default());
        self.wanted = Some(wanted);
        self.next.answered = Some(Answered::default());
        self.publish();
    }

    /// Asks for something. Whether it is asked for only now.
    pub fn want(&mut self, selector: Selector, now: u32) -> bool {
        let Some(wanted) = &mut self.wanted else {
            return false;
        };
        let mut fresh = false;
        let want = wanted.0.entry(selector).or_insert_with(|| {
            fresh = true;
            Want::default()
        });
        want.last_use.mark(now);
        fresh
    }

    /// A stream is opened: everything is asked for anew, and will be answered again.
    pub(crate) fn ask_again(&mut self) {
        let all = self.wanted.iter_mut().flat_map(|wanted| wanted.0.values_mut());
        all.for_each(|want| want.settled = false);
    }

    /// How much is asked for.
    pub(crate) fn wants(&self) -> usize {
        self.wanted.as_ref().map_or(0, |wanted| wanted.0.len())
    }

    /// What may be given up, and when it was last used. What was asked for by uid is not among it: those are few, and
    /// named by configuration.
    pub(crate) fn settled(&self) -> impl Iterator<Item = (&Selector, u32)> {
        let all = self.wanted.iter().flat_map(|wanted| &wanted.0);
        all.filter(|(selector, want)| selector.is_alias() && want.settled)
            .map(|(selector, want)| (selector, want.last_use.at()))
    }

    /// Gives up some of what was asked for.
    pub(crate) fn give_up(&mut self, selectors: &[Selector]) {
        if let (Some(wanted), Some(answered)) = (&mut self.wanted, &mut self.next.answered) {
            for selector in selectors {
                wanted.0.remove(selector);
                answered.remove(selector);
            }
            self.publish();
        }
    }

    /// Notes which selectors an update answers, by naming them.
    pub(super) fn note_answers(&mut self, update: &Update) {
        let (Some(wanted), Some(answered)) = (&mut self.wanted, &mut self.next.answered) else {
            return;
        };
        let changed = update.changed.iter().map(|change| &change.name);
        for name in changed.chain(&update.removed) {
            let Ok(selector) = name.parse() else { continue };
            if let Some(want) = wanted.0.get_mut(&selector) {
                want.settled = true;
                answered.insert(&selector, &want.last_use);
            }
        }
    }
}
