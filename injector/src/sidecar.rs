//! What is put into a pod: the redirection, the sidecar, their volumes. Pure; the same settings always give the same
//! objects.

use serde_json::{Map, Value, json};
use squire_mesh::{ports, probe::Probes};

use crate::{
    annotations::Wishes,
    probes::{own, to_variable},
    settings::Settings,
};

/// Token and roots, in one volume.
pub(crate) const IDENTITY_VOLUME: &str = "squire-identity";
/// Stands where the API server would mount its own token, which a sidecar has no use for.
pub(crate) const NO_API_TOKEN_VOLUME: &str = "squire-no-api-token";
/// Where the Workload API's socket is, seen by the whole pod.
pub(crate) const WORKLOAD_API_VOLUME: &str = "squire-workload-api";
/// The variable that hands the application's probes to the sidecar.
pub(crate) const PROBES_VARIABLE: &str = "SQUIRE_PROXY_PROBES";

const IDENTITY_DIR: &str = "/var/run/squire";
const API_TOKEN_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const TOKEN: &str = "token";
/// Rules are written in a moment, once.
const REDIRECT_MEMORY: &str = "32Mi";

/// The init container that leads the pod's connections through the sidecar. It is root, for without that a container gets
/// no capability in effect, and has this one capability only.
pub(crate) fn redirect(settings: &Settings, wishes: &Wishes) -> Value {
    let excluded = [
        ("SQUIRE_REDIRECT_EXCLUDE_INBOUND_PORTS", &wishes.exclude_inbound_ports),
        ("SQUIRE_REDIRECT_EXCLUDE_OUTBOUND_PORTS", &wishes.exclude_outbound_ports),
        ("SQUIRE_REDIRECT_EXCLUDE_OUTBOUND_CIDRS", &wishes.exclude_outbound_cidrs),
    ];
    let env: Vec<Value> = excluded
        .iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(name, list)| json!({"name": name, "value": list}))
        .collect();
    let mut security = restricted(0);
    security["runAsNonRoot"] = json!(false);
    security["capabilities"] = json!({"add": ["NET_ADMIN"], "drop": ["ALL"]});
    let mut container = json!({
        "name": ports::REDIRECT_CONTAINER,
        "image": settings.image,
        "args": ["redirect"],
        "resources": {
            "requests": {"cpu": "10m", "memory": REDIRECT_MEMORY},
            "limits": {"memory": REDIRECT_MEMORY},
        },
        "securityContext": security,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [no_api_token()],
    });
    if !env.is_empty() {
        container["env"] = json!(env);
    }
    with_pull_policy(container, settings)
}

/// The sidecar: a native one, which is ready before the next container starts and ends after the last has ended.
pub(crate) fn proxy(settings: &Settings, wishes: &Wishes, probes: &Probes) -> Value {
    let mut startup = own("/ready");
    startup["periodSeconds"] = json!(1);
    startup["timeoutSeconds"] = json!(2);
    startup["failureThreshold"] = json!(settings.startup_seconds);
    let mut readiness = own("/ready");
    readiness["periodSeconds"] = json!(5);
    readiness["timeoutSeconds"] = json!(2);
    let mut mounts = vec![
        json!({"name": IDENTITY_VOLUME, "mountPath": IDENTITY_DIR, "readOnly": true}),
        no_api_token(),
    ];
    if wishes.workload_api {
        mounts.push(json!({"name": WORKLOAD_API_VOLUME, "mountPath": workload_api_dir()}));
    }
    let container = json!({
        "name": ports::PROXY_CONTAINER,
        "image": settings.image,
        "restartPolicy": "Always",
        "args": ["run"],
        "env": environment(settings, wishes, probes),
        "ports": [{"name": "squire-admin", "containerPort": ports::ADMIN, "protocol": "TCP"}],
        "startupProbe": startup,
        "readinessProbe": readiness,
        "resources": resources(wishes),
        "securityContext": restricted(ports::PROXY_UID),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    });
    with_pull_policy(container, settings)
}

/// The directory of the Workload API's socket.
pub(crate) fn workload_api_dir() -> &'static str {
    ports::WORKLOAD_API_SOCKET.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// What clients of the Workload API dial.
pub(crate) fn workload_api_address() -> String {
    format!("unix://{}", ports::WORKLOAD_API_SOCKET)
}

/// The volumes that are needed.
pub(crate) fn volumes(settings: &Settings, wishes: &Wishes) -> Vec<Value> {
    let token = json!({"serviceAccountToken": {
        "audience": ports::CA_AUDIENCE,
        "expirationSeconds": settings.token_expiration_seconds,
        "path": TOKEN,
    }});
    let roots = json!({"configMap": {
        "name": ports::BUNDLE_CONFIG_MAP,
        "items": [{"key": ports::BUNDLE_KEY, "path": ports::BUNDLE_KEY}],
    }});
    let empty = |name: &str| json!({"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}});
    let mut volumes = vec![
        json!({"name": IDENTITY_VOLUME, "projected": {"sources": [token, roots]}}),
        empty(NO_API_TOKEN_VOLUME),
    ];
    if wishes.workload_api {
        volumes.push(empty(WORKLOAD_API_VOLUME));
    }
    volumes
}

fn environment(settings: &Settings, wishes: &Wishes, probes: &Probes) -> Vec<Value> {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}});
    let value = |name: &str, value: &str| json!({"name": name, "value": value});
    let file = |name: &str| format!("{IDENTITY_DIR}/{name}");
    let identity = format!(
        "spiffe://{}/ns/$(POD_NAMESPACE)/sa/$(POD_SERVICE_ACCOUNT)",
        settings.trust_domain
    );
    let mut env = vec![
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_SERVICE_ACCOUNT", "spec.serviceAccountName"),
        value("SQUIRE_PROXY_WORKLOAD", "$(POD_NAMESPACE)/$(POD_NAME)"),
        value("SQUIRE_PROXY_IDENTITY", &identity),
        value("SQUIRE_PROXY_TRUST_DOMAIN", &settings.trust_domain),
        value("SQUIRE_PROXY_TRUST_BUNDLE", &file(ports::BUNDLE_KEY)),
        value("SQUIRE_PROXY_TOKEN", &file(TOKEN)),
        value("SQUIRE_PROXY_CONTROL", &settings.control),
        value("SQUIRE_PROXY_MODE", "transparent"),
        value("SQUIRE_PROXY_ADMIN", &format!("[::]:{}", ports::ADMIN)),
        value("SQUIRE_PROXY_ADMIN_DETAILS", "loopback"),
        value("SQUIRE_PROXY_UNKNOWN_DESTINATIONS", &wishes.unknown_destinations),
        value("SQUIRE_PROXY_SUBSCRIPTION_MODE", &wishes.subscription),
        value("SQUIRE_PROXY_LOG_LEVEL", &wishes.log_level),
        value("SQUIRE_PROXY_LOG_FORMAT", &settings.log_format),
        value("SQUIRE_PROXY_ACCESS_LOG", &wishes.access_log),
    ];
    if wishes.workload_api {
        env.push(value("SQUIRE_PROXY_WORKLOAD_API_SOCKET", ports::WORKLOAD_API_SOCKET));
        // The volume says who reaches it: this pod's containers, whichever user they are.
        env.push(value("SQUIRE_PROXY_WORKLOAD_API_USERS", "any"));
    }
    if !probes.is_empty() {
        env.push(value(PROBES_VARIABLE, &to_variable(probes)));
    }
    env
}

fn resources(wishes: &Wishes) -> Value {
    let wanted = &wishes.resources;
    let pair = |cpu: &Option<String>, memory: &Option<String>| {
        let mut map = Map::new();
        for (name, value) in [("cpu", cpu), ("memory", memory)] {
            if let Some(value) = value {
                map.insert(name.to_owned(), json!(value));
            }
        }
        map
    };
    let mut resources = Map::new();
    for (name, map) in [
        ("limits", pair(&wanted.cpu_limit, &wanted.memory_limit)),
        ("requests", pair(&wanted.cpu_request, &wanted.memory_request)),
    ] {
        if !map.is_empty() {
            resources.insert(name.to_owned(), Value::Object(map));
        }
    }
    Value::Object(resources)
}

/// All that the Pod Security Standard `restricted` asks for, whatever the pod says for its own containers.
fn restricted(uid: u32) -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
        "privileged": false,
        "readOnlyRootFilesystem": true,
        "runAsGroup": uid,
        "runAsNonRoot": true,
        "runAsUser": uid,
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

fn no_api_token() -> Value {
    json!({"name": NO_API_TOKEN_VOLUME, "mountPath": API_TOKEN_DIR, "readOnly": true})
}

fn with_pull_policy(mut container: Value, settings: &Settings) -> Value {
    if let Some(policy) = &settings.image_pull_policy {
        container["imagePullPolicy"] = json!(policy);
    }
    container
}
