//! What a mirror makes of what watches say.

use serde_json::{Value, json};

use super::*;

fn mirror() -> Mirror {
    Mirror::new("cluster.local".parse().unwrap(), crate::tables::review())
}

fn kind(plural: &str) -> &'static Kind {
    KINDS.iter().find(|kind| kind.plural == plural).unwrap()
}

fn raw(value: Value) -> Raw {
    serde_json::from_value(value).unwrap()
}

fn pod(name: &str, ip: &str) -> Raw {
    raw(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": "1"},
        "spec": {"serviceAccountName": "web", "containers": [{"name": "app"}]}, "status": {"phase": "Running", "podIP": ip},
    }))
}

fn policy(spec: Value, version: &str) -> Raw {
    raw(json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "p", "namespace": "shop", "uid": "u", "resourceVersion": version, "generation": 1},
        "spec": spec, "status": {"seen": version},
    }))
}

fn list(mirror: &Mirror, plural: &str, objects: Vec<Raw>) {
    mirror.apply(kind(plural), Event::Init);
    for object in objects {
        mirror.apply(kind(plural), Event::InitApply(object));
    }
    mirror.apply(kind(plural), Event::InitDone);
}

fn list_others(mirror: &Mirror, but: &[&str]) {
    for kind in KINDS.iter().filter(|kind| !but.contains(&kind.plural)) {
        list(mirror, kind.plural, Vec::new());
    }
}

fn account(name: &str) -> Raw {
    raw(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "shop"}}))
}

#[test]
fn nothing_is_complete_before_every_kind_has_been_listed_once() {
    let mirror = mirror();
    list_others(&mirror, &["pods", "httproutes"]);
    list(&mirror, "pods", vec![pod("web-1", "10.0.0.1")]);
    let before = mirror.news();
    assert_eq!(before.changes.len(), 1);
    assert!(
        !before.complete
            && before
                .problems
                .iter()
                .any(|problem| problem.message == "not listed yet")
    );
    mirror.absent(kind("httproutes"));
    let after = mirror.news();
    assert!(after.complete && after.changes.is_empty(), "{:?}", after.problems);
}

#[test]
fn a_list_replaces_what_was_known_in_one_step() {
    let mirror = mirror();
    list_others(&mirror, &["pods", "serviceaccounts"]);
    list(&mirror, "serviceaccounts", vec![account("web")]);
    list(
        &mirror,
        "pods",
        vec![pod("web-1", "10.0.0.1"), pod("web-2", "10.0.0.2")],
    );
    mirror.apply(kind("pods"), Event::Init);
    mirror.apply(kind("pods"), Event::InitApply(pod("web-2", "10.0.0.2")));
    let there = |news: News| -> Vec<_> {
        let changes = news.changes.into_iter();
        changes
            .map(|change| (change.id.key.to_string(), change.fact.is_some()))
            .collect()
    };
    let both = [("shop/web-1".to_owned(), true), ("shop/web-2".to_owned(), true)];
    assert_eq!(there(mirror.news()), both, "half a list is no list");
    mirror.apply(kind("pods"), Event::InitDone);
    assert_eq!(there(mirror.news()), [("shop/web-1".to_owned(), false)]);
    assert_eq!(there(mirror.news()), [], "what has been told is not told again");
}

#[test]
fn what_makes_no_difference_is_no_change() {
    let mirror = mirror();
    list_others(&mirror, &["authorizationpolicies"]);
    list(
        &mirror,
        "authorizationpolicies",
        vec![policy(json!({"rules": [{}]}), "1")],
    );
    let before = *mirror.changes().borrow();
    mirror.apply(
        kind("authorizationpolicies"),
        Event::Apply(policy(json!({"rules": [{}]}), "2")),
    );
    list(
        &mirror,
        "authorizationpolicies",
        vec![policy(json!({"rules": [{}]}), "2")],
    );
    assert_eq!(
        *mirror.changes().borrow(),
        before,
        "another version and another status say nothing new"
    );
    mirror.apply(
        kind("authorizationpolicies"),
        Event::Apply(policy(json!({"rules": []}), "3")),
    );
    assert!(*mirror.changes().borrow() > before);
}

#[test]
fn the_last_good_state_of_a_policy_stays_in_force_while_its_latest_is_wrong() {
    let mirror = mirror();
    list_others(&mirror, &["authorizationpolicies"]);
    list(
        &mirror,
        "authorizationpolicies",
        vec![policy(json!({"rules": [{}]}), "1")],
    );
    mirror.apply(
        kind("authorizationpolicies"),
        Event::Apply(policy(json!({"rulez": []}), "2")),
    );
    let news = mirror.news();
    assert_eq!(news.others[0].value["spec"], json!({"rules": [{}]}));
    assert_eq!(news.problems.len(), 1, "{:?}", news.problems);
    assert!(mirror.stale_since().is_some());
    let due = mirror.conditions_due();
    assert_eq!(due.len(), 1);
    mirror.apply(
        kind("authorizationpolicies"),
        Event::Apply(policy(json!({"rules": []}), "3")),
    );
    assert!(mirror.stale_since().is_none() && mirror.news().problems.is_empty());
    assert!(mirror.conditions_due().is_empty(), "a good policy needs no condition");
}

#[test]
fn a_watch_that_fails_takes_nothing_away_and_says_why() {
    let mirror = mirror();
    list_others(&mirror, &["pods", "serviceaccounts"]);
    list(&mirror, "serviceaccounts", vec![account("web")]);
    list(&mirror, "pods", vec![pod("web-1", "10.0.0.1")]);
    mirror.troubled(kind("pods"), "forbidden".into(), "allow it");
    let news = mirror.news();
    assert!(news.complete && news.changes.len() == 1);
    assert!(news.problems[0].to_string().contains("forbidden") && mirror.stale_since().is_some());
    mirror.well(kind("pods"));
    assert!(mirror.news().problems.is_empty() && mirror.stale_since().is_none());
}

#[test]
fn objects_of_a_crd_are_gone_with_it() {
    let mirror = mirror();
    list_others(&mirror, &["authorizationpolicies"]);
    list(
        &mirror,
        "authorizationpolicies",
        vec![policy(json!({"rules": [{}]}), "1")],
    );
    mirror.absent(kind("authorizationpolicies"));
    assert!(mirror.news().others.is_empty());
}

#[test]
fn an_account_that_is_deleted_is_revoked_and_so_is_one_that_pods_have_and_the_cluster_has_not() {
    let id = |name: &str| format!("spiffe://cluster.local/ns/shop/sa/{name}").parse().unwrap();
    let now = SystemTime::now();
    let mirror = mirror();
    let revoked = mirror.revoked();
    list(&mirror, "pods", vec![pod("web-1", "10.0.0.1")]);
    list(&mirror, "serviceaccounts", vec![account("db")]);
    assert!(revoked.borrow().is_empty(), "not before everything is known");
    list_others(&mirror, &["pods", "serviceaccounts"]);
    assert!(revoked.borrow().check_identity(&id("web"), now).is_err());
    assert!(revoked.borrow().check_identity(&id("db"), now).is_ok());
    mirror.apply(kind("serviceaccounts"), Event::Delete(account("db")));
    assert!(revoked.borrow().check_identity(&id("db"), now).is_err());
}
