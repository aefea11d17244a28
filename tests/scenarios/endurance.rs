//! Much, many and long: streams far larger than any buffer, more connections than anybody should open, and connections
//! that are silent for longer than any time limit. What may cost more on a larger machine is set in the environment:
//! `SQUIRE_TEST_STREAM_MIB` (64), `SQUIRE_TEST_CONNECTIONS` (10,000, or what the limit on open files allows).

use std::time::Instant;

use bytes::Bytes;
use squire_tests::{
    Mesh, Pair, Sidecar, alone, eventually,
    http::{Client, read_head},
    http2::{self, Http2App, frame},
    in_time,
    mirror::Mirror,
    pattern::Pattern,
    raise_file_limit,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Length of streams, in MiB.
fn length() -> u64 {
    setting("SQUIRE_TEST_STREAM_MIB", 64)
}

async fn write(stream: &mut TcpStream, mib: u64) -> std::io::Result<()> {
    let mut pattern = Pattern::default();
    for _ in 0..mib * Pattern::BLOCKS_PER_MIB {
        stream.write_all(&pattern.block()).await?;
    }
    Ok(())
}

/// Reads and checks the whole stream, of which `first` has been read already.
async fn check(stream: &mut TcpStream, first: &[u8], mib: u64) -> std::io::Result<()> {
    let mut pattern = Pattern::default();
    pattern.check(first);
    let mut buffer = vec![0; 256 * 1024];
    while pattern.seen() < mib << 20 {
        let left = usize::try_from((mib << 20) - pattern.seen()).unwrap().min(buffer.len());
        match stream.read(&mut buffer[..left]).await? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            read => pattern.check(&buffer[..read]),
        }
    }
    Ok(())
}

fn holds_little(sidecars: [&Sidecar; 2], what: &str) {
    for sidecar in sidecars {
        let resident = sidecar.process.resident_kib();
        assert!(resident < 96 * 1024, "{resident} KiB are resident after {what}");
    }
}

#[tokio::test]
async fn a_body_of_any_length_arrives_byte_by_byte_over_http_1_and_is_never_held() {
    let mib = length();
    let mesh = Mesh::strict();
    let app = squire_tests::apps::serving(move |mut stream| async move {
        let mut rest = Vec::new();
        while let Ok(Some(_)) = read_head(&mut stream, &mut rest).await {
            let first = std::mem::take(&mut rest);
            if check(&mut stream, &first, mib).await.is_err() {
                return;
            }
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", mib << 20);
            if stream.write_all(head.as_bytes()).await.is_err() || write(&mut stream, mib).await.is_err() {
                return;
            }
        }
    })
    .await;
    let Pair { app: _app, db, web } = Pair::start(&mesh, app).await;
    let mut client = Client::connect(web.to("db:8080")).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nHost: db\r\nContent-Length: {}\r\n\r\n", mib << 20);
    let begun = Instant::now();
    client.send(&head).await.unwrap();
    write(&mut client.stream, mib).await.unwrap();
    let mut rest = Vec::new();
    let head = read_head(&mut client.stream, &mut rest).await.unwrap().unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    check(&mut client.stream, &rest, mib).await.unwrap();
    eprintln!("{mib} MiB each way over HTTP/1 in {:?}", begun.elapsed());
    holds_little([&db, &web], &format!("{mib} MiB each way"));
    db.counts(
        "squire_requests_total",
        &[("direction", "inbound"), ("flag", "ok")],
        1.0,
    )
    .await;
}

#[tokio::test]
async fn a_body_of_any_length_arrives_byte_by_byte_over_http_2_and_is_never_held() {
    // It passes three times.
    let mib = length() / 2;
    let mesh = Mesh::strict();
    let Pair { app: _app, db, web } = Pair::start(&mesh, Http2App::start("db").await).await;
    let mut client = http2::client(web.to("db:8080")).await;
    let begun = Instant::now();
    let mut body = http2::get(&mut client, &format!("/pattern/{mib}")).await.into_body();
    let mut pattern = Pattern::default();
    while let Some(bytes) = body.data().await {
        let bytes = bytes.unwrap();
        pattern.check(&bytes);
        body.flow_control().release_capacity(bytes.len()).unwrap();
    }
    assert_eq!(pattern.seen(), mib << 20);
    // The other way, echoed: both directions of one stream at the same time.
    let mut ready = client.clone().ready().await.unwrap();
    let (response, mut sink) = ready.send_request(http2::request("/echo"), false).unwrap();
    let sending = tokio::spawn(async move {
        let mut pattern = Pattern::default();
        for _ in 0..mib * Pattern::BLOCKS_PER_MIB {
            http2::send(&mut sink, pattern.block()).await.unwrap();
        }
        sink.send_data(Bytes::new(), true).unwrap();
    });
    let mut body = in_time("a head", response).await.unwrap().into_body();
    let mut pattern = Pattern::default();
    while let Some(bytes) = body.data().await {
        let bytes = bytes.unwrap();
        pattern.check(&bytes);
        body.flow_control().release_capacity(bytes.len()).unwrap();
    }
    sending.await.unwrap();
    assert_eq!(pattern.seen(), mib << 20);
    eprintln!(
        "{mib} MiB down, and as much echoed, over HTTP/2 in {:?}",
        begun.elapsed()
    );
    holds_little([&db, &web], &format!("{mib} MiB over HTTP/2"));
}

#[tokio::test]
async fn thousands_of_requests_are_open_at_once_each_on_a_connection_of_its_own_and_others_are_served() {
    // Two descriptors for each: the tests beside this one would go without.
    if !alone("endurance::thousands_of_requests_are_open_at_once_each_on_a_connection_of_its_own_and_others_are_served")
        .await
    {
        return;
    }
    let most = raise_file_limit() / 2;
    // A tenth of them has not asked for anything yet, and takes one.
    let all = usize::try_from(setting("SQUIRE_TEST_CONNECTIONS", most.min(10_000))).unwrap();
    let (silent, count) = (all / 10, all - all / 10);
    let mesh = Mesh::strict();
    mesh.write(
        "service.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: db, namespace: shop}\nspec: {clusterIP: None, selector: {app: db}, \
         ports: [{name: http-api, port: 8080, targetPort: 8080}]}\n",
    );
    let Pair { app, db, web } = Pair::start(&mesh, Mirror::start().await).await;
    let before = [&db, &web].map(|sidecar| sidecar.process.resident_kib());
    let mut quiet = Vec::with_capacity(silent);
    for _ in 0..silent {
        quiet.push(Client::connect(web.to("db:8080")).await.unwrap());
    }
    let mut crowd = Vec::with_capacity(count);
    for nth in 0..count {
        let mut client = Client::connect(web.to("db:8080")).await.unwrap();
        client.send("GET /held HTTP/1.1\r\nHost: db\r\n\r\n").await.unwrap();
        crowd.push(client);
        // Not faster than they are let in: the queue of a listener is no part of this.
        if nth % 100 == 99 {
            eventually("they have reached the application", async || {
                (app.requests() > nth).then_some(())
            })
            .await;
        }
    }
    eventually("all have reached the application", async || {
        (app.requests() == count).then_some(())
    })
    .await;
    let mut other = Client::connect(web.to("db:8080")).await.unwrap();
    assert_eq!(other.get("/fine").await.status, 200);
    let open = web
        .figure("squire_connections_open", &[("direction", "outbound")])
        .await;
    assert_eq!(open, (all + 1) as f64);
    // Where HTTP is declared, whoever has said nothing has cost the other side nothing.
    let reached = db.figure("squire_connections_open", &[("direction", "inbound")]).await;
    assert!(reached <= (count + 2) as f64, "{reached} of {count} with a request");
    for (sidecar, before) in [&db, &web].into_iter().zip(before) {
        let each = sidecar.process.resident_kib().saturating_sub(before) as f64 / count as f64;
        eprintln!("{each:.1} KiB for each of {count} open requests");
        assert!(each < 64.0, "{each} KiB for each of {count} open requests");
    }
    app.release.notify_waiters();
    // Each takes its leave once it has been answered: a client that stays keeps its way through both sidecars, and for ten
    // thousand of those the twenty thousand descriptors that a process is often allowed are too few.
    for mut client in crowd {
        assert_eq!(client.answer().await.text(), "released");
    }
    for client in &mut quiet {
        assert_eq!(client.get("/at-last").await.status, 200);
    }
    db.counts(
        "squire_requests_total",
        &[("direction", "inbound"), ("flag", "ok")],
        all as f64 + 1.0,
    )
    .await;
}

#[tokio::test]
async fn connections_that_are_silent_for_longer_than_any_limit_go_on_as_if_nothing_had_been() {
    let mesh = Mesh::strict();
    let limits = [
        "limits.headTimeout=1s",
        "limits.handshakeTimeout=1s",
        "limits.connectTimeout=1s",
    ];
    let pair = Pair::with(&mesh, Mirror::start().await, &limits).await;
    let mut kept = pair.client().await;
    assert_eq!(kept.get("/first").await.status, 200);
    let mut never_spoke = pair.client().await;
    let mut socket = pair.client().await;
    let upgrade = "GET /upgrade HTTP/1.1\r\nHost: db\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(socket.ask(upgrade).await.status, 101);
    let mut open = pair.client().await;
    open.send("GET /held HTTP/1.1\r\nHost: db\r\n\r\n").await.unwrap();
    eventually("it is open", async || pair.app.saw("/held").then_some(())).await;
    // Each of these runs into a limit of a second: by then the others have been silent for longer.
    for _ in 0..3 {
        let mut drips = pair.client().await;
        drips.send("GET / HTTP/1.1\r\nHost").await.unwrap();
        assert_eq!(drips.answer().await.status, 408);
    }
    assert_eq!(kept.get("/second").await.status, 200);
    assert_eq!(never_spoke.get("/at-last").await.status, 200);
    socket.send("frames").await.unwrap();
    socket.expect(b"frames").await;
    pair.app.release.notify_waiters();
    assert_eq!(open.answer().await.text(), "released");
}

#[tokio::test]
async fn a_client_that_is_silent_keeps_its_connection_and_no_more_than_that() {
    let mesh = Mesh::strict();
    let settings = ["pool.idleTimeout=1s"];
    let pair = Pair::with(&mesh, Mirror::start().await, &settings).await;
    let mut kept = pair.client().await;
    assert_eq!(kept.get("/first").await.status, 200);
    eventually("nothing is left of its way behind its own sidecar", async || {
        let open = pair.db.figure("squire_connections_open", &[("direction", "inbound")]);
        (open.await == 0.0).then_some(())
    })
    .await;
    let open = pair.web.figure("squire_connections_open", &[("direction", "outbound")]);
    assert_eq!(open.await, 1.0);
    assert_eq!(kept.get("/second").await.status, 200);
    assert_eq!(pair.app.connections(), 2);
}

#[tokio::test]
async fn clients_whose_windows_are_shut_are_bounded_and_get_the_rest_once_they_open_them() {
    /// HPACK for `GET http://db/pattern/1`.
    const GET: &[u8] = &[
        0x82, 0x86, 0x04, 10, b'/', b'p', b'a', b't', b't', b'e', b'r', b'n', b'/', b'1', 0x01, 2, b'd', b'b',
    ];
    let mesh = Mesh::strict();
    let Pair { app, db, web } = Pair::start(&mesh, Http2App::start("db").await).await;
    let mut other = http2::client(web.to("db:8080")).await;
    assert_eq!(http2::get(&mut other, "/open").await.status(), 200);
    let before = [&db, &web].map(|sidecar| sidecar.process.resident_kib());
    let mut crowd = Vec::new();
    for _ in 0..20 {
        let mut client = TcpStream::connect(web.to("db:8080")).await.unwrap();
        // SETTINGS_INITIAL_WINDOW_SIZE 0: not a byte of a body may be sent.
        let mut hello = [
            &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
            &frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]),
        ]
        .concat();
        for nth in 0..20 {
            hello.extend(frame(1, 5, 2 * nth + 1, GET));
        }
        client.write_all(&hello).await.unwrap();
        crowd.push(client);
    }
    eventually("all requests are open", async || (app.requests() == 401).then_some(())).await;
    // Others are served meanwhile, bodies and all.
    let mut body = http2::get(&mut other, "/pattern/1").await.into_body();
    let mut pattern = Pattern::default();
    while let Some(bytes) = in_time("others are served", body.data()).await {
        let bytes = bytes.unwrap();
        pattern.check(&bytes);
        body.flow_control().release_capacity(bytes.len()).unwrap();
    }
    assert_eq!(pattern.seen(), 1 << 20);
    for (sidecar, before) in [&db, &web].into_iter().zip(before) {
        let grown = sidecar.process.resident_kib().saturating_sub(before);
        eprintln!("{grown} KiB for 400 responses that may not be sent");
        assert!(grown < 200 * 1024, "{grown} KiB for 400 responses that may not be sent");
    }
    // Room for one stream: its whole body comes.
    let mut client = crowd.pop().unwrap();
    let more = [
        frame(8, 0, 0, &(1_u32 << 20).to_be_bytes()),
        frame(8, 0, 1, &(1_u32 << 20).to_be_bytes()),
    ]
    .concat();
    client.write_all(&more).await.unwrap();
    let mut pattern = Pattern::default();
    let body = async {
        while pattern.seen() < 1 << 20 {
            let mut head = [0; 9];
            client.read_exact(&mut head).await.unwrap();
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let mut payload = vec![0; length];
            client.read_exact(&mut payload).await.unwrap();
            if head[3] == 0 {
                assert_eq!(head[8], 1, "only the stream that has room");
                pattern.check(&payload);
            }
        }
    };
    in_time("the whole body", body).await;
}
