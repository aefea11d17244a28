//! Every rule of the standard is broken once, and each time the token is refused for that rule.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use serde_json::json;

use super::*;
use crate::{
    bundle::JwtKey,
    jwk::{Curve, PublicKey},
    spiffe::TrustDomain,
};

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// One trust domain's signer.
struct Signer {
    domain: TrustDomain,
    pair: EcdsaKeyPair,
}

impl Signer {
    fn of(domain: &str) -> Self {
        Self {
            domain: domain.parse().unwrap(),
            pair: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
        }
    }

    fn bundle(&self, kid: &str) -> TrustBundle {
        let key = PublicKey::ec(Curve::P256, self.pair.public_key().as_ref().to_vec()).unwrap();
        let bundle = TrustBundle::new(self.domain.clone(), [], 1).unwrap();
        bundle.with_jwt_keys([JwtKey::new(kid, key).unwrap()])
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let signed = format!(
            "{}.{}",
            encode(header.to_string().as_bytes()),
            encode(claims.to_string().as_bytes())
        );
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", encode(signature.as_ref()))
    }
}

fn header() -> Value {
    json!({"alg": "ES256", "kid": "one", "typ": "JWT"})
}

fn claims() -> Value {
    json!({"sub": WEB, "aud": ["db", "api"], "exp": 1_800_000_300, "iat": 1_800_000_000})
}

/// What `value` is after a change: `null` removes.
fn with(mut value: Value, name: &str, new: Value) -> Value {
    match new {
        Value::Null => drop(value.as_object_mut().unwrap().remove(name)),
        new => value[name] = new,
    }
    value
}

#[test]
fn a_good_token_is_an_identity_until_it_ends() {
    let signer = Signer::of("cluster.local");
    let bundles = TrustBundles::new([signer.bundle("one")]);
    for (header, claims) in [
        (header(), claims()),
        (with(header(), "kid", Value::Null), claims()),
        (with(header(), "typ", "JOSE".into()), with(claims(), "aud", "db".into())),
        (
            with(header(), "typ", Value::Null),
            with(claims(), "colour", "red".into()),
        ),
    ] {
        let token = signer.sign(&header, &claims);
        let svid = verify(&token, "db", &bundles, now()).unwrap();
        assert_eq!(
            (svid.id.as_str(), svid.not_after),
            (WEB, now() + Duration::from_secs(300))
        );
        assert_eq!(Value::Object(svid.claims), claims);
    }
}

#[test]
fn each_broken_rule_is_refused_by_its_name() {
    use JwtSvidError as E;
    let signer = Signer::of("cluster.local");
    let bundles = TrustBundles::new([signer.bundle("one")]);
    let refusal =
        |header: Value, claims: Value| verify(&signer.sign(&header, &claims), "db", &bundles, now()).unwrap_err();
    for algorithm in ["none", "HS256", "EdDSA", "es256", ""] {
        assert_eq!(
            refusal(with(header(), "alg", algorithm.into()), claims()),
            E::Algorithm,
            "{algorithm}"
        );
    }
    assert_eq!(
        refusal(with(header(), "alg", "ES384".into()), claims()),
        E::NoKey(WEB.parse().unwrap())
    );
    assert_eq!(
        refusal(with(header(), "jku", "https://x".into()), claims()),
        E::Header("jku".into())
    );
    assert_eq!(
        refusal(with(header(), "crit", json!(["exp"])), claims()),
        E::Header("crit".into())
    );
    assert_eq!(refusal(with(header(), "typ", "at+jwt".into()), claims()), E::Type);
    assert_eq!(
        refusal(with(header(), "kid", "two".into()), claims()),
        E::NoKey(WEB.parse().unwrap())
    );
    assert_eq!(refusal(header(), with(claims(), "sub", Value::Null)), E::NoSubject);
    assert!(matches!(
        refusal(header(), with(claims(), "sub", "web".into())),
        E::Subject { .. }
    ));
    assert!(matches!(
        refusal(header(), with(claims(), "sub", "spiffe://cluster.local".into())),
        E::NoPath(_)
    ));
    assert_eq!(refusal(header(), with(claims(), "aud", Value::Null)), E::NoAudience);
    assert_eq!(
        refusal(header(), with(claims(), "aud", json!([]))),
        E::Audience("db".into())
    );
    assert_eq!(
        refusal(header(), with(claims(), "aud", "db2".into())),
        E::Audience("db".into())
    );
    assert_eq!(refusal(header(), with(claims(), "exp", Value::Null)), E::NoExpiry);
    assert!(matches!(
        refusal(header(), with(claims(), "exp", 1_800_000_000.into())),
        E::Expired { .. }
    ));
    assert!(matches!(
        refusal(header(), with(claims(), "exp", "soon".into())),
        E::Malformed(_)
    ));
    assert!(matches!(
        refusal(header(), with(claims(), "exp", 1e300.into())),
        E::Malformed(_)
    ));
    assert!(matches!(
        refusal(header(), with(claims(), "nbf", 1_800_000_100.into())),
        E::NotYetValid { .. }
    ));
    let other = with(claims(), "sub", "spiffe://elsewhere/ns/shop/sa/web".into());
    assert!(matches!(refusal(header(), other), E::UnknownTrustDomain(_)));
}

#[test]
fn a_trust_domain_speaks_for_itself_alone() {
    let (ours, theirs) = (Signer::of("cluster.local"), Signer::of("elsewhere"));
    let bundles = TrustBundles::new([ours.bundle("one"), theirs.bundle("one")]);
    let forged = theirs.sign(&header(), &claims());
    let refused = verify(&forged, "db", &bundles, now()).unwrap_err();
    assert_eq!(refused, JwtSvidError::Signature(WEB.parse().unwrap()));
    let honest = with(claims(), "sub", "spiffe://elsewhere/ns/shop/sa/web".into());
    assert!(verify(&theirs.sign(&header(), &honest), "db", &bundles, now()).is_ok());
    let keyless = TrustBundles::new([TrustBundle::new(ours.domain.clone(), [], 1).unwrap()]);
    let refused = verify(&ours.sign(&header(), &claims()), "db", &keyless, now()).unwrap_err();
    assert_eq!(
        refused,
        JwtSvidError::NoKey(WEB.parse().unwrap()),
        "no keys: all tokens are invalid"
    );
}

#[test]
fn what_is_no_token_at_all_is_refused() {
    let signer = Signer::of("cluster.local");
    let bundles = TrustBundles::new([signer.bundle("one")]);
    let good = signer.sign(&header(), &claims());
    let (body, _) = good.rsplit_once('.').unwrap();
    let (head, rest) = good.split_once('.').unwrap();
    for bad in [
        String::new(),
        "a.b".to_owned(),
        format!("{good}.x"),
        format!("{body}."),
        format!("{head}=.{rest}"),
        format!(".{rest}"),
        "x".repeat(MAX_TOKEN + 1),
        // JSON serialisation is not accepted (5.1).
        r#"{"payload":"e30","signatures":[]}"#.to_owned(),
    ] {
        let refused = verify(&bad, "db", &bundles, now());
        assert!(refused.is_err(), "{bad}");
    }
    let mut altered = good.into_bytes();
    let last = altered.len() - 2;
    altered[last] = if altered[last] == b'A' { b'B' } else { b'A' };
    let altered = String::from_utf8(altered).unwrap();
    assert!(matches!(
        verify(&altered, "db", &bundles, now()),
        Err(JwtSvidError::Signature(_))
    ));
}
