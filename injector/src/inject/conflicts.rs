//! What in a pod cannot be beside a sidecar.

use k8s_openapi::api::core::v1::{PodSpec, Volume};
use serde_json::Value;
use squire_mesh::ports;

use super::{inits, is_ours};
use crate::{annotations::Wishes, settings::Settings, sidecar};

/// What in the pod cannot be beside a sidecar.
pub(super) fn conflicts(spec: &PodSpec, settings: &Settings, wishes: &Wishes) -> Vec<String> {
    let mut problems = Vec::new();
    let uid = i64::from(ports::PROXY_UID);
    let pod_uid = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    for container in spec
        .containers
        .iter()
        .chain(inits(spec))
        .filter(|container| !is_ours(container))
    {
        let name = &container.name;
        let own = container
            .security_context
            .as_ref()
            .and_then(|context| context.run_as_user);
        if own.or(pod_uid) == Some(uid) {
            problems.push(format!(
                "container {name}: runAsUser {uid} is the sidecar's user, whose connections are not protected; choose \
                 another"
            ));
        }
        for port in container.ports.iter().flatten() {
            if [ports::INBOUND, ports::OUTBOUND, ports::ADMIN]
                .map(i32::from)
                .contains(&port.container_port)
            {
                problems.push(format!(
                    "container {name}: port {} is the sidecar's; choose another",
                    port.container_port
                ));
            }
        }
    }
    for volume in spec.volumes.iter().flatten() {
        let wanted = sidecar::volumes(settings, wishes)
            .into_iter()
            .find(|wanted| wanted["name"] == *volume.name);
        if wanted.is_some_and(|wanted| !same_kind(volume, &wanted)) {
            problems.push(format!(
                "volume {}: the name is the sidecar's; choose another",
                volume.name
            ));
        }
    }
    problems
}

/// Ours, perhaps with other settings.
fn same_kind(volume: &Volume, wanted: &Value) -> bool {
    match wanted.get("projected") {
        Some(_) => volume.projected.is_some(),
        None => volume.empty_dir.is_some(),
    }
}
