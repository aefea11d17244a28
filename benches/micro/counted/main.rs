//! `squire-counted PIECE TIMES`: does one pure piece of the sidecar's work so many times, and nothing else. `benches/micro/count` executes it under
//! valgrind with two numbers of times; the difference of the two counts is what the piece itself costs, whatever starting and preparing cost.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::expect_used,
    reason = "a tool for developers that is to fail loudly"
)]

mod policy;
mod push;

use std::{hint::black_box, process::ExitCode};

use squire_mesh::policy::decide_inbound;
use squire_proxy::measure::{Heads, Pair, Peer};

/// What a browser sends, more or less.
const REQUEST: &[u8] = b"GET /orders/42/items?page=1 HTTP/1.1\r\nHost: db.shop.svc.cluster.local:8080\r\nUser-Agent: curl/8.5.0\r\n\
Accept: application/json\r\nAccept-Encoding: gzip, br\r\nContent-Type: application/json\r\nX-Request-Id: 9a7f2c1e-5b1d-4c5f-9f55-1f0a3f1f2b11\r\n\
Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nConnection: keep-alive\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sat, 28 Nov 2026 00:00:00 GMT\r\nContent-Type: application/json\r\n\
Content-Length: 1024\r\nLast-Modified: Fri, 27 Nov 2026 00:00:00 GMT\r\nConnection: keep-alive\r\nETag: \"65f0-400\"\r\nAccept-Ranges: bytes\r\n\r\n";

/// A piece: prepared once, then done again and again.
type Piece = Box<dyn FnMut()>;
/// Prepares one.
type Prepare = fn() -> Piece;

/// Every piece by name, in the order of a connection's life.
const PIECES: &[(&str, Prepare)] = &[
    ("identify, first time", || {
        let peer = Peer::default();
        Box::new(move || drop(black_box(peer.identify(false))))
    }),
    ("identify, known chain", || {
        let peer = Peer::default();
        Box::new(move || drop(black_box(peer.identify(true))))
    }),
    ("record of 1 KiB, sealed and opened", || {
        let mut pair = pair();
        Box::new(move || pair.carry(1024))
    }),
    ("record of 16 KiB, sealed and opened", || {
        let mut pair = pair();
        Box::new(move || pair.carry(16 * 1024))
    }),
    ("decide L4, 10 policies x 10 rules", || {
        let table = policy::table(false);
        Box::new(move || {
            policy::for_connection(|request| {
                assert!(decide_inbound(black_box(&table), black_box(request)).is_allowed())
            })
        })
    }),
    ("decide L7, 10 policies x 10 rules", || {
        let table = policy::table(true);
        Box::new(move || {
            policy::for_request(|request| assert!(decide_inbound(black_box(&table), black_box(request)).is_allowed()))
        })
    }),
    ("HTTP/1 request head, read and written", || {
        let mut heads = Heads::default();
        Box::new(move || heads.request(black_box(REQUEST)))
    }),
    ("HTTP/1 response head, read and written", || {
        let mut heads = Heads::default();
        Box::new(move || heads.response(black_box(RESPONSE)))
    }),
    ("snapshot swap, 1 workload of 1,000", || {
        let mut pushed = push::Pushed::of(1_000);
        Box::new(move || pushed.change_one())
    }),
    ("xDS apply, 1,000 workloads at once", || {
        Box::new(|| drop(black_box(push::Pushed::of(1_000))))
    }),
];

fn pair() -> Pair {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .expect("a runtime");
    runtime.block_on(Pair::new())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [] => {
            PIECES.iter().for_each(|(name, _)| println!("{name}"));
            ExitCode::SUCCESS
        }
        [name, times] => {
            let piece = PIECES.iter().find(|(known, _)| known == name);
            let (Some((_, prepare)), Ok(times)) = (piece, times.parse::<u32>()) else {
                eprintln!(
                    "squire-counted: no piece {name:?}, or no number {times:?}; without arguments it lists the pieces"
                );
                return ExitCode::FAILURE;
            };
            let mut piece = prepare();
            (0..times).for_each(|_| piece());
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("usage: squire-counted [PIECE TIMES]");
            ExitCode::FAILURE
        }
    }
}
