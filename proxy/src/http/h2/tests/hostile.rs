//! Clients that break the protocol, or use it to wear the sidecar out. Each is refused or bounded, by name, and the others
//! are served as before.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// HPACK for `GET http://db/`, without the dynamic table.
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x01, 2, b'd', b'b'];

fn hello() -> Vec<u8> {
    [&PREFACE[..], &frame(4, 0, 0, &[])].concat()
}

/// Sends what `round` makes, over and over, until the sidecar closes; reads all it says meanwhile.
async fn flood(io: DuplexStream, mut round: impl FnMut(u32) -> Vec<u8>) -> Vec<u8> {
    let (mut read, mut write) = tokio::io::split(io);
    let reading = tokio::spawn(async move {
        let mut said = Vec::new();
        let _ = read.read_to_end(&mut said).await;
        said
    });
    let _ = write.write_all(&hello()).await;
    for number in 0..200_000 {
        if reading.is_finished() || write.write_all(&round(number)).await.is_err() {
            break;
        }
    }
    drop(write);
    soon(reading).await.unwrap()
}

/// The code of the last GOAWAY among frames.
fn goaway(mut said: &[u8]) -> Option<u32> {
    let mut code = None;
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = said {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let payload = rest.get(..length)?;
        if *kind == 7 {
            code = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
        said = &rest[length..];
    }
    code
}

/// Another client of the same sidecar is served.
async fn others_are_served(rig: &Rig, app: SocketAddr) {
    let (io, ..) = rig.inbound(app);
    let (mut client, _) = client(io).await;
    assert_eq!(get(&mut client, "/", &[]).await.unwrap().status(), 200);
}

const ENHANCE_YOUR_CALM: Option<u32> = Some(11);

#[tokio::test]
async fn floods_are_named_and_ended() {
    let rig = rig(&Table::default());
    let (app, _) = app().await;
    type Round = fn(u32) -> Vec<u8>;
    let floods: [(&str, Round); 6] = [
        ("ping_flood", |_| frame(6, 0, 0, b"pingping")),
        ("settings_flood", |_| frame(4, 0, 0, &[0, 4, 0, 0, 255, 255])),
        ("frame_flood", |_| frame(2, 0, 1, &[0, 0, 0, 0, 1])),
        ("rapid_reset", |n| {
            [frame(1, 5, 2 * n + 1, GET), frame(3, 0, 2 * n + 1, &[0, 0, 0, 8])].concat()
        }),
        ("continuation_flood", |n| match n {
            0 => frame(1, 1, 1, GET),
            _ => frame(9, 0, 1, &[]),
        }),
        ("tiny_frames", |n| match n {
            0 => frame(1, 4, 1, GET),
            _ => frame(0, 0, 1, &[]),
        }),
    ];
    for (name, round) in floods {
        let (io, _, serving) = rig.inbound(app);
        let said = flood(io, round).await;
        assert_eq!(goaway(&said), ENHANCE_YOUR_CALM, "{name}");
        soon(serving).await.unwrap();
        let reason = format!("reason=\"{name}\"");
        assert_eq!(rig.metric("squire_http2_refused_total", &[&reason]), 1.0, "{name}");
        others_are_served(&rig, app).await;
    }
}

#[tokio::test]
async fn a_header_list_beyond_the_limit_is_refused() {
    let rig = rig(&Table::default());
    let (app, _) = app().await;
    let (io, ..) = rig.inbound(app);
    let (mut client, _) = client(io).await;
    let value = "x".repeat(70_000);
    let answer = get(&mut client, "/", &[("x-large", &value)]).await;
    assert!(answer.is_err() || answer.is_ok_and(|response| response.status() == 431));
    others_are_served(&rig, app).await;
}

#[tokio::test]
async fn what_is_not_http2_is_refused() {
    let limits = Limits {
        preface: Duration::from_millis(100),
        ..Limits::default()
    };
    let rig = rig_with(&Table::default(), limits);
    let (mut io, _, serving) = rig.inbound(app().await.0);
    io.write_all(b"PRI * HTTP/2.0\r\n\r\nno\r\n\r\n").await.unwrap();
    soon(serving).await.unwrap();
    let (mut silent, _, serving) = rig.inbound(app().await.0);
    silent.write_all(&PREFACE[..9]).await.unwrap();
    soon(serving).await.unwrap();
    assert_eq!(rig.metric("squire_http2_refused_total", &["\"preface\""]), 2.0);
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused_each() {
    let limits = Limits {
        max_streams: 5,
        ..Limits::default()
    };
    let rig = rig_with(&Table::default(), limits);
    let (app, _) = app().await;
    let (mut io, ..) = rig.inbound(app);
    let never: &[u8] = &[
        0x82, 0x86, 0x04, 6, b'/', b'n', b'e', b'v', b'e', b'r', 0x01, 2, b'd', b'b',
    ];
    io.write_all(&hello()).await.unwrap();
    for n in 0..8 {
        io.write_all(&frame(1, 5, 2 * n + 1, never)).await.unwrap();
    }
    let mut said = Vec::new();
    let refused = |said: &[u8]| {
        said.windows(13)
            .filter(|bytes| bytes[..5] == [0, 0, 4, 3, 0] && bytes[9..] == [0, 0, 0, 7])
            .count()
    };
    let reading = async {
        while refused(&said) < 3 {
            assert!(io.read_buf(&mut said).await.unwrap() > 0);
        }
    };
    soon(reading).await;
    others_are_served(&rig, app).await;
}

#[tokio::test]
async fn a_client_that_never_takes_its_response_is_given_up() {
    let limits = Limits {
        stall: Duration::from_millis(200),
        ..Limits::default()
    };
    let rig = rig_with(&Table::default(), limits);
    let (app, _) = app().await;
    let (io, ..) = rig.inbound(app);
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(0);
    let (mut send, connection) = builder.handshake::<_, Bytes>(io).await.unwrap();
    tokio::spawn(connection);
    let (response, _) = send.send_request(request("/endless", &[]), true).unwrap();
    let mut body = soon(response).await.unwrap().into_body();
    let error = soon(body.data()).await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(h2::Reason::ENHANCE_YOUR_CALM));
    rig.counted("squire_http2_refused_total", &["stalled"], 1.0).await;
    // Only the stream: what has no body to take is still served.
    assert_eq!(get(&mut send, "/", &[]).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_client_that_has_gone_silent_with_streams_open_is_given_up() {
    let limits = Limits {
        silence: Duration::from_millis(100),
        ..Limits::default()
    };
    let rig = rig_with(&Table::default(), limits);
    let (app, _) = app().await;
    let (mut silent, _, serving) = rig.inbound(app);
    let never: &[u8] = &[
        0x82, 0x86, 0x04, 6, b'/', b'n', b'e', b'v', b'e', b'r', 0x01, 2, b'd', b'b',
    ];
    silent.write_all(&hello()).await.unwrap();
    silent.write_all(&frame(1, 5, 1, never)).await.unwrap();
    // One that answers PING stays.
    let (io, _, patient) = rig.inbound(app);
    let (mut client, _) = client(io).await;
    let (_waiting, _) = client.send_request(request("/never", &[]), true).unwrap();
    soon(serving).await.unwrap();
    assert_eq!(rig.metric("squire_http2_refused_total", &["stalled"]), 1.0);
    assert!(!patient.is_finished());
    assert_eq!(get(&mut client, "/", &[]).await.unwrap().status(), 200);
}
