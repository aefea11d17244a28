//! The injector: its Deployment, the settings it is given, and the webhook by which the API server asks it.

use aws_lc_rs::digest;
use serde_json::{Value, json};
use squire_injector::webhook::PATH;
use squire_mesh::ports::{CA_AUDIENCE, INJECT, INJECTOR_ACCOUNT, SYSTEM_NAMESPACE, WEBHOOK};

use crate::{
    Values,
    object::{cluster, deployment, disruption_budget, monitor, ours, scraped, security, selector},
    values::resources,
};

/// The injector's admin endpoint.
pub(crate) const ADMIN: u16 = 15016;
/// The ConfigMap with its settings.
const CONFIG: &str = "squire-injector-config";
/// Where it is mounted, and what is in it.
const CONFIG_DIR: &str = "/etc/squire";
const SETTINGS: &str = "settings.yaml";
const CLIENT_CA: &str = "client-ca.pem";
/// Annotation of the pods that have read it.
const CONFIG_DIGEST: &str = "squire.mesh/config-digest";
/// Namespaces that the cluster itself needs, whatever label somebody puts on them.
const SYSTEM: [&str; 4] = ["kube-node-lease", "kube-public", "kube-system", SYSTEM_NAMESPACE];

pub(crate) fn all(values: &Values) -> Vec<Value> {
    let mut config = ours("v1", "ConfigMap", CONFIG, INJECTOR_ACCOUNT);
    // Settings are plain values: they can always be written.
    config["data"] = json!({SETTINGS: serde_yaml_ng::to_string(&values.sidecar).unwrap_or_default()});
    if let Some(pem) = &values.webhook_client_ca {
        config["data"][CLIENT_CA] = json!(pem);
    }
    let mut service = ours("v1", "Service", INJECTOR_ACCOUNT, INJECTOR_ACCOUNT);
    service["spec"] = json!({
        "selector": selector(INJECTOR_ACCOUNT),
        "ports": [{"name": "webhook", "port": 443, "protocol": "TCP", "targetPort": WEBHOOK}],
    });
    let volumes = json!([
        {"name": "config", "configMap": {"name": CONFIG}},
        {"name": "token", "projected": {"sources": [
            {"serviceAccountToken": {"audience": CA_AUDIENCE, "expirationSeconds": 3600, "path": "token"}},
        ]}},
    ]);
    // What is in the ConfigMap is read at the start: other settings are other pods.
    let mut annotations = scraped(ADMIN);
    annotations[CONFIG_DIGEST] = json!(digest(&config["data"]));
    let injector = deployment(
        INJECTOR_ACCOUNT,
        values.injector_replicas,
        container(values),
        volumes,
        annotations,
    );
    let mut all = vec![config, service, injector, disruption_budget(INJECTOR_ACCOUNT)];
    if values.pod_monitor {
        all.push(monitor(INJECTOR_ACCOUNT));
        all.push(sidecars());
    }
    all
}

fn container(values: &Values) -> Value {
    let probe = |path: &str| json!({"httpGet": {"path": path, "port": ADMIN, "scheme": "HTTP"}});
    let mut startup = probe("/ready");
    startup["periodSeconds"] = json!(1);
    startup["failureThreshold"] = json!(120);
    let mut args = vec![
        "injector".to_owned(),
        format!("--settings={CONFIG_DIR}/{SETTINGS}"),
        "--token=/var/run/squire/token".to_owned(),
        format!("--control={}", values.sidecar.control),
        format!("--listen=[::]:{WEBHOOK}"),
        format!("--admin=[::]:{ADMIN}"),
    ];
    if values.webhook_client_ca.is_some() {
        args.push(format!("--client-ca={CONFIG_DIR}/{CLIENT_CA}"));
    }
    json!({
        "name": "injector",
        "image": values.image,
        "imagePullPolicy": values.image_pull_policy,
        "args": args,
        "env": [{"name": "SQUIRE_LOG", "value": values.log_level}],
        "ports": [
            {"name": "webhook", "containerPort": WEBHOOK, "protocol": "TCP"},
            {"name": "admin", "containerPort": ADMIN, "protocol": "TCP"},
        ],
        "startupProbe": startup,
        "readinessProbe": probe("/ready"),
        "livenessProbe": probe("/live"),
        "resources": resources(&values.injector_resources),
        "securityContext": security(),
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG_DIR, "readOnly": true},
            {"name": "token", "mountPath": "/var/run/squire", "readOnly": true},
        ],
    })
}

/// SHA-256 of what a ConfigMap holds, in hexadecimal digits.
fn digest(data: &Value) -> String {
    let digest = digest::digest(&digest::SHA256, data.to_string().as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The sidecars of every namespace.
fn sidecars() -> Value {
    let mut monitor = ours(
        "monitoring.coreos.com/v1",
        "PodMonitor",
        "squire-proxy",
        INJECTOR_ACCOUNT,
    );
    monitor["spec"] = json!({
        "namespaceSelector": {"any": true},
        "selector": {"matchExpressions": [{"key": squire_mesh::ports::OWNER_KIND, "operator": "Exists"}]},
        "podMetricsEndpoints": [{"port": "squire-admin", "path": "/metrics"}],
    });
    monitor
}

/// Asked for each pod of a meshed namespace; while nobody answers, no such pod is created. The caBundle is the injector's to
/// write, so that applying this again does not take it away.
pub(crate) fn webhook() -> Value {
    let mut configuration = cluster(
        "admissionregistration.k8s.io/v1",
        "MutatingWebhookConfiguration",
        INJECTOR_ACCOUNT,
    );
    configuration["webhooks"] = json!([{
        "name": "pods.injector.squire.mesh",
        "admissionReviewVersions": ["v1"],
        "clientConfig": {"service": {
            "name": INJECTOR_ACCOUNT, "namespace": SYSTEM_NAMESPACE, "path": PATH, "port": 443,
        }},
        "failurePolicy": "Fail",
        "matchPolicy": "Equivalent",
        "namespaceSelector": {"matchExpressions": [
            {"key": INJECT, "operator": "In", "values": ["true"]},
            {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": SYSTEM},
        ]},
        "objectSelector": {"matchExpressions": [{"key": INJECT, "operator": "NotIn", "values": ["false"]}]},
        "reinvocationPolicy": "IfNeeded",
        "rules": [{
            "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"],
            "scope": "Namespaced",
        }],
        "sideEffects": "None",
        "timeoutSeconds": 5,
    }]);
    configuration
}
