//! HTTP/2 and gRPC through a pair of squires: each stream is judged and counted by itself, whatever connection carries it,
//! and clients that wear a sidecar out are ended while the others are served.

mod bounds;
mod engines;
mod messages;

use std::process::Stdio;

use bytes::Bytes;
use h2::{Reason, client::SendRequest, ext::Protocol};
use http::{Method, Request};
use squire_tests::{
    Mesh, Pair, Signal, eventually,
    grpc::{self, GrpcApp},
    http2::{Http2App, client, frame, get, request},
    id, in_time, require,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
};

/// `web` may call db, but nobody gets at `/admin` and what lies below it, nor at the method `Rob` of any service.
const RULES: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: api, namespace: shop}
spec:
  selector: {matchLabels: {app: db}}
  action: ALLOW
  rules:
  - from: [{source: {serviceAccounts: [web]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: shop}
spec:
  selector: {matchLabels: {app: db}}
  action: DENY
  rules:
  - to: [{operation: {paths: ['/admin', '/admin/*', '*/Rob']}}]
";

/// The same, and nothing below `/echo` any more.
const NO_ECHO: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-echo, namespace: shop}
spec:
  selector: {matchLabels: {app: db}}
  action: DENY
  rules:
  - to: [{operation: {paths: ['/echo']}}]
";

/// `web` and `db`, where this application serves.
async fn pair(mesh: &Mesh, rules: &str, app: Http2App) -> Pair<Http2App> {
    mesh.write("rules.yaml", rules);
    Pair::start(mesh, app).await
}

#[tokio::test]
async fn curl_and_every_other_client_gets_each_stream_judged_and_counted() {
    let mesh = Mesh::strict();
    let Pair { app: _app, db, web } = pair(&mesh, RULES, Http2App::start("db").await).await;
    let curl = |path: &str| {
        let mut command = Command::new(require("curl").path());
        command.args([
            "-sS",
            "--http2-prior-knowledge",
            "--path-as-is",
            "-D",
            "-",
            "-o",
            "/dev/null",
        ]);
        command.arg(format!("http://{}{path}", web.to("db:8080")));
        command
    };
    let said = |output: std::process::Output| String::from_utf8(output.stdout).unwrap();
    let ok = said(curl("/open").output().await.unwrap());
    assert!(ok.starts_with("HTTP/2 200"), "{ok}");
    assert!(
        ok.contains(&format!("By={};", id("db"))) && ok.contains(&format!("URI={}", id("web"))),
        "{ok}"
    );
    for path in ["/admin", "/open/../admin/x", "/%61dmin", "/open//../admin"] {
        let denied = said(curl(path).output().await.unwrap());
        let direct = !path.contains("//");
        assert_eq!(denied.starts_with("HTTP/2 403"), direct, "{path}: {denied}");
    }

    let mut client = client(web.to("db:8080")).await;
    assert_eq!(get(&mut client, "/open").await.status(), 200);
    assert_eq!(get(&mut client, "/admin").await.status(), 403);
    assert_eq!(
        get(&mut client, "/open").await.status(),
        200,
        "the stream was denied, not the connection"
    );
    let between = [
        ("source", &*id("web")),
        ("destination", &*id("db")),
        ("status", "403"),
        ("flag", "denied"),
    ];
    db.counts("squire_requests_total", &between, 4.0).await;
    let seen = db.connections().await;
    assert!(
        seen.iter().any(|connection| connection["application"] == "http/2"),
        "{seen:?}"
    );
    let line = db
        .logged(&[("event", "request"), ("path", "/open"), ("version", "HTTP/2")])
        .await;
    assert_eq!((&line["status"], &line["source"]), (&200.into(), &id("web").into()));
}

#[tokio::test]
async fn h2load_finishes_every_request_on_many_streams() {
    let mesh = Mesh::strict();
    let Pair { app: _app, db, web } = pair(&mesh, RULES, Http2App::start("db").await).await;
    let url = format!("http://{}/open", web.to("db:8080"));
    let mut command = Command::new(require("h2load").path());
    command
        .args(["-n", "5000", "-c", "8", "-m", "50", &url])
        .stdout(Stdio::piped());
    let output = in_time("h2load", command.output()).await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("5000 succeeded, 0 failed"), "{said}");
    assert!(said.contains("status codes: 5000 2xx"), "{said}");
    db.counts("squire_requests_total", &[("status", "200"), ("flag", "ok")], 5000.0)
        .await;
}

#[tokio::test]
async fn a_policy_that_changes_ends_the_streams_it_denies_and_no_others() {
    let mesh = Mesh::strict();
    let Pair { app: _app, db, web } = pair(&mesh, RULES, Http2App::start("db").await).await;
    let mut client = client(web.to("db:8080")).await;
    let open = async |client: &mut SendRequest<Bytes>, path: &str| {
        let mut ready = client.clone().ready().await.unwrap();
        let (response, there) = ready.send_request(request(path), false).unwrap();
        (in_time("a head", response).await.unwrap().into_body(), there)
    };
    let (mut denied, _there) = open(&mut client, "/echo").await;
    let (mut allowed, mut there) = open(&mut client, "/other").await;
    mesh.write("no-echo.yaml", NO_ECHO);
    let end = in_time("the end of the denied stream", denied.data()).await;
    assert!(end.is_none_or(|end| end.is_err()), "reset, not finished");
    there.send_data(Bytes::from_static(b"still here"), true).unwrap();
    let back = in_time("the other stream's echo", allowed.data())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(back, "still here");
    db.counts("squire_requests_total", &[("flag", "cut")], 1.0).await;
}

#[tokio::test]
async fn a_sidecar_that_drains_finishes_the_streams_in_flight() {
    let mesh = Mesh::strict();
    let Pair { app: _app, mut db, web } = pair(&mesh, RULES, Http2App::start("db").await).await;
    let mut client = client(web.to("db:8080")).await;
    let (response, mut there) = client.send_request(request("/echo"), false).unwrap();
    let mut body = in_time("a head", response).await.unwrap().into_body();
    db.process.signal(Signal::TERM);
    db.process.said(&["draining"]).await;
    there.send_data(Bytes::from_static(b"last words"), true).unwrap();
    assert_eq!(in_time("the echo", body.data()).await.unwrap().unwrap(), "last words");
    assert!(in_time("the trailers", body.trailers()).await.unwrap().is_some());
    in_time("the end of the sidecar", db.process.ended()).await;
}

#[tokio::test]
async fn requests_go_on_while_the_identity_is_renewed() {
    let mesh = Mesh::strict();
    let Pair { app: _app, db, web } = pair(&mesh, RULES, Http2App::start("db").await).await;
    let mut client = client(web.to("db:8080")).await;
    let (response, mut there) = client.send_request(request("/echo"), false).unwrap();
    let mut held = in_time("a head", response).await.unwrap().into_body();
    let before = web.figure("squire_handshakes_total", &[("role", "client")]).await;
    web.process.signal(Signal::USR1);
    // A request under the new identity: over a mesh connection of its own.
    eventually("a new mesh connection is used", async || {
        assert_eq!(get(&mut client.clone(), "/open").await.status(), 200);
        (web.figure("squire_handshakes_total", &[("role", "client")]).await > before).then_some(())
    })
    .await;
    there.send_data(Bytes::from_static(b"old and good"), true).unwrap();
    assert_eq!(in_time("the echo", held.data()).await.unwrap().unwrap(), "old and good");
    drop(db);
}

#[tokio::test]
async fn floods_are_ended_and_counted_by_reason_while_others_are_served() {
    /// HPACK for `GET http://db/`.
    const GET: &[u8] = &[0x82, 0x86, 0x84, 0x01, 2, b'd', b'b'];
    type Round = fn(u32) -> Vec<u8>;
    let floods: [(&str, Round); 4] = [
        ("ping_flood", |_| frame(6, 0, 0, b"pingping")),
        ("settings_flood", |_| frame(4, 0, 0, &[])),
        ("rapid_reset", |n| {
            [frame(1, 5, 2 * n + 1, GET), frame(3, 0, 2 * n + 1, &[0, 0, 0, 8])].concat()
        }),
        ("continuation_flood", |n| match n {
            0 => frame(1, 1, 1, GET),
            _ => frame(9, 0, 1, &[]),
        }),
    ];
    let mesh = Mesh::strict();
    let Pair {
        app: _app,
        db: _db,
        web,
    } = pair(&mesh, RULES, Http2App::start("db").await).await;
    let mut other = client(web.to("db:8080")).await;
    for (reason, round) in floods {
        let (mut read, mut write) = TcpStream::connect(web.to("db:8080")).await.unwrap().into_split();
        let draining = tokio::spawn(async move { read.read_to_end(&mut Vec::new()).await });
        write.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let _ = write.write_all(&frame(4, 0, 0, &[])).await;
        for number in 0..100_000 {
            if draining.is_finished() || write.write_all(&round(number)).await.is_err() {
                break;
            }
        }
        let _ = in_time("the end of the flood", draining).await;
        web.counts("squire_http2_refused_total", &[("reason", reason)], 1.0)
            .await;
        assert_eq!(get(&mut other, "/open").await.status(), 200, "{reason}");
    }
}

#[tokio::test]
async fn grpc_calls_pass_and_a_denial_is_permission_denied() {
    let mesh = Mesh::strict();
    mesh.write("rules.yaml", RULES);
    let Pair { app: _app, db, web } = Pair::start(&mesh, GrpcApp::start().await).await;
    let mut client = grpc::connect(web.to("db:8080")).await.unwrap();
    in_time("a call", client.report(grpc::report("shop/web")))
        .await
        .unwrap();
    let error = in_time("a call", client.report(grpc::report("unknown")))
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (tonic::Code::NotFound, "no such workload")
    );
    let called = [("grpc_status", "5"), ("status", "200"), ("source", &*id("web"))];
    db.counts("squire_requests_total", &called, 1.0).await;

    mesh.write("rules.yaml", &RULES.replace("*/Rob", "*/Report"));
    let error = eventually("the call is denied", async || {
        client.clone().report(grpc::report("shop/web")).await.err()
    })
    .await;
    assert_eq!(error.code(), tonic::Code::PermissionDenied, "{error}");
    assert!(!error.message().contains("no-admin"), "{error}");
    // The first denial may have come to a call that was open already; the next one is denied from its beginning.
    let error = client.clone().report(grpc::report("shop/web")).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::PermissionDenied, "{error}");
    db.counts(
        "squire_requests_total",
        &[("grpc_status", "7"), ("flag", "denied")],
        1.0,
    )
    .await;
}

#[tokio::test]
async fn grpc_messages_stream_both_ways_at_once_and_a_policy_that_denies_the_call_ends_it() {
    let mesh = Mesh::strict();
    let Pair { app: _app, db, web } = pair(&mesh, RULES, Http2App::start("db").await).await;
    let channel = grpc::channel(web.to("db:8080")).await.unwrap();
    let (sender, mut answers) = grpc::stream(&channel, "/shop.Orders/Watch").await.unwrap();
    for nth in 0..50 {
        let message = grpc::report(&format!("shop/order-{nth}"));
        sender.send(message.clone()).await.unwrap();
        let answer = in_time("its echo, before the next one is sent", answers.message()).await;
        assert_eq!(answer.unwrap(), Some(message));
    }
    drop(sender);
    assert_eq!(in_time("the end", answers.message()).await.unwrap(), None);
    let ended = [("direction", "inbound"), ("grpc_status", "0"), ("flag", "ok")];
    db.counts("squire_requests_total", &ended, 1.0).await;

    let (sender, mut answers) = grpc::stream(&channel, "/shop.Orders/Watch").await.unwrap();
    sender.send(grpc::report("shop/last")).await.unwrap();
    assert!(in_time("an echo", answers.message()).await.unwrap().is_some());
    mesh.write("no-watching.yaml", &NO_ECHO.replace("/echo", "*/Watch"));
    let denied = in_time("the end of the denied call", answers.message())
        .await
        .unwrap_err();
    assert_eq!(denied.code(), tonic::Code::PermissionDenied, "{denied}");
    drop(sender);
}

#[tokio::test]
async fn whoever_breaks_off_a_stream_is_told_to_the_other_and_counted_and_its_neighbours_go_on() {
    let mesh = Mesh::strict();
    let Pair { app, db, web } = pair(&mesh, RULES, Http2App::start("db").await).await;
    let mut client = client(web.to("db:8080")).await;
    let (neighbour, mut there) = client.send_request(request("/other"), false).unwrap();
    let mut neighbour = in_time("a head", neighbour).await.unwrap().into_body();

    let (response, mut body) = client.send_request(request("/breaks"), false).unwrap();
    let mut broken = in_time("a head", response).await.unwrap().into_body();
    body.send_data(Bytes::from_static(b"half"), false).unwrap();
    let end = in_time("the end", broken.data()).await.expect("it never looks whole");
    assert_eq!(
        end.unwrap_err().reason(),
        Some(Reason::INTERNAL_ERROR),
        "the server's own code"
    );
    let reset = [("direction", "inbound"), ("flag", "upstream_reset")];
    db.counts("squire_requests_total", &reset, 1.0).await;

    let (_response, mut body) = client.send_request(request("/held"), false).unwrap();
    body.send_data(Bytes::from_static(b"part"), false).unwrap();
    eventually("the request is under way", async || (app.requests() == 3).then_some(())).await;
    body.send_reset(Reason::CANCEL);
    eventually("the application is told", async || (app.resets() == 1).then_some(())).await;
    let gone = [("direction", "inbound"), ("flag", "client_gone")];
    db.counts("squire_requests_total", &gone, 1.0).await;

    there.send_data(Bytes::from_static(b"still here"), true).unwrap();
    assert_eq!(
        in_time("the echo", neighbour.data()).await.unwrap().unwrap(),
        "still here"
    );
}

fn websocket(path: &str) -> Request<()> {
    let mut request = request(path);
    *request.method_mut() = Method::CONNECT;
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    request
}

#[tokio::test]
async fn a_websocket_over_http_2_is_judged_as_over_http_1_and_passes_bytes_until_policy_denies_it() {
    let mesh = Mesh::strict();
    let rules = RULES.replace(
        "  - from: [{source: {serviceAccounts: [web]}}]\n",
        "  - from: [{source: {serviceAccounts: [web]}}]\n    to: [{operation: {methods: [GET]}}]\n",
    );
    let Pair { app, db, web } = pair(&mesh, &rules, Http2App::start("db").await).await;
    let mut client = client(web.to("db:8080")).await;
    assert_eq!(get(&mut client, "/open").await.status(), 200);
    assert!(client.is_extended_connect_protocol_enabled());
    let (response, mut there) = client.send_request(websocket("/echo"), false).unwrap();
    let response = in_time("a head", response).await.unwrap();
    assert_eq!(
        (response.status(), &response.headers()["x-path"]),
        (http::StatusCode::OK, &"/echo".parse().unwrap())
    );
    let mut back = response.into_body();
    for word in ["frames", "more of them"] {
        there.send_data(Bytes::from(word), false).unwrap();
        assert_eq!(in_time("an echo", back.data()).await.unwrap().unwrap(), word);
    }
    let requests = app.requests();
    let (denied, _there) = client.send_request(websocket("/open/../admin/x"), false).unwrap();
    assert_eq!(in_time("a head", denied).await.unwrap().status(), 403);
    assert_eq!(app.requests(), requests, "nothing denied reaches the application");

    mesh.write("no-echo.yaml", NO_ECHO);
    let end = in_time("the end of the WebSocket", back.data()).await;
    assert!(end.is_none_or(|end| end.is_err()), "cut, not finished");
    assert_eq!(get(&mut client, "/open").await.status(), 200, "others are not");
    db.counts("squire_requests_total", &[("flag", "cut"), ("method", "GET")], 1.0)
        .await;
}

#[tokio::test]
async fn a_websocket_over_http_2_that_the_application_does_not_take_is_a_501() {
    let mesh = Mesh::strict();
    let Pair { app, db: _db, web } = pair(&mesh, RULES, Http2App::offering("db", false).await).await;
    let mut client = client(web.to("db:8080")).await;
    assert_eq!(get(&mut client, "/open").await.status(), 200);
    let (response, _there) = client.send_request(websocket("/echo"), false).unwrap();
    assert_eq!(in_time("a head", response).await.unwrap().status(), 501);
    assert_eq!(app.requests(), 1);
}
