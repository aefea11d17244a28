//! Who may do what: each component exactly what it does, nothing with a wildcard, nothing that lets it become another.

use serde_json::{Value, json};
use squire_mesh::ports::{self, BUNDLE_CONFIG_MAP, CONTROL_ACCOUNT, INJECTOR_ACCOUNT, SYSTEM_NAMESPACE};

use crate::object::{cluster, ours};

/// Service accounts, roles and bindings.
pub(crate) fn all() -> Vec<Value> {
    let mut all = Vec::new();
    for (account, everywhere, here) in [
        (CONTROL_ACCOUNT, control_everywhere(), control_here()),
        (INJECTOR_ACCOUNT, injector_everywhere(), injector_here()),
    ] {
        all.push(ours("v1", "ServiceAccount", account, account));
        all.push(with_rules(
            cluster("rbac.authorization.k8s.io/v1", "ClusterRole", account),
            everywhere,
        ));
        all.push(bound(
            cluster("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", account),
            "ClusterRole",
            account,
        ));
        all.push(with_rules(
            ours("rbac.authorization.k8s.io/v1", "Role", account, account),
            here,
        ));
        all.push(bound(
            ours("rbac.authorization.k8s.io/v1", "RoleBinding", account, account),
            "Role",
            account,
        ));
    }
    all
}

fn with_rules(mut role: Value, rules: Vec<Value>) -> Value {
    role["rules"] = json!(rules);
    role
}

fn bound(mut binding: Value, kind: &str, account: &str) -> Value {
    binding["roleRef"] = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": account});
    binding["subjects"] = json!([{"kind": "ServiceAccount", "name": account, "namespace": SYSTEM_NAMESPACE}]);
    binding
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": resources, "verbs": verbs})
}

fn named(group: &str, resource: &str, name: &str, verbs: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": [resource], "resourceNames": [name], "verbs": verbs})
}

const LOOK: [&str; 3] = ["get", "list", "watch"];

fn control_everywhere() -> Vec<Value> {
    let policies = ["peerauthentications", "authorizationpolicies", "requestauthentications"];
    let routes = ["httproutes", "grpcroutes", "referencegrants"];
    let statuses: Vec<String> = policies.iter().map(|plural| format!("{plural}/status")).collect();
    let statuses: Vec<&str> = statuses.iter().map(String::as_str).collect();
    vec![
        rule(
            "",
            &["namespaces", "nodes", "pods", "services", "serviceaccounts"],
            &LOOK,
        ),
        rule("", &["configmaps"], &LOOK),
        rule("discovery.k8s.io", &["endpointslices"], &LOOK),
        rule("networking.k8s.io", &["networkpolicies"], &LOOK),
        rule("security.istio.io", &policies, &LOOK),
        rule("security.istio.io", &statuses, &["get", "patch", "update"]),
        rule("networking.istio.io", &["workloadentries"], &LOOK),
        rule("gateway.networking.k8s.io", &routes, &LOOK),
        rule(
            "gateway.networking.k8s.io",
            &["httproutes/status", "grpcroutes/status"],
            &["get", "patch", "update"],
        ),
        rule("squire.mesh", &["meshconfigs"], &LOOK),
        rule("squire.mesh", &["meshconfigs/status"], &["get", "patch", "update"]),
        rule(
            "networking.k8s.io",
            &["networkpolicies/status"],
            &["get", "patch", "update"],
        ),
        rule("apiextensions.k8s.io", &["customresourcedefinitions"], &LOOK),
        rule("authentication.k8s.io", &["tokenreviews"], &["create"]),
        rule("", &["events"], &["create", "patch"]),
        rule("events.k8s.io", &["events"], &["create", "patch"]),
    ]
}

/// The CA's state and log, the leader's Lease, and the roots for everybody.
fn control_here() -> Vec<Value> {
    vec![
        rule(
            "",
            &["secrets", "configmaps"],
            &["create", "delete", "get", "list", "patch", "update", "watch"],
        ),
        rule(
            "coordination.k8s.io",
            &["leases"],
            &["create", "get", "patch", "update", "watch"],
        ),
    ]
}

fn injector_everywhere() -> Vec<Value> {
    let webhooks = "mutatingwebhookconfigurations";
    vec![
        rule("", &["namespaces", "pods"], &LOOK),
        rule("", &["events"], &["create"]),
        // Creating cannot be restricted to a name; changing can.
        rule("", &["configmaps"], &["create"]),
        named("", "configmaps", BUNDLE_CONFIG_MAP, &["get", "patch", "update"]),
        named(
            "admissionregistration.k8s.io",
            webhooks,
            INJECTOR_ACCOUNT,
            &["get", "list", "patch", "watch"],
        ),
    ]
}

fn injector_here() -> Vec<Value> {
    vec![named("", "configmaps", ports::BUNDLE_CONFIG_MAP, &LOOK)]
}
