//! What a route's matches look at: paths, methods, header fields, query parameters, gRPC calls. What cannot be read is an
//! error, and matches everything: the rule is refused then, and fails closed.

use squire_mesh::{
    policy::path::{PathNormalization, normalize},
    traffic::{FieldMatch, Match, PathMatch, Pattern, TextRule},
};

use crate::policy::report::{Fields, Node, Report};

const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];

/// One match of an HTTPRoute.
pub(super) fn http(node: &Node<'_>, report: &mut Report<'_>) -> Match {
    let fields = node.fields(report, &["path", "headers", "queryParams", "method"]);
    let method = fields.text("method", report);
    if let Some(unknown) = method.filter(|method| !METHODS.contains(method)) {
        let path = format!("{}.method", node.path);
        report.error(
            &path,
            format!("unknown method {unknown:?}"),
            format!("one of {}", METHODS.join(", ")),
        );
    }
    let path = fields.get("path").and_then(|node| path(&node, report));
    Match {
        path: path.unwrap_or_else(|| Match::default().path),
        method: method.map(Into::into),
        headers: field_matches(&fields, "headers", report),
        query: field_matches(&fields, "queryParams", report),
    }
}

/// One match of a GRPCRoute.
pub(super) fn grpc(node: &Node<'_>, report: &mut Report<'_>) -> Match {
    let fields = node.fields(report, &["method", "headers"]);
    let call = fields.get("method").map(|node| call(&node, report));
    let (service, method) = call.unwrap_or_default();
    Match {
        path: PathMatch::Grpc { service, method },
        method: None,
        headers: field_matches(&fields, "headers", report),
        query: [].into(),
    }
}

fn path(node: &Node<'_>, report: &mut Report<'_>) -> Option<PathMatch> {
    let fields = node.fields(report, &["type", "value"]);
    let kind = fields.text("type", report).unwrap_or("PathPrefix");
    let value = fields.text("value", report).unwrap_or("/");
    let at = format!("{}.value", node.path);
    if value.len() > 1024 {
        report.error(&at, "longer than 1024 bytes", "shorten it");
    }
    if kind == "RegularExpression" {
        return pattern(&at, value, report).map(PathMatch::Pattern);
    }
    check_path(&at, value, report);
    // Requests are compared after normalisation: so is what they are compared with.
    let normal = normalize(PathNormalization::Base, value).ok()?;
    match kind {
        "Exact" => Some(PathMatch::Exact((*normal).into())),
        "PathPrefix" => Some(PathMatch::Prefix(normal.trim_end_matches('/').into())),
        unknown => {
            let message = format!("unknown type {unknown:?}");
            report.error(
                &format!("{}.type", node.path),
                message,
                "use Exact, PathPrefix or RegularExpression",
            );
            None
        }
    }
}

/// What the CRD asks of exact paths and prefixes.
fn check_path(at: &str, value: &str, report: &mut Report<'_>) {
    let lower = value.to_ascii_lowercase();
    let odd = ["//", "/./", "/../", "%2f", "#"]
        .into_iter()
        .find(|odd| lower.contains(odd));
    let end = ["/..", "/."].into_iter().find(|end| value.ends_with(end));
    let plain = value
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@%".contains(&byte));
    if !value.starts_with('/') {
        report.error(at, format!("{value:?} does not begin with a slash"), "write /…");
    } else if let Some(odd) = odd.or(end) {
        report.error(
            at,
            format!("{value:?} holds {odd:?}"),
            "write the path as it is after normalisation",
        );
    } else if !plain {
        report.error(
            at,
            format!("{value:?} is not a path"),
            "percent-encode what is not allowed in a path",
        );
    }
}

fn call(node: &Node<'_>, report: &mut Report<'_>) -> (Option<TextRule>, Option<TextRule>) {
    let fields = node.fields(report, &["type", "service", "method"]);
    let kind = fields.text("type", report).unwrap_or("Exact");
    let mut part = |key: &str, dots: bool| {
        let text = fields.text(key, report).filter(|text| !text.is_empty())?;
        let at = format!("{}.{key}", node.path);
        if kind == "RegularExpression" {
            return pattern(&at, text, report).map(TextRule::Pattern);
        }
        if !is_grpc_name(text, dots) {
            let message = format!("{text:?} cannot be the {key} of a gRPC call");
            report.error(&at, message, "write it as in the .proto file, with its package");
        }
        Some(TextRule::Exact(text.trim_start_matches('.').into()))
    };
    let (service, method) = (part("service", true), part("method", false));
    if !["Exact", "RegularExpression"].contains(&kind) {
        let message = format!("unknown type {kind:?}");
        report.error(
            &format!("{}.type", node.path),
            message,
            "use Exact or RegularExpression",
        );
    }
    if service.is_none() && method.is_none() {
        report.error(&node.path, "neither service nor method", "name one of them at least");
    }
    (service, method)
}

fn is_grpc_name(text: &str, dots: bool) -> bool {
    let parts = text.strip_prefix('.').filter(|_| dots).unwrap_or(text);
    let part = |part: &str| {
        let first = part.bytes().next();
        first.is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if dots { parts.split('.').all(part) } else { part(parts) }
}

fn field_matches(of: &Fields<'_>, key: &str, report: &mut Report<'_>) -> Box<[FieldMatch]> {
    let nodes = of.get(key).map(|list| list.list(report)).unwrap_or_default();
    if nodes.len() > 16 {
        report.error(&format!("{}.{key}", of.path), "more than 16", "split the match");
    }
    let mut found: Vec<FieldMatch> = Vec::new();
    for node in nodes {
        let Some(field) = field_match(&node, report, key == "headers") else {
            continue;
        };
        if found.iter().any(|other| other.name == field.name) {
            let message = format!("{:?} is matched before; the first one counts", field.name);
            report.warn(&node.path, message, "remove one");
        } else {
            found.push(field);
        }
    }
    found.into()
}

fn field_match(node: &Node<'_>, report: &mut Report<'_>, header: bool) -> Option<FieldMatch> {
    let fields = node.fields(report, &["type", "name", "value"]);
    let kind = fields.text("type", report).unwrap_or("Exact");
    let name = super::name(&fields, "name", report)?;
    let token = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
    if name.len() > 256 || !token {
        report.error(
            &format!("{}.name", node.path),
            format!("{name:?} cannot be a name here"),
            "letters, digits and -_. at most 256",
        );
    }
    let at = format!("{}.value", node.path);
    let value = fields.text("value", report).unwrap_or_default();
    if value.is_empty() {
        report.error(&at, "missing", "write what the value has to be");
    }
    let value = match kind {
        "Exact" => TextRule::Exact(value.into()),
        "RegularExpression" => TextRule::Pattern(pattern(&at, value, report)?),
        unknown => {
            let message = format!("unknown type {unknown:?}");
            report.error(
                &format!("{}.type", node.path),
                message,
                "use Exact or RegularExpression",
            );
            return None;
        }
    };
    Some(FieldMatch {
        name: if header { name.to_ascii_lowercase() } else { name }.into(),
        value,
    })
}

fn pattern(at: &str, text: &str, report: &mut Report<'_>) -> Option<Pattern> {
    Pattern::new(text)
        .map_err(|error| {
            let fix = "no look-around and no back-references; \\d, \\w and (?i) know ASCII only";
            report.error(at, error.to_string(), fix);
        })
        .ok()
}
