//! Values that have the right type and still cannot be meant.

use serde_json::{Value, json};
use squire_control::manifest::Severity;

use crate::{errors, objects, problems};

/// The object with one value set, by JSON pointer (a last `-` appends).
fn with(object: &Value, pointer: &str, value: Value) -> Value {
    let mut changed = object.clone();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match changed.pointer_mut(parent).unwrap_or_else(|| panic!("{parent}")) {
        Value::Array(items) if key == "-" => items.push(value),
        Value::Array(items) => items[key.parse::<usize>().unwrap()] = value,
        parent => parent[key] = value,
    }
    changed
}

fn without(object: &Value, pointer: &str) -> Value {
    let mut changed = object.clone();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    changed
        .pointer_mut(parent)
        .unwrap()
        .as_object_mut()
        .unwrap()
        .remove(key)
        .unwrap();
    changed
}

/// Each change makes exactly one error, at this path.
#[track_caller]
fn each_is_refused(object: &Value, cases: &[(&str, Value, &str)]) {
    for (pointer, value, path) in cases {
        assert_eq!(
            errors(&with(object, pointer, value.clone())),
            [*path],
            "{pointer} = {value}"
        );
    }
}

#[track_caller]
fn each_is_taken(object: &Value, cases: &[(&str, Value)]) {
    for (pointer, value) in cases {
        assert_eq!(
            errors(&with(object, pointer, value.clone())),
            Vec::<String>::new(),
            "{pointer} = {value}"
        );
    }
}

#[test]
fn names_and_times() {
    for object in objects::all() {
        each_is_refused(
            &object,
            &[
                ("/metadata/name", json!(""), "metadata.name"),
                ("/metadata/name", json!("Web"), "metadata.name"),
                ("/metadata/name", json!("a_b"), "metadata.name"),
                ("/metadata/name", json!("-a"), "metadata.name"),
                ("/metadata/name", json!("a..b"), "metadata.name"),
                ("/metadata/name", json!("a".repeat(254)), "metadata.name"),
                ("/metadata/namespace", json!("a.b"), "metadata.namespace"),
                ("/metadata/namespace", json!("Shop"), "metadata.namespace"),
            ],
        );
        each_is_taken(
            &object,
            &[
                ("/metadata/name", json!("a.b-1")),
                ("/metadata/namespace", json!("shop-1")),
            ],
        );
        assert_eq!(errors(&without(&object, "/metadata/name")), ["metadata.name"]);
    }
    let soon = (
        "/metadata/creationTimestamp",
        json!("soon"),
        "metadata.creationTimestamp",
    );
    each_is_refused(&objects::peer_authentication(), &[soon]);
}

#[test]
fn versions_that_are_not_read_are_refused() {
    for (object, version) in [
        (objects::network_policy(), "networking.k8s.io/v1beta1"),
        (objects::network_policy(), "extensions/v1beta1"),
        (objects::authorization_policy(), "security.istio.io/v1alpha1"),
        (objects::peer_authentication(), "security.istio.io/v2"),
    ] {
        each_is_refused(&object, &[("/apiVersion", json!(version), "apiVersion")]);
    }
    for kind in [
        objects::authorization_policy(),
        objects::peer_authentication(),
        objects::request_authentication(),
    ] {
        each_is_taken(&kind, &[("/apiVersion", json!("security.istio.io/v1beta1"))]);
    }
}

#[test]
fn network_policies() {
    let object = objects::network_policy();
    let from = "/spec/ingress/0/from";
    let ports = "/spec/ingress/0/ports";
    each_is_refused(
        &object,
        &[
            ("/spec/policyTypes/0", json!("ingress"), "spec.policyTypes[0]"),
            (
                "/spec/podSelector/matchLabels",
                json!({"a b": "c"}),
                "spec.podSelector.matchLabels.a b",
            ),
            (
                "/spec/podSelector/matchLabels",
                json!({"a": "-c"}),
                "spec.podSelector.matchLabels.a",
            ),
            (
                "/spec/podSelector/matchLabels",
                json!({"a": "c".repeat(64)}),
                "spec.podSelector.matchLabels.a",
            ),
            (
                "/spec/podSelector/matchExpressions/0/operator",
                json!("Gt"),
                "spec.podSelector.matchExpressions[0].operator",
            ),
            (
                "/spec/podSelector/matchExpressions/0/operator",
                json!("in"),
                "spec.podSelector.matchExpressions[0].operator",
            ),
            (
                "/spec/podSelector/matchExpressions/0/values",
                json!([]),
                "spec.podSelector.matchExpressions[0].values",
            ),
            (
                "/spec/podSelector/matchExpressions/1/values",
                json!(["x"]),
                "spec.podSelector.matchExpressions[1].values",
            ),
            (
                "/spec/podSelector/matchExpressions/0/key",
                json!(""),
                "spec.podSelector.matchExpressions[0].key",
            ),
            (&format!("{from}/-"), json!({}), "spec.ingress[0].from[4]"),
            (
                &format!("{from}/3/podSelector"),
                json!({}),
                "spec.ingress[0].from[3].ipBlock",
            ),
            (
                &format!("{from}/3/namespaceSelector"),
                json!({}),
                "spec.ingress[0].from[3].ipBlock",
            ),
            (
                &format!("{from}/3/ipBlock"),
                json!({}),
                "spec.ingress[0].from[3].ipBlock.cidr",
            ),
            (
                &format!("{from}/3/ipBlock"),
                json!({"cidr": "10.0.0.1"}),
                "spec.ingress[0].from[3].ipBlock.cidr",
            ),
            (
                &format!("{from}/3/ipBlock"),
                json!({"cidr": "10.0.0.0/33"}),
                "spec.ingress[0].from[3].ipBlock.cidr",
            ),
            (
                &format!("{from}/3/ipBlock"),
                json!({"cidr": "10.0.0/24"}),
                "spec.ingress[0].from[3].ipBlock.cidr",
            ),
            (
                &format!("{from}/3/ipBlock/except/0"),
                json!("11.0.0.0/16"),
                "spec.ingress[0].from[3].ipBlock.except[0]",
            ),
            (
                &format!("{from}/3/ipBlock/except/0"),
                json!("10.0.0.0/8"),
                "spec.ingress[0].from[3].ipBlock.except[0]",
            ),
            (
                &format!("{from}/3/ipBlock/except/0"),
                json!("2001:db8::/32"),
                "spec.ingress[0].from[3].ipBlock.except[0]",
            ),
            (
                &format!("{ports}/0/protocol"),
                json!("tcp"),
                "spec.ingress[0].ports[0].protocol",
            ),
            (
                &format!("{ports}/0/protocol"),
                json!("ICMP"),
                "spec.ingress[0].ports[0].protocol",
            ),
            (&format!("{ports}/0/port"), json!(0), "spec.ingress[0].ports[0].port"),
            (
                &format!("{ports}/0/port"),
                json!(65536),
                "spec.ingress[0].ports[0].port",
            ),
            (
                &format!("{ports}/0/endPort"),
                json!(79),
                "spec.ingress[0].ports[0].endPort",
            ),
            (
                &format!("{ports}/0/endPort"),
                json!(65536),
                "spec.ingress[0].ports[0].endPort",
            ),
            (&format!("{ports}/1/port"), json!("80"), "spec.ingress[0].ports[1].port"),
            (
                &format!("{ports}/1/port"),
                json!("Web"),
                "spec.ingress[0].ports[1].port",
            ),
            (
                &format!("{ports}/1/port"),
                json!("a--b"),
                "spec.ingress[0].ports[1].port",
            ),
            (
                &format!("{ports}/1/port"),
                json!("a-name-of-16-char"),
                "spec.ingress[0].ports[1].port",
            ),
            (
                &format!("{ports}/1/endPort"),
                json!(90),
                "spec.ingress[0].ports[1].endPort",
            ),
            (
                &format!("{ports}/-"),
                json!({"endPort": 90}),
                "spec.ingress[0].ports[2].endPort",
            ),
        ],
    );
    each_is_taken(
        &object,
        &[
            (from, json!([])),
            (ports, json!([])),
            (&format!("{ports}/-"), json!({"protocol": "SCTP"})),
            (&format!("{ports}/0/endPort"), json!(80)),
            (
                &format!("{from}/3/ipBlock"),
                json!({"cidr": "2001:db8::/32", "except": ["2001:db8:1::/48"]}),
            ),
            ("/spec/podSelector", json!({})),
            (
                "/spec/podSelector/matchLabels",
                json!({"example.com/app": "", "a.b_c-d": "E"}),
            ),
        ],
    );
    let host_bits = problems(&with(
        &object,
        &format!("{from}/3/ipBlock"),
        json!({"cidr": "10.1.2.3/8"}),
    ));
    assert_eq!((host_bits.len(), host_bits[0].severity), (1, Severity::Warning));
    assert!(host_bits[0].fix.contains("10.0.0.0/8"), "{}", host_bits[0]);
}

#[test]
fn peer_authentications() {
    let object = objects::peer_authentication();
    each_is_refused(
        &object,
        &[
            ("/spec/mtls/mode", json!("strict"), "spec.mtls.mode"),
            ("/spec/portLevelMtls", json!({}), "spec.portLevelMtls"),
            ("/spec/portLevelMtls", json!({"0": {}}), "spec.portLevelMtls.0"),
            ("/spec/portLevelMtls", json!({"65536": {}}), "spec.portLevelMtls.65536"),
            ("/spec/portLevelMtls", json!({"http": {}}), "spec.portLevelMtls.http"),
            (
                "/spec/portLevelMtls",
                json!({"80": {"mode": "ON"}}),
                "spec.portLevelMtls.80.mode",
            ),
            (
                "/spec/selector/matchLabels",
                json!({"": "x"}),
                "spec.selector.matchLabels.",
            ),
            (
                "/spec/selector/matchLabels",
                json!({"a*": "x"}),
                "spec.selector.matchLabels.a*",
            ),
            (
                "/spec/selector/matchLabels",
                json!({"a": "x*"}),
                "spec.selector.matchLabels.a",
            ),
            (
                "/spec/selector/matchLabels",
                json!({"a": "x".repeat(64)}),
                "spec.selector.matchLabels.a",
            ),
            (
                "/spec/selector/matchExpressions",
                json!([]),
                "spec.selector.matchExpressions",
            ),
        ],
    );
    each_is_taken(
        &object,
        &[
            ("/spec/mtls", json!({})),
            ("/spec/portLevelMtls", json!({"80": {}})),
            ("/spec/mtls/mode", json!("UNSET")),
        ],
    );
    for selector in [json!(null), json!({}), json!({"matchLabels": {}})] {
        assert_eq!(
            errors(&with(&object, "/spec/selector", selector)),
            ["spec.portLevelMtls"]
        );
    }
}

#[test]
fn authorization_policies() {
    let object = objects::authorization_policy();
    let source = "/spec/rules/0/from/0/source";
    let accounts = "/spec/rules/0/from/1/source";
    let operation = "/spec/rules/0/to/0/operation";
    let when = "/spec/rules/0/when/0";
    let at = |field: &str| format!("spec.rules[0].{field}");
    let mut cases: Vec<(String, Value, String)> = vec![
        ("/spec/action".into(), json!("allow"), "spec.action".into()),
        ("/spec/action".into(), json!("LOG"), "spec.action".into()),
        ("/spec/provider".into(), json!({"name": "p"}), "spec.provider".into()),
        ("/spec/rules/0/from".into(), json!([]), at("from")),
        ("/spec/rules/0/to".into(), json!([]), at("to")),
        ("/spec/rules/0/from/0".into(), json!({}), at("from[0]")),
        ("/spec/rules/0/to/0".into(), json!({}), at("to[0]")),
        (source.into(), json!({}), at("from[0].source")),
        (source.into(), json!({"principals": []}), at("from[0].source")),
        (operation.into(), json!({}), at("to[0].operation")),
        (
            format!("{source}/namespaces/0"),
            json!("a*b"),
            at("from[0].source.namespaces[0]"),
        ),
        (
            format!("{source}/namespaces/0"),
            json!("*a*"),
            at("from[0].source.namespaces[0]"),
        ),
        (
            format!("{source}/trustDomains/0"),
            json!("a/b"),
            at("from[0].source.trustDomains[0]"),
        ),
        (
            format!("{source}/trustDomains/0"),
            json!("a*b"),
            at("from[0].source.trustDomains[0]"),
        ),
        (format!("{source}/serviceAccounts"), json!(["a"]), at("from[0].source")),
        (
            format!("{accounts}/serviceAccounts/0"),
            json!("a/b/c"),
            at("from[1].source.serviceAccounts[0]"),
        ),
        (
            format!("{accounts}/serviceAccounts/0"),
            json!("a/*"),
            at("from[1].source.serviceAccounts[0]"),
        ),
        (
            format!("{accounts}/serviceAccounts/0"),
            json!("/b"),
            at("from[1].source.serviceAccounts[0]"),
        ),
        (
            format!("{accounts}/serviceAccounts/0"),
            json!("a/"),
            at("from[1].source.serviceAccounts[0]"),
        ),
        (
            format!("{accounts}/serviceAccounts/0"),
            json!("a".repeat(321)),
            at("from[1].source.serviceAccounts[0]"),
        ),
        (
            format!("{accounts}/serviceAccounts"),
            json!(vec!["a"; 17]),
            at("from[1].source.serviceAccounts"),
        ),
        (format!("{accounts}/namespaces"), json!(["a"]), at("from[1].source")),
        (format!("{accounts}/notPrincipals"), json!(["a"]), at("from[1].source")),
        (format!("{when}/key"), json!(""), at("when[0].key")),
        (format!("{when}/key"), json!("source.user"), at("when[0].key")),
        (when.into(), json!({"key": "source.ip"}), at("when[0]")),
        (when.into(), json!({"key": "source.ip", "values": []}), at("when[0]")),
        (
            when.into(),
            json!({"key": "source.ip", "values": ["a.b.c.d"]}),
            at("when[0].values[0]"),
        ),
        (
            when.into(),
            json!({"key": "source.ip", "notValues": ["a.b.c.d"]}),
            at("when[0].notValues[0]"),
        ),
        (
            when.into(),
            json!({"key": "remote.ip", "values": ["1.2.3.4", "1.2.3.0/33"]}),
            at("when[0].values[1]"),
        ),
        (
            when.into(),
            json!({"key": "destination.ip", "values": ["x"]}),
            at("when[0].values[0]"),
        ),
        (
            when.into(),
            json!({"key": "destination.port", "values": ["80", "x"]}),
            at("when[0].values[1]"),
        ),
        (
            when.into(),
            json!({"key": "destination.port", "values": ["65536"]}),
            at("when[0].values[0]"),
        ),
        (
            when.into(),
            json!({"key": "source.serviceAccount", "values": ["a/b/c"]}),
            at("when[0].values[0]"),
        ),
        (
            when.into(),
            json!({"key": "source.trustDomain", "values": ["a/b"]}),
            at("when[0].values[0]"),
        ),
        (
            when.into(),
            json!({"key": "request.headers[:authority]", "values": ["a", ""]}),
            at("when[0].values[1]"),
        ),
    ];
    for field in ["ipBlocks", "notIpBlocks", "remoteIpBlocks", "notRemoteIpBlocks"] {
        for bad in ["a.b.c.d", "1.2.3", "1.2.3.4/33", "::/129", "1.2.3.4/"] {
            cases.push((
                format!("{source}/{field}/0"),
                json!(bad),
                at(&format!("from[0].source.{field}[0]")),
            ));
        }
    }
    for field in ["ports", "notPorts"] {
        for bad in ["http", "65536", "-1", "+80", "8080-8090", "*", " 80"] {
            cases.push((
                format!("{operation}/{field}/0"),
                json!(bad),
                at(&format!("to[0].operation.{field}[0]")),
            ));
        }
    }
    for field in ["paths", "notPaths"] {
        for bad in [
            "/{*}/*",
            "/*/{**}",
            "/{x}",
            "/{}",
            "/{*}/{}/x",
            "/{**}/{*}",
            "/{**}/{**}",
            "/a{*}",
            "/{*}b",
            "/{x=*}",
            "/{***}",
            "/{*}/a?b",
            "/}",
        ] {
            cases.push((
                format!("{operation}/{field}/0"),
                json!(bad),
                at(&format!("to[0].operation.{field}[0]")),
            ));
        }
    }
    // No list of texts has an empty one.
    for (pointer, path) in [
        (source, "from[0].source"),
        (accounts, "from[1].source"),
        (operation, "to[0].operation"),
    ] {
        for (field, _) in object.pointer(pointer).unwrap().as_object().unwrap() {
            cases.push((
                format!("{pointer}/{field}/-"),
                json!(""),
                at(&format!("{path}.{field}[1]")),
            ));
        }
    }
    for (pointer, value, path) in &cases {
        assert_eq!(
            errors(&with(&object, pointer, value.clone())),
            [path.as_str()],
            "{pointer} = {value}"
        );
    }
    each_is_taken(
        &object,
        &[
            (when, json!({"key": "request.auth.claims[a][b]", "values": ["x"]})),
            (when, json!({"key": "request.headers[X-Any]", "notValues": ["*"]})),
            (
                when,
                json!({"key": "experimental.envoy.filters.a.b[c]", "values": ["x"]}),
            ),
            (&format!("{operation}/paths/0"), json!("/a/*/b")),
            (&format!("{operation}/paths/0"), json!("/foo/{**}/bar")),
            (&format!("{operation}/ports/0"), json!("0")),
            (&format!("{source}/ipBlocks/0"), json!("10.1.2.3/8")),
            (&format!("{accounts}/serviceAccounts"), json!(vec!["a"; 16])),
            ("/spec/rules", json!([{}])),
            ("/spec/rules", json!([])),
            ("/metadata/annotations", json!({"istio.io/dry-run": "true"})),
        ],
    );
}

#[test]
fn actions_and_what_they_need() {
    let object = objects::custom_policy();
    each_is_refused(
        &object,
        &[
            ("/spec/provider", json!({}), "spec.provider"),
            ("/spec/provider", json!({"name": ""}), "spec.provider"),
            ("/spec/rules", json!([]), "spec.rules"),
            (
                "/metadata/annotations",
                json!({"istio.io/dry-run": "true"}),
                "metadata.annotations.istio.io/dry-run",
            ),
        ],
    );
    for identity in [
        "principals",
        "requestPrincipals",
        "namespaces",
        "serviceAccounts",
        "trustDomains",
    ] {
        let not = format!("not{}{}", identity[..1].to_uppercase(), &identity[1..]);
        for field in [identity, &not] {
            let rules = json!([{"from": [{"source": {field: ["x"]}}]}]);
            let path = format!("spec.rules[0].from[0].source.{field}");
            each_is_refused(&object, &[("/spec/rules", rules, &path)]);
        }
    }
    for key in [
        "source.principal",
        "source.namespace",
        "source.serviceAccount",
        "source.trustDomain",
        "request.auth.principal",
        "request.auth.audiences",
        "request.auth.presenter",
        "request.auth.claims[x]",
    ] {
        let rules = json!([{"when": [{"key": key, "values": ["x"]}]}]);
        each_is_refused(&object, &[("/spec/rules", rules, "spec.rules[0].when[0].key")]);
    }
    let denies = with(&without(&object, "/spec/provider"), "/spec/action", json!("DENY"));
    each_is_refused(
        &denies,
        &[
            ("/spec/rules", json!([]), "spec.rules"),
            ("/spec/rules", json!(null), "spec.rules"),
        ],
    );
    let audits = with(&denies, "/spec/action", json!("AUDIT"));
    each_is_refused(
        &audits,
        &[(
            "/metadata/annotations",
            json!({"istio.io/dry-run": "true"}),
            "metadata.annotations.istio.io/dry-run",
        )],
    );
    each_is_refused(
        &denies,
        &[(
            "/metadata/annotations",
            json!({"istio.io/dry-run": "yes"}),
            "metadata.annotations.istio.io/dry-run",
        )],
    );
}

#[test]
fn targets() {
    for kind in ["AuthorizationPolicy", "RequestAuthentication"] {
        let object = objects::targeted(kind);
        let target = "/spec/targetRefs/0";
        each_is_refused(
            &object,
            &[
                ("/spec/selector", json!({"matchLabels": {"a": "b"}}), "spec.selector"),
                (&format!("{target}/name"), json!(""), "spec.targetRefs[0].name"),
                (
                    &format!("{target}/namespace"),
                    json!("other"),
                    "spec.targetRefs[0].namespace",
                ),
                (&format!("{target}/kind"), json!("Pod"), "spec.targetRefs[0]"),
                (&format!("{target}/group"), json!("x"), "spec.targetRefs[0]"),
            ],
        );
        let many = json!(vec![json!({"group": "", "kind": "Service", "name": "s"}); 17]);
        each_is_refused(&object, &[("/spec/targetRefs", many, "spec.targetRefs")]);
        let service_entry = json!([{"group": "networking.istio.io", "kind": "ServiceEntry", "name": "s"}]);
        each_is_taken(&object, &[("/spec/targetRefs", service_entry)]);
    }
}

#[test]
fn request_authentications() {
    let object = objects::request_authentication();
    let rule = "/spec/jwtRules/0";
    let at = |field: &str| format!("spec.jwtRules[0].{field}");
    let cases = [
        ("issuer", json!(""), "issuer"),
        ("jwks", json!("{\"keys\": []}"), "jwks"),
        ("jwksUri", json!("foo.bar.com"), "jwksUri"),
        ("jwksUri", json!("tcp://foo.bar.com"), "jwksUri"),
        ("jwksUri", json!("https://foo.bar.com:abc/keys"), "jwksUri"),
        ("jwksUri", json!("https://foo.bar.com:70000"), "jwksUri"),
        ("audiences", json!([""]), "audiences[0]"),
        ("fromHeaders", json!([{"prefix": "x"}]), "fromHeaders[0].name"),
        ("fromHeaders", json!([{"name": "a b"}]), "fromHeaders[0].name"),
        ("fromParams", json!([""]), "fromParams[0]"),
        ("fromCookies", json!([""]), "fromCookies[0]"),
        (
            "outputPayloadToHeader",
            json!("Content-Length"),
            "outputPayloadToHeader",
        ),
        (
            "outputClaimToHeaders",
            json!([{"header": "x"}]),
            "outputClaimToHeaders[0].claim",
        ),
        (
            "outputClaimToHeaders",
            json!([{"header": "a b", "claim": "c"}]),
            "outputClaimToHeaders[0].header",
        ),
        ("timeout", json!("soon"), "timeout"),
        ("timeout", json!("0s"), "timeout"),
        ("spaceDelimitedClaims", json!([""]), "spaceDelimitedClaims[0]"),
    ];
    for (field, value, path) in cases {
        each_is_refused(&object, &[(&format!("{rule}/{field}"), value, &at(path))]);
    }
    for bad in ["", "[]", "{}", "{\"keys\": 1}", "keys"] {
        let wrong = with(&object, "/spec/jwtRules/1/jwks", json!(bad));
        let expected: &[&str] = if bad.is_empty() {
            &[]
        } else {
            &["spec.jwtRules[1].jwks"]
        };
        assert_eq!(errors(&wrong), expected, "{bad}");
    }
    each_is_taken(
        &object,
        &[
            (&format!("{rule}/jwksUri"), json!("http://foo.bar.com:1234/secure/key")),
            (&format!("{rule}/jwksUri"), json!("https://foo.bar.com")),
            ("/spec/jwtRules", json!([])),
        ],
    );
}

#[test]
fn settings_of_the_mesh() {
    let object = objects::mesh_config();
    let provider = "/spec/extensionProviders/g";
    each_is_refused(
        &object,
        &[
            ("/spec/pathNormalization", json!("base"), "spec.pathNormalization"),
            ("/spec/trustDomain", json!("a/b"), "spec.trustDomain"),
            ("/spec/trustDomainAliases", json!([""]), "spec.trustDomainAliases[0]"),
            ("/spec/rootNamespace", json!("A.b"), "spec.rootNamespace"),
            (
                &format!("{provider}/type"),
                json!("tcp"),
                "spec.extensionProviders.g.type",
            ),
            (&format!("{provider}/port"), json!(0), "spec.extensionProviders.g.port"),
            (
                &format!("{provider}/statusOnError"),
                json!(99),
                "spec.extensionProviders.g.statusOnError",
            ),
            (
                &format!("{provider}/timeout"),
                json!("5"),
                "spec.extensionProviders.g.timeout",
            ),
            (
                &format!("{provider}/pathPrefix"),
                json!("/x"),
                "spec.extensionProviders.g.pathPrefix",
            ),
            (
                "/spec/extensionProviders/h/pathPrefix",
                json!("x"),
                "spec.extensionProviders.h.pathPrefix",
            ),
            (
                &format!("{provider}/includeRequestBodyInCheck"),
                json!({}),
                "spec.extensionProviders.g.includeRequestBodyInCheck.maxRequestBytes",
            ),
        ],
    );
}

#[test]
fn what_works_but_not_as_meant_is_a_warning() {
    let warned = |object: &Value| -> Vec<String> {
        let found = problems(object);
        assert!(
            found.iter().all(|problem| problem.severity == Severity::Warning),
            "{found:?}"
        );
        found.into_iter().map(|problem| problem.path).collect()
    };
    let rules = |action: &str, rules: Value| {
        let policy = without(&objects::custom_policy(), "/spec/provider");
        with(&with(&policy, "/spec/action", json!(action)), "/spec/rules", rules)
    };
    let get = json!({"to": [{"operation": {"methods": ["GET"]}}]});
    let get_80 = json!({"to": [{"operation": {"methods": ["GET"], "ports": ["80"]}}]});
    let port_80 = json!({"to": [{"operation": {"ports": ["80"]}}]});
    let token = json!({"from": [{"source": {"requestPrincipals": ["*"]}}]});
    let known_get = json!({"from": [{"source": {"principals": ["*"]}}], "to": [{"operation": {"methods": ["GET"]}}]});
    let mixed = json!({"to": [{"operation": {"ports": ["80"]}}, {"operation": {"methods": ["GET"]}}]});
    for (action, rule, expected) in [
        ("DENY", &get, true),
        ("DENY", &token, true),
        ("DENY", &known_get, true),
        ("DENY", &mixed, true),
        ("DENY", &get_80, false),
        ("DENY", &port_80, false),
        ("ALLOW", &get, false),
        ("ALLOW", &known_get, false),
        ("ALLOW", &mixed, true),
        ("AUDIT", &mixed, false),
    ] {
        let found = warned(&rules(action, json!([rule])));
        assert_eq!(!found.is_empty(), expected, "{action} {rule}: {found:?}");
    }
    for object in [objects::custom_policy(), objects::request_authentication()] {
        for empty in [json!({}), json!({"matchLabels": {}})] {
            assert_eq!(warned(&with(&object, "/spec/selector", empty)), ["spec.selector"]);
        }
    }
    let peer = without(&objects::peer_authentication(), "/spec/portLevelMtls");
    assert_eq!(
        warned(&with(&peer, "/metadata/namespace", json!("istio-system"))),
        ["spec.selector"]
    );
    let absent = json!([{"when": [{"key": "experimental.envoy.filters.a.b[c]", "values": ["x"]}]}]);
    assert_eq!(warned(&rules("ALLOW", absent)), ["spec.rules[0].when[0].key"]);
}
