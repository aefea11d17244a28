//! `ReferenceGrant`: who may send requests to the Services of another namespace. It lives in the namespace of those
//! Services; without one, a backend there is answered with 500.

use squire_mesh::traffic::RouteKind;

use super::{GROUP, name};
use crate::{
    manifest::{Object, Problem},
    policy::report::Report,
};

/// A grant, understood.
pub(super) struct Grant {
    namespace: String,
    /// Kind and namespace of routes.
    from: Vec<(String, String)>,
    /// Names of Services; none: every one.
    to: Vec<Option<String>>,
}

pub(super) fn is_grant(object: &Object) -> bool {
    object.group() == GROUP && object.kind == "ReferenceGrant"
}

impl Grant {
    /// Whether a route may lead to this Service.
    pub(super) fn allows(&self, kind: RouteKind, from: &str, namespace: &str, service: &str) -> bool {
        self.namespace == namespace
            && self
                .from
                .iter()
                .any(|(of, namespace)| of == kind.as_str() && namespace == from)
            && self.to.iter().any(|to| to.as_deref().is_none_or(|to| to == service))
    }
}

/// Reads one grant. Entries for other kinds are not kept; one with errors grants nothing.
pub(super) fn parse(object: &Object) -> (Option<Grant>, Vec<Problem>) {
    let mut report = Report::new(object);
    let version = object.api_version.rsplit('/').next().unwrap_or_default();
    if !["v1", "v1beta1", "v1alpha2"].contains(&version) {
        let message = format!("{} {} is not read by this version", object.api_version, object.kind);
        report.error("apiVersion", message, format!("use {GROUP}/v1beta1"));
    }
    let spec = report.spec(&["from", "to"]);
    let mut grant = Grant {
        namespace: object.namespace_or_default().to_owned(),
        from: Vec::new(),
        to: Vec::new(),
    };
    for node in spec.get("from").map(|list| list.list(&mut report)).unwrap_or_default() {
        let fields = node.fields(&mut report, &["group", "kind", "namespace"]);
        let group = fields.text("group", &mut report).unwrap_or_default();
        let (kind, namespace) = (
            name(&fields, "kind", &mut report),
            name(&fields, "namespace", &mut report),
        );
        if let (GROUP, Some(kind), Some(namespace)) = (group, kind, namespace) {
            grant.from.push((kind, namespace));
        }
    }
    for node in spec.get("to").map(|list| list.list(&mut report)).unwrap_or_default() {
        let fields = node.fields(&mut report, &["group", "kind", "name"]);
        let group = fields.text("group", &mut report).unwrap_or_default();
        let kind = name(&fields, "kind", &mut report);
        let to = fields.text("name", &mut report).map(str::to_owned);
        if matches!(group, "" | "core") && kind.as_deref() == Some("Service") {
            grant.to.push(to.filter(|name| !name.is_empty()));
        }
    }
    for key in ["from", "to"] {
        if spec
            .get(key)
            .is_none_or(|list| list.value.as_array().is_some_and(Vec::is_empty))
        {
            report.error(&format!("spec.{key}"), "missing", "name at least one");
        }
    }
    let good = report.errors() == 0;
    (good.then_some(grant), report.finish())
}
