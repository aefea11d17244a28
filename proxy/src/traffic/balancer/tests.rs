use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::prelude::*;
use squire_mesh::traffic::Traffic as Settings;

use super::*;
use crate::traffic::{
    fixture::{Fixture, Pod},
    metrics::TrafficMetrics,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A balancer for `shop/web`, a state for it, and a clock.
struct Bench {
    fixture: Fixture,
    balancer: Arc<Balancer>,
    registry: prometheus::Registry,
    now: Instant,
}

impl Bench {
    fn new(settings: TrafficSettings, zone: &str, pods: &[Pod]) -> Self {
        let registry = prometheus::Registry::new();
        let metrics = TrafficMetrics::new(&registry).unwrap().of("shop/web");
        let mut bench = Self {
            fixture: Fixture::new(zone),
            balancer: Arc::new(Balancer::new("shop/web", 80, metrics)),
            registry,
            now: Instant::now(),
        };
        bench.balancer.state().endpoints = Endpoints::new(42);
        let traffic = Settings {
            settings,
            ..Settings::default()
        };
        bench.fixture.service("web", Some(&traffic));
        bench.fixture.pods(pods);
        bench
    }

    fn plain(pods: u16) -> Self {
        let pods: Vec<_> = (0..pods).map(Pod::new).collect();
        Self::new(TrafficSettings::default(), "", &pods)
    }

    fn pick(&self) -> Result<Picked, PickError> {
        self.pick_but(&[])
    }

    fn pick_but(&self, excluded: &[SocketAddr]) -> Result<Picked, PickError> {
        self.balancer
            .pick(&self.fixture.snapshot(), Use::Request, excluded, self.now)
    }

    /// The pod picked, and what it does with the request.
    fn serve(&self, result: TryResult, took: Duration) -> u16 {
        let picked = self.pick().unwrap();
        let pod = pod(&picked);
        picked.finish(result, took, self.now);
        pod
    }

    /// Makes one pod fail until it is ejected.
    fn fail(&self, of: u16, times: usize) {
        let mut failed = 0;
        while failed < times {
            let picked = self.pick().unwrap();
            if pod(&picked) == of {
                failed += 1;
                picked.finish(TryResult::Failure, MS, self.now);
            } else {
                // Slow, so that the failing one has its turn.
                picked.finish(TryResult::Success, SECOND, self.now);
            }
        }
    }

    /// Which pods are picked, while nobody answers: load alone decides.
    fn reachable(&self, times: usize) -> BTreeSet<u16> {
        let held: Vec<_> = (0..times).map(|_| self.pick().unwrap()).collect();
        held.iter().map(pod).collect()
    }

    fn metric(&self, name: &str, label: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        let of = |metric: &&prometheus::proto::Metric| metric.get_label().iter().any(|pair| pair.value() == label);
        let metric = family.get_metric().iter().find(of).unwrap();
        metric.get_counter().get_value() + metric.get_gauge().get_value()
    }
}

fn pod(picked: &Picked) -> u16 {
    match picked.endpoint().address {
        SocketAddr::V4(v4) => u16::from_be_bytes([v4.ip().octets()[2], v4.ip().octets()[3]]),
        SocketAddr::V6(_) => panic!("no IPv6 here"),
    }
}

fn address(pod: u16) -> SocketAddr {
    let [high, low] = pod.to_be_bytes();
    SocketAddr::from(([10, 0, high, low], 8080))
}

#[test]
fn only_ready_endpoints_are_picked_and_changes_are_seen() {
    let mut bench = Bench::plain(3);
    let unready = Pod {
        ready: false,
        ..Pod::new(1)
    };
    bench.fixture.pods(&[Pod::new(0), unready, Pod::new(7)]);
    assert_eq!(bench.reachable(50), BTreeSet::from([0, 7]));
    bench.fixture.pods(&[]);
    assert!(matches!(bench.pick(), Err(PickError::NoEndpoint(_))));
    assert_eq!(bench.metric("squire_endpoints", "ready"), 0.0);
    bench.fixture.pods(&[Pod::new(2)]);
    assert_eq!(bench.reachable(5), BTreeSet::from([2]));
    assert_eq!(bench.metric("squire_endpoints", "ready"), 1.0);
}

#[test]
fn what_is_known_of_an_endpoint_outlives_changes_of_the_others() {
    let mut bench = Bench::plain(2);
    let held: Vec<_> = (0..10).map(|_| bench.pick().unwrap()).collect();
    bench.fixture.pods(&[Pod::new(0), Pod::new(1), Pod::new(2)]);
    let more: Vec<_> = (0..5).map(|_| pod(&bench.pick().unwrap())).collect();
    assert!(more.contains(&2), "the new one has nothing to do yet: {more:?}");
    drop(held);
    let seats = bench.balancer.state();
    drop(seats);
    assert_eq!(
        bench.balancer.pending.load(Relaxed),
        0,
        "dropped after the change, counted all the same"
    );
}

#[test]
fn under_equal_load_nobody_has_much_more_than_the_others() {
    let bench = Bench::plain(50);
    let held: Vec<_> = (0..5_000).map(|_| bench.pick().unwrap()).collect();
    let mut counts: BTreeMap<u16, usize> = BTreeMap::new();
    held.iter()
        .for_each(|picked| *counts.entry(pod(picked)).or_default() += 1);
    let (least, most) = (counts.values().min().unwrap(), counts.values().max().unwrap());
    assert!(counts.len() == 50 && *most <= 110 && *least >= 90, "{least}..{most}");
}

#[test]
fn a_slow_endpoint_gets_less() {
    let mut bench = Bench::plain(4);
    let mut counts = [0_u32; 4];
    for _ in 0..4_000 {
        let picked = bench.pick().unwrap();
        let pod = usize::from(pod(&picked));
        counts[pod] += 1;
        let took = if pod == 3 { 50 * MS } else { MS };
        picked.finish(TryResult::Success, took, bench.now);
        bench.now += MS;
    }
    assert!(counts[3] < 100 && counts[3] > 0, "{counts:?}");
}

#[test]
fn an_endpoint_that_keeps_failing_is_set_aside_tried_once_and_taken_back() {
    let mut bench = Bench::plain(3);
    bench.fail(1, 5);
    assert_eq!(bench.metric("squire_endpoint_ejections_total", "ejected"), 1.0);
    assert_eq!(bench.reachable(100), BTreeSet::from([0, 2]));
    bench.now += 10 * SECOND - MS;
    assert_eq!(bench.reachable(100), BTreeSet::from([0, 2]), "its time is not over");

    bench.now += MS;
    let probe = bench.pick().unwrap();
    assert_eq!(pod(&probe), 1, "one request finds out");
    assert_eq!(bench.reachable(100), BTreeSet::from([0, 2]), "one, and no more");
    probe.finish(TryResult::Failure, MS, bench.now);
    bench.now += 20 * SECOND - MS;
    assert_eq!(bench.reachable(100), BTreeSet::from([0, 2]), "twice as long as before");

    bench.now += MS;
    drop(bench.pick().unwrap());
    let probe = bench.pick().unwrap();
    assert_eq!(pod(&probe), 1, "a cancelled try says nothing: the next one tells");
    probe.finish(TryResult::Success, MS, bench.now);
    assert_eq!(bench.reachable(100), BTreeSet::from([0, 1, 2]));
    assert_eq!(bench.metric("squire_endpoint_ejections_total", "returned"), 1.0);
    assert_eq!(bench.metric("squire_endpoints", "ready"), 3.0);

    bench.fail(1, 5);
    bench.now += 10 * SECOND;
    assert_eq!(pod(&bench.pick().unwrap()), 1, "after a return the time is short again");
}

#[test]
fn a_success_in_between_starts_the_count_again() {
    let bench = Bench::plain(1);
    for _ in 0..10 {
        (0..4).for_each(|_| assert_eq!(bench.serve(TryResult::Failure, MS), 0));
        bench.serve(TryResult::Success, MS);
    }
    assert_eq!(bench.metric("squire_endpoint_ejections_total", "ejected"), 0.0);
}

#[test]
fn a_share_at_most_is_set_aside_and_never_the_last_one() {
    for (pods, share, expected) in [
        (1, 100, 0),
        (2, 50, 1),
        (2, 100, 1),
        (4, 50, 2),
        (10, 30, 3),
        (3, 10, 1),
        (5, 0, 0),
        (5, 100, 4),
    ] {
        let settings = TrafficSettings {
            eject_share: share,
            ..TrafficSettings::default()
        };
        let pods: Vec<_> = (0..pods).map(Pod::new).collect();
        let bench = Bench::new(settings, "", &pods);
        for _ in 0..2_000 {
            bench.serve(TryResult::Failure, MS);
        }
        assert_eq!(
            bench.metric("squire_endpoints", "ejected"),
            f64::from(expected),
            "{} {share}",
            pods.len()
        );
    }
}

#[test]
fn when_there_are_fewer_endpoints_fewer_stay_set_aside() {
    let mut bench = Bench::plain(4);
    bench.fail(0, 5);
    bench.fail(1, 5);
    bench.fixture.pods(&[Pod::new(0), Pod::new(1)]);
    assert_eq!(bench.reachable(20).len(), 1, "one of the two is back");
    bench.fixture.pods(&[Pod::new(1)]);
    assert_eq!(bench.reachable(20), BTreeSet::from([1]));
}

#[test]
fn a_retry_goes_elsewhere_if_there_is_an_elsewhere() {
    let bench = Bench::plain(3);
    for _ in 0..50 {
        let picked = bench.pick_but(&[address(0), address(2)]).unwrap();
        assert_eq!(pod(&picked), 1);
    }
    assert!(
        bench.pick_but(&[address(0), address(1), address(2)]).is_ok(),
        "rather again than not at all"
    );
}

#[test]
fn our_own_zone_comes_first_while_it_has_enough() {
    let zones = [(0, "a"), (1, "a"), (2, "b"), (3, "b")].map(|(number, zone)| Pod::zoned(number, zone));
    let bench = Bench::new(TrafficSettings::default(), "a", &zones);
    assert_eq!(bench.reachable(200), BTreeSet::from([0, 1]));
    bench.fail(0, 5);
    assert_eq!(bench.reachable(200), BTreeSet::from([1, 2, 3]), "half of it is unwell");

    let few =
        [(0, "a"), (2, "b"), (3, "b"), (4, "b"), (5, "b"), (6, "b")].map(|(number, zone)| Pod::zoned(number, zone));
    let bench = Bench::new(TrafficSettings::default(), "a", &few);
    assert_eq!(
        bench.reachable(300).len(),
        6,
        "one of six would carry half of everything"
    );

    let never = TrafficSettings {
        prefer_zone: false,
        ..TrafficSettings::default()
    };
    assert_eq!(Bench::new(never, "a", &zones).reachable(200).len(), 4);
    assert_eq!(
        Bench::new(TrafficSettings::default(), "", &zones).reachable(200).len(),
        4,
        "we know not where we are"
    );
    let full = TrafficSettings {
        max_active_per_endpoint: 3,
        ..TrafficSettings::default()
    };
    assert_eq!(
        Bench::new(full, "a", &zones).reachable(12).len(),
        4,
        "full: the others help out"
    );
}

#[test]
fn limits_on_what_is_under_way_are_kept_and_named() {
    let limited = TrafficSettings {
        max_active: 4,
        max_pending: 2,
        max_active_per_endpoint: 3,
        ..TrafficSettings::default()
    };
    let bench = Bench::new(limited, "", &[Pod::new(0), Pod::new(1)]);
    let mut held = vec![bench.pick().unwrap(), bench.pick().unwrap()];
    assert_eq!(bench.pick().err(), Some(PickError::TooManyPending));
    held.iter_mut().for_each(Picked::connected);
    held.extend([bench.pick().unwrap(), bench.pick().unwrap()]);
    assert_eq!(bench.pick().err(), Some(PickError::TooManyPending));
    held.iter_mut().for_each(Picked::connected);
    assert_eq!(bench.pick().err(), Some(PickError::TooManyRequests));
    assert_eq!(bench.metric("squire_overflows_total", "max_requests"), 1.0);
    held.clear();
    assert!(bench.pick().is_ok(), "what is over counts no more");

    let narrow = TrafficSettings {
        max_active_per_endpoint: 3,
        ..TrafficSettings::default()
    };
    let bench = Bench::new(narrow, "", &[Pod::new(0), Pod::new(1)]);
    let held: Vec<_> = (0..6).map(|_| bench.pick().unwrap()).collect();
    assert_eq!(held.iter().filter(|picked| pod(picked) == 0).count(), 3);
    assert_eq!(bench.pick().err(), Some(PickError::EndpointsFull));
    assert_eq!(PickError::EndpointsFull.reply().status, 503);
}

#[test]
fn connections_go_where_there_are_fewer_and_limits_on_requests_do_not_concern_them() {
    let one = TrafficSettings {
        max_active: 1,
        max_pending: 1,
        max_active_per_endpoint: 1,
        ..TrafficSettings::default()
    };
    let bench = Bench::new(one, "", &[Pod::new(0), Pod::new(1)]);
    let open = || {
        bench
            .balancer
            .pick(&bench.fixture.snapshot(), Use::Connection, &[], bench.now)
            .unwrap()
    };
    let mut held: Vec<_> = (0..10).map(|_| open()).collect();
    held.iter_mut()
        .for_each(|picked| picked.responded(TryResult::Success, MS, bench.now));
    assert_eq!(held.iter().filter(|picked| pod(picked) == 0).count(), 5);
    held.retain(|picked| pod(picked) == 1);
    assert!((0..5).all(|_| pod(&open()) == 0), "each closed again: 0 against 5");
    let mut failing = 0;
    while failing < 5 {
        let mut picked = open();
        if pod(&picked) == 0 {
            failing += 1;
            picked.responded(TryResult::Failure, MS, bench.now);
        }
    }
    assert_eq!(pod(&open()), 1, "where connecting keeps failing nobody goes");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever happens: somebody is picked; whoever is set aside is not, but for one try at a time after its time.
    #[test]
    fn nobody_set_aside_is_picked_unless_half_open_and_somebody_always_is(
        pods in 1..8_u16,
        share in 0..=100_u8,
        steps in prop::collection::vec((0..4_u8, any::<bool>()), 1..300),
    ) {
        let settings = TrafficSettings { eject_after: 2, eject_share: share, eject_for: SECOND, ..TrafficSettings::default() };
        let list: Vec<_> = (0..pods).map(Pod::new).collect();
        let mut bench = Bench::new(settings, "", &list);
        let mut held: Vec<Picked> = Vec::new();
        for (what, good) in steps {
            match what {
                0 => bench.now += SECOND / 2,
                1 if !held.is_empty() => drop(held.swap_remove(0)),
                2 if !held.is_empty() => {
                    let result = if good { TryResult::Success } else { TryResult::Failure };
                    held.pop().unwrap().finish(result, MS, bench.now);
                }
                _ => {
                    let aside: BTreeMap<_, _> = bench.balancer.state().endpoints.set_aside();
                    let picked = bench.pick();
                    prop_assert!(picked.is_ok());
                    let picked = picked.unwrap();
                    if let Some((until, probing)) = aside.get(&picked.endpoint().address) {
                        prop_assert!(*until <= bench.now && !probing);
                    }
                    held.push(picked);
                }
            }
            let aside = bench.balancer.state().endpoints.set_aside().len();
            prop_assert!(aside < usize::from(pods));
            prop_assert!(share != 0 || aside == 0);
        }
        drop(held);
        let outstanding = bench.balancer.pending.load(Relaxed);
        prop_assert_eq!(outstanding, 0);
    }
}
