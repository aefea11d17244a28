//! The control plane: a Deployment whose replicas share a CA in a Secret, and the Service that sidecars dial.

use serde_json::{Value, json};
use squire_mesh::ports::{CONTROL, CONTROL_ACCOUNT, CONTROL_ADMIN};

use crate::{
    Values,
    object::{deployment, disruption_budget, monitor, ours, scraped, security, selector},
    values::resources,
};

pub(crate) fn all(values: &Values) -> Vec<Value> {
    let mut service = ours("v1", "Service", CONTROL_ACCOUNT, CONTROL_ACCOUNT);
    service["spec"] = json!({
        "selector": selector(CONTROL_ACCOUNT),
        "ports": [
            {"name": "grpc", "port": CONTROL, "protocol": "TCP", "targetPort": CONTROL},
            {"name": "admin", "port": CONTROL_ADMIN, "protocol": "TCP", "targetPort": CONTROL_ADMIN},
        ],
    });
    let control = deployment(
        CONTROL_ACCOUNT,
        values.control_replicas,
        container(values),
        json!([]),
        scraped(CONTROL_ADMIN),
    );
    let mut all = vec![service, control, disruption_budget(CONTROL_ACCOUNT)];
    if values.pod_monitor {
        all.push(monitor(CONTROL_ACCOUNT));
    }
    all
}

fn container(values: &Values) -> Value {
    let probe = |path: &str| json!({"httpGet": {"path": path, "port": CONTROL_ADMIN, "scheme": "HTTP"}});
    let mut startup = probe("/ready");
    startup["periodSeconds"] = json!(1);
    startup["failureThreshold"] = json!(120);
    json!({
        "name": "control",
        "image": values.image,
        "imagePullPolicy": values.image_pull_policy,
        "args": [
            "control", "--kubernetes", "--replica", "$(POD_NAME)",
            "--grpc", format!("[::]:{CONTROL}"), "--admin", format!("[::]:{CONTROL_ADMIN}"),
            "--trust-domain", values.sidecar.trust_domain, "--cluster-domain", values.cluster_domain,
        ],
        "env": [
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
            {"name": "SQUIRE_LOG", "value": values.log_level},
        ],
        "ports": [
            {"name": "grpc", "containerPort": CONTROL, "protocol": "TCP"},
            {"name": "admin", "containerPort": CONTROL_ADMIN, "protocol": "TCP"},
        ],
        "startupProbe": startup,
        "readinessProbe": probe("/ready"),
        "livenessProbe": probe("/live"),
        "resources": resources(&values.control_resources),
        "securityContext": security(),
    })
}
