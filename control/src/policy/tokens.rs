//! `security.istio.io RequestAuthentication`: validation, and the part of it that decisions need (spec §3.14). Fetching
//! keys and verifying tokens happens on the wire, elsewhere.

use squire_mesh::policy::TokenIssuer;

use super::{
    Body, Selects, labels,
    report::{Node, Report},
};
use crate::manifest::Object;

const RULE: [&str; 13] = [
    "issuer",
    "audiences",
    "jwksUri",
    "jwks_uri",
    "jwks",
    "fromHeaders",
    "fromParams",
    "fromCookies",
    "outputPayloadToHeader",
    "forwardOriginalToken",
    "outputClaimToHeaders",
    "timeout",
    "spaceDelimitedClaims",
];

pub(super) fn parse(_object: &Object, report: &mut Report<'_>) -> (Selects, Body) {
    let spec = report.spec(&["selector", "targetRef", "targetRefs", "jwtRules"]);
    let selects = labels::workload_selector(&spec, report);
    let rules = spec.get("jwtRules").map(|list| list.list(report)).unwrap_or_default();
    let issuers = rules.iter().filter_map(|node| rule(node, report)).collect();
    (selects, Body::Tokens(issuers))
}

fn rule(node: &Node<'_>, report: &mut Report<'_>) -> Option<TokenIssuer> {
    let fields = node.fields(report, &RULE);
    let issuer = fields.text("issuer", report).filter(|issuer| !issuer.is_empty());
    if issuer.is_none() {
        report.error(
            &format!("{}.issuer", node.path),
            "missing",
            "name the token's issuer (its iss claim)",
        );
    }
    fields.texts("audiences", report);
    fields.texts("fromParams", report);
    fields.texts("fromCookies", report);
    let uri = fields
        .text("jwksUri", report)
        .or_else(|| fields.text("jwks_uri", report));
    if uri.is_some() && fields.get("jwks").is_some() {
        report.error(
            &format!("{}.jwks", node.path),
            "jwks and jwksUri exclude each other",
            "keep one of them",
        );
    }
    if let Some(uri) = uri
        && !(uri.starts_with("https://") || uri.starts_with("http://"))
    {
        report.error(
            &format!("{}.jwksUri", node.path),
            format!("{uri:?} is not an HTTP URL"),
            "write https://…",
        );
    }
    if let Some(jwks) = fields.text("jwks", report) {
        let keys = serde_json::from_str::<serde_json::Value>(jwks);
        if !keys.is_ok_and(|keys| keys.get("keys").is_some_and(serde_json::Value::is_array)) {
            report.error(
                &format!("{}.jwks", node.path),
                "not a JSON Web Key Set",
                "write {\"keys\": […]}",
            );
        }
    }
    for header in fields
        .get("fromHeaders")
        .map(|list| list.list(report))
        .unwrap_or_default()
    {
        let inner = header.fields(report, &["name", "prefix"]);
        inner.text("prefix", report);
        if inner.text("name", report).unwrap_or_default().is_empty() {
            report.error(&format!("{}.name", header.path), "missing", "name the header");
        }
    }
    for output in fields
        .get("outputClaimToHeaders")
        .map(|list| list.list(report))
        .unwrap_or_default()
    {
        let inner = output.fields(report, &["header", "claim"]);
        for key in ["header", "claim"] {
            if inner.text(key, report).unwrap_or_default().is_empty() {
                report.error(
                    &format!("{}.{key}", output.path),
                    "missing",
                    "set both header and claim",
                );
            }
        }
    }
    if let Some(forward) = fields.get("forwardOriginalToken") {
        forward.boolean(report);
    }
    fields.text("outputPayloadToHeader", report);
    fields.text("timeout", report);
    let space_delimited = fields.texts("spaceDelimitedClaims", report);
    Some(TokenIssuer {
        issuer: issuer?.into(),
        space_delimited: space_delimited.into_iter().map(|(_, claim)| claim.into()).collect(),
    })
}
