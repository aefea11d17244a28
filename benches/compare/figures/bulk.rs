//! Bulk: MB/s, and CPU-seconds of both proxies for each GiB, in both directions, over one stream and over many.

use anyhow::{Context, Result};

use super::{Bench, Figure};
use crate::load::bulk::{self, Direction};
use crate::measure::{Better, Metric};

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;
const MB: f64 = 1_000_000.0;

pub(super) async fn take(bench: &mut Bench<'_>) -> Result<()> {
    let effort = bench.effort;
    for &streams in &effort.bulk_streams {
        for (direction, word) in [(Direction::Download, "download"), (Direction::Upload, "upload")] {
            let load = bulk::start(bench.pair.entry, streams, direction);
            let window = bench
                .window(load, effort.bulk)
                .await
                .with_context(|| format!("bulk {word}, {streams} streams"))?;
            let title = format!("{word}, {streams} {}", if streams == 1 { "stream" } else { "streams" });
            let metric = |name: &str, unit, better| {
                Metric::new(
                    Figure::Bulk,
                    &format!("{word}-{streams}.{name}"),
                    title.as_str(),
                    unit,
                    better,
                )
            };
            if let Some(cpu) = window.cpu_per(GIB) {
                bench.record(metric("cpu", "CPU-s/GiB", Better::Lower), cpu);
            }
            bench.record(metric("rate", "MB/s", Better::Higher), window.rate() / MB);
        }
    }
    Ok(())
}
