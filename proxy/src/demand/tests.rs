//! Questions and answers without a control plane: the test says what it would.

use std::{net::IpAddr, time::Duration};

use squire_mesh::bundle::TrustBundles;

use super::*;
use crate::{
    config::SubscriptionMode,
    state::{Change, Kind, Store, Update},
};

const MOST: usize = 64;
/// How long a connection waits.
const TIMEOUT: Duration = Duration::from_millis(400);
/// How long this sidecar has been running, in seconds.
const AGE: u32 = 1_000;

/// Both sides, and the store between them.
struct World {
    demand: Demand,
    questions: Questions,
    store: Store,
    registry: Registry,
}

fn world() -> World {
    let settings = Subscription {
        mode: SubscriptionMode::OnDemand,
        timeout: TIMEOUT,
        keep: Duration::from_secs(60),
        max_selectors: MOST,
    };
    let (uid, domain) = ("shop/web-0".parse().unwrap(), "cluster.local".parse().unwrap());
    let (mut store, state) = Store::new(uid, domain, Arc::new(TrustBundles::new([])));
    store.on_demand();
    let registry = Registry::new();
    let begun = Instant::now().checked_sub(Duration::from_secs(AGE.into())).unwrap();
    let (demand, questions) = Demand::begun(begun, settings, state, Arc::default(), &registry).unwrap();
    questions.opened();
    World {
        demand,
        questions,
        store,
        registry,
    }
}

impl World {
    /// Somebody needs to know who is at this address.
    fn needs(&self, address: IpAddr) -> tokio::task::JoinHandle<Result<(), Unanswered>> {
        let demand = self.demand.clone();
        tokio::spawn(async move { demand.known(Need::Source(address)).await })
    }

    /// What goes to the control plane next.
    async fn asked(&mut self) -> Vec<String> {
        let questions = self.questions.next().await;
        self.questions.want(questions, &mut self.store)
    }

    /// The control plane says that there is nobody.
    fn nobody(&mut self, names: &[String]) {
        let update = Update {
            kind: Kind::Workload,
            version: "1".into(),
            changed: Vec::<Change>::new(),
            removed: names.to_vec(),
        };
        self.store.apply(update).unwrap();
        self.questions.settle();
    }

    fn figure(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        family
            .get_metric()
            .iter()
            .map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value())
            .sum()
    }
}

fn address(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

#[tokio::test]
async fn many_who_need_the_same_share_one_question_and_the_next_asks_none() {
    let mut world = world();
    let waiting: Vec<_> = (0..100).map(|_| world.needs(address(1))).collect();
    assert_eq!(world.asked().await, ["address:10.0.0.1"]);
    tokio::task::yield_now().await;
    assert!(waiting.iter().all(|task| !task.is_finished()));
    world.nobody(&["address:10.0.0.1".to_owned()]);
    for task in waiting {
        assert_eq!(task.await.unwrap(), Ok(()));
    }
    assert_eq!(world.needs(address(1)).await.unwrap(), Ok(()));
    assert_eq!(world.figure("squire_subscription_questions_total"), 1.0);
    assert_eq!(
        world.figure("squire_subscription_selectors"),
        2.0,
        "and our own workload"
    );
}

#[tokio::test]
async fn without_an_answer_there_is_no_connection_and_a_late_answer_is_for_the_next() {
    let mut world = world();
    let first = world.needs(address(1));
    assert_eq!(world.asked().await.len(), 1);
    let begun = Instant::now();
    let error = first.await.unwrap().unwrap_err();
    assert_eq!(error.why, Why::Timeout(TIMEOUT));
    assert!(begun.elapsed() >= TIMEOUT);
    assert!(
        error.to_string().contains("address:10.0.0.1") && error.to_string().contains("subscription.timeout"),
        "{error}"
    );
    world.nobody(&["address:10.0.0.1".to_owned()]);
    assert_eq!(world.needs(address(1)).await.unwrap(), Ok(()));
    assert_eq!(world.figure("squire_subscription_questions_total"), 1.0);
    assert_eq!(world.figure("squire_subscription_refused_total"), 1.0);
}

#[tokio::test]
async fn while_the_control_plane_is_away_what_is_known_goes_on_and_the_rest_is_refused_soon() {
    let mut world = world();
    let known = world.needs(address(1));
    world.asked().await;
    world.nobody(&["address:10.0.0.1".to_owned()]);
    known.await.unwrap().unwrap();

    world.questions.lost();
    let lost = Instant::now();
    assert_eq!(world.needs(address(1)).await.unwrap(), Ok(()));
    let why = world.needs(address(2)).await.unwrap().unwrap_err().why;
    assert_eq!(
        why,
        Why::Timeout(TIMEOUT),
        "a stream that is opened anew has time to come"
    );
    sleep_until(lost + PATIENCE + Duration::from_millis(10)).await;
    let begun = Instant::now();
    assert_eq!(world.needs(address(2)).await.unwrap().unwrap_err().why, Why::Away);
    assert!(begun.elapsed() < TIMEOUT / 2, "at once, after that");
    assert_eq!(world.needs(address(1)).await.unwrap(), Ok(()));

    // What was asked meanwhile opens the next stream.
    world.questions.opening(&mut world.store);
    let mut names = world.store.subscription(Kind::Workload);
    names.sort();
    assert_eq!(names, ["address:10.0.0.1", "address:10.0.0.2", "shop/web-0"]);
    world.questions.opened();
    let waiting = world.needs(address(2));
    tokio::task::yield_now().await;
    world.nobody(&["address:10.0.0.2".to_owned()]);
    assert_eq!(waiting.await.unwrap(), Ok(()));
}

#[tokio::test]
async fn what_waits_when_the_stream_is_opened_anew_is_answered_by_the_new_one() {
    let mut world = world();
    let waiting = world.needs(address(1));
    world.asked().await;
    world.questions.lost();
    tokio::task::yield_now().await;
    world.questions.opening(&mut world.store);
    world.questions.opened();
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    world.nobody(&["address:10.0.0.1".to_owned()]);
    assert_eq!(waiting.await.unwrap(), Ok(()));
}

#[tokio::test]
async fn what_nothing_has_used_for_long_is_given_up_and_asked_again_when_it_is_needed() {
    let mut world = world();
    let (one, two) = (world.needs(address(1)), world.needs(address(2)));
    let mut asked = world.asked().await;
    while asked.len() < 2 {
        asked.extend(world.asked().await);
    }
    world.nobody(&asked);
    one.await.unwrap().unwrap();
    two.await.unwrap().unwrap();

    assert!(
        world.questions.give_up(&mut world.store).is_empty(),
        "both were used just now"
    );
    for last in [1, 2] {
        world.store.want(Selector::address(address(last)), AGE - 61);
    }
    assert_eq!(world.needs(address(1)).await.unwrap(), Ok(()), "used again");
    assert_eq!(world.questions.give_up(&mut world.store), ["address:10.0.0.2"]);
    assert!(world.questions.give_up(&mut world.store).is_empty());
    assert_eq!(world.figure("squire_subscription_given_up_total"), 1.0);
    let again = world.needs(address(2));
    assert_eq!(world.asked().await, ["address:10.0.0.2"]);
    world.nobody(&["address:10.0.0.2".to_owned()]);
    assert_eq!(again.await.unwrap(), Ok(()));
}

#[tokio::test]
async fn an_application_that_scans_addresses_fills_no_memory() {
    let mut world = world();
    for round in 0..20 {
        for last in 0..=255 {
            let waiting = world.needs([10, 0, round, last].into());
            let asked = world.asked().await;
            world.nobody(&asked);
            waiting.await.unwrap().unwrap();
            if world.questions.is_crowded(&world.store) {
                let given_up = world.questions.give_up(&mut world.store);
                assert!(!given_up.is_empty());
            }
            assert!(world.store.wants() <= MOST, "{}", world.store.wants());
        }
    }
}

#[tokio::test]
async fn more_than_may_be_asked_for_is_refused_with_that_reason() {
    let mut world = world();
    // Nothing is answered, so nothing can be given up.
    let waiting: Vec<_> = (0..100).map(|last| world.needs(address(last))).collect();
    let mut whys = Vec::new();
    for task in waiting {
        whys.push(task.await.unwrap().unwrap_err().why);
    }
    let limited = whys.iter().filter(|why| **why == Why::Limit(MOST)).count();
    let late = whys.iter().filter(|why| **why == Why::Timeout(TIMEOUT)).count();
    assert_eq!((limited, late), (100 - MOST, MOST));
    assert_eq!(world.asked().await.len(), MOST);
}
