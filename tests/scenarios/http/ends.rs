//! How requests over HTTP/1 end otherwise than in order: denied while they are open, broken off, dripped, drained.

use squire_tests::{Mesh, Pair, eventually, http::Client, mirror::Mirror};
use tokio::io::AsyncWriteExt as _;

use super::{RULES, pair};

#[tokio::test]
async fn a_denial_that_arrives_while_a_request_is_open_ends_it() {
    let mesh = Mesh::strict();
    let pair = pair(&mesh, RULES).await;
    let mut waiting = pair.client().await;
    let mut halfway = pair.client().await;
    waiting.send("GET /held HTTP/1.1\r\nHost: db\r\n\r\n").await.unwrap();
    halfway
        .send("GET /half-held HTTP/1.1\r\nHost: db\r\n\r\n")
        .await
        .unwrap();
    halfway
        .expect(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
        .await;
    eventually("both requests reached the application", async || {
        (pair.app.requests() == 2).then_some(())
    })
    .await;
    mesh.write(
        "later.yaml",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: no-holding, namespace: shop}\nspec:\n  \
         selector: {matchLabels: {app: db}}\n  action: DENY\n  rules: [{to: [{operation: {paths: ['*held']}}]}]\n",
    );
    let answer = waiting.answer().await;
    assert_eq!(answer.status, 403, "nothing of a response had been sent yet");
    assert!(halfway.is_over().await, "a response that has begun is broken off");
}

#[tokio::test]
async fn a_drain_loses_no_request_that_is_under_way() {
    let mesh = Mesh::strict();
    let mut pair = pair(&mesh, "").await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = pair.client().await;
        client.send("GET /held HTTP/1.1\r\nHost: db\r\n\r\n").await.unwrap();
        clients.push(client);
    }
    eventually("all requests reached the application", async || {
        (pair.app.requests() == 5).then_some(())
    })
    .await;
    pair.db.process.signal(squire_tests::Signal::TERM);
    pair.db.process.said(&["drain"]).await;
    pair.app.release.notify_waiters();
    for mut client in clients {
        assert_eq!(client.answer().await.text(), "released");
    }
    assert!(pair.db.process.ended().await.success());
}

#[tokio::test]
async fn connections_that_the_kernel_had_taken_when_the_drain_began_are_served() {
    let mesh = Mesh::strict();
    let mut pair = pair(&mesh, "").await;
    assert_eq!(pair.client().await.get("/first").await.status, 200);
    // The sidecar is kept from accepting; for their clients these connections stand, and their requests have been sent.
    pair.web.process.signal(squire_tests::Signal::STOP);
    let mut queued = Vec::new();
    for _ in 0..300 {
        let mut client = pair.client().await;
        client.send("GET /queued HTTP/1.1\r\nHost: db\r\n\r\n").await.unwrap();
        queued.push(client);
    }
    pair.web.process.signal(squire_tests::Signal::TERM);
    pair.web.process.signal(squire_tests::Signal::CONT);
    for mut client in queued {
        assert_eq!(client.answer().await.status, 200);
    }
    assert!(pair.web.process.ended().await.success());
    let log = pair.web.process.log();
    assert!(log.contains("drained cut=0"), "{log}");
}

#[tokio::test]
async fn an_end_that_breaks_off_is_told_to_the_other_and_counted_by_whose_it_was() {
    let mesh = Mesh::strict();
    let pair = pair(&mesh, "").await;
    let mut client = pair.client().await;
    client.send("GET /breaks HTTP/1.1\r\nHost: db\r\n\r\n").await.unwrap();
    client
        .expect(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")
        .await;
    assert!(client.is_over().await, "a body that broke off never looks whole");
    let reset = [("direction", "inbound"), ("flag", "upstream_reset")];
    pair.db.counts("squire_requests_total", &reset, 1.0).await;

    let mut client = pair.client().await;
    assert_eq!(
        client.get("/nonsense").await.status,
        502,
        "an ambiguous response is not passed on"
    );
    assert_eq!(
        client.ask("POST /silent HTTP/1.1\r\nHost: db\r\n\r\n").await.status,
        502
    );
    assert_eq!(
        client.get("/switches").await.status,
        502,
        "nobody asked for another protocol, so nothing may pass as one"
    );
    assert_eq!(client.get("/fine").await.status, 200, "the client's connection goes on");

    let mut gone = pair.client().await;
    gone.send("POST /p HTTP/1.1\r\nHost: db\r\nContent-Length: 1000\r\n\r\npart")
        .await
        .unwrap();
    eventually("the request is under way", async || {
        (pair.app.requests() >= 6).then_some(())
    })
    .await;
    drop(gone);
    let gone = [("direction", "inbound"), ("flag", "client_gone")];
    pair.db.counts("squire_requests_total", &gone, 1.0).await;
}

#[tokio::test]
async fn an_application_that_is_not_there_is_a_503_and_a_denied_peer_gets_a_403() {
    let mesh = Mesh::strict();
    mesh.allow("only-web", "db", &["web"]);
    let nobody = squire_tests::apps::echo().await;
    let address = nobody.address();
    drop(nobody);
    let db = mesh.pod("db").serves(8080, address);
    let web = mesh.pod("web").reaches("db:8080");
    let batch = mesh.pod("batch").reaches("db:8080");
    mesh.start().await;
    let (db, web, batch) = tokio::join!(db.start(), web.start(), batch.start());
    let mut client = Client::connect(web.to("db:8080")).await.unwrap();
    assert_eq!(client.get("/").await.status, 503);
    let mut client = Client::connect(batch.to("db:8080")).await.unwrap();
    assert_eq!(client.get("/").await.status, 403);
    db.counts("squire_requests_total", &[("flag", "unreachable")], 1.0)
        .await;
}

#[tokio::test]
async fn clients_that_drip_their_heads_or_never_read_are_bounded_and_others_are_served() {
    let mesh = Mesh::strict();
    let Pair { app: _app, db, web } = Pair::with(&mesh, Mirror::start().await, &["limits.headTimeout=1s"]).await;
    let before = web.process.resident_kib();
    let mut crowd = Vec::new();
    for nth in 0..300 {
        let mut client = Client::connect(web.to("db:8080")).await.unwrap();
        // Half of them never end their heads; the others ask for much and read none of it.
        let request = if nth % 2 == 0 {
            "GET /slow HTTP/1.1\r\nHost: db\r\nX-A: ".to_owned()
        } else {
            format!(
                "POST /large HTTP/1.1\r\nHost: db\r\nContent-Length: 40000\r\n\r\n{}",
                "z".repeat(40_000)
            )
        };
        client.send(&request).await.unwrap();
        crowd.push(client);
    }
    let mut steady = Client::connect(web.to("db:8080")).await.unwrap();
    assert_eq!(steady.get("/fine").await.status, 200);
    web.counts("squire_http_refused_total", &[("reason", "slow_head")], 150.0)
        .await;
    assert_eq!(crowd[0].answer().await.status, 408);
    assert!(crowd[0].is_over().await);
    assert_eq!(steady.get("/fine").await.status, 200);
    let grown = web.process.resident_kib().saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB for 300 clients that take their time");
    drop(db);
}

#[tokio::test]
async fn a_client_that_closes_its_half_behind_its_request_gets_the_whole_response() {
    let mesh = Mesh::strict();
    let pair = pair(&mesh, "").await;
    let mut client = pair.client().await;
    client
        .send("POST /held HTTP/1.1\r\nHost: db\r\nContent-Length: 4\r\n\r\nbody")
        .await
        .unwrap();
    client.stream.shutdown().await.unwrap();
    eventually("the request reached the application", async || {
        (pair.app.requests() == 1).then_some(())
    })
    .await;
    pair.app.release.notify_waiters();
    assert_eq!(client.answer().await.text(), "released");
    assert!(client.is_over().await);
    pair.db
        .counts(
            "squire_requests_total",
            &[("direction", "inbound"), ("flag", "ok")],
            1.0,
        )
        .await;
}
