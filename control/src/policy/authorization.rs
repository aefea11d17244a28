//! `security.istio.io AuthorizationPolicy`: validation (as Istio's admission does it, stricter where the specification
//! says so) and its rules, ready for the table. What matches is decided elsewhere.

mod condition;
mod item;
mod trust;

use std::sync::Arc;

use squire_mesh::policy::{Action, Attribute, AuthorizationPolicy, Condition, Conditions, ObjectRef, Rule};

use super::{
    Body, MeshConfig, Selects, labels,
    report::{Fields, Node, Report},
};
use crate::manifest::Object;

const DRY_RUN: &str = "istio.io/dry-run";

/// What the parts of a rule need to know of their policy.
struct Scope<'c> {
    namespace: &'c str,
    action: Action,
    config: &'c MeshConfig,
}

pub(super) fn parse(
    object: &Object,
    reference: &Arc<ObjectRef>,
    config: &MeshConfig,
    report: &mut Report<'_>,
) -> (Selects, Body) {
    let spec = report.spec(&["selector", "targetRef", "targetRefs", "rules", "action", "provider"]);
    let selects = labels::workload_selector(&spec, report);
    let action = action(&spec, report);
    let dry_run = dry_run(action, report);
    let provider = provider(&spec, action, report);
    let items = spec.get("rules").map(|list| list.list(report)).unwrap_or_default();
    if items.is_empty() && matches!(action, Action::Deny | Action::Custom) {
        let message = format!("{} without rules never matches", action.as_str());
        report.error(
            &format!("{}.rules", spec.path),
            message,
            "write rules: [{}] to match everything",
        );
    }
    let scope = Scope {
        namespace: object.namespace_or_default(),
        action,
        config,
    };
    let rules = items.iter().map(|item| rule(item, &scope, report)).collect();
    let policy = Arc::new(AuthorizationPolicy {
        object: Arc::clone(reference),
        rules,
    });
    (
        selects,
        Body::Authorization {
            action,
            dry_run,
            provider,
            policy,
        },
    )
}

fn action(spec: &Fields<'_>, report: &mut Report<'_>) -> Action {
    match spec.text("action", report) {
        None | Some("ALLOW") => Action::Allow,
        Some("DENY") => Action::Deny,
        Some("AUDIT") => Action::Audit,
        Some("CUSTOM") => Action::Custom,
        Some(other) => {
            report.error(
                &format!("{}.action", spec.path),
                format!("unknown action {other:?}"),
                "use ALLOW, DENY, AUDIT or CUSTOM",
            );
            Action::Deny
        }
    }
}

/// Spec §3.11.41: the spellings of Go's `ParseBool`; only for ALLOW and DENY.
fn dry_run(action: Action, report: &mut Report<'_>) -> bool {
    let Some(text) = report.annotation(DRY_RUN) else {
        return false;
    };
    let path = format!("metadata.annotations.{DRY_RUN}");
    if !matches!(action, Action::Allow | Action::Deny) {
        report.error(
            &path,
            format!("dry-run does not work with {}", action.as_str()),
            "use it with ALLOW or DENY",
        );
    }
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => true,
        "0" | "f" | "F" | "FALSE" | "false" | "False" => false,
        other => {
            report.error(
                &path,
                format!("{other:?} is neither true nor false"),
                "write \"true\" or \"false\"",
            );
            false
        }
    }
}

fn provider(spec: &Fields<'_>, action: Action, report: &mut Report<'_>) -> Option<Box<str>> {
    let node = spec.get("provider");
    let name = node
        .as_ref()
        .and_then(|node| node.fields(report, &["name"]).text("name", report))
        .unwrap_or_default();
    match (action, node) {
        (Action::Custom, _) if name.is_empty() => {
            report.error(
                &format!("{}.provider", spec.path),
                "CUSTOM needs a provider",
                "set provider.name to an extension provider of the mesh config",
            );
            None
        }
        (Action::Custom, _) => Some(name.into()),
        (_, Some(node)) => {
            report.error(
                &node.path,
                format!("{} has no provider", action.as_str()),
                "remove it, or use action: CUSTOM",
            );
            None
        }
        (_, None) => None,
    }
}

fn rule(node: &Node<'_>, scope: &Scope<'_>, report: &mut Report<'_>) -> Rule {
    let fields = node.fields(report, &["from", "to", "when"]);
    let sources = items(&fields, "from", "source", report, |source, report| {
        item::source(source, scope, report)
    });
    let operations = items(&fields, "to", "operation", report, item::operation);
    let mut when = Vec::new();
    for entry in fields.get("when").map(|list| list.list(report)).unwrap_or_default() {
        when.extend(condition::when(&entry, scope, report));
    }
    let rule = Rule::new(sources, operations, when.into());
    warn_of_bytes(&rule, &node.path, scope, report);
    rule
}

/// Spec §3.10: what HTTP-only fields do on ports that do not carry HTTP is not what most people expect.
fn warn_of_bytes(rule: &Rule, path: &str, scope: &Scope<'_>, report: &mut Report<'_>) {
    match scope.action {
        Action::Deny if rule.is_http_only() && !restricts_ports(rule) => report.warn(
            path,
            "on ports that do not carry HTTP it denies whatever its other fields match, because HTTP attributes are \
             ignored there",
            "add the ports it is meant for to to.operation.ports",
        ),
        Action::Allow if is_mixed(rule.sources()) || is_mixed(rule.operations()) => report.warn(
            path,
            "on ports that do not carry HTTP it never matches, its items without HTTP attributes included",
            "write the items without HTTP attributes into a rule of their own",
        ),
        _ => {}
    }
}

/// Whether some of the items could match bytes and others could not.
fn is_mixed(items: &[Conditions]) -> bool {
    let http_only = |item: &Conditions| item.iter().any(|condition| condition.attribute.is_http_only());
    items.iter().any(http_only) && !items.iter().all(http_only)
}

/// The items of `from` or `to`. An empty list, and an item without content, are errors (spec §3.3.13).
fn items(
    fields: &Fields<'_>,
    key: &str,
    inner: &str,
    report: &mut Report<'_>,
    read: impl Fn(&Node<'_>, &mut Report<'_>) -> Conditions,
) -> Box<[Conditions]> {
    let Some(list) = fields.get(key) else { return [].into() };
    let nodes = list.list(report);
    if nodes.is_empty() {
        report.error(
            &list.path,
            "must have at least one item",
            format!("add an item, or remove {key}"),
        );
    }
    let mut items = Vec::with_capacity(nodes.len());
    for node in nodes {
        match node.fields(report, &[inner]).get(inner) {
            Some(content) => items.push(read(&content, report)),
            None => report.error(
                &node.path,
                format!("needs {inner}"),
                format!("write {inner}: with at least one field"),
            ),
        }
    }
    items.into()
}

fn restricts_ports(rule: &Rule) -> bool {
    let on_port = |conditions: &[Condition]| {
        conditions
            .iter()
            .any(|condition| matches!(condition.attribute, Attribute::DestinationPort(_)))
    };
    on_port(rule.when()) || (!rule.operations().is_empty() && rule.operations().iter().all(|item| on_port(item)))
}
