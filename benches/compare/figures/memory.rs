//! Memory of each proxy: idle after start, and for each idle connection when many are open. Every connection has carried an exchange before,
//! and carries another after the measurement, so that only living connections are counted.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::time::sleep;

use super::{Bench, Figure};
use crate::load::idle::Idle;
use crate::measure::{Better, Metric};
use crate::usage::Memory;

/// Nothing happens for so long before memory is looked at: what a proxy tidies up after a burst is not what idleness costs.
const REST: Duration = Duration::from_millis(2500);
/// How long to wait for memory to come to rest after that.
const PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(250);

pub(super) async fn take(bench: &mut Bench<'_>) -> Result<()> {
    let Some((client, server)) = settled(bench).await? else {
        return Ok(());
    };
    for (side, memory) in [("client", client), ("server", server)] {
        bench.record(idle_metric(side, "rss", "RSS"), kib(memory.rss) / 1024.0);
        bench.record(idle_metric(side, "pss", "PSS"), kib(memory.pss) / 1024.0);
    }
    let mut connections = Idle::default();
    for &wished in &bench.effort.idle {
        let count = wished.min(bench.ground.max_connections());
        connections
            .grow(bench.pair.entry, count)
            .await
            .with_context(|| format!("opening {count} idle connections"))?;
        let Some((client_full, server_full)) = settled(bench).await? else {
            return Ok(());
        };
        connections.check().await?;
        for (side, full, idle) in [("client", client_full, client), ("server", server_full, server)] {
            #[allow(clippy::cast_precision_loss, reason = "a count far below 2^52")]
            let each = (kib(full.rss) - kib(idle.rss)) / count as f64;
            bench.record(connection_metric(side, wished, count), each);
        }
    }
    Ok(())
}

/// The memory after a rest, once it no longer changes by more than 1 %.
async fn settled(bench: &mut Bench<'_>) -> Result<Option<(Memory, Memory)>> {
    sleep(REST).await;
    let deadline = Instant::now() + PATIENCE;
    let mut last = bench.pair.memory()?;
    loop {
        sleep(PAUSE).await;
        bench.pair.check()?;
        let now = bench.pair.memory()?;
        let (Some((client, server)), Some((client_before, server_before))) = (now, last) else {
            return Ok(None);
        };
        let rested = |now: Memory, before: Memory| now.rss.abs_diff(before.rss) * 100 <= now.rss;
        if (rested(client, client_before) && rested(server, server_before)) || Instant::now() > deadline {
            return Ok(now);
        }
        last = now;
    }
}

fn idle_metric(side: &str, name: &str, title: &str) -> Metric {
    Metric::new(
        Figure::Memory,
        &format!("idle.{side}.{name}"),
        format!("{title} idle, {side} side"),
        "MiB",
        Better::Lower,
    )
}

fn connection_metric(side: &str, wished: usize, count: usize) -> Metric {
    let title = format!("each of {count} idle connections, {side} side");
    Metric::new(
        Figure::Memory,
        &format!("each-of-{wished}.{side}"),
        title,
        "KiB",
        Better::Lower,
    )
}

#[allow(clippy::cast_precision_loss, reason = "KiB far below 2^52")]
fn kib(value: u64) -> f64 {
    value as f64
}
