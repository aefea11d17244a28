//! Requests that two parsers could read differently, and paths that two matchers could: through a real pair of squires
//! none of them reaches what policy denies, and clients that behave are served all the while.

use squire_tests::{Mesh, http::Client, in_time, mirror::Mirror};

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
    let app = Mirror::start().await;
    let db = mesh.pod("db").serves(8080, app.address());
    let web = mesh.pod("web").reaches("db:8080");
    mesh.start().await;
    let (db, web) = tokio::join!(db.start(), web.start());
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
    assert!(refused >= 16.0, "{refused} of {whole} were counted by reason");
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
    let app = Mirror::start().await;
    let db = mesh.pod("db").serves(8080, app.address());
    let web = mesh.pod("web").reaches("db:8080");
    mesh.start().await;
    let (_db, web) = tokio::join!(db.start(), web.start());
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
async fn bytes_that_are_no_http_never_pass_where_requests_are_judged() {
    let mesh = Mesh::strict();
    mesh.write(
        "allow.yaml",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: reads, namespace: shop}\nspec:\n  \
         selector: {matchLabels: {app: db}}\n  action: ALLOW\n  rules: [{to: [{operation: {methods: [GET]}}]}]\n",
    );
    let app = Mirror::start().await;
    let db = mesh.pod("db").serves(8080, app.address());
    let web = mesh.pod("web").reaches("db:8080");
    mesh.start().await;
    let (db, web) = tokio::join!(db.start(), web.start());
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
