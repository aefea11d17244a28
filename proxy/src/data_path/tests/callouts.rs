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
