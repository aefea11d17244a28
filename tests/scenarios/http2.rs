//! HTTP/2 and gRPC through a pair of squires: each stream is judged and counted by itself, whatever connection carries it,
//! and clients that wear a sidecar out are ended while the others are served.

use std::{future::Future, net::SocketAddr, pin::Pin, process::Stdio};

use bytes::Bytes;
use h2::{RecvStream, client::SendRequest, server::SendResponse};
use http::{Request, Response};
use squire_mesh::wire::squire::{
    ReportRequest, ReportResponse,
    report_service_client::ReportServiceClient,
    report_service_server::{ReportService, ReportServiceServer},
};
use squire_tests::{
    Mesh, Sidecar, Signal,
    apps::{App, serving},
    eventually, id, in_time, require,
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

/// An application that speaks HTTP/2 only: it echoes, and shows who it was told calls.
async fn app() -> App {
    serving(|tcp| async move {
        let Ok(mut connection) = h2::server::handshake(tcp).await else {
            return;
        };
        while let Some(Ok((request, respond))) = connection.accept().await {
            tokio::spawn(answer(request, respond));
        }
    })
    .await
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let (parts, mut body) = request.into_parts();
    let mut response = Response::builder().header("x-path", parts.uri.path());
    if let Some(client) = parts.headers.get("x-forwarded-client-cert") {
        response = response.header("x-told", client);
    }
    let Ok(mut stream) = respond.send_response(response.body(()).unwrap(), false) else {
        return;
    };
    while let Some(Ok(bytes)) = body.data().await {
        let _ = body.flow_control().release_capacity(bytes.len());
        if stream.send_data(bytes, false).is_err() {
            return;
        }
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let _ = stream.send_trailers(trailers);
}

/// `web` beside `db`, which serves `app`.
async fn pair(mesh: &Mesh, rules: &str, app: SocketAddr) -> (Sidecar, Sidecar) {
    mesh.write("rules.yaml", rules);
    let db = mesh.pod("db").serves(8080, app);
    let web = mesh.pod("web").reaches("db:8080");
    mesh.start().await;
    tokio::join!(web.start(), db.start())
}

async fn client(to: SocketAddr) -> SendRequest<Bytes> {
    let tcp = TcpStream::connect(to).await.unwrap();
    let (send, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    send
}

fn request(path: &str) -> Request<()> {
    Request::get(format!("http://db:8080{path}")).body(()).unwrap()
}

async fn get(client: &mut SendRequest<Bytes>, path: &str) -> Response<RecvStream> {
    let mut ready = client.clone().ready().await.unwrap();
    let (response, _) = ready.send_request(request(path), true).unwrap();
    in_time("a response", response).await.unwrap()
}

#[tokio::test]
async fn curl_and_every_other_client_gets_each_stream_judged_and_counted() {
    let mesh = Mesh::strict();
    let app = app().await;
    let (web, db) = pair(&mesh, RULES, app.address()).await;
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

/// A gRPC service of this very project, as any tonic user has it.
struct Reports;

#[tonic::async_trait]
impl ReportService for Reports {
    async fn report(
        &self,
        request: tonic::Request<ReportRequest>,
    ) -> Result<tonic::Response<ReportResponse>, tonic::Status> {
        match &*request.get_ref().workload {
            "unknown" => Err(tonic::Status::not_found("no such workload")),
            _ => Ok(tonic::Response::new(ReportResponse::default())),
        }
    }
}

#[tokio::test]
async fn h2load_finishes_every_request_on_many_streams() {
    let mesh = Mesh::strict();
    let app = app().await;
    let (web, db) = pair(&mesh, RULES, app.address()).await;
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
    let app = app().await;
    let (web, db) = pair(&mesh, RULES, app.address()).await;
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
    let app = app().await;
    let (web, mut db) = pair(&mesh, RULES, app.address()).await;
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
    let app = app().await;
    let (web, db) = pair(&mesh, RULES, app.address()).await;
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

/// A frame (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
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
    let app = app().await;
    let (web, _db) = pair(&mesh, RULES, app.address()).await;
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

type Served = Pin<Box<dyn Future<Output = Result<(), tonic::transport::Error>> + Send>>;

#[tokio::test]
async fn grpc_calls_pass_and_a_denial_is_permission_denied() {
    let mesh = Mesh::strict();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let serving: Served = Box::pin(
        tonic::transport::Server::builder()
            .add_service(ReportServiceServer::new(Reports))
            .serve_with_incoming(incoming),
    );
    let serving = tokio::spawn(serving);
    let (web, db) = pair(&mesh, RULES, address).await;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", web.to("db:8080"))).unwrap();
    let channel = in_time("the channel", endpoint.connect()).await.unwrap();
    let mut client = ReportServiceClient::new(channel);
    let report = |workload: &str| ReportRequest {
        workload: workload.into(),
        ..ReportRequest::default()
    };
    in_time("a call", client.report(report("shop/web"))).await.unwrap();
    let error = in_time("a call", client.report(report("unknown"))).await.unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (tonic::Code::NotFound, "no such workload")
    );
    let called = [("grpc_status", "5"), ("status", "200"), ("source", &*id("web"))];
    db.counts("squire_requests_total", &called, 1.0).await;

    mesh.write("rules.yaml", &RULES.replace("*/Rob", "*/Report"));
    let error = eventually("the call is denied", async || {
        client.clone().report(report("shop/web")).await.err()
    })
    .await;
    assert_eq!(error.code(), tonic::Code::PermissionDenied, "{error}");
    assert!(!error.message().contains("no-admin"), "{error}");
    // The first denial may have come to a call that was open already; the next one is denied from its beginning.
    let error = client.clone().report(report("shop/web")).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::PermissionDenied, "{error}");
    db.counts(
        "squire_requests_total",
        &[("grpc_status", "7"), ("flag", "denied")],
        1.0,
    )
    .await;
    serving.abort();
}
