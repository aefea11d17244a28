//! HTTP/1.1 keep-alive over 64 connections, 1 KiB answers: requests per second, and CPU-seconds of both proxies per 100,000.

use anyhow::{Context, Result};

use super::{Bench, Figure};
use crate::load::keep_alive;
use crate::measure::{Better, Metric};

/// How many connections ask at once.
const CONNECTIONS: usize = 64;

/// Bytes in each answer's body.
pub(super) const BODY: u64 = 1024;

/// As the figure `requests`, or as `rules`.
pub(super) async fn take(bench: &mut Bench<'_>, figure: Figure) -> Result<()> {
    let load = keep_alive::start(bench.pair.entry, CONNECTIONS, BODY);
    let window = bench
        .window(load, bench.effort.requests)
        .await
        .context("keep-alive requests")?;
    let metric = |name, unit, better| Metric::new(figure, name, "HTTP/1.1, 64 connections", unit, better);
    if let Some(cpu) = window.cpu_per(100_000.0) {
        bench.record(metric("cpu", "CPU-s/100k", Better::Lower), cpu);
    }
    bench.record(metric("rate", "req/s", Better::Higher), window.rate());
    Ok(())
}
