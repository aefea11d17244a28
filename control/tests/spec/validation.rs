//! What admission says of objects, and how the evaluator takes lines it cannot read.

use serde_json::{Value, json};
use squire_control::{
    manifest::{Manifest, Severity},
    policy::{check::check, eval::Evaluator},
};

use crate::{allows, ap, denies, evaluate, np, pa, request};

/// Errors and warnings as `severity path`.
fn problems(policies: &str) -> Vec<String> {
    let checked = check(&Manifest::parse("f.yaml", policies));
    let line = |severity: Severity, path: &str| format!("{severity} {path}");
    checked
        .problems
        .iter()
        .map(|problem| line(problem.severity, &problem.path))
        .collect()
}

#[test]
fn validation_names_the_place_of_every_mistake() {
    let invalid = [
        (np("{podSelector: {}, ingres: []}"), "error spec.ingres"),
        (
            np("{podSelector: {matchLabels: {a: yes}}}"),
            "error spec.podSelector.matchLabels.a",
        ),
        (
            np("{podSelector: {matchExpressions: [{key: a, operator: Gt, values: ['1']}]}}"),
            "error spec.podSelector.matchExpressions[0].operator",
        ),
        (
            np("{podSelector: {}, ingress: [{ports: [{port: 80, endPort: 70}]}]}"),
            "error spec.ingress[0].ports[0].endPort",
        ),
        (
            np("{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/8]}}]}]}"),
            "error spec.ingress[0].from[0].ipBlock.except[0]",
        ),
        (
            np("{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]}"),
            "error spec.ingress[0].from[0].ipBlock",
        ),
        (
            np("{podSelector: {}, policyTypes: [ingress]}"),
            "error spec.policyTypes[0]",
        ),
        (
            ap("{rules: [{to: [{operation: {ports: [80]}}]}]}"),
            "error spec.rules[0].to[0].operation.ports[0]",
        ),
        (
            ap("{rules: [{to: [{operation: {paths: ['/{x}/{*}']}}]}]}"),
            "error spec.rules[0].to[0].operation.paths[0]",
        ),
        (
            ap("{rules: [{when: [{key: source.moon, values: [x]}]}]}"),
            "error spec.rules[0].when[0].key",
        ),
        (
            ap("{rules: [{from: [{source: {namespaces: ['a*b']}}]}]}"),
            "error spec.rules[0].from[0].source.namespaces[0]",
        ),
        (
            ap("{action: CUSTOM, provider: {name: p}, rules: [{from: [{source: {principals: [x]}}]}]}"),
            "error spec.rules[0].from[0].source.principals",
        ),
        (ap("{provider: {name: p}, rules: [{}]}"), "error spec.provider"),
        (pa("default", "b", "{mtls: {mode: strict}}"), "error spec.mtls.mode"),
        (
            pa("default", "istio-system", "{selector: {matchLabels: {a: b}}}"),
            "warning spec.selector",
        ),
        (
            ap("{action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}"),
            "warning spec.rules[0]",
        ),
        (
            np("{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.1.2.3/8}}]}]}"),
            "warning spec.ingress[0].from[0].ipBlock.cidr",
        ),
    ];
    for (policy, expected) in invalid {
        assert_eq!(problems(&policy), [expected], "{policy}");
    }
}

#[test]
fn the_policies_of_any_tutorial_are_valid() {
    let tutorial = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-all}
spec: {podSelector: {}, policyTypes: [Ingress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db-allow-services}
spec:
  podSelector: {matchLabels: {role: db}}
  ingress:
  - from:
    - podSelector: {matchLabels: {role: web}}
    - podSelector: {matchLabels: {role: api}}
    ports:
    - {protocol: TCP, port: 5432}
---
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
";
    assert_eq!(problems(tutorial), Vec::<String>::new());
    let call = |role: &str, tls: &str| {
        let identity = if tls == "mtls" {
            json!("spiffe://cluster.local/ns/default/sa/x")
        } else {
            Value::Null
        };
        json!({
            "source": {"kind": "pod", "ip": "10.0.0.1", "namespace": "default", "labels": {"role": role}, "identity": identity},
            "destination": {"kind": "pod", "ip": "10.0.0.2", "namespace": "default", "labels": {"role": "db"}, "port": 5432},
            "connection": {"l4": "TCP", "tls": tls, "sni": null, "protocol": "tcp"},
        })
    };
    allows(tutorial, &call("web", "mtls"));
    allows(tutorial, &call("api", "mtls"));
    denies(tutorial, &call("other", "mtls"));
    denies(tutorial, &call("web", "none"));
}

#[test]
fn a_line_that_cannot_be_read_is_an_error_and_nothing_else() {
    for line in ["", "{", "7", "{\"id\": 3}", "{\"id\": 3, \"request\": {}}"] {
        assert!(Evaluator::per_line().line(line).is_error(), "{line}");
    }
    let with_mesh = |mesh: Value| evaluate(&mesh, "", &request());
    assert!(with_mesh(json!({"rootNamespaces": "x"}))["error"].is_string());
    assert!(with_mesh(json!({"pathNormalization": "ALL"}))["error"].is_string());
    assert!(evaluate(&json!({}), "a: [", &request())["error"].is_string());
}
