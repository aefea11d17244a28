//! A corpus of certificates that each break one rule: every one is refused, with its own error.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CidrSubnet, ExtendedKeyUsagePurpose as Eku, GeneralSubtree,
    IsCa, KeyPair, KeyUsagePurpose as Usage, NameConstraints, PKCS_ED25519, SanType,
};
use rustls::pki_types::CertificateDer;

use super::{
    IdentifyError as E, Revocations, Revoked, Role, Serial, VerifiedPeer,
    corpus::{Ca, key, leaf, now, signer, soft_key_usage, unknown_critical, uri},
    identify,
};
use crate::{
    bundle::{TrustBundle, TrustBundles},
    spiffe::{SpiffeId, SpiffeIdError},
    wire,
};

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

fn ca() -> Ca {
    Ca::new("cluster.local", "Test root")
}

fn web() -> SpiffeId {
    WEB.parse().unwrap()
}

fn check(ca: &Ca, chain: &[CertificateDer<'_>]) -> Result<VerifiedPeer, E> {
    identify(chain, &ca.bundles(), now(), Role::Client)
}

/// A good leaf with one thing changed.
fn broken(change: impl FnOnce(&mut CertificateParams)) -> E {
    let ca = ca();
    let mut params = leaf(WEB);
    change(&mut params);
    check(&ca, &ca.sign(&params)).expect_err("refused")
}

#[test]
fn a_good_svid_is_identified_in_both_roles() {
    let ca = ca();
    let mut params = leaf(WEB);
    params.serial_number = Some(vec![0x00, 0x2a, 0x01].into());
    let chain = ca.sign(&params);
    for role in [Role::Client, Role::Server] {
        let peer = identify(&chain, &ca.bundles(), now(), role).unwrap();
        assert_eq!(*peer.id(), web());
        assert_eq!(peer.serial().to_string(), "2a01");
        assert_eq!(peer.not_before(), now() - Duration::from_secs(300));
        assert_eq!(peer.not_after(), now() + Duration::from_secs(3600));
        assert_eq!(peer.root(), ca.bundle().roots()[0].digest());
        assert!(ca.bundles().holds(&ca.domain, peer.root()));
        assert_eq!(peer.issuer_key().map(<[u8]>::len), Some(20));
    }
}

#[test]
fn a_leaf_signed_by_the_root_itself_and_other_san_types_are_fine() {
    let ca = ca();
    let mut params = leaf(WEB);
    params
        .subject_alt_names
        .push(SanType::DnsName("web.shop.svc".try_into().unwrap()));
    params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
    let direct = params.signed_by(&key(), &ca.root).unwrap();
    assert_eq!(*check(&ca, &[direct.der().clone()]).unwrap().id(), web());
}

#[test]
fn an_ed25519_leaf_is_fine() {
    let ca = ca();
    let chain = ca.sign_for(&leaf(WEB), &KeyPair::generate_for(&PKCS_ED25519).unwrap());
    assert_eq!(*check(&ca, &chain).unwrap().id(), web());
}

#[test]
fn the_grounds_end_with_the_earliest_certificate_of_the_path() {
    let ca = ca();
    let mut short = signer("Short intermediate", &["spiffe://cluster.local"]);
    let end = now() + Duration::from_secs(60);
    short.not_after = end.into();
    let short = CertifiedIssuer::signed_by(short, key(), &ca.root).unwrap();
    let chain = [
        leaf(WEB).signed_by(&key(), &short).unwrap().der().clone(),
        short.der().clone(),
    ];
    assert_eq!(check(&ca, &chain).unwrap().not_after(), end);
}

#[test]
fn no_certificate() {
    assert_eq!(check(&ca(), &[]), Err(E::NoCertificate));
}

#[test]
fn malformed_certificates() {
    let ca = ca();
    let good = ca.sign(&leaf(WEB));
    let mut longer = good[0].to_vec();
    longer.push(0);
    let truncated = good[0][..good[0].len() - 1].to_vec();
    for bytes in [vec![], vec![0x30], b"garbage".to_vec(), longer, truncated] {
        let error = check(&ca, &[bytes.into(), good[1].clone()]).unwrap_err();
        assert_eq!(error.label(), "malformed", "{error}");
    }
}

#[test]
fn every_flipped_byte_is_refused() {
    let ca = ca();
    let good = ca.sign(&leaf(WEB));
    for position in 0..good[0].len() {
        let mut bytes = good[0].to_vec();
        bytes[position] ^= 0x01;
        assert!(check(&ca, &[bytes.into(), good[1].clone()]).is_err(), "byte {position}");
    }
}

#[test]
fn no_uri_name() {
    let other = SanType::DnsName("web.shop.svc".try_into().unwrap());
    assert_eq!(broken(|leaf| leaf.subject_alt_names = vec![other]), E::NoUri);
    assert_eq!(broken(|leaf| leaf.subject_alt_names = vec![]), E::NoUri);
}

#[test]
fn statement_14_and_15_two_uri_names_are_refused_even_if_one_is_no_spiffe_id() {
    assert_eq!(
        broken(|leaf| leaf.subject_alt_names.push(uri("spiffe://cluster.local/ns/shop/sa/db"))),
        E::ManyUris(2)
    );
    assert_eq!(
        broken(|leaf| leaf.subject_alt_names.push(uri("https://example.com"))),
        E::ManyUris(2)
    );
    assert_eq!(broken(|leaf| leaf.subject_alt_names.push(uri(WEB))), E::ManyUris(2));
}

#[test]
fn statement_29_the_uri_must_be_a_spiffe_id() {
    for (text, reason) in [
        ("https://cluster.local/ns/shop/sa/web", SpiffeIdError::Scheme),
        ("spiffe://cluster.local/a//b", SpiffeIdError::EmptySegment),
        ("spiffe://cluster.local/a%2fb", SpiffeIdError::PercentEncoding),
    ] {
        let error = broken(|leaf| leaf.subject_alt_names = vec![uri(text)]);
        assert_eq!(
            error,
            E::BadId {
                uri: text.into(),
                reason
            }
        );
    }
}

#[test]
fn statement_16_and_30_a_leaf_needs_a_path() {
    let error = broken(|leaf| leaf.subject_alt_names = vec![uri("spiffe://cluster.local")]);
    assert_eq!(error, E::NoPath("spiffe://cluster.local".parse().unwrap()));
}

#[test]
fn statement_17_san_is_critical_when_the_subject_is_empty() {
    let san = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 17], {
        let mut value = vec![
            0x30,
            u8::try_from(WEB.len() + 2).unwrap(),
            0x86,
            u8::try_from(WEB.len()).unwrap(),
        ];
        value.extend(WEB.as_bytes());
        value
    });
    let error = broken(|leaf| {
        leaf.subject_alt_names.clear();
        leaf.custom_extensions = vec![san];
    });
    assert_eq!(error, E::SanNotCritical(web()));
}

#[test]
fn statement_19_20_and_28_a_signing_certificate_does_not_authenticate() {
    let ca_true = IsCa::Ca(BasicConstraints::Unconstrained);
    assert_eq!(broken(|leaf| leaf.is_ca = ca_true), E::CaLeaf(web()));
    assert_eq!(broken(|leaf| leaf.is_ca = IsCa::NoCa), E::NoBasicConstraints(web()));
    let ca = ca();
    let error = check(&ca, &[ca.intermediate.der().clone()]).unwrap_err();
    assert_eq!(error.label(), "ca_leaf");
}

#[test]
fn statement_22_24_and_25_key_usage() {
    let with = |usages: &[Usage]| broken(|leaf| leaf.key_usages = usages.to_vec());
    let problem = |error: E| match error {
        E::KeyUsage { problem, .. } => problem,
        other => panic!("{other:?}"),
    };
    assert_eq!(problem(with(&[])), "the extension is missing");
    assert_eq!(problem(with(&[Usage::KeyAgreement])), "digitalSignature is not set");
    assert_eq!(
        problem(with(&[Usage::DigitalSignature, Usage::KeyCertSign])),
        "keyCertSign is set on a leaf"
    );
    assert_eq!(
        problem(with(&[Usage::DigitalSignature, Usage::CrlSign])),
        "cRLSign is set on a leaf"
    );
    let soft = broken(|leaf| {
        leaf.key_usages.clear();
        leaf.custom_extensions = vec![soft_key_usage()];
    });
    assert_eq!(problem(soft), "the extension is not critical");
}

#[test]
fn statement_26_extended_key_usage_is_both_or_absent() {
    let with = |usages: &[Eku]| broken(|leaf| leaf.extended_key_usages = usages.to_vec());
    assert_eq!(with(&[Eku::ServerAuth]), E::ExtendedKeyUsage(web()));
    assert_eq!(with(&[Eku::ClientAuth]), E::ExtendedKeyUsage(web()));
    assert_eq!(with(&[Eku::CodeSigning]), E::ExtendedKeyUsage(web()));
    let ca = ca();
    let mut params = leaf(WEB);
    params.extended_key_usages.clear();
    assert!(check(&ca, &ca.sign(&params)).is_ok());
}

#[test]
fn expired_and_not_yet_valid_name_the_clock() {
    let end = now() - Duration::from_secs(1);
    let error = broken(|leaf| leaf.not_after = end.into());
    assert_eq!(
        error,
        E::Expired {
            what: "the certificate",
            id: web(),
            since: end,
            now: now()
        }
    );
    let text = error.to_string();
    assert!(text.contains("expired at Fri, 15 Jan 2027 07:59:59 +0000"), "{text}");
    assert!(text.contains("clock says Fri, 15 Jan 2027 08:00:00 +0000"), "{text}");
    let from = now() + Duration::from_secs(3600);
    let error = broken(|leaf| {
        leaf.not_before = from.into();
        leaf.not_after = (from + Duration::from_secs(60)).into();
    });
    assert_eq!(
        error,
        E::NotYetValid {
            id: web(),
            from,
            now: now()
        }
    );
}

#[test]
fn an_expired_intermediate_and_an_expired_root_are_refused() {
    let ca = ca();
    let mut old = signer("Old intermediate", &[]);
    old.not_after = (now() - Duration::from_secs(1)).into();
    let old = CertifiedIssuer::signed_by(old, key(), &ca.root).unwrap();
    let chain = [
        leaf(WEB).signed_by(&key(), &old).unwrap().der().clone(),
        old.der().clone(),
    ];
    let error = check(&ca, &chain).unwrap_err();
    assert!(
        matches!(
            error,
            E::Expired {
                what: "a signing certificate in the chain",
                ..
            }
        ),
        "{error:?}"
    );

    let mut root = signer("Old root", &[]);
    root.not_after = (now() - Duration::from_secs(1)).into();
    let root = CertifiedIssuer::self_signed(root, key()).unwrap();
    let chain = [leaf(WEB).signed_by(&key(), &root).unwrap().der().clone()];
    let bundle = TrustBundle::new(ca.domain.clone(), [root.der().clone()], 1).unwrap();
    let error = identify(&chain, &TrustBundles::new([bundle]), now(), Role::Client).unwrap_err();
    assert!(
        matches!(
            error,
            E::Expired {
                what: "its root certificate",
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn the_trust_domain_of_the_id_selects_the_bundle() {
    let (ours, theirs) = (ca(), Ca::new("other.example", "Other root"));
    let both = TrustBundles::new([ours.bundle(), theirs.bundle()]);
    let other: SpiffeId = "spiffe://other.example/ns/a/sa/b".parse().unwrap();
    let good = theirs.sign(&leaf(other.as_str()));
    assert_eq!(*identify(&good, &both, now(), Role::Client).unwrap().id(), other);
    assert_eq!(check(&ours, &good), Err(E::UnknownTrustDomain(other.clone())));
    // A trusted CA of another domain does not vouch for ours.
    let crossed = theirs.sign(&leaf(WEB));
    assert_eq!(
        identify(&crossed, &both, now(), Role::Client),
        Err(E::UnknownIssuer(web()))
    );
}

#[test]
fn statement_39_a_bundle_without_roots_vouches_for_nobody() {
    let ca = ca();
    let empty = TrustBundles::new([TrustBundle::new(ca.domain.clone(), [], 2).unwrap()]);
    let chain = ca.sign(&leaf(WEB));
    assert_eq!(
        identify(&chain, &empty, now(), Role::Client),
        Err(E::UnknownIssuer(web()))
    );
    assert_eq!(
        identify(&chain, &TrustBundles::default(), now(), Role::Client),
        Err(E::UnknownTrustDomain(web()))
    );
}

#[test]
fn statement_27_another_ca_a_forged_signature_a_missing_intermediate() {
    let ours = ca();
    let stranger = Ca::new("cluster.local", "Stranger root");
    assert_eq!(check(&ours, &stranger.sign(&leaf(WEB))), Err(E::UnknownIssuer(web())));
    let impostor = ca();
    assert_eq!(check(&ours, &impostor.sign(&leaf(WEB))), Err(E::BadSignature(web())));
    let mut forged = ours.sign(&leaf(WEB));
    let mut bytes = forged[0].to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 0x01;
    forged[0] = bytes.into();
    assert_eq!(check(&ours, &forged), Err(E::BadSignature(web())));
    let alone = ours.sign(&leaf(WEB));
    assert_eq!(check(&ours, &alone[..1]), Err(E::UnknownIssuer(web())));
    let self_signed = leaf(WEB).self_signed(&key()).unwrap();
    assert_eq!(check(&ours, &[self_signed.der().clone()]), Err(E::UnknownIssuer(web())));
}

#[test]
fn a_leaf_cannot_sign_another_leaf() {
    let ca = ca();
    let params = leaf("spiffe://cluster.local/ns/evil/sa/evil");
    let evil = CertifiedIssuer::signed_by(params, key(), &ca.intermediate).unwrap();
    let chain = [
        leaf(WEB).signed_by(&key(), &evil).unwrap().der().clone(),
        evil.der().clone(),
        ca.intermediate.der().clone(),
    ];
    let error = check(&ca, &chain).unwrap_err();
    assert_eq!(error.label(), "bad_path", "{error:?}");
}

#[test]
fn statement_18_an_intermediate_carries_only_its_trust_domain() {
    for found in ["spiffe://other.example", "spiffe://cluster.local/ns/shop/sa/web"] {
        let ca = ca();
        let odd = CertifiedIssuer::signed_by(signer("Odd", &[found]), key(), &ca.root).unwrap();
        let chain = [
            leaf(WEB).signed_by(&key(), &odd).unwrap().der().clone(),
            odd.der().clone(),
        ];
        assert_eq!(
            check(&ca, &chain),
            Err(E::Signer {
                domain: ca.domain.clone(),
                found: found.into()
            })
        );
    }
}

#[test]
fn statement_21_and_unknown_critical_extensions_path_validation_is_whole() {
    let ca = ca();
    let mut narrow = signer("Narrow", &[]);
    narrow.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::IpAddress(CidrSubnet::V4([10, 0, 0, 0], [255, 0, 0, 0]))],
        excluded_subtrees: vec![],
    });
    let narrow = CertifiedIssuer::signed_by(narrow, key(), &ca.root).unwrap();
    let mut params = leaf(WEB);
    params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
    let chain = [
        params.signed_by(&key(), &narrow).unwrap().der().clone(),
        narrow.der().clone(),
    ];
    assert_eq!(check(&ca, &chain).unwrap_err().label(), "bad_path");
    let error = broken(|leaf| leaf.custom_extensions = vec![unknown_critical()]);
    assert_eq!(error.label(), "bad_path", "{error:?}");
}

#[test]
fn a_path_length_of_zero_allows_no_further_signer() {
    let ca = ca();
    let mut limited = signer("Limited", &[]);
    limited.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let limited = CertifiedIssuer::signed_by(limited, key(), &ca.root).unwrap();
    let below = CertifiedIssuer::signed_by(signer("Below", &[]), key(), &limited).unwrap();
    let chain = [
        leaf(WEB).signed_by(&key(), &below).unwrap().der().clone(),
        below.der().clone(),
        limited.der().clone(),
    ];
    assert_eq!(check(&ca, &chain).unwrap_err().label(), "bad_path");
}

#[test]
fn revocations_by_identity_and_serial_survive_the_wire() {
    let ca = ca();
    let peer = check(&ca, &ca.sign(&leaf(WEB))).unwrap();
    let mut all = Revocations::default();
    assert_eq!(all.check(&peer), Ok(()));
    all.revoke_serial(peer.serial().clone(), "key leaked");
    let all: Revocations = wire::squire::Revocation::from(&all).try_into().unwrap();
    assert!(matches!(all.check(&peer), Err(Revoked::Certificate { reason, .. }) if reason == "key leaked"));
    let mut all = Revocations::default();
    all.revoke_identity(web(), "compromised", Some(peer.not_before() + Duration::from_secs(1)));
    let all: Revocations = wire::squire::Revocation::from(&all).try_into().unwrap();
    assert!(matches!(all.check(&peer), Err(Revoked::Identity { reason, .. }) if reason == "compromised"));
    let mut all = Revocations::default();
    all.revoke_identity(web(), "older ones", Some(peer.not_before()));
    assert_eq!(all.check(&peer), Ok(()), "issued at or after the limit");
    all.revoke_identity(web(), "for good", None);
    assert!(all.check(&peer).is_err());
}

#[test]
fn a_serial_has_no_leading_zeros() {
    assert_eq!(Serial::new(&[0, 0, 1, 0]), Serial::new(&[1, 0]));
    assert_eq!(Serial::new(&[0, 0x80]).to_string(), "80");
    assert_eq!(SystemTime::UNIX_EPOCH, crate::bundle::system_time(-5));
}
