//! Tokens signed with real keys, verified statement by statement (spec §3.14.54, RFC 7515, RFC 7519), and keys served by
//! a real HTTP server.

use std::{
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicU16, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
        Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding,
    },
};
use serde_json::json;
use squire_mesh::policy::{ClaimHeader, TokenKeys, TokenPlace};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;
use crate::{
    callouts::outside::{Outside, Tls},
    http::test::{Head, view},
};

const ISSUER: &str = "https://issuer.example";
/// When the tokens of these tests are verified.
const NOW: u64 = 1_700_000_000;

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

enum Signer {
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Hmac(Vec<u8>),
    Nobody,
}

/// A key with its name in the set.
struct TestKey {
    kid: &'static str,
    algorithm: &'static str,
    signer: Signer,
    jwk: Value,
}

impl TestKey {
    fn ec(kid: &'static str, algorithm: &'static str) -> Self {
        let (signing, crv, size): (&'static EcdsaSigningAlgorithm, _, _) = match algorithm {
            "ES384" => (&ECDSA_P384_SHA384_FIXED_SIGNING, "P-384", 48),
            _ => (&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256", 32),
        };
        let pair = EcdsaKeyPair::generate(signing).unwrap();
        let (x, y) = pair.public_key().as_ref()[1..].split_at(size);
        let jwk = json!({"kty": "EC", "crv": crv, "kid": kid, "x": b64(x), "y": b64(y)});
        Self {
            kid,
            algorithm,
            signer: Signer::Ec(pair),
            jwk,
        }
    }

    fn ed(kid: &'static str) -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": b64(pair.public_key())});
        Self {
            kid,
            algorithm: "EdDSA",
            signer: Signer::Ed(pair),
            jwk,
        }
    }

    fn rsa(kid: &'static str, algorithm: &'static str) -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let public = pair.public_key();
        let n = public.modulus().big_endian_without_leading_zero().to_vec();
        let e = public.exponent().big_endian_without_leading_zero().to_vec();
        let encoding: &'static dyn RsaEncoding = if algorithm == "PS256" {
            &RSA_PSS_SHA256
        } else {
            &RSA_PKCS1_SHA256
        };
        Self {
            kid,
            algorithm,
            signer: Signer::Rsa(pair, encoding),
            jwk: json!({"kty": "RSA", "kid": kid, "n": b64(n), "e": b64(e)}),
        }
    }

    fn sign_text(&self, header: &str, payload: &str) -> String {
        let signed = format!("{}.{}", b64(header), b64(payload));
        let random = SystemRandom::new();
        let signature = match &self.signer {
            Signer::Ec(pair) => pair.sign(&random, signed.as_bytes()).unwrap().as_ref().to_vec(),
            Signer::Ed(pair) => pair.sign(signed.as_bytes()).as_ref().to_vec(),
            Signer::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &random, signed.as_bytes(), &mut signature)
                    .unwrap();
                signature
            }
            Signer::Hmac(secret) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
                hmac::sign(&key, signed.as_bytes()).as_ref().to_vec()
            }
            Signer::Nobody => Vec::new(),
        };
        format!("{signed}.{}", b64(signature))
    }

    fn sign(&self, claims: &Value) -> String {
        let header = json!({"alg": self.algorithm, "kid": self.kid, "typ": "JWT"});
        self.sign_text(&header.to_string(), &claims.to_string())
    }
}

fn set(keys: &[&TestKey]) -> String {
    json!({"keys": keys.iter().map(|key| key.jwk.clone()).collect::<Vec<_>>()}).to_string()
}

fn claims() -> Value {
    json!({"iss": ISSUER, "sub": "alice", "exp": NOW + 600})
}

fn with(name: &str, value: impl Into<Value>) -> Value {
    let mut claims = claims();
    claims[name] = value.into();
    claims
}

fn inline(keys: &[&TestKey]) -> TokenIssuer {
    TokenIssuer::new(ISSUER, TokenKeys::Inline(set(keys).into()))
}

const QUICK: Pace = Pace {
    refresh: Duration::from_secs(300),
    stale: Duration::from_secs(3600),
    unknown_key: Duration::ZERO,
    failed: Duration::ZERO,
};

fn verifier(pace: Pace) -> Verifier {
    let metrics = Arc::new(CalloutMetrics::register(&prometheus::Registry::new()).unwrap());
    let client = Arc::new(Client::new(Arc::new(Outside), Tls::new(None)));
    Verifier::new(client, metrics, pace)
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

async fn verify(verifier: &Verifier, issuers: &[TokenIssuer], head: &Head) -> Outcome {
    verifier.verify(issuers, &view(head), at(NOW)).await
}

fn bearer(token: &str) -> Head {
    Head::get("/path").field("authorization", &format!("Bearer {token}"))
}

/// The words a token is refused with.
async fn refusal(issuers: &[TokenIssuer], token: &str) -> String {
    let reply = verify(&verifier(QUICK), issuers, &bearer(token)).await.unwrap_err();
    assert_eq!(reply.status, 401);
    String::from_utf8(reply.body.into_vec()).unwrap()
}

#[tokio::test]
async fn each_kind_of_key_verifies_its_algorithm_and_no_other() {
    let keys = [
        TestKey::ec("p256", "ES256"),
        TestKey::ec("p384", "ES384"),
        TestKey::ed("ed"),
        TestKey::rsa("rs", "RS256"),
        TestKey::rsa("ps", "PS256"),
    ];
    let rule = inline(&keys.iter().collect::<Vec<_>>());
    for key in &keys {
        let verified = verify(
            &verifier(QUICK),
            std::slice::from_ref(&rule),
            &bearer(&key.sign(&claims())),
        )
        .await;
        let verified = verified.unwrap_or_else(|reply| panic!("{}: {reply:?}", key.algorithm));
        assert_eq!(verified.claims.unwrap()["sub"], "alice");
        for other in ["ES256", "ES384", "EdDSA", "RS256", "PS256", "RS512", "ES512"] {
            if other != key.algorithm {
                let header = json!({"alg": other, "kid": key.kid}).to_string();
                let token = key.sign_text(&header, &claims().to_string());
                let words = refusal(std::slice::from_ref(&rule), &token).await;
                assert!(words.starts_with("Jw"), "{} as {other}: {words}", key.algorithm);
            }
        }
    }
}

#[tokio::test]
async fn no_algorithm_turns_a_public_key_into_a_secret() {
    let key = TestKey::rsa("k", "RS256");
    let rules = [inline(&[&key])];
    let secret = key.jwk["n"].as_str().unwrap().as_bytes().to_vec();
    for (algorithm, signer) in [
        ("HS256", Signer::Hmac(secret)),
        ("HS256", Signer::Hmac(set(&[&key]).into_bytes())),
        ("none", Signer::Nobody),
        ("None", Signer::Nobody),
    ] {
        let forger = TestKey {
            kid: "k",
            algorithm,
            signer,
            jwk: Value::Null,
        };
        let words = refusal(&rules, &forger.sign(&claims())).await;
        let expected = if algorithm == "HS256" {
            "[alg] is not supported"
        } else {
            "Header.Payload.Signature"
        };
        assert!(words.contains(expected), "{algorithm}: {words}");
    }
    // A shared secret in the set is no key at all.
    let oct = r#"{"keys": [{"kty": "oct", "k": "AAAA", "alg": "HS256"}]}"#;
    let rules = [TokenIssuer::new(ISSUER, TokenKeys::Inline(oct.into()))];
    assert!(refusal(&rules, &key.sign(&claims())).await.contains("Jwks"));
}

#[tokio::test]
async fn what_a_key_says_it_is_for_binds() {
    let key = TestKey::ec("k", "ES256");
    for (name, value, good) in [
        ("use", json!("sig"), true),
        ("use", json!("enc"), false),
        ("key_ops", json!(["verify"]), true),
        ("key_ops", json!(["encrypt"]), false),
        ("alg", json!("ES256"), true),
        ("alg", json!("ES384"), false),
        ("kid", json!("other"), false),
        ("kid", Value::Null, true),
    ] {
        let mut jwk = key.jwk.clone();
        jwk[name] = value.clone();
        let keys = json!({"keys": [jwk]}).to_string();
        let rules = [TokenIssuer::new(ISSUER, TokenKeys::Inline(keys.into()))];
        let verified = verify(&verifier(QUICK), &rules, &bearer(&key.sign(&claims()))).await;
        assert_eq!(verified.is_ok(), good, "{name}: {value}");
    }
}

#[tokio::test]
async fn claims_are_checked_with_a_minute_of_leeway() {
    let key = TestKey::ec("k", "ES256");
    let rules = [TokenIssuer {
        audiences: ["web".into(), "api".into()].into(),
        ..inline(&[&key])
    }];
    let good = |name: &str, value: Value| {
        let mut claims = with("aud", "web");
        claims[name] = value;
        claims
    };
    for (claims, expected) in [
        (good("x", json!(1)), None),
        (good("exp", json!(NOW - 59)), None),
        (good("exp", json!(NOW - 60)), Some("Jwt is expired")),
        (good("exp", json!(-1)), Some("well-formed claims")),
        (good("exp", json!("soon")), Some("well-formed claims")),
        (good("nbf", json!(NOW + 60)), None),
        (good("nbf", json!(NOW + 61)), Some("Jwt not yet valid")),
        (good("aud", json!("api")), None),
        (good("aud", json!(["x", "api"])), None),
        (good("aud", json!("db")), Some("Audiences in Jwt are not allowed")),
        (good("aud", json!(["api", 1])), Some("well-formed claims")),
        (good("aud", json!([])), Some("Audiences in Jwt are not allowed")),
        (claims(), Some("Audiences in Jwt are not allowed")),
        (
            good("iss", json!("https://other")),
            Some("Jwt issuer is not configured"),
        ),
        (good("iss", json!(1)), Some("Jwt issuer is not configured")),
    ] {
        let token = key.sign(&claims);
        match expected {
            None => assert!(
                verify(&verifier(QUICK), &rules, &bearer(&token)).await.is_ok(),
                "{claims}"
            ),
            Some(words) => {
                let said = refusal(&rules, &token).await;
                assert!(said.contains(words), "{claims}: {said}");
            }
        }
    }
    let mut endless = with("aud", "web");
    endless.as_object_mut().unwrap().remove("exp");
    assert!(
        verify(&verifier(QUICK), &rules, &bearer(&key.sign(&endless)))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn what_is_not_exactly_a_token_is_refused() {
    let key = TestKey::ec("k", "ES256");
    let rules = [inline(&[&key])];
    let good = key.sign(&claims());
    let (head, payload) = (r#"{"alg":"ES256"}"#, claims().to_string());
    let twice = format!(r#"{{"iss": "{ISSUER}", "sub": "bob", "sub": "alice"}}"#);
    let mut altered = good.clone();
    altered.replace_range(good.rfind('.').unwrap() + 5..good.rfind('.').unwrap() + 6, "~");
    let sections: Vec<_> = good.split('.').collect();
    let other = b64(with("sub", "mallory").to_string());
    for (token, words) in [
        ("abc".to_owned(), "two dots and 3 sections"),
        (format!("{good}.x"), "two dots and 3 sections"),
        (format!("{}.{}.", sections[0], sections[1]), "two dots and 3 sections"),
        (altered, "two dots and 3 sections"),
        (
            format!("{}.{other}.{}", sections[0], sections[2]),
            "Jwt verification fails",
        ),
        (format!("{good}="), "two dots and 3 sections"),
        (key.sign_text("{", &payload), "Jwt header"),
        (
            key.sign_text(r#"{"alg":"ES256","alg":"ES256"}"#, &payload),
            "Jwt header",
        ),
        (key.sign_text(r#"{"alg":"ES256","crit":["exp"]}"#, &payload), "critical"),
        (
            key.sign_text(r#"{"alg":"ES256","crit":["b64"],"b64":false}"#, &payload),
            "critical",
        ),
        (key.sign_text(r#"{"kid":"k"}"#, &payload), "Jwt header"),
        (key.sign_text(head, &twice), "Jwt payload"),
        (key.sign_text(head, "[]"), "Jwt payload"),
        (key.sign(&with("x", "y".repeat(17 << 10))), "too large"),
    ] {
        let said = refusal(&rules, &token).await;
        assert!(said.contains(words), "{token}: {said}");
    }
}

#[tokio::test]
async fn the_refusal_says_where_and_why_as_oauth_clients_expect() {
    let key = TestKey::ec("k", "ES256");
    let head = bearer(&key.sign(&with("exp", NOW - 100)));
    let reply = verify(&verifier(QUICK), &[inline(&[&key])], &head).await.unwrap_err();
    assert_eq!((reply.status, &*reply.body), (401, &b"Jwt is expired"[..]));
    let challenge = reply
        .fields
        .iter()
        .find(|(name, _)| &**name == "www-authenticate")
        .unwrap();
    assert_eq!(
        std::str::from_utf8(&challenge.1).unwrap(),
        r#"Bearer realm="http://app.shop/path", error="invalid_token""#
    );
}

#[tokio::test]
async fn a_request_without_a_token_passes_without_claims_and_without_forged_outputs() {
    let key = TestKey::ec("k", "ES256");
    let rules = [TokenIssuer {
        payload_header: Some("x-payload".into()),
        claim_headers: [ClaimHeader {
            header: "x-sub".into(),
            claim: "sub".into(),
        }]
        .into(),
        ..inline(&[&key])
    }];
    for head in [
        Head::get("/"),
        Head::get("/").field("authorization", "Basic abc"),
        Head::get("/").field("authorization", "Bearer "),
        Head::get("/?access_token=&x=access_token"),
        Head::get("/").field("x-sub", "root"),
    ] {
        let verified = verify(&verifier(QUICK), &rules, &head).await.unwrap();
        assert_eq!(verified.claims, None);
        assert!(verified.edits.drops("x-payload") && verified.edits.drops("x-sub"));
        assert!(!verified.edits.drops("authorization") && verified.edits.set.is_empty());
    }
}

#[tokio::test]
async fn a_cors_preflight_needs_no_token_and_looks_like_one_only_with_all_its_parts() {
    let key = TestKey::ec("k", "ES256");
    let preflight = |method: &str, request_method: &str| {
        bearer("rubbish")
            .method(method)
            .field("origin", "https://a")
            .field("access-control-request-method", request_method)
    };
    let rules = [inline(&[&key])];
    let verified = verify(&verifier(QUICK), &rules, &preflight("OPTIONS", "GET")).await;
    assert_eq!(verified.unwrap().claims, None);
    for head in [
        preflight("GET", "GET"),
        preflight("OPTIONS", ""),
        bearer("rubbish").method("OPTIONS"),
    ] {
        assert!(verify(&verifier(QUICK), &rules, &head).await.is_err());
    }
}

#[tokio::test]
async fn tokens_are_found_where_rules_say_and_taken_out_unless_forwarded() {
    let key = TestKey::ec("k", "ES256");
    let token = key.sign(&claims());
    let header = TokenPlace::Header {
        name: "x-token".into(),
        prefix: "T ".into(),
    };
    for (places, head, removed, target, cookie) in [
        (vec![], bearer(&token), Some("authorization"), None, None),
        (
            vec![],
            Head::get(&format!("/a?x=1&access_token={token}&y")),
            None,
            Some("/a?x=1&y"),
            None,
        ),
        (
            vec![header.clone()],
            Head::get("/").field("x-token", &format!("T {token}")),
            Some("x-token"),
            None,
            None,
        ),
        (
            vec![TokenPlace::Param("t".into())],
            Head::get(&format!("/a?t={token}")),
            None,
            Some("/a"),
            None,
        ),
        (
            vec![TokenPlace::Cookie("s".into())],
            Head::get("/").field("cookie", &format!("a=1; s={token}; b=2")),
            None,
            None,
            Some("a=1; b=2"),
        ),
    ] {
        let rule = TokenIssuer {
            places: places.into(),
            ..inline(&[&key])
        };
        let edits = verify(&verifier(QUICK), std::slice::from_ref(&rule), &head)
            .await
            .unwrap()
            .edits;
        assert_eq!(edits.remove.first().map(|name| &**name), removed);
        assert_eq!(edits.target.as_deref(), target);
        assert_eq!(
            edits.set.first().map(|(_, value)| std::str::from_utf8(value).unwrap()),
            cookie
        );
        let forwarding = TokenIssuer { forward: true, ..rule };
        let verified = verify(&verifier(QUICK), &[forwarding], &head).await.unwrap();
        assert!(verified.claims.is_some() && verified.edits.is_empty());
    }
    // Where places are named, the usual ones hold no token.
    let rule = TokenIssuer {
        places: [header].into(),
        ..inline(&[&key])
    };
    assert_eq!(
        verify(&verifier(QUICK), &[rule], &bearer("rubbish"))
            .await
            .unwrap()
            .claims,
        None
    );
}

#[tokio::test]
async fn every_token_of_a_request_has_to_be_valid() {
    let (a, b) = (TestKey::ec("a", "ES256"), TestKey::ec("b", "ES256"));
    let second = |keys: &[&TestKey]| TokenIssuer {
        places: [TokenPlace::Param("t".into())].into(),
        ..TokenIssuer::new("second", TokenKeys::Inline(set(keys).into()))
    };
    let rules = [inline(&[&a]), second(&[&b])];
    let good = b.sign(&json!({"iss": "second", "sub": "bob"}));
    let bad = a.sign(&json!({"iss": "second", "sub": "bob"}));
    let head = |token: &str| {
        Head::get(&format!("/?t={token}")).field("authorization", &format!("Bearer {}", a.sign(&claims())))
    };
    let verified = verify(&verifier(QUICK), &rules, &head(&good)).await.unwrap();
    assert_eq!(
        verified.claims.unwrap()["sub"],
        "alice",
        "the first rule's claims count"
    );
    assert!(verify(&verifier(QUICK), &rules, &head(&bad)).await.is_err());
    // Two values of one field are two tokens.
    let twice = bearer(&a.sign(&claims())).field("authorization", "Bearer rubbish");
    assert!(verify(&verifier(QUICK), &rules, &twice).await.is_err());
    // Two issuers may share a place.
    let shared = [
        inline(&[&a]),
        TokenIssuer::new("second", TokenKeys::Inline(set(&[&b]).into())),
    ];
    assert_eq!(
        verify(&verifier(QUICK), &shared, &bearer(&good))
            .await
            .unwrap()
            .claims
            .unwrap()["sub"],
        "bob"
    );
}

#[tokio::test]
async fn claims_become_header_fields() {
    let key = TestKey::ec("k", "ES256");
    let output = |header: &str, claim: &str| ClaimHeader {
        header: header.into(),
        claim: claim.into(),
    };
    let rules = [TokenIssuer {
        payload_header: Some("x-payload".into()),
        claim_headers: [
            output("x-sub", "sub"),
            output("x-admin", "admin"),
            output("x-level", "level"),
            output("x-team", "org.team"),
            output("x-dotted", "https://a.b/c"),
            output("x-groups", "groups"),
            output("x-evil", "evil"),
            output("x-none", "none"),
        ]
        .into(),
        ..inline(&[&key])
    }];
    let mut told = claims();
    let more = json!({"admin": true, "level": 7, "org": {"team": "red"}, "https://a.b/c": "d", "groups": ["x"], "evil": "a\r\nb: c"});
    told.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let token = key.sign(&told);
    let edits = verify(&verifier(QUICK), &rules, &bearer(&token)).await.unwrap().edits;
    let field = |name: &str| {
        let found = edits.set.iter().find(|(known, _)| &**known == name);
        found.map(|(_, value)| String::from_utf8(value.to_vec()).unwrap())
    };
    let groups = b64(r#"["x"]"#);
    for (name, value) in [
        ("x-payload", Some(token.split('.').nth(1).unwrap())),
        ("x-sub", Some("alice")),
        ("x-admin", Some("true")),
        ("x-level", Some("7")),
        ("x-team", Some("red")),
        ("x-dotted", Some("d")),
        ("x-groups", Some(groups.as_str())),
        ("x-evil", None),
        ("x-none", None),
    ] {
        assert_eq!(field(name).as_deref(), value, "{name}");
    }
    assert!(
        edits.drops("x-evil") && edits.drops("x-none"),
        "what the client wrote there is gone"
    );
}

/// A key server that answers what it is told to, and counts.
struct KeyServer {
    address: SocketAddr,
    body: Arc<Mutex<String>>,
    status: Arc<AtomicU16>,
    asked: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl KeyServer {
    async fn start(body: String) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), body).await
    }

    async fn at(address: SocketAddr, body: String) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let (body, status, asked) = (
            Arc::new(Mutex::new(body)),
            Arc::new(AtomicU16::new(200)),
            Arc::default(),
        );
        Self {
            address: listener.local_addr().unwrap(),
            body: Arc::clone(&body),
            status: Arc::clone(&status),
            asked: Arc::clone(&asked),
            task: tokio::spawn(async move {
                loop {
                    let (mut socket, _) = listener.accept().await.unwrap();
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(socket.read_u8().await.unwrap());
                    }
                    let discovery = head.starts_with(b"GET /.well-known/openid-configuration ");
                    asked.fetch_add(1, SeqCst);
                    let mut answer = body.lock().unwrap().clone();
                    if discovery {
                        let issuer = format!("http://{}", listener.local_addr().unwrap());
                        answer = json!({"issuer": issuer, "jwks_uri": format!("{issuer}/keys")}).to_string();
                    }
                    let head = format!(
                        "HTTP/1.1 {} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                        status.load(SeqCst),
                        answer.len()
                    );
                    socket.write_all(format!("{head}{answer}").as_bytes()).await.unwrap();
                }
            }),
        }
    }

    fn rule(&self) -> TokenIssuer {
        TokenIssuer::new(ISSUER, TokenKeys::Url(format!("http://{}/keys", self.address).into()))
    }

    fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }
}

#[tokio::test]
async fn fetched_keys_are_kept_and_then_verify_at_once() {
    let key = TestKey::ec("k", "ES256");
    let server = KeyServer::start(set(&[&key])).await;
    let (verifier, rules) = (verifier(QUICK), [server.rule()]);
    let head = bearer(&key.sign(&claims()));
    assert!(matches!(
        verifier.verify(&rules, &view(&head), at(NOW)),
        Either::Right(_)
    ));
    assert!(verify(&verifier, &rules, &head).await.is_ok());
    let Either::Left(at_once) = verifier.verify(&rules, &view(&head), at(NOW)) else {
        panic!("the keys are there, and yet it waits");
    };
    assert!(at_once.await.is_ok());
    assert_eq!(server.asked(), 1);
    assert_eq!(
        (
            verifier.metrics.verifications("valid"),
            verifier.metrics.fetches("success")
        ),
        (2, 1)
    );
}

#[tokio::test]
async fn requests_that_come_together_share_one_fetch() {
    let key = TestKey::ec("k", "ES256");
    let server = KeyServer::start(set(&[&key])).await;
    let (verifier, rules) = (verifier(QUICK), [server.rule()]);
    let head = bearer(&key.sign(&claims()));
    let all = (0..20).map(|_| verify(&verifier, &rules, &head));
    assert!(futures_util::future::join_all(all).await.iter().all(Result::is_ok));
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn a_rotated_key_is_fetched_when_a_token_names_it_but_not_at_every_such_token() {
    let (old, new) = (TestKey::ec("old", "ES256"), TestKey::ec("new", "ES256"));
    let server = KeyServer::start(set(&[&old])).await;
    let rules = [server.rule()];
    let quick = verifier(QUICK);
    assert!(verify(&quick, &rules, &bearer(&old.sign(&claims()))).await.is_ok());
    *server.body.lock().unwrap() = set(&[&old, &new]);
    assert!(verify(&quick, &rules, &bearer(&new.sign(&claims()))).await.is_ok());
    assert!(verify(&quick, &rules, &bearer(&old.sign(&claims()))).await.is_ok());
    assert_eq!(server.asked(), 2);

    let slow = verifier(Pace {
        unknown_key: Duration::from_secs(3600),
        ..QUICK
    });
    let unknown = TestKey::ec("unknown", "ES256");
    for _ in 0..20 {
        let reply = verify(&slow, &rules, &bearer(&unknown.sign(&claims())))
            .await
            .unwrap_err();
        assert!(String::from_utf8_lossy(&reply.body).contains("doesn't have key"));
    }
    assert_eq!(server.asked(), 3, "once to have any, and then not again so soon");
}

#[tokio::test]
async fn without_keys_tokens_are_refused_until_the_server_is_back() {
    let key = TestKey::ec("k", "ES256");
    let server = KeyServer::start(set(&[&key])).await;
    let (verifier, rules, head) = (verifier(QUICK), [server.rule()], bearer(&key.sign(&claims())));
    server.status.store(500, SeqCst);
    let reply = verify(&verifier, &rules, &head).await.unwrap_err();
    assert_eq!((reply.status, &*reply.body), (401, &b"Jwks remote fetch is failed"[..]));
    server.status.store(200, SeqCst);
    *server.body.lock().unwrap() = "not keys".to_owned();
    assert!(verify(&verifier, &rules, &head).await.is_err());
    server.task.abort();
    let (address, gone) = (server.address, server.task.await);
    assert!(gone.unwrap_err().is_cancelled());
    assert!(verify(&verifier, &rules, &head).await.is_err(), "nobody listens");
    assert!(verifier.metrics.fetches("failure") >= 3);
    assert_eq!(verifier.metrics.verifications("keys_unavailable"), 3);
    // A request without a token is nobody's concern.
    assert!(verify(&verifier, &rules, &Head::get("/")).await.is_ok());
    let _back = KeyServer::at(address, set(&[&key])).await;
    assert!(verify(&verifier, &rules, &head).await.is_ok());
}

#[tokio::test]
async fn the_last_good_keys_stay_in_use_when_their_server_fails() {
    let key = TestKey::ec("k", "ES256");
    let server = KeyServer::start(set(&[&key])).await;
    let verifier = verifier(Pace {
        refresh: Duration::ZERO,
        stale: Duration::ZERO,
        ..QUICK
    });
    let (rules, head) = ([server.rule()], bearer(&key.sign(&claims())));
    assert!(
        verify(&verifier, &rules, &head).await.is_err(),
        "keys that are stale at once are never used"
    );
    drop(verifier);

    let verifier = self::verifier(Pace {
        refresh: Duration::ZERO,
        ..QUICK
    });
    assert!(verify(&verifier, &rules, &head).await.is_ok());
    server.status.store(503, SeqCst);
    assert!(verify(&verifier, &rules, &head).await.is_ok());
    assert_eq!(verifier.refresh_keys(), 1);
    while verifier.metrics.fetches("failure") == 0 {
        tokio::task::yield_now().await;
    }
    assert!(verify(&verifier, &rules, &head).await.is_ok());
}

#[tokio::test]
async fn keys_in_use_are_fetched_again_on_a_timer_and_one_that_was_withdrawn_is_not_good_any_more() {
    let (old, new) = (TestKey::ec("old", "ES256"), TestKey::ec("new", "ES256"));
    let server = KeyServer::start(set(&[&old])).await;
    let rules = [server.rule()];
    let fetched = async |verifier: &Verifier, times| {
        while verifier.metrics.fetches("success") < times {
            tokio::task::yield_now().await;
        }
    };
    let young = verifier(QUICK);
    assert!(verify(&young, &rules, &bearer(&old.sign(&claims()))).await.is_ok());
    assert_eq!(young.refresh_keys(), 0, "they are not old enough");

    let verifier = verifier(Pace {
        refresh: Duration::ZERO,
        unknown_key: Duration::from_secs(3600),
        ..QUICK
    });
    assert!(verify(&verifier, &rules, &bearer(&old.sign(&claims()))).await.is_ok());
    *server.body.lock().unwrap() = set(&[&new]);
    assert_eq!(verifier.refresh_keys(), 1);
    fetched(&verifier, 2).await;
    // No token had to name the new key, and none that names the old one asks anybody.
    assert!(verify(&verifier, &rules, &bearer(&old.sign(&claims()))).await.is_err());
    assert!(verify(&verifier, &rules, &bearer(&new.sign(&claims()))).await.is_ok());
    assert_eq!(verifier.refresh_keys(), 1);
    fetched(&verifier, 3).await;
    assert_eq!(verifier.refresh_keys(), 0, "nobody has used them since");
}

#[tokio::test]
async fn a_key_server_that_does_not_answer_costs_its_timeout_and_no_more() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rule = TokenIssuer {
        timeout: Duration::from_millis(30),
        ..TokenIssuer::new(
            ISSUER,
            TokenKeys::Url(format!("http://{}/", listener.local_addr().unwrap()).into()),
        )
    };
    let key = TestKey::ec("k", "ES256");
    let verifier = verifier(Pace {
        failed: Duration::from_secs(3600),
        ..QUICK
    });
    for _ in 0..3 {
        let reply = verify(&verifier, std::slice::from_ref(&rule), &bearer(&key.sign(&claims())))
            .await
            .unwrap_err();
        assert_eq!(&*reply.body, b"Jwks remote fetch is failed");
    }
    assert_eq!(verifier.metrics.fetches("failure"), 1, "not asked again so soon");
}

#[tokio::test]
async fn keys_are_discovered_where_the_issuer_says() {
    let key = TestKey::ec("k", "ES256");
    let server = KeyServer::start(set(&[&key])).await;
    let issuer = format!("http://{}", server.address);
    let rules = [TokenIssuer::new(&issuer, TokenKeys::Discovery)];
    assert!(
        verify(
            &verifier(QUICK),
            &rules,
            &bearer(&key.sign(&with("iss", issuer.as_str())))
        )
        .await
        .is_ok()
    );
    assert_eq!(server.asked(), 2);
    let other = format!("http://{}/", server.address);
    let rules = [TokenIssuer::new(&other, TokenKeys::Discovery)];
    let token = key.sign(&with("iss", other.as_str()));
    assert!(
        verify(&verifier(QUICK), &rules, &bearer(&token)).await.is_err(),
        "the document names another issuer"
    );
}

#[tokio::test]
async fn a_file_of_keys_is_read_again_when_it_changes() {
    let (old, new) = (TestKey::ec("old", "ES256"), TestKey::ec("new", "ES256"));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.json");
    let rules = [TokenIssuer::new(ISSUER, TokenKeys::File(path.to_str().unwrap().into()))];
    let verifier = verifier(QUICK);
    let (with_old, with_new) = (bearer(&old.sign(&claims())), bearer(&new.sign(&claims())));
    assert!(verify(&verifier, &rules, &with_old).await.is_err(), "no file yet");
    std::fs::write(&path, set(&[&old])).unwrap();
    assert!(verify(&verifier, &rules, &with_old).await.is_ok());
    std::fs::write(&path, set(&[&old, &new])).unwrap();
    assert!(verify(&verifier, &rules, &with_new).await.is_ok());
    std::fs::write(&path, "{").unwrap();
    assert!(
        verify(&verifier, &rules, &with_new).await.is_ok(),
        "the last good keys stay"
    );
    std::fs::write(&path, set(&[&new])).unwrap();
    assert!(
        verify(&verifier, &rules, &with_old).await.is_err(),
        "a key that was taken out verifies nothing"
    );
}
