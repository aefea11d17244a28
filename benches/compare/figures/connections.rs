//! New connections, each with one request of 1 KiB and then closed by the client: connections per second, CPU-seconds of both proxies per
//! 10,000.

use anyhow::{Context, Result};

use super::{Bench, Figure, requests::BODY};
use crate::load::fresh;
use crate::measure::{Better, Metric};

/// How many connections are under way at once.
const CLIENTS: usize = 16;

pub(super) async fn take(bench: &mut Bench<'_>) -> Result<()> {
    let load = fresh::start(bench.pair.entry, CLIENTS, BODY);
    let window = bench
        .window(load, bench.effort.connections)
        .await
        .context("new connections")?;
    let metric = |name, unit, better| {
        Metric::new(
            Figure::Connections,
            name,
            "one request each, 16 at a time",
            unit,
            better,
        )
    };
    if let Some(cpu) = window.cpu_per(10_000.0) {
        bench.record(metric("cpu", "CPU-s/10k", Better::Lower), cpu);
    }
    bench.record(metric("rate", "conn/s", Better::Higher), window.rate());
    Ok(())
}
