//! What Squire wants to reach: bounds on its own figures, absolute or as a ratio to somebody measured in the same run. Pure: judges
//! medians, measures nothing; a missed goal fails no run.

use serde::Serialize;

use crate::figures::Figure;
use crate::measure::{Better, Metric, Results};
use crate::peer::{Column, Layer, Role};

/// With what a figure is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Against {
    /// With nothing: the bound is in the metric's unit.
    Nothing,
    /// With the best other proxy in the same layer.
    Best,
    /// With the proxy of that name in the same layer.
    Peer(&'static str),
    /// With Squire itself at L4.
    OwnL4,
    /// With Squire itself without TLS.
    OwnPlaintext,
    /// Squire beside 100,000 rules of others with Squire beside ten.
    OwnFewRules,
}

/// One bound on a cost.
struct Goal {
    metric: &'static str,
    layer: Layer,
    against: Against,
    at_most: f64,
}

const fn goal(metric: &'static str, layer: Layer, against: Against, at_most: f64) -> Goal {
    Goal {
        metric,
        layer,
        against,
        at_most,
    }
}

const GOALS: &[Goal] = {
    use Against::{Best, Nothing, OwnFewRules, OwnL4, OwnPlaintext, Peer};
    use Layer::{L4, L7};
    &[
        goal("bulk.download-1.cpu", L4, Best, 0.70),
        goal("bulk.upload-1.cpu", L4, Best, 0.70),
        goal("bulk.download-1.cpu", L4, OwnPlaintext, 1.2),
        goal("bulk.upload-1.cpu", L4, OwnPlaintext, 1.2),
        goal("requests.cpu", L4, Best, 0.75),
        goal("requests.cpu", L7, Peer("haproxy"), 0.85),
        goal("requests.cpu", L7, Peer("haproxy"), 1.0),
        goal("requests.cpu", L7, Peer("envoy"), 0.2),
        goal("requests.cpu", L7, Peer("envoy"), 0.3),
        goal("requests.cpu", L7, Peer("linkerd2-proxy"), 0.3),
        goal("requests.cpu", L7, OwnL4, 1.6),
        goal("http2.cpu", L7, Best, 0.5),
        goal("http2.cpu", L7, Peer("envoy"), 0.5),
        goal("http2.cpu", L7, OwnL4, 1.6),
        goal("grpc.cpu", L7, Best, 0.5),
        goal("grpc.cpu", L7, Peer("envoy"), 0.5),
        goal("grpc.cpu", L7, OwnL4, 1.6),
        goal("latency.spread.p50.added", L4, Best, 0.7),
        goal("latency.spread.p99.added", L4, Best, 1.0),
        goal("latency.bursts.p50.added", L4, Best, 0.7),
        goal("latency.bursts.p99.added", L4, Best, 1.0),
        goal("latency.spread.p50.added", L7, Best, 0.7),
        goal("latency.spread.p99.added", L7, Best, 1.0),
        goal("latency.bursts.p50.added", L7, Best, 0.7),
        goal("latency.bursts.p99.added", L7, Best, 1.0),
        goal("connections.cpu", L4, Peer("ztunnel"), 0.6),
        // The same where ztunnel is not there: it needs 0.22 of what Envoy needs.
        goal("connections.cpu", L4, Peer("envoy"), 0.13),
        goal("connections.cpu", L7, Peer("haproxy"), 1.0),
        goal("memory.idle.client.rss", L4, Nothing, 8.0),
        goal("memory.idle.server.rss", L4, Nothing, 8.0),
        goal("memory.each-of-10000.client", L4, Nothing, 6.0),
        goal("memory.each-of-10000.server", L4, Nothing, 6.0),
        goal("startup.accept", L4, Nothing, 25.0),
        // A tenth for noise.
        goal("rules.cpu", L7, OwnFewRules, 1.1),
        goal("size.binary", L4, Nothing, 8.0),
    ]
};

/// How Squire stands with one goal.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Standing {
    /// The section it belongs to.
    pub(crate) figure: Figure,
    /// What is bounded.
    pub(crate) metric: String,
    /// In which layer.
    pub(crate) layer: Layer,
    /// With whom it is compared: `haproxy L7`; none for an absolute bound.
    pub(crate) against: Option<String>,
    /// The bound.
    pub(crate) at_most: f64,
    /// What came out: a ratio of medians, or a median.
    pub(crate) reached: f64,
    /// Whether that is within the bound.
    pub(crate) met: bool,
}

/// Every goal that this run can tell about.
pub(crate) fn standings(results: &Results, columns: &[Column]) -> Vec<Standing> {
    GOALS
        .iter()
        .filter_map(|goal| standing(goal, results, columns))
        .collect()
}

fn standing(goal: &Goal, results: &Results, columns: &[Column]) -> Option<Standing> {
    let metric: &Metric = results.metrics().iter().find(|metric| metric.key == goal.metric)?;
    debug_assert!(metric.better == Better::Lower, "goals bound costs");
    let summaries = results.summaries(metric, columns);
    let of = |name: &str, layer: Layer| {
        summaries
            .iter()
            .find(|one| one.column.name == name && one.column.layer == Some(layer))
    };
    let own = match goal.against {
        Against::OwnFewRules => "squire-100000-rules",
        _ => "squire",
    };
    let own = of(own, goal.layer)?.median;
    let other = match goal.against {
        Against::Nothing => None,
        Against::Best => Some(
            summaries
                .iter()
                .filter(|one| one.column.role == Role::Peer && one.column.layer == Some(goal.layer))
                .min_by(|a, b| a.median.total_cmp(&b.median))?,
        ),
        Against::Peer(name) => Some(of(name, goal.layer)?),
        Against::OwnL4 => Some(of("squire", Layer::L4)?),
        Against::OwnPlaintext => Some(of("squire-plaintext", goal.layer)?),
        Against::OwnFewRules => Some(of("squire-10-rules", goal.layer)?),
    };
    let reached = match other {
        None => own,
        // A difference to the baseline may come out negative in the noise: no ratio then.
        Some(other) if other.median > 0.0 => own / other.median,
        Some(_) => return None,
    };
    let against = other.map(|other| match goal.against {
        Against::Best => format!("the best peer ({})", other.column.title()),
        _ => other.column.title(),
    });
    Some(Standing {
        figure: metric.figure,
        metric: metric.key.clone(),
        layer: goal.layer,
        against,
        at_most: goal.at_most,
        reached,
        met: reached <= goal.at_most,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, layer: Layer) -> Column {
        let role = if name == "squire" { Role::Squire } else { Role::Peer };
        Column {
            name: name.to_owned(),
            layer: Some(layer),
            role,
        }
    }

    fn standings_of(figure: Figure, name: &str, values: &[(&str, Layer, f64)]) -> Vec<Standing> {
        let metric = Metric::new(figure, name, "x", "s", Better::Lower);
        let mut results = Results::default();
        let columns: Vec<Column> = values.iter().map(|(name, layer, _)| column(name, *layer)).collect();
        for (column, (_, _, value)) in columns.iter().zip(values) {
            results.record(metric.clone(), column, 0, *value);
        }
        standings(&results, &columns)
    }

    fn reached(standings: &[Standing], against: &str, at_most: f64) -> (f64, bool) {
        let found = standings
            .iter()
            .find(|one| one.against.as_deref() == Some(against) && one.at_most == at_most);
        found.map(|one| (one.reached, one.met)).unwrap()
    }

    #[test]
    fn goals_compare_with_whom_they_name() {
        use Layer::{L4, L7};
        let standings = standings_of(
            Figure::Requests,
            "cpu",
            &[
                ("squire", L4, 2.0),
                ("squire", L7, 3.0),
                ("haproxy", L4, 1.0),
                ("haproxy", L7, 4.0),
                ("envoy", L7, 12.0),
            ],
        );
        assert_eq!(reached(&standings, "the best peer (haproxy L4)", 0.75), (2.0, false));
        assert_eq!(reached(&standings, "haproxy L7", 0.85), (0.75, true));
        assert_eq!(reached(&standings, "envoy L7", 0.2), (0.25, false));
        assert_eq!(reached(&standings, "envoy L7", 0.3), (0.25, true));
        assert_eq!(reached(&standings, "squire L4", 1.6), (1.5, true));
        assert!(
            !standings
                .iter()
                .any(|one| one.against.as_deref() == Some("linkerd2-proxy L7"))
        );
    }

    #[test]
    fn an_absolute_goal_needs_nobody_else() {
        let standings = standings_of(Figure::Memory, "idle.client.rss", &[("squire", Layer::L4, 9.0)]);
        assert_eq!(standings.len(), 1);
        assert_eq!((standings[0].reached, standings[0].met), (9.0, false));
    }

    #[test]
    fn noise_below_nothing_is_no_ratio() {
        let values = [("squire", Layer::L4, 5.0), ("envoy", Layer::L4, -1.0)];
        assert_eq!(standings_of(Figure::Latency, "spread.p50.added", &values), []);
    }
}
