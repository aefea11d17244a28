//! The report as Markdown: what was measured and how, then one table for each figure. Pure text from results.

use std::fmt::Write;

use super::{Report, chart_file, number};
use crate::figures::Figure;
use crate::measure::{Metric, Summary};
use crate::peer::{Column, Layer, Role};

pub(super) fn render(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = head(report, &mut text);
    for figure in Figure::ALL {
        let metrics: Vec<&Metric> = report
            .results
            .metrics()
            .iter()
            .filter(|metric| metric.figure == figure)
            .collect();
        if !metrics.is_empty() {
            let _ = section(report, figure, &metrics, &mut text);
        }
    }
    text
}

fn head(report: &Report, text: &mut String) -> std::fmt::Result {
    let machine = &report.machine;
    writeln!(text, "# Squire beside its peers\n")?;
    writeln!(
        text,
        "{}, {} × {}, Linux {}, loopback. Mode {}, {} repetition(s), {} s. Commit {}. Made by `benches/run`; method in `benches/README.md`, every sample in `report/results.json`.\n",
        machine.date,
        machine.processors,
        machine.processor,
        machine.kernel,
        report.effort.name,
        report.effort.repetitions,
        report.took.as_secs(),
        machine.commit.as_deref().unwrap_or("unknown"),
    )?;
    writeln!(
        text,
        "client → client-side proxy → mutual TLS 1.3 (both certificates verified, ECDSA P-256, AES-128-GCM) → server-side proxy → app; one worker each. \
         CPU is user + system of both proxies. Each cell: median (smallest–largest), × ratio to the best other proxy of the same layer.\n"
    )?;
    for (name, version) in &report.versions {
        writeln!(text, "- {name}: {version}")?;
    }
    if report.effort.name == "smoke" {
        writeln!(
            text,
            "\n**A smoke run: it shows that everything works; its numbers mean nothing.**"
        )?;
    }
    Ok(())
}

fn section(report: &Report, figure: Figure, metrics: &[&Metric], text: &mut String) -> std::fmt::Result {
    writeln!(text, "\n## {}\n\n{}\n", title(figure), explanation(figure))?;
    // Latencies as they are and latencies added: a table of six columns each.
    for metrics in metrics.chunks(if figure == Figure::Latency { 6 } else { 8 }) {
        table(report, metrics, text)?;
    }
    goals(report, figure, text)?;
    for metric in report.charted().filter(|metric| metric.figure == figure) {
        writeln!(
            text,
            "![{} ({})](report/{})",
            metric.title,
            metric.unit,
            chart_file(metric)
        )?;
    }
    Ok(())
}

/// How Squire stands with the goals of the figure.
fn goals(report: &Report, figure: Figure, text: &mut String) -> std::fmt::Result {
    let standings = report.standings();
    let mut standings = standings.iter().filter(|one| one.figure == figure).peekable();
    if standings.peek().is_none() {
        return Ok(());
    }
    writeln!(text, "| Squire's | reached | goal | |\n|---|---|---|---|")?;
    for one in standings {
        let (reached, goal) = match &one.against {
            Some(other) => (format!("×{:.2}", one.reached), format!("≤ {} × {other}", one.at_most)),
            None => (number(one.reached), format!("≤ {}", one.at_most)),
        };
        let verdict = if one.met { "met" } else { "**missed**" };
        let layer = if one.layer == Layer::L4 { "L4" } else { "L7" };
        writeln!(text, "| `{}` {layer} | {reached} | {goal} | {verdict} |", one.metric)?;
    }
    writeln!(text)
}

fn table(report: &Report, metrics: &[&Metric], text: &mut String) -> std::fmt::Result {
    let headings: Vec<String> = metrics
        .iter()
        .map(|metric| format!("{}, {}", metric.title, metric.unit))
        .collect();
    writeln!(text, "| | {} |", headings.join(" | "))?;
    writeln!(text, "|---{}|", "|---".repeat(metrics.len()))?;
    let summaries: Vec<Vec<Summary>> = metrics.iter().map(|metric| report.summaries(metric)).collect();
    for column in &report.columns {
        let cells: Vec<String> = summaries.iter().map(|summaries| cell(summaries, column)).collect();
        if cells.iter().any(|cell| cell != NOTHING) {
            let name = if column.role == Role::Squire {
                format!("**{}**", column.title())
            } else {
                column.title()
            };
            writeln!(text, "| {name} | {} |", cells.join(" | "))?;
        }
    }
    writeln!(text)
}

const NOTHING: &str = "–";

fn cell(summaries: &[Summary], column: &Column) -> String {
    let Some(summary) = summaries.iter().find(|summary| summary.column == *column) else {
        return NOTHING.to_owned();
    };
    let mut cell = number(summary.median);
    if summary.samples > 1 {
        let _ = write!(cell, " ({}–{})", number(summary.min), number(summary.max));
    }
    if let Some(ratio) = summary.ratio {
        let _ = write!(cell, " ×{ratio:.2}");
    }
    cell
}

fn title(figure: Figure) -> &'static str {
    match figure {
        Figure::Bulk => "Bulk transfer",
        Figure::Requests => "Requests",
        Figure::Http2 => "HTTP/2",
        Figure::Grpc => "gRPC",
        Figure::Latency => "Latency",
        Figure::Connections => "New connections",
        Figure::Memory => "Memory",
        Figure::Startup => "Start-up",
        Figure::Rules => "Rules of others",
        Figure::Size => "Size",
    }
}

fn explanation(figure: Figure) -> &'static str {
    match figure {
        Figure::Bulk => "Bodies of 64 MiB, every byte checked by the receiver.",
        Figure::Requests => "As many requests as go, answers of 1 KiB from nginx, every status and body checked.",
        Figure::Http2 => {
            "As many requests as go, answers of 1 KiB from our own application, every status and body checked. L4 columns pass HTTP/2 on as bytes; nginx speaks HTTP/1.1 to its upstreams here."
        }
        Figure::Grpc => {
            "As many unary calls as go, 128 bytes there and back, every message and the status in the trailers checked. L4 columns pass HTTP/2 on as bytes."
        }
        Figure::Latency => {
            "From the moment a request was due to its last byte (no coordinated omission). *Added* is what a proxy has more than no proxy in the same repetition."
        }
        Figure::Connections => "Each connection is opened, asks once for 1 KiB, and is closed by the client.",
        Figure::Memory => {
            "Each proxy of a fresh pair by itself. An idle connection has carried an exchange before the measurement and carries another after it."
        }
        Figure::Startup => {
            "From the start of the client-side proxy's process, with everything it depends on already up."
        }
        Figure::Rules => {
            "Requests over HTTP/1.1, each judged, while there are 10, 1,000 and 100,000 rules in policies that select other workloads."
        }
        Figure::Size => "The executable file without symbols; shared libraries are not counted.",
    }
}
