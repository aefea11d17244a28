//! What a proxy keeps for its workload's policies: every heap block of a table, counted by hand.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use serde_json::{Value, json};
use squire_control::{
    manifest::Object,
    policy::{MeshConfig, PolicySet, Subject},
};
use squire_mesh::policy::{
    Attribute, AuthorizationPolicy, Condition, Conditions, LabelSelector, NamespaceMatch, NetworkGate, NetworkRule,
    Operator, PathMatch, Peer, PortMatch, Requirement, Rule, Table, TextMatch,
};

/// Two counters before what an `Arc` shares.
const ARC: usize = 16;

fn text(value: &TextMatch) -> usize {
    match value {
        TextMatch::Present => 0,
        TextMatch::Exact(text) | TextMatch::Prefix(text) | TextMatch::Suffix(text) => text.len(),
    }
}

fn texts(values: &[TextMatch]) -> usize {
    size_of_val(values) + values.iter().map(text).sum::<usize>()
}

fn condition(condition: &Condition) -> usize {
    match &condition.attribute {
        Attribute::Principal(values)
        | Attribute::Namespace(values)
        | Attribute::TrustDomain(values)
        | Attribute::Method(values)
        | Attribute::Host(values)
        | Attribute::Sni(values) => texts(values),
        Attribute::Header(named) => size_of_val(&**named) + named.0.len() + texts(&named.1),
        Attribute::Claim(named) => {
            size_of_val(&**named) + named.0.iter().map(|part| 16 + part.len()).sum::<usize>() + texts(&named.1)
        }
        Attribute::SourceIp(blocks) | Attribute::RemoteIp(blocks) | Attribute::DestinationIp(blocks) => {
            size_of_val(&**blocks)
        }
        Attribute::DestinationPort(ports) => size_of_val(&**ports),
        Attribute::ServiceAccount(accounts) => {
            size_of_val(&**accounts) + accounts.iter().map(|(ns, sa)| ns.len() + sa.len()).sum::<usize>()
        }
        Attribute::RequestPrincipal(values) => {
            size_of_val(&**values)
                + values
                    .iter()
                    .map(|one| text(&one.issuer) + text(&one.subject))
                    .sum::<usize>()
        }
        Attribute::Path(paths) => {
            let path = |path: &PathMatch| match path {
                PathMatch::Text(one) => text(one),
                PathMatch::Template(template) => {
                    // Each operator is a piece, and so is the text before it.
                    let written = template.to_string();
                    32 * written.matches('{').count() + written.len()
                }
            };
            size_of_val(&**paths) + paths.iter().map(path).sum::<usize>()
        }
        Attribute::Absent(key) => key.len(),
    }
}

fn conditions(items: &[Condition]) -> usize {
    size_of_val(items) + items.iter().map(condition).sum::<usize>()
}

fn rule(rule: &Rule) -> usize {
    let items = |items: &[Conditions]| size_of_val(items) + items.iter().map(|item| conditions(item)).sum::<usize>();
    items(rule.sources()) + items(rule.operations()) + conditions(rule.when())
}

fn authorization(policy: &AuthorizationPolicy) -> usize {
    let object = ARC + size_of_val(&*policy.object) + policy.object.namespace.len() + policy.object.name.len();
    ARC + size_of_val(policy) + object + size_of_val(&*policy.rules) + policy.rules.iter().map(rule).sum::<usize>()
}

fn selector(selector: &LabelSelector) -> usize {
    let requirement = |requirement: &Requirement| {
        let values = match &requirement.operator {
            Operator::In(values) | Operator::NotIn(values) => values.iter().map(|value| 16 + value.len()).sum(),
            Operator::Exists | Operator::DoesNotExist => 0,
        };
        requirement.key.len() + values
    };
    size_of_val(&*selector.0) + selector.0.iter().map(requirement).sum::<usize>()
}

fn network_rule(rule: &NetworkRule) -> usize {
    let peer = |peer: &Peer| match peer {
        Peer::Block { except, .. } => size_of_val(&**except),
        Peer::Pods { namespace, pods } => {
            selector(pods)
                + match namespace {
                    NamespaceMatch::Own(name) => name.len(),
                    NamespaceMatch::Selector(labels) => selector(labels),
                }
        }
    };
    let port = |port: &PortMatch| {
        if let PortMatch::Named(_, name) = port {
            name.len()
        } else {
            0
        }
    };
    let peers = rule
        .peers
        .iter()
        .map(|peers| size_of_val(&**peers) + peers.iter().map(peer).sum::<usize>());
    let ports = rule
        .ports
        .iter()
        .map(|ports| size_of_val(&**ports) + ports.iter().map(port).sum::<usize>());
    peers.sum::<usize>() + ports.sum::<usize>()
}

fn network(gate: &NetworkGate) -> usize {
    let NetworkGate::Isolated(policies) = gate else {
        return 0;
    };
    // Beside its rules a policy keeps 32 bytes for each peer, or for a rule that is open to everybody.
    let leads = |rule: &NetworkRule| 32 * rule.peers.as_ref().map_or(1, |peers| peers.len());
    let rules = |rules: &[NetworkRule]| {
        size_of_val(rules) + rules.iter().map(|rule| network_rule(rule) + leads(rule)).sum::<usize>()
    };
    policies
        .iter()
        .map(|policy| 8 + 2 * ARC + 64 + 16 + rules(policy.rules()))
        .sum()
}

fn table(table: &Table) -> usize {
    let all = &table.authorization;
    let policies = [&all.deny, &all.allow, &all.audit, &all.shadow_deny, &all.shadow_allow];
    let policies = policies
        .into_iter()
        .flatten()
        .map(|policy| 8 + authorization(policy))
        .sum::<usize>();
    size_of_val(table) + policies + network(&table.ingress) + network(&table.egress)
}

fn object(kind: &str, name: &str, spec: Value) -> Object {
    let version = if kind == "NetworkPolicy" {
        "networking.k8s.io/v1"
    } else {
        "security.istio.io/v1"
    };
    Object::from_value(
        "test",
        json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "shop"}, "spec": spec}),
    )
    .unwrap()
}

fn bytes_of(objects: &[Object]) -> usize {
    let (set, problems) = PolicySet::from_objects(objects, MeshConfig::default());
    assert_eq!((problems.len(), set.len()), (0, 10));
    let compiled = set.compile(&Subject {
        namespace: "shop",
        labels: vec![("app", "db")],
        selectable: true,
    });
    assert_ne!(compiled, Table::default());
    table(&compiled)
}

#[test]
fn ten_authorization_policies_of_ten_rules_fit_into_64_kib() {
    // The rules of the decision benchmark: callers, methods, a path template, a header.
    let rule = |p: usize, n: usize| {
        json!({
            "from": [{"source": {"principals": [format!("cluster.local/ns/shop/sa/account-{p}-{n}")]}}],
            "to": [{"operation": {"methods": ["GET", "POST"], "paths": [format!("/service-{n}/{{*}}/items")]}}],
            "when": [{"key": "request.headers[x-tenant]", "values": ["acme", "tenant-*"]}],
        })
    };
    let policy = |p: usize| {
        let rules: Vec<Value> = (0..10).map(|n| rule(p, n)).collect();
        object("AuthorizationPolicy", &format!("allow-{p}"), json!({ "rules": rules }))
    };
    let bytes = bytes_of(&(0..10).map(policy).collect::<Vec<_>>());
    assert!((10_000..=64 * 1024).contains(&bytes), "{bytes} bytes");
}

#[test]
fn ten_network_policies_of_ten_rules_fit_into_64_kib() {
    let rule = |n: usize| {
        let from = json!([{"podSelector": {"matchLabels": {"app": format!("app-{n}")}}, "namespaceSelector": {"matchLabels": {"team": "shop"}}}]);
        json!({ "from": from, "ports": [{"port": 8080}, {"port": "metrics"}] })
    };
    let policy = |p: usize| {
        let rules: Vec<Value> = (0..10).map(rule).collect();
        object(
            "NetworkPolicy",
            &format!("np-{p}"),
            json!({"podSelector": {}, "ingress": rules}),
        )
    };
    let bytes = bytes_of(&(0..10).map(policy).collect::<Vec<_>>());
    assert!((10_000..=64 * 1024).contains(&bytes), "{bytes} bytes");
}
