//! The pure function from a Pod to a patch: whether it gets a sidecar, and every change that takes. Given the patched pod it
//! changes nothing more, so it may be called again after other webhooks; what those have added is dealt with then.

mod conflicts;
mod skip;
mod workload_api;

use json_patch::Patch;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use serde::Serialize;
use serde_json::{Value, json};
use squire_mesh::{ports, probe::Probes};

pub use self::skip::Skip;
use self::{
    conflicts::conflicts,
    skip::{skip, skipped},
};
use crate::{
    annotations::Wishes,
    edits::{Edits, covers},
    owner::Owner,
    probes::{Rewritten, from_variable},
    settings::Settings,
    sidecar::{self, PROBES_VARIABLE},
};

/// Whether a Prometheus without an operator is to look at a pod.
const SCRAPE: &str = "prometheus.io/scrape";
/// The longest value of a variable with which Linux starts a program (MAX_ARG_STRLEN, less its name).
const LONGEST_VARIABLE: usize = 128 * 1024 - 64;

/// The cluster a pod is for, as far as injection depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Minor version of Kubernetes 1.
    pub minor: u32,
}

/// What becomes of a pod.
#[derive(Debug)]
pub struct Decision {
    /// Whether it gets a sidecar.
    pub verdict: Verdict,
    /// The changes, relative to the pod.
    pub patch: Patch,
    /// What the one who creates it should know.
    pub warnings: Vec<String>,
    /// Who made it.
    pub owner: Owner,
}

/// Whether a pod gets a sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It gets one.
    Injected,
    /// It has ours already, and is as it should be.
    Unchanged,
    /// It gets none.
    Skipped(Skip),
}

/// Why a pod must not be created: every reason at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("squire: {}", .0.join("; "))]
pub struct Denial(pub Vec<String>);

/// Decides about one pod.
///
/// # Errors
/// When the pod asks for what cannot be, or for what would leave it unprotected without saying so.
pub fn decide(pod: &Pod, owner: Owner, cluster: &Cluster, settings: &Settings) -> Result<Decision, Denial> {
    let nothing = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&nothing);
    let annotations = pod.metadata.annotations.clone().unwrap_or_default();
    if let Some(skip) = skip(pod, spec)? {
        return Ok(skipped(pod, skip, owner));
    }
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    if cluster.minor < 29 {
        problems.push(format!(
            "this cluster runs Kubernetes 1.{}, and a sidecar that starts first and ends last needs 1.29 or newer; \
             annotate the pod with {}: \"false\" to run it outside the mesh",
            cluster.minor,
            ports::INJECT
        ));
    }
    let wishes = Wishes::read(settings, &annotations, &mut problems, &mut warnings);
    problems.extend(conflicts(spec, settings, &wishes));

    let mut edits = Edits::default();
    let probes = probes(spec, &mut edits, &mut problems, &mut warnings);
    mark(pod, owner, &mut edits);
    add_volumes(spec, settings, &wishes, &mut edits);
    if wishes.workload_api {
        workload_api::hand_over(spec, &mut edits, &mut problems, &mut warnings);
    }
    place_first(
        spec,
        [
            sidecar::redirect(settings, &wishes),
            sidecar::proxy(settings, &wishes, &probes),
        ],
        &mut edits,
    );
    if !problems.is_empty() {
        return Err(Denial(problems));
    }
    let patch = edits.into_patch();
    let verdict = if patch.0.is_empty() {
        Verdict::Unchanged
    } else {
        Verdict::Injected
    };
    Ok(Decision {
        verdict,
        patch,
        warnings,
        owner,
    })
}

fn inits(spec: &PodSpec) -> &[Container] {
    spec.init_containers.as_deref().unwrap_or_default()
}

fn is_ours(container: &Container) -> bool {
    container.name == ports::PROXY_CONTAINER || container.name == ports::REDIRECT_CONTAINER
}

/// Rewrites the probes of all containers but ours.
fn probes(spec: &PodSpec, edits: &mut Edits, problems: &mut Vec<String>, warnings: &mut Vec<String>) -> Probes {
    let known = known_probes(spec);
    let mut rewritten = Rewritten::default();
    for (list, containers) in [("initContainers", inits(spec)), ("containers", &spec.containers[..])] {
        for (index, container) in containers
            .iter()
            .enumerate()
            .filter(|(_, container)| !is_ours(container))
        {
            rewritten.container(container, list, index, &known, edits);
        }
    }
    problems.append(&mut rewritten.problems);
    warnings.append(&mut rewritten.warnings);
    let length = crate::probes::to_variable(&rewritten.probes).len();
    if length > LONGEST_VARIABLE {
        problems.push(format!(
            "the probes of all containers together take {length} bytes, and the sidecar is told {LONGEST_VARIABLE} at \
             most; give them fewer or shorter headers"
        ));
    }
    rewritten.probes
}

/// What our sidecar was told when this pod came by before.
fn known_probes(spec: &PodSpec) -> Probes {
    let proxy = inits(spec)
        .iter()
        .find(|container| container.name == ports::PROXY_CONTAINER);
    let variables = proxy.and_then(|proxy| proxy.env.as_deref()).unwrap_or_default();
    let variable = variables.iter().find(|variable| variable.name == PROBES_VARIABLE);
    variable
        .and_then(|variable| variable.value.as_deref())
        .map(from_variable)
        .unwrap_or_default()
}

fn mark(pod: &Pod, owner: Owner, edits: &mut Edits) {
    let scraped = pod
        .metadata
        .annotations
        .as_ref()
        .is_some_and(|there| there.contains_key(SCRAPE));
    let port = ports::ADMIN.to_string();
    let mut annotations = vec![(ports::INJECTED, "true")];
    if !scraped {
        // An application that is scraped itself keeps its own; the PodMonitor finds the sidecar in either case.
        annotations.extend([
            (SCRAPE, "true"),
            ("prometheus.io/port", &port),
            ("prometheus.io/path", "/metrics"),
        ]);
    }
    annotate(pod, &annotations, edits);
    set(
        pod.metadata.labels.as_ref(),
        "labels",
        &[(ports::OWNER_KIND, owner.as_str())],
        edits,
    );
}

fn annotate(pod: &Pod, pairs: &[(&str, &str)], edits: &mut Edits) {
    set(pod.metadata.annotations.as_ref(), "annotations", pairs, edits);
}

fn set(
    there: Option<&std::collections::BTreeMap<String, String>>,
    map: &str,
    pairs: &[(&str, &str)],
    edits: &mut Edits,
) {
    let Some(there) = there else {
        let all: serde_json::Map<String, Value> = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), json!(value)))
            .collect();
        return edits.add(&["metadata", map], Value::Object(all));
    };
    for (key, value) in pairs
        .iter()
        .filter(|(key, value)| there.get(*key).map(String::as_str) != Some(value))
    {
        edits.add(&["metadata", map, key], json!(value));
    }
}

fn add_volumes(spec: &PodSpec, settings: &Settings, wishes: &Wishes, edits: &mut Edits) {
    let wanted = sidecar::volumes(settings, wishes);
    let Some(there) = &spec.volumes else {
        return edits.add(&["spec", "volumes"], json!(wanted));
    };
    for wanted in wanted {
        match there.iter().position(|volume| wanted["name"] == *volume.name) {
            None => edits.add(&["spec", "volumes", "-"], wanted),
            Some(index) if !covers(&json(&there[index]), &wanted) => {
                edits.replace(&["spec", "volumes", &index.to_string()], wanted);
            }
            Some(_) => {}
        }
    }
}

/// Ours come first, so that everything after them is protected; what is there and right stays.
fn place_first(spec: &PodSpec, wanted: [Value; 2], edits: &mut Edits) {
    let Some(there) = &spec.init_containers else {
        return edits.add(&["spec", "initContainers"], json!(wanted));
    };
    let first = there.iter().take(2).map(json);
    let ours = there.iter().filter(|container| is_ours(container)).count();
    if ours == 2 && first.zip(&wanted).all(|(there, wanted)| covers(&there, wanted)) {
        return;
    }
    for (index, _) in there
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, container)| is_ours(container))
    {
        edits.remove(&["spec", "initContainers", &index.to_string()]);
    }
    for container in wanted.into_iter().rev() {
        edits.add(&["spec", "initContainers", "0"], container);
    }
}

/// Kubernetes' own types can always be written as JSON.
fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

#[cfg(test)]
mod tests;
