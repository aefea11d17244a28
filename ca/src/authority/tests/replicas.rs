//! Several replicas that issue from one state: only the leader takes steps, and it knows what the others have issued and heard.

use super::*;
use crate::{authority::fence::FRESH, roster::SILENT, store::together::Together};

/// Replicas of one CA; the first one leads, and all know who was issued what so far.
fn replicas(names: &[&str]) -> Vec<(Arc<Together>, Arc<CertificateAuthority>)> {
    let stores = Together::replicas(names);
    let first: Arc<dyn Store> = Arc::<Together>::clone(&stores[0]);
    CertificateAuthority::init(&first, &domain(), now()).unwrap();
    let opened = stores.into_iter().map(|store| {
        let shared: Arc<dyn Store> = Arc::<Together>::clone(&store);
        let ca = CertificateAuthority::open(shared, None, now()).unwrap();
        own(&ca);
        (store, ca)
    });
    opened.collect()
}

/// A replica's own certificate, and what it says of itself.
fn own(ca: &CertificateAuthority) {
    let id: SpiffeId = "spiffe://cluster.local/ns/squire-system/sa/squire-control"
        .parse()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(ca.issue_own(id.clone(), None, now())).unwrap();
    let sequence = ca.bundle().sequence();
    ca.roster().report(id, ca.own_workload(), evidence(ca, sequence), now());
}

/// Every replica but the first takes over the state, says so, and tells what it has heard.
fn confer(replicas: &[(Arc<Together>, Arc<CertificateAuthority>)]) {
    for (_, ca) in replicas {
        ca.refresh().unwrap();
        own(ca);
        ca.testify(now()).unwrap();
    }
}

fn missing(ca: &CertificateAuthority) -> Vec<String> {
    ca.gather(now()).unwrap();
    let missing = ca.progress(now()).missing.into_iter();
    let mut names: Vec<_> = missing.filter_map(|missing| missing.workload).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_rotation_waits_for_whom_another_replica_has_issued_a_certificate_and_hears_what_was_reported_there() {
    let replicas = replicas(&["a", "b", "c"]);
    let (leader, b, c) = (&replicas[0].1, &replicas[1].1, &replicas[2].1);
    of_web_1(b, now());
    leader.rotate(None, "test", now()).unwrap();
    assert_eq!(
        missing(leader),
        ["control-plane/a", "control-plane/b", "control-plane/c", "shop/web-1"],
        "from the log alone"
    );
    confer(&replicas);
    assert_eq!(missing(leader), ["shop/web-1"]);
    assert_eq!(passes(leader, now()), None);
    // It reports to a follower, which need not be the one that issued its certificate.
    let said = evidence(c, c.bundle().sequence());
    c.roster().report(web(), "shop/web-1", said, now());
    assert_eq!(missing(leader), ["shop/web-1"], "nobody has told the leader");
    c.testify(now()).unwrap();
    assert_eq!(passes(leader, now()).as_deref(), Some("switch"));

    // A replica that has not heard of it signs under the root that goes; that is in the log, and is waited for.
    let late = of_web_1(b, now());
    confer(&replicas);
    let told = |ca: &CertificateAuthority| {
        let said = evidence(ca, ca.bundle().sequence());
        ca.roster().report(web(), "shop/web-1", said, now());
        ca.testify(now()).unwrap();
    };
    told(c);
    assert_eq!(
        missing(leader),
        ["shop/web-1"],
        "its newest certificate is under the old root"
    );
    assert_ne!(of_web_1(b, now()).chain[1], late.chain[1], "b has heard of it by now");
    assert_eq!(passes(leader, now()).as_deref(), Some("retire"));
    confer(&replicas);
    told(c);
    assert_eq!(passes(leader, now()).as_deref(), Some("stable"));
    for (_, ca) in &replicas {
        ca.refresh().unwrap();
        assert_eq!(ca.status().unwrap().roots.len(), 1);
    }
    assert_eq!(
        leader.verify_log(now()).unwrap().unacknowledged,
        0,
        "one chain, whoever wrote"
    );
}

#[test]
fn only_the_leader_takes_steps_and_one_that_was_deposed_takes_none_by_what_it_still_knows() {
    let replicas = replicas(&["a", "b"]);
    let ((first, a), (second, b)) = (&replicas[0], &replicas[1]);
    assert!(b.rotate(None, "test", now()).is_err(), "it does not lead");
    assert!(b.abort(now()).is_err() && b.force(1, now()).is_err());
    a.rotate(None, "test", now()).unwrap();
    confer(&replicas);
    // a is deposed, and does not know it: b goes on, and what a would do by its older state is refused.
    second.lead(true);
    assert_eq!(passes(b, now()).as_deref(), Some("switch"));
    let entries = |ca: &CertificateAuthority| ca.status().unwrap().log_entries;
    assert!(matches!(
        a.force(a.bundle().sequence(), now()),
        Err(RotateError::Ca(CaError::Store(StoreError::Changed { .. })))
    ));
    assert_eq!(
        a.bundle().sequence() + 1,
        b.bundle().sequence(),
        "it has not taken effect in a either"
    );
    // And once it knows, it does not even begin.
    first.lead(false);
    let before = entries(b);
    assert!(a.force(a.bundle().sequence(), now()).is_err());
    assert_eq!(entries(b), before);
    a.refresh().unwrap();
    assert_eq!(a.progress(now()).phase, "switch");
}

#[test]
fn a_new_leader_goes_on_by_the_same_evidence() {
    let replicas = replicas(&["a", "b", "c"]);
    let ((first, a), (second, b), (_, c)) = (&replicas[0], &replicas[1], &replicas[2]);
    of_web_1(c, now());
    a.rotate(None, "test", now()).unwrap();
    confer(&replicas);
    c.roster().report(web(), "shop/web-1", evidence(c, 2), now());
    c.testify(now()).unwrap();
    first.lead(false);
    second.lead(true);
    assert_eq!(
        passes(b, now()).as_deref(),
        Some("switch"),
        "b has never heard of web-1 itself"
    );
}

#[test]
fn where_two_replicas_have_heard_of_the_same_holder_the_worse_word_counts() {
    let replicas = replicas(&["a", "b", "c"]);
    let (leader, b, c) = (&replicas[0].1, &replicas[1].1, &replicas[2].1);
    of_web_1(b, now());
    leader.rotate(None, "test", now()).unwrap();
    confer(&replicas);
    b.roster().report(web(), "shop/web-1", evidence(b, 1), now());
    c.roster().report(web(), "shop/web-1", evidence(c, 2), now());
    b.testify(now()).unwrap();
    c.testify(now()).unwrap();
    assert_eq!(missing(leader), ["shop/web-1"]);
    // b does not hear of it any more: it has gone to c.
    b.testify(now() + seconds(80)).unwrap();
    assert!(missing(leader).is_empty());
}

#[test]
fn a_replica_that_cannot_read_the_state_signs_nothing_and_does_not_hold_a_rotation_for_longer_than_that() {
    let replicas = replicas(&["a", "b"]);
    let ((_, leader), (cut, lost)) = (&replicas[0], &replicas[1]);
    cut.cut_off(true);
    leader.rotate(None, "test", now()).unwrap();
    leader.testify(now()).unwrap();
    own(leader);
    assert_eq!(missing(leader), ["control-plane/b"]);
    assert!(lost.refresh().is_err());
    // As after so long (the other direction of the same comparison: the state was read so long ago).
    let read_long_ago = Instant::now().checked_sub(FRESH).unwrap();
    cut.cut_off(false);
    lost.fence.reset(read_long_ago);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let refused = runtime.block_on(lost.issue(&attested(web()), &csr(), None, now()));
    assert!(matches!(refused, Err(IssueError::Stale { .. })), "{refused:?}");
    leader.fence.age(SILENT);
    assert!(missing(leader).is_empty());
    assert!(leader.progress(now()).gone[0].who.contains("control-plane/b"));
    assert_eq!(passes(leader, now()).as_deref(), Some("switch"));
    // It reads the state again, and signs by the one that is in force.
    lost.refresh().unwrap();
    let again = runtime
        .block_on(lost.issue(&attested(web()), &csr(), None, now()))
        .unwrap();
    assert_eq!(
        again.chain[1].as_ref(),
        leader.current().hierarchy.intermediate().der().as_ref()
    );
}
