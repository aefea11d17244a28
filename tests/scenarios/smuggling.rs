//! Requests that two parsers could read differently, and paths that two matchers could: through a real pair of squires
//! none of them reaches what policy denies, and clients that behave are served all the while.

use squire_tests::{
    Mesh, Pair, apps,
    http::Client,
    http2::{Http2App, frame},
    in_time,
    mirror::Mirror,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const DENY_ADMIN: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: shop}
spec:
  selector: {matchLabels: {app: db}}
  action: DENY
  rules: [{to: [{operation: {paths: ['/admin', '/admin/*']}}]}]
";

#[tokio::test]
async fn what_could_be_read_in_two_ways_is_refused_by_the_first_squire_and_counted() {
    let mesh = Mesh::strict();
    mesh.write("deny.yaml", DENY_ADMIN);
    let Pair { app, db, web } = Pair::start(&mesh, Mirror::start().await).await;
    let mut steady = Client::connect(web.to("db:8080")).await.unwrap();
    let hidden = "GET /admin HTTP/1.1\r\nHost: db\r\n\r\n";
    let with = |fields: &str| format!("POST / HTTP/1.1\r\nHost: db\r\n{fields}\r\n\r\n{hidden}");
    let cases = [
        ("CL and TE", with("Content-Length: 4\r\nTransfer-Encoding: chunked")),
        (
            "TE.TE",
            with("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"),
        ),
        ("TE with a tab", with("Transfer-Encoding:\tchunked, identity")),
        ("TE unknown", with("Transfer-Encoding: xchunked")),
        ("two lengths", with("Content-Length: 4\r\nContent-Length: 40")),
        ("a list of lengths", with("Content-Length: 4, 4")),
        ("a signed length", with("Content-Length: +4")),
        ("obs-fold", with("X-A: b\r\n c: d")),
        ("a bare CR", with("X-A: b\rTransfer-Encoding: chunked")),
        ("a bare LF", with("X-A: b\nTransfer-Encoding: chunked")),
        ("a space before the colon", with("Transfer-Encoding : chunked")),
        ("NUL", with("X-A: b\0c")),
        (
            "two Hosts",
            "GET / HTTP/1.1\r\nHost: db\r\nHost: evil\r\n\r\n".to_owned(),
        ),
        (
            "absolute form against Host",
            "GET http://evil/ HTTP/1.1\r\nHost: db\r\n\r\n".to_owned(),
        ),
        (
            "a lower-case method",
            "POST / HTTP/1.1\r\nHost: db\r\n\r\n".replace("POST", "PoST"),
        ),
        (
            "white space before the first field",
            "GET / HTTP/1.1\r\n Host: db\r\n\r\n".to_owned(),
        ),
        ("a field name with a space in it", with("X A: b")),
        ("no Host", "GET / HTTP/1.1\r\n\r\n".to_owned()),
        (
            "chunked, and HTTP/1.0",
            "POST / HTTP/1.0\r\nHost: db\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        ),
        (
            "a length beyond any number",
            with("Content-Length: 99999999999999999999"),
        ),
        (
            "user information in the authority",
            "GET http://db@evil/ HTTP/1.1\r\nHost: db\r\n\r\n".to_owned(),
        ),
        (
            "a bare CR behind the request line",
            "GET / HTTP/1.1\rHost: db\r\n\r\n".to_owned(),
        ),
        (
            "a chunk size that is none",
            "POST / HTTP/1.1\r\nHost: db\r\nTransfer-Encoding: chunked\r\n\r\n0x4\r\nabcd\r\n0\r\n\r\n".to_owned(),
        ),
        (
            "a chunk that is longer",
            "POST / HTTP/1.1\r\nHost: db\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n0\r\n\r\n".to_owned(),
        ),
        (
            "LF in a chunk extension",
            "POST / HTTP/1.1\r\nHost: db\r\nTransfer-Encoding: chunked\r\n\r\n2;\nxx\r\nab\r\n0\r\n\r\n".to_owned(),
        ),
        (
            "an identity in a trailer",
            format!(
                "POST / HTTP/1.1\r\nHost: db\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX_Forwarded-Client-Cert: \
                 URI=spiffe://evil/x\r\n\r\n{hidden}"
            ),
        ),
        (
            "a length in a trailer",
            format!(
                "POST / HTTP/1.1\r\nHost: db\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 40\r\n\r\n{hidden}"
            ),
        ),
        (
            "URI too long",
            format!("GET /{} HTTP/1.1\r\nHost: db\r\n\r\n", "a".repeat(20_000)),
        ),
        (
            "head too large",
            format!("GET / HTTP/1.1\r\nHost: db\r\nX-A: {}\r\n\r\n", "a".repeat(70_000)),
        ),
    ];
    let mut whole = 0;
    for (what, request) in &cases {
        let mut client = Client::connect(web.to("db:8080")).await.unwrap();
        let _ = client.send(request).await;
        // What does not look like HTTP at all is no request: as bytes it is denied, and the connection broken off.
        if let Ok(answer) = in_time("an answer", client.try_answer()).await {
            assert!((400..=505).contains(&answer.status), "{what}: {}", answer.head);
        }
        assert!(client.is_over().await, "{what}: nothing behind it is looked at");
        assert_eq!(steady.get("/fine").await.status, 200, "{what}");
        whole += 1;
        // A body that turns out to be malformed may have reached the application in part, never as a request of its own.
        assert!(!app.saw("/admin"), "{what}");
    }
    let refused = web.figure("squire_http_refused_total", &[]).await;
    assert!(refused >= 20.0, "{refused} of {whole} were counted by reason");
    drop(db);
}

#[tokio::test]
async fn a_path_is_denied_however_it_is_spelled_and_forwarded_as_it_was_judged() {
    let mesh = Mesh::strict();
    mesh.write("deny.yaml", DENY_ADMIN);
    mesh.write(
        "settings.yaml",
        "apiVersion: squire.mesh/v1\nkind: MeshConfig\nmetadata: {name: mesh}\nspec: {pathNormalization: DECODE_AND_MERGE_SLASHES}\n",
    );
    let Pair { app, db: _db, web } = Pair::start(&mesh, Mirror::start().await).await;
    let mut client = Client::connect(web.to("db:8080")).await.unwrap();
    for path in [
        "/admin",
        "//admin",
        "/admin/x",
        "/%61dmin",
        "/%2fadmin",
        "/x/../admin",
        "/x/%2e%2e/admin",
        "/./admin",
        "\\admin",
        "/x\\..\\admin",
        "/%5cadmin",
        "/admin?x=/y",
        "/admin#x",
        "/admin%2Fx",
        "///admin//x",
        "http://db/admin",
    ] {
        let host = "db";
        let answer = client
            .ask(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
            .await;
        let expected = if path.starts_with('\\') { 400 } else { 403 };
        assert_eq!(answer.status, expected, "{path}: {}", answer.text());
        if expected == 400 {
            client = Client::connect(web.to("db:8080")).await.unwrap();
        }
    }
    assert_eq!(app.requests(), 0);
    for (path, forwarded) in [
        ("/a//b", "/a/b"),
        ("/a/%2e/b?x=%2e//y", "/a/b?x=%2e//y"),
        ("/Admin", "/Admin"),
        ("/%2561dmin", "/%2561dmin"),
        ("/a;b=c", "/a;b=c"),
        ("/a#b", "/a"),
    ] {
        let text = client.get(path).await.text();
        assert!(
            text.starts_with(&format!("GET {forwarded} HTTP/1.1\r\n")),
            "{path}: {text}"
        );
    }
    assert_eq!(client.get("/%00").await.status, 400);
}

#[tokio::test]
async fn a_path_is_denied_however_it_is_spelled_over_http_2_too() {
    let mesh = Mesh::strict();
    mesh.write("deny.yaml", DENY_ADMIN);
    mesh.write(
        "settings.yaml",
        "apiVersion: squire.mesh/v1\nkind: MeshConfig\nmetadata: {name: mesh}\nspec: {pathNormalization: DECODE_AND_MERGE_SLASHES}\n",
    );
    let Pair { app, db: _db, web } = Pair::start(&mesh, Http2App::start("db").await).await;
    // What libraries refuse to send is sent byte by byte: HPACK literals without compression.
    let request = |authority: &str, path: &str, further: &[(&str, &str)]| {
        let literal = |name: &str, value: &str| {
            let mut bytes = vec![0, u8::try_from(name.len()).unwrap()];
            bytes.extend(name.as_bytes());
            bytes.push(u8::try_from(value.len()).unwrap());
            bytes.extend(value.as_bytes());
            bytes
        };
        // GET, http
        let mut block = vec![0x82, 0x86];
        block.extend(literal(":path", path));
        block.extend(literal(":authority", authority));
        further
            .iter()
            .for_each(|(name, value)| block.extend(literal(name, value)));
        [
            &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
            &frame(4, 0, 0, &[]),
            &frame(1, 5, 1, &block),
        ]
        .concat()
    };
    // `:status` of the answer, as the static table writes it; none: the stream or the connection was broken off.
    let answer = async |bytes: Vec<u8>| {
        let mut client = TcpStream::connect(web.to("db:8080")).await.unwrap();
        client.write_all(&bytes).await.unwrap();
        let status = async {
            loop {
                let mut head = [0; 9];
                client.read_exact(&mut head).await.ok()?;
                let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
                client.read_exact(&mut payload).await.ok()?;
                match head[3] {
                    1 => return Some(payload[0]),
                    3 | 7 => return None,
                    _ => {}
                }
            }
        };
        in_time("an answer", status).await
    };
    const OK: u8 = 0x88;
    for path in [
        "/admin",
        "//admin",
        "/admin/x",
        "/%61dmin",
        "/%2fadmin",
        "/x/../admin",
        "/x/%2e%2e/admin",
        "/./admin",
        "\\admin",
        "/x\\..\\admin",
        "/%5cadmin",
        "/admin?x=/y",
        "/admin#x",
        "/admin%2Fx",
        "///admin//x",
        "/%00",
        "admin",
        "http://db/admin",
        "/admin/../admin",
    ] {
        assert_ne!(answer(request("db", path, &[])).await, Some(OK), "{path}");
    }
    for (what, authority, further) in [
        ("Host against :authority", "db", &[("host", "evil")][..]),
        ("several Hosts", "db", &[("host", "db"), ("host", "db")]),
        ("user information", "db@evil", &[]),
        ("an upper-case name", "db", &[("X-Upper", "1")]),
        ("a space in a name", "db", &[("x y", "1")]),
        ("a connection field", "db", &[("connection", "x")]),
        ("transfer-encoding", "db", &[("transfer-encoding", "chunked")]),
        ("a line feed in a value", "db", &[("x", "a\nb: c")]),
        ("two lengths", "db", &[("content-length", "0"), ("content-length", "0")]),
    ] {
        assert_ne!(answer(request(authority, "/", further)).await, Some(OK), "{what}");
    }
    assert_eq!(app.requests(), 0);
    for path in [
        "/a//b",
        "/Admin",
        "/%2561dmin",
        "/a;b=c",
        "/x/..;/../admin",
        "/administrator",
    ] {
        assert_eq!(answer(request("db", path, &[("x_y", "1")])).await, Some(OK), "{path}");
    }
}

#[tokio::test]
async fn hosts_are_compared_without_case_and_with_their_port_and_underscores_are_no_dashes() {
    let mesh = Mesh::strict();
    mesh.write(
        "hosts.yaml",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: hosts, namespace: shop}\nspec:\n  \
         selector: {matchLabels: {app: db}}\n  action: DENY\n  rules:\n  - to: [{operation: {hosts: [secret.example, \
         'secret.example:*']}}]\n  - when: [{key: 'request.headers[x-role]', values: [guest]}]\n",
    );
    let pair = Pair::start(&mesh, Mirror::start().await).await;
    let mut client = pair.client().await;
    for (host, status) in [
        ("secret.example", 403),
        ("SECRET.Example", 403),
        ("secret.example:8080", 403),
        ("open.example", 200),
        ("secret.example.org", 200),
        // Another name, as DNS has it too: whoever means it writes it.
        ("secret.example.", 200),
    ] {
        let answer = client.ask(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(answer.status, status, "{host}");
    }
    for (field, status) in [
        ("X-Role: guest", 403),
        ("x-ROLE: guest", 403),
        ("X_Role: guest", 200),
        ("X-Role: guests", 200),
    ] {
        let answer = client
            .ask(&format!("GET / HTTP/1.1\r\nHost: db\r\n{field}\r\n\r\n"))
            .await;
        assert_eq!(answer.status, status, "{field}");
    }
}

#[tokio::test]
async fn a_denial_by_http_attributes_or_by_the_end_of_a_principal_denies_connections_of_bytes() {
    for rule in [
        "{to: [{operation: {methods: [POST]}}]}",
        "{from: [{source: {principals: ['*/sa/web']}}]}",
        "{from: [{source: {namespaces: ['*op']}}]}",
    ] {
        let mesh = Mesh::strict();
        mesh.write(
            "deny.yaml",
            &format!(
                "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: deny, namespace: \
                 shop}}\nspec:\n  selector: {{matchLabels: {{app: db}}}}\n  action: DENY\n  rules: [{rule}]\n"
            ),
        );
        let pair = Pair::start(&mesh, apps::echo().await).await;
        assert!(apps::echoes(pair.address()).await.is_err(), "{rule}");
        pair.db.logged(&[("outcome", "denied")]).await;
    }
}

#[tokio::test]
async fn bytes_that_are_no_http_never_pass_where_requests_are_judged() {
    let mesh = Mesh::strict();
    mesh.write(
        "allow.yaml",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: reads, namespace: shop}\nspec:\n  \
         selector: {matchLabels: {app: db}}\n  action: ALLOW\n  rules: [{to: [{operation: {methods: [GET]}}]}]\n",
    );
    let Pair { app, db, web } = Pair::start(&mesh, Mirror::start().await).await;
    let mut client = Client::connect(web.to("db:8080")).await.unwrap();
    assert_eq!(client.get("/").await.status, 200);
    for bytes in [
        "\x01\x02binary",
        "get / HTTP/1.1\r\nHost: db\r\n\r\n",
        "HELO db\r\n",
        "GET key\r\n",
    ] {
        let mut client = Client::connect(web.to("db:8080")).await.unwrap();
        client.send(bytes).await.unwrap();
        assert!(client.is_over().await, "{bytes:?}");
    }
    assert_eq!((app.requests(), app.connections()), (1, 1));
    db.counts("squire_connections_closed_total", &[("outcome", "denied")], 4.0)
        .await;
}
