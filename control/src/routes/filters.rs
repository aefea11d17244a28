//! What a route changes (filters) and where it leads (backendRefs). A filter that cannot be carried out is an error, never
//! passed over: the Gateway API asks for an error response in its place.

use squire_mesh::{
    traffic::{Backend, Filters, HeaderEdits, PathChange, Redirect, Rewrite, RouteKind, Scheme},
    workload::ServiceName,
};

use super::{Context, integer, name, port};
use crate::policy::report::{Fields, Node, Report};

const HTTP: [(&str, &str); 4] = [
    ("RequestHeaderModifier", "requestHeaderModifier"),
    ("ResponseHeaderModifier", "responseHeaderModifier"),
    ("RequestRedirect", "requestRedirect"),
    ("URLRewrite", "urlRewrite"),
];
/// Types that exist, but are not carried out.
const UNSUPPORTED: [&str; 4] = ["RequestMirror", "CORS", "ExternalAuth", "ExtensionRef"];

/// The filters of an HTTPRoute's rule or backend. `prefix`: what its only match takes as a path prefix.
pub(super) fn http(of: &Fields<'_>, prefix: Option<&str>, report: &mut Report<'_>) -> Filters {
    read(of, RouteKind::Http, prefix, report)
}

/// The filters of a GRPCRoute's rule or backend.
pub(super) fn grpc(of: &Fields<'_>, report: &mut Report<'_>) -> Filters {
    read(of, RouteKind::Grpc, None, report)
}

/// Sessions that stick to an endpoint are not carried out.
pub(super) fn no_sessions(rule: &Fields<'_>, report: &mut Report<'_>) {
    if let Some(node) = rule.get("sessionPersistence") {
        report.error(&node.path, "session persistence is not supported", "remove it");
    }
}

fn read(of: &Fields<'_>, kind: RouteKind, prefix: Option<&str>, report: &mut Report<'_>) -> Filters {
    let nodes = of.get("filters").map(|list| list.list(report)).unwrap_or_default();
    if nodes.len() > 16 {
        report.error(&format!("{}.filters", of.path), "more than 16 filters", "join some");
    }
    let mut filters = Filters::default();
    let mut seen: Vec<&str> = Vec::new();
    for node in &nodes {
        let Some((name, body)) = one(node, kind, report) else {
            continue;
        };
        if seen.contains(&name) {
            report.error(&node.path, format!("a second {name}"), "join them");
        }
        seen.push(name);
        match name {
            "RequestHeaderModifier" => filters.request = header_edits(&body, report),
            "ResponseHeaderModifier" => filters.response = header_edits(&body, report),
            "RequestRedirect" => filters.redirect = Some(redirect(&body, prefix, report)),
            _ => filters.rewrite = Some(rewrite(&body, prefix, report)),
        }
    }
    if filters.redirect.is_some() && filters.rewrite.is_some() {
        let path = format!("{}.filters", of.path);
        report.error(
            &path,
            "RequestRedirect and URLRewrite exclude each other",
            "keep one of them",
        );
    }
    filters
}

/// Type and body of a filter that can be carried out.
fn one<'v>(node: &Node<'v>, kind: RouteKind, report: &mut Report<'_>) -> Option<(&'static str, Node<'v>)> {
    let known = [
        "type",
        "requestHeaderModifier",
        "responseHeaderModifier",
        "requestRedirect",
        "urlRewrite",
        "requestMirror",
        "cors",
        "externalAuth",
        "extensionRef",
    ];
    let fields = node.fields(report, &known);
    let at = format!("{}.type", node.path);
    let Some(name) = fields.text("type", report) else {
        report.error(&at, "missing", "name the type of the filter");
        return None;
    };
    if UNSUPPORTED.contains(&name) {
        report.error(&at, format!("the filter {name} is not supported"), "remove it");
        return None;
    }
    let may = if kind == RouteKind::Http { HTTP.len() } else { 2 };
    let Some((name, key)) = HTTP[..may].iter().find(|(known, _)| *known == name) else {
        let types: Vec<_> = HTTP[..may].iter().map(|(known, _)| *known).collect();
        let message = format!("unknown type {name:?} for a {kind}");
        report.error(&at, message, format!("use {}", types.join(", ")));
        return None;
    };
    for (_, other) in HTTP.iter().filter(|(_, other)| other != key) {
        if fields.get(other).is_some() {
            let message = format!("it does not belong to the type {name}");
            report.error(&format!("{}.{other}", node.path), message, "remove it");
        }
    }
    let body = fields.get(key);
    if body.is_none() {
        report.error(
            &format!("{}.{key}", node.path),
            "missing",
            "say what the filter is to do",
        );
    }
    Some((name, body?))
}

fn header_edits(node: &Node<'_>, report: &mut Report<'_>) -> HeaderEdits {
    let fields = node.fields(report, &["set", "add", "remove"]);
    let mut edits = HeaderEdits::default();
    for key in ["set", "add"] {
        let nodes = fields.get(key).map(|list| list.list(report)).unwrap_or_default();
        let mut found = Vec::new();
        for node in &nodes {
            let field = node.fields(report, &["name", "value"]);
            let value = field.text("value", report).unwrap_or_default();
            if let Some(name) = name(&field, "name", report) {
                let read = match key {
                    "set" => HeaderEdits::new([(&*name, value)], [], []),
                    _ => HeaderEdits::new([], [(&*name, value)], []),
                };
                let edit = accept(read, &node.path, report);
                found.extend(edit.set.into_iter().chain(edit.add));
            }
        }
        match key {
            "set" => edits.set = found.into(),
            _ => edits.add = found.into(),
        }
    }
    let mut removed = Vec::new();
    for (node, name) in fields.texts("remove", report) {
        removed.extend(accept(HeaderEdits::new([], [], [name]), &node.path, report).remove);
    }
    edits.remove = removed.into();
    edits
}

fn accept<E: std::fmt::Display>(edits: Result<HeaderEdits, E>, path: &str, report: &mut Report<'_>) -> HeaderEdits {
    edits.unwrap_or_else(|error| {
        report.error(path, error.to_string(), "change another field, or remove this");
        HeaderEdits::default()
    })
}

fn redirect(node: &Node<'_>, prefix: Option<&str>, report: &mut Report<'_>) -> Redirect {
    let fields = node.fields(report, &["scheme", "hostname", "path", "port", "statusCode"]);
    let scheme = match fields.text("scheme", report) {
        None => None,
        Some("http") => Some(Scheme::Http),
        Some("https") => Some(Scheme::Https),
        Some(other) => {
            let message = format!("unknown scheme {other:?}");
            report.error(&format!("{}.scheme", node.path), message, "use http or https");
            None
        }
    };
    let status = integer(&fields, "statusCode", 301..=308, report).unwrap_or(302);
    if ![301, 302, 303, 307, 308].contains(&status) {
        let path = format!("{}.statusCode", node.path);
        report.error(
            &path,
            format!("{status} is no redirect"),
            "use 301, 302, 303, 307 or 308",
        );
    }
    Redirect {
        scheme,
        host: host(&fields, report),
        port: port(&fields, report),
        path: fields.get("path").and_then(|node| path_change(&node, prefix, report)),
        status: u16::try_from(status).unwrap_or(302),
    }
}

fn rewrite(node: &Node<'_>, prefix: Option<&str>, report: &mut Report<'_>) -> Rewrite {
    let fields = node.fields(report, &["hostname", "path"]);
    Rewrite {
        host: host(&fields, report),
        path: fields.get("path").and_then(|node| path_change(&node, prefix, report)),
    }
}

fn host(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<Box<str>> {
    let host = fields.text("hostname", report)?;
    let label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        !label.is_empty()
            && label.bytes().all(|byte| inner(byte) || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.len() > 253 || !host.split('.').all(label) {
        let message = format!("{host:?} is not a host name");
        report.error(
            &format!("{}.hostname", fields.path),
            message,
            "lower case, without a port or a wildcard",
        );
    }
    Some(host.into())
}

fn path_change(node: &Node<'_>, prefix: Option<&str>, report: &mut Report<'_>) -> Option<PathChange> {
    let fields = node.fields(report, &["type", "replaceFullPath", "replacePrefixMatch"]);
    let kind = fields.text("type", report).unwrap_or_default();
    let (key, other) = match kind {
        "ReplaceFullPath" => ("replaceFullPath", "replacePrefixMatch"),
        "ReplacePrefixMatch" => ("replacePrefixMatch", "replaceFullPath"),
        unknown => {
            let message = format!("unknown type {unknown:?}");
            report.error(
                &format!("{}.type", node.path),
                message,
                "use ReplaceFullPath or ReplacePrefixMatch",
            );
            return None;
        }
    };
    if fields.get(other).is_some() {
        report.error(
            &format!("{}.{other}", node.path),
            format!("it does not belong to {kind}"),
            "remove it",
        );
    }
    let at = format!("{}.{key}", node.path);
    let Some(replacement) = fields.text(key, report) else {
        report.error(&at, "missing", "write the new path");
        return None;
    };
    let plain = replacement
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@%".contains(&byte));
    let absolute = replacement.starts_with('/') || (replacement.is_empty() && key == "replacePrefixMatch");
    let dots = replacement.split('/').any(|segment| matches!(segment, "." | ".."));
    if !plain || !absolute || dots || replacement.len() > 1024 {
        report.error(
            &at,
            format!("{replacement:?} is not a path"),
            "write /…, percent-encoded, without a query",
        );
    }
    if key == "replaceFullPath" {
        return Some(PathChange::Full(replacement.into()));
    }
    let Some(matched) = prefix else {
        let message = "which prefix is replaced? the rule has not exactly one match, by PathPrefix";
        report.error(&at, message, "give the rule one match with a PathPrefix");
        return None;
    };
    Some(PathChange::Prefix {
        matched: matched.into(),
        replacement: replacement.into(),
    })
}

/// Where a rule leads.
pub(super) fn backends(
    context: &Context<'_>,
    rule: &Fields<'_>,
    prefix: Option<&str>,
    http_route: bool,
    report: &mut Report<'_>,
) -> Vec<Backend> {
    let nodes = rule
        .get("backendRefs")
        .map(|list| list.list(report))
        .unwrap_or_default();
    if nodes.len() > 16 {
        report.error(
            &format!("{}.backendRefs", rule.path),
            "more than 16 backends",
            "remove some",
        );
    }
    let mut found = Vec::new();
    for node in &nodes {
        let fields = node.fields(
            report,
            &["group", "kind", "namespace", "name", "port", "weight", "filters"],
        );
        let group = fields.text("group", report).unwrap_or_default();
        let kind = fields.text("kind", report).unwrap_or("Service");
        let namespace = fields.text("namespace", report).unwrap_or(context.namespace);
        let name = name(&fields, "name", report);
        let service = matches!(group, "" | "core") && kind == "Service";
        let port = port(&fields, report);
        if service && fields.get("port").is_none() {
            report.error(
                &format!("{}.port", node.path),
                "missing",
                "name the port of the Service",
            );
        }
        let refused = (!service).then(|| {
            let message = format!("{group}/{kind} cannot be a backend: its share is answered with 500");
            report.warn(&node.path, &message, "lead to a Service");
            message.into()
        });
        let filters = if http_route {
            http(&fields, prefix, report)
        } else {
            grpc(&fields, report)
        };
        let Some(name) = name else { continue };
        found.push(Backend {
            service: ServiceName::new(namespace, &name),
            port: port.unwrap_or(1),
            weight: integer(&fields, "weight", 0..=1_000_000, report).unwrap_or(1),
            filters,
            refused,
        });
    }
    found
}
