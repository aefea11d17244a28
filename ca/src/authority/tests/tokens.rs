//! JWT-SVIDs and the keys that sign them.

use super::*;

fn token(ca: &CertificateAuthority, at: SystemTime) -> Result<crate::jwt::SignedJwt, IssueError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let audience = crate::jwt::Audience::new(vec!["db".into()]).unwrap();
    runtime.block_on(ca.issue_jwt(&attested(web()), &audience, None, at + days(1), at))
}

fn verified(ca: &CertificateAuthority, token: &str, at: SystemTime) -> bool {
    let bundles = TrustBundles::new([(*ca.bundle()).clone()]);
    squire_mesh::jwt_svid::verify(token, "db", &bundles, at).is_ok_and(|svid| svid.id == web())
}

#[test]
fn a_token_is_logged_and_verifies_under_the_published_bundle_until_it_ends() {
    let ca = open(&founded());
    let sequence = ca.bundle().sequence();
    let signed = token(&ca, now()).unwrap();
    assert!(verified(&ca, &signed.token, now()));
    assert!(!verified(&ca, &signed.token, now() + crate::jwt::DEFAULT_JWT_TTL));
    assert_eq!(ca.bundle().sequence(), sequence, "signing changes nothing");
    assert_eq!(ca.verify_log(now()).unwrap().head.count, 4);
    ca.revoke(&Target::Identity(web()), "gone", false, now()).unwrap();
    assert!(matches!(token(&ca, now()), Err(IssueError::Revoked(_))));
    let stranger = attested("spiffe://elsewhere/ns/a/sa/b".parse().unwrap());
    let audience = crate::jwt::Audience::new(vec!["db".into()]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let refused = runtime.block_on(ca.issue_jwt(&stranger, &audience, None, now() + days(1), now()));
    assert!(matches!(refused, Err(IssueError::NotOurs { .. })));
}

#[test]
fn keys_for_tokens_move_on_by_themselves_and_every_change_counts_the_bundle_up() {
    let ca = open(&founded());
    let mut told = ca.watch_bundle();
    told.mark_unchanged();
    let first = token(&ca, now()).unwrap();
    let before = ca.bundle().sequence();
    let prepared = now() + crate::jwt::KEY_LIFE - crate::jwt::LEAD;
    assert!(!ca.advance_jwt_keys(prepared - Duration::from_secs(1)).unwrap());
    assert!(ca.advance_jwt_keys(prepared).unwrap());
    assert!(told.has_changed().unwrap() && ca.bundle().sequence() > before);
    assert_eq!(ca.bundle().jwt_keys().len(), 2);
    assert_eq!(
        token(&ca, prepared).unwrap().kid,
        first.kid,
        "published first, signs later"
    );
    let later = token(&ca, prepared + crate::jwt::LEAD).unwrap();
    assert_ne!(later.kid, first.kid);
    assert!(
        ca.advance_jwt_keys(prepared + crate::jwt::LEAD + crate::jwt::MAX_JWT_TTL + profile::BACKDATE)
            .unwrap()
    );
    assert_eq!(ca.bundle().jwt_keys().len(), 1, "what the old one signed has expired");
    assert_eq!(ca.bundle().jwt_keys()[0].kid(), later.kid);
}

#[test]
fn a_ca_from_before_there_were_tokens_gets_its_first_key_when_it_is_opened() {
    let disk = founded();
    let shared = store(&disk).unwrap();
    let mut old = shared.load().unwrap().unwrap();
    old.jwt_keys.clear();
    shared.save(&old).unwrap();
    drop(shared);
    let ca = open(&disk);
    assert_eq!(
        (ca.bundle().jwt_keys().len(), ca.bundle().sequence()),
        (1, old.sequence + 1)
    );
    assert!(verified(&ca, &token(&ca, now()).unwrap().token, now()));
}

#[test]
fn rotating_the_key_for_tokens_with_a_fault_at_every_step_leaves_old_or_new_keys_and_never_one_that_signs_unpublished()
{
    let disk = founded();
    let rotate = |disk: &MemoryDisk| {
        let ca = open(disk);
        ca.rotate_jwt_key(Duration::ZERO, false, now())
            .map_err(|error| error.to_string())
    };
    at_every_step(&disk, rotate, |disk, done, context| {
        let ca = opens(disk, context);
        let keys = ca.bundle().jwt_keys().len();
        assert!(keys == 2 || (!done && keys == 1), "{context}: {keys}");
        let signed = token(&ca, now()).unwrap();
        assert!(ca.bundle().jwt_key(&signed.kid).is_some(), "{context}");
        assert!(verified(&ca, &signed.token, now()), "{context}");
    });
}
