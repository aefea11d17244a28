//! The rules of a GRPCRoute.

use squire_mesh::traffic::{Match, PathMatch, Rule, Timeouts};

use super::{Context, filters, matches};
use crate::policy::report::{Node, Report};

/// One rule. What could not be read of it matches everything, so that it fails closed.
pub(super) fn rule(context: &Context<'_>, node: &Node<'_>, report: &mut Report<'_>) -> Rule {
    let known = ["name", "matches", "filters", "backendRefs", "sessionPersistence"];
    let fields = node.fields(report, &known);
    fields.text("name", report);
    filters::no_sessions(&fields, report);
    let nodes = fields.get("matches").map(|list| list.list(report)).unwrap_or_default();
    let mut found: Vec<Match> = nodes.iter().map(|node| matches::grpc(node, report)).collect();
    if found.is_empty() {
        found.push(Match {
            path: PathMatch::Grpc {
                service: None,
                method: None,
            },
            ..Match::default()
        });
    }
    let rule_filters = filters::grpc(&fields, report);
    let backends = filters::backends(context, &fields, None, false, report);
    if backends.iter().all(|backend| backend.weight == 0) {
        report.warn(
            &node.path,
            "it leads nowhere: what it matches is answered with UNAVAILABLE",
            "give it backendRefs",
        );
    }
    Rule {
        route: std::sync::Arc::clone(context.route),
        matches: found.into(),
        filters: rule_filters,
        backends: backends.into(),
        timeouts: Timeouts::default(),
        retry: None,
        refused: None,
    }
}
