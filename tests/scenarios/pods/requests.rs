//! Servers and clients of HTTP, gRPC and WebSocket as they come, in pods: what they say is judged and counted request by
//! request, and none of it crosses the wire in plaintext.

use squire_mesh::wire::squire::{
    ReportRequest, ReportResponse,
    report_service_client::ReportServiceClient,
    report_service_server::{ReportService, ReportServiceServer},
};
use squire_tests::{Cluster, Mesh, eventually, id, namespace, require};

use super::protocols::{all_has_crossed, nginx};

/// Everything but what lies below `/secret`.
const RULES: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-secrets, namespace: shop}
spec:
  selector: {matchLabels: {app: db}}
  action: DENY
  rules: [{to: [{operation: {paths: ['/secret*', '*/Secret']}}]}]
";

#[tokio::test]
async fn wrk_and_h2load_get_every_answer_from_nginx_and_what_is_denied_is_counted_apart() {
    if !namespace::possible() {
        return;
    }
    let mesh = Mesh::strict();
    mesh.write("rules.yaml", RULES);
    let cluster = Cluster::new(mesh);
    let (web, db) = (cluster.pod("web", "squire"), cluster.pod("db", "squire"));
    cluster.start().await;
    let _server = nginx(&db).await;
    let (_of_web, of_db) = tokio::join!(web.sidecar(&[]), db.sidecar(&[]));
    let capture = cluster.capture().await;
    let urls = [format!("http://{}:8080", db.v4()), format!("http://{}:8081", db.v4())];
    eventually("nginx answers", async || {
        web.tries("curl", &["-sSf", &urls[0]]).await.ok()
    })
    .await;

    let wrk = require("wrk").path().display().to_string();
    let url = format!("{}/wrk", urls[0]);
    let said = web
        .tries(&wrk, &["-t", "1", "-c", "8", "-d", "1s", &url])
        .await
        .unwrap();
    assert!(said.contains("requests in") && !said.contains("Non-2xx"), "{said}");
    assert!(!said.contains("Socket errors"), "{said}");
    let h2load = require("h2load").path().display().to_string();
    let url = format!("{}/h2load", urls[1]);
    let said = web
        .tries(&h2load, &["-n", "1000", "-c", "4", "-m", "20", &url])
        .await
        .unwrap();
    assert!(said.contains("1000 succeeded, 0 failed"), "{said}");
    let url = format!("{}/secret", urls[0]);
    let said = web
        .tries(&wrk, &["-t", "1", "-c", "2", "-d", "1s", &url])
        .await
        .unwrap();
    assert!(said.contains("Non-2xx"), "{said}");
    let v6 = format!("http://[{}]:8081", db.v6());
    for (address, path, status) in [
        (&v6, "/", "200"),
        (&urls[0], "/secret", "403"),
        (&urls[1], "/secret/x", "403"),
        (&urls[1], "/", "200"),
    ] {
        let url = format!("{address}{path}");
        let arguments = [
            "-sS",
            "--http2-prior-knowledge",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            &url,
        ];
        let arguments = if address == &urls[0] {
            [&arguments[..1], &arguments[2..]].concat()
        } else {
            arguments.to_vec()
        };
        assert_eq!(web.tries("curl", &arguments).await.unwrap(), status, "{url}");
    }
    let figures = of_db.figures().await;
    let counted = |status, flag| {
        let labels = [
            ("source", &*id("web")),
            ("destination", &*id("db")),
            ("status", status),
            ("flag", flag),
        ];
        figures.sum("squire_requests_total", &labels)
    };
    assert!(counted("200", "ok") > 1000.0);
    assert!(counted("403", "denied") > 2.0);
    all_has_crossed(&capture, &web, &db).await;
    for plaintext in [&b"nginx by"[..], b"GET /wrk", b"h2load/", b"PRI * HTTP/2.0"] {
        assert!(!capture.saw(plaintext), "{}", String::from_utf8_lossy(plaintext));
    }
}

/// A gRPC service, as any tonic user has it.
struct Reports;

#[tonic::async_trait]
impl ReportService for Reports {
    async fn report(
        &self,
        request: tonic::Request<ReportRequest>,
    ) -> Result<tonic::Response<ReportResponse>, tonic::Status> {
        let workload = &request.get_ref().workload;
        Err(tonic::Status::not_found(format!("nobody-knows-{workload}")))
    }
}

#[tokio::test]
async fn a_grpc_client_calls_a_grpc_server_and_only_tls_crosses_the_wire() {
    if !namespace::possible() {
        return;
    }
    let mesh = Mesh::strict();
    mesh.write("rules.yaml", &RULES.replace("*/Secret", "*/Nothing"));
    let cluster = Cluster::new(mesh);
    let (web, db) = (cluster.pod("web", "squire"), cluster.pod("db", "squire"));
    cluster.start().await;
    let (listening, listens) = tokio::sync::oneshot::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = db.namespace().inside(move || async move {
        let listener = tokio::net::TcpListener::bind("[::]:50051").await.unwrap();
        listening.send(()).unwrap();
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        tonic::transport::Server::builder()
            .add_service(ReportServiceServer::new(Reports))
            .serve_with_incoming_shutdown(incoming, async {
                let _ = stopped.await;
            })
            .await
    });
    listens.await.unwrap();
    let (_of_web, of_db) = tokio::join!(web.sidecar(&[]), db.sidecar(&[]));
    let capture = cluster.capture().await;
    for host in [db.v4(), format!("[{}]", db.v6())] {
        let call = async || {
            let url = format!("http://{host}:50051");
            let calling = web.namespace().inside(move || async move {
                let endpoint = tonic::transport::Endpoint::from_shared(url).unwrap();
                let mut client = ReportServiceClient::new(endpoint.connect().await.ok()?);
                let request = ReportRequest {
                    workload: "who-is-this".to_owned(),
                    ..ReportRequest::default()
                };
                client.report(request).await.err()
            });
            calling.await.unwrap()
        };
        let status = eventually("the server is called", async || {
            call().await.filter(|status| status.code() == tonic::Code::NotFound)
        })
        .await;
        assert_eq!(status.message(), "nobody-knows-who-is-this");
    }
    let called = [
        ("source", &*id("web")),
        ("destination", &*id("db")),
        ("grpc_status", "5"),
        ("flag", "ok"),
    ];
    assert_eq!(of_db.figures().await.sum("squire_requests_total", &called), 2.0);
    cluster.mesh.write("rules.yaml", &RULES.replace("*/Secret", "*/Report"));
    eventually("calls are denied, as gRPC says it", async || {
        let url = format!("http://{}:50051", db.v4());
        let calling = web.namespace().inside(move || async move {
            let endpoint = tonic::transport::Endpoint::from_shared(url).unwrap();
            let mut client = ReportServiceClient::new(endpoint.connect().await.ok()?);
            client.report(ReportRequest::default()).await.err()
        });
        let status = calling.await.unwrap()?;
        (status.code() == tonic::Code::PermissionDenied).then_some(())
    })
    .await;
    all_has_crossed(&capture, &web, &db).await;
    for plaintext in [&b"who-is-this"[..], b"nobody-knows", b"application/grpc"] {
        assert!(!capture.saw(plaintext), "{}", String::from_utf8_lossy(plaintext));
    }
    let _ = stop.send(());
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_websocket_client_is_echoed_by_a_websocket_server_which_sees_its_pod_address() {
    if !namespace::possible() {
        return;
    }
    /// RFC 6455, as far as an echo needs it: one handshake, text frames, close.
    const COMMON: &str = r#"
import base64, hashlib, os, socket, struct, sys
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
def accept(key):
    return base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()
def head(f):
    lines = []
    while (line := f.readline().decode().strip()):
        lines.append(line)
    return lines
def field(lines, name):
    return next(line.split(":", 1)[1].strip() for line in lines[1:] if line.lower().startswith(name + ":"))
def receive(f):
    first, second = f.read(2)
    length = second & 127
    if length == 126:
        length = struct.unpack(">H", f.read(2))[0]
    mask = f.read(4) if second & 128 else bytes(4)
    return first & 15, bytes(b ^ mask[i % 4] for i, b in enumerate(f.read(length)))
def send(f, kind, payload, masked):
    mask = os.urandom(4) if masked else b""
    length = bytes([len(payload) | 128 * masked]) if len(payload) < 126 else bytes([126 | 128 * masked]) + struct.pack(">H", len(payload))
    data = bytes(b ^ mask[i % 4] for i, b in enumerate(payload)) if masked else payload
    f.write(bytes([128 | kind]) + length + mask + data)
    f.flush()
"#;
    const SERVER: &str = r#"
import threading
s = socket.create_server(("::", 8765), family=socket.AF_INET6, dualstack_ipv6=True)
def serve(c):
    f = c.makefile("rwb")
    lines = head(f)
    if not lines or not lines[0].startswith("GET "):
        return
    f.write(f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept(field(lines, 'sec-websocket-key'))}\r\n\r\n".encode())
    send(f, 1, f"on {c.getsockname()[0].removeprefix('::ffff:')} for {field(lines, 'x-forwarded-for')}".encode(), 0)
    while True:
        kind, payload = receive(f)
        send(f, kind, payload, 0)
        if kind == 8:
            return
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"#;
    const CLIENT: &str = r#"
c = socket.create_connection((sys.argv[1], 8765), timeout=20)
f = c.makefile("rwb")
key = base64.b64encode(os.urandom(16)).decode()
f.write(f"GET /chat HTTP/1.1\r\nHost: db\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
f.flush()
lines = head(f)
assert " 101 " in lines[0], lines
assert field(lines, "sec-websocket-accept") == accept(key)
print(receive(f)[1].decode())
for text in [b"a plain word on the wire", b"x" * 5000]:
    send(f, 1, text, 1)
    assert receive(f) == (1, text)
send(f, 8, b"", 1)
assert receive(f)[0] == 8
"#;
    let cluster = Cluster::new(Mesh::strict());
    let (web, db) = (cluster.pod("web", "squire"), cluster.pod("db", "squire"));
    cluster.start().await;
    let server = format!("{COMMON}{SERVER}");
    let _server = db.serves(8765, "python3", &["-c", &server]).await;
    let (_of_web, of_db) = tokio::join!(web.sidecar(&[]), db.sidecar(&[]));
    let capture = cluster.capture().await;
    let client = format!("{COMMON}{CLIENT}");
    for (address, own) in db.addresses().iter().zip(web.addresses()) {
        let said = eventually("it is echoed", async || {
            web.tries("python3", &["-c", &client, address]).await.ok()
        })
        .await;
        // Its own end of the connection is the pod's address, and the client's is told in a field.
        assert_eq!(said.trim(), format!("on {address} for {own}"));
    }
    of_db
        .logged(&[("event", "request"), ("path", "/chat"), ("flag", "ok")])
        .await;
    all_has_crossed(&capture, &web, &db).await;
    for plaintext in [&b"a plain word"[..], b"Sec-WebSocket", b"xxxxxxxxxx"] {
        assert!(!capture.saw(plaintext), "{}", String::from_utf8_lossy(plaintext));
    }
}
