//! Clients of HTTP/1 that take nothing, or next to nothing, of what they have asked for.

use std::time::Duration;

use squire_tests::{
    Mesh, apps,
    http::{Client, read_head},
    in_time,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::sleep,
};

/// Answers `/endless` with a body that nobody will see the end of.
async fn endless(mut stream: TcpStream) {
    let mut rest = Vec::new();
    while let Ok(Some(head)) = read_head(&mut stream, &mut rest).await {
        let is_endless = head.starts_with("GET /endless ");
        let answer = match is_endless {
            true => "HTTP/1.1 200 OK\r\nContent-Length: 1099511627776\r\n\r\n",
            false => "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine",
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        if is_endless {
            let block = vec![b'z'; 64 * 1024];
            while stream.write_all(&block).await.is_ok() {}
            return;
        }
    }
}

#[tokio::test]
async fn clients_that_read_nothing_or_a_byte_at_a_time_are_bounded_then_given_up_and_others_are_served() {
    let mesh = Mesh::strict();
    let app = apps::serving(endless).await;
    let db = mesh.pod("db").serves(8080, app.address());
    // Only of the sidecar whose clients they are: its peer would lose patience in the same moment.
    let web = mesh.pod("web").reaches("db:8080").set("limits.stallTimeout=2s");
    mesh.start().await;
    let (db, web) = tokio::join!(db.start(), web.start());
    let before = [&db, &web].map(|sidecar| sidecar.process.resident_kib());
    let mut idle = Vec::new();
    let mut dripping = JoinSet::new();
    for nth in 0..10 {
        let mut client = Client::connect(web.to("db:8080")).await.unwrap();
        client.send("GET /endless HTTP/1.1\r\nHost: db\r\n\r\n").await.unwrap();
        if nth % 2 == 0 {
            idle.push(client);
            continue;
        }
        dripping.spawn(async move {
            while matches!(client.stream.read(&mut [0; 1]).await, Ok(1)) {
                sleep(Duration::from_millis(50)).await;
            }
        });
    }
    let mut steady = Client::connect(web.to("db:8080")).await.unwrap();
    assert_eq!(steady.get("/").await.text(), "fine");
    web.counts("squire_http_refused_total", &[("reason", "stalled")], 10.0)
        .await;
    let gone = [("direction", "outbound"), ("status", "200"), ("flag", "client_gone")];
    web.counts("squire_requests_total", &gone, 10.0).await;
    assert_eq!(steady.get("/").await.text(), "fine");
    for (sidecar, before) in [&db, &web].into_iter().zip(before) {
        let grown = sidecar.process.resident_kib().saturating_sub(before);
        assert!(grown < 32 * 1024, "{grown} KiB for ten clients that take nothing");
    }
    for mut client in idle {
        // What the kernel had for it is followed by no orderly end.
        let end = in_time("the end", client.stream.read_to_end(&mut Vec::new())).await;
        assert!(end.is_err(), "a body that was broken off must not look whole");
    }
}
