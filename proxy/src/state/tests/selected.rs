//! A store that is on demand: what it asks for, and what counts as answered.

use squire_mesh::workload::Selector;

use super::*;

fn on_demand() -> (Store, State) {
    let (mut store, state) = store();
    store.on_demand();
    (store, state)
}

/// A selector by its text.
fn selector(text: &str) -> Selector {
    text.parse().unwrap()
}

/// The control plane says that everything an alias stands for has been sent.
fn answer(alias: &str) -> Change {
    Change {
        name: alias.to_owned(),
        version: String::new(),
        resource: None,
    }
}

fn names(store: &Store) -> Vec<String> {
    let mut names = store.subscription(Kind::Workload);
    names.sort();
    names
}

#[test]
fn it_asks_for_its_own_workload_and_for_what_it_wants_and_for_each_once() {
    let (mut store, state) = on_demand();
    assert_eq!(names(&store), ["shop/web-0"]);
    assert!(store.want(selector("address:10.0.0.1"), 1));
    assert!(!store.want(selector("address:10.0.0.1"), 2));
    assert!(store.want(selector("service:shop/db"), 3));
    assert_eq!(names(&store), ["address:10.0.0.1", "service:shop/db", "shop/web-0"]);
    assert_eq!(state.borrow().selectors(), Some(0), "nothing is answered");
}

#[test]
fn a_store_that_is_not_on_demand_holds_everything_and_wants_nothing() {
    let (mut store, state) = store();
    assert!(!store.want(selector("address:10.0.0.1"), 1));
    assert!(store.subscription(Kind::Workload).is_empty(), "all there are");
    let snapshot = state.borrow().clone();
    assert!(snapshot.holds_address("10.0.0.1".parse().unwrap(), 1) && snapshot.holds_service("shop/db", 1));
    assert_eq!(snapshot.selectors(), None);
    let refused = store.apply(update(Kind::Workload, vec![answer("address:10.0.0.1")], &[]));
    assert!(refused.is_err(), "a workload without content is no workload");
}

#[test]
fn a_selector_is_answered_by_its_own_name_and_not_by_what_happens_to_fit() {
    let (mut store, state) = on_demand();
    store.want(selector("address:10.0.0.1"), 1);
    store.want(selector("service:shop/db"), 1);
    let db = workload("shop", "db-0", [10, 0, 0, 1]);
    store.apply(put(&db)).unwrap();
    let ip = "10.0.0.1".parse().unwrap();
    let snapshot = state.borrow().clone();
    assert!(!snapshot.holds_address(ip, 2), "others may be there too");
    assert!(!snapshot.holds_service("shop/db", 2), "more may be on its way");

    let more = workload("shop", "db-1", [10, 0, 0, 2]);
    let changed = vec![change(Kind::Workload, &more.uid, &more), answer("service:shop/db")];
    store
        .apply(update(Kind::Workload, changed, &["address:10.0.0.9"]))
        .unwrap();
    let snapshot = state.borrow().clone();
    assert!(snapshot.holds_service("shop/db", 2));
    assert_eq!(uids(snapshot.endpoints("shop/db")), ["shop/db-0", "shop/db-1"]);
    assert!(!snapshot.holds_address(ip, 2));
    assert!(
        !snapshot.holds_address("10.0.0.9".parse().unwrap(), 2),
        "nobody asked for it"
    );
    store
        .apply(update(Kind::Workload, vec![answer("address:10.0.0.1")], &[]))
        .unwrap();
    assert!(state.borrow().holds_address(ip, 2));
    assert_eq!(state.borrow().selectors(), Some(2));
}

#[test]
fn that_there_is_nothing_is_an_answer_until_something_comes() {
    let (mut store, state) = on_demand();
    store.want(selector("address:10.0.0.1"), 1);
    store
        .apply(update(Kind::Workload, vec![], &["address:10.0.0.1"]))
        .unwrap();
    let ip = "10.0.0.1".parse().unwrap();
    let snapshot = state.borrow().clone();
    assert!(snapshot.holds_address(ip, 2) && snapshot.holds_address("::ffff:10.0.0.1".parse().unwrap(), 2));
    assert_eq!(snapshot.workloads_at(ip).len(), 0);
    store.apply(put(&workload("shop", "db-0", [10, 0, 0, 1]))).unwrap();
    assert_eq!(state.borrow().workloads_at(ip).len(), 1);
}

#[test]
fn a_uid_is_answered_by_the_workload_or_by_its_absence() {
    let (mut store, state) = on_demand();
    store.want(selector("shop/db-0"), 1);
    store.want(selector("shop/none"), 1);
    assert!(!state.borrow().holds_workload("shop/db-0", 2));
    store.apply(put(&workload("shop", "db-0", [10, 0, 0, 1]))).unwrap();
    store.apply(update(Kind::Workload, vec![], &["shop/none"])).unwrap();
    let snapshot = state.borrow().clone();
    assert!(snapshot.holds_workload("shop/db-0", 2) && snapshot.holds_workload("shop/none", 2));
}

#[test]
fn what_is_given_up_is_known_no_more_but_only_the_control_plane_takes_it_away() {
    let (mut store, state) = on_demand();
    store.want(selector("address:10.0.0.1"), 1);
    let db = workload("shop", "db-0", [10, 0, 0, 1]);
    let changed = vec![change(Kind::Workload, &db.uid, &db), answer("address:10.0.0.1")];
    store.apply(update(Kind::Workload, changed, &[])).unwrap();
    store.give_up(&[selector("address:10.0.0.1")]);
    let ip = "10.0.0.1".parse().unwrap();
    assert!(!state.borrow().holds_address(ip, 2));
    assert_eq!(names(&store), ["shop/web-0"]);
    assert_eq!(state.borrow().workloads_at(ip).len(), 1);
    let held: Vec<(String, String)> = store.held(Kind::Workload).collect();
    assert_eq!(
        held,
        [("shop/db-0".to_owned(), "1".to_owned())],
        "the answer has no version"
    );
    store.apply(update(Kind::Workload, vec![], &["shop/db-0"])).unwrap();
    assert_eq!(state.borrow().workloads_at(ip).len(), 0);
    assert_eq!(store.held(Kind::Workload).count(), 0);
}

#[test]
fn nothing_is_given_up_while_an_answer_may_be_under_way() {
    let (mut store, _state) = on_demand();
    store.want(selector("address:10.0.0.1"), 7);
    store.want(selector("shop/db-0"), 7);
    assert_eq!(store.settled().count(), 0, "not answered");
    let absent = update(Kind::Workload, vec![], &["address:10.0.0.1", "shop/db-0", "shop/web-0"]);
    store.apply(absent.clone()).unwrap();
    let ours = selector("address:10.0.0.1");
    assert_eq!(
        store.settled().collect::<Vec<_>>(),
        [(&ours, 7)],
        "never what was asked by name"
    );
    store.ask_again();
    assert_eq!(store.settled().count(), 0, "a new stream answers anew");
    store.apply(absent).unwrap();
    assert_eq!(store.settled().count(), 1);
}

#[test]
fn an_update_that_is_refused_answers_nothing() {
    let (mut store, state) = on_demand();
    store.want(selector("address:10.0.0.1"), 1);
    let mut bad = change(Kind::Workload, "shop/x", &workload("shop", "y", [10, 0, 0, 1]));
    bad.version = "2".to_owned();
    let refused = store.apply(update(Kind::Workload, vec![bad, answer("address:10.0.0.1")], &[]));
    assert!(refused.unwrap_err().to_string().contains("shop/y"));
    assert!(!state.borrow().holds_address("10.0.0.1".parse().unwrap(), 2));
}

#[test]
fn a_use_is_marked_where_it_is_looked_up() {
    let (mut store, state) = on_demand();
    store.want(selector("service:shop/db"), 1);
    store
        .apply(update(Kind::Workload, vec![answer("service:shop/db")], &[]))
        .unwrap();
    assert!(state.borrow().holds_service("shop/db", 60));
    assert_eq!(store.settled().next().map(|(_, at)| at), Some(60));
    assert!(state.borrow().answers(&selector("service:shop/db")), "a look is no use");
    assert_eq!(store.settled().next().map(|(_, at)| at), Some(60));
}
