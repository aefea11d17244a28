//! Peers that never finish what they start, in numbers, and a process that runs out of descriptors: others are served,
//! memory stays bounded, and what was hit is counted.

use std::{net::SocketAddr, time::Duration};

use squire_tests::{Mesh, apps, eventually, forge::Forge, id, in_time, raise_file_limit, tls};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

const FAILURES: &str = "squire_handshake_failures_total";

/// The ClientHello that a real client begins with.
async fn client_hello() -> Vec<u8> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = tokio::spawn(tls::connect(address, tls::client(None, &[b"squire/1"])));
    let (mut server, _) = listener.accept().await.unwrap();
    let mut header = [0; 5];
    server.read_exact(&mut header).await.unwrap();
    let mut hello = header.to_vec();
    hello.resize(5 + usize::from(u16::from_be_bytes([header[3], header[4]])), 0);
    server.read_exact(&mut hello[5..]).await.unwrap();
    client.abort();
    hello
}

/// What a hostile client does with its connection; the server closes it in the end.
async fn hostile(address: SocketAddr, nth: usize, hello: Vec<u8>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    match nth % 4 {
        // Garbage that is no TLS.
        0 => {
            let garbage: Vec<u8> = (0..2000_usize).map(|at| (at * 7 + nth) as u8).collect();
            let _ = stream.write_all(&garbage).await;
        }
        // Half-open: says nothing at all.
        1 => {}
        // Half of a ClientHello, and then nothing.
        2 => {
            let _ = stream.write_all(&hello[..hello.len() / 2]).await;
        }
        // One byte now and then.
        _ => {
            for byte in hello {
                if stream.write_all(&[byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

#[tokio::test]
async fn a_thousand_handshakes_that_never_finish_cost_bounded_memory_and_time_and_others_are_served() {
    raise_file_limit();
    let mesh = Mesh::strict();
    let echo = apps::echo().await;
    // Enough for the test to see them all at once; the default is 5 s.
    let db = mesh
        .pod("db")
        .serves(5432, echo.address())
        .set("limits.handshakeTimeout=3s");
    let web = mesh.pod("web").reaches("db:5432").set("pool.ready=0");
    mesh.start().await;
    let (db, web) = tokio::join!(db.start(), web.start());
    let hello = client_hello().await;
    let before = (db.process.resident_kib(), db.process.descriptors().unwrap());

    let mut crowd = JoinSet::new();
    for nth in 0..1000 {
        crowd.spawn(hostile(db.inbound(5432), nth, hello.clone()));
    }
    let waiting = eventually("the crowd is there", async || {
        let waiting = db.process.descriptors().unwrap().saturating_sub(before.1);
        (waiting >= 700).then_some(waiting)
    })
    .await;
    // Somebody honest, by a new mesh connection, among them.
    let mut honest = in_time("an honest peer is served", apps::echoes(web.to("db:5432")))
        .await
        .unwrap();
    let grown = db.process.resident_kib().saturating_sub(before.0);
    assert!(
        grown < 32 * 1024,
        "{grown} KiB more for {waiting} handshakes that never finish"
    );

    in_time("every hostile connection is ended by the server", async {
        while let Some(ended) = crowd.join_next().await {
            ended.unwrap();
        }
    })
    .await;
    db.counts(FAILURES, &[("reason", "handshake_timeout")], 750.0).await;
    db.counts(FAILURES, &[("reason", "plaintext_refused")], 250.0).await;
    apps::round_trip(&mut honest, b"undisturbed").await.unwrap();
    let open = eventually("only the honest connection is left", async || {
        let open = db.connections().await;
        (open.len() == 1).then_some(open)
    })
    .await;
    assert_eq!(open[0]["source"], id("web"));
}

#[tokio::test]
async fn handshakes_beyond_the_limit_are_refused_and_counted() {
    let mesh = Mesh::strict();
    let echo = apps::echo().await;
    let db = mesh
        .pod("db")
        .serves(5432, echo.address())
        .set("limits.maxPendingHandshakes=4")
        .set("limits.handshakeTimeout=60s");
    mesh.start().await;
    let db = db.start().await;
    let mut waiting = Vec::new();
    for _ in 0..4 {
        waiting.push(TcpStream::connect(db.inbound(5432)).await.unwrap());
    }
    let shown = Forge::of(&mesh).sign(&id("web"), |_| {});
    eventually("the fifth is refused", async || {
        tls::echoes(db.inbound(5432), Some(&shown)).await.err()
    })
    .await;
    db.counts("squire_limit_hits_total", &[("limit", "pending_handshakes")], 1.0)
        .await;
    assert_eq!(db.logged(&[("outcome", "limit")]).await["fault"], "squire");
    drop(waiting);
    eventually("there is room again", async || {
        tls::echoes(db.inbound(5432), Some(&shown)).await.ok()
    })
    .await;
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_a_place_and_the_limit_is_counted() {
    let mesh = Mesh::strict();
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address());
    let web = mesh.pod("web").reaches("db:5432").set("limits.maxConnections=3");
    mesh.start().await;
    let (_db, web) = tokio::join!(db.start(), web.start());
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(apps::echoes(web.to("db:5432")).await.unwrap());
    }
    let fourth = tokio::spawn({
        let address = web.to("db:5432");
        async move { apps::echoes(address).await.map(drop) }
    });
    web.counts("squire_limit_hits_total", &[("limit", "connections")], 1.0)
        .await;
    assert!(!fourth.is_finished());
    open.pop();
    in_time("the fourth gets the place", fourth).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_sidecar_that_runs_out_of_descriptors_goes_on_when_there_are_some_again() {
    let mesh = Mesh::strict();
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address()).file_limit(64);
    mesh.start().await;
    let mut db = db.start().await;
    let shown = Forge::of(&mesh).sign(&id("web"), |_| {});
    tls::echoes(db.inbound(5432), Some(&shown)).await.unwrap();

    let mut hoard = Vec::new();
    for _ in 0..100 {
        hoard.push(TcpStream::connect(db.inbound(5432)).await.unwrap());
    }
    db.process.said(&["no descriptors"]).await;
    assert!(db.process.lives());
    drop(hoard);
    eventually("it serves again", async || {
        tls::echoes(db.inbound(5432), Some(&shown)).await.ok()
    })
    .await;
    db.counts("squire_accept_errors_total", &[("cause", "descriptors")], 1.0)
        .await;
}
