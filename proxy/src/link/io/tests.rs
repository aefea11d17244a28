//! Streams over two links with a real handshake between them.

use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::oneshot,
};

use super::*;
use crate::{
    link::framing_of,
    tls::{
        fixture::{Ca, DB, handshake},
        records::Engine,
    },
};

const SQUIRE: &[u8] = squire_mesh::ports::ALPN_SQUIRE;
const PLAIN: &[u8] = squire_mesh::ports::ALPN_SPIFFE_TLS;

type Back = oneshot::Receiver<(Box<Link>, Ended)>;

async fn links(alpn: &[u8]) -> (Box<Link>, Box<Link>) {
    let framing = framing_of(alpn).unwrap();
    let engines = (Engine::Squire, Engine::Squire);
    let (client, server) = handshake(&Ca::new(), DB, (&[alpn], &[alpn]), engines).await;
    (
        Box::new((client.unwrap(), framing).into()),
        Box::new((server.unwrap(), framing).into()),
    )
}

fn coming_back() -> (Return, Back) {
    let (sender, receiver) = oneshot::channel();
    let give_back = move |link, ended| {
        let _ = sender.send((link, ended));
    };
    (Box::new(give_back), receiver)
}

/// The dialling side's stream, and the accepting side's once OPEN has arrived.
async fn streams(near: Box<Link>, mut far: Box<Link>, sequence: u32) -> ((LinkStream, Back), (LinkStream, Back)) {
    let (give_back, near_back) = coming_back();
    let mut near = LinkStream::open(near, sequence, 7, give_back);
    near.flush().await.unwrap();
    assert_eq!(far.event().await.unwrap(), Event::Open { sequence, id: 7 });
    let (give_back, far_back) = coming_back();
    let far = LinkStream::accepted(far, sequence, give_back);
    ((near, near_back), (far, far_back))
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + i / 251) as u8).collect()
}

/// Writes in pieces, closes its half, and reads the other to its end.
async fn exchange(mut stream: LinkStream, bytes: Vec<u8>, piece: usize) -> (Vec<u8>, LinkStream) {
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let mut got = Vec::new();
    let writing = async {
        for piece in bytes.chunks(piece.max(1)) {
            write.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        write.shutdown().await.unwrap();
    };
    let ((), read) = tokio::join!(writing, read.read_to_end(&mut got));
    read.unwrap();
    (got, stream)
}

#[tokio::test]
async fn a_link_comes_back_once_both_halves_are_closed_and_carries_the_next_connection() {
    let (mut a, mut b) = links(SQUIRE).await;
    for sequence in 1..20 {
        let ((near, near_back), (far, far_back)) = streams(a, b, sequence).await;
        let (there, back) = (pattern(sequence as usize * 9000), pattern(100));
        let ((got_back, near), (got_there, far)) = tokio::join!(
            exchange(near, there.clone(), 4000),
            exchange(far, back.clone(), usize::MAX)
        );
        assert!(got_there == there && got_back == back);
        // The streams are still held: the links do not wait for that.
        let ended;
        (a, ended) = near_back.await.unwrap();
        assert_eq!(ended, Ended::Complete);
        let ended;
        (b, ended) = far_back.await.unwrap();
        assert_eq!(ended, Ended::Complete);
        drop((near, far));
    }
}

#[tokio::test]
async fn one_half_closes_without_the_other() {
    let (a, b) = links(SQUIRE).await;
    let ((mut near, mut near_back), (mut far, _far_back)) = streams(a, b, 1).await;
    near.write_all(b"question").await.unwrap();
    near.shutdown().await.unwrap();
    assert!(near.write_all(b"more").await.is_err(), "our half is closed");
    let mut got = Vec::new();
    far.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"question");
    assert!(near_back.try_recv().is_err(), "the peer may still send");
    far.write_all(b"answer").await.unwrap();
    far.shutdown().await.unwrap();
    let mut got = Vec::new();
    near.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"answer");
    assert_eq!(near_back.await.unwrap().1, Ended::Complete);
}

#[tokio::test]
async fn a_dropped_stream_resets_the_peer_and_the_link_is_used_again() {
    let (a, b) = links(SQUIRE).await;
    let ((mut near, near_back), (mut far, far_back)) = streams(a, b, 1).await;
    near.write_all(&pattern(50_000)).await.unwrap();
    far.write_all(&pattern(50_000)).await.unwrap();
    far.flush().await.unwrap();
    near.flush().await.unwrap();
    drop(near);
    let (mut a, ended) = near_back.await.unwrap();
    assert_eq!(ended, Ended::Aborted { answered: false });

    let mut got = Vec::new();
    let error = far.read_to_end(&mut got).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(
        far.write(b"x").await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    drop(far);
    let (mut b, ended) = far_back.await.unwrap();
    assert_eq!(ended, Ended::Aborted { answered: true });

    let (near_agrees, far_agrees) = tokio::join!(a.settle(1, false), b.settle(1, true));
    assert!(near_agrees && far_agrees);
    let ((near, _), (far, _)) = streams(a, b, 2).await;
    let ((_, near), (got, far)) = tokio::join!(exchange(near, pattern(5), 5), exchange(far, pattern(5), 5));
    assert_eq!(got, pattern(5));
    drop((near, far));
}

#[tokio::test]
async fn the_peer_learns_the_reason_of_an_abort() {
    let (a, b) = links(SQUIRE).await;
    let ((mut near, _near_back), (far, far_back)) = streams(a, b, 1).await;
    far.abort(ResetReason::Denied);
    let error = near.read_u8().await.unwrap_err();
    assert!(error.to_string().contains("Denied"), "{error}");
    assert_eq!(far_back.await.unwrap().1, Ended::Aborted { answered: false });
}

#[tokio::test]
async fn a_link_that_breaks_is_an_error_and_never_comes_back() {
    let (a, b) = links(SQUIRE).await;
    let ((mut near, near_back), (far, _)) = streams(a, b, 1).await;
    // The peer's process ends: no RESET, no FIN.
    let mut far = far;
    drop(far.link.take());
    let error = near.read_u8().await.unwrap_err();
    assert!(
        matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
        ),
        "{error}"
    );
    assert!(near_back.await.is_err(), "nobody gets a broken link");
    assert!(near.write(b"x").await.is_err() && near.read_u8().await.is_err());
}

#[tokio::test]
async fn with_plain_framing_the_stream_ends_by_close_notify_and_the_link_with_it() {
    let (a, b) = links(PLAIN).await;
    let (give_back, back) = coming_back();
    let near = LinkStream::accepted(a, 0, give_back);
    let (give_back, _) = coming_back();
    let far = LinkStream::accepted(b, 0, give_back);
    let ((got_back, near), (got_there, far)) =
        tokio::join!(exchange(near, pattern(100_000), 7777), exchange(far, pattern(10), 10));
    assert!(got_there == pattern(100_000) && got_back == pattern(10));
    assert!(back.await.is_err(), "a plain link carries one application connection");
    drop((near, far));
}

#[tokio::test]
async fn a_writer_waits_for_a_peer_that_does_not_read() {
    let (a, b) = links(SQUIRE).await;
    let ((mut near, _near_back), (mut far, _far_back)) = streams(a, b, 1).await;
    let block = pattern(100_000);
    let mut sent = 0;
    let mut cx = Context::from_waker(Waker::noop());
    while let Poll::Ready(done) = Pin::new(&mut near).poll_write(&mut cx, &block) {
        sent += done.unwrap();
        assert!(sent < 1 << 30, "nothing holds the writer back");
    }
    let finish = async {
        near.flush().await.unwrap();
        near.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let ((), read) = tokio::join!(finish, far.read_to_end(&mut got));
    assert_eq!(read.unwrap(), sent);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_bytes_in_any_pieces_arrive_in_order_both_ways(
        there in (0usize..300_000, 1usize..70_000),
        back in (0usize..300_000, 1usize..70_000),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (a, b) = links(SQUIRE).await;
            let ((near, near_back), (far, far_back)) = streams(a, b, 1).await;
            let ((got_back, _near), (got_there, _far)) = tokio::join!(
                exchange(near, pattern(there.0), there.1),
                exchange(far, pattern(back.0), back.1)
            );
            assert!(got_there == pattern(there.0) && got_back == pattern(back.0));
            assert_eq!(near_back.await.unwrap().1, Ended::Complete);
            assert_eq!(far_back.await.unwrap().1, Ended::Complete);
        });
    }
}
