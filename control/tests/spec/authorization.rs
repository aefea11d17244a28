//! §3.1 to §3.7: which AuthorizationPolicies apply, what they decide, sources and operations.

use serde_json::json;

use crate::{allows, ap, decision, denies, evaluate, http, named_ap, request, with};

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
fn s3_1_1_selectors_are_subsets_of_labels() {
    let deny = |selector: &str| ap(&format!("{{selector: {selector}, action: DENY, rules: [{{}}]}}"));
    for (selector, selected) in [
        ("{}", true),
        ("{matchLabels: {}}", true),
        ("{matchLabels: {app: server}}", true),
        ("{matchLabels: {app: server, v: '1'}}", true),
        ("{matchLabels: {app: server, v: '2'}}", false),
        ("{matchLabels: {app: server, absent: ''}}", false),
    ] {
        assert_eq!(decision(&deny(selector), &request()) == "DENY", selected, "{selector}");
    }
    let empty_value = with(&[("/destination/labels", json!({"app": ""}))]);
    denies(&deny("{matchLabels: {app: ''}}"), &empty_value);
}

#[test]
fn s3_1_2_target_refs_do_not_concern_a_sidecar() {
    for spec in ["{action: DENY, rules: [{}]", "{rules: []"] {
        allows(
            &ap(&format!(
                "{spec}, targetRefs: [{{group: '', kind: Service, name: server}}]}}"
            )),
            &request(),
        );
        allows(
            &ap(&format!(
                "{spec}, targetRef: {{group: gateway.networking.k8s.io, kind: Gateway, name: g}}}}"
            )),
            &request(),
        );
        denies(&ap(&format!("{spec}, targetRefs: []}}")), &request());
    }
}

#[test]
fn s3_1_3_all_policies_of_an_action_apply() {
    let allow = |name: &str, port: u16| {
        named_ap(
            name,
            "b",
            &format!("{{rules: [{{to: [{{operation: {{ports: ['{port}']}}}}]}}]}}"),
        )
    };
    allows(&format!("{}{}", allow("x", 80), allow("y", 8080)), &request());
    denies(&format!("{}{}", allow("x", 80), allow("y", 81)), &request());
    let root = named_ap(
        "r",
        "istio-system",
        "{action: DENY, rules: [{to: [{operation: {ports: ['8080']}}]}]}",
    );
    denies(&format!("{}{root}", allow("y", 8080)), &request());
    let mesh_allows = named_ap("r", "istio-system", "{rules: [{}]}");
    allows(&format!("{}{mesh_allows}", allow("x", 80)), &request());
}

#[test]
fn s3_2_9_without_rules_nothing_matches() {
    for nothing in ["{}", "{rules: []}", "{action: ALLOW}", "{rules: null}"] {
        denies(&ap(nothing), &request());
        allows(
            &format!("{}{}", ap(nothing), named_ap("open", "b", "{rules: [{}]}")),
            &request(),
        );
    }
    denies(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: b}\n",
        &request(),
    );
    for refused in [
        "{action: DENY}",
        "{action: CUSTOM, provider: {name: p}}",
        "{action: DENY, rules: []}",
    ] {
        denies(
            &format!("{}{}", ap(refused), named_ap("open", "b", "{rules: [{}]}")),
            &request(),
        );
    }
    allows(&ap("{action: AUDIT}"), &request());
}

#[test]
fn s3_2_audit_marks_and_decides_nothing() {
    let marks = |spec: &str| {
        let answer = evaluate(&json!({}), &ap(spec), &request());
        (answer["decision"].clone(), answer["audited"].clone())
    };
    assert_eq!(
        marks("{action: AUDIT, rules: [{to: [{operation: {ports: ['80']}}]}]}"),
        (json!("ALLOW"), json!(false))
    );
    assert_eq!(
        marks("{action: AUDIT, rules: [{to: [{operation: {methods: [GET]}}]}]}"),
        (json!("ALLOW"), json!(true))
    );
    let denied = format!(
        "{}{}",
        ap("{action: AUDIT, rules: [{}]}"),
        named_ap("d", "b", "{action: DENY, rules: [{}]}")
    );
    let answer = evaluate(&json!({}), &denied, &request());
    assert_eq!(
        (&answer["decision"], &answer["audited"]),
        (&json!("DENY"), &json!(true))
    );
}

#[test]
fn s3_3_11_every_item_of_when_must_hold() {
    let when = |keys: &[&str]| {
        let items: Vec<_> = keys
            .iter()
            .map(|port| format!("{{key: destination.port, values: ['{port}']}}"))
            .collect();
        ap(&format!("{{rules: [{{when: [{}]}}]}}", items.join(", ")))
    };
    allows(&when(&["8080", "8080"]), &request());
    denies(&when(&["8080", "80"]), &request());
    let values = ap("{rules: [{when: [{key: destination.port, values: ['80', '8080']}]}]}");
    allows(&values, &request());
    let both = ap("{rules: [{when: [{key: source.namespace, values: ['*'], notValues: [a]}]}]}");
    denies(&both, &request());
}

#[test]
fn s3_3_13_empty_items_are_refused() {
    let open = named_ap("open", "b", "{rules: [{}]}");
    for rule in [
        "{from: []}",
        "{to: []}",
        "{from: [{}]}",
        "{from: [{source: {}}]}",
        "{to: [{operation: {}}]}",
        "{to: [{operation: {paths: []}}]}",
        "{from: [{source: {principals: ['']}}]}",
        "{when: [{key: source.ip}]}",
        "{when: [{key: source.ip, values: []}]}",
        "{when: [{values: [x]}]}",
    ] {
        denies(&format!("{open}{}", ap(&format!("{{rules: [{rule}]}}"))), &request());
    }
}

#[test]
fn s3_4_14_one_wildcard_at_either_end_and_nothing_else() {
    for (principal, matches) in [
        ("*", true),
        ("cluster.local/ns/a/sa/client", true),
        ("cluster.local/ns/a/sa/Client", false),
        ("cluster.local/ns/a/sa/clien", false),
        ("cluster.local/*", true),
        ("*/sa/client", true),
        ("*client", true),
        ("cluster.local/*/client", false),
        ("*/ns/*", false),
        ("clusterxlocal/*", false),
        ("**", false),
    ] {
        let policy = ap(&format!(
            "{{rules: [{{from: [{{source: {{principals: ['{principal}']}}}}]}}]}}"
        ));
        assert_eq!(decision(&policy, &request()) == "ALLOW", matches, "{principal}");
    }
}

#[test]
fn s3_5_16_namespaces_are_the_segment_of_the_identity() {
    for (namespace, matches) in [
        ("a", true),
        ("*", true),
        ("a*", true),
        ("*a", true),
        ("A", false),
        ("sa", false),
        ("*sa", false),
        ("*client", false),
        ("a/sa", false),
    ] {
        let rule = |field: &str| format!("{{from: [{{source: {{{field}: ['{namespace}']}}}}]}}");
        let when = format!("{{when: [{{key: source.namespace, values: ['{namespace}']}}]}}");
        for rule in [rule("namespaces"), when] {
            assert_eq!(
                decision(&ap(&format!("{{rules: [{rule}]}}")), &request()) == "ALLOW",
                matches,
                "{rule}"
            );
        }
        let not = ap(&format!("{{rules: [{}]}}", rule("notNamespaces")));
        assert_eq!(decision(&not, &request()) == "DENY", matches, "not {namespace}");
    }
    // A table that says otherwise of the address changes nothing.
    let lying = with(&[("/source/namespace", json!("trusted"))]);
    denies(&ap("{rules: [{from: [{source: {namespaces: [trusted]}}]}]}"), &lying);
}

#[test]
fn s3_5_17_service_accounts() {
    let accounts = |namespace: &str, account: &str| {
        named_ap(
            "p",
            namespace,
            &format!("{{rules: [{{from: [{{source: {{serviceAccounts: [{account}]}}}}]}}]}}"),
        )
    };
    let neighbour = with(&[("/source/identity", json!("spiffe://other.td/ns/b/sa/client"))]);
    allows(&accounts("b", "client"), &neighbour);
    allows(&accounts("b", "b/client"), &neighbour);
    denies(&accounts("b", "a/client"), &neighbour);
    denies(&accounts("istio-system", "client"), &neighbour);
    let at_root = with(&[(
        "/source/identity",
        json!("spiffe://cluster.local/ns/istio-system/sa/client"),
    )]);
    allows(&accounts("istio-system", "client"), &at_root);
    let when = |value: &str| {
        ap(&format!(
            "{{rules: [{{when: [{{key: source.serviceAccount, values: [{value}]}}]}}]}}"
        ))
    };
    allows(&when("a/client"), &request());
    denies(&when("client"), &request());
}

#[test]
fn s3_5_18_trust_domains() {
    for (domain, matches) in [
        ("cluster.local", true),
        ("cluster*", true),
        ("*.local", true),
        ("*", true),
        ("local", false),
    ] {
        let from = format!("{{from: [{{source: {{trustDomains: ['{domain}']}}}}]}}");
        let when = format!("{{when: [{{key: source.trustDomain, values: ['{domain}']}}]}}");
        for rule in [from, when] {
            assert_eq!(
                decision(&ap(&format!("{{rules: [{rule}]}}")), &request()) == "ALLOW",
                matches,
                "{rule}"
            );
        }
    }
    denies(
        &ap("{rules: [{from: [{source: {trustDomains: ['a/b']}}]}, {}]}"),
        &request(),
    );
}

#[test]
fn s3_5_19_addresses_are_single_or_blocks() {
    for (block, matches) in [
        ("10.0.0.1", true),
        ("10.0.0.0/24", true),
        ("10.0.0.2", false),
        ("0.0.0.0/0", true),
        ("::/0", false),
        ("'::ffff:10.0.0.0/120'", true),
    ] {
        let from = format!("{{from: [{{source: {{ipBlocks: [{block}]}}}}]}}");
        let not = format!("{{from: [{{source: {{notIpBlocks: [{block}]}}}}]}}");
        let when = format!("{{when: [{{key: source.ip, values: [{block}]}}]}}");
        let remote = format!("{{when: [{{key: remote.ip, values: [{block}]}}]}}");
        for (rule, expected) in [(from, matches), (not, !matches), (when, matches), (remote, matches)] {
            assert_eq!(
                decision(&ap(&format!("{{rules: [{rule}]}}")), &request()) == "ALLOW",
                expected,
                "{rule}"
            );
        }
    }
    allows(
        &ap("{rules: [{when: [{key: destination.ip, values: [10.0.0.2]}]}]}"),
        &request(),
    );
    denies(
        &ap("{rules: [{when: [{key: destination.ip, notValues: [10.0.0.0/8]}]}]}"),
        &request(),
    );
}

#[test]
fn s3_5_20_request_principals() {
    let mut request = http("GET", "/");
    request["http"]["jwt"] = json!({"claims": {"iss": "https://issuer.example/x", "sub": "alice"}});
    for (value, matches) in [
        ("*", true),
        ("https://issuer.example/x/alice", true),
        ("https://issuer.example/x/*", true),
        ("https://issuer.example/x/al*", true),
        ("https://issuer.example/y/alice", false),
        ("*alice", true),
        ("*ice", true),
        ("*/alice", true),
        ("*example/x/alice", true),
        ("*example/x/bob", false),
        ("https*", true),
        ("https://issuer*", false),
        ("alice", false),
    ] {
        let rule = format!("{{from: [{{source: {{requestPrincipals: ['{value}']}}}}]}}");
        assert_eq!(
            decision(&ap(&format!("{{rules: [{rule}]}}")), &request) == "ALLOW",
            matches,
            "{value}"
        );
    }
    let mut half = request.clone();
    half["http"]["jwt"] = json!({"claims": {"iss": "https://issuer.example/x"}});
    for lacking in [half, http("GET", "/")] {
        denies(
            &ap("{rules: [{from: [{source: {requestPrincipals: ['*']}}]}]}"),
            &lacking,
        );
        denies(
            &ap("{action: DENY, rules: [{from: [{source: {notRequestPrincipals: ['*']}}]}]}"),
            &lacking,
        );
    }
}

#[test]
fn s3_6_21_which_principals_are_expanded() {
    let mesh = json!({"trustDomain": "new", "trustDomainAliases": ["old-1", "old-2"]});
    let peer = |domain: &str| with(&[("/source/identity", json!(format!("spiffe://{domain}/ns/a/sa/client")))]);
    for (principal, domain, matches) in [
        ("old-1/ns/a/sa/client", "new", true),
        ("old-1/ns/a/sa/client", "old-2", true),
        ("new/ns/a/sa/client", "old-1", true),
        ("old*/ns/a/sa/client", "new", true),
        ("*-1/ns/a/sa/client", "new", true),
        ("*-1/ns/a/sa/client", "third-1", true),
        ("other/ns/a/sa/client", "other", true),
        ("other/ns/a/sa/client", "new", false),
        ("*/ns/a/sa/client", "other", true),
        ("old-1/ns/a/*", "new", false),
        ("old-1/ns/a/sa/*", "new", true),
        ("cluster.local/ns/a/sa/client", "old-2", true),
    ] {
        let from = |field: &str| {
            ap(&format!(
                "{{rules: [{{from: [{{source: {{{field}: ['{principal}']}}}}]}}]}}"
            ))
        };
        let allowed = |policy: &str| evaluate(&mesh, policy, &peer(domain))["decision"] == "ALLOW";
        assert_eq!(allowed(&from("principals")), matches, "{principal} for {domain}");
        assert_eq!(
            allowed(&from("notPrincipals")),
            !matches,
            "not {principal} for {domain}"
        );
        let when = ap(&format!(
            "{{rules: [{{when: [{{key: source.principal, values: ['{principal}']}}]}}]}}"
        ));
        assert_eq!(allowed(&when), matches, "when {principal} for {domain}");
    }
    for (value, domain, matches) in [
        ("old-1", "new", true),
        ("old*", "new", false),
        ("cluster.local", "new", false),
        ("other", "other", true),
    ] {
        let policy = ap(&format!(
            "{{rules: [{{from: [{{source: {{trustDomains: ['{value}']}}}}]}}]}}"
        ));
        assert_eq!(
            evaluate(&mesh, &policy, &peer(domain))["decision"] == "ALLOW",
            matches,
            "{value} for {domain}"
        );
    }
}

#[test]
fn s3_7_22_ports() {
    for (ports, matches) in [
        ("['8080']", true),
        ("['80', '8080']", true),
        ("['0']", false),
        ("['65535']", false),
    ] {
        let to = format!("{{to: [{{operation: {{ports: {ports}}}}}]}}");
        let not = format!("{{to: [{{operation: {{notPorts: {ports}}}}}]}}");
        let when = format!("{{when: [{{key: destination.port, values: {ports}}}]}}");
        for (rule, expected) in [(to, matches), (not, !matches), (when, matches)] {
            assert_eq!(
                decision(&ap(&format!("{{rules: [{rule}]}}")), &request()) == "ALLOW",
                expected,
                "{rule}"
            );
        }
    }
}

#[test]
fn s3_7_24_hosts_ignore_case_and_keep_the_port() {
    let host = |authority: &str| {
        let mut request = http("GET", "/");
        request["http"]["authority"] = json!(authority);
        request
    };
    for (pattern, authority, matches) in [
        ("example.com", "EXAMPLE.com", true),
        ("Example.Com", "example.com", true),
        ("example.com", "example.com:8080", false),
        ("example.com:*", "EXAMPLE.COM:8080", true),
        ("*.example.com", "a.EXAMPLE.com", true),
        ("*.example.com", "example.com", false),
        ("example.*", "Example.org", true),
        ("*", "x", true),
        ("*", "", false),
    ] {
        let to = |field: &str| {
            ap(&format!(
                "{{rules: [{{to: [{{operation: {{{field}: ['{pattern}']}}}}]}}]}}"
            ))
        };
        assert_eq!(
            decision(&to("hosts"), &host(authority)) == "ALLOW",
            matches,
            "{pattern} {authority}"
        );
        assert_eq!(
            decision(&to("notHosts"), &host(authority)) == "DENY",
            matches,
            "not {pattern} {authority}"
        );
    }
}

#[test]
fn s3_7_25_a_grpc_call_is_a_post_to_its_method() {
    let call = ap("{rules: [{to: [{operation: {methods: [POST], paths: [/shop.Orders/Get]}}]}]}");
    allows(&call, &http("POST", "/shop.Orders/Get"));
    denies(&call, &http("POST", "/shop.Orders/Delete"));
    denies(&call, &http("POST", "/shop.orders/Get"));
    allows(
        &ap("{rules: [{to: [{operation: {paths: ['/shop.Orders/*']}}]}]}"),
        &http("POST", "/shop.Orders/Delete"),
    );
}

#[test]
fn s3_7_26_templates() {
    for (template, path, matches) in [
        ("/a/{*}", "/a/b", true),
        ("/a/{*}", "/a/b/c", false),
        ("/a/{*}", "/a/", false),
        ("/a/{*}/c", "/a/b/c", true),
        ("/a/{*}/c", "/a//c", false),
        ("/a/{**}", "/a/", true),
        ("/a/{**}", "/a", false),
        ("/a/{**}", "/a/b/c/d", true),
        ("/s/{**}/c", "/s//c", true),
        ("/s/{**}/c", "/s/c", false),
        ("/s/{**}/c", "/s/x/y/c", true),
        ("/{*}/x/{**}", "/q/x/y", true),
        ("/{*}/x/{**}", "/x/y", false),
        ("/a/{*}", "/A/b", false),
        ("/a/{*}", "/a/b?q=1", true),
        ("/a/{*}", "/a/%41", true),
        ("/{**}", "/", true),
    ] {
        let to = |field: &str| {
            ap(&format!(
                "{{rules: [{{to: [{{operation: {{{field}: ['{template}']}}}}]}}]}}"
            ))
        };
        assert_eq!(
            decision(&to("paths"), &http("GET", path)) == "ALLOW",
            matches,
            "{template} {path}"
        );
        assert_eq!(
            decision(&to("notPaths"), &http("GET", path)) == "DENY",
            matches,
            "not {template} {path}"
        );
    }
    for (plain, path, matches) in [
        ("/a*", "/ab", true),
        ("*/b", "/a/b", true),
        ("/a/*/c", "/a/b/c", false),
        ("*", "/", true),
    ] {
        let policy = ap(&format!("{{rules: [{{to: [{{operation: {{paths: ['{plain}']}}}}]}}]}}"));
        assert_eq!(
            decision(&policy, &http("GET", path)) == "ALLOW",
            matches,
            "{plain} {path}"
        );
    }
}
