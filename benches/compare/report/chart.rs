//! Bar charts as SVG text: one horizontal bar for each column, a line for its spread. Knows nothing of files.

use std::fmt::Write;

use super::number;
use crate::measure::{Metric, Summary};
use crate::peer::Role;

const WIDTH: f64 = 640.0;
const LABELS: f64 = 110.0;
const VALUES: f64 = 80.0;
const ROW: f64 = 24.0;
const TOP: f64 = 34.0;

pub(super) fn render(metric: &Metric, summaries: &[Summary]) -> String {
    let longest = summaries
        .iter()
        .map(|summary| summary.max)
        .fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - LABELS - VALUES) / longest;
    #[allow(clippy::cast_precision_loss, reason = "a handful of rows")]
    let height = TOP + ROW * summaries.len() as f64 + 8.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"8\" y=\"20\" font-weight=\"bold\">{}: {} ({})</text>\n",
        escape(metric.figure.name()),
        escape(&metric.title),
        escape(metric.unit),
    );
    let mut y = TOP;
    for summary in summaries {
        row(&mut svg, summary, y, scale);
        y += ROW;
    }
    svg.push_str("</svg>\n");
    svg
}

fn row(svg: &mut String, summary: &Summary, y: f64, scale: f64) {
    let fill = match summary.column.role {
        Role::Squire => "#c2410c",
        Role::Peer => "#64748b",
        Role::Baseline => "#cbd5e1",
    };
    let length = |value: f64| value.max(0.0) * scale;
    let (middle, baseline) = (y + ROW / 2.0 - 2.0, y + ROW / 2.0 + 3.0);
    let (from, to) = (LABELS + length(summary.min), LABELS + length(summary.max));
    // Writing to a String cannot fail.
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{baseline:.1}\" text-anchor=\"end\">{}</text>\
         <rect x=\"{LABELS}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{fill}\"/>\
         <line x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\" stroke=\"#111827\" stroke-width=\"1.5\"/>\
         <text x=\"{:.1}\" y=\"{baseline:.1}\">{}</text>",
        LABELS - 8.0,
        escape(&summary.column.title()),
        length(summary.median),
        ROW - 6.0,
        to + 6.0,
        number(summary.median),
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Figure;
    use crate::measure::Better;
    use crate::peer::{Column, Layer};

    fn summary(name: &str, role: Role, median: f64) -> Summary {
        let column = Column {
            name: name.to_owned(),
            layer: Some(Layer::L4),
            role,
        };
        Summary {
            metric: "bulk.cpu".to_owned(),
            column,
            median,
            min: median * 0.9,
            max: median * 1.1,
            samples: 3,
            ratio: None,
        }
    }

    #[test]
    fn bars_are_proportional_and_text_is_escaped() {
        let metric = Metric::new(Figure::Bulk, "cpu", "a < b", "s", Better::Lower);
        let svg = render(
            &metric,
            &[summary("x", Role::Peer, 4.0), summary("y & z", Role::Squire, 2.0)],
        );
        let widths: Vec<f64> = svg
            .split("<rect x=")
            .skip(1)
            .map(|rect| {
                rect.split("width=\"")
                    .nth(1)
                    .unwrap()
                    .split('"')
                    .next()
                    .unwrap()
                    .parse()
                    .unwrap()
            })
            .collect();
        assert!((widths[0] - 2.0 * widths[1]).abs() < 0.2, "{widths:?}");
        assert!(svg.contains("a &lt; b") && svg.contains("y &amp; z"), "{svg}");
    }
}
