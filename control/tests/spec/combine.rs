//! §0: how the languages combine.

use serde_json::json;

use crate::{allows, ap, denies, named_ap, np, pa, plaintext, request, with};

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
