//! Discovery as a proxy sees it: a whole control plane on loopback, real mutual TLS with certificates from its own CA,
//! and a client of the published protocol. Every wait is for an event.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "this is all test code; clippy sees that only inside #[test]"
)]

mod client;
mod plane;

use std::time::{Duration, Instant};

use client::{POLICY, SERVICE, Seen, TRUST_BUNDLE, WORKLOAD};
use plane::{Plane, pod};
use tonic::Code;

const DENY: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                    metadata: {name: nobody, namespace: shop}\nspec: {}\n";

fn deny_for(app: &str) -> String {
    DENY.replace(
        "spec: {}",
        &format!("spec: {{selector: {{matchLabels: {{app: {app}}}}}}}"),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_gets_roots_workloads_services_and_its_own_policy_alone() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\n\
                   spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}\n";
    let plane = Plane::start(&[("web.yaml", &pod("web")), ("db.yaml", &pod("db")), ("s.yaml", service)]).await;
    let mut web = plane.connect("web", "shop/web").await;
    for (kind, expected) in [
        (TRUST_BUNDLE, vec!["cluster.local"]),
        (WORKLOAD, vec!["shop/db", "shop/web"]),
        (SERVICE, vec!["shop/web"]),
        (POLICY, vec!["shop/web"]),
    ] {
        web.subscribe(kind, &[]).await;
        let seen = web.next().await;
        assert_eq!((seen.kind.as_str(), seen.names()), (kind, expected));
        web.ack(&seen).await;
    }
    web.subscribe(POLICY, &["shop/db"]).await;
    let seen = web.next().await;
    assert_eq!(
        (seen.names().len(), seen.removed.as_slice()),
        (0, &["shop/db".to_owned()][..]),
        "not its own"
    );
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_is_pushed_within_a_second_to_whom_it_concerns() {
    let plane = Plane::start(&[("web.yaml", &pod("web")), ("db.yaml", &pod("db"))]).await;
    let mut web = plane.connect("web", "shop/web").await;
    let mut db = plane.connect("db", "shop/db").await;
    for proxy in [&mut web, &mut db] {
        proxy.follow(POLICY, &[]).await;
        proxy.follow(WORKLOAD, &[]).await;
    }
    let edited = Instant::now();
    plane.write("deny.yaml", &deny_for("db"));
    let seen = db.next().await;
    assert_eq!((seen.kind.as_str(), seen.names()), (POLICY, vec!["shop/db"]));
    assert!(edited.elapsed() < Duration::from_secs(1), "{:?}", edited.elapsed());
    db.ack(&seen).await;
    // The next thing web hears of is a workload: the policy was none of its business.
    plane.write("new.yaml", &pod("new"));
    let seen = web.next().await;
    assert_eq!((seen.kind.as_str(), seen.names()), (WORKLOAD, vec!["shop/new"]));
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_file_removes_what_it_held() {
    let plane = Plane::start(&[("web.yaml", &pod("web")), ("db.yaml", &pod("db"))]).await;
    let mut web = plane.connect("web", "shop/web").await;
    web.follow(WORKLOAD, &[]).await;
    plane.remove("db.yaml");
    let seen = web.next().await;
    assert_eq!(
        (seen.names().len(), seen.removed.as_slice()),
        (0, &["shop/db".to_owned()][..])
    );
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_comes_back_is_sent_only_what_differs() {
    let plane = Plane::start(&[
        ("web.yaml", &pod("web")),
        ("db.yaml", &pod("db")),
        ("old.yaml", &pod("old")),
    ])
    .await;
    let mut web = plane.connect("web", "shop/web").await;
    let mut held = web.follow(WORKLOAD, &[]).await.versions();
    drop(web);
    plane.write("db.yaml", &pod("db").replace("app: db", "app: changed"));
    plane.remove("old.yaml");
    plane
        .until_metric("squire_control_resources{kind=\"workload\"} 2")
        .await;
    held.insert("shop/never".to_owned(), "0".to_owned());
    let mut web = plane.connect("web", "shop/web").await;
    web.resume(WORKLOAD, &[], held).await;
    let seen = web.next().await;
    assert_eq!(seen.names(), ["shop/db"], "web is as it was");
    let mut removed = seen.removed;
    removed.sort();
    assert_eq!(removed, ["shop/never", "shop/old"]);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_was_restarted_resends_nothing() {
    let plane = Plane::start(&[("web.yaml", &pod("web")), ("deny.yaml", DENY)]).await;
    let mut web = plane.connect("web", "shop/web").await;
    let workloads = web.follow(WORKLOAD, &[]).await.versions();
    let policy = web.follow(POLICY, &["shop/web"]).await.versions();
    let svid = web.svid.clone();
    let plane = plane.restart().await;
    let mut web = plane.connect_with(svid, "shop/web").await;
    web.resume(POLICY, &["shop/web"], policy).await;
    web.resume(WORKLOAD, &[], workloads).await;
    // A marker that comes after whatever would be resent.
    plane.write("new.yaml", &pod("new"));
    loop {
        let seen = web.next().await;
        web.ack(&seen).await;
        assert!(seen.removed.is_empty(), "{:?}", seen.removed);
        if seen.names() == ["shop/new"] {
            break;
        }
        assert!(seen.names().is_empty(), "resent: {:?}", seen.names());
    }
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_recorded_and_not_repeated_until_something_changes() {
    let plane = Plane::start(&[("web.yaml", &pod("web"))]).await;
    let mut web = plane.connect("web", "shop/web").await;
    web.subscribe(WORKLOAD, &[]).await;
    let seen = web.next().await;
    web.nack(&seen, "cannot be applied: too new").await;
    plane
        .until_metric("squire_control_nacks_total{kind=\"workload\"} 1")
        .await;
    let sync = plane.sync().await;
    let kind = &sync["proxies"][0]["proxy"]["kinds"]["workload"];
    assert_eq!(
        (&kind["nack"], &kind["pending"]),
        (&"cannot be applied: too new".into(), &false.into()),
        "{sync}"
    );
    plane.write("db.yaml", &pod("db"));
    let seen = web.next().await;
    assert_eq!(seen.names(), ["shop/db"], "what was refused is not sent again");
    web.ack(&seen).await;
    plane
        .until_metric("squire_control_acks_total{kind=\"workload\"} 1")
        .await;
    let sync = plane.sync().await;
    let kind = &sync["proxies"][0]["proxy"]["kinds"]["workload"];
    assert!(
        kind["nack"].is_null() && kind["version_acked"] == kind["version_sent"],
        "{sync}"
    );
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_refused_on_a_stream_on_demand_is_reported_and_its_answers_go_on() {
    let plane = Plane::start(&[("web.yaml", &pod("web")), ("db.yaml", &pod("db")), ("deny.yaml", DENY)]).await;
    let mut web = plane.connect("web", "shop/web").await;
    web.follow(WORKLOAD, &["shop/web"]).await;
    web.subscribe(POLICY, &["shop/web"]).await;
    let seen = web.next().await;
    web.nack(&seen, "ingress is missing").await;
    plane
        .until_metric("squire_control_nacks_total{kind=\"policy\"} 1")
        .await;
    let sync = plane.sync().await;
    let kinds = &sync["proxies"][0]["proxy"]["kinds"];
    assert_eq!(kinds["policy"]["nack"], "ingress is missing", "{sync}");
    assert_eq!(kinds["workload"]["subscribed"], 1, "{sync}");
    // What it asks next is answered all the same.
    web.subscribe(WORKLOAD, &["shop/db"]).await;
    let seen = web.next().await;
    assert_eq!(seen.names(), ["shop/db"]);
    web.ack(&seen).await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn named_subscriptions_follow_only_their_names() {
    let plane = Plane::start(&[("web.yaml", &pod("web")), ("db.yaml", &pod("db"))]).await;
    let mut web = plane.connect("web", "shop/web").await;
    let seen = web.follow(WORKLOAD, &["shop/db", "shop/later"]).await;
    assert_eq!(
        (seen.names(), seen.removed.as_slice()),
        (vec!["shop/db"], &["shop/later".to_owned()][..])
    );
    plane.write("other.yaml", &pod("other"));
    plane.write("later.yaml", &pod("later"));
    let seen = web.next().await;
    assert_eq!(seen.names(), ["shop/later"]);
    web.ack(&seen).await;
    web.unsubscribe(WORKLOAD, &["shop/db"]).await;
    // The request and the file go different ways: the first has to have arrived.
    plane.until_subscribed("workload", 1).await;
    let gone = web.next().await;
    assert_eq!(gone.removed, ["shop/db"], "what is not asked for any more is not held");
    web.ack(&gone).await;
    plane.remove("db.yaml");
    plane
        .until_metric("squire_control_resources{kind=\"workload\"} 3")
        .await;
    plane.remove("later.yaml");
    assert_eq!(web.next().await.removed, ["shop/later"], "nothing was said of shop/db");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_keeps_its_last_good_state_in_force() {
    let plane = Plane::start(&[("web.yaml", &pod("web")), ("deny.yaml", &deny_for("web"))]).await;
    let mut web = plane.connect("web", "shop/web").await;
    web.follow(POLICY, &[]).await;
    web.follow(WORKLOAD, &[]).await;
    plane.write("deny.yaml", "apiVersion: [");
    plane.until_metric("squire_control_files{state=\"bad\"} 1").await;
    let problems = plane.get("/debug/problems").await;
    assert!(
        problems.contains("deny.yaml") && problems.contains("\"line\": 1"),
        "{problems}"
    );
    assert!(
        plane.get("/ready").await.starts_with("ready"),
        "the last good state is good enough"
    );
    plane.write("db.yaml", &pod("db"));
    let seen = web.next().await;
    assert_eq!(
        (seen.kind.as_str(), seen.names()),
        (WORKLOAD, vec!["shop/db"]),
        "no policy was touched"
    );
    web.ack(&seen).await;
    plane.remove("deny.yaml");
    let seen = web.next().await;
    assert_eq!(
        (seen.kind.as_str(), seen.names()),
        (POLICY, vec!["shop/web"]),
        "removal is deliberate"
    );
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_pushed_and_nobody_is_told_ready_before_every_file_was_good_once() {
    let plane = Plane::start_unready(&[("web.yaml", &pod("web")), ("deny.yaml", "kind: [")]).await;
    plane.until_metric("squire_control_files{state=\"bad\"} 1").await;
    let ready = plane.get("/ready").await;
    assert!(
        ready.starts_with("not ready") && ready.contains("deny.yaml:1"),
        "{ready}"
    );
    let mut web = plane.connect("web", "shop/web").await;
    web.subscribe(WORKLOAD, &[]).await;
    web.subscribe(POLICY, &[]).await;
    web.subscribe(TRUST_BUNDLE, &[]).await;
    let seen = web.next().await;
    assert_eq!(seen.kind, TRUST_BUNDLE, "roots do not depend on files");
    web.ack(&seen).await;
    plane.write("deny.yaml", DENY);
    let kinds = [web.next().await.kind, web.next().await.kind];
    assert_eq!(kinds, [WORKLOAD, POLICY]);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_proves_to_be_the_workload_is_served() {
    let plane = Plane::start(&[("web.yaml", &pod("web")), ("db.yaml", &pod("db"))]).await;
    assert_eq!(plane.refusal(None, "shop/web").await, Code::Unauthenticated);
    let db = plane.svid("db").await;
    assert_eq!(
        plane.refusal(Some(db.clone()), "shop/web").await,
        Code::PermissionDenied
    );
    assert_eq!(plane.refusal(Some(db.clone()), "").await, Code::InvalidArgument);
    let mut db = plane.connect_with(db, "shop/db").await;
    db.follow(WORKLOAD, &[]).await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_that_is_not_known_yet_waits_for_its_policy() {
    let plane = Plane::start(&[("web.yaml", &pod("web"))]).await;
    let mut late = plane.connect("late", "shop/late").await;
    late.follow(WORKLOAD, &[]).await;
    let seen = late.follow(POLICY, &["shop/late"]).await;
    assert!(seen.names().is_empty(), "there is none");
    plane.write("late.yaml", &pod("late"));
    let mut kinds = [late.follow_next().await, late.follow_next().await]
        .map(|seen: Seen| (seen.kind.clone(), seen.names().join(",")));
    kinds.sort();
    assert_eq!(
        kinds,
        [
            (POLICY.to_owned(), "shop/late".to_owned()),
            (WORKLOAD.to_owned(), "shop/late".to_owned())
        ]
    );
    plane.write(
        "late.yaml",
        &pod("late").replace("serviceAccountName: late", "serviceAccountName: other"),
    );
    assert_eq!(
        late.end().await.code(),
        Code::PermissionDenied,
        "it is not that workload any more"
    );
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_identity_loses_its_stream_and_cannot_come_back() {
    let plane = Plane::start(&[("web.yaml", &pod("web")), ("db.yaml", &pod("db"))]).await;
    let mut web = plane.connect("web", "shop/web").await;
    let mut db = plane.connect("db", "shop/db").await;
    web.follow(WORKLOAD, &[]).await;
    db.follow(client::REVOCATION, &[]).await;
    plane.revoke("web").await;
    assert_eq!(web.end().await.code(), Code::PermissionDenied);
    assert_eq!(db.next().await.names(), ["revocations"], "the others are told");
    plane.refusal(Some(web.svid), "shop/web").await;
    // A client may try again by itself, so once or more.
    plane
        .until_counted("squire_control_handshakes_total{outcome=\"revoked\"}")
        .await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_streams_in_order_and_in_time() {
    let plane = Plane::start(&[("web.yaml", &pod("web"))]).await;
    let mut web = plane.connect("web", "shop/web").await;
    web.follow(WORKLOAD, &[]).await;
    let stopping = tokio::spawn(plane.stop());
    assert_eq!(web.end().await.code(), Code::Unavailable);
    drop(web);
    tokio::time::timeout(Duration::from_secs(10), stopping)
        .await
        .expect("in time")
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_are_kept_and_shown_beside_the_stream() {
    let plane = Plane::start(&[("web.yaml", &pod("web"))]).await;
    let mut web = plane.connect("web", "shop/web").await;
    web.follow(WORKLOAD, &[]).await;
    web.report("127.10.0.1:15020").await.unwrap();
    let sync = plane.sync().await;
    let proxy = &sync["proxies"][0];
    assert_eq!(proxy["proxy"]["node"], "shop/web");
    assert_eq!(proxy["proxy"]["spiffe_id"], "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(proxy["report"]["admin_address"], "127.10.0.1:15020", "{sync}");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_hear_of_a_port_in_mode_disable_and_of_no_other_workload() {
    let plane = Plane::start(&[("web.yaml", &pod("web")), ("db.yaml", &pod("db"))]).await;
    let mut web = plane.connect("web", "shop/web").await;
    web.follow(WORKLOAD, &[]).await;
    plane.write(
        "modes.yaml",
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: db, namespace: shop}\n\
         spec: {selector: {matchLabels: {app: db}}, portLevelMtls: {9090: {mode: DISABLE}}}\n",
    );
    let seen = web.next().await;
    assert_eq!((seen.kind.as_str(), seen.names()), (WORKLOAD, vec!["shop/db"]));
    plane.stop().await;
}
