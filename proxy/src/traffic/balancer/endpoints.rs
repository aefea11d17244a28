//! The endpoints of one balancer: near ones (our own zone), far ones, and those set aside. Choosing among them costs the
//! same however many they are, and allocates nothing; they are read anew only when the service's endpoints have changed.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use squire_mesh::{
    traffic::TrafficSettings,
    workload::{Service, Workload},
};

use super::{PickError, Use};
use crate::{
    route::{self, Endpoint},
    state::Snapshot,
    traffic::{load::Load, metrics::ServiceMetrics},
};

/// Pairs looked at before every endpoint is.
const PAIRS: usize = 4;
/// Endpoints looked at one by one where no pair did.
const WALK: usize = 64;
/// No ejection is longer.
const LONGEST: Duration = Duration::from_secs(300);

/// One endpoint. Its load outlives changes of the workload behind it.
pub(super) struct Seat {
    pub(super) endpoint: Endpoint,
    pub(super) load: Arc<Load>,
    near: bool,
}

struct Ejected {
    seat: Arc<Seat>,
    until: Instant,
    probing: bool,
}

/// See the module.
pub(super) struct Endpoints {
    /// The state that the rest was made from.
    seen: Weak<Snapshot>,
    service: Option<Arc<Service>>,
    zone: Option<Arc<str>>,
    members: Vec<(Arc<Workload>, u16)>,
    settings: TrafficSettings,
    near: Vec<Arc<Seat>>,
    far: Vec<Arc<Seat>>,
    ejected: Vec<Ejected>,
    /// When the first of the ejected may be tried.
    due: Option<Instant>,
    zones: usize,
    /// Why there is none, where there is none.
    none: &'static str,
    random: SmallRng,
}

impl Endpoints {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seen: Weak::new(),
            service: None,
            zone: None,
            members: Vec::new(),
            settings: TrafficSettings::default(),
            near: Vec::new(),
            far: Vec::new(),
            ejected: Vec::new(),
            due: None,
            zones: 0,
            none: "",
            random: SmallRng::seed_from_u64(seed),
        }
    }

    pub(super) fn settings(&self) -> &TrafficSettings {
        &self.settings
    }

    /// Makes sure that these are the endpoints of this snapshot.
    pub(super) fn refresh(&mut self, snapshot: &Arc<Snapshot>, service: &str, port: u16, metrics: &ServiceMetrics) {
        // A weak pointer keeps the address from being used again, so the same address is the same snapshot.
        if std::ptr::eq(self.seen.as_ptr(), Arc::as_ptr(snapshot)) {
            return;
        }
        self.seen = Arc::downgrade(snapshot);
        let known = snapshot.service(service);
        let zone = snapshot.me.as_ref().and_then(|me| me.zone.as_ref());
        let same_service = match (known, &self.service) {
            (Some(now), Some(before)) => Arc::ptr_eq(now, before),
            (None, None) => true,
            _ => false,
        };
        let same_members = {
            let mut before = self.members.iter();
            let same = |(workload, port): (&Arc<Workload>, u16)| {
                before
                    .next()
                    .is_some_and(|(known, of)| Arc::ptr_eq(known, workload) && *of == port)
            };
            snapshot.ready_endpoints(service, port).all(same) && before.next().is_none()
        };
        if same_service && same_members && self.zone.as_ref() == zone {
            return;
        }
        self.service = known.cloned();
        self.zone = zone.cloned();
        self.settings = known
            .and_then(|service| service.traffic.as_ref())
            .map_or_else(TrafficSettings::default, |traffic| traffic.settings);
        self.members = snapshot
            .ready_endpoints(service, port)
            .map(|(workload, port)| (Arc::clone(workload), port))
            .collect();
        self.rebuild();
        metrics.endpoints(self.ready(), self.ejected.len());
    }

    /// New seats for the members, with the load of those that were there before.
    fn rebuild(&mut self) {
        let before: HashMap<SocketAddr, Arc<Load>> = self
            .near
            .drain(..)
            .chain(self.far.drain(..))
            .map(|seat| (seat.endpoint.address, Arc::clone(&seat.load)))
            .collect();
        let mut aside: HashMap<SocketAddr, Ejected> = self
            .ejected
            .drain(..)
            .map(|ejected| (ejected.seat.endpoint.address, ejected))
            .collect();
        let mut zones = BTreeSet::new();
        self.none = "the service has no ready endpoint for that port";
        for (workload, port) in &self.members {
            let endpoint = match route::endpoint(workload, *port) {
                Ok(endpoint) => endpoint,
                Err(why) => {
                    self.none = why;
                    continue;
                }
            };
            zones.insert(workload.zone.clone());
            let near = self.zone.is_some() && workload.zone == self.zone;
            let address = endpoint.address;
            let load = |load: &Arc<Load>| Arc::clone(load);
            let seat = |endpoint, load| Arc::new(Seat { endpoint, load, near });
            match aside.remove(&address) {
                Some(ejected) => self.ejected.push(Ejected {
                    seat: seat(endpoint, load(&ejected.seat.load)),
                    ..ejected
                }),
                None => {
                    let load = before.get(&address).map(load).unwrap_or_default();
                    let seats = if near { &mut self.near } else { &mut self.far };
                    seats.push(seat(endpoint, load));
                }
            }
        }
        self.zones = zones.len();
        // Fewer endpoints allow fewer to be set aside: those that would be back first come back now.
        self.ejected.sort_by_key(|ejected| ejected.until);
        while !self.ejected.is_empty() && self.ejected.len() > self.most_ejected() {
            let seat = self.ejected.remove(0).seat;
            self.seat(seat);
        }
        self.set_due();
    }

    fn ready(&self) -> usize {
        self.near.len() + self.far.len()
    }

    /// How many may be set aside: a share, one at least of several, and never all.
    fn most_ejected(&self) -> usize {
        let all = self.ready() + self.ejected.len();
        if all < 2 || self.settings.eject_share == 0 {
            return 0;
        }
        (all * usize::from(self.settings.eject_share) / 100).clamp(1, all - 1)
    }

    fn seat(&mut self, seat: Arc<Seat>) {
        if seat.near {
            self.near.push(seat);
        } else {
            self.far.push(seat);
        }
    }

    /// An ejected endpoint whose time is over, for exactly one try.
    pub(super) fn probe(&mut self, now: Instant) -> Option<Arc<Seat>> {
        if self.due.is_none_or(|due| now < due) {
            return None;
        }
        let due = self
            .ejected
            .iter_mut()
            .filter(|ejected| !ejected.probing)
            .min_by_key(|ejected| ejected.until)?;
        due.probing = true;
        let seat = Arc::clone(&due.seat);
        self.set_due();
        Some(seat)
    }

    /// The one try was cancelled: another may be made.
    pub(super) fn unprobed(&mut self, seat: &Arc<Seat>) {
        if let Some(ejected) = self.aside(seat) {
            ejected.probing = false;
        }
        self.set_due();
    }

    fn set_due(&mut self) {
        let waiting = self.ejected.iter().filter(|ejected| !ejected.probing);
        self.due = waiting.map(|ejected| ejected.until).min();
    }

    fn aside(&mut self, seat: &Arc<Seat>) -> Option<&mut Ejected> {
        self.ejected
            .iter_mut()
            .find(|ejected| Arc::ptr_eq(&ejected.seat.load, &seat.load))
    }

    /// One endpoint for one try.
    pub(super) fn choose(&mut self, what: Use, excluded: &[SocketAddr], now: Instant) -> Result<Arc<Seat>, PickError> {
        let ready = self.ready();
        if ready == 0 {
            return Err(PickError::NoEndpoint(self.none));
        }
        let most = match what {
            Use::Request => self.settings.max_active_per_endpoint,
            Use::Connection => u32::MAX,
        };
        let fits = |seat: &Seat| seat.load.outstanding.load(Relaxed) < most;
        let usable = |seat: &Seat| fits(seat) && !excluded.contains(&seat.endpoint.address);
        let cost = |seat: &Seat| match what {
            Use::Request => seat.load.cost(now),
            Use::Connection => f64::from(seat.load.outstanding.load(Relaxed)),
        };
        let near = self.near.len();
        if self.zone_suffices()
            && let Some(seat) = self.better_of_two(near, usable, cost)
        {
            return Ok(seat);
        }
        if let Some(seat) = self.better_of_two(ready, usable, cost) {
            return Ok(seat);
        }
        // Tried before is better than not at all.
        let again = self.walk(usable).or_else(|| self.walk(fits));
        again.ok_or(PickError::EndpointsFull)
    }

    /// Our own zone serves us alone while most of its endpoints are well and it has half of its fair share of them: else
    /// its endpoints would carry more than the others'.
    fn zone_suffices(&self) -> bool {
        let (near, ready) = (self.near.len(), self.ready());
        if !self.settings.prefer_zone || near == 0 || near == ready {
            return false;
        }
        let ejected = self.ejected.iter().filter(|ejected| ejected.seat.near).count();
        near * 10 >= (near + ejected) * 7 && near * self.zones * 2 >= ready
    }

    /// The cheaper of two random ones among the first `count`; near ones come first.
    fn better_of_two(
        &mut self,
        count: usize,
        usable: impl Fn(&Seat) -> bool,
        cost: impl Fn(&Seat) -> f64,
    ) -> Option<Arc<Seat>> {
        if count == 1 {
            return Some(self.at(0)).filter(|seat| usable(seat)).map(Arc::clone);
        }
        for _ in 0..PAIRS {
            let first = self.random.random_range(0..count);
            let other = self.random.random_range(0..count - 1);
            let second = other + usize::from(other >= first);
            let (first, second) = (self.at(first), self.at(second));
            let better = match (usable(first), usable(second)) {
                (true, true) if cost(second) < cost(first) => second,
                (true, _) => first,
                (false, true) => second,
                (false, false) => continue,
            };
            return Some(Arc::clone(better));
        }
        None
    }

    /// The first usable one from a random place on.
    fn walk(&mut self, usable: impl Fn(&Seat) -> bool) -> Option<Arc<Seat>> {
        let ready = self.ready();
        let start = self.random.random_range(0..ready);
        (0..ready.min(WALK))
            .map(|step| self.at((start + step) % ready))
            .find(|seat| usable(seat))
            .map(Arc::clone)
    }

    fn at(&self, index: usize) -> &Arc<Seat> {
        match index.checked_sub(self.near.len()) {
            None => &self.near[index],
            Some(index) => &self.far[index],
        }
    }

    /// It has failed so many times in a row: how long it is set aside now, if it is.
    pub(super) fn failed(
        &mut self,
        seat: &Arc<Seat>,
        failures: u32,
        now: Instant,
        metrics: &ServiceMetrics,
    ) -> Option<Duration> {
        let (after, base) = (self.settings.eject_after, self.settings.eject_for);
        let time = |seat: &Seat| {
            let earlier = seat.load.ejections.fetch_add(1, Relaxed);
            let factor = 1_u32.checked_shl(earlier).unwrap_or(u32::MAX);
            base.saturating_mul(factor).min(LONGEST.max(base))
        };
        if let Some(ejected) = self.aside(seat).filter(|ejected| ejected.probing) {
            let time = time(seat);
            (ejected.probing, ejected.until) = (false, now + time);
            self.set_due();
            metrics.ejected();
            return Some(time);
        }
        if after == 0 || failures < after || self.ejected.len() >= self.most_ejected() {
            return None;
        }
        let mine = |other: &Arc<Seat>| Arc::ptr_eq(&other.load, &seat.load);
        let taken = match self.near.iter().position(mine) {
            Some(index) => self.near.swap_remove(index),
            None => self
                .far
                .iter()
                .position(mine)
                .map(|index| self.far.swap_remove(index))?,
        };
        let time = time(&taken);
        self.ejected.push(Ejected {
            seat: taken,
            until: now + time,
            probing: false,
        });
        self.set_due();
        metrics.ejected();
        metrics.endpoints(self.ready(), self.ejected.len());
        Some(time)
    }

    /// Its one try was good: it is one of the others again. False: it was not set aside.
    pub(super) fn reinstate(&mut self, seat: &Arc<Seat>, metrics: &ServiceMetrics) -> bool {
        let mine = |ejected: &Ejected| Arc::ptr_eq(&ejected.seat.load, &seat.load);
        let Some(index) = self.ejected.iter().position(mine) else {
            return false;
        };
        let seat = self.ejected.swap_remove(index).seat;
        seat.load.ejections.store(0, Relaxed);
        self.seat(seat);
        self.set_due();
        metrics.returned();
        metrics.endpoints(self.ready(), self.ejected.len());
        true
    }

    /// Who is set aside, until when, and whether they are being tried.
    #[cfg(test)]
    pub(super) fn set_aside(&self) -> std::collections::BTreeMap<SocketAddr, (Instant, bool)> {
        let each = |ejected: &Ejected| (ejected.seat.endpoint.address, (ejected.until, ejected.probing));
        self.ejected.iter().map(each).collect()
    }
}
