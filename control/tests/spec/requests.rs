//! §3.8 to §3.13: paths, headers, claims, bytes, providers, dry-run.

use serde_json::{Value, json};

use crate::{allows, ap, decision, denies, evaluate, http, named_ap, request, tokens, with};

#[test]
fn s3_8_paths_are_normalised_before_they_are_matched() {
    let policy = ap("{action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}");
    for path in [
        "/admin",
        "/x/../admin",
        "/%61dmin",
        "/./admin",
        "\\admin",
        "/admin#x",
        "/admin?y",
        "http://server.b/admin",
    ] {
        denies(&policy, &http("GET", path));
    }
    for path in ["//admin", "/%2fadmin", "/ADMIN", "/%2561dmin", "/admin;x"] {
        allows(&policy, &http("GET", path));
    }
    let decode = json!({"pathNormalization": "DECODE_AND_MERGE_SLASHES"});
    for path in ["//admin", "/%2fadmin", "/x%5c..%5Cadmin"] {
        assert_eq!(
            evaluate(&decode, &policy, &http("GET", path))["decision"],
            "DENY",
            "{path}"
        );
    }
    denies("# even without policies", &http("GET", "/a%00"));
    allows(&policy, &http("OPTIONS", "*"));
    denies(
        &ap("{rules: [{to: [{operation: {paths: ['*']}}]}]}"),
        &http("CONNECT", "server.b:80"),
    );
}

#[test]
fn s3_9_33_each_value_of_a_repeated_header_counts() {
    let when = |action: &str, list: &str| {
        ap(&format!(
            "{{action: {action}, rules: [{{when: [{{key: 'request.headers[X-Role]', {list}}}]}}]}}"
        ))
    };
    let roles = |roles: &[&str]| {
        let mut request = http("GET", "/");
        request["http"]["headers"] = roles.iter().map(|role| json!(["x-role", role])).collect();
        request
    };
    denies(&when("DENY", "values: [admin]"), &roles(&["user", "admin"]));
    allows(&when("DENY", "values: [admin]"), &roles(&["user,admin"]));
    allows(&when("ALLOW", "values: [user]"), &roles(&["user", "user"]));
    denies(&when("ALLOW", "values: [user]"), &roles(&["user", "admin"]));
    denies(&when("ALLOW", "values: ['*']"), &roles(&[]));
    allows(&when("ALLOW", "notValues: [admin]"), &roles(&[]));
    denies(&when("ALLOW", "notValues: [admin]"), &roles(&["user", "admin"]));
}

#[test]
fn s3_9_34_claims() {
    let when = |key: &str, value: &str| {
        ap(&format!(
            "{{rules: [{{when: [{{key: '{key}', values: ['{value}']}}]}}]}}"
        ))
    };
    let mut request = http("GET", "/");
    request["http"]["jwt"] = json!({"claims": {"iss": "i", "sub": "s", "aud": ["x", "y"], "azp": "p", "scope": "read write",
        "roles": "read write", "n": 7, "deep": {"er": ["z"]}}});
    for (key, value, expected) in [
        ("request.auth.audiences", "y", true),
        ("request.auth.presenter", "p", true),
        ("request.auth.claims[scope]", "write", true),
        ("request.auth.claims[roles]", "write", false),
        ("request.auth.claims[n]", "7", false),
        ("request.auth.claims[deep][er]", "z", true),
        ("request.auth.principal", "i/s", true),
        ("request.auth.principal", "i/*", true),
        ("request.auth.principal", "j/*", false),
    ] {
        assert_eq!(
            decision(&when(key, value), &request) == "ALLOW",
            expected,
            "{key} {value}"
        );
    }
    allows(
        &format!("{}{}", when("request.auth.claims[roles]", "write"), tokens("b", "")),
        &request,
    );
}

#[test]
fn s3_9_35_server_name() {
    let policy = ap("{rules: [{when: [{key: connection.sni, values: ['*.example']}]}]}");
    denies(&policy, &request());
    allows(&policy, &with(&[("/connection/sni", json!("a.example"))]));
}

#[test]
fn s3_10_http_fields_on_bytes() {
    denies(
        &ap("{rules: [{to: [{operation: {methods: [GET]}}, {operation: {ports: ['8080']}}]}]}"),
        &request(),
    );
    denies(&ap("{rules: [{to: [{operation: {notMethods: [GET]}}]}]}"), &request());
    denies(
        &ap("{action: DENY, rules: [{to: [{operation: {methods: [POST]}}]}]}"),
        &request(),
    );
    allows(
        &ap("{action: DENY, rules: [{to: [{operation: {methods: [POST], ports: ['81']}}]}]}"),
        &request(),
    );
    denies(
        &ap("{action: DENY, rules: [{to: [{operation: {ports: ['81']}}, {operation: {methods: [POST]}}]}]}"),
        &request(),
    );
}

#[test]
fn s3_11_40_providers() {
    let custom = |name: &str, provider: &str, path: &str| {
        named_ap(
            name,
            "b",
            &format!(
                "{{action: CUSTOM, provider: {{name: {provider}}}, rules: [{{to: [{{operation: {{paths: [{path}]}}}}]}}]}}"
            ),
        )
    };
    let asked = |answer: &str| {
        let mut request = http("GET", "/x");
        request["extAuthz"] = json!({"p": answer, "q": "allow"});
        request
    };
    let mesh = |fail_open: bool, many: bool| json!({"extensionProviders": {"p": {"type": "http", "failOpen": fail_open}, "q": {"type": "grpc"}}, "multipleCustomProviders": many});
    let decide = |mesh: Value, policies: &str, request: &Value| {
        evaluate(&mesh, policies, request)["decision"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let one = custom("c", "p", "/x");
    assert_eq!(decide(mesh(false, false), &one, &asked("allow")), "ALLOW");
    assert_eq!(decide(mesh(false, false), &one, &asked("deny")), "DENY");
    assert_eq!(decide(mesh(false, false), &one, &asked("error")), "DENY");
    assert_eq!(decide(mesh(true, false), &one, &asked("error")), "ALLOW");
    assert_eq!(
        decide(mesh(false, false), &custom("c", "p", "/y"), &asked("deny")),
        "ALLOW"
    );
    assert_eq!(
        decide(json!({}), &one, &asked("allow")),
        "DENY",
        "an unknown provider denies what matches"
    );
    let two = format!("{one}{}", custom("d", "q", "/x"));
    assert_eq!(decide(mesh(false, false), &two, &asked("allow")), "DENY");
    assert_eq!(decide(mesh(false, true), &two, &asked("allow")), "ALLOW");
    let deny = named_ap("no", "b", "{action: DENY, rules: [{}]}");
    assert_eq!(
        decide(mesh(false, false), &format!("{one}{deny}"), &asked("allow")),
        "DENY",
        "CUSTOM only restricts"
    );
    assert_eq!(
        decide(mesh(false, false), &one, &request()),
        "ALLOW",
        "an HTTP provider is not asked about bytes"
    );
}

#[test]
fn s3_11_41_dry_run_is_recorded_and_never_enforced() {
    let dry = |spec: &str, value: &str| {
        ap(spec).replace(
            "{name:",
            &format!("{{annotations: {{istio.io/dry-run: '{value}'}}, name:"),
        )
    };
    let answer = evaluate(&json!({}), &dry("{action: DENY, rules: [{}]}", "true"), &request());
    assert_eq!(
        (&answer["decision"], &answer["shadow"]),
        (&json!("ALLOW"), &json!({"DENY": true}))
    );
    let answer = evaluate(&json!({}), &dry("{rules: []}", "T"), &request());
    assert_eq!(
        (&answer["decision"], &answer["shadow"]),
        (&json!("ALLOW"), &json!({"ALLOW": false}))
    );
    denies(&dry("{action: DENY, rules: [{}]}", "false"), &request());
}

#[test]
fn s3_13_52_mapped_addresses_are_ipv4() {
    allows(
        &ap("{rules: [{from: [{source: {ipBlocks: [10.0.0.0/8]}}]}]}"),
        &with(&[("/source/ip", json!("::ffff:10.9.9.9"))]),
    );
}

#[test]
fn s3_8_31_a_target_brings_its_own_host_and_some_have_no_path() {
    let host = ap("{rules: [{to: [{operation: {hosts: [other.example], paths: [/x]}}]}]}");
    allows(&host, &http("GET", "http://other.example/x"));
    denies(&host, &http("GET", "http://server.b/x"));
    allows(
        &ap("{rules: [{to: [{operation: {paths: [/]}}]}]}"),
        &http("GET", "http://server.b?q"),
    );
    for (method, target) in [("CONNECT", "server.b:443"), ("OPTIONS", "*")] {
        for positive in ["paths: ['*']", "paths: ['/*']", "paths: ['/{**}']"] {
            denies(
                &ap(&format!("{{rules: [{{to: [{{operation: {{{positive}}}}}]}}]}}")),
                &http(method, target),
            );
        }
        allows(
            &ap("{rules: [{to: [{operation: {notPaths: ['*']}}]}]}"),
            &http(method, target),
        );
    }
}

#[test]
fn s3_8_29_the_mode_of_the_mesh_decides_what_a_path_is() {
    let policy = ap("{rules: [{to: [{operation: {paths: [/app/admin]}}]}]}");
    let allowed = |mode: &str, path: &str| {
        evaluate(&json!({"pathNormalization": mode}), &policy, &http("GET", path))["decision"] == "ALLOW"
    };
    for (path, none, base, merge, decode) in [
        ("/app/admin", true, true, true, true),
        ("/app/./admin", false, true, true, true),
        ("/app/%61dmin", false, true, true, true),
        ("/app\\admin", false, true, true, true),
        ("/app//../admin", false, true, true, true),
        ("/app//admin", false, false, true, true),
        ("/app%2Fadmin", false, false, false, true),
        ("/app%5cadmin", false, false, false, true),
        ("/app%252Fadmin", false, false, false, false),
        ("/app/admin;x", false, false, false, false),
        ("/app/admin#x", true, true, true, true),
        ("/app/admin?x#y", true, true, true, true),
    ] {
        let modes = ["NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"];
        assert_eq!(
            modes.map(|mode| allowed(mode, path)),
            [none, base, merge, decode],
            "{path}"
        );
    }
}

#[test]
fn s3_9_32_keys_that_are_not_listed_are_refused() {
    let open = named_ap("open", "b", "{rules: [{}]}");
    let when = |key: &str, value: &str| {
        ap(&format!(
            "{{rules: [{{when: [{{key: '{key}', values: ['{value}']}}]}}]}}"
        ))
    };
    for key in [
        "source.user",
        "destination.labels[app]",
        "destination.namespace",
        "destination.name",
        "destination.user",
        "request.headers",
        "request.headers[]",
        "request.headers[a][b]",
        "request.auth.claims",
        "request.auth.claims[]",
        "request.auth.claims[a]b",
        "request.auth",
        "experimental.envoy.filters.a.b",
        "connection.SNI",
        "source.ip ",
    ] {
        let answer = evaluate(&json!({}), &format!("{open}{}", when(key, "x")), &request());
        assert_eq!(answer["decision"], "DENY", "{key}");
        assert!(
            answer["why"].as_str().unwrap().contains("spec.rules[0].when[0].key"),
            "{answer}"
        );
    }
    denies(&when("experimental.envoy.filters.a.b[c]", "x"), &request());
    let absent = "{rules: [{when: [{key: 'experimental.envoy.filters.a.b[c]', notValues: [x]}]}]}";
    allows(&ap(absent), &request());
}

#[test]
fn s3_9_33_header_names_ignore_case_values_do_not_and_pseudo_headers_count() {
    let when = |key: &str, value: &str| {
        ap(&format!(
            "{{rules: [{{when: [{{key: 'request.headers[{key}]', values: ['{value}']}}]}}]}}"
        ))
    };
    let mut request = http("GET", "/a/../b?q=1");
    request["http"]["headers"] = json!([["X-Role", "Admin"], ["x-list", "a,b"]]);
    for (key, value, matches) in [
        ("x-role", "Admin", true),
        ("X-ROLE", "Admin", true),
        ("x-role", "admin", false),
        ("x-role", "Adm*", true),
        ("x-role", "*min", true),
        ("x-role", "*", true),
        ("x_role", "Admin", false),
        ("x-list", "a", false),
        ("x-list", "a,b", true),
        (":method", "GET", true),
        (":authority", "server.b", true),
        (":path", "/b?q=1", true),
        (":path", "/a/../b?q=1", false),
    ] {
        assert_eq!(
            decision(&when(key, value), &request) == "ALLOW",
            matches,
            "{key} {value}"
        );
    }
}

#[test]
fn s3_9_34_claims_of_lists_nested_and_split() {
    let mut request = http("GET", "/");
    request["http"]["jwt"] = json!({"claims": {"iss": "i", "sub": "s", "aud": "one", "list": ["a", 7, true, "b"], "flag": true,
        "a": {"b": {"c": "deep", "d": ["x y"]}}, "scope": "read write", "permission": "p q", "empty": ""}});
    for (key, value, matches) in [
        ("request.auth.audiences", "one", true),
        ("request.auth.claims[list]", "b", true),
        ("request.auth.claims[list]", "7", false),
        ("request.auth.claims[list]", "true", false),
        ("request.auth.claims[list]", "a*", true),
        ("request.auth.claims[flag]", "true", false),
        ("request.auth.claims[flag]", "*", false),
        ("request.auth.claims[empty]", "*", false),
        ("request.auth.claims[a][b][c]", "deep", true),
        ("request.auth.claims[a][b]", "*", false),
        ("request.auth.claims[a][b][d]", "x y", true),
        ("request.auth.claims[a][b][d]", "x", false),
        ("request.auth.claims[A][b][c]", "deep", false),
        ("request.auth.claims[permission]", "q", true),
        ("request.auth.claims[scope]", "rea*", true),
        ("request.auth.presenter", "*", false),
    ] {
        let rule = |list: &str| {
            ap(&format!(
                "{{rules: [{{when: [{{key: '{key}', {list}: ['{value}']}}]}}]}}"
            ))
        };
        assert_eq!(decision(&rule("values"), &request) == "ALLOW", matches, "{key} {value}");
        assert_eq!(
            decision(&rule("notValues"), &request) == "DENY",
            matches,
            "not {key} {value}"
        );
    }
}

#[test]
fn s3_10_36_what_is_http_only_and_what_is_not() {
    let from = |field: &str| format!("{{from: [{{source: {{{field}}}}}]}}");
    let to = |field: &str| format!("{{to: [{{operation: {{{field}}}}}]}}");
    let when = |key: &str, list: &str| format!("{{when: [{{key: '{key}', {list}}}]}}");
    for rule in [
        to("notHosts: [x]"),
        to("notMethods: [X]"),
        to("notPaths: [/x]"),
        from("notRequestPrincipals: ['*']"),
        when("request.headers[x]", "notValues: [y]"),
        when("request.auth.principal", "notValues: [y]"),
        when("request.auth.audiences", "notValues: [y]"),
        when("request.auth.presenter", "notValues: [y]"),
        when("request.auth.claims[x]", "notValues: [y]"),
        to("hosts: ['*']"),
        to("methods: ['*']"),
        to("paths: ['*']"),
    ] {
        denies(&ap(&format!("{{rules: [{rule}]}}")), &request());
        denies(&ap(&format!("{{action: DENY, rules: [{rule}]}}")), &request());
        let answer = evaluate(
            &json!({}),
            &ap(&format!("{{action: AUDIT, rules: [{rule}]}}")),
            &request(),
        );
        assert_eq!(answer["audited"], true, "{rule}");
    }
    for rule in [
        from("remoteIpBlocks: [10.0.0.0/8]"),
        from("ipBlocks: [10.0.0.0/8]"),
        from("trustDomains: ['*']"),
        when("connection.sni", "notValues: [x]"),
        when("remote.ip", "values: [10.0.0.1]"),
        when("destination.ip", "values: [10.0.0.2]"),
        to("ports: ['8080']"),
    ] {
        allows(&ap(&format!("{{rules: [{rule}]}}")), &request());
        allows(&ap(&format!("{{rules: [{rule}]}}")), &http("GET", "/"));
    }
}

#[test]
fn s3_10_37_and_38_one_http_field_changes_the_whole_rule_on_bytes() {
    let spec = |action: &str, rule: &str| ap(&format!("{{action: {action}, rules: [{rule}]}}"));
    let mixed =
        "{from: [{source: {namespaces: [a]}}], to: [{operation: {ports: ['8080']}}, {operation: {paths: [/x]}}]}";
    denies(&spec("ALLOW", mixed), &request());
    allows(&spec("ALLOW", mixed), &http("GET", "/"));
    denies(&spec("DENY", mixed), &request());
    let elsewhere = "{from: [{source: {namespaces: [c]}}], to: [{operation: {paths: [/x]}}]}";
    allows(&spec("DENY", elsewhere), &request());
    let second = format!("{mixed}, {{to: [{{operation: {{ports: ['8080']}}}}]}}");
    allows(&spec("ALLOW", &second), &request());
}

#[test]
fn s3_11_40_providers_of_bytes_and_identities() {
    let custom = |rule: &str| {
        named_ap(
            "c",
            "b",
            &format!("{{action: CUSTOM, provider: {{name: p}}, rules: [{rule}]}}"),
        )
    };
    let mesh = |kind: &str| json!({"extensionProviders": {"p": {"type": kind}}});
    let asked = |answer: &str| with(&[("/extAuthz", json!({"p": answer}))]);
    let verdict =
        |kind: &str, rule: &str, answer: &str| evaluate(&mesh(kind), &custom(rule), &asked(answer))["decision"].clone();
    assert_eq!(
        verdict("grpc", "{}", "deny"),
        "DENY",
        "a gRPC provider is asked about bytes"
    );
    assert_eq!(verdict("grpc", "{}", "allow"), "ALLOW");
    assert_eq!(verdict("http", "{}", "deny"), "ALLOW");
    assert_eq!(verdict("grpc", "{to: [{operation: {ports: ['80']}}]}", "deny"), "ALLOW");
    assert_eq!(
        verdict("grpc", "{to: [{operation: {paths: [/x]}}]}", "deny"),
        "DENY",
        "HTTP fields count as met"
    );
    for refused in [
        "{from: [{source: {principals: ['*']}}]}",
        "{from: [{source: {notNamespaces: [x]}}]}",
        "{from: [{source: {serviceAccounts: [a/client]}}]}",
        "{from: [{source: {notTrustDomains: [x]}}]}",
        "{from: [{source: {requestPrincipals: ['*']}}]}",
        "{when: [{key: source.principal, values: ['*']}]}",
        "{when: [{key: 'request.auth.claims[x]', values: ['*']}]}",
    ] {
        assert_eq!(verdict("grpc", refused, "allow"), "DENY", "{refused}");
    }
    for taken in [
        "{from: [{source: {ipBlocks: [10.0.0.0/8]}}]}",
        "{when: [{key: connection.sni, notValues: [x]}]}",
    ] {
        assert_eq!(verdict("grpc", taken, "allow"), "ALLOW", "{taken}");
        assert_eq!(verdict("grpc", taken, "deny"), "DENY", "{taken}");
    }
}

#[test]
fn s3_11_41_only_allow_policies_in_dry_run_leave_the_workload_open() {
    let dry = |spec: &str, value: &str| {
        ap(spec).replace(
            "{name:",
            &format!("{{annotations: {{istio.io/dry-run: '{value}'}}, name:"),
        )
    };
    let nothing = "{rules: [{to: [{operation: {ports: ['1']}}]}]}";
    for yes in ["1", "t", "T", "TRUE", "true", "True"] {
        allows(&dry(nothing, yes), &request());
    }
    for no in ["0", "f", "F", "FALSE", "false", "False", "yes", "tRUE", ""] {
        denies(&dry(nothing, no), &request());
    }
    for action in ["AUDIT", "CUSTOM, provider: {name: p}"] {
        denies(
            &dry(&format!("{{action: {action}, rules: [{{}}]}}"), "true"),
            &request(),
        );
    }
    let enforced = named_ap("e", "b", "{rules: [{to: [{operation: {ports: ['80']}}]}]}");
    denies(&format!("{}{enforced}", dry("{rules: [{}]}", "true")), &request());
}

#[test]
fn s3_13_44_paths_with_a_security_history() {
    let deny = ap("{action: DENY, rules: [{to: [{operation: {paths: ['/admin', '/admin/*']}}]}]}");
    let mesh = json!({"pathNormalization": "DECODE_AND_MERGE_SLASHES"});
    for path in [
        "//admin",
        "/%2fadmin",
        "/%2Fadmin",
        "\\admin",
        "/x/../admin",
        "/x/%2e%2e/admin",
        "/%61dmin",
        "/admin#",
        "/admin#/..",
        "/a\\..\\admin",
    ] {
        assert_eq!(evaluate(&mesh, &deny, &http("GET", path))["decision"], "DENY", "{path}");
    }
    for mode in ["NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"] {
        let mesh = json!({"pathNormalization": mode});
        let answer = evaluate(&mesh, "# no policy", &http("GET", "/a%00b"));
        assert_eq!(answer["decision"], "DENY", "{mode}");
    }
}

#[test]
fn s3_13_46_suffixes_of_principals_and_namespaces_hold_on_bytes() {
    for field in [
        "principals: ['*/sa/client']",
        "namespaces: ['*a']",
        "principals: ['cluster.local/ns/a/*']",
    ] {
        let rule = format!("{{action: DENY, rules: [{{from: [{{source: {{{field}}}}}]}}]}}");
        denies(&ap(&rule), &request());
        denies(&ap(&rule), &http("GET", "/"));
    }
}

#[test]
fn s3_14_54_tokens_scope_and_absence() {
    let needs = ap("{rules: [{when: [{key: 'request.auth.claims[roles]', values: [write]}]}]}");
    let mut request = http("GET", "/");
    request["http"]["jwt"] = json!({"claims": {"iss": "i", "sub": "s", "roles": "read write"}});
    for (namespace, selector, applies) in [
        ("b", "", true),
        ("istio-system", "", true),
        ("c", "", false),
        ("b", "selector: {matchLabels: {app: server}},", true),
        ("istio-system", "selector: {matchLabels: {app: server}},", true),
        ("b", "selector: {matchLabels: {app: other}},", false),
    ] {
        let policies = format!("{needs}{}", tokens(namespace, selector));
        assert_eq!(
            decision(&policies, &request) == "ALLOW",
            applies,
            "{namespace} {selector}"
        );
    }
    allows(&tokens("b", ""), &http("GET", "/"));
}
