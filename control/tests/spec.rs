//! The semantics of the policy languages, statement by statement, in the order of the specification: each test names its
//! section. Policies are written as users write them and go through the evaluator, which calls the proxies' decision.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use serde_json::{Value, json};
use squire_control::{
    manifest::{Manifest, Severity},
    policy::{check::check, eval::Evaluator},
};

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

// ---- 0: how the languages combine ----

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

// ---- 1: NetworkPolicy ----

#[test]
fn s1_1_a_policy_concerns_only_its_own_namespace() {
    denies(&np("{podSelector: {}}"), &request());
    allows(
        &np("{podSelector: {}}").replace("namespace: b", "namespace: c"),
        &request(),
    );
    allows(&np("{podSelector: {matchLabels: {app: other}}}"), &request());
}

#[test]
fn s1_1_3_policy_types_are_inferred() {
    let egress_only = "{podSelector: {}, egress: [{}]}";
    denies(&np(egress_only), &request());
    let at_source = np("{podSelector: {}, egress: []}").replace("namespace: b", "namespace: a");
    allows(&at_source, &request());
    let at_source = np("{podSelector: {}, policyTypes: [Egress]}").replace("namespace: b", "namespace: a");
    denies(&at_source, &request());
    allows(&np("{podSelector: {}, policyTypes: [Egress], ingress: []}"), &request());
}

#[test]
fn s1_1_5_policies_only_add() {
    let none = np("{podSelector: {}}");
    let one = np("{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}").replace("name: p,", "name: q,");
    allows(&format!("{none}---\n{one}"), &request());
}

#[test]
fn s1_2_7_missing_and_empty_parts_match_everything() {
    for rule in ["{}", "{from: []}", "{ports: []}", "{from: [], ports: [{port: 8080}]}"] {
        allows(&np(&format!("{{podSelector: {{}}, ingress: [{rule}]}}")), &outside());
    }
}

#[test]
fn s1_2_8_one_dash_apart() {
    let both = "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: a}}, podSelector: {matchLabels: {app: x}}}]}]}";
    let either = "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: a}}}, {podSelector: {matchLabels: {app: x}}}]}]}";
    denies(&np(both), &request());
    allows(&np(either), &request());
    let pods_alone = "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]}";
    denies(&np(pods_alone), &request());
    allows(&np(pods_alone), &with(&[("/source/namespace", json!("b"))]));
}

#[test]
fn s1_2_9_selectors_match_pods_only() {
    denies(
        &np("{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}"),
        &outside(),
    );
}

#[test]
fn s1_2_10_blocks_and_their_exceptions() {
    let rule = "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.77/8, except: [10.0.0.0/30]}}]}]}";
    denies(&np(rule), &request());
    allows(&np(rule), &with(&[("/source/ip", json!("10.0.0.4"))]));
    denies(&np(rule), &with(&[("/source/ip", json!("2001:db8::1"))]));
    let other_peer = "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/30]}}, {namespaceSelector: {}}]}]}";
    allows(&np(other_peer), &request());
}

#[test]
fn s1_3_12_label_operators() {
    let cases = [
        ("{key: app, operator: In, values: [client]}", true),
        ("{key: app, operator: NotIn, values: [client]}", false),
        ("{key: absent, operator: NotIn, values: [client]}", true),
        ("{key: app, operator: Exists}", true),
        ("{key: absent, operator: DoesNotExist}", true),
        ("{key: app, operator: DoesNotExist}", false),
    ];
    for (expression, expected) in cases {
        let policy = np(&format!(
            "{{podSelector: {{}}, ingress: [{{from: [{{namespaceSelector: {{}}, podSelector: {{matchExpressions: [{expression}]}}}}]}}]}}"
        ));
        assert_eq!(decision(&policy, &request()) == "ALLOW", expected, "{expression}");
    }
    let empty =
        np("{podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {k: ''}}}]}]}");
    denies(&empty, &request());
    allows(&empty, &with(&[("/source/labels", json!({"k": ""}))]));
}

#[test]
fn s1_4_ports_protocols_and_names() {
    let ports = |ports: &str| np(&format!("{{podSelector: {{}}, ingress: [{{ports: [{ports}]}}]}}"));
    allows(&ports("{port: 8080}"), &request());
    denies(&ports("{port: 8080, protocol: UDP}"), &request());
    denies(&ports("{port: 8080}"), &with(&[("/connection/l4", json!("UDP"))]));
    allows(&ports("{protocol: TCP}"), &request());
    allows(&ports("{port: web}"), &request());
    denies(&ports("{port: web, protocol: UDP}"), &request());
    denies(&ports("{port: other}"), &request());
    allows(&ports("{port: 8000, endPort: 8080}"), &request());
    denies(&ports("{port: 8000, endPort: 8079}"), &request());
}

#[test]
fn s1_5_17_a_pod_cannot_block_itself() {
    allows(&np("{podSelector: {}}"), &with(&[("/source/ip", json!("10.0.0.2"))]));
    allows(
        &np("{podSelector: {}}"),
        &with(&[("/source/ip", json!("::ffff:10.0.0.2"))]),
    );
}

// ---- 2: PeerAuthentication ----

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

// ---- 3: AuthorizationPolicy ----

#[test]
fn s3_1_root_policies_hold_everywhere_and_honour_selectors() {
    let root = named_ap(
        "r",
        "istio-system",
        "{selector: {matchLabels: {v: '1'}}, action: DENY, rules: [{}]}",
    );
    denies(&root, &request());
    allows(&root, &with(&[("/destination/labels", json!({"v": "2"}))]));
    allows(&named_ap("r", "other", "{action: DENY, rules: [{}]}"), &request());
    allows(
        &ap("{targetRefs: [{kind: Service, name: s}], action: DENY, rules: [{}]}"),
        &request(),
    );
}

#[test]
fn s3_2_custom_then_deny_then_allow() {
    let allow = named_ap("allow", "b", "{rules: [{}]}");
    let deny = named_ap(
        "deny",
        "b",
        "{action: DENY, rules: [{to: [{operation: {ports: ['8080']}}]}]}",
    );
    denies(&format!("{allow}{deny}"), &request());
    denies(&ap("{}"), &request());
    denies(&ap("{rules: []}"), &request());
    allows(&ap("{rules: [{}]}"), &request());
    let audit = ap("{action: AUDIT, rules: [{}]}");
    let answer = evaluate(&json!({}), &audit, &request());
    assert_eq!(
        (&answer["decision"], &answer["audited"]),
        (&json!("ALLOW"), &json!(true))
    );
}

#[test]
fn s3_3_11_fields_and_items() {
    let spec = "{rules: [{from: [{source: {principals: ['*/sa/client'], namespaces: [x]}}, {source: {namespaces: [a]}}], to: [{operation: {ports: ['8080']}}], when: [{key: source.ip, values: [10.0.0.0/8]}]}]}";
    allows(&ap(spec), &request());
    denies(&ap(&spec.replace("[a]", "[c]")), &request());
    denies(&ap(&spec.replace("10.0.0.0/8", "11.0.0.0/8")), &request());
}

#[test]
fn s3_3_12_a_negative_value_wins_on_overlap() {
    denies(
        &ap("{rules: [{from: [{source: {namespaces: ['*'], notNamespaces: [a]}}]}]}"),
        &request(),
    );
    allows(
        &ap("{rules: [{from: [{source: {namespaces: ['*'], notNamespaces: [b]}}]}]}"),
        &request(),
    );
}

#[test]
fn s3_5_sources() {
    let from = |source: &str| ap(&format!("{{rules: [{{from: [{{source: {{{source}}}}}]}}]}}"));
    for (source, expected) in [
        ("principals: [cluster.local/ns/a/sa/client]", true),
        ("principals: [spiffe://cluster.local/ns/a/sa/client]", false),
        ("principals: ['*']", true),
        ("principals: [cluster.local/*]", true),
        ("namespaces: ['a*']", true),
        ("namespaces: [sa]", false),
        ("serviceAccounts: [a/client]", true),
        ("serviceAccounts: [client]", false),
        ("serviceAccounts: [a/clien]", false),
        ("trustDomains: ['cluster*']", true),
        ("ipBlocks: [10.0.0.1]", true),
        ("remoteIpBlocks: [10.0.0.1]", true),
    ] {
        assert_eq!(decision(&from(source), &request()) == "ALLOW", expected, "{source}");
    }
    let other_form = with(&[("/source/identity", json!("spiffe://cluster.local/workload/a/client"))]);
    denies(&from("namespaces: ['*']"), &other_form);
    allows(&from("principals: [cluster.local/workload/*]"), &other_form);
}

#[test]
fn s3_5_19_headers_never_change_the_source_address() {
    let policy = ap("{rules: [{from: [{source: {ipBlocks: [192.0.2.1]}}]}]}");
    let mut forwarded = http("GET", "/");
    forwarded["http"]["headers"] = json!([["x-forwarded-for", "192.0.2.1"]]);
    forwarded["http"]["remoteIp"] = json!("192.0.2.1");
    denies(&policy, &forwarded);
    allows(&policy.replace("ipBlocks", "remoteIpBlocks"), &forwarded);
}

#[test]
fn s3_6_aliases_of_the_local_trust_domain() {
    let policy = ap("{rules: [{from: [{source: {principals: [cluster.local/ns/a/sa/client]}}]}]}");
    let peer = |domain: &str| with(&[("/source/identity", json!(format!("spiffe://{domain}/ns/a/sa/client")))]);
    let mesh = json!({"trustDomain": "new", "trustDomainAliases": ["old"]});
    for (domain, expected) in [
        ("new", "ALLOW"),
        ("old", "ALLOW"),
        ("cluster.local", "DENY"),
        ("else", "DENY"),
    ] {
        assert_eq!(
            evaluate(&mesh, &policy, &peer(domain))["decision"],
            expected,
            "{domain}"
        );
    }
}

#[test]
fn s3_7_operations() {
    let to = |operation: &str| ap(&format!("{{rules: [{{to: [{{operation: {{{operation}}}}}]}}]}}"));
    for (operation, expected) in [
        ("methods: [GET]", true),
        ("methods: [get]", false),
        ("hosts: [SERVER.b]", true),
        ("hosts: [server]", false),
        ("paths: [/a/b]", true),
        ("paths: ['/a*']", true),
        ("paths: ['*/b']", true),
        ("paths: ['/A/b']", false),
        ("paths: ['/a/{*}']", true),
        ("paths: ['/{**}']", true),
        ("paths: ['/a/b?x=1']", false),
        ("ports: ['8080']", true),
        ("notPaths: [/a/b]", false),
    ] {
        assert_eq!(
            decision(&to(operation), &http("GET", "/a/b?x=1")) == "ALLOW",
            expected,
            "{operation}"
        );
    }
    let mut with_port = http("GET", "/");
    with_port["http"]["authority"] = json!("server.b:8080");
    denies(&to("hosts: [server.b]"), &with_port);
    allows(&to("hosts: ['server.b:*']"), &with_port);
}

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
    let spaced = "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: r, namespace: b}\nspec: {jwtRules: [{issuer: i, spaceDelimitedClaims: [roles]}]}\n";
    allows(
        &format!("{}{spaced}", when("request.auth.claims[roles]", "write")),
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

// ---- validation ----

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
