//! The control plane away, killed and back; SVIDs renewed and sidecars stopped under traffic: what is open stays open.

use std::time::Duration;

use squire_tests::{Mesh, Signal, apps, eventually, id, in_time, raise_file_limit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

#[tokio::test]
async fn a_sidecar_whose_control_plane_is_down_says_so_tries_again_and_becomes_ready_when_it_comes_up() {
    let mesh = Mesh::strict();
    let made = mesh.squire(&["ca", "init", "--dir", "ca"]).await;
    assert!(made.status.success());
    let echo = apps::echo().await;
    let mut db = mesh.pod("db").serves(5432, echo.address()).launch().await;

    let control = mesh.grpc().to_string();
    let line = db
        .process
        .said(&["no SVID yet, so not ready", &control, "retry_in_ms"])
        .await;
    assert!(line.contains("WARN"), "{line}");
    db.counts("squire_svid_renewals_total", &[("result", "failure")], 3.0)
        .await;
    let (status, page) = db.page("/ready").await;
    let page = page.to_string();
    assert_eq!(status, 503, "{page}");
    assert!(
        page.contains("identity") && page.contains("policy") && page.contains(&control),
        "{page}"
    );
    assert_eq!(db.page("/live").await.0, 200, "alive all the same");
    assert!(
        TcpStream::connect(db.inbound(5432)).await.is_ok(),
        "it listens, and refuses"
    );
    db.logged(&[("outcome", "not_ready")]).await;
    assert!(db.process.lives());

    mesh.start().await;
    db.ready().await;
    db.process.said(&["ready after_ms"]).await;
}

#[tokio::test]
async fn a_control_plane_killed_and_started_again_costs_none_of_a_thousand_open_connections() {
    const OPEN: usize = 1000;
    raise_file_limit();
    let mesh = Mesh::strict();
    mesh.allow("only-web", "db", &["web"]);
    let echo = apps::echo().await;
    // A thousand handshakes at once may take their time on a busy machine.
    let patient = ["limits.handshakeTimeout=1m", "limits.connectTimeout=1m"];
    let db = mesh.pod("db").serves(5432, echo.address()).set(patient[0]);
    let web = mesh.pod("web").reaches("db:5432").set(patient[0]).set(patient[1]);
    mesh.start().await;
    let (db, web) = tokio::join!(db.start(), web.start());

    let mut opening = JoinSet::new();
    for _ in 0..OPEN {
        let address = web.to("db:5432");
        opening.spawn(async move { apps::echoes(address).await.unwrap() });
    }
    let mut open = in_time("all are open", opening.join_all()).await;
    assert_eq!(db.connections().await.len(), OPEN);

    mesh.kill_control().await;
    for sidecar in [&db, &web] {
        eventually("the loss is noticed", async || {
            (sidecar.figure("squire_control_connected", &[]).await == 0.0).then_some(())
        })
        .await;
    }
    for stream in &mut open {
        apps::round_trip(stream, b"while it is down").await.unwrap();
    }
    let fresh = apps::echoes(web.to("db:5432")).await;
    open.push(fresh.expect("a new connection while it is down"));
    assert_eq!(db.page("/ready").await.0, 200, "the last good state is good");

    mesh.start().await;
    for sidecar in [&db, &web] {
        sidecar.counts("squire_control_connected", &[], 1.0).await;
    }
    for stream in &mut open {
        apps::round_trip(stream, b"when it is back").await.unwrap();
    }
    assert_eq!(db.connections().await.len(), OPEN + 1, "none is lost");
    assert_eq!(db.figure("squire_connections_cut_total", &[]).await, 0.0);

    // And what it says is heard again.
    mesh.allow("only-web", "db", &["api"]);
    for stream in &mut open {
        let end = in_time("every one is cut", stream.read(&mut [0; 1])).await;
        assert!(end.is_err(), "{end:?}");
    }
    let cut = db
        .figure("squire_connections_cut_total", &[("reason", "cut_policy")])
        .await;
    assert_eq!(cut, (OPEN + 1) as f64);
}

#[tokio::test]
async fn svids_are_renewed_under_traffic_without_a_lost_byte_and_old_mesh_connections_are_not_reused() {
    let mesh = Mesh::strict();
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address());
    let web = mesh.pod("web").reaches("db:5432");
    mesh.start().await;
    let (db, web) = tokio::join!(db.start(), web.start());
    let mut stream = apps::echoes(web.to("db:5432")).await.unwrap();
    let mut idle = apps::echoes(web.to("db:5432")).await.unwrap();
    idle.shutdown().await.unwrap();
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0);

    let first = db.figure("squire_svid_generation", &[]).await;
    let mut round = 0_u64;
    for (sidecar, generation) in [
        (&db, first + 1.0),
        (&web, first + 1.0),
        (&db, first + 2.0),
        (&web, first + 2.0),
    ] {
        sidecar.process.signal(Signal::USR1);
        // Bytes flow all the while: each must come back as it was.
        in_time("the renewal", async {
            while sidecar.figure("squire_svid_generation", &[]).await < generation {
                round += 1;
                let block: Vec<u8> = (0..64 * 1024_u64).map(|at| (at * 31 + round) as u8).collect();
                apps::round_trip(&mut stream, &block).await.unwrap();
            }
        })
        .await;
    }
    apps::round_trip(&mut stream, b"and after it").await.unwrap();
    apps::echoes(web.to("db:5432")).await.unwrap();
    web.counts("squire_mesh_connections_total", &[("event", "superseded")], 1.0)
        .await;
    assert_eq!(db.figure("squire_connections_cut_total", &[]).await, 0.0);
    let issued = mesh
        .figures()
        .await
        .sum("squire_ca_issued_total", &[("attestor", "svid")]);
    assert!(issued >= 4.0, "renewed by the SVID itself, {issued} times");
}

#[tokio::test]
async fn a_sidecar_told_to_stop_lets_open_connections_finish_takes_no_new_ones_and_ends_with_0() {
    let mesh = Mesh::strict();
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address());
    let web = mesh.pod("web").reaches("db:5432");
    mesh.start().await;
    let (mut db, web) = tokio::join!(db.start(), web.start());
    let mut stream = apps::echoes(web.to("db:5432")).await.unwrap();

    db.process.signal(Signal::TERM);
    eventually("not ready: draining", async || {
        let (status, page) = db.page("/ready").await;
        (status == 503 && page.to_string().contains("draining")).then_some(())
    })
    .await;
    eventually("no new connection is taken", async || {
        TcpStream::connect(db.inbound(5432)).await.err()
    })
    .await;
    // One that goes out on a link that stood ready, before its peer has heard that it is to close, is still served.
    eventually("nor on a link that stood ready", async || {
        apps::echoes(web.to("db:5432")).await.err()
    })
    .await;
    apps::round_trip(&mut stream, b"but this one goes on").await.unwrap();
    assert!(db.process.lives());
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "to its orderly end");
    let ended = db.process.ended().await;
    assert_eq!(ended.code(), Some(0));
    assert!(db.process.log().contains("drained cut=0"), "{}", db.process.log());
}

#[tokio::test]
async fn what_is_still_open_when_the_grace_is_over_is_cut_with_that_reason() {
    let mesh = Mesh::strict();
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address()).set("drain.grace=500ms");
    let web = mesh.pod("web").reaches("db:5432");
    mesh.start().await;
    let (mut db, web) = tokio::join!(db.start(), web.start());
    let mut stream = apps::echoes(web.to("db:5432")).await.unwrap();
    db.process.signal(Signal::TERM);
    let end = in_time("the cut", stream.read(&mut [0; 1])).await;
    assert!(end.is_err(), "not an orderly end: {end:?}");
    assert_eq!(db.process.ended().await.code(), Some(0));
    db.logged(&[("outcome", "cut_draining"), ("source", &id("web"))]).await;
}

#[tokio::test]
async fn a_killed_sidecar_is_seen_by_its_peer_as_a_loss_and_not_as_an_end() {
    let mesh = Mesh::strict();
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address());
    let web = mesh.pod("web").reaches("db:5432");
    mesh.start().await;
    let (mut db, web) = tokio::join!(db.start(), web.start());
    let mut stream = apps::echoes(web.to("db:5432")).await.unwrap();
    db.process.kill().await;
    let end = in_time("the loss", stream.read(&mut [0; 1])).await;
    assert!(
        end.is_err(),
        "a truncated stream must not look like a whole one: {end:?}"
    );
    web.logged(&[("outcome", "peer_lost")]).await;

    // It comes back with a new token, and web finds it without help.
    let db = mesh.pod("db").serves(5432, echo.address()).start().await;
    let started = std::time::Instant::now();
    eventually("web reaches it again", async || {
        apps::echoes(web.to("db:5432")).await.ok()
    })
    .await;
    assert!(started.elapsed() < Duration::from_secs(10));
    drop(db);
}
