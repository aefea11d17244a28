//! §1: NetworkPolicy.

use serde_json::json;

use crate::{allows, decision, denies, np, outside, request, with};

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

#[test]
fn s1_5_17_the_node_of_a_pod_always_reaches_it_and_no_other_node_does() {
    let from = |node: &str| {
        with(&[
            ("/source", json!({"kind": "external", "ip": "10.9.0.1", "node": node})),
            ("/destination/node", json!("n1")),
            ("/connection/tls", json!("none")),
        ])
    };
    allows(&np("{podSelector: {}}"), &from("n1"));
    denies(&np("{podSelector: {}}"), &from("n2"));
    denies(
        &np("{podSelector: {}}"),
        &with(&[("/source/node", json!("n1")), ("/destination/node", json!("n1"))]),
    );
}

/// An egress policy of namespace `a`, where the client is.
fn out(spec: &str) -> String {
    np(spec).replace("namespace: b", "namespace: a")
}

#[test]
fn s1_1_1_a_policy_without_a_namespace_is_in_default() {
    let nameless = np("{podSelector: {}}").replace(", namespace: b", "");
    allows(&nameless, &request());
    denies(&nameless, &with(&[("/destination/namespace", json!("default"))]));
    denies(&np("{}"), &request());
}

#[test]
fn s1_1_2_isolation_is_per_direction() {
    denies(&np("{policyTypes: [Ingress]}"), &request());
    allows(&np("{policyTypes: [Egress]}"), &request());
    allows(&out("{policyTypes: [Ingress]}"), &request());
    denies(&out("{policyTypes: [Egress]}"), &request());
    denies(&np("{policyTypes: []}"), &request());
    denies(&out("{egress: [{to: [{podSelector: {}}]}]}"), &request());
}

#[test]
fn s1_1_4_a_section_whose_direction_is_not_listed_is_inert() {
    allows(
        &np("{policyTypes: [Egress], ingress: [{from: [{podSelector: {}}]}]}"),
        &request(),
    );
    let only_egress = np("{policyTypes: [Egress], ingress: [{}]}");
    let isolated = np("{}").replace("name: p,", "name: q,");
    denies(&format!("{only_egress}---\n{isolated}"), &request());
}

#[test]
fn s1_1_6_both_ends_must_allow_and_an_end_outside_has_no_gate() {
    let (open_in, open_out) = (np("{ingress: [{}]}"), out("{egress: [{}], policyTypes: [Egress]}"));
    let (shut_in, shut_out) = (np("{}"), out("{policyTypes: [Egress]}"));
    allows(&format!("{open_in}---\n{open_out}"), &request());
    denies(&format!("{open_in}---\n{shut_out}"), &request());
    denies(&format!("{shut_in}---\n{open_out}"), &request());
    let mut leaving = request();
    leaving["destination"] = json!({"kind": "external", "ip": "203.0.113.9", "port": 443});
    denies(&shut_out, &leaving);
    allows(
        &out("{policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 203.0.113.0/24}}]}]}"),
        &leaving,
    );
    denies(
        &out("{policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}}]}]}"),
        &leaving,
    );
}

#[test]
fn s1_2_7_peers_and_ports_of_a_rule_must_both_match() {
    let rule = |from: &str, port: u16| {
        np(&format!(
            "{{ingress: [{{from: [{{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {from}}}}}}}], ports: [{{port: {port}}}]}}]}}"
        ))
    };
    allows(&rule("a", 8080), &request());
    denies(&rule("a", 80), &request());
    denies(&rule("c", 8080), &request());
}

#[test]
fn s1_2_8_empty_selectors_match_all_and_missing_ones_do_not_widen() {
    let from = |peer: &str| np(&format!("{{ingress: [{{from: [{peer}]}}]}}"));
    allows(&from("{namespaceSelector: {}}"), &request());
    allows(&from("{namespaceSelector: {}, podSelector: {}}"), &request());
    denies(&from("{podSelector: {}}"), &request());
    denies(&from("{namespaceSelector: {matchLabels: {team: x}}}"), &request());
    allows(
        &from("{namespaceSelector: {matchLabels: {team: x}}}"),
        &with(&[("/source/namespaceLabels", json!({"team": "x"}))]),
    );
}

#[test]
fn s1_2_10_a_block_that_covers_a_pod_matches_it() {
    allows(&np("{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/24}}]}]}"), &request());
    let v6 = np("{ingress: [{from: [{ipBlock: {cidr: '2001:db8::/32', except: ['2001:db8:1::/48']}}]}]}");
    allows(&v6, &with(&[("/source/ip", json!("2001:db8::7"))]));
    denies(&v6, &with(&[("/source/ip", json!("2001:db8:1::7"))]));
    denies(
        &np("{ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}"),
        &with(&[("/source/ip", json!("2001:db8::7"))]),
    );
    allows(
        &np("{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/24}}]}]}"),
        &with(&[("/source/ip", json!("::ffff:10.0.0.1"))]),
    );
}

#[test]
fn s1_2_11_every_namespace_has_its_name_as_a_label() {
    let policy = np("{ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: a}}}]}]}");
    allows(&policy, &with(&[("/source/namespaceLabels", json!({}))]));
    denies(
        &policy,
        &with(&[
            ("/source/namespaceLabels", json!({})),
            ("/source/namespace", json!("c")),
        ]),
    );
}

#[test]
fn s1_3_12_labels_and_expressions_are_all_required() {
    let selects = |labels: &str, expressions: &str| {
        np(&format!(
            "{{podSelector: {{matchLabels: {labels}, matchExpressions: {expressions}}}}}"
        ))
    };
    denies(
        &selects("{app: server}", "[{key: v, operator: In, values: ['1', '2']}]"),
        &request(),
    );
    allows(
        &selects("{app: server}", "[{key: v, operator: In, values: ['2', '3']}]"),
        &request(),
    );
    allows(&selects("{app: other}", "[{key: v, operator: Exists}]"), &request());
    allows(
        &selects("{}", "[{key: v, operator: Exists}, {key: v, operator: DoesNotExist}]"),
        &request(),
    );
    allows(&selects("{app: server, v: '2'}", "[]"), &request());
}

#[test]
fn s1_4_13_a_rule_for_one_protocol_says_nothing_of_another() {
    let udp = with(&[("/connection/l4", json!("UDP"))]);
    let sctp = with(&[("/connection/l4", json!("SCTP"))]);
    let ports = |ports: &str| np(&format!("{{ingress: [{{ports: [{ports}]}}]}}"));
    denies(&ports("{}"), &udp);
    allows(&ports("{}"), &request());
    allows(&ports("{protocol: UDP}"), &udp);
    denies(&ports("{protocol: UDP}"), &request());
    allows(&ports("{protocol: SCTP, port: 8080}"), &sctp);
    allows(&ports("{port: 8080}, {port: 8080, protocol: UDP}"), &udp);
}

#[test]
fn s1_4_14_a_name_is_resolved_on_the_destination_in_both_directions() {
    let named = |name: &str| {
        out(&format!(
            "{{policyTypes: [Egress], egress: [{{ports: [{{port: {name}}}]}}]}}"
        ))
    };
    allows(&named("web"), &request());
    denies(&named("other"), &request());
    denies(
        &named("web"),
        &with(&[(
            "/destination/namedPorts",
            json!({"web": {"port": 9090, "protocol": "TCP"}}),
        )]),
    );
    let mut leaving = request();
    leaving["destination"] = json!({"kind": "external", "ip": "203.0.113.9", "port": 8080});
    denies(&named("web"), &leaving);
    let mut from_namesake = request();
    from_namesake["source"]["namedPorts"] = json!({"web": {"port": 8080, "protocol": "TCP"}});
    from_namesake["destination"]["namedPorts"] = json!({});
    denies(&named("web"), &from_namesake);
}

#[test]
fn s1_4_15_a_range_includes_both_ends() {
    let range = |first: u16, last: u16| {
        np(&format!(
            "{{ingress: [{{ports: [{{port: {first}, endPort: {last}}}]}}]}}"
        ))
    };
    allows(&range(8080, 8080), &request());
    allows(&range(8080, 9000), &request());
    allows(&range(1, 8080), &request());
    denies(&range(8081, 9000), &request());
    denies(&range(1, 65535), &with(&[("/connection/l4", json!("UDP"))]));
}

#[test]
fn s1_5_19_dns_is_not_special() {
    let lookup = |l4: &str| {
        with(&[
            ("/connection/l4", json!(l4)),
            ("/connection/tls", json!("none")),
            ("/destination/port", json!(53)),
            ("/destination/namespace", json!("kube-system")),
        ])
    };
    let web_only = out("{policyTypes: [Egress], egress: [{ports: [{port: 8080}]}]}");
    let tcp = out("{policyTypes: [Egress], egress: [{ports: [{port: 53}]}]}").replace("name: p,", "name: q,");
    let both = out("{policyTypes: [Egress], egress: [{ports: [{port: 53}, {port: 53, protocol: UDP}]}]}");
    denies(&web_only, &lookup("UDP"));
    denies(&format!("{web_only}---\n{tcp}"), &lookup("UDP"));
    allows(&both, &lookup("UDP"));
    allows(&both, &lookup("TCP"));
}

#[test]
fn s1_6_21_an_address_that_shows_another_identity_is_denied() {
    let policy = np("{ingress: [{from: [{namespaceSelector: {}}]}]}");
    let shows = |id: &str| {
        with(&[
            ("/source/serviceAccount", json!("client")),
            ("/source/identity", json!(format!("spiffe://cluster.local/{id}"))),
        ])
    };
    allows(&policy, &shows("ns/a/sa/client"));
    for other in ["ns/a/sa/other", "ns/c/sa/client", "workload/client"] {
        denies(&policy, &shows(other));
        allows("# nothing looks at the address", &shows(other));
    }
}

#[test]
fn s1_6_22_plaintext_is_matched_by_its_address() {
    let policy = np("{ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: client}}}]}]}");
    let mut plain = request();
    plain["connection"]["tls"] = json!("none");
    plain["source"]["identity"] = serde_json::Value::Null;
    allows(&policy, &plain);
    denies(&policy, &outside());
}
