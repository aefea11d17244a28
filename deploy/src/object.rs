//! The frame of every object: names, labels, and what all our pods have in common.

use serde_json::{Value, json};
use squire_mesh::ports;

/// Labels of every object of an installation.
fn labels(component: &str) -> Value {
    json!({
        "app.kubernetes.io/managed-by": "squire-install",
        "app.kubernetes.io/name": component,
        "app.kubernetes.io/part-of": "squire",
    })
}

/// What selects a component's pods.
pub(crate) fn selector(component: &str) -> Value {
    json!({"app.kubernetes.io/name": component, "app.kubernetes.io/part-of": "squire"})
}

/// An object that belongs to the cluster.
pub(crate) fn cluster(api_version: &str, kind: &str, name: &str) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "labels": labels(name)}})
}

/// An object in our namespace.
pub(crate) fn ours(api_version: &str, kind: &str, name: &str, component: &str) -> Value {
    json!({
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, "namespace": ports::SYSTEM_NAMESPACE, "labels": labels(component)},
    })
}

/// A Deployment whose pods have one container, which may do nothing but listen above port 1024: replicas apart from each
/// other, spread over zones, never fewer than all but one while a new version comes in.
pub(crate) fn deployment(
    component: &str,
    replicas: u32,
    container: Value,
    volumes: Value,
    annotations: Value,
) -> Value {
    let mut deployment = ours("apps/v1", "Deployment", component, component);
    let term = |topology: &str| json!({"labelSelector": {"matchLabels": selector(component)}, "topologyKey": topology});
    deployment["spec"] = json!({
        "replicas": replicas,
        "selector": {"matchLabels": selector(component)},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {
            "metadata": {"labels": labels(component), "annotations": annotations},
            "spec": {
                "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 100, "podAffinityTerm": term("kubernetes.io/hostname")},
                    {"weight": 50, "podAffinityTerm": term("topology.kubernetes.io/zone")},
                ]}},
                "containers": [container],
                "nodeSelector": {"kubernetes.io/os": "linux"},
                "priorityClassName": "system-cluster-critical",
                "securityContext": {
                    "fsGroup": 2103, "runAsGroup": 2103, "runAsNonRoot": true, "runAsUser": 2103,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "serviceAccountName": component,
                "terminationGracePeriodSeconds": 30,
            },
        },
    });
    if volumes.as_array().is_some_and(|volumes| !volumes.is_empty()) {
        deployment["spec"]["template"]["spec"]["volumes"] = volumes;
    }
    deployment
}

/// What every container of ours may do: nothing.
pub(crate) fn security() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
        "privileged": false,
        "readOnlyRootFilesystem": true,
    })
}

/// One of several replicas may be away at a time.
pub(crate) fn disruption_budget(component: &str) -> Value {
    let mut budget = ours("policy/v1", "PodDisruptionBudget", component, component);
    budget["spec"] = json!({"maxUnavailable": 1, "selector": {"matchLabels": selector(component)}});
    budget
}

/// What Prometheus without an operator looks at.
pub(crate) fn scraped(port: u16) -> Value {
    json!({"prometheus.io/path": "/metrics", "prometheus.io/port": port.to_string(), "prometheus.io/scrape": "true"})
}

/// A PodMonitor for the pods of a component.
pub(crate) fn monitor(component: &str) -> Value {
    let mut monitor = ours("monitoring.coreos.com/v1", "PodMonitor", component, component);
    monitor["spec"] = json!({
        "selector": {"matchLabels": selector(component)},
        "podMetricsEndpoints": [{"port": "admin", "path": "/metrics"}],
    });
    monitor
}
