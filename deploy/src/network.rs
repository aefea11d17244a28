//! Who may reach the control plane itself: sidecars its one port with mutual TLS, the API server the webhook, Prometheus and
//! port-forward the figures. Everything else is refused by the CNI.

use serde_json::{Value, json};
use squire_mesh::ports::{CONTROL, CONTROL_ACCOUNT, CONTROL_ADMIN, INJECTOR_ACCOUNT, WEBHOOK};

use crate::{
    Values,
    injector::ADMIN,
    object::{ours, selector},
};

/// One policy that closes the namespace, and one for each component.
pub(crate) fn all(_: &Values) -> Vec<Value> {
    let mut closed = ours("networking.k8s.io/v1", "NetworkPolicy", "squire-default-deny", "squire");
    closed["spec"] = json!({"podSelector": {}, "policyTypes": ["Ingress"]});
    let tcp = |port: u16| json!({"protocol": "TCP", "port": port});
    let open = |component: &str, ports: Vec<Value>| {
        let mut policy = ours("networking.k8s.io/v1", "NetworkPolicy", component, component);
        // Sidecars and Prometheus are in any namespace, and the API server in none.
        policy["spec"] = json!({
            "podSelector": {"matchLabels": selector(component)},
            "policyTypes": ["Ingress"],
            "ingress": [{"ports": ports}],
        });
        policy
    };
    vec![
        closed,
        open(CONTROL_ACCOUNT, vec![tcp(CONTROL), tcp(CONTROL_ADMIN)]),
        open(INJECTOR_ACCOUNT, vec![tcp(WEBHOOK), tcp(ADMIN)]),
    ]
}
