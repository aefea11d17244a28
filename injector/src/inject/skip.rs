//! Pods that get no sidecar, and why: those that say so, and those that cannot have one.

use std::fmt;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use squire_mesh::ports;

use super::{Decision, Denial, Verdict, annotate, inits};
use crate::{edits::Edits, owner::Owner};

/// Where kubelets mark pods that exist already.
const MIRROR: &str = "kubernetes.io/config.mirror";

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

/// Whether the pod is none of ours.
pub(super) fn skip(pod: &Pod, spec: &PodSpec) -> Result<Option<Skip>, Denial> {
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

pub(super) fn skipped(pod: &Pod, skip: Skip, owner: Owner) -> Decision {
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
