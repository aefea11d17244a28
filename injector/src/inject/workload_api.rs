//! The SPIFFE Workload API for the application of a pod that asks for it: the sidecar's socket in a volume that every
//! container of the pod sees, and the variable by which clients find it.

use k8s_openapi::api::core::v1::{Container, PodSpec};
use serde_json::json;
use squire_mesh::ports::{WORKLOAD_API, WORKLOAD_API_VARIABLE};

use super::{inits, is_ours};
use crate::{
    edits::Edits,
    sidecar::{WORKLOAD_API_VOLUME, workload_api_address, workload_api_dir},
};

/// Lets every container but ours reach the socket.
pub(super) fn hand_over(spec: &PodSpec, edits: &mut Edits, problems: &mut Vec<String>, warnings: &mut Vec<String>) {
    for (list, containers) in [("initContainers", inits(spec)), ("containers", &spec.containers[..])] {
        let others = containers
            .iter()
            .enumerate()
            .filter(|(_, container)| !is_ours(container));
        for (index, container) in others {
            let path = ["spec", list, &index.to_string()];
            mount(container, path, edits, problems);
            tell(container, path, edits, warnings);
        }
    }
}

fn mount(container: &Container, [spec, list, index]: [&str; 3], edits: &mut Edits, problems: &mut Vec<String>) {
    // It connects, and has no business to put another socket there.
    let wanted = json!({"name": WORKLOAD_API_VOLUME, "mountPath": workload_api_dir(), "readOnly": true});
    let there = container.volume_mounts.as_deref().unwrap_or_default();
    let same_place = |path: &str| path.trim_end_matches('/') == workload_api_dir();
    if there
        .iter()
        .any(|mount| mount.name == WORKLOAD_API_VOLUME && same_place(&mount.mount_path))
    {
        return;
    }
    if there.iter().any(|mount| same_place(&mount.mount_path)) {
        return problems.push(format!(
            "container {}: annotation {WORKLOAD_API} puts the Workload API at {}, where it mounts something else",
            container.name,
            workload_api_dir()
        ));
    }
    match container.volume_mounts {
        None => edits.add(&[spec, list, index, "volumeMounts"], json!([wanted])),
        Some(_) => edits.add(&[spec, list, index, "volumeMounts", "-"], wanted),
    }
}

fn tell(container: &Container, [spec, list, index]: [&str; 3], edits: &mut Edits, warnings: &mut Vec<String>) {
    let wanted = json!({"name": WORKLOAD_API_VARIABLE, "value": workload_api_address()});
    let there = container.env.as_deref().unwrap_or_default();
    match there.iter().find(|variable| variable.name == WORKLOAD_API_VARIABLE) {
        Some(variable) if variable.value.as_deref() == Some(&workload_api_address()) => {}
        Some(_) => warnings.push(format!(
            "container {}: its own {WORKLOAD_API_VARIABLE} stays; squire's Workload API is at {}",
            container.name,
            workload_api_address()
        )),
        None if container.env.is_none() => edits.add(&[spec, list, index, "env"], json!([wanted])),
        None => edits.add(&[spec, list, index, "env", "-"], wanted),
    }
}
