//! The rules of an HTTPRoute.

use std::time::Duration;

use squire_mesh::traffic::{Match, PathMatch, Retry, Rule, Timeouts, duration};

use super::{Context, filters, integer, matches};
use crate::policy::report::{Fields, Node, Report};

const RULE: [&str; 7] = [
    "name",
    "matches",
    "filters",
    "backendRefs",
    "timeouts",
    "retry",
    "sessionPersistence",
];

/// One rule. What could not be read of it matches everything, so that it fails closed.
pub(super) fn rule(context: &Context<'_>, node: &Node<'_>, report: &mut Report<'_>) -> Rule {
    let fields = node.fields(report, &RULE);
    fields.text("name", report);
    filters::no_sessions(&fields, report);
    let nodes = fields.get("matches").map(|list| list.list(report)).unwrap_or_default();
    if nodes.len() > 64 {
        report.error(
            &format!("{}.matches", node.path),
            "more than 64 matches",
            "split the rule",
        );
    }
    let mut found: Vec<Match> = nodes.iter().map(|node| matches::http(node, report)).collect();
    if found.is_empty() {
        found.push(Match::default());
    }
    let prefix = match &*found {
        [
            Match {
                path: PathMatch::Prefix(prefix),
                ..
            },
        ] => Some(&**prefix),
        _ => None,
    };
    let rule_filters = filters::http(&fields, prefix, report);
    let backends = filters::backends(context, &fields, prefix, true, report);
    if rule_filters.redirect.is_some() && !backends.is_empty() {
        let path = format!("{}.backendRefs", node.path);
        report.error(&path, "a rule that redirects has no backend", "remove one of them");
    }
    if rule_filters.redirect.is_none() && backends.iter().all(|backend| backend.weight == 0) {
        report.warn(
            &node.path,
            "it leads nowhere: what it matches is answered with 500",
            "give it backendRefs",
        );
    }
    Rule {
        route: std::sync::Arc::clone(context.route),
        matches: found.into(),
        filters: rule_filters,
        backends: backends.into(),
        timeouts: timeouts(&fields, report),
        retry: retry(&fields, report),
        refused: None,
    }
}

fn timeouts(rule: &Fields<'_>, report: &mut Report<'_>) -> Timeouts {
    let Some(node) = rule.get("timeouts") else {
        return Timeouts::default();
    };
    let fields = node.fields(report, &["request", "backendRequest"]);
    // 0s: none.
    let request = time(&fields, "request", report).filter(|time| !time.is_zero());
    let backend_request = time(&fields, "backendRequest", report).filter(|time| !time.is_zero());
    if let (Some(request), Some(each)) = (request, backend_request)
        && each > request
    {
        report.error(
            &format!("{}.backendRequest", node.path),
            "longer than the timeout of the whole request",
            "make it shorter, or the other one longer",
        );
    }
    Timeouts {
        request,
        backend_request,
    }
}

fn retry(rule: &Fields<'_>, report: &mut Report<'_>) -> Option<Retry> {
    let node = rule.get("retry")?;
    let fields = node.fields(report, &["codes", "attempts", "backoff"]);
    let mut codes = Vec::new();
    for code in fields.get("codes").map(|list| list.list(report)).unwrap_or_default() {
        let number = code.value.as_u64().and_then(|code| u16::try_from(code).ok());
        match number.filter(|code| (400..600).contains(code)) {
            Some(number) => codes.push(number),
            None => report.error(
                &code.path,
                format!("{} is not a status code that can be tried again", code.value),
                "write a number, 400 to 599",
            ),
        }
    }
    Some(Retry {
        codes: codes.into(),
        attempts: integer(&fields, "attempts", 0..=100, report).unwrap_or(Retry::ATTEMPTS),
        backoff: time(&fields, "backoff", report).unwrap_or(Retry::BACKOFF),
    })
}

fn time(fields: &Fields<'_>, key: &str, report: &mut Report<'_>) -> Option<Duration> {
    let node = fields.get(key)?;
    let text = node.text(report)?;
    let time = duration(text);
    if time.is_none() {
        let message = format!("{text:?} is not a time");
        report.error(&node.path, message, "write it as 500ms, 10s or 1m30s");
    }
    time
}
