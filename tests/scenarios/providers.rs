//! CUSTOM policies through real sidecars: external authorization over HTTP and gRPC, what it changes, what it says no to,
//! and what happens when it cannot be asked.

use std::net::SocketAddr;

use bytes::Bytes;
use squire_mesh::wire::auth::AttributeContext;
use squire_tests::{
    Mesh, Pair, Sidecar, apps, eventually,
    http::{Answer, Client},
    http2::{self, Http2App},
    id, in_time,
    judge::{GrpcJudge, HttpJudge, NO},
    mirror::Mirror,
};

/// Port 0 on the loopback address: any.
fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A provider as the mesh config names it (YAML flow mapping).
fn provider(kind: &str, address: SocketAddr, further: &str) -> String {
    format!(
        "{{type: {kind}, service: {}, port: {}{further}}}",
        address.ip(),
        address.port()
    )
}

/// `web` reaches `db`, all of whose requests but those under /open the provider is asked about.
fn ask(mesh: &Mesh, provider: &str) {
    mesh.write(
        "settings.yaml",
        &format!(
            "apiVersion: squire.mesh/v1\nkind: MeshConfig\nmetadata: {{name: mesh}}\nspec:\n  extensionProviders:\n    \
             judge: {provider}\n"
        ),
    );
    mesh.write(
        "custom.yaml",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: ask, namespace: shop}\nspec:\n  \
         selector: {matchLabels: {app: db}}\n  action: CUSTOM\n  provider: {name: judge}\n  rules: [{to: [{operation: \
         {notPaths: ['/open*']}}]}]\n",
    );
}

async fn pair(mesh: &Mesh, provider: &str) -> Pair {
    ask(mesh, provider);
    Pair::start(mesh, Mirror::start().await).await
}

async fn get(client: &mut Client, path: &str) -> Answer {
    client
        .ask(&format!(
            "GET {path} HTTP/1.1\r\nHost: db\r\nX-User: root\r\nX-Secret: s\r\nX-Id: 7\r\n\r\n"
        ))
        .await
}

async fn checks(sidecar: &Sidecar, kind: &str, result: &str) -> f64 {
    sidecar
        .figure("squire_ext_authz_checks_total", &[("kind", kind), ("result", result)])
        .await
}

#[tokio::test]
async fn a_provider_over_http_sees_the_head_and_its_yes_and_no_reach_both_ends() {
    let mesh = Mesh::strict();
    let judge = HttpJudge::start(anywhere()).await;
    let further = ", pathPrefix: /check, includeRequestHeadersInCheck: [x-id], headersToUpstreamOnAllow: [x-user], \
                   headersToDownstreamOnAllow: [set-cookie], headersToDownstreamOnDeny: [x-why, location]";
    let pair = pair(&mesh, &provider("http", judge.address(), further)).await;
    let mut client = pair.client().await;
    let answer = get(&mut client, "/allow?q=1").await;
    assert_eq!(answer.status, 200);
    let text = answer.text();
    assert!(text.contains("x-user: alice\r\n") && !text.contains("root"), "{text}");
    assert!(
        !text.to_ascii_lowercase().contains("x-private"),
        "only what is listed: {text}"
    );
    assert_eq!(answer.field("set-cookie"), Some("seen=1"), "{}", answer.head);
    let seen = judge.seen().remove(0);
    assert!(seen.starts_with("GET /check/allow?q=1 HTTP/1.1\r\n"), "{seen}");
    assert!(seen.to_ascii_lowercase().contains("x-id: 7\r\n"), "{seen}");
    assert!(!seen.to_ascii_lowercase().contains("x-secret"), "{seen}");

    let answer = get(&mut client, "/deny").await;
    assert_eq!((answer.status, &*answer.text()), (302, NO));
    assert_eq!(
        (answer.field("location"), answer.field("x-why")),
        (Some("/login"), Some("because"))
    );
    assert_eq!(get(&mut client, "/open/a").await.status, 200);
    assert_eq!(judge.seen().len(), 2, "who does not match is not asked about");
    assert_eq!(pair.app.requests(), 2, "what is denied does not reach the application");
    assert_eq!(
        (
            checks(&pair.db, "http", "allow").await,
            checks(&pair.db, "http", "deny").await
        ),
        (1.0, 1.0)
    );
    let line = pair.db.logged(&[("event", "request"), ("path", "/deny")]).await;
    assert_eq!(line["flag"], "provider_denied");
}

#[tokio::test]
async fn a_provider_over_grpc_sees_both_identities_and_its_answer_changes_request_and_response() {
    let mesh = Mesh::strict();
    let judge = GrpcJudge::start(anywhere()).await;
    let pair = pair(&mesh, &provider("grpc", judge.address(), "")).await;
    let mut client = pair.client().await;
    let answer = get(&mut client, "/allow").await;
    assert_eq!(answer.status, 200);
    let text = answer.text();
    assert!(text.contains("x-user: alice\r\n") && !text.contains("root"), "{text}");
    assert!(!text.to_ascii_lowercase().contains("x-secret"), "{text}");
    assert_eq!(answer.field("x-judged"), Some("yes"), "{}", answer.head);
    let mut asked = judge.seen().into_iter().filter_map(|check| check.attributes);
    let is_request = |asked: &AttributeContext| asked.request.as_ref().is_some_and(|asked| asked.http.is_some());
    let asked = asked.find(is_request).unwrap();
    assert_eq!(asked.source.unwrap().principal, id("web"));
    assert_eq!(asked.destination.unwrap().principal, id("db"));
    let http = asked.request.unwrap().http.unwrap();
    assert_eq!((&*http.method, &*http.path, &*http.host), ("GET", "/allow", "db"));
    assert_eq!(http.headers["x-id"], "7");

    let answer = get(&mut client, "/deny").await;
    assert_eq!(
        (answer.status, &*answer.text(), answer.field("x-why")),
        (429, NO, Some("because"))
    );
    assert_eq!(pair.app.requests(), 1);
}

#[tokio::test]
async fn a_provider_that_fails_or_is_slow_is_a_no_and_a_yes_where_that_is_configured() {
    for (fail_open, status) in [(false, 503), (true, 200)] {
        let mesh = Mesh::strict();
        let (http, grpc) = (HttpJudge::start(anywhere()).await, GrpcJudge::start(anywhere()).await);
        let further = format!(", timeout: 0.2s, failOpen: {fail_open}, statusOnError: '503'");
        let pair = pair(&mesh, &provider("http", http.address(), &further)).await;
        for kind in ["http", "grpc"] {
            if kind == "grpc" {
                ask(&mesh, &provider("grpc", grpc.address(), &further));
                let mut client = pair.client().await;
                eventually("the other provider is asked", async || {
                    get(&mut client, "/allow").await;
                    (!grpc.seen().is_empty()).then_some(())
                })
                .await;
            }
            let mut client = pair.client().await;
            for path in ["/broken", "/slow"] {
                assert_eq!(get(&mut client, path).await.status, status, "{kind} {path} {fail_open}");
            }
            assert_eq!(
                get(&mut client, "/deny").await.status / 100,
                if kind == "http" { 3 } else { 4 }
            );
            assert_eq!(checks(&pair.db, kind, "timeout").await, 1.0);
            assert_eq!(checks(&pair.db, kind, "error").await, 1.0);
        }
    }
}

#[tokio::test]
async fn a_provider_in_the_mesh_is_asked_over_mutual_tls_as_the_workload_that_asks() {
    let mesh = Mesh::strict();
    let judge = HttpJudge::start(anywhere()).await;
    mesh.write(
        "judge.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: judge, namespace: shop}\nspec:\n  clusterIP: None\n  selector: \
         {app: judge}\n  ports: [{name: http, port: 9000}]\n",
    );
    mesh.allow("only-db", "judge", &["db"]);
    let court = mesh.pod("judge").serves(9000, judge.address());
    let court = async {
        mesh.start().await;
        court.start().await
    };
    let named = "{type: http, service: judge.shop.svc.cluster.local, port: 9000}";
    ask(&mesh, named);
    let app = Mirror::start().await;
    let db = mesh.pod("db").serves(8080, app.address());
    let web = mesh.pod("web").reaches("db:8080").reaches("judge:9000");
    let court = court.await;
    let (db, web) = tokio::join!(db.start(), web.start());
    let mut client = Client::connect(web.to("db:8080")).await.unwrap();
    assert_eq!(get(&mut client, "/allow").await.status, 200);
    assert_eq!(get(&mut client, "/deny").await.status, 302);
    let between = [("source", &*id("db")), ("destination", &*id("judge"))];
    court.counts("squire_requests_total", &between, 2.0).await;
    let mut stranger = Client::connect(web.to("judge:9000")).await.unwrap();
    assert_eq!(get(&mut stranger, "/allow").await.status, 403, "others are not let in");
    assert_eq!(judge.seen().len(), 2);
    drop(db);
}

#[tokio::test]
async fn a_provider_is_shown_the_body_that_is_then_forwarded_whole() {
    let mesh = Mesh::strict();
    let judge = HttpJudge::start(anywhere()).await;
    let body = ", includeRequestBodyInCheck: {maxRequestBytes: 10}";
    let pair = pair(&mesh, &provider("http", judge.address(), body)).await;
    let mut client = pair.client().await;
    let answer = client
        .ask("POST /a HTTP/1.1\r\nHost: db\r\nContent-Length: 10\r\n\r\n0123456789")
        .await;
    assert_eq!(answer.status, 200);
    assert!(answer.text().ends_with("\r\n\r\n0123456789"), "{}", answer.text());
    assert!(judge.seen()[0].ends_with("\r\n\r\n0123456789"), "{:?}", judge.seen());

    let chunked = "3;x=y\r\nabc\r\n4\r\ndefg\r\n0\r\nX-T: 1\r\n\r\n";
    client
        .send("POST /b HTTP/1.1\r\nHost: db\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nab")
        .await
        .unwrap();
    client.send(&chunked[9..]).await.unwrap();
    let answer = client.answer().await;
    assert!(answer.text().ends_with(chunked), "{}", answer.text());
    assert!(
        judge.seen()[1].ends_with("\r\n\r\nabcdefg"),
        "decoded: {:?}",
        judge.seen()
    );

    client
        .send("POST /c HTTP/1.1\r\nHost: db\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(
        client.answer().await.status,
        100,
        "the body is wanted before the application is asked"
    );
    client.send("body").await.unwrap();
    let answer = client.answer().await;
    assert_eq!(answer.status, 200, "no second 100");
    assert!(answer.text().ends_with("\r\n\r\nbody"), "{}", answer.text());

    let answer = client
        .ask("POST /deny HTTP/1.1\r\nHost: db\r\nContent-Length: 4\r\n\r\nbody")
        .await;
    assert_eq!((answer.status, &*answer.text()), (302, NO));
    assert_eq!(
        get(&mut client, "/d").await.status,
        200,
        "the connection goes on behind a denied body"
    );

    let answer = client
        .ask("POST /large HTTP/1.1\r\nHost: db\r\nContent-Length: 11\r\n\r\n01234567890")
        .await;
    assert_eq!(answer.status, 413);
    assert_eq!(
        judge.seen().len(),
        5,
        "nobody is asked about what cannot be shown whole"
    );

    let partial = ", includeRequestBodyInCheck: {maxRequestBytes: 10, allowPartialMessage: true}";
    ask(&mesh, &provider("http", judge.address(), partial));
    let long = "0123456789".repeat(50_000);
    let answer = eventually("parts may be shown", async || {
        let mut client = pair.client().await;
        let request = format!(
            "POST /e HTTP/1.1\r\nHost: db\r\nContent-Length: {}\r\n\r\n{long}",
            long.len()
        );
        client.send(&request).await.ok()?;
        let answer = client.try_answer().await.ok()?;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert!(
        answer.text().ends_with(&format!("\r\n\r\n{long}")),
        "the application gets all of it"
    );
    let seen = judge.seen().pop().unwrap();
    assert!(seen.ends_with("\r\n\r\n0123456789"), "{seen}");
    assert!(
        seen.to_ascii_lowercase().contains("x-envoy-auth-partial-body: true"),
        "{seen}"
    );
}

#[tokio::test]
async fn connections_of_bytes_are_shown_to_a_grpc_provider_once_and_stay_while_others_change() {
    let mesh = Mesh::strict();
    let judge = GrpcJudge::start(anywhere()).await;
    ask(&mesh, &provider("grpc", judge.address(), ""));
    let (echo, greeter) = (apps::echo().await, apps::greeter("hello").await);
    let db = mesh
        .pod("db")
        .serves(5432, echo.address())
        .serves(3306, greeter.address());
    let web = mesh.pod("web").reaches("db:5432").reaches("db:3306");
    mesh.start().await;
    let (db, web) = tokio::join!(db.start(), web.start());
    let mut open = apps::echoes(web.to("db:5432")).await.unwrap();
    let asked = judge.seen().remove(0).attributes.unwrap();
    assert_eq!(asked.source.unwrap().principal, id("web"));
    assert!(asked.request.unwrap().http.is_none(), "there is no request");
    let mut greeted = Client::connect(web.to("db:3306")).await.unwrap();
    greeted.expect(b"hello").await;

    judge.lets_bytes_in(false);
    let denied = apps::echoes(web.to("db:5432")).await;
    assert!(denied.is_err(), "the provider says no");
    db.logged(&[("outcome", "denied")]).await;
    let mut denied = Client::connect(web.to("db:3306")).await.unwrap();
    assert!(denied.is_over().await, "also where the application would speak first");

    let checks = judge.seen().len();
    mesh.allow("others", "db", &["web"]);
    mesh.allow("nobody-else", "web", &["db"]);
    eventually("the new policy is there", async || {
        let (_, page) = db.page("/config").await;
        page.to_string().contains("others").then_some(())
    })
    .await;
    apps::round_trip(&mut open, b"again")
        .await
        .expect("what was let in stays in");
    assert_eq!(judge.seen().len(), checks, "nobody is asked again about what is open");
}

#[tokio::test]
async fn a_client_that_is_silent_and_then_speaks_http_is_asked_about_by_its_requests_alone() {
    let mesh = Mesh::strict();
    let judge = GrpcJudge::start(anywhere()).await;
    judge.lets_bytes_in(false);
    let pair = pair(&mesh, &provider("grpc", judge.address(), "")).await;
    let mut client = pair.client().await;
    eventually(
        "nobody knows what it will speak, so the application is reached for",
        async || (pair.app.connections() == 1).then_some(()),
    )
    .await;
    assert_eq!(get(&mut client, "/allow").await.status, 200);
    assert_eq!(pair.app.connections(), 1, "by the connection that was opened then");
    let seen = judge.seen();
    assert_eq!(seen.len(), 1, "{seen:?}");
    let asked = seen[0]
        .attributes
        .clone()
        .and_then(|asked| asked.request)
        .and_then(|asked| asked.http);
    assert_eq!(asked.unwrap().path, "/allow");

    // Bytes of a client that was silent are bytes all the same.
    let mut client = pair.client().await;
    eventually("the application is reached for", async || {
        (pair.app.connections() == 2).then_some(())
    })
    .await;
    client.send("\x01\x02").await.unwrap();
    assert!(client.is_over().await, "the provider says no");
    assert_eq!(judge.seen().len(), 2);
}

#[tokio::test]
async fn a_provider_is_shown_bodies_of_http_2_too_and_they_are_then_forwarded_whole() {
    let mesh = Mesh::strict();
    let judge = HttpJudge::start(anywhere()).await;
    let body = ", includeRequestBodyInCheck: {maxRequestBytes: 10}";
    ask(&mesh, &provider("http", judge.address(), body));
    let Pair { app, db, web } = Pair::start(&mesh, Http2App::start("db").await).await;
    let client = http2::client(web.to("db:8080")).await;
    let post = async |path: &str, pieces: &[&'static str], trailers: bool| {
        let request = http::Request::post(format!("http://db{path}")).body(()).unwrap();
        let mut ready = client.clone().ready().await.unwrap();
        let (response, mut sink) = ready.send_request(request, pieces.is_empty()).unwrap();
        for (nth, piece) in pieces.iter().enumerate() {
            let last = !trailers && nth + 1 == pieces.len();
            let _ = sink.send_data(Bytes::from_static(piece.as_bytes()), last);
        }
        if trailers {
            let _ = sink.send_trailers(http::HeaderMap::new());
        }
        let response = in_time("a response", response).await.unwrap();
        let (status, mut body, mut text) = (response.status().as_u16(), response.into_body(), Vec::new());
        while let Some(Ok(bytes)) = body.data().await {
            let _ = body.flow_control().release_capacity(bytes.len());
            text.extend_from_slice(&bytes);
        }
        (status, String::from_utf8(text).unwrap())
    };
    assert_eq!(
        post("/a", &["01234", "56789"], false).await,
        (200, "0123456789".to_owned())
    );
    assert!(judge.seen()[0].ends_with("\r\n\r\n0123456789"), "{:?}", judge.seen());
    assert_eq!(
        post("/b", &["abc"], true).await,
        (200, "abc".to_owned()),
        "trailers after it"
    );
    assert!(judge.seen()[1].ends_with("\r\n\r\nabc"), "{:?}", judge.seen());
    assert_eq!(
        post("/c", &[], false).await,
        (200, String::new()),
        "no body is a body that is there"
    );
    assert_eq!(post("/deny", &["body"], false).await, (302, NO.to_owned()));
    assert_eq!(post("/large", &["01234567890"], false).await.0, 413);
    assert_eq!(
        (judge.seen().len(), app.requests()),
        (4, 3),
        "nobody is asked about what cannot be shown whole"
    );

    let partial = ", includeRequestBodyInCheck: {maxRequestBytes: 10, allowPartialMessage: true}";
    ask(&mesh, &provider("http", judge.address(), partial));
    let long: &'static str = "0123456789".repeat(60_000).leak();
    eventually("parts may be shown", async || {
        let answer = post("/e", &[long, long], false).await;
        (answer.0 == 200).then(|| assert!(answer.1 == format!("{long}{long}"), "the application gets all of it"))
    })
    .await;
    let seen = judge.seen().pop().unwrap();
    assert!(seen.ends_with("\r\n\r\n0123456789"), "{seen}");

    // A body that does not come is not waited for forever.
    drop((db, web));
    let mesh = Mesh::strict();
    ask(&mesh, &provider("http", judge.address(), body));
    let pair = Pair::with(&mesh, Http2App::start("db").await, &["limits.headTimeout=1s"]).await;
    let mut slow = http2::client(pair.address()).await;
    let request = http::Request::post("http://db/slow-body").body(()).unwrap();
    let (response, _sink) = slow.send_request(request, false).unwrap();
    assert_eq!(in_time("a response", response).await.unwrap().status(), 408);
    pair.db
        .counts("squire_http2_refused_total", &[("reason", "slow_body")], 1.0)
        .await;
}

#[tokio::test]
async fn over_http_2_a_provider_says_yes_and_no_to_single_streams_and_its_failure_counts_as_configured() {
    for (fail_open, failed) in [(false, 503), (true, 200)] {
        for kind in ["http", "grpc"] {
            let mesh = Mesh::strict();
            let (http, grpc) = (HttpJudge::start(anywhere()).await, GrpcJudge::start(anywhere()).await);
            let address = if kind == "http" { http.address() } else { grpc.address() };
            let further = format!(", timeout: 0.2s, failOpen: {fail_open}, statusOnError: '503'");
            ask(&mesh, &provider(kind, address, &further));
            let Pair { app, db, web } = Pair::start(&mesh, Http2App::start("db").await).await;
            let mut client = http2::client(web.to("db:8080")).await;
            let denied = if kind == "http" { 302 } else { 429 };
            for (path, status) in [
                ("/open/a", 200),
                ("/allow", 200),
                ("/deny", denied),
                ("/broken", failed),
                ("/slow", failed),
            ] {
                let answer = http2::get(&mut client, path).await;
                assert_eq!(answer.status().as_u16(), status, "{kind} {path} {fail_open}");
            }
            assert_eq!(app.requests(), if fail_open { 4 } else { 2 }, "{kind} {fail_open}");
            for result in ["allow", "deny", "error", "timeout"] {
                assert_eq!(checks(&db, kind, result).await, 1.0, "{kind} {result}");
            }
            let call = http::Request::post("http://db/deny").header("content-type", "application/grpc");
            let (response, _) = client.send_request(call.body(()).unwrap(), true).unwrap();
            let response = in_time("a response", response).await.unwrap();
            assert_eq!(response.status(), 200, "a gRPC client is told in gRPC's words");
            assert!(response.headers().contains_key("grpc-status"), "{response:?}");
        }
    }
}
