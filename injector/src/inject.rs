//! The pure function from a Pod to a patch: whether it gets a sidecar, and every change that takes. Given the patched pod it
//! changes nothing more, so it may be called again after other webhooks; what those have added is dealt with then.

use std::fmt;

use json_patch::Patch;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Volume};
use serde::Serialize;
use serde_json::{Value, json};
use squire_mesh::{ports, probe::Probes};

use crate::{
    annotations::Wishes,
    edits::{Edits, covers},
    owner::Owner,
    probes::{Rewritten, from_variable},
    settings::Settings,
    sidecar::{self, IDENTITY_VOLUME, NO_API_TOKEN_VOLUME, PROBES_VARIABLE},
};

/// Where kubelets mark pods that exist already.
const MIRROR: &str = "kubernetes.io/config.mirror";
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

/// Why a pod gets no sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// It says so itself.
    OptedOut,
    /// It has its node's network, which must not be redirected.
    HostNetwork,
    /// It runs on Windows.
    Windows,
    /// A kubelet made it, and it runs already.
    Mirror,
    /// It has a container called squire-proxy that is not ours.
    OtherSidecar,
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
    problems.extend(conflicts(spec, settings));

    let mut edits = Edits::default();
    let probes = probes(spec, &mut edits, &mut problems, &mut warnings);
    mark(pod, owner, &mut edits);
    add_volumes(spec, settings, &mut edits);
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

/// Whether the pod is none of ours.
fn skip(pod: &Pod, spec: &PodSpec) -> Result<Option<Skip>, Denial> {
    let annotation = |key: &str| pod.metadata.annotations.as_ref()?.get(key).map(String::as_str);
    let label = |key: &str| pod.metadata.labels.as_ref()?.get(key).map(String::as_str);
    for (what, value) in [
        ("annotation", annotation(ports::INJECT)),
        ("label", label(ports::INJECT)),
    ] {
        match value {
            None | Some("true") => {}
            Some("false") => return Ok(Some(Skip::OptedOut)),
            Some(other) => {
                let why = format!("{what} {}: {other:?}; write \"true\" or \"false\"", ports::INJECT);
                return Err(Denial(vec![why]));
            }
        }
    }
    let windows = spec.os.as_ref().is_some_and(|os| os.name == "windows")
        || spec.node_selector.as_ref().is_some_and(|selector| {
            let os = |key: &str| selector.get(key).is_some_and(|os| os == "windows");
            os("kubernetes.io/os") || os("beta.kubernetes.io/os")
        });
    let injected = annotation(ports::INJECTED) == Some("true");
    let other = |container: &Container| container.name == ports::PROXY_CONTAINER;
    Ok(if annotation(MIRROR).is_some() {
        Some(Skip::Mirror)
    } else if spec.host_network == Some(true) {
        Some(Skip::HostNetwork)
    } else if windows {
        Some(Skip::Windows)
    } else if spec.containers.iter().any(other) || (!injected && inits(spec).iter().any(other)) {
        Some(Skip::OtherSidecar)
    } else {
        None
    })
}

fn skipped(pod: &Pod, skip: Skip, owner: Owner) -> Decision {
    let mut edits = Edits::default();
    let mut warnings = Vec::new();
    if !matches!(skip, Skip::OptedOut | Skip::Mirror) {
        annotate(pod, &[(ports::SKIPPED, skip.as_str())], &mut edits);
        warnings.push(format!("squire: no sidecar for this pod: {skip}"));
    }
    Decision {
        verdict: Verdict::Skipped(skip),
        patch: edits.into_patch(),
        warnings,
        owner,
    }
}

fn inits(spec: &PodSpec) -> &[Container] {
    spec.init_containers.as_deref().unwrap_or_default()
}

fn is_ours(container: &Container) -> bool {
    container.name == ports::PROXY_CONTAINER || container.name == ports::REDIRECT_CONTAINER
}

/// What in the pod cannot be beside a sidecar.
fn conflicts(spec: &PodSpec, settings: &Settings) -> Vec<String> {
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
        let wanted = sidecar::volumes(settings)
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

fn add_volumes(spec: &PodSpec, settings: &Settings, edits: &mut Edits) {
    let wanted = sidecar::volumes(settings);
    let Some(there) = &spec.volumes else {
        return edits.add(&["spec", "volumes"], json!(wanted));
    };
    for (name, wanted) in [IDENTITY_VOLUME, NO_API_TOKEN_VOLUME].into_iter().zip(wanted) {
        match there.iter().position(|volume| volume.name == name) {
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

impl Skip {
    /// For annotations and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OptedOut => "opted-out",
            Self::HostNetwork => "host-network",
            Self::Windows => "windows",
            Self::Mirror => "mirror-pod",
            Self::OtherSidecar => "other-sidecar",
        }
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OptedOut => "it is annotated with squire.mesh/inject: \"false\"",
            Self::HostNetwork => "it uses its node's network (hostNetwork), which is not redirected",
            Self::Windows => "it runs on Windows, where connections are not redirected",
            Self::Mirror => "a kubelet made it from a file (static pod)",
            Self::OtherSidecar => "it has a container named squire-proxy that this injector did not put there",
        })
    }
}

#[cfg(test)]
mod tests;
