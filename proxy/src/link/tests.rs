//! Two links over a real handshake and real sockets, with applications at both ends.

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{
    chunk::RECORD_PLAINTEXT,
    tls::fixture::{Ca, DB, handshake, sockets},
    tls::records::Engine,
};

const SQUIRE: &[u8] = squire_mesh::ports::ALPN_SQUIRE;
const PLAIN: &[u8] = squire_mesh::ports::ALPN_SPIFFE_TLS;

async fn links(alpn: &[u8]) -> (Link, Link) {
    links_with(alpn, (Engine::Squire, Engine::Squire)).await
}

async fn links_with(alpn: &[u8], engines: (Engine, Engine)) -> (Link, Link) {
    let framing = framing_of(alpn).unwrap();
    let (client, server) = handshake(&Ca::new(), DB, (&[alpn], &[alpn]), engines).await;
    ((client.unwrap(), framing).into(), (server.unwrap(), framing).into())
}

/// Sends everything that `app` says; then flushes.
async fn send_all(link: &mut Link, app: &TcpStream) -> usize {
    let mut total = 0;
    loop {
        match std::future::poll_fn(|cx| link.poll_pump(app, cx)).await.unwrap() {
            Pumped::Bytes(count) => total += count,
            Pumped::End(count) => {
                link.flush().await.unwrap();
                return total + count;
            }
        }
    }
}

/// Delivers to `app` until the peer ends its half.
async fn receive_all(link: &mut Link, app: &TcpStream) -> Event {
    loop {
        match link.event().await.unwrap() {
            Event::Data => {
                while link.has_data() {
                    std::future::poll_fn(|cx| link.poll_deliver(app, cx)).await.unwrap();
                }
            }
            other => {
                let _ = crate::socket::shutdown_write(app);
                return other;
            }
        }
    }
}

/// Carries `bytes` from one application to the other and returns what arrived, with the event that ended it.
async fn carry(from: &mut Link, to: &mut Link, bytes: Vec<u8>, piece: usize) -> (Vec<u8>, Event) {
    let (mut writer, app) = sockets().await;
    let (far_app, mut reader) = sockets().await;
    let length = bytes.len();
    let write = async {
        for piece in bytes.chunks(piece.max(1)) {
            writer.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        writer.shutdown().await.unwrap();
    };
    let read = async {
        let mut got = Vec::new();
        reader.read_to_end(&mut got).await.unwrap();
        got
    };
    let ((), sent, end, got) = tokio::join!(write, send_all(from, &app), receive_all(to, &far_app), read);
    assert_eq!(sent, length);
    (got, end)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + i / 251) as u8).collect()
}

#[tokio::test]
async fn every_size_around_the_record_and_chunk_limits_arrives_whole() {
    let (mut a, mut b) = links(SQUIRE).await;
    for base in [
        0,
        1,
        RECORD_PLAINTEXT,
        2 * RECORD_PLAINTEXT,
        4 * RECORD_PLAINTEXT,
        16 * RECORD_PLAINTEXT,
    ] {
        for delta in -9i64..=9 {
            let length = usize::try_from(base as i64 + delta).unwrap_or(0);
            let (got, end) = carry(&mut a, &mut b, pattern(length), usize::MAX).await;
            assert!(got == pattern(length), "{length} bytes");
            assert_eq!(end, Event::Fin);
        }
    }
}

#[tokio::test]
async fn application_connections_follow_one_another_on_one_link() {
    let (mut a, mut b) = links(SQUIRE).await;
    for sequence in 1..50 {
        a.push(Control::Open { sequence, id: 7 });
        let opened = async { b.event().await.unwrap() };
        let (flushed, event) = tokio::join!(a.flush(), opened);
        flushed.unwrap();
        assert_eq!(event, Event::Open { sequence, id: 7 });
        let (there, _) = carry(&mut a, &mut b, pattern(1000), 100).await;
        let (back, _) = carry(&mut b, &mut a, pattern(30_000), 5000).await;
        assert!(there == pattern(1000) && back == pattern(30_000));
    }
}

#[tokio::test]
async fn our_records_and_those_of_rustls_understand_each_other() {
    for engines in [
        (Engine::Squire, Engine::Rustls),
        (Engine::Rustls, Engine::Squire),
        (Engine::Rustls, Engine::Rustls),
    ] {
        for alpn in [SQUIRE, PLAIN] {
            let (mut a, mut b) = links_with(alpn, engines).await;
            a.records.refresh_after(3);
            b.records.refresh_after(3);
            let (there, _) = carry(&mut a, &mut b, pattern(200_000), 50_000).await;
            let (back, _) = carry(&mut b, &mut a, pattern(70_000), 700).await;
            assert!(there == pattern(200_000) && back == pattern(70_000), "{engines:?}");
        }
    }
}

#[tokio::test]
async fn plain_framing_carries_bytes_alone_and_ends_with_close_notify() {
    let (mut a, mut b) = links(PLAIN).await;
    let (got, end) = carry(&mut a, &mut b, pattern(100_000), 7777).await;
    assert!(got == pattern(100_000));
    assert_eq!(end, Event::Closed { orderly: true });
    let (back, end) = carry(&mut b, &mut a, pattern(5), 5).await;
    assert_eq!((back, end), (pattern(5), Event::Closed { orderly: true }));
}

#[tokio::test]
async fn a_tcp_end_without_close_notify_is_not_orderly() {
    let (a, mut b) = links(PLAIN).await;
    drop(a);
    assert_eq!(b.event().await.unwrap(), Event::Closed { orderly: false });
}

#[tokio::test]
async fn keys_are_updated_under_way_and_on_request_without_losing_a_byte() {
    let (mut a, mut b) = links(SQUIRE).await;
    a.records.refresh_after(3);
    b.records.refresh_after(2);
    for round in 0..20 {
        let (got, _) = carry(&mut a, &mut b, pattern(40_000), 9000).await;
        assert!(got == pattern(40_000), "round {round}");
        let (got, _) = carry(&mut b, &mut a, pattern(700), 90).await;
        assert!(got == pattern(700), "round {round}");
    }
    assert!(a.records.updates() > 5 && b.records.updates() > 5);
}

#[tokio::test]
async fn an_altered_record_ends_the_link() {
    let (mut a, b) = links(SQUIRE).await;
    let Link {
        tcp,
        mut records,
        receiver,
        sender,
        framing,
        retired,
    } = b;
    let mut record = [0; 128];
    record[5..10].copy_from_slice(b"hello");
    let length = records.seal(&mut record, 5).unwrap();
    record[8] ^= 1;
    let mut b = Link {
        tcp,
        records,
        receiver,
        sender,
        framing,
        retired,
    };
    b.tcp.write_all(&record[..length]).await.unwrap();
    assert!(matches!(
        a.event().await,
        Err(LinkError::Record(RecordError::Unauthentic))
    ));
}

#[tokio::test]
async fn an_idle_link_holds_no_buffer() {
    let (mut a, mut b) = links(SQUIRE).await;
    carry(&mut a, &mut b, pattern(1000), 1000).await;
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(b.poll_event(&mut cx).is_pending());
    assert!(!b.receiver.holds_buffer() && !a.sender.holds_buffer());
    // What an idle application connection costs in each sidecar is mostly this.
    assert!(size_of::<Link>() <= 400, "a link takes {} bytes", size_of::<Link>());
}

#[tokio::test]
async fn a_half_closed_application_connection_holds_no_buffer_while_the_other_half_lives() {
    let (mut a, mut b) = links(SQUIRE).await;
    a.push(Control::Fin);
    a.flush().await.unwrap();
    assert_eq!(b.event().await.unwrap(), Event::Fin);
    assert!(!b.receiver.holds_buffer());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_bytes_in_any_pieces_arrive_in_order(length in 0usize..300_000, piece in 1usize..70_000) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut a, mut b) = links(SQUIRE).await;
            let (got, _) = carry(&mut a, &mut b, pattern(length), piece).await;
            assert!(got == pattern(length));
        });
    }
}
