//! RequestAuthentication through real sidecars: who a request comes from by its token, what the application is told of it,
//! and where the keys come from.

use std::{
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use squire_tests::{
    Mesh, Pair, Sidecar, eventually,
    http::{Answer, Client},
    http2::{self, Http2App},
    in_time,
    issuer::{Issuer, KeyServer},
    mirror::Mirror,
};

const ISSUER: &str = "https://issuer.test";

/// `web` reaches `db`, which takes tokens by these rules (YAML).
async fn pair(mesh: &Mesh, token_rules: &str) -> Pair {
    write_rules(mesh, token_rules);
    Pair::start(mesh, Mirror::start().await).await
}

fn write_rules(mesh: &Mesh, token_rules: &str) {
    mesh.write(
        "tokens.yaml",
        &format!(
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: tokens, namespace: \
             shop}}\nspec:\n  selector: {{matchLabels: {{app: db}}}}\n  jwtRules:\n{token_rules}"
        ),
    );
}

/// A rule with keys inline and these further fields.
fn inline(issuer: &Issuer, name: &str, further: &str) -> String {
    format!("  - {{issuer: '{name}', jwks: '{}'{further}}}\n", issuer.jwks())
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

async fn get(client: &mut Client, path: &str, token: Option<&str>) -> Answer {
    let bearer = token.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
    client
        .ask(&format!("GET {path} HTTP/1.1\r\nHost: db\r\n{bearer}\r\n"))
        .await
}

async fn verified(sidecar: &Sidecar, result: &str) -> f64 {
    sidecar
        .figure("squire_jwt_verifications_total", &[("result", result)])
        .await
}

/// Everybody under /open, whoever has a token of the issuer under /mine, only some under /admin and /nested.
const RULES: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: by-token, namespace: shop}
spec:
  selector: {matchLabels: {app: db}}
  action: ALLOW
  rules:
  - to: [{operation: {paths: ['/open/*']}}]
  - from: [{source: {requestPrincipals: ['https://issuer.test/*']}}]
    to: [{operation: {paths: [/mine]}}]
  - from: [{source: {requestPrincipals: ['https://issuer.test/alice']}}]
    to: [{operation: {paths: [/alice]}}]
  - to: [{operation: {paths: [/admin]}}]
    when: [{key: 'request.auth.claims[groups]', values: [admins]}]
  - to: [{operation: {paths: [/nested]}}]
    when: [{key: 'request.auth.claims[realm][role]', values: [owner]}]
";

#[tokio::test]
async fn a_valid_token_gives_a_request_the_principal_and_the_claims_that_policy_decides_by() {
    let mesh = Mesh::strict();
    let issuer = Issuer::new(ISSUER);
    mesh.write("rules.yaml", RULES);
    let pair = pair(&mesh, &inline(&issuer, ISSUER, "")).await;
    let mut client = pair.client().await;
    let alice = issuer.token(&json!({"sub": "alice", "groups": ["users", "admins"], "realm": {"role": "guest"}}));
    let bob = issuer.token(&json!({"sub": "bob", "groups": "users", "realm": {"role": "owner"}}));
    for (path, nobody, of_alice, of_bob) in [
        ("/open/a", 200, 200, 200),
        ("/mine", 403, 200, 200),
        ("/alice", 403, 200, 403),
        ("/admin", 403, 200, 403),
        ("/nested", 403, 403, 200),
        ("/other", 403, 403, 403),
    ] {
        for (token, status) in [(None, nobody), (Some(&*alice), of_alice), (Some(&*bob), of_bob)] {
            let answer = get(&mut client, path, token).await;
            assert_eq!(answer.status, status, "{path} {token:?}");
        }
    }
    assert_eq!(pair.app.requests(), 8, "what is denied does not reach the application");
    assert_eq!(
        (verified(&pair.db, "none").await, verified(&pair.db, "valid").await),
        (6.0, 12.0)
    );
    assert_eq!(
        verified(&pair.web, "valid").await,
        0.0,
        "tokens are for the server's side"
    );
}

#[tokio::test]
async fn a_token_that_is_not_valid_is_a_401_also_where_none_is_needed() {
    let mesh = Mesh::strict();
    let (issuer, forger) = (Issuer::new(ISSUER), Issuer::new(ISSUER));
    let pair = pair(&mesh, &inline(&issuer, ISSUER, ", audiences: [shop]")).await;
    let mut client = pair.client().await;
    let good = json!({"aud": "shop"});
    let with = |change: Value| {
        let mut claims = good.clone();
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    };
    assert_eq!(get(&mut client, "/a", None).await.status, 200);
    let token = issuer.token(&good);
    assert_eq!(get(&mut client, "/a", Some(&token)).await.status, 200);
    let changed = format!("{}x{}", &token[..10], &token[11..]);
    for (token, label) in [
        (issuer.token(&with(json!({"exp": now() - 600}))), "expired"),
        (issuer.token(&with(json!({"nbf": now() + 600}))), "not_yet_valid"),
        (issuer.token(&with(json!({"iss": "https://other.test"}))), "issuer"),
        (issuer.token(&with(json!({"aud": "bank"}))), "audience"),
        (forger.token(&good), "signature"),
        ("not-a-token".to_owned(), "malformed"),
        (changed, "header"),
    ] {
        let answer = get(&mut client, "/a", Some(&token)).await;
        assert_eq!(answer.status, 401, "{label}");
        let challenge = answer.field("www-authenticate").unwrap();
        assert!(challenge.starts_with("Bearer realm=\""), "{challenge}");
        assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
        assert_eq!(verified(&pair.db, label).await, 1.0, "{label}: {}", answer.text());
    }
    assert_eq!(pair.app.requests(), 2, "nothing refused reached the application");
    let refused = [("direction", "inbound"), ("status", "401"), ("flag", "unauthenticated")];
    pair.db.counts("squire_requests_total", &refused, 7.0).await;
    let two = format!(
        "Authorization: Bearer {token}\r\nAuthorization: Bearer {}\r\n",
        forger.token(&good)
    );
    let answer = client.ask(&format!("GET /a HTTP/1.1\r\nHost: db\r\n{two}\r\n")).await;
    assert_eq!(answer.status, 401, "a good token does not excuse a bad one beside it");
}

#[tokio::test]
async fn the_application_is_told_claims_by_the_sidecar_alone_and_the_token_only_if_it_is_to_have_it() {
    let mesh = Mesh::strict();
    let (issuer, other) = (Issuer::new(ISSUER), Issuer::new("https://other.test"));
    let outputs = ", outputPayloadToHeader: x-payload, outputClaimToHeaders: [{header: x-user, claim: sub}, {header: \
                   x-role, claim: role}]";
    let rules =
        inline(&issuer, ISSUER, outputs) + &inline(&other, "https://other.test", ", forwardOriginalToken: true");
    let pair = pair(&mesh, &rules).await;
    let mut client = pair.client().await;
    let forged = "X-User: root\r\nx-role: root\r\nX-PAYLOAD: root\r\n";
    let mut seen = async |bearer: &str| {
        let answer = client
            .ask(&format!("GET /a HTTP/1.1\r\nHost: db\r\n{forged}{bearer}\r\n"))
            .await;
        assert_eq!(answer.status, 200);
        let text = answer.text();
        assert!(!text.contains("root"), "{text}");
        text
    };
    let text = seen("").await.to_ascii_lowercase();
    assert!(!text.contains("x-user") && !text.contains("x-role"), "{text}");

    let token = issuer.token(&json!({"sub": "alice"}));
    let text = seen(&format!("Authorization: Bearer {token}\r\n")).await;
    assert!(text.contains("x-user: alice\r\n"), "{text}");
    assert!(
        !text.contains("x-role"),
        "a claim that is not there is no field: {text}"
    );
    let payload = token.split('.').nth(1).unwrap();
    assert!(text.contains(&format!("x-payload: {payload}\r\n")), "{text}");
    assert!(!text.to_ascii_lowercase().contains("authorization"), "{text}");

    let token = other.token(&json!({"sub": "carol"}));
    let text = seen(&format!("Authorization: Bearer {token}\r\n")).await;
    assert!(text.contains(&token), "{text}");
    assert!(!text.contains("x-user"), "only its own rule says what is told: {text}");
}

#[tokio::test]
async fn keys_are_fetched_by_url_once_and_again_when_a_token_names_a_new_one() {
    let mesh = Mesh::strict();
    let (old, new) = (Issuer::with_key(ISSUER, "old"), Issuer::with_key(ISSUER, "new"));
    let address = SocketAddr::new(mesh.address("keys"), 8000);
    let server = KeyServer::start(address, &old.jwks()).await;
    let rule = format!("  - {{issuer: '{ISSUER}', jwksUri: 'http://{address}/keys'}}\n");
    let pair = pair(&mesh, &rule).await;
    let mut client = pair.client().await;
    let (by_old, by_new) = (old.token(&json!({})), new.token(&json!({})));
    for _ in 0..5 {
        assert_eq!(get(&mut client, "/a", Some(&by_old)).await.status, 200);
    }
    assert_eq!(server.asked(), 1);
    assert_eq!(
        get(&mut client, "/a", Some(&by_new)).await.status,
        401,
        "nobody knows it"
    );

    server.rotate(&new.jwks());
    eventually("the new key is fetched", async || {
        let answer = get(&mut client, "/a", Some(&by_new)).await;
        (answer.status == 200).then_some(())
    })
    .await;
    assert!(
        server.asked() <= 3,
        "unknown keys do not make a storm: {}",
        server.asked()
    );
    assert_eq!(
        get(&mut client, "/a", Some(&by_old)).await.status,
        401,
        "it was withdrawn"
    );
}

#[tokio::test]
async fn keys_are_fetched_again_on_a_timer_and_a_key_that_was_withdrawn_is_no_longer_good() {
    let mesh = Mesh::strict();
    let (old, new) = (Issuer::with_key(ISSUER, "old"), Issuer::with_key(ISSUER, "new"));
    let address = SocketAddr::new(mesh.address("keys"), 8000);
    let server = KeyServer::start(address, &old.jwks()).await;
    write_rules(
        &mesh,
        &format!("  - {{issuer: '{ISSUER}', jwksUri: 'http://{address}/keys'}}\n"),
    );
    let pair = Pair::with(&mesh, Mirror::start().await, &["tokens.keysRefresh=1s"]).await;
    let mut client = pair.client().await;
    let (by_old, by_new) = (old.token(&json!({})), new.token(&json!({})));
    assert_eq!(get(&mut client, "/a", Some(&by_old)).await.status, 200);

    // No token names the new key: only time makes the sidecar ask.
    server.rotate(&new.jwks());
    eventually("the withdrawn key is refused", async || {
        let answer = get(&mut client, "/a", Some(&by_old)).await;
        (answer.status == 401).then_some(())
    })
    .await;
    assert_eq!(get(&mut client, "/a", Some(&by_new)).await.status, 200);

    // Nor does it take a request that the sidecar is busy with.
    let asked = server.asked();
    assert_eq!(get(&mut client, "/a", Some(&by_new)).await.status, 200);
    eventually("they are fetched once more", async || {
        (server.asked() > asked).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_key_server_that_is_down_refuses_tokens_until_it_is_back_and_nothing_afterwards() {
    let mesh = Mesh::strict();
    let issuer = Issuer::new(ISSUER);
    let address = SocketAddr::new(mesh.address("keys"), 8000);
    let rule = format!("  - {{issuer: '{ISSUER}', jwksUri: 'http://{address}/keys'}}\n");
    let pair = pair(&mesh, &rule).await;
    let mut client = pair.client().await;
    let token = issuer.token(&json!({}));
    let answer = get(&mut client, "/a", Some(&token)).await;
    assert_eq!(answer.status, 401, "{}", answer.text());
    assert_eq!(get(&mut client, "/a", None).await.status, 200, "others do not suffer");
    let failed = [("result", "failure")];
    pair.db.counts("squire_jwt_key_fetches_total", &failed, 1.0).await;
    assert_eq!(verified(&pair.db, "keys_unavailable").await, 1.0);

    let server = KeyServer::start(address, &issuer.jwks()).await;
    eventually("the keys are there", async || {
        let answer = get(&mut client, "/a", Some(&token)).await;
        (answer.status == 200).then_some(())
    })
    .await;
    drop(server);
    assert_eq!(get(&mut client, "/a", Some(&token)).await.status, 200, "keys are kept");
}

#[tokio::test]
async fn keys_in_a_file_beside_the_sidecar_are_read_again_when_it_changes() {
    let mesh = Mesh::strict();
    let (old, new) = (Issuer::with_key(ISSUER, "old"), Issuer::with_key(ISSUER, "new"));
    let file = mesh.dir().join("keys.json");
    let place = |issuer: &Issuer| {
        let aside = mesh.dir().join("keys.aside");
        std::fs::write(&aside, issuer.jwks().to_string()).unwrap();
        std::fs::rename(aside, &file).unwrap();
    };
    let rule = format!("  - {{issuer: '{ISSUER}', jwksUri: 'file://{}'}}\n", file.display());
    let pair = pair(&mesh, &rule).await;
    let mut client = pair.client().await;
    let (by_old, by_new) = (old.token(&json!({})), new.token(&json!({})));
    assert_eq!(
        get(&mut client, "/a", Some(&by_old)).await.status,
        401,
        "no file, no keys"
    );
    assert_eq!(get(&mut client, "/a", None).await.status, 200);
    let mut becomes = async |token: &str, status: u16| {
        eventually("the file has been read", async || {
            (get(&mut client, "/a", Some(token)).await.status == status).then_some(())
        })
        .await;
    };
    place(&old);
    becomes(&by_old, 200).await;
    place(&new);
    becomes(&by_new, 200).await;
    becomes(&by_old, 401).await;
    std::fs::write(&file, "{").unwrap();
    eventually("the file has been found unreadable", async || {
        assert_eq!(
            get(&mut client, "/a", Some(&by_new)).await.status,
            200,
            "the last good keys stay"
        );
        (pair
            .db
            .figure("squire_jwt_key_fetches_total", &[("result", "failure")])
            .await
            >= 2.0)
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn keys_are_found_by_the_issuers_own_discovery_document_and_only_by_its_own() {
    let mesh = Mesh::strict();
    let address = SocketAddr::new(mesh.address("keys"), 8000);
    let name: &'static str = format!("http://{address}/realm").leak();
    let (issuer, forger) = (Issuer::new(name), Issuer::new(name));
    let document = |of: &str| json!({"issuer": of, "jwks_uri": format!("http://{address}/certs")});
    let pages = |of: &str| {
        [
            ("/realm/.well-known/openid-configuration", document(of)),
            ("/certs", issuer.jwks()),
        ]
    };
    let server = KeyServer::serving(address, &pages("http://somebody.else")).await;
    let pair = pair(&mesh, &format!("  - {{issuer: '{name}'}}\n")).await;
    let mut client = pair.client().await;
    let token = issuer.token(&json!({}));
    assert_eq!(
        get(&mut client, "/a", Some(&token)).await.status,
        401,
        "a document of another issuer"
    );
    server.pages(&pages(name));
    eventually("the keys are found", async || {
        (get(&mut client, "/a", Some(&token)).await.status == 200).then_some(())
    })
    .await;
    let forged = forger.token(&json!({}));
    assert_eq!(get(&mut client, "/a", Some(&forged)).await.status, 401);
}

#[tokio::test]
async fn tokens_are_judged_stream_by_stream_over_http_2_and_a_grpc_call_hears_unauthenticated() {
    let mesh = Mesh::strict();
    let (issuer, forger) = (Issuer::new(ISSUER), Issuer::new(ISSUER));
    mesh.write("rules.yaml", RULES);
    write_rules(&mesh, &inline(&issuer, ISSUER, ""));
    let Pair { app, db, web } = Pair::start(&mesh, Http2App::start("db").await).await;
    let client = http2::client(web.to("db:8080")).await;
    let call = async |path: &str, token: Option<&str>, kind: &str| {
        let mut request = http::Request::post(format!("http://db{path}")).header("content-type", kind);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let mut ready = client.clone().ready().await.unwrap();
        let (response, _) = ready.send_request(request.body(()).unwrap(), true).unwrap();
        let response = in_time("a response", response).await.unwrap();
        let grpc = response
            .headers()
            .get("grpc-status")
            .map(|status| status.to_str().unwrap().to_owned());
        (response.status().as_u16(), grpc)
    };
    let (good, bad) = (
        issuer.token(&json!({"sub": "alice"})),
        forger.token(&json!({"sub": "alice"})),
    );
    assert_eq!(call("/alice", Some(&good), "text/plain").await, (200, None));
    assert_eq!(call("/alice", None, "text/plain").await, (403, None));
    assert_eq!(call("/alice", Some(&bad), "text/plain").await, (401, None));
    assert_eq!(app.requests(), 1);
    // The application's own status comes in trailers; ours is trailers-only.
    assert_eq!(call("/alice", Some(&good), "application/grpc").await, (200, None));
    assert_eq!(
        call("/alice", None, "application/grpc").await,
        (200, Some("7".to_owned()))
    );
    assert_eq!(
        call("/alice", Some(&bad), "application/grpc").await,
        (200, Some("16".to_owned()))
    );
    assert_eq!(app.requests(), 2);
    db.counts(
        "squire_requests_total",
        &[("grpc_status", "16"), ("flag", "unauthenticated")],
        1.0,
    )
    .await;
}
