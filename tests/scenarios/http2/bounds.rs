//! What one client may cost over HTTP/2: the size of its header lists, and what waits for it when it does not read.

use bytes::Bytes;
use squire_tests::{
    Mesh, Pair, eventually,
    http2::{Http2App, client, frame, get, request},
    in_time,
    pattern::Pattern,
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use super::{RULES, pair};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[tokio::test]
async fn a_header_list_that_is_too_large_is_a_431_counted_and_logged_and_the_connection_goes_on() {
    let mesh = Mesh::strict();
    let Pair { app, db: _db, web } = pair(&mesh, RULES, Http2App::start("db").await).await;
    let mut client = client(web.to("db:8080")).await;
    assert_eq!(get(&mut client, "/open").await.status(), 200);
    let mut large = request("/open");
    for nth in 0..40 {
        let name = http::HeaderName::try_from(format!("x-{nth}")).unwrap();
        large.headers_mut().insert(name, "x".repeat(2000).try_into().unwrap());
    }
    let mut ready = client.clone().ready().await.unwrap();
    let (response, _) = ready.send_request(large, true).unwrap();
    assert_eq!(in_time("a response", response).await.unwrap().status(), 431);
    assert_eq!(get(&mut client, "/open").await.status(), 200, "on the same connection");
    assert_eq!(app.requests(), 2, "it did not reach the application");
    let counted = [("reason", "header_list")];
    web.counts("squire_http2_refused_total", &counted, 1.0).await;
    let refused = [("direction", "outbound"), ("status", "431"), ("flag", "malformed")];
    web.counts("squire_requests_total", &refused, 1.0).await;
    web.logged(&[("event", "request"), ("flag", "malformed"), ("version", "HTTP/2")])
        .await;

    // Few bytes that stand for many: a field of 3 KiB is kept in HPACK's table, and named 12,000 times.
    let before = web.process.resident_kib();
    let mut block = vec![0x82, 0x86, 0x84, 0x01, 2, b'd', b'b', 0x40, 1, b'x', 0x7f, 0xa1, 0x16];
    block.extend([b'v'; 0x7f + 0x21 + (0x16 << 7)]);
    block.extend([0xbe; 12_000]);
    let mut bomber = TcpStream::connect(web.to("db:8080")).await.unwrap();
    let bomb = [PREFACE, &frame(4, 0, 0, &[]), &frame(1, 5, 1, &block)].concat();
    bomber.write_all(&bomb).await.unwrap();
    web.counts("squire_http2_refused_total", &counted, 2.0).await;
    let grown = web.process.resident_kib().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB for a block of 15 KiB");
    assert_eq!(get(&mut client, "/open").await.status(), 200);
}

#[tokio::test]
async fn clients_that_take_nothing_of_their_streams_are_bounded_then_given_up_and_others_are_served() {
    /// HPACK for `GET http://db/pattern/64`.
    const GET: &[u8] = &[
        0x82, 0x86, 0x04, 11, b'/', b'p', b'a', b't', b't', b'e', b'r', b'n', b'/', b'6', b'4', 0x01, 2, b'd', b'b',
    ];
    let mesh = Mesh::strict();
    let app = Http2App::start("db").await;
    let db = mesh.pod("db").serves(8080, app.address());
    // Only of the sidecar whose clients they are: its peer would lose patience in the same moment.
    let web = mesh.pod("web").reaches("db:8080").set("limits.stallTimeout=2s");
    mesh.start().await;
    let (db, web) = tokio::join!(db.start(), web.start());
    let mut other = client(web.to("db:8080")).await;
    assert_eq!(get(&mut other, "/open").await.status(), 200);
    let before = [&db, &web].map(|sidecar| sidecar.process.resident_kib());
    let mut crowd = Vec::new();
    for nth in 0..10 {
        // Half of them keep every window shut; the others open them wide, and do not read what comes.
        let window: u32 = if nth % 2 == 0 { 0 } else { 0x7fff_0000 };
        let settings = [&[0, 4][..], &window.to_be_bytes()].concat();
        let more = 0x7fff_0000_u32 - 0xffff;
        let mut hello = [
            PREFACE,
            &frame(4, 0, 0, &settings),
            &frame(8, 0, 0, &more.to_be_bytes()),
        ]
        .concat();
        for stream in 0..4 {
            hello.extend(frame(1, 5, 2 * stream + 1, GET));
        }
        let mut client = TcpStream::connect(web.to("db:8080")).await.unwrap();
        client.write_all(&hello).await.unwrap();
        crowd.push(client);
    }
    eventually("all requests are open", async || (app.requests() == 41).then_some(())).await;
    let mut body = get(&mut other, "/pattern/1").await.into_body();
    let mut pattern = Pattern::default();
    while let Some(bytes) = in_time("others are served", body.data()).await {
        let bytes: Bytes = bytes.unwrap();
        pattern.check(&bytes);
        body.flow_control().release_capacity(bytes.len()).unwrap();
    }
    assert_eq!(pattern.seen(), 1 << 20);
    // Every stream, and then each connection on which not even the words about that are taken.
    web.counts("squire_http2_refused_total", &[("reason", "stalled")], 45.0)
        .await;
    let gone = [("direction", "outbound"), ("flag", "client_gone")];
    web.counts("squire_requests_total", &gone, 40.0).await;
    for (sidecar, before) in [&db, &web].into_iter().zip(before) {
        let grown = sidecar.process.resident_kib().saturating_sub(before);
        eprintln!("{grown} KiB for 40 responses that nobody takes");
        assert!(grown < 64 * 1024, "{grown} KiB for 40 responses that nobody takes");
    }
    assert_eq!(get(&mut other, "/open").await.status(), 200);
}
