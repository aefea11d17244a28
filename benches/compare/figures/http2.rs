//! HTTP/2 with ten streams on each of eight connections: bodies of 1 KiB, and unary gRPC calls with 128 bytes both ways. Requests per
//! second, and CPU-seconds of both proxies per 100,000.

use anyhow::{Context, Result};

use super::{Bench, Figure, requests::BODY};
use crate::load::h2::{self, Call};
use crate::measure::{Better, Metric};

const CONNECTIONS: usize = 8;
const STREAMS: usize = 10;

/// Bytes in each message.
const MESSAGE: usize = 128;

pub(super) async fn take_requests(bench: &mut Bench<'_>) -> Result<()> {
    take(
        bench,
        Figure::Http2,
        Call::Get(BODY),
        "HTTP/2, 8 connections × 10 streams",
    )
    .await
}

pub(super) async fn take_calls(bench: &mut Bench<'_>) -> Result<()> {
    take(
        bench,
        Figure::Grpc,
        Call::Grpc(MESSAGE),
        "gRPC, 8 connections × 10 streams",
    )
    .await
}

async fn take(bench: &mut Bench<'_>, figure: Figure, call: Call, title: &str) -> Result<()> {
    let load = h2::start(bench.pair.entry, CONNECTIONS, STREAMS, call);
    let window = bench
        .window(load, bench.effort.requests)
        .await
        .with_context(|| title.to_owned())?;
    let metric = |name, unit, better| Metric::new(figure, name, title, unit, better);
    if let Some(cpu) = window.cpu_per(100_000.0) {
        bench.record(metric("cpu", "CPU-s/100k", Better::Lower), cpu);
    }
    bench.record(metric("rate", "req/s", Better::Higher), window.rate());
    Ok(())
}
