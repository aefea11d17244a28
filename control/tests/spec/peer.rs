//! §2: PeerAuthentication.

use serde_json::{Value, json};

use crate::{allows, ap, decision, denies, evaluate, pa, plaintext, request, with};

#[test]
fn s2_1_narrower_levels_win_even_when_weaker() {
    let mesh = pa("default", "istio-system", "{mtls: {mode: STRICT}}");
    denies(&mesh, &plaintext());
    allows(
        &format!("{mesh}{}", pa("default", "b", "{mtls: {mode: PERMISSIVE}}")),
        &plaintext(),
    );
    let workload = pa(
        "w",
        "b",
        "{selector: {matchLabels: {app: server}}, mtls: {mode: DISABLE}}",
    );
    let answer = evaluate(&json!({}), &format!("{mesh}{workload}"), &plaintext());
    assert_eq!(
        (&answer["mtlsMode"], &answer["decision"]),
        (&json!("DISABLE"), &json!("ALLOW"))
    );
    denies(
        &format!("{mesh}{}", pa("default", "b", "{mtls: {mode: UNSET}}")),
        &plaintext(),
    );
    allows(
        &pa(
            "w",
            "istio-system",
            "{selector: {matchLabels: {app: server}}, mtls: {mode: STRICT}}",
        ),
        &plaintext(),
    );
}

#[test]
fn s2_1_2_the_oldest_counts_alone() {
    let dated = |name: &str, day: u8, spec: &str| {
        pa(name, "b", spec).replace(
            "{name:",
            &format!("{{creationTimestamp: \"2024-01-0{day}T00:00:00Z\", name:"),
        )
    };
    let strict = dated("z", 1, "{mtls: {mode: STRICT}}");
    let weak = dated("a", 2, "{mtls: {mode: DISABLE}}");
    denies(&format!("{weak}{strict}"), &plaintext());
    let same_day = dated("a", 1, "{mtls: {mode: PERMISSIVE}}");
    allows(&format!("{strict}{same_day}"), &plaintext());
}

#[test]
fn s2_1_4_ports_of_the_workload_policy() {
    let policy = pa(
        "w",
        "b",
        "{selector: {matchLabels: {app: server}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: PERMISSIVE}, 9000: {}}}",
    );
    allows(&policy, &plaintext());
    for port in [9000, 9001] {
        let mut request = plaintext();
        request["destination"]["port"] = json!(port);
        denies(&policy, &request);
    }
}

#[test]
fn s2_2_modes_and_transports() {
    let modes = |mode: &str| pa("default", "b", &format!("{{mtls: {{mode: {mode}}}}}"));
    let unidentified = with(&[("/source/identity", Value::Null)]);
    for (mode, mtls, plain, nobody) in [
        ("STRICT", "ALLOW", "DENY", "DENY"),
        ("PERMISSIVE", "ALLOW", "ALLOW", "DENY"),
        ("DISABLE", "DENY", "ALLOW", "DENY"),
    ] {
        let verdicts = [request(), plaintext(), unidentified.clone()].map(|request| decision(&modes(mode), &request));
        assert_eq!(verdicts, [mtls, plain, nobody], "{mode}");
    }
}

#[test]
fn s2_3_11_plaintext_has_no_identity() {
    denies(&ap("{rules: [{from: [{source: {principals: ['*']}}]}]}"), &plaintext());
    allows(&ap("{rules: [{from: [{source: {notNamespaces: [x]}}]}]}"), &plaintext());
    denies(
        &ap("{action: DENY, rules: [{from: [{source: {notPrincipals: ['*']}}]}]}"),
        &plaintext(),
    );
    allows(
        &ap("{action: DENY, rules: [{from: [{source: {notPrincipals: ['*']}}]}]}"),
        &request(),
    );
}

fn mode(policies: &str, request: &Value) -> String {
    let answer = evaluate(&json!({}), policies, request);
    answer["mtlsMode"].as_str().unwrap().to_owned()
}

#[test]
fn s2_1_1_an_empty_selector_is_a_level_and_not_a_workload() {
    for empty in [
        "{mtls: {mode: STRICT}}",
        "{selector: {}, mtls: {mode: STRICT}}",
        "{selector: {matchLabels: {}}, mtls: {mode: STRICT}}",
    ] {
        assert_eq!(mode(&pa("x", "b", empty), &request()), "STRICT", "{empty}");
        assert_eq!(mode(&pa("x", "istio-system", empty), &request()), "STRICT", "{empty}");
        let narrower = pa(
            "w",
            "b",
            "{selector: {matchLabels: {app: server}}, mtls: {mode: DISABLE}}",
        );
        assert_eq!(
            mode(&format!("{}{narrower}", pa("x", "b", empty)), &request()),
            "DISABLE"
        );
    }
    let both = |app: &str| format!("{{selector: {{matchLabels: {{app: {app}, v: '1'}}}}, mtls: {{mode: STRICT}}}}");
    assert_eq!(mode(&pa("w", "b", &both("server")), &request()), "STRICT");
    assert_eq!(mode(&pa("w", "b", &both("other")), &request()), "PERMISSIVE");
    assert_eq!(mode(&pa("w", "c", &both("server")), &request()), "PERMISSIVE");
}

#[test]
fn s2_1_2_losers_contribute_nothing_not_even_their_ports() {
    let dated = |name: &str, day: u8, spec: &str| {
        pa(name, "b", spec).replace(
            "{name:",
            &format!("{{creationTimestamp: \"2024-01-0{day}T00:00:00Z\", name:"),
        )
    };
    let older = dated("z", 1, "{selector: {matchLabels: {app: server}}}");
    let younger = dated(
        "a",
        2,
        "{selector: {matchLabels: {v: '1'}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: DISABLE}}}",
    );
    assert_eq!(mode(&format!("{older}{younger}"), &request()), "PERMISSIVE");
    let (a, b) = (
        dated("a", 1, "{mtls: {mode: STRICT}}"),
        dated("b", 1, "{mtls: {mode: DISABLE}}"),
    );
    assert_eq!(mode(&format!("{b}{a}"), &request()), "STRICT", "equally old: by name");
}

#[test]
fn s2_1_3_unset_changes_nothing_at_any_level() {
    let mesh = pa("default", "istio-system", "{mtls: {mode: STRICT}}");
    for nothing in ["{}", "{mtls: {}}", "{mtls: {mode: UNSET}}"] {
        assert_eq!(mode(&format!("{mesh}{}", pa("n", "b", nothing)), &request()), "STRICT");
        let selector = nothing.replacen('{', "{selector: {matchLabels: {app: server}}, ", 1);
        assert_eq!(
            mode(&format!("{mesh}{}", pa("w", "b", &selector)), &request()),
            "STRICT"
        );
        assert_eq!(mode(&pa("n", "b", nothing), &request()), "PERMISSIVE");
    }
}

#[test]
fn s2_1_4_a_port_that_is_unset_has_the_mode_of_the_narrowest_level_that_sets_one() {
    let namespace = pa("default", "b", "{mtls: {mode: STRICT}}");
    let port = |port: &str| {
        let spec = format!("{{selector: {{matchLabels: {{app: server}}}}, portLevelMtls: {{8080: {port}}}}}");
        format!("{namespace}{}", pa("w", "b", &spec))
    };
    for (listed, expected) in [
        ("{mode: DISABLE}", "DISABLE"),
        ("{mode: UNSET}", "STRICT"),
        ("{}", "STRICT"),
    ] {
        assert_eq!(mode(&port(listed), &request()), expected, "{listed}");
    }
    let other_port = with(&[("/destination/port", json!(9999))]);
    assert_eq!(mode(&port("{mode: DISABLE}"), &other_port), "STRICT");
}

#[test]
fn s2_1_5_in_the_root_namespace_the_mesh_level_is_the_namespace_level_too() {
    let at_root = with(&[("/destination/namespace", json!("istio-system"))]);
    assert_eq!(
        mode(&pa("default", "istio-system", "{mtls: {mode: STRICT}}"), &at_root),
        "STRICT"
    );
    let mesh = json!({"rootNamespace": "b"});
    let answer = evaluate(&mesh, &pa("default", "b", "{mtls: {mode: STRICT}}"), &at_root);
    assert_eq!(answer["mtlsMode"], "STRICT", "the root namespace is a setting");
}

#[test]
fn s2_2_6_strict_holds_for_every_port() {
    let strict = pa("default", "b", "{mtls: {mode: STRICT}}");
    for port in [1, 80, 8080, 65535] {
        let mut request = plaintext();
        request["destination"]["port"] = json!(port);
        denies(&strict, &request);
    }
}

#[test]
fn s2_2_8_disable_has_no_identity() {
    let disabled = pa("default", "b", "{mtls: {mode: DISABLE}}");
    let anybody_known = ap("{rules: [{from: [{source: {principals: ['*']}}]}]}");
    denies(&format!("{disabled}{anybody_known}"), &plaintext());
    denies(&disabled, &request());
}

#[test]
fn s2_3_11_negative_matches_hold_without_an_identity() {
    for field in [
        "notPrincipals: ['*']",
        "notNamespaces: [a]",
        "notServiceAccounts: [a/client]",
        "notTrustDomains: ['*']",
    ] {
        allows(
            &ap(&format!("{{rules: [{{from: [{{source: {{{field}}}}}]}}]}}")),
            &plaintext(),
        );
        denies(
            &ap(&format!("{{rules: [{{from: [{{source: {{{field}}}}}]}}]}}")),
            &request(),
        );
        denies(
            &ap(&format!(
                "{{action: DENY, rules: [{{from: [{{source: {{{field}}}}}]}}]}}"
            )),
            &plaintext(),
        );
    }
    // The address tells the namespace, but policies by identity never use it.
    denies(&ap("{rules: [{from: [{source: {namespaces: [a]}}]}]}"), &plaintext());
}

#[test]
fn s2_3_12_strict_comes_before_authorization() {
    let strict = pa("default", "b", "{mtls: {mode: STRICT}}");
    let answer = evaluate(&json!({}), &format!("{strict}{}", ap("{rules: [{}]}")), &plaintext());
    assert_eq!(
        (&answer["decision"], &answer["authz"]),
        (&json!("DENY"), &json!("ALLOW"))
    );
    assert_eq!(answer["by"]["kind"], "PeerAuthentication");
}
