//! What is measured and how samples become a statement: metrics, samples, medians, spread, ratios. Pure: measures nothing itself.

use serde::Serialize;

use crate::figures::Figure;
use crate::peer::{Column, Role};

/// Which direction is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    /// Costs.
    Lower,
    /// Throughput.
    Higher,
}

/// One thing that is measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Metric {
    /// Stable name, unique in a run: `bulk.download-1.cpu`.
    pub(crate) key: String,
    /// The figure it belongs to (a section of the report).
    pub(crate) figure: Figure,
    /// For people: what and under which conditions.
    pub(crate) title: String,
    /// Unit of the values.
    pub(crate) unit: &'static str,
    /// Which direction is good.
    pub(crate) better: Better,
}

impl Metric {
    /// A metric named `<figure>.<name>`.
    pub(crate) fn new(
        figure: Figure,
        name: &str,
        title: impl Into<String>,
        unit: &'static str,
        better: Better,
    ) -> Self {
        Self {
            key: format!("{}.{name}", figure.name()),
            figure,
            title: title.into(),
            unit,
            better,
        }
    }
}

/// One measured value.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    /// [`Metric::key`].
    pub(crate) metric: String,
    /// Of whom.
    pub(crate) column: Column,
    /// In which repetition, from 0.
    pub(crate) repetition: usize,
    /// The value in the metric's unit.
    pub(crate) value: f64,
}

/// All that a run has measured.
#[derive(Default)]
pub(crate) struct Results {
    metrics: Vec<Metric>,
    samples: Vec<Sample>,
}

impl Results {
    /// Adds a value.
    pub(crate) fn record(&mut self, metric: Metric, column: &Column, repetition: usize, value: f64) {
        self.samples.push(Sample {
            metric: metric.key.clone(),
            column: column.clone(),
            repetition,
            value,
        });
        if !self.metrics.contains(&metric) {
            self.metrics.push(metric);
        }
    }

    /// Every metric seen, in order of first appearance.
    pub(crate) fn metrics(&self) -> &[Metric] {
        &self.metrics
    }

    /// Every sample, in order of measurement.
    pub(crate) fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// The summary of each column that has samples of `metric`, in the order of `columns`.
    pub(crate) fn summaries(&self, metric: &Metric, columns: &[Column]) -> Vec<Summary> {
        let mut summaries: Vec<Summary> = columns
            .iter()
            .filter_map(|column| self.summary(metric, column))
            .collect();
        let ratios: Vec<Option<f64>> = summaries
            .iter()
            .map(|one| ratio(one, &summaries, metric.better))
            .collect();
        for (summary, ratio) in summaries.iter_mut().zip(ratios) {
            summary.ratio = ratio;
        }
        summaries
    }

    fn summary(&self, metric: &Metric, column: &Column) -> Option<Summary> {
        let mut values: Vec<f64> = self
            .samples
            .iter()
            .filter(|sample| sample.metric == metric.key && sample.column == *column)
            .map(|sample| sample.value)
            .collect();
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        Some(Summary {
            metric: metric.key.clone(),
            column: column.clone(),
            median: median(&values),
            min,
            max,
            samples: values.len(),
            ratio: None,
        })
    }
}

/// A metric of one column over all repetitions.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Summary {
    /// [`Metric::key`].
    pub(crate) metric: String,
    /// Of whom.
    pub(crate) column: Column,
    /// The median of the samples.
    pub(crate) median: f64,
    /// The smallest sample.
    pub(crate) min: f64,
    /// The largest sample.
    pub(crate) max: f64,
    /// How many samples.
    pub(crate) samples: usize,
    /// The median divided by the best *other* proxy's median in the same layer (Squire and the baseline are nobody's best peer).
    pub(crate) ratio: Option<f64>,
}

fn ratio(one: &Summary, all: &[Summary], better: Better) -> Option<f64> {
    if one.column.role == Role::Baseline {
        return None;
    }
    let peers = all
        .iter()
        .filter(|other| other.column.role == Role::Peer && other.column.layer == one.column.layer);
    let best = match better {
        Better::Lower => peers.map(|peer| peer.median).min_by(f64::total_cmp),
        Better::Higher => peers.map(|peer| peer.median).max_by(f64::total_cmp),
    }?;
    // A difference to the baseline may come out negative in the noise: no ratio then.
    (best > 0.0).then(|| one.median / best)
}

/// The middle of sorted values; the mean of the two middle ones if their number is even.
pub(crate) fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

/// The value below which `share` (0 to 1) of the sorted values lie (nearest rank).
pub(crate) fn percentile(sorted: &[u64], share: f64) -> u64 {
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank below 2^52"
    )]
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.clamp(1, sorted.len().max(1)) - 1)
        .copied()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::Layer;

    #[test]
    fn medians_and_percentiles() {
        assert_eq!(median(&[1.0, 2.0, 10.0]), 2.0);
        assert_eq!(median(&[1.0, 3.0]), 2.0);
        assert!(median(&[]).is_nan());
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!(
            (
                percentile(&hundred, 0.5),
                percentile(&hundred, 0.99),
                percentile(&hundred, 0.999)
            ),
            (50, 99, 100)
        );
        assert_eq!(percentile(&[], 0.5), 0);
        assert_eq!(percentile(&[7], 0.0), 7);
    }

    #[test]
    fn ratios_are_to_the_best_peer_of_the_same_layer() {
        let metric = Metric::new(Figure::Bulk, "cpu", "CPU", "s", Better::Lower);
        let column = |name: &str, layer, role| Column {
            name: name.to_owned(),
            layer,
            role,
        };
        let columns = [
            column("direct", None, Role::Baseline),
            column("squire", Some(Layer::L4), Role::Squire),
            column("a", Some(Layer::L4), Role::Peer),
            column("b", Some(Layer::L4), Role::Peer),
            column("b", Some(Layer::L7), Role::Peer),
        ];
        let mut results = Results::default();
        for (column, value) in columns.iter().zip([0.1, 1.0, 2.0, 4.0, 0.5]) {
            results.record(metric.clone(), column, 0, value);
        }
        let ratios: Vec<Option<f64>> = results
            .summaries(&metric, &columns)
            .iter()
            .map(|summary| summary.ratio)
            .collect();
        assert_eq!(ratios, [None, Some(0.5), Some(1.0), Some(2.0), Some(1.0)]);
    }
}
