//! The semantics of the policy languages, statement by statement, in the order of the specification: each test names its
//! section. Policies are written as users write them and go through the evaluator, which calls the proxies' decision.
//!
//! | statements | tests |
//! |---|---|
//! | §0.1, §0.3 | `combine` |
//! | §1.1 to §1.6 | `network`; §1.5.17 (own node), §1.5.18, §1.6.21 also `mesh/tests/policy_network.rs`; §1.5.20 `tests/scenarios/connections.rs` |
//! | §2.1 to §2.3 | `peer`; what a mode does to bytes (§2.2.6 to §2.2.10) `tests/scenarios/{identity,routing,peers}.rs` |
//! | §3.1 to §3.7 | `authorization` |
//! | §3.8 to §3.13, §3.14.54 | `requests` |
//! | §0.2, §3.8.28, §3.9.39, §3.12.43, §3.13.45, 49 to 51, 53 | on the wire: `tests/scenarios/{connections,http,http2,smuggling,tokens}.rs` |
//! | admission (§3.3.13, §3.11, §3.12.42) | `validation`, and every field of every kind in `tests/validation.rs` |
//!
//! All of it against a second, independent reading: `tests/differential.rs`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod authorization;
mod combine;
mod network;
mod peer;
mod requests;
mod validation;

use serde_json::{Value, json};
use squire_control::policy::eval::Evaluator;

/// The request from which tests start: `client` in `a` calls `server` in `b` on port 8080, over mutual TLS.
fn request() -> Value {
    json!({
        "source": {"kind": "pod", "ip": "10.0.0.1", "namespace": "a", "labels": {"app": "client"},
            "namespaceLabels": {"kubernetes.io/metadata.name": "a"}, "identity": "spiffe://cluster.local/ns/a/sa/client"},
        "destination": {"kind": "pod", "ip": "10.0.0.2", "namespace": "b", "labels": {"app": "server", "v": "1"},
            "namespaceLabels": {"kubernetes.io/metadata.name": "b"}, "port": 8080,
            "namedPorts": {"web": {"port": 8080, "protocol": "TCP"}}},
        "connection": {"l4": "TCP", "tls": "mtls", "sni": null, "protocol": "tcp"},
    })
}

/// The start request with fields set, by JSON pointer.
fn with(changes: &[(&str, Value)]) -> Value {
    let mut request = request();
    for (pointer, value) in changes {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        request.pointer_mut(parent).unwrap()[key] = value.clone();
    }
    request
}

fn plaintext() -> Value {
    with(&[("/connection/tls", json!("none")), ("/source/identity", Value::Null)])
}

/// Plaintext from outside the cluster.
fn outside() -> Value {
    let mut request = plaintext();
    request["source"] = json!({"kind": "external", "ip": "203.0.113.9"});
    request
}

/// An HTTP request over mutual TLS.
fn http(method: &str, path: &str) -> Value {
    with(&[
        ("/connection/protocol", json!("http")),
        (
            "/http",
            json!({"method": method, "path": path, "authority": "server.b", "headers": []}),
        ),
    ])
}

fn evaluate(mesh: &Value, policies: &str, request: &Value) -> Value {
    let line = json!({"id": 1, "mesh": mesh, "policies": policies, "request": request});
    serde_json::to_value(Evaluator::per_line().line(&line.to_string())).unwrap()
}

fn decision(policies: &str, request: &Value) -> String {
    let answer = evaluate(&json!({}), policies, request);
    answer["decision"]
        .as_str()
        .unwrap_or_else(|| panic!("{answer}"))
        .to_owned()
}

#[track_caller]
fn allows(policies: &str, request: &Value) {
    assert_eq!(decision(policies, request), "ALLOW", "{policies}");
}

#[track_caller]
fn denies(policies: &str, request: &Value) {
    assert_eq!(decision(policies, request), "DENY", "{policies}");
}

/// A NetworkPolicy of namespace `b` with this spec.
fn np(spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: b}}\nspec: {spec}\n"
    )
}

/// An AuthorizationPolicy of namespace `b` with this spec.
fn ap(spec: &str) -> String {
    named_ap("p", "b", spec)
}

fn named_ap(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

fn pa(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

/// A RequestAuthentication for tokens of the issuer `i`, whose claim `roles` is separated by spaces.
fn tokens(namespace: &str, selector: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: r, namespace: {namespace}}}\n\
         spec: {{{selector} jwtRules: [{{issuer: i, spaceDelimitedClaims: [roles]}}]}}\n"
    )
}
