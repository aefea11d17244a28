//! The report of a run: `REPORT.md` for people, `report/results.json` with every sample behind it, `report/*.svg`. Measures nothing and
//! judges nothing: it only says what was found.

mod chart;
mod markdown;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::effort::Effort;
use crate::goals::{self, Standing};
use crate::machine::Machine;
use crate::measure::{Metric, Results, Sample, Summary};
use crate::peer::{Column, Peer};

/// A finished run.
pub(crate) struct Report {
    machine: Machine,
    effort: Effort,
    took: Duration,
    columns: Vec<Column>,
    versions: Vec<(String, String)>,
    results: Results,
}

/// What `results.json` holds.
#[derive(Serialize)]
struct Json<'a> {
    machine: &'a Machine,
    mode: &'a str,
    repetitions: usize,
    took_seconds: u64,
    versions: &'a [(String, String)],
    metrics: &'a [Metric],
    goals: Vec<Standing>,
    summaries: Vec<Summary>,
    samples: &'a [Sample],
}

impl Report {
    /// Puts a run together.
    pub(crate) fn new(machine: Machine, effort: &Effort, peers: &[Peer], results: Results, took: Duration) -> Self {
        let mut versions: Vec<(String, String)> = Vec::new();
        for peer in peers {
            let name = peer.column().name;
            if versions.iter().any(|(known, _)| *known == name) {
                continue;
            }
            if let Some(version) = peer.version() {
                versions.push((name, version));
            }
        }
        let columns = peers.iter().map(Peer::column).collect();
        Self {
            machine,
            effort: effort.clone(),
            took,
            columns,
            versions,
            results,
        }
    }

    /// The Markdown text.
    pub(crate) fn text(&self) -> String {
        markdown::render(self)
    }

    /// Writes everything into `out`.
    pub(crate) fn write(&self, out: &Path) -> Result<()> {
        let data = out.join("report");
        fs::create_dir_all(&data).with_context(|| format!("cannot create {}", data.display()))?;
        fs::write(out.join("REPORT.md"), self.text())?;
        fs::write(
            data.join("results.json"),
            serde_json::to_string_pretty(&self.json())? + "\n",
        )?;
        for metric in self.charted() {
            fs::write(
                data.join(chart_file(metric)),
                chart::render(metric, &self.summaries(metric)),
            )?;
        }
        Ok(())
    }

    fn json(&self) -> Json<'_> {
        Json {
            machine: &self.machine,
            mode: self.effort.name,
            repetitions: self.effort.repetitions,
            took_seconds: self.took.as_secs(),
            versions: &self.versions,
            metrics: self.results.metrics(),
            goals: self.standings(),
            summaries: self
                .results
                .metrics()
                .iter()
                .flat_map(|metric| self.summaries(metric))
                .collect(),
            samples: self.results.samples(),
        }
    }

    fn standings(&self) -> Vec<Standing> {
        goals::standings(&self.results, &self.columns)
    }

    fn summaries(&self, metric: &Metric) -> Vec<Summary> {
        self.results.summaries(metric, &self.columns)
    }

    /// The metrics that get a chart: what a sidecar costs.
    fn charted(&self) -> impl Iterator<Item = &Metric> {
        self.results.metrics().iter().filter(|metric| {
            let key = metric.key.as_str();
            key.ends_with(".cpu")
                || key.ends_with("p50.added")
                || key.ends_with("idle.client.rss")
                || (key.contains("each-of") && key.ends_with(".client"))
        })
    }
}

fn chart_file(metric: &Metric) -> String {
    format!("{}.svg", metric.key.replace('.', "-"))
}

/// A value with as many digits as it deserves: about three that count.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 10_000.0 => thousands(value),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if value < 0.0 { format!("-{grouped}") } else { grouped }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_about_three_digits_that_count() {
        for (value, text) in [
            (2.118, "2.12"),
            (28.94, "28.9"),
            (771.3, "771"),
            (23_456.0, "23,456"),
            (-1_234_567.0, "-1,234,567"),
            (0.0, "0.00"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
