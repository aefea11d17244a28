//! Tokens signed with real keys: the good ones become identities, each bad one is refused for its own reason.

use std::{fs, path::Path, time::SystemTime};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::*;

const ISSUER: &str = "https://kubernetes.default.svc";

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

struct Issuer {
    key: KeyPair,
    kid: &'static str,
}

impl Issuer {
    fn new(kid: &'static str) -> Self {
        Self {
            key: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
            kid,
        }
    }

    fn jwk(&self) -> Value {
        let point = &self.key.der_bytes()[1..];
        let (x, y) = (
            URL_SAFE_NO_PAD.encode(&point[..32]),
            URL_SAFE_NO_PAD.encode(&point[32..]),
        );
        json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.kid, "x": x, "y": y})
    }

    fn token(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.kid.into());
        encode(&header, claims, &EncodingKey::from_ec_der(&self.key.serialize_der())).unwrap()
    }
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": ["squire-ca"], "sub": "system:serviceaccount:shop:web",
        "exp": 1_800_000_600u64, "nbf": 1_799_999_900u64, "iat": 1_799_999_900u64,
        "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "web", "uid": "u"}, "pod": {"name": "p", "uid": "u"}},
    })
}

fn with(name: &str, value: Value) -> Value {
    let mut all = claims();
    match value {
        Value::Null => drop(all.as_object_mut().unwrap().remove(name)),
        value => all[name] = value,
    }
    all
}

fn write(path: &Path, keys: &[Value]) {
    fs::write(path, json!({"keys": keys}).to_string()).unwrap();
}

fn attestor(path: &Path) -> Result<Oidc, OidcConfigError> {
    let config = OidcConfig {
        issuer: ISSUER.into(),
        audience: "squire-ca".into(),
        jwks: path.to_owned(),
    };
    Oidc::new(config, "cluster.local".parse().unwrap())
}

fn evidence(token: &str) -> Evidence {
    Evidence {
        bearer: Some(Zeroizing::new(token.to_owned())),
        peer: None,
        now: now(),
    }
}

fn judge(oidc: &Oidc, token: &str) -> Result<Attested, AttestError> {
    oidc.judge(token, &evidence(token))
}

fn setup() -> (tempfile::TempDir, std::path::PathBuf, Issuer, Oidc) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwks.json");
    let issuer = Issuer::new("one");
    write(&path, &[issuer.jwk()]);
    let oidc = attestor(&path).unwrap();
    (dir, path, issuer, oidc)
}

#[test]
fn a_projected_service_account_token_becomes_its_identity() {
    let (_dir, _, issuer, oidc) = setup();
    let shapes = [
        claims(),
        with("kubernetes.io", Value::Null),
        with("aud", json!("squire-ca")),
        with("nbf", Value::Null),
    ];
    for claims in shapes {
        let attested = judge(&oidc, &issuer.token(&claims)).unwrap();
        assert_eq!(attested.id.as_str(), "spiffe://cluster.local/ns/shop/sa/web");
        assert_eq!(
            (attested.attestor, attested.subject.as_str()),
            ("oidc", "system:serviceaccount:shop:web")
        );
    }
    let other_subject = with("sub", json!("1234"));
    assert!(
        judge(&oidc, &issuer.token(&other_subject)).is_ok(),
        "the claim alone is enough"
    );
}

#[test]
fn each_bad_claim_is_refused_for_its_own_reason() {
    let (_dir, _, issuer, oidc) = setup();
    for (claims, label) in [
        (with("aud", json!("https://kubernetes.default.svc")), "wrong_audience"),
        (with("aud", json!([])), "wrong_audience"),
        (with("aud", Value::Null), "wrong_audience"),
        (with("iss", json!("https://evil.example")), "wrong_issuer"),
        (with("iss", Value::Null), "wrong_issuer"),
        (with("exp", json!(1_799_999_940u64)), "expired_token"),
        (with("exp", Value::Null), "bad_jwt"),
        (with("exp", json!("tomorrow")), "bad_jwt"),
        (with("nbf", json!(1_800_000_061u64)), "not_yet_valid"),
        (
            with("sub", json!("system:serviceaccount:shop:db")),
            "no_service_account",
        ),
        (
            with(
                "kubernetes.io",
                json!({"namespace": "a/b", "serviceaccount": {"name": "web"}}),
            ),
            "no_service_account",
        ),
    ] {
        let error = judge(&oidc, &issuer.token(&claims)).unwrap_err();
        assert_eq!(error.label(), label, "{claims}: {error}");
    }
    let mut anonymous = with("sub", json!("someone"));
    anonymous.as_object_mut().unwrap().remove("kubernetes.io");
    assert_eq!(
        judge(&oidc, &issuer.token(&anonymous)).unwrap_err().label(),
        "no_service_account"
    );
}

#[test]
fn a_minute_of_clock_difference_is_forgiven_and_no_more() {
    let (_dir, _, issuer, oidc) = setup();
    for (exp, good) in [(1_799_999_941u64, true), (1_799_999_940, false), (u64::MAX, true)] {
        let token = issuer.token(&with("exp", json!(exp)));
        assert_eq!(judge(&oidc, &token).is_ok(), good, "{exp}");
    }
}

#[test]
fn forged_unsigned_and_symmetric_tokens_are_refused() {
    let (_dir, path, issuer, oidc) = setup();
    let mallory = Issuer::new("one");
    assert_eq!(
        judge(&oidc, &mallory.token(&claims())).unwrap_err().label(),
        "bad_signature"
    );
    let stranger = Issuer::new("unknown");
    assert_eq!(
        judge(&oidc, &stranger.token(&claims())).unwrap_err().label(),
        "bad_signature"
    );
    let body = URL_SAFE_NO_PAD.encode(claims().to_string());
    let none = URL_SAFE_NO_PAD.encode(json!({"alg": "none", "typ": "JWT"}).to_string());
    assert!(judge(&oidc, &format!("{none}.{body}.")).is_err());
    // The public key as an HMAC secret: the classic confusion.
    let secret = EncodingKey::from_secret(fs::read(path).unwrap().as_slice());
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("one".into());
    let confused = encode(&header, &claims(), &secret).unwrap();
    assert_eq!(judge(&oidc, &confused).unwrap_err().label(), "bad_algorithm");
    let good = issuer.token(&claims());
    let (head, signature) = good.rsplit_once('.').unwrap();
    let tampered = head.replace(&body[body.len() / 2..body.len() / 2 + 4], "AAAA");
    assert!(judge(&oidc, &format!("{tampered}x.{signature}")).is_err());
    for garbage in ["a.b.c", "..", "....", "eyJhbGciOiJFUzI1NiJ9.e30.AAAA"] {
        assert!(judge(&oidc, garbage).is_err(), "{garbage}");
    }
}

#[test]
fn the_jwks_is_read_again_when_it_changes_and_a_bad_one_leaves_the_last_good() {
    let (_dir, path, first, oidc) = setup();
    let second = Issuer::new("two");
    assert!(judge(&oidc, &second.token(&claims())).is_err());
    write(
        &path,
        &[first.jwk(), second.jwk(), json!({"kty": "future", "kid": "three"})],
    );
    assert!(judge(&oidc, &second.token(&claims())).is_ok());
    fs::write(&path, "{").unwrap();
    assert!(
        judge(&oidc, &second.token(&claims())).is_ok(),
        "the last good keys stay"
    );
    fs::remove_file(&path).unwrap();
    assert!(judge(&oidc, &first.token(&claims())).is_ok());
    write(&path, &[second.jwk()]);
    assert!(
        judge(&oidc, &first.token(&claims())).is_err(),
        "a removed key no longer counts"
    );
}

#[test]
fn a_configuration_that_could_accept_anything_is_refused() {
    let (dir, path, _issuer, _oidc) = setup();
    let domain = || "cluster.local".parse().unwrap();
    let base = OidcConfig {
        issuer: ISSUER.into(),
        audience: "squire-ca".into(),
        jwks: path,
    };
    let without_issuer = OidcConfig {
        issuer: String::new(),
        ..base.clone()
    };
    assert_eq!(
        Oidc::new(without_issuer, domain()).err(),
        Some(OidcConfigError::NoIssuer)
    );
    let without_audience = OidcConfig {
        audience: String::new(),
        ..base.clone()
    };
    assert_eq!(
        Oidc::new(without_audience, domain()).err(),
        Some(OidcConfigError::NoAudience)
    );
    let symmetric = dir.path().join("symmetric.json");
    write(&symmetric, &[json!({"kty": "oct", "k": "AAAA", "kid": "one"})]);
    for jwks in [symmetric, dir.path().join("missing.json")] {
        let error = Oidc::new(OidcConfig { jwks, ..base.clone() }, domain()).err().unwrap();
        assert!(
            error.to_string().contains("kubectl get --raw /openid/v1/jwks"),
            "{error}"
        );
    }
}
