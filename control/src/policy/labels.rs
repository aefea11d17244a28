//! Label selectors and the syntax of labels, as Kubernetes checks them.

use squire_mesh::policy::{LabelSelector, Operator, Requirement};

use super::{
    Selects,
    report::{Fields, Node, Report},
};

/// A full Kubernetes selector: `matchLabels` and `matchExpressions`.
pub(super) fn selector(node: &Node<'_>, report: &mut Report<'_>) -> LabelSelector {
    let fields = node.fields(report, &["matchLabels", "matchExpressions"]);
    let mut requirements = Vec::new();
    for (key, value) in fields
        .get("matchLabels")
        .map(|map| map.entries(report))
        .unwrap_or_default()
    {
        check_key(key, &value.path, report);
        if let Some(text) = value.text(report) {
            check_value(text, &value.path, report);
            requirements.push(equals(key, text));
        }
    }
    for item in fields
        .get("matchExpressions")
        .map(|list| list.list(report))
        .unwrap_or_default()
    {
        requirements.extend(expression(&item, report));
    }
    LabelSelector(requirements.into())
}

fn expression(item: &Node<'_>, report: &mut Report<'_>) -> Option<Requirement> {
    let fields = item.fields(report, &["key", "operator", "values"]);
    let key = fields.text("key", report);
    if let Some(key) = key {
        check_key(key, &format!("{}.key", fields.path), report);
    } else {
        report.error(&format!("{}.key", fields.path), "missing", "name a label");
    }
    let mut values = Vec::new();
    for node in fields.get("values").map(|list| list.list(report)).unwrap_or_default() {
        if let Some(value) = node.text(report) {
            check_value(value, &node.path, report);
            values.push(value.into());
        }
    }
    let path = format!("{}.values", fields.path);
    let operator = match fields.text("operator", report) {
        Some("In") => Operator::In(values.into()),
        Some("NotIn") => Operator::NotIn(values.into()),
        Some("Exists") if values.is_empty() => Operator::Exists,
        Some("DoesNotExist") if values.is_empty() => Operator::DoesNotExist,
        Some("Exists" | "DoesNotExist") => {
            report.error(
                &path,
                "must be empty for Exists and DoesNotExist",
                "remove the values, or use In",
            );
            return None;
        }
        other => {
            let message = other.map_or_else(|| "missing".to_owned(), |other| format!("unknown operator {other:?}"));
            report.error(
                &format!("{}.operator", fields.path),
                message,
                "use In, NotIn, Exists or DoesNotExist",
            );
            return None;
        }
    };
    if let Operator::In(values) | Operator::NotIn(values) = &operator
        && values.is_empty()
    {
        report.error(
            &path,
            "must list at least one value for In and NotIn",
            "add values, or use Exists",
        );
    }
    Some(Requirement {
        key: key?.into(),
        operator,
    })
}

/// An Istio workload selector (`matchLabels` only), or `targetRefs`, of a spec. With neither: everything.
pub(super) fn workload_selector(spec: &Fields<'_>, report: &mut Report<'_>) -> Selects {
    let mut targets = spec.get("targetRefs").map(|list| list.list(report)).unwrap_or_default();
    targets.extend(spec.get("targetRef"));
    for target in &targets {
        target_ref(target, report);
    }
    let selector = spec.get("selector");
    if !targets.is_empty() {
        if selector.is_some() {
            report.error(
                &format!("{}.selector", spec.path),
                "selector and targetRefs exclude each other",
                "keep one of them",
            );
        }
        if targets.len() > 16 {
            report.error(
                &format!("{}.targetRefs", spec.path),
                "more than 16 targets",
                "split the object",
            );
        }
        return Selects::Nothing;
    }
    let Some(selector) = selector else {
        return Selects::Labels(LabelSelector::default());
    };
    let labels = match_labels(&selector, report);
    if labels.0.is_empty() {
        report.warn(
            &selector.path,
            "a selector without labels selects every workload",
            "name labels, or remove the selector",
        );
    }
    Selects::Labels(labels)
}

fn match_labels(node: &Node<'_>, report: &mut Report<'_>) -> LabelSelector {
    let fields = node.fields(report, &["matchLabels"]);
    let mut requirements = Vec::new();
    for (key, value) in fields
        .get("matchLabels")
        .map(|map| map.entries(report))
        .unwrap_or_default()
    {
        if key.is_empty() || key.contains('*') {
            report.error(
                &value.path,
                format!("{key:?} cannot be a label key"),
                "name the label in full, without wildcards",
            );
        }
        let Some(text) = value.text(report) else { continue };
        if text.contains('*') || text.len() > 63 {
            report.error(
                &value.path,
                format!("{text:?} cannot be a label value"),
                "at most 63 characters, without wildcards",
            );
        }
        requirements.push(equals(key, text));
    }
    LabelSelector(requirements.into())
}

fn target_ref(target: &Node<'_>, report: &mut Report<'_>) {
    let fields = target.fields(report, &["group", "kind", "name", "namespace", "sectionName"]);
    let group = fields.text("group", report).unwrap_or_default();
    let kind = fields.text("kind", report).unwrap_or_default();
    fields.text("sectionName", report);
    let known = matches!(
        (group, kind),
        ("gateway.networking.k8s.io", "Gateway" | "GatewayClass")
            | ("" | "core", "Service")
            | ("networking.istio.io", "ServiceEntry")
    );
    if !known {
        report.error(
            &target.path,
            format!("{group}/{kind} cannot be a target"),
            "target a Gateway, GatewayClass, Service or ServiceEntry",
        );
    }
    if fields.text("name", report).unwrap_or_default().is_empty() {
        report.error(&format!("{}.name", target.path), "missing", "name the target");
    }
    if fields
        .text("namespace", report)
        .is_some_and(|namespace| !namespace.is_empty())
    {
        report.error(
            &format!("{}.namespace", target.path),
            "targets in other namespaces are not supported",
            "remove it",
        );
    }
}

fn equals(key: &str, value: &str) -> Requirement {
    Requirement {
        key: key.into(),
        operator: Operator::In([value.into()].into()),
    }
}

fn check_key(key: &str, path: &str, report: &mut Report<'_>) {
    let (prefix, name) = key
        .rsplit_once('/')
        .map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let prefix_ok = prefix.is_none_or(|prefix| {
        prefix.len() <= 253
            && prefix.split('.').all(|part| {
                let inner = part
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
                !part.is_empty() && inner && !part.starts_with('-') && !part.ends_with('-')
            })
    });
    if !prefix_ok || name.is_empty() || !is_label_text(name) {
        report.error(
            path,
            format!("{key:?} is not a label key"),
            "letters, digits, '-', '_', '.', at most 63, with an optional DNS prefix and '/'",
        );
    }
}

fn check_value(value: &str, path: &str, report: &mut Report<'_>) {
    if !value.is_empty() && !is_label_text(value) {
        report.error(
            path,
            format!("{value:?} is not a label value"),
            "letters, digits, '-', '_', '.', at most 63 characters",
        );
    }
}

fn is_label_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    let end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    text.len() <= 63
        && end(bytes.first())
        && end(bytes.last())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}
