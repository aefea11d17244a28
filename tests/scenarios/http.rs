//! HTTP/1 through a pair of squires: each request is judged and counted by itself, and everything HTTP is arrives as it
//! was sent.
//!
//! What the sidecar in a pod has to do, and where that is shown, in `tests/scenarios` unless it says otherwise:
//!
//! | statement | tests |
//! |---|---|
//! | `redirect`: atomic, idempotent, repaired, exclusions, `--check`, `--undo`, missing privileges, an image from scratch | `redirect` |
//! | UDP and ICMP, loopback and the pod's own address left alone | `redirect`: `everything_goes_through…` |
//! | original destination, no loops | `pods`: `redirected_connections…`, `a_sidecar_dials_neither…` |
//! | own Service, headless, StatefulSet names, pod addresses, VIPs, outside and registry-only, no sidecar, host network | `pods/destinations` |
//! | the application sees its pod address | `pods/destinations`, `pods/requests`: `a_websocket_client…` |
//! | nobody waits for detection: MariaDB, SMTP, PostgreSQL, the application's own TLS; capture of the wire | `pods/protocols`, `connections`: `nobody_waits…`, `a_server_that_speaks_first…` |
//! | declared protocols | `http`: `what_is_declared…` |
//! | keep-alive, pipelining, chunked, trailers, 100-continue, CONNECT, HEAD, 204, 304, HTTP/1.0 | `http`: `every_kind_of_message…`; `http2/messages` |
//! | read as strictly as hyper does | `proxy/src/http/h1/differential.rs` |
//! | WebSocket; DENY during one, and during a request | `http`: `a_websocket_is_judged…`; `http2`: `a_websocket_over…`, `a_policy_that_changes…`; `http/ends`: `a_denial_that_arrives…` |
//! | bodies streamed, back-pressure, windows | `endurance` |
//! | resets and GOAWAY passed on, multiplexing | `http2`: `whoever_breaks_off…`, `h2load…`, `a_sidecar_that_drains…`; `proxy/src/http/h2/tests` |
//! | gRPC, unary and streaming; denials are `grpc-status: 7` | `http2`: `grpc_calls_pass…`, `grpc_messages_stream…`; `pods/requests` |
//! | bytes forwarded are bytes authorized; path confusion | `smuggling` |
//! | `x-forwarded-*`, hop-by-hop fields, `traceparent` | `http`, `http2/messages`: `what_the_application_is_told…` |
//! | authorization of each request | `http`: `each_request…`; `http2`: `curl_and_every_other…` |
//! | tokens: inline, file, URL, discovery; kept, refreshed; 401 and 403 | `tokens` |
//! | CUSTOM over HTTP and gRPC, timeouts, failOpen | `providers` |
//! | P2C and EWMA, readiness, zones, ejection and probes | `traffic/endpoints` |
//! | timeouts, retries, budget | `traffic/retries`, `traffic/routes`, `proxy/src/traffic` |
//! | limits on pending and active requests; series cap | `traffic/limits` |
//! | weights, HTTPRoute and GRPCRoute, matches and filters | `traffic/routes`, `traffic/grpc`, `control/src/routes/tests.rs` |
//! | metrics, log lines, `/connections` for each request | `http`: `each_request…`; `http2`: `curl_and_every_other…` |
//! | smuggling list, header and URI sizes | `smuggling`: `what_could_be_read…`; `http2/bounds`: `a_header_list…` |
//! | rapid reset, CONTINUATION, SETTINGS and PING floods | `http2`: `floods…` |
//! | zero windows, slow read | `endurance`: `clients_whose_windows…`; `http/slow`, `http2/bounds` |
//! | slowloris | `http/ends`: `clients_that_drip…`; `http2/engines`: `a_head_without_an_end…` |
//! | h2spec | `conformance` |
//! | disconnects and resets mid-body, half-closed TCP | `http/ends`; `http2`: `whoever_breaks_off…`; `connections`, `pods`: `either_end…`, `half_closed…` |
//! | 10,000 connections, 10 GiB, silence beyond any limit | `endurance` |
//! | drain with requests in flight, and with connections not yet accepted | `http/ends`: `a_drain…`, `connections_that_the_kernel…`; `http2`: `a_sidecar_that_drains…` |
//! | pods with nginx, gRPC, WebSocket, curl, h2load, wrk: capture, mutual TLS, authorization, metrics | `pods` |

mod ends;
mod slow;

use squire_tests::{Mesh, Pair, eventually, id, mirror::Mirror};

/// Requests of `web` to `db`: GET under /open, POST /orders, WebSocket; never /admin.
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
  - to: [{operation: {paths: ['/admin', '/admin/*']}}]
  - to: [{operation: {methods: [DELETE]}}]
  - when: [{key: 'request.headers[x-role]', values: [guest]}]
";

/// With these rules (YAML; empty: none) of the mesh.
async fn pair(mesh: &Mesh, rules: &str) -> Pair {
    if !rules.is_empty() {
        mesh.write("rules.yaml", rules);
    }
    Pair::start(mesh, Mirror::start().await).await
}

#[tokio::test]
async fn each_request_on_a_connection_is_judged_and_counted_by_itself() {
    let mesh = Mesh::strict();
    let pair = pair(&mesh, RULES).await;
    let mut client = pair.client().await;
    assert_eq!(client.get("/open/a?q=1").await.status, 200);
    let denied = client.get("/admin/users").await;
    assert_eq!(denied.status, 403);
    for name in ["no-admin", "shop", "AuthorizationPolicy", "rule"] {
        assert!(
            !denied.text().contains(name),
            "a client is not told {name}: {}",
            denied.text()
        );
    }
    assert_eq!(
        client.ask("DELETE /open HTTP/1.1\r\nHost: db\r\n\r\n").await.status,
        403
    );
    assert_eq!(
        client
            .ask("GET /x HTTP/1.1\r\nHost: db\r\nX-Role: user\r\nX-Role: guest\r\n\r\n")
            .await
            .status,
        403,
        "each value of a repeated field counts"
    );
    assert_eq!(client.get("/open/b").await.status, 200);
    assert_eq!(
        (pair.app.requests(), pair.app.connections()),
        (2, 1),
        "one connection, and nothing denied reached it"
    );

    let seen = pair.db.connections().await;
    assert_eq!(
        (&seen[0]["application"], &seen[0]["requests"]),
        (&"http/1.1".into(), &5.into())
    );
    let between = |status: &'static str, flag: &'static str| {
        [
            ("direction", "inbound"),
            ("method", "GET"),
            ("status", status),
            ("flag", flag),
        ]
    };
    pair.db
        .counts("squire_requests_total", &between("200", "ok"), 2.0)
        .await;
    pair.db
        .counts("squire_requests_total", &between("403", "denied"), 2.0)
        .await;
    let principals = [("source", &*id("web")), ("destination", &*id("db"))];
    assert_eq!(pair.db.figure("squire_requests_total", &principals).await, 5.0);
    assert_eq!(
        pair.db
            .figure("squire_request_duration_seconds_count", &principals)
            .await,
        5.0
    );
    assert_eq!(pair.web.figure("squire_requests_total", &principals).await, 5.0);
    let line = pair.db.logged(&[("event", "request"), ("path", "/admin/users")]).await;
    assert_eq!(line["rule"], "AuthorizationPolicy shop/no-admin rule 0");
    assert_eq!((&line["status"], &line["flag"]), (&403.into(), &"denied".into()));
    assert_eq!((&line["source"], &line["method"]), (&id("web").into(), &"GET".into()));
}

#[tokio::test]
async fn what_the_application_is_told_of_its_client_comes_from_the_squires_alone() {
    let mesh = Mesh::strict();
    let pair = pair(&mesh, "").await;
    let mut client = pair.client().await;
    let request = "GET /a HTTP/1.1\r\nHost: db\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Client-Cert: URI=spiffe://evil/x\r\n\
                   X_Forwarded_For: 6.6.6.6\r\nX_Forwarded-Client_Cert: URI=spiffe://evil/x\r\n\
                   Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\nUpgrade: h2c\r\n\
                   HTTP2-Settings: AAMAAABkAAQAAP__\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n";
    let seen = client.ask(request).await.text();
    let lines: Vec<&str> = seen.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines[0], "GET /a HTTP/1.1");
    assert!(
        lines.contains(&"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        "{seen}"
    );
    let of = |name: &str| -> Vec<&str> {
        let is = |line: &&&str| line.to_ascii_lowercase().starts_with(&format!("{name}: "));
        lines
            .iter()
            .filter(is)
            .map(|line| line.split_once(": ").unwrap().1)
            .collect()
    };
    assert_eq!(of("x-forwarded-for"), [mesh.address("web").to_string()]);
    let certificate = of("x-forwarded-client-cert");
    assert_eq!(certificate.len(), 1, "{seen}");
    assert!(certificate[0].starts_with(&format!("By={};Hash=", id("db"))), "{seen}");
    assert!(certificate[0].ends_with(&format!(";URI={}", id("web"))), "{seen}");
    assert!(
        !seen.contains("6.6.6.6") && !seen.contains("evil"),
        "in no spelling: {seen}"
    );
    for name in [
        "x-hop",
        "keep-alive",
        "proxy-connection",
        "upgrade",
        "http2-settings",
        "connection",
    ] {
        assert!(of(name).is_empty(), "{name}: {seen}");
    }
}

#[tokio::test]
async fn every_kind_of_message_arrives_as_it_was_sent() {
    let mesh = Mesh::strict();
    let pair = pair(&mesh, "").await;
    let mut client = pair.client().await;
    let chunked = "3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nX-T: 1\r\n\r\n";
    let seen = client
        .ask(&format!(
            "POST /p HTTP/1.1\r\nHost: db\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}"
        ))
        .await
        .text();
    assert!(seen.ends_with(chunked), "{seen}");
    let seen = client
        .ask("PUT /p HTTP/1.1\r\nHost: db\r\nContent-Length: 5\r\n\r\n12345")
        .await
        .text();
    assert!(seen.ends_with("\r\n\r\n12345"), "{seen}");
    let answer = client.get("/chunked").await;
    assert_eq!(
        answer.text(),
        "5\r\nhello\r\n7;ext=1\r\n, world\r\n0\r\nX-Sum: 12\r\n\r\n"
    );
    client.send("HEAD /x HTTP/1.1\r\nHost: db\r\n\r\n").await.unwrap();
    assert_eq!(client.bare_answer().await.field("content-length"), Some("4000"));
    assert_eq!(client.get("/no-content").await.status, 204);
    let answer = client.get("/not-modified").await;
    assert_eq!((answer.status, answer.field("etag")), (304, Some("\"x\"")));
    assert_eq!(client.get("/early-hints").await.status, 103);
    assert_eq!(client.answer().await.text(), "done");
    client
        .send("POST /p HTTP/1.1\r\nHost: db\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(client.answer().await.status, 100);
    client.send("body").await.unwrap();
    assert!(client.answer().await.text().ends_with("\r\n\r\nbody"));
    client
        .send(
            "GET /1 HTTP/1.1\r\nHost: db\r\n\r\nGET /2 HTTP/1.1\r\nHost: db\r\n\r\nGET /3 HTTP/1.1\r\nHost: db\r\n\r\n",
        )
        .await
        .unwrap();
    for path in ["/1", "/2", "/3"] {
        let text = client.answer().await.text();
        assert!(
            text.starts_with(&format!("GET {path} ")),
            "pipelined requests are answered in their order: {text}"
        );
    }
    assert_eq!(pair.app.connections(), 1);
    let answer = client.get("/until-close").await;
    assert_eq!(
        (answer.text().as_str(), answer.field("connection")),
        ("until the end", Some("close"))
    );
    assert!(client.is_over().await);

    let mut tunnel = pair.client().await;
    tunnel
        .send("CONNECT db:443 HTTP/1.1\r\nHost: db:443\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(tunnel.bare_answer().await.status, 200);
    tunnel.send("\x16any bytes").await.unwrap();
    tunnel.expect(b"\x16any bytes").await;

    let mut old = pair.client().await;
    let answer = old.ask("GET /old HTTP/1.0\r\n\r\n").await;
    assert!(answer.text().starts_with("GET /old HTTP/1.0\r\n"), "{}", answer.text());
    assert!(old.is_over().await);
}

#[tokio::test]
async fn what_is_declared_of_a_port_is_what_is_spoken_there() {
    for (declared, as_http) in [
        ("name: http-api", true),
        ("name: api, appProtocol: http", true),
        ("name: tcp-api", false),
    ] {
        let mesh = Mesh::strict();
        mesh.write(
            "service.yaml",
            &format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: db, namespace: shop}}\nspec: {{clusterIP: None, selector: \
                 {{app: db}}, ports: [{{{declared}, port: 8080, targetPort: 8080}}]}}\n"
            ),
        );
        let pair = pair(&mesh, "").await;
        let mut client = pair.client().await;
        assert_eq!(client.get("/judged").await.status, 200, "{declared}");
        drop(client);
        // A request is logged by itself; what passes as bytes is a connection and nothing more. (The connection that carried
        // the request is kept for the next one.)
        if as_http {
            pair.db.logged(&[("event", "request"), ("path", "/judged")]).await;
        } else {
            let mut open = pair.db.connections().await.into_iter();
            assert!(open.any(|connection| connection["application"] == "tcp"), "{declared}");
            let mut log = pair.db.access_log().into_iter();
            assert!(log.all(|line| line["event"] != "request"), "{declared}");
        }
        // Bytes that are no HTTP are refused where HTTP is declared, and passed to the application where it is not.
        let mut client = pair.client().await;
        client.send("\x01\x02\r\n\r\n").await.unwrap();
        if as_http {
            assert_eq!(client.answer().await.status, 400, "{declared}");
            assert_eq!(pair.app.requests(), 1, "{declared}");
        } else {
            eventually("the application has them", async || {
                (pair.app.requests() == 2).then_some(())
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_websocket_is_judged_once_and_then_passes_bytes_until_policy_denies_it() {
    let mesh = Mesh::strict();
    let pair = pair(&mesh, RULES).await;
    let mut client = pair.client().await;
    let answer = client
        .ask("GET /upgrade HTTP/1.1\r\nHost: db\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly")
        .await;
    assert_eq!((answer.status, answer.field("upgrade")), (101, Some("websocket")));
    client.expect(b"early").await;
    client.send("frames").await.unwrap();
    client.expect(b"frames").await;

    let mut bystander = pair.client().await;
    assert_eq!(bystander.get("/open").await.status, 200);
    mesh.write(
        "later.yaml",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: no-sockets, namespace: shop}\nspec:\n  \
         selector: {matchLabels: {app: db}}\n  action: DENY\n  rules: [{to: [{operation: {paths: [/upgrade]}}]}]\n",
    );
    assert!(client.is_over().await, "the open WebSocket is cut");
    assert_eq!(
        bystander.get("/open").await.status,
        200,
        "others on the same port are not"
    );
    let ended = [("event", "request"), ("path", "/upgrade"), ("flag", "denied")];
    pair.db.logged(&ended).await;
}
