//! What an admin brings is taken when it is sound, and refused with the rule it breaks when it is not.

use rcgen::{
    CertifiedIssuer, DistinguishedName, DnType, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType,
};

use super::*;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn days(n: u64) -> Duration {
    Duration::from_secs(n * 86_400)
}

fn domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Example Corp Root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = (now() - days(1)).into();
    params.not_after = (now() + days(3650)).into();
    params
}

fn made(key: KeyPair, change: impl FnOnce(&mut CertificateParams)) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = params();
    change(&mut params);
    CertifiedIssuer::self_signed(params, key).unwrap()
}

fn taken(change: impl FnOnce(&mut CertificateParams)) -> Result<RootRecord, SuppliedError> {
    let made = made(KeyPair::generate().unwrap(), change);
    let key = Secret::new(made.key().serialize_pem());
    root(&domain(), &made.pem(), Some(key), now())
}

#[test]
fn roots_of_any_strong_kind_are_taken_and_signed_under() {
    for key in [
        KeyPair::generate().unwrap(),
        KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap(),
        KeyPair::generate_for(&PKCS_ED25519).unwrap(),
    ] {
        let made = made(key, |_| {});
        let key = Secret::new(made.key().serialize_pem());
        let record = root(&domain(), &made.pem(), Some(key), now()).unwrap();
        let state = crate::hierarchy::Hierarchy::found_on(&domain(), record, now()).unwrap();
        assert!(state.roots[0].supplied);
        crate::hierarchy::Hierarchy::load(&state).unwrap();
    }
    let own = SanType::URI("spiffe://cluster.local".try_into().unwrap());
    taken(|params| params.subject_alt_names.push(own)).unwrap();
}

#[test]
fn roots_that_do_not_do_are_refused_with_the_rule_they_break() {
    type Spoil = fn(&mut CertificateParams);
    let spoilt: [(Spoil, &str); 7] = [
        (|params| params.is_ca = IsCa::ExplicitNoCa, "may not sign others"),
        (
            |params| params.key_usages = vec![KeyUsagePurpose::CrlSign],
            "keyCertSign",
        ),
        (
            |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)),
            "path length is 0",
        ),
        (|params| params.not_after = (now() + days(6)).into(), "7 days more"),
        (|params| params.not_before = (now() + days(1)).into(), "valid now"),
        (
            |params| params.subject_alt_names = vec![SanType::URI("spiffe://other.example".try_into().unwrap())],
            "other.example",
        ),
        (
            |params| params.subject_alt_names = vec![SanType::URI("spiffe://cluster.local/ca".try_into().unwrap())],
            "must not have a path",
        ),
    ];
    for (spoil, rule) in spoilt {
        let error = taken(spoil).unwrap_err().to_string();
        assert!(error.contains(rule), "{rule}: {error}");
    }
}

#[test]
fn another_roots_key_no_pem_and_a_root_that_another_signed_are_refused() {
    let (one, two) = (
        made(KeyPair::generate().unwrap(), |_| {}),
        made(KeyPair::generate().unwrap(), |_| {}),
    );
    let key = Secret::new(two.key().serialize_pem());
    let error = root(&domain(), &one.pem(), Some(key), now()).unwrap_err();
    assert!(error.to_string().contains("belongs to another certificate"), "{error}");
    for pem in ["", "no pem", &format!("{}{}", one.pem(), two.pem())] {
        assert!(
            matches!(root(&domain(), pem, None, now()), Err(SuppliedError::Pem { .. })),
            "{pem}"
        );
    }
    let mut below = params();
    below.distinguished_name.push(DnType::OrganizationName, "below");
    let below = below.signed_by(&KeyPair::generate().unwrap(), &one).unwrap();
    let error = root(&domain(), &below.pem(), None, now()).unwrap_err();
    assert!(error.to_string().contains("signed by another CA"), "{error}");
}

/// Signs a request as an offline CA would.
fn sign(csr: &str, by: &CertifiedIssuer<'_, KeyPair>, change: impl FnOnce(&mut CertificateParams)) -> String {
    let mut asked = rcgen::CertificateSigningRequestParams::from_pem(csr).unwrap();
    asked.params.not_before = (now() - days(1)).into();
    asked.params.not_after = (now() + days(365)).into();
    change(&mut asked.params);
    asked.signed_by(by).unwrap().pem()
}

#[test]
fn an_intermediate_signed_elsewhere_is_taken_with_its_root_and_says_what_was_asked_for() {
    let offline = made(KeyPair::generate().unwrap(), |_| {});
    let request = request(now()).unwrap();
    let csr = csr(&domain(), &request).unwrap();
    let signed = sign(&csr, &offline, |_| {});
    let both = format!("{signed}{}", offline.pem());
    let (root, record) = intermediate(&domain(), Some(&request), &[], &both, now()).unwrap();
    assert!(root.key.is_none() && root.supplied && record.root == root.name);
    let der = CertificateDer::from_pem_slice(signed.as_bytes()).unwrap();
    let says = inspect_signer_unverified(&der).unwrap().unwrap();
    assert_eq!(
        (says.path_length, says.uris),
        (Some(0), vec!["spiffe://cluster.local".to_owned()])
    );
    // Its root known, it need not be brought again.
    intermediate(&domain(), Some(&request), &[root], &signed, now()).unwrap();
}

#[test]
fn an_intermediate_that_does_not_do_is_refused_with_the_rule_it_breaks() {
    let offline = made(KeyPair::generate().unwrap(), |_| {});
    let asked = request(now()).unwrap();
    let csr = csr(&domain(), &asked).unwrap();
    let signed = sign(&csr, &offline, |_| {});
    let both = |signed: &str| format!("{signed}{}", offline.pem());
    let take = |request: Option<&RequestRecord>, pem: &str| {
        intermediate(&domain(), request, &[], pem, now())
            .unwrap_err()
            .to_string()
    };
    let other = request(now()).unwrap();
    let cases = [
        (take(None, &both(&signed)), "begin with `squire ca csr`"),
        (take(Some(&other), &both(&signed)), "not for the key that is waiting"),
        (take(Some(&asked), &signed), "append its certificate"),
        (
            take(
                Some(&asked),
                &both(&sign(&csr, &offline, |params| params.is_ca = IsCa::ExplicitNoCa)),
            ),
            "may not sign others",
        ),
        (
            take(
                Some(&asked),
                &both(&sign(&csr, &offline, |params| {
                    params.not_after = (now() + days(1)).into()
                })),
            ),
            "7 days more",
        ),
        (
            take(
                Some(&asked),
                &both(&sign(&csr, &made(KeyPair::generate().unwrap(), |_| {}), |_| {})),
            ),
            "append its certificate",
        ),
    ];
    for (error, rule) in cases {
        assert!(error.contains(rule), "{rule}: {error}");
    }
}
