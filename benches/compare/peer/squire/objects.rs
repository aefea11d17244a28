//! The mesh that Squire is measured in: Kubernetes objects for 1,000 workloads and 100 policies, a few of which concern the measured pair.
//! Pure: makes values, writes nothing.

use serde_json::{Value, json};

use super::Variant;

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

const OTHER_NAMESPACES: usize = 20;
const ACCOUNTS: usize = 10;

/// Every object, as one list.
pub(super) fn all(variant: Variant) -> Value {
    let transport = if variant == Variant::Plaintext {
        "plaintext"
    } else {
        "squire"
    };
    let mut items = vec![namespace(NAMESPACE)];
    items.extend((0..OTHER_NAMESPACES).map(|number| namespace(&other_namespace(number))));
    items.push(pod(NAMESPACE, "client", "client", CLIENT_ADDRESS, transport));
    items.push(pod(NAMESPACE, "server", "server", SERVER_ADDRESS, transport));
    items.extend((0..WORKLOADS - 2).map(other_workload));
    let own = if variant == Variant::Plaintext {
        vec![permissive()]
    } else {
        own_policies()
    };
    items.extend((0..POLICIES - own.len()).map(other_policy));
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

/// What concerns the measured pair: mutual TLS only, and only the client may reach the server.
fn own_policies() -> Vec<Value> {
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
                "rules": [{"from": [{"source": {"principals": [format!("cluster.local/ns/{NAMESPACE}/sa/client")]}}]}],
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
                    "to": [{"operation": {"ports": ["8080"]}}],
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

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}})
}

fn other_namespace(number: usize) -> String {
    format!("team-{}", number % OTHER_NAMESPACES)
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
        for variant in [Variant::Standard, Variant::Plaintext] {
            let all = all(variant);
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
}
