//! Revocations: kept once they were reported as done, ended with what they concern.

use super::*;

#[test]
fn revoking_and_undoing_it_with_a_fault_at_every_step_keeps_what_was_reported_as_done() {
    let disk = founded();
    let target = Target::Identity(web());
    let with = |disk: &MemoryDisk| {
        let ca = CertificateAuthority::open(store(disk).map_err(|e| e.to_string())?, None, now());
        ca.map_err(|e| e.to_string())
    };
    let revoke = |disk: &MemoryDisk| {
        let ca = with(disk)?;
        let done = ca.revoke(&target, "lost", false, now()).map_err(|e| e.to_string());
        let refused = ca.watch_revocations().borrow().check_identity(&web(), now()).is_err();
        assert_eq!(refused, done.is_ok(), "nothing takes effect before it is kept");
        done
    };
    at_every_step(&disk, revoke, |disk, done, context| {
        let ca = opens(disk, context);
        let refused = matches!(issue(&ca), Err(IssueError::Revoked(_)));
        assert!(refused || !done, "{context}: what was reported as done holds");
    });
    revoke(&disk).unwrap();
    let undo = |disk: &MemoryDisk| with(disk)?.unrevoke(&target, now()).map_err(|e| e.to_string());
    at_every_step(&disk, undo, |disk, done, context| {
        let ca = opens(disk, context);
        let refused = matches!(issue(&ca), Err(IssueError::Revoked(_)));
        assert!(!refused || !done, "{context}: what was reported as undone is");
    });
}

#[test]
fn a_revocation_ends_with_the_certificates_it_concerns_and_that_of_an_identity_does_not() {
    let disk = founded();
    let ca = open(&disk);
    let issued = issue(&ca).unwrap();
    let end = issued.validity.not_after;
    let second = Duration::from_secs(1);
    ca.revoke(&Target::Certificate(issued.serial.clone()), "lost", false, now())
        .unwrap();
    ca.revoke(&Target::Identity(web()), "copied", true, now()).unwrap();
    let other: SpiffeId = "spiffe://cluster.local/ns/shop/sa/db".parse().unwrap();
    ca.revoke(&Target::Identity(other.clone()), "gone", false, now())
        .unwrap();

    let bundles = TrustBundles::new([(*ca.bundle()).clone()]);
    let peer = identify(&issued.chain, &bundles, now(), Role::Client).unwrap();
    assert!(ca.watch_revocations().borrow().check(&peer).is_err());
    assert!(issue(&ca).is_ok(), "what it is issued from now on is good");
    let revoked = |time| ca.revoked(time).into_iter().map(|view| view.target).collect::<Vec<_>>();
    assert_eq!(revoked(end).len(), 3);
    assert_eq!(revoked(end + second), [web().to_string(), other.to_string()]);
    assert_eq!(revoked(now() + days(30)), [other.to_string()]);
    assert_eq!(ca.expire_revocations(now() + days(30)).unwrap(), 2);
    drop(ca);
    assert_eq!(open(&disk).revoked(now()).len(), 1, "and the rest was kept");
}

#[test]
fn a_revocation_needs_a_reason_and_undoing_one_needs_a_revocation() {
    let ca = open(&founded());
    let target = Target::Identity(web());
    for reason in ["", "  ", "two\nlines", &"x".repeat(257)] {
        let refused = ca.revoke(&target, reason, false, now());
        assert!(matches!(refused, Err(RevokeError::Reason)), "{reason:?}");
    }
    assert!(matches!(ca.unrevoke(&target, now()), Err(RevokeError::NotRevoked(_))));
    let serial: Target = "4a0b".parse().unwrap();
    assert!(matches!(
        ca.revoke(&serial, "lost", true, now()),
        Err(RevokeError::IssuedOnly(_))
    ));
    ca.revoke(&target, "lost", false, now()).unwrap();
    ca.revoke(&target, "found and lost again", false, now()).unwrap();
    assert_eq!(ca.revoked(now()).len(), 1, "the later one replaces the earlier");
}
