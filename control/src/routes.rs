//! Gateway API routes that are attached to Services (GAMMA): HTTPRoute and GRPCRoute, with ReferenceGrant for backends in
//! other namespaces. Read strictly, validated as their CRDs do it, and handed to the Service they are attached to. How a
//! request is matched is `mesh::traffic`; nothing here balances or decides policy.
//!
//! What a route asks for and cannot be done is an error of its file, so that the last good state stays in force. Should such
//! a route come into force all the same, what it would have matched is answered with 500, and nothing else.

mod attach;
mod filters;
mod grant;
mod grpc;
mod http;
mod matches;
mod verdict;

use squire_mesh::traffic::{RouteKind, Rule, TrafficSettings};

pub(crate) use self::attach::Routes;
pub use self::verdict::{ParentVerdict, Verdict, Why};
use crate::{
    manifest::{Object, Problem, Severity},
    policy::report::{Fields, Node, Report},
};

const GROUP: &str = "gateway.networking.k8s.io";

/// A route, understood.
struct Parsed {
    kind: RouteKind,
    namespace: String,
    name: String,
    created: Option<i64>,
    parents: Vec<Parent>,
    rules: Vec<Rule>,
}

/// A Service that a route is to be attached to.
struct Parent {
    path: String,
    namespace: String,
    name: String,
    port: Option<u16>,
    section: Option<String>,
}

fn kind_of(object: &Object) -> Option<RouteKind> {
    match (object.group(), object.kind.as_str()) {
        (GROUP, "HTTPRoute") => Some(RouteKind::Http),
        (GROUP, "GRPCRoute") => Some(RouteKind::Grpc),
        _ => None,
    }
}

/// Whether an object says something about routes.
pub(crate) fn is_route(object: &Object) -> bool {
    kind_of(object).is_some() || grant::is_grant(object)
}

/// What is wrong or odd about one object, whatever the others say; nothing for objects of other kinds.
pub(crate) fn check(object: &Object) -> Vec<Problem> {
    if grant::is_grant(object) {
        return grant::parse(object).1;
    }
    if object.group().is_empty() && object.kind == "Service" {
        return annotations(object);
    }
    parse(object).map_or_else(Vec::new, |(_, problems)| problems)
}

/// What is wrong with the traffic settings of a Service.
fn annotations(service: &Object) -> Vec<Problem> {
    let annotations = service
        .value
        .get("metadata")
        .and_then(|metadata| metadata.get("annotations")?.as_object());
    let texts = annotations
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)));
    match TrafficSettings::from_annotations(texts) {
        Ok(_) => Vec::new(),
        Err(bad) => {
            let path = format!("metadata.annotations[{}]", bad.name);
            vec![service.problem(
                Severity::Error,
                &path,
                bad.to_string(),
                "mend the annotation, or remove it",
            )]
        }
    }
}

/// Reads one route; none for objects of other kinds. A rule with errors is refused, and so is what it matches.
fn parse(object: &Object) -> Option<(Parsed, Vec<Problem>)> {
    let kind = kind_of(object)?;
    let mut report = Report::new(object);
    check_version(object, kind, &mut report);
    let spec = report.spec(&["parentRefs", "hostnames", "rules", "useDefaultGateways"]);
    if spec
        .get("hostnames")
        .is_some_and(|names| !names.list(&mut report).is_empty())
    {
        report.warn(
            "spec.hostnames",
            "they say nothing where a route is attached to a Service",
            "match on the header host instead",
        );
    }
    let namespace = object.namespace_or_default().to_owned();
    let parents = parents(&spec, &namespace, &mut report);
    let route = format!("{kind} {namespace}/{}", object.name).into();
    let context = Context {
        route: &route,
        namespace: &namespace,
    };
    let nodes = spec.get("rules").map(|list| list.list(&mut report));
    if nodes.as_ref().is_some_and(|rules| rules.len() > 16) {
        report.error("spec.rules", "more than 16 rules", "split the route");
    }
    let mut rules: Vec<Rule> = Vec::new();
    for node in nodes.iter().flatten() {
        let before = report.errors();
        let mut rule = match kind {
            RouteKind::Http => http::rule(&context, node, &mut report),
            RouteKind::Grpc => grpc::rule(&context, node, &mut report),
        };
        if report.errors() > before {
            rule.refused = report.error_at(before).map(Into::into);
        }
        rules.push(rule);
    }
    if nodes.is_none() && kind == RouteKind::Http {
        // The default of the CRD: one rule for everything, without a backend.
        let everything = Node {
            value: &serde_json::Value::Null,
            path: "spec.rules".to_owned(),
        };
        rules.push(http::rule(&context, &everything, &mut report));
    }
    let parsed = Parsed {
        kind,
        created: created(&mut report),
        name: object.name.clone(),
        namespace,
        parents,
        rules,
    };
    Some((parsed, report.finish()))
}

/// What every part of a route needs to know of it.
struct Context<'a> {
    /// `HTTPRoute namespace/name`.
    route: &'a std::sync::Arc<str>,
    namespace: &'a str,
}

fn check_version(object: &Object, kind: RouteKind, report: &mut Report<'_>) {
    let version = object.api_version.rsplit('/').next().unwrap_or_default();
    let older = match kind {
        RouteKind::Http => "v1beta1",
        RouteKind::Grpc => "v1alpha2",
    };
    if version != "v1" && version != older {
        let message = format!("{} {} is not read by this version", object.api_version, object.kind);
        report.error("apiVersion", message, format!("use {GROUP}/v1"));
    }
}

fn parents(spec: &Fields<'_>, namespace: &str, report: &mut Report<'_>) -> Vec<Parent> {
    let nodes = spec.get("parentRefs").map(|list| list.list(report)).unwrap_or_default();
    let mut parents = Vec::new();
    for node in &nodes {
        let fields = node.fields(report, &["group", "kind", "namespace", "name", "sectionName", "port"]);
        let group = fields.text("group", report).unwrap_or(GROUP);
        let kind = fields.text("kind", report).unwrap_or("Gateway");
        let name = name(&fields, "name", report);
        let port = port(&fields, report);
        let section = fields.text("sectionName", report).map(str::to_owned);
        let of = fields.text("namespace", report).unwrap_or(namespace).to_owned();
        if matches!(group, "" | "core") && kind == "Service" {
            parents.push(Parent {
                path: node.path.clone(),
                namespace: of,
                name: name.unwrap_or_default(),
                port,
                section,
            });
        }
    }
    if parents.is_empty() {
        report.warn(
            "spec.parentRefs",
            "no Service among them: the mesh does not look at this route",
            "attach it to a Service with {group: \"\", kind: Service, name: …}",
        );
    }
    parents
}

fn created(report: &mut Report<'_>) -> Option<i64> {
    let text = report.metadata_text("creationTimestamp")?;
    let parsed = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339);
    match parsed {
        Ok(time) => Some(time.unix_timestamp()),
        Err(_) => {
            report.error(
                "metadata.creationTimestamp",
                format!("{text:?} is not a time"),
                "write it as 2026-01-31T12:00:00Z, or leave it out",
            );
            None
        }
    }
}

/// A required name.
fn name(fields: &Fields<'_>, key: &str, report: &mut Report<'_>) -> Option<String> {
    let name = fields.text(key, report).filter(|name| !name.is_empty());
    if name.is_none() {
        report.error(&format!("{}.{key}", fields.path), "missing", "write a name");
    }
    name.map(str::to_owned)
}

/// A port number, where there is one.
fn port(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<u16> {
    let number = integer(fields, "port", 1..=65_535, report)?;
    u16::try_from(number).ok()
}

/// A whole number within a range, where there is one.
fn integer(
    fields: &Fields<'_>,
    key: &str,
    range: std::ops::RangeInclusive<u32>,
    report: &mut Report<'_>,
) -> Option<u32> {
    let node = fields.get(key)?;
    let number = node.value.as_u64().and_then(|number| u32::try_from(number).ok());
    let within = number.filter(|number| range.contains(number));
    if within.is_none() {
        let message = format!("{} is not a number that it can have", node.value);
        let fix = format!("write a whole number, {} to {}", range.start(), range.end());
        report.error(&node.path, message, fix);
    }
    within
}

#[cfg(test)]
mod tests;
