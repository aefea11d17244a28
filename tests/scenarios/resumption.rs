//! No stored session opens a door: squires hand out no tickets and take none, so that every connection shows its
//! certificate and is verified against what is trusted and revoked at that moment.

use std::{process::Stdio, sync::Arc};

use rustls::{ClientConfig, HandshakeKind};
use squire_tests::{Mesh, apps, eventually, forge::Forge, id, in_time, tls};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    process::Command,
};
use tokio_rustls::{TlsAcceptor, client::TlsStream};

/// Waits for an answer, so that tickets would have come before it, and says how the handshake went.
async fn kind(mut stream: TlsStream<tokio::net::TcpStream>) -> (HandshakeKind, u32) {
    apps::round_trip(&mut stream, b"hello").await.unwrap();
    let (_, session) = stream.get_ref();
    (session.handshake_kind().unwrap(), session.tls13_tickets_received())
}

#[tokio::test]
async fn a_stored_tls_session_never_gets_in_neither_our_own_nor_anothers_nor_after_a_revocation() {
    let mesh = Mesh::strict();
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address());
    mesh.start().await;
    let db = db.start().await;
    let shown = Forge::of(&mesh).sign(&id("web"), |_| {});
    let client: Arc<ClientConfig> = tls::client(Some(&shown), &[tls::SPIFFE]);
    let to_db = async || tls::connect(db.inbound(5432), Arc::clone(&client)).await;

    // With nothing to resume, and what a squire left behind: the same full handshake each time.
    for _ in 0..3 {
        assert_eq!(kind(to_db().await.unwrap()).await, (HandshakeKind::Full, 0));
    }

    // A server under the very name of db that does hand out tickets: the client resumes there, and offers them to db.
    let listener = TcpListener::bind((db.address, 0)).await.unwrap();
    let generous = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(tls::server(&shown, &[tls::SPIFFE]));
    let server = tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let mut stream = acceptor.accept(tcp).await.unwrap();
            let mut hello = [0; 5];
            stream.read_exact(&mut hello).await.unwrap();
            stream.write_all(&hello).await.unwrap();
            stream.flush().await.unwrap();
        }
    });
    let first = kind(tls::connect(generous, Arc::clone(&client)).await.unwrap()).await;
    assert!(first.0 == HandshakeKind::Full && first.1 > 0, "{first:?}");
    let second = kind(tls::connect(generous, Arc::clone(&client)).await.unwrap()).await;
    assert_eq!(second.0, HandshakeKind::Resumed, "this client does resume where it can");
    server.abort();
    assert_eq!(kind(to_db().await.unwrap()).await, (HandshakeKind::Full, 0));

    // What was let in a moment ago is not let in again once it is revoked.
    let revoked = mesh
        .squire(&["ca", "revoke", &id("web"), "--dir", "ca", "--reason", "stolen"])
        .await;
    assert!(revoked.status.success());
    eventually("it is refused", async || {
        let Ok(mut stream) = to_db().await else { return Some(()) };
        apps::round_trip(&mut stream, b"hello").await.err().map(drop)
    })
    .await;
}

#[tokio::test]
async fn openssl_is_given_no_session_to_keep() {
    let mesh = Mesh::strict();
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address());
    mesh.start().await;
    let db = db.start().await;
    let web = mesh.issue("web").await;
    for (address, alpn) in [(db.inbound(5432), "squire-tls/1"), (mesh.grpc(), "h2")] {
        let kept = mesh.dir().join("session.pem");
        let mut command = Command::new("openssl");
        command.args([
            "s_client",
            "-connect",
            &address.to_string(),
            "-alpn",
            alpn,
            "-msg",
            "-sess_out",
        ]);
        command.arg(&kept).arg("-CAfile").arg(&web.bundle);
        command
            .arg("-cert")
            .arg(&web.cert)
            .arg("-key")
            .arg(&web.key)
            .arg("-cert_chain")
            .arg(&web.cert);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let mut client = command.spawn().unwrap();
        let mut input = client.stdin.take().unwrap();
        input.write_all(b"hello\n").await.unwrap();
        let mut output = client.stdout.take().unwrap();
        let mut said = String::new();
        // The server's first record of application data: tickets would stand before it.
        in_time("an answer", async {
            let mut buffer = [0; 4096];
            let finished = |said: &str| said.rfind(", Finished").is_some_and(|at| said[at..].contains("<<< "));
            while !finished(&said) {
                let read = output.read(&mut buffer).await.unwrap();
                assert!(read > 0, "{address}: it ended: {said}");
                said.push_str(&String::from_utf8_lossy(&buffer[..read]));
            }
        })
        .await;
        client.kill().await.unwrap();
        assert!(said.contains("TLS 1.3"), "{said}");
        assert!(!said.contains("NewSessionTicket"), "{address}: {said}");
        assert!(!kept.exists(), "{address}: there is nothing to keep");
    }
}

#[tokio::test]
async fn a_session_from_before_its_root_left_the_bundle_does_not_get_in() {
    let mesh = Mesh::strict();
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address());
    mesh.start().await;
    let db = db.start().await;
    // A client with a store of sessions, and a certificate under the root that goes.
    let old = Forge::of(&mesh).sign(&id("web"), |_| {});
    let client: Arc<ClientConfig> = tls::client(Some(&old), &[tls::SPIFFE]);
    let to_db = async || tls::connect(db.inbound(5432), Arc::clone(&client)).await;
    let first = kind(to_db().await.unwrap()).await;
    assert_eq!(first, (HandshakeKind::Full, 0), "there is no ticket to keep");
    let rotated = mesh.squire(&["ca", "rotate", "--watch", "--dir", "ca"]).await;
    assert!(rotated.status.success(), "{rotated:?}");
    eventually("it is refused", async || {
        let Ok(mut stream) = to_db().await else { return Some(()) };
        apps::round_trip(&mut stream, b"hello").await.err().map(drop)
    })
    .await;
    db.counts(
        "squire_handshake_failures_total",
        &[("role", "server"), ("reason", "unknown_issuer")],
        1.0,
    )
    .await;
    // Under the new root the same identity is as welcome as before.
    let new = Forge::of(&mesh).sign(&id("web"), |_| {});
    let client: Arc<ClientConfig> = tls::client(Some(&new), &[tls::SPIFFE]);
    let again = kind(tls::connect(db.inbound(5432), client).await.unwrap()).await;
    assert_eq!(again, (HandshakeKind::Full, 0));
}
