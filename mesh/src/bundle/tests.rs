//! Bundles are parsed strictly, compared by digest, and never merged.

use rcgen::{CertifiedIssuer, PublicKeyData as _};
use serde_json::{Value, json};

use super::*;
use crate::{
    svid::corpus::{Ca, key, leaf, signer},
    wire,
};

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
        sequence: 1,
        ..Default::default()
    };
    assert!(matches!(
        TrustBundle::try_from(message),
        Err(BundleError::TrustDomain(..))
    ));
}

/// A bundle with a root and a key for JWT-SVIDs.
fn full() -> TrustBundle {
    let point = key().der_bytes().to_vec();
    let public = crate::jwk::PublicKey::ec(crate::jwk::Curve::P256, point).unwrap();
    TrustBundle::new(domain(), [ca().root.der().clone()], 7)
        .unwrap()
        .with_jwt_keys([JwtKey::new("one", public).unwrap()])
        .with_refresh_hint(Some(Duration::from_secs(60)))
}

#[test]
fn a_bundle_goes_through_its_document_and_the_wire_with_keys_and_hint() {
    let bundle = full();
    let document = bundle.to_document();
    let back = TrustBundle::from_document(&domain(), document.as_bytes()).unwrap();
    assert!(back == bundle && back.sequence() == 7);
    let pushed = TrustBundle::try_from(wire::squire::TrustBundle::from(&bundle)).unwrap();
    assert!(pushed == bundle && pushed.sequence() == 7);
    assert_ne!(back.with_jwt_keys([]), bundle);

    let value: Value = serde_json::from_str(&document).unwrap();
    let [root, token] = value["keys"].as_array().unwrap().as_slice() else {
        panic!("{value}")
    };
    assert_eq!(
        (&root["use"], &root["kty"], &root["crv"]),
        (&json!("x509-svid"), &json!("EC"), &json!("P-256"))
    );
    assert!(root.get("kid").is_none() && root["x5c"].as_array().unwrap().len() == 1);
    assert_eq!((&token["use"], &token["kid"]), (&json!("jwt-svid"), &json!("one")));
    assert_eq!(
        (&value["spiffe_sequence"], &value["spiffe_refresh_hint"]),
        (&json!(7), &json!(60))
    );
    let set: Value = serde_json::from_str(&bundle.to_jwt_key_set()).unwrap();
    assert_eq!(set, json!({"keys": [token]}), "nothing but keys for JWT-SVIDs");
}

#[test]
fn what_a_document_may_hold_beside_is_passed_over_and_what_is_malformed_is_not() {
    let known: Value = serde_json::from_str(&full().to_document()).unwrap();
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut document = known.clone();
        change(&mut document);
        TrustBundle::from_document(&domain(), document.to_string().as_bytes())
    };
    let left = |change: &dyn Fn(&mut Value)| {
        let bundle = changed(change).unwrap();
        (bundle.roots().len(), bundle.jwt_keys().len())
    };
    assert_eq!(left(&|d| d["colour"] = json!("red")), (1, 1));
    assert_eq!(
        left(&|d| d["keys"][0]["use"] = json!("X509-SVID")),
        (0, 1),
        "case counts"
    );
    assert_eq!(
        left(&|d| drop(d["keys"][0].as_object_mut().unwrap().remove("use"))),
        (0, 1)
    );
    assert_eq!(left(&|d| d["keys"][0]["kty"] = json!("LMS")), (0, 1));
    assert_eq!(left(&|d| d["keys"][0]["x5c"] = json!([])), (0, 1));
    assert_eq!(
        left(&|d| d["keys"][0]["x5c"].as_array_mut().unwrap().push(json!("?"))),
        (1, 1)
    );
    assert_eq!(left(&|d| d["keys"][1]["kid"] = json!("")), (1, 0));
    assert_eq!(left(&|d| d["keys"][1]["crv"] = json!("secp256k1")), (1, 0));
    assert_eq!(
        left(&|d| d["keys"] = json!([])),
        (0, 0),
        "may be empty: it vouches for nobody"
    );
    for bad in [
        (&|d: &mut Value| drop(d.as_object_mut().unwrap().remove("keys"))) as &dyn Fn(&mut Value),
        &|d| d["keys"][0]["x5c"] = json!(["!"]),
        &|d| d["spiffe_sequence"] = json!("7"),
        &|d| d["spiffe_sequence"] = json!(-1),
        &|d| d["spiffe_refresh_hint"] = json!(1.5),
    ] {
        assert!(matches!(changed(bad), Err(BundleError::Document { .. })));
    }
    assert!(matches!(
        changed(&|d| d["keys"][0]["x5c"] = json!(["AAAA"])),
        Err(BundleError::Malformed { .. })
    ));
    let twice = br#"{"keys": [], "keys": []}"#;
    assert!(TrustBundle::from_document(&domain(), twice).is_err());
    let other = TrustBundle::from_document(&"other.example".parse().unwrap(), known.to_string().as_bytes());
    assert!(
        matches!(other, Err(BundleError::OtherDomain { .. })),
        "a root names its own domain"
    );
}

#[test]
fn a_root_with_an_rsa_key_is_a_jwk_too() {
    let document = TrustBundle::from_pem(&domain(), include_bytes!("rsa-root.pem"))
        .unwrap()
        .to_document();
    let value: Value = serde_json::from_str(&document).unwrap();
    assert_eq!(value["keys"][0]["kty"], "RSA");
    assert_eq!(value["keys"][0]["e"], "AQAB");
    assert_eq!(
        TrustBundle::from_document(&domain(), document.as_bytes())
            .unwrap()
            .roots()
            .len(),
        1
    );
}
