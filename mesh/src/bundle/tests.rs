//! Bundles are parsed strictly, compared by digest, and never merged.

use super::*;
use crate::svid::corpus::{Ca, key, leaf, signer};
use rcgen::CertifiedIssuer;

fn domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

fn ca() -> Ca {
    Ca::new("cluster.local", "Test root")
}

#[test]
fn a_bundle_goes_through_pem_and_the_wire_unchanged() {
    let (one, two) = (ca(), ca());
    let roots = [one.root.der().clone(), two.root.der().clone(), one.root.der().clone()];
    let bundle = TrustBundle::new(domain(), roots, 7).unwrap();
    assert_eq!(bundle.roots().len(), 2, "a root given twice counts once");
    let message = wire::squire::TrustBundle::from(&bundle);
    let back = TrustBundle::try_from(message).unwrap();
    assert_eq!((back.sequence(), back.roots().len()), (7, 2));
    let text = format!("a comment\n{}", bundle.to_pem());
    let from_pem = TrustBundles::from_pem(&domain(), text.as_bytes()).unwrap();
    assert_eq!(TrustBundles::new([back]).digest(), from_pem.digest());
    assert!(from_pem.holds(&domain(), RootDigest::of(one.root.der())));
    assert!(!from_pem.holds(&domain(), RootDigest::of(ca().root.der())));
}

#[test]
fn the_digest_ignores_order_and_sequence_and_nothing_else() {
    let (one, two, other) = (ca(), ca(), Ca::new("other.example", "Other"));
    let (a, b) = (one.root.der().clone(), two.root.der().clone());
    let digest = |roots: Vec<CertificateDer<'static>>, sequence| {
        let bundle = TrustBundle::new(domain(), roots, sequence).unwrap();
        TrustBundles::new([bundle]).digest().to_owned()
    };
    let both = digest(vec![a.clone(), b.clone()], 1);
    assert_eq!(both.len(), 64);
    assert_eq!(both, digest(vec![b.clone(), a.clone()], 2));
    assert_ne!(both, digest(vec![a.clone()], 1));
    assert_ne!(digest(vec![a.clone()], 1), digest(vec![b], 1));
    let ours = TrustBundles::new([one.bundle()]);
    let wider = ours.with(other.bundle());
    assert_ne!(ours.digest(), wider.digest());
    assert_eq!(ours.digest(), wider.without(&other.domain).digest());
    assert_ne!(ours.digest(), TrustBundles::default().digest());
}

#[test]
fn what_is_no_bundle_is_refused_with_its_reason() {
    let bad = |pem: &[u8]| TrustBundle::from_pem(&domain(), pem).unwrap_err();
    assert_eq!(bad(b""), BundleError::Empty);
    assert_eq!(bad(b"hello"), BundleError::Empty);
    let base64 = b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
    assert!(matches!(bad(base64), BundleError::Pem(_)));
    let no_cert = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(bad(no_cert), BundleError::Malformed { index: 0, .. }));
    let cut = b"-----BEGIN CERTIFICATE-----\nAAAA\n";
    assert!(matches!(bad(cut), BundleError::Pem(_)));
}

#[test]
fn a_leaf_is_no_root_and_a_root_speaks_for_its_own_domain_only() {
    let ca = ca();
    let leaf = ca.sign(&leaf("spiffe://cluster.local/ns/a/sa/b")).remove(0);
    let error = TrustBundle::new(domain(), [ca.root.der().clone(), leaf], 1).unwrap_err();
    assert_eq!(
        error,
        BundleError::NotCa {
            trust_domain: domain(),
            index: 1
        }
    );
    for found in [
        "spiffe://other.example",
        "spiffe://cluster.local/x",
        "https://cluster.local",
    ] {
        let root = CertifiedIssuer::self_signed(signer("Root", &[found]), key()).unwrap();
        let error = TrustBundle::new(domain(), [root.der().clone()], 1).unwrap_err();
        assert_eq!(
            error,
            BundleError::OtherDomain {
                trust_domain: domain(),
                index: 0,
                found: found.into()
            }
        );
    }
    let plain = CertifiedIssuer::self_signed(signer("Root without an ID", &[]), key()).unwrap();
    assert!(TrustBundle::new(domain(), [plain.der().clone()], 1).is_ok());
}

#[test]
fn a_message_for_a_bad_trust_domain_is_refused() {
    let message = wire::squire::TrustBundle {
        trust_domain: "a b".into(),
        roots: vec![],
        sequence: 1,
        ..Default::default()
    };
    assert!(matches!(
        TrustBundle::try_from(message),
        Err(BundleError::TrustDomain(..))
    ));
}
