//! Latency of 1,000 requests per second, counted from when each was due: arrivals spread in time, and in bursts of ten.

use anyhow::{Context, Result};

use super::{Bench, Figure, requests::BODY};
use crate::load::open_loop::{self, Arrivals};
use crate::measure::{Better, Metric, Results, Sample, percentile};
use crate::peer::Role;

const RATE: u64 = 1_000;

/// Enough that a slow answer rarely makes the next one late, few enough that starting them costs nothing.
const CLIENTS: u64 = 20;

pub(super) fn take(bench: &mut Bench<'_>) -> Result<()> {
    for (arrivals, name, title) in [
        (Arrivals::Spread, "spread", "1,000 req/s spread in time"),
        (Arrivals::Bursts, "bursts", "1,000 req/s in bursts of ten"),
    ] {
        let mut latencies = open_loop::run(bench.pair.entry, CLIENTS, RATE, arrivals, bench.effort.latency, BODY)
            .with_context(|| format!("latency, {title}"))?;
        bench.pair.check()?;
        latencies.sort_unstable();
        for (quantile, share) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
            let metric = Metric::new(
                Figure::Latency,
                &format!("{name}.{quantile}"),
                format!("{title}, {quantile}"),
                "µs",
                Better::Lower,
            );
            #[allow(clippy::cast_precision_loss, reason = "nanoseconds far below 2^52")]
            bench.record(metric, percentile(&latencies, share) as f64 / 1000.0);
        }
    }
    Ok(())
}

/// Adds, for every latency of a proxy, what it has more than no proxy at all in the same repetition.
pub(crate) fn add_differences(results: &mut Results) {
    let latencies: Vec<Metric> = results
        .metrics()
        .iter()
        .filter(|metric| metric.figure == Figure::Latency)
        .cloned()
        .collect();
    for metric in latencies {
        let samples: Vec<Sample> = results
            .samples()
            .iter()
            .filter(|sample| sample.metric == metric.key)
            .cloned()
            .collect();
        let baseline = |repetition| {
            samples
                .iter()
                .find(|sample| sample.column.role == Role::Baseline && sample.repetition == repetition)
        };
        let added = Metric {
            key: format!("{}.added", metric.key),
            title: format!("{}, added", metric.title),
            ..metric.clone()
        };
        for sample in samples.iter().filter(|sample| sample.column.role != Role::Baseline) {
            if let Some(baseline) = baseline(sample.repetition) {
                results.record(
                    added.clone(),
                    &sample.column,
                    sample.repetition,
                    sample.value - baseline.value,
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::{Column, Layer};

    #[test]
    fn a_difference_is_taken_within_its_repetition() {
        let metric = Metric::new(Figure::Latency, "spread.p50", "x", "µs", Better::Lower);
        let direct = Column {
            name: "direct".to_owned(),
            layer: None,
            role: Role::Baseline,
        };
        let proxy = Column {
            name: "a".to_owned(),
            layer: Some(Layer::L4),
            role: Role::Peer,
        };
        let mut results = Results::default();
        for (column, repetition, value) in [
            (&direct, 0, 50.0),
            (&proxy, 0, 250.0),
            (&direct, 1, 60.0),
            (&proxy, 1, 300.0),
            (&proxy, 2, 1.0),
        ] {
            results.record(metric.clone(), column, repetition, value);
        }
        add_differences(&mut results);
        let added: Vec<f64> = results
            .samples()
            .iter()
            .filter(|s| s.metric.ends_with(".added"))
            .map(|s| s.value)
            .collect();
        assert_eq!(added, [200.0, 240.0]);
    }
}
