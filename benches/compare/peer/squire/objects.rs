//! The mesh that Squire is measured in: Kubernetes objects for 1,000 workloads and 100 policies, a few of which concern the measured pair.
//! Pure: makes values, writes nothing.

use serde_json::{Value, json};

use super::{Layer, Variant};

/// Workloads in the mesh, the measured two included.
pub(super) const WORKLOADS: usize = 1_000;

/// Policies in the mesh, those for the measured pair included.
pub(super) const POLICIES: usize = 100;

/// Namespace of the measured pair.
pub(super) const NAMESPACE: &str = "bench";

/// Address of the client-side workload.
pub(super) const CLIENT_ADDRESS: &str = "127.10.0.1";

/// Address of the server-side workload.
pub(super) const SERVER_ADDRESS: &str = "127.10.0.2";

/// Rules of each policy where there are many.
const RULES: usize = 10;

const OTHER_NAMESPACES: usize = 20;
const ACCOUNTS: usize = 10;

/// Every object, as one list. The measured server is declared to speak on `port` what the layer handles: bytes or HTTP.
pub(super) fn all(variant: Variant, layer: Layer, port: u16) -> Value {
    let transport = if variant == Variant::Plaintext {
        "plaintext"
    } else {
        "squire"
    };
    let mut items = vec![namespace(NAMESPACE)];
    items.extend((0..OTHER_NAMESPACES).map(|number| namespace(&other_namespace(number))));
    items.push(pod(NAMESPACE, "client", "client", CLIENT_ADDRESS, transport));
    items.push(server(layer, port, transport));
    items.extend((0..WORKLOADS - 2).map(other_workload));
    let own = if variant == Variant::Plaintext {
        vec![permissive()]
    } else {
        own_policies(layer)
    };
    match variant {
        Variant::Rules(rules) => items.extend((0..rules.number() / RULES).map(policy_of_many_rules)),
        _ => items.extend((0..POLICIES - own.len()).map(other_policy)),
    }
    items.extend(own);
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

/// What lets the measured pair talk without TLS.
fn permissive() -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "permissive", "namespace": NAMESPACE},
        "spec": {"mtls": {"mode": "PERMISSIVE"}},
    })
}

/// What concerns the measured pair: mutual TLS only, and only the client may reach the server; over HTTP only with these methods and
/// paths, so that every request has to be judged.
fn own_policies(layer: Layer) -> Vec<Value> {
    let mut rule = json!({"from": [{"source": {"principals": [format!("cluster.local/ns/{NAMESPACE}/sa/client")]}}]});
    if layer == Layer::L7 {
        rule["to"] = json!([
            {"operation": {"methods": ["GET", "PUT"], "paths": ["/bytes", "/bytes/*"]}},
            {"operation": {"methods": ["POST"], "paths": ["/bench.Echo/*"]}},
        ]);
    }
    vec![
        json!({
            "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
            "metadata": {"name": "strict", "namespace": NAMESPACE},
            "spec": {"mtls": {"mode": "STRICT"}},
        }),
        json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": "server", "namespace": NAMESPACE},
            "spec": {
                "selector": {"matchLabels": {"app": "server"}},
                "action": "ALLOW",
                "rules": [rule],
            },
        }),
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "server", "namespace": NAMESPACE},
            "spec": {
                "podSelector": {"matchLabels": {"app": "server"}},
                "policyTypes": ["Ingress"],
                "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}],
            },
        }),
    ]
}

fn other_workload(number: usize) -> Value {
    let address = format!(
        "10.{}.{}.{}",
        64 + number / 62_500,
        number / 250 % 250,
        number % 250 + 1
    );
    pod(
        &other_namespace(number),
        &format!("app-{number}"),
        &format!("app-{}", number % ACCOUNTS),
        &address,
        "squire",
    )
}

/// Policies of other workloads: they must not cost the measured pair anything.
fn other_policy(number: usize) -> Value {
    let (namespace, app) = (other_namespace(number), format!("app-{}", number % ACCOUNTS));
    let peer = format!("app-{}", (number + 1) % ACCOUNTS);
    if number.is_multiple_of(2) {
        json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": format!("policy-{number}"), "namespace": namespace},
            "spec": {
                "selector": {"matchLabels": {"app": app}},
                "action": "ALLOW",
                "rules": [{
                    "from": [{"source": {"principals": [format!("cluster.local/ns/{namespace}/sa/{peer}")]}}],
                    "to": [{"operation": {"ports": ["8080"], "methods": ["GET", "POST"], "paths": [format!("/api/v{number}/*")]}}],
                }],
            },
        })
    } else {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": format!("policy-{number}"), "namespace": namespace},
            "spec": {
                "podSelector": {"matchLabels": {"app": app}},
                "policyTypes": ["Ingress"],
                "ingress": [{
                    "from": [{"podSelector": {"matchLabels": {"app": peer}}}],
                    "ports": [{"port": 8080, "protocol": "TCP"}],
                }],
            },
        })
    }
}

/// Rules of other workloads, ten in a policy.
fn policy_of_many_rules(number: usize) -> Value {
    let namespace = other_namespace(number);
    let rules: Vec<Value> = (0..RULES)
        .map(|rule| {
            json!({
                "from": [{"source": {"principals": [format!("cluster.local/ns/{namespace}/sa/app-{rule}")]}}],
                "to": [{"operation": {"methods": ["GET", "POST"], "paths": [format!("/api/v{number}/{rule}/*")]}}],
            })
        })
        .collect();
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": format!("policy-{number}"), "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": {"app": format!("app-{}", number % ACCOUNTS)}},
            "action": "ALLOW",
            "rules": rules,
        },
    })
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}})
}

fn other_namespace(number: usize) -> String {
    format!("team-{}", number % OTHER_NAMESPACES)
}

fn server(layer: Layer, port: u16, transport: &str) -> Value {
    let mut server = pod(NAMESPACE, "server", "server", SERVER_ADDRESS, transport);
    let name = match layer {
        Layer::L4 => "tcp-bench",
        Layer::L7 => "http-bench",
    };
    server["spec"]["containers"][0]["ports"] = json!([{"name": name, "containerPort": port}]);
    server
}

fn pod(namespace: &str, name: &str, app: &str, address: &str, transport: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": namespace,
            "labels": {"app": app},
            "annotations": {"squire.mesh/transport": transport},
        },
        "spec": {"serviceAccountName": app, "containers": [{"name": "app", "image": "app"}]},
        "status": {"phase": "Running", "podIP": address},
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn there_are_as_many_as_promised_and_no_two_share_a_name_or_an_address() {
        for (variant, layer) in [
            (Variant::Standard, Layer::L4),
            (Variant::Standard, Layer::L7),
            (Variant::Plaintext, Layer::L4),
        ] {
            let all = all(variant, layer, 8080);
            let items = all["items"].as_array().unwrap();
            let of = |kinds: &[&str]| {
                items
                    .iter()
                    .filter(|item| kinds.contains(&item["kind"].as_str().unwrap()))
                    .count()
            };
            assert_eq!(of(&["Pod"]), WORKLOADS);
            assert_eq!(
                of(&["NetworkPolicy", "AuthorizationPolicy", "PeerAuthentication"]),
                POLICIES
            );
            let name = |item: &Value| {
                format!(
                    "{} {} {}",
                    item["kind"], item["metadata"]["namespace"], item["metadata"]["name"]
                )
            };
            assert_eq!(items.iter().map(name).collect::<BTreeSet<_>>().len(), items.len());
            let addresses: BTreeSet<&str> = items
                .iter()
                .filter_map(|item| item["status"]["podIP"].as_str())
                .collect();
            assert_eq!(addresses.len(), WORKLOADS);
        }
    }

    #[test]
    fn only_the_http_server_has_a_policy_about_requests() {
        for (layer, port_name, per_request) in [(Layer::L4, "tcp-bench", false), (Layer::L7, "http-bench", true)] {
            let all = all(Variant::Standard, layer, 8080);
            let own = |kind: &str| {
                let mut items = all["items"].as_array().unwrap().iter();
                let of = |item: &&Value| {
                    item["kind"] == kind
                        && item["metadata"]["name"] == "server"
                        && item["metadata"]["namespace"] == NAMESPACE
                };
                items.find(of).unwrap()
            };
            assert_eq!(own("Pod")["spec"]["containers"][0]["ports"][0]["name"], port_name);
            let rules = own("AuthorizationPolicy")["spec"]["rules"].to_string();
            assert_eq!(
                rules.contains("paths") && rules.contains("methods"),
                per_request,
                "{rules}"
            );
        }
    }
}
