//! The sidecar's own callouts to servers of the mesh: over links, with mutual TLS, and never on trust that is gone.

use bytes::Bytes;
use http_body_util::Full;

use super::*;
use crate::callouts::{
    client::{Client, Origin},
    mesh::Mesh as MeshConnector,
    outside::Tls,
};

/// An HTTP application that answers every request on its connection.
async fn http_app() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while let Ok(byte) = stream.read_u8().await {
                    head.push(byte);
                    if head.ends_with(b"\r\n\r\n") {
                        head.clear();
                        let _ = stream
                            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
                            .await;
                    }
                }
            });
        }
    });
    address
}

fn client(sidecar: &Sidecar) -> Client {
    let shared = &sidecar.data_path.shared;
    let connector = MeshConnector {
        demand: None,
        state: shared.state.clone(),
        credentials: shared.credentials.clone(),
        dialer: Arc::clone(&shared.dialer),
        pool: Arc::clone(&shared.pool),
        bind_source: shared.bind_source,
        explicit: shared.explicit,
    };
    Client::new(Arc::new(connector), Tls::new(None))
}

async fn get(client: &Client, host: &str, port: u16) -> Result<Bytes, String> {
    let origin = Origin {
        tls: false,
        host: host.into(),
        port,
    };
    let request = ::http::Request::get("/")
        .header("host", host)
        .body(Full::default())
        .unwrap();
    let response = client.send(&origin, request, 100).await;
    response
        .map(::http::Response::into_body)
        .map_err(|error| error.to_string())
}

#[tokio::test]
async fn callouts_reach_a_server_of_the_mesh_with_our_identity_and_reuse_the_connection() {
    let mesh = Mesh::new(41);
    let app = http_app().await;
    let db = mesh.sidecar("db", app, &strict(&["web"])).await;
    let web = mesh.sidecar("web", app, &Table::default()).await;
    let batch = mesh.sidecar("batch", app, &Table::default()).await;
    let asking = client(&web);
    for _ in 0..5 {
        assert_eq!(get(&asking, "db.shop", PORT).await.unwrap(), "hi");
    }
    let opened = "squire_connections_opened_total{direction=\"inbound\"}";
    assert_eq!(db.metric(opened), 1.0, "one application connection for five requests");
    // By address it is the same server, and is never spoken to in plaintext.
    assert_eq!(
        get(&asking, &IpAddr::from(mesh.address("db")).to_string(), PORT)
            .await
            .unwrap(),
        "hi"
    );
    assert_eq!(db.metric(opened), 2.0);
    // Whom policy does not let in, its callouts do not get in either.
    assert!(get(&client(&batch), "db.shop", PORT).await.is_err());
    db.ended("denied").await;
    // What the mesh does not know is outside.
    assert_eq!(get(&asking, "127.0.0.1", app.port()).await.unwrap(), "hi");
}

#[tokio::test]
async fn a_kept_connection_is_not_used_again_once_our_identity_has_changed() {
    let mesh = Mesh::new(42);
    let app = http_app().await;
    let db = mesh.sidecar("db", app, &strict(&["web"])).await;
    let web = mesh.sidecar("web", app, &Table::default()).await;
    let asking = client(&web);
    assert_eq!(get(&asking, "db.shop", PORT).await.unwrap(), "hi");
    let mut credentials = web.data_path.shared.credentials.clone();
    let before = credentials.borrow_and_update().as_ref().unwrap().generation;
    web.identity.send_replace(Some(Arc::new(mesh.svid("web"))));
    let renewed = |now: &Option<Arc<credentials::Credentials>>| now.as_ref().unwrap().generation > before;
    credentials.wait_for(renewed).await.unwrap();
    assert_eq!(get(&asking, "db.shop", PORT).await.unwrap(), "hi");
    assert_eq!(db.metric("squire_connections_opened_total{direction=\"inbound\"}"), 2.0);
}

/// An external authorization provider that lets in what shows `x-pass`, and tells the application who it is.
async fn judge() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let passes = String::from_utf8_lossy(&head).contains("x-pass: 1");
            let status = if passes { "200 OK" } else { "418 No" };
            let answer =
                format!("HTTP/1.1 {status}\r\nx-user: alice\r\nconnection: close\r\ncontent-length: 5\r\n\r\nteapo");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    address
}

/// An HTTP application that answers with the head it got.
async fn mirror() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            let length = head.len();
            let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
            let _ = stream.write_all(&[answer.as_bytes(), &head].concat()).await;
        }
    });
    address
}

#[tokio::test]
async fn requests_are_refused_for_their_token_and_by_a_provider_in_its_own_words() {
    let mesh = Mesh::new(43);
    let (app, provider) = tokio::join!(mirror(), judge());
    let mut table = strict(&["web"]);
    let keys = squire_mesh::policy::TokenKeys::Inline(r#"{"keys": []}"#.into());
    table.issuers = [squire_mesh::policy::TokenIssuer::new("i", keys)].into();
    let mut asked = squire_mesh::policy::Provider::new("p", squire_mesh::policy::ProviderKind::Http);
    asked.address = Some(squire_mesh::policy::ProviderAddress {
        host: provider.ip().to_string().into(),
        port: provider.port(),
    });
    asked.http.request_headers = [TextMatch::parse("x-pass")].into();
    asked.http.upstream_on_allow = [TextMatch::parse("x-user")].into();
    table.authorization.custom = [squire_mesh::policy::CustomPolicy {
        policy: Arc::new(AuthorizationPolicy {
            object: ObjectRef::new(PolicyKind::AuthorizationPolicy, "shop", "ask"),
            rules: [Rule::default()].into(),
        }),
        provider: Some(Arc::new(asked)),
    }]
    .into();
    let _db = mesh.sidecar("db", app, &table).await;
    let web = mesh.sidecar("web", app, &Table::default()).await;
    for (fields, status, words) in [
        (
            "authorization: Bearer a.b\r\nx-pass: 1\r\n",
            "401",
            "two dots and 3 sections",
        ),
        ("", "418", "teapo"),
        ("x-pass: 1\r\nx-user: root\r\n", "200", "x-user: alice"),
    ] {
        let request = format!("GET / HTTP/1.1\r\nhost: db.shop\r\n{fields}connection: close\r\n\r\n");
        let mut stream = TcpStream::connect(web.outbound).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(words),
            "{fields}: {answer}"
        );
        assert!(!answer.contains("root"), "what the client wrote there is gone");
    }
}
