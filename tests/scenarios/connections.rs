//! What applications see of a pair of squires: who gets through and by which rule, bytes intact, half-closes, live edits.

use squire_tests::{Mesh, apps, eventually, id, in_time};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

/// `web` may reach `db`, `batch` may not; both try through their own sidecars.
#[tokio::test]
async fn the_allowed_peer_gets_through_and_the_other_is_denied_by_the_rule_that_is_named() {
    let mesh = Mesh::strict();
    mesh.allow("only-web", "db", &["web"]);
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address());
    let web = mesh.pod("web").reaches("db:5432");
    let batch = mesh.pod("batch").reaches("db:5432");
    mesh.start().await;
    let (db, web, batch) = tokio::join!(db.start(), web.start(), batch.start());

    let mut open = apps::echoes(web.to("db:5432")).await.unwrap();
    let seen = db.connections().await;
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0]["source"], id("web"));
    assert_eq!(seen[0]["destination"], id("db"));
    assert_eq!(seen[0]["verdict"], "ALLOW");
    assert_eq!(seen[0]["protocol"], "squire/1");
    assert_eq!(seen[0]["tls_version"], "TLSv1.3");
    assert_eq!(seen[0]["tls_group"], "X25519MLKEM768");
    assert_eq!(seen[0]["rule"], "AuthorizationPolicy shop/only-web rule 0");
    assert_eq!(web.connections().await[0]["id"], seen[0]["id"], "one id at both ends");

    let refused = apps::echoes(batch.to("db:5432")).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionReset, "{refused}");
    let line = db.logged(&[("outcome", "denied")]).await;
    assert_eq!(
        (&line["source"], &line["verdict"]),
        (&id("batch").into(), &"DENY".into())
    );
    assert!(line["why"].as_str().is_some_and(|why| !why.is_empty()), "{line}");
    assert_eq!(
        batch.logged(&[("outcome", "peer_denied")]).await["destination"],
        id("db")
    );

    apps::round_trip(&mut open, b"and the first one is not disturbed")
        .await
        .unwrap();
    open.shutdown().await.unwrap();
    let line = db.logged(&[("outcome", "complete")]).await;
    assert_eq!(line["bytes_from_client"], 5 + 34);
    assert_eq!(line["bytes_to_client"], 5 + 34);
    let between = [("source", &*id("web")), ("destination", &*id("db"))];
    assert_eq!(db.figure("squire_received_bytes_total", &between).await, 39.0);
    assert_eq!(web.figure("squire_sent_bytes_total", &between).await, 39.0);
    let by_rule = [
        ("verdict", "ALLOW"),
        ("policy", "AuthorizationPolicy shop/only-web"),
        ("rule", "0"),
    ];
    assert_eq!(db.figure("squire_decisions_total", &by_rule).await, 1.0);
    let denied = [("verdict", "DENY"), ("direction", "inbound")];
    assert_eq!(db.figure("squire_decisions_total", &denied).await, 1.0);
}

/// Denied before the first byte, or cut later: the log, the metrics and the list name the same object and rule.
#[tokio::test]
async fn a_denial_names_its_object_and_rule_in_the_log_and_the_metrics_whenever_it_comes() {
    let mesh = Mesh::strict();
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address());
    let web = mesh.pod("web").reaches("db:5432");
    mesh.start().await;
    let (db, web) = tokio::join!(db.start(), web.start());
    let mut open = apps::echoes(web.to("db:5432")).await.unwrap();
    assert_eq!(db.connections().await[0]["rule"], "PeerAuthentication shop/default");

    mesh.write(
        "deny.yaml",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: not-web, namespace: shop}\nspec: \
         {action: DENY, rules: [{from: [{source: {namespaces: [elsewhere]}}]}, {from: [{source: {serviceAccounts: \
         [web]}}]}]}\n",
    );
    assert!(in_time("the connection is cut", open.read(&mut [0; 1])).await.is_err());
    assert!(apps::echoes(web.to("db:5432")).await.is_err());
    for outcome in ["cut_policy", "denied"] {
        let line = db.logged(&[("outcome", outcome)]).await;
        assert_eq!(line["verdict"], "DENY", "{line}");
        assert_eq!(line["rule"], "AuthorizationPolicy shop/not-web rule 1", "{line}");
        assert_eq!(line["why"], "a DENY rule matches", "{line}");
    }
    let by_rule = [
        ("why", "deny_rule"),
        ("policy", "AuthorizationPolicy shop/not-web"),
        ("rule", "1"),
    ];
    db.counts("squire_decisions_total", &by_rule, 1.0).await;
}

#[tokio::test]
async fn an_edited_policy_cuts_the_open_connection_of_the_peer_it_now_denies_and_nobody_else() {
    let mesh = Mesh::strict();
    mesh.allow("callers", "db", &["web", "api"]);
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address());
    let web = mesh.pod("web").reaches("db:5432");
    let api = mesh.pod("api").reaches("db:5432");
    mesh.start().await;
    let (db, web, api) = tokio::join!(db.start(), web.start(), api.start());
    let mut of_web = apps::echoes(web.to("db:5432")).await.unwrap();
    let mut of_api = apps::echoes(api.to("db:5432")).await.unwrap();

    mesh.allow("callers", "db", &["api"]);
    let end = in_time("the connection is cut", of_web.read(&mut [0; 1])).await;
    assert_eq!(
        end.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionReset,
        "not an orderly end"
    );
    let line = db.logged(&[("outcome", "cut_policy")]).await;
    assert_eq!(line["source"], id("web"));
    assert_eq!(
        db.figure("squire_connections_cut_total", &[("reason", "cut_policy")])
            .await,
        1.0
    );
    apps::round_trip(&mut of_api, b"still here").await.unwrap();
    assert!(
        apps::echoes(web.to("db:5432")).await.is_err(),
        "and no new one is let in"
    );

    mesh.allow("callers", "db", &["web"]);
    assert!(in_time("the other one is cut", of_api.read(&mut [0; 1])).await.is_err());
    eventually("web is let in again", async || {
        apps::echoes(web.to("db:5432")).await.ok()
    })
    .await;
}

#[tokio::test]
async fn either_end_may_close_its_half_first_and_the_other_direction_goes_on() {
    let mesh = Mesh::strict();
    let (sender, mut received) = mpsc::channel(1);
    let (counter, closer) = (apps::counter().await, apps::closes_first(sender).await);
    let db = mesh
        .pod("db")
        .serves(5432, counter.address())
        .serves(5433, closer.address());
    let web = mesh.pod("web").reaches("db:5432").reaches("db:5433");
    mesh.start().await;
    let (_db, web) = tokio::join!(db.start(), web.start());

    // The client closes first; the answer comes after that.
    let mut stream = TcpStream::connect(web.to("db:5432")).await.unwrap();
    stream.write_all(&[7; 100_000]).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    in_time("the answer", stream.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "100000");

    // The server closes first; what the client sends after that arrives.
    let mut stream = TcpStream::connect(web.to("db:5433")).await.unwrap();
    let mut greeting = String::new();
    in_time("the end of the server's half", stream.read_to_string(&mut greeting))
        .await
        .unwrap();
    assert_eq!(greeting, "bye");
    stream.write_all(b"one more thing").await.unwrap();
    stream.shutdown().await.unwrap();
    let arrived = in_time("what came after", received.recv()).await;
    assert_eq!(arrived.as_deref(), Some(&b"one more thing"[..]));
}

/// 32 MiB each way at once, on four connections; the content depends on the position, so nothing can be swapped.
#[tokio::test]
async fn large_transfers_arrive_intact_in_both_directions_at_once() {
    const SIZE: usize = 8 << 20;
    let mesh = Mesh::strict();
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address());
    let web = mesh.pod("web").reaches("db:5432");
    mesh.start().await;
    let (db, web) = tokio::join!(db.start(), web.start());

    let transfers = (0..4_u64).map(|seed| {
        let address = web.to("db:5432");
        tokio::spawn(async move {
            let content: Vec<u8> = (0..SIZE as u64)
                .map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(seed) >> 32) as u8)
                .collect();
            let (mut read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
            let sent = content.clone();
            let sending = tokio::spawn(async move {
                write.write_all(&sent).await.unwrap();
                write.shutdown().await.unwrap();
            });
            let mut back = Vec::with_capacity(SIZE);
            read.read_to_end(&mut back).await.unwrap();
            sending.await.unwrap();
            assert!(back == content, "connection {seed}: {} bytes came back", back.len());
        })
    });
    for transfer in transfers.collect::<Vec<_>>() {
        in_time("a transfer ends", transfer).await.unwrap();
    }
    let total = (4 * SIZE) as f64;
    db.counts("squire_connections_closed_total", &[("outcome", "complete")], 4.0)
        .await;
    assert_eq!(db.figure("squire_received_bytes_total", &[]).await, total);
    assert_eq!(db.figure("squire_sent_bytes_total", &[]).await, total);
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_at_once_also_in_permissive_mode() {
    let mesh = Mesh::new();
    let greeter = apps::greeter("220 hello\r\n").await;
    let db = mesh
        .pod("db")
        .serves(25, greeter.address())
        .set("limits.handshakeTimeout=10s");
    let web = mesh.pod("web").reaches("db:25");
    mesh.start().await;
    let (db, web) = tokio::join!(db.start(), web.start());

    for address in [web.to("db:25"), db.inbound(25)] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut greeting = [0; 11];
        in_time("the greeting", stream.read_exact(&mut greeting)).await.unwrap();
        assert_eq!(&greeting, b"220 hello\r\n");
    }
    let line = db.logged(&[("protocol", "plaintext")]).await;
    assert_eq!(line["source"], serde_json::Value::Null, "plaintext has no identity");
}

#[tokio::test]
async fn nobody_waits_until_it_is_known_what_is_spoken() {
    for mesh in [Mesh::strict(), Mesh::new()] {
        let (greeter, echo) = (apps::greeter("220 hello\r\n").await, apps::echo().await);
        let db = mesh.pod("db").serves(25, greeter.address()).serves(7, echo.address());
        let web = mesh.pod("web").reaches("db:25").reaches("db:7");
        mesh.start().await;
        let (_db, web) = tokio::join!(db.start(), web.start());
        let greeted = async || {
            let mut stream = TcpStream::connect(web.to("db:25")).await.unwrap();
            let mut greeting = [0; 11];
            in_time("the greeting", stream.read_exact(&mut greeting)).await.unwrap();
        };
        let echoed = async || {
            let mut stream = TcpStream::connect(web.to("db:7")).await.unwrap();
            let words = apps::round_trip(&mut stream, b"\x00\x01 no known protocol");
            in_time("the echo", words).await.unwrap();
        };
        // The quickest of many: a wait for a guess would be in each of them, a busy machine is not.
        let mut quickest = [std::time::Duration::MAX; 2];
        for _ in 0..20 {
            let begun = std::time::Instant::now();
            greeted().await;
            quickest[0] = quickest[0].min(begun.elapsed());
            let begun = std::time::Instant::now();
            echoed().await;
            quickest[1] = quickest[1].min(begun.elapsed());
        }
        eprintln!("quickest greeting and echo of a new connection: {quickest:?}");
        assert!(quickest.iter().all(|time| time.as_millis() < 50), "{quickest:?}");
    }
}

#[tokio::test]
async fn connections_to_one_peer_share_mesh_connections_one_after_another() {
    let mesh = Mesh::strict();
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address());
    let web = mesh.pod("web").reaches("db:5432");
    mesh.start().await;
    let (db, web) = tokio::join!(db.start(), web.start());
    for _ in 0..50 {
        let mut stream = apps::echoes(web.to("db:5432")).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    }
    db.counts("squire_connections_closed_total", &[("outcome", "complete")], 50.0)
        .await;
    let handshakes = db.figure("squire_handshakes_total", &[("role", "server")]).await;
    assert!(handshakes <= 10.0, "{handshakes} handshakes for 50 connections");
    assert!(
        web.figure("squire_mesh_connections_total", &[("event", "reused")])
            .await
            >= 40.0
    );
}

#[tokio::test]
async fn on_a_permissive_port_a_silent_stranger_is_greeted_and_a_peer_that_is_late_with_its_tls_is_not() {
    let mesh = Mesh::new();
    let app = apps::greeter("hello").await;
    mesh.declare("late", "squire");
    let db = mesh
        .pod("db")
        .serves(3306, app.address())
        .set("limits.handshakeTimeout=10m");
    mesh.start().await;
    let db = db.start().await;
    let from = async |address: std::net::IpAddr| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((address, 0).into()).unwrap();
        socket.connect(db.inbound(3306)).await.unwrap()
    };
    let late = from(mesh.address("late")).await;
    let mut stranger = from(mesh.address("nobody-knows")).await;
    let mut word = [0; 5];
    in_time("the greeting", stranger.read_exact(&mut word)).await.unwrap();
    assert_eq!(&word, b"hello");
    let said = late.try_read(&mut word);
    assert_eq!(
        said.unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock,
        "no plaintext for a peer"
    );
}
