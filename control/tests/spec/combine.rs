//! §0: how the languages combine.

use serde_json::json;

use squire_control::policy::eval::Evaluator;

use crate::{allows, ap, denies, http, named_ap, np, pa, plaintext, request, with};

#[test]
fn s0_1_every_language_must_allow() {
    let network = np("{podSelector: {}, ingress: [{}]}");
    let strict = pa("default", "b", "{mtls: {mode: STRICT}}");
    let allow = ap("{rules: [{}]}");
    allows(&format!("{network}{strict}{allow}"), &request());
    denies(&format!("{}{strict}{allow}", np("{podSelector: {}}")), &request());
    denies(&format!("{network}{strict}{allow}"), &plaintext());
    denies(&format!("{network}{strict}{}", ap("{}")), &request());
}

#[test]
fn s0_3_without_objects_everything_passes() {
    allows("# nothing", &request());
    allows("# nothing", &plaintext());
}

#[test]
fn s0_3_what_cannot_be_understood_denies_what_it_selects() {
    let broken = ap("{selector: {matchLabels: {app: server}}, rules: [{when: [{key: source.moon, values: [x]}]}]}");
    let open = named_ap("open", "b", "{rules: [{}]}");
    denies(&format!("{broken}{open}"), &request());
    allows(
        &format!("{broken}{open}"),
        &with(&[("/destination/labels", json!({"app": "other"}))]),
    );
    denies(
        &np("{podSelector: {matchLabels: {app: server}}, ingress: [{from: [{}]}]}"),
        &request(),
    );
    allows(
        &np("{podSelector: {matchLabels: {app: other}}, ingress: [{from: [{}]}]}"),
        &request(),
    );
    denies(&pa("default", "b", "{mtls: {mode: STRONG}}"), &request());
    let old = "apiVersion: security.istio.io/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: b}\nspec: {rules: [{}]}\n";
    denies(old, &request());
}

#[test]
fn eval_takes_null_for_nothing() {
    let mut line = json!({"id": 1, "mesh": null, "policies": null, "request": http("GET", "/")});
    line["request"]["extAuthz"] = json!(null);
    for field in ["headers", "authority", "remoteIp"] {
        line["request"]["http"][field] = json!(null);
    }
    line["request"]["http"]["jwt"] = json!({"claims": null});
    for field in ["labels", "namespaceLabels", "namedPorts"] {
        line["request"]["destination"][field] = json!(null);
    }
    let answer = serde_json::to_value(Evaluator::per_line().line(&line.to_string())).unwrap();
    assert_eq!(answer["decision"], "ALLOW", "{answer}");
}
