//! The kinds that are watched. Kinds of CRDs need not exist: they are picked up when they appear, and their objects are gone
//! when the CRD is.

use kube::api::{ApiResource, GroupVersionKind};

/// What an object of a kind is to the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It says something about namespaces, workloads or services.
    Fact,
    /// A policy, a setting or a route: kept as it is.
    Kept,
    /// A service account.
    Account,
}

/// One kind that is watched.
#[derive(Debug)]
pub struct Kind {
    pub(super) group: &'static str,
    pub(super) kind: &'static str,
    pub(super) plural: &'static str,
    /// Versions that are understood, the best first.
    pub(super) versions: &'static [&'static str],
    /// It comes with a CRD, and so may be absent.
    pub(super) optional: bool,
    pub(super) role: Role,
    /// Only objects of this name.
    pub(super) name: Option<&'static str>,
}

const fn builtin(group: &'static str, kind: &'static str, plural: &'static str, role: Role) -> Kind {
    Kind {
        group,
        kind,
        plural,
        versions: &["v1"],
        optional: false,
        role,
        name: None,
    }
}

const fn custom(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    versions: &'static [&'static str],
    role: Role,
) -> Kind {
    Kind {
        group,
        kind,
        plural,
        versions,
        optional: true,
        role,
        name: None,
    }
}

const SECURITY: &str = "security.istio.io";
const ISTIO: &[&str] = &["v1", "v1beta1"];
const GATEWAY: &str = "gateway.networking.k8s.io";

/// Every kind that is watched.
pub static KINDS: [Kind; 16] = [
    builtin("", "Namespace", "namespaces", Role::Fact),
    builtin("", "Node", "nodes", Role::Fact),
    builtin("", "Pod", "pods", Role::Fact),
    builtin("", "Service", "services", Role::Fact),
    builtin("discovery.k8s.io", "EndpointSlice", "endpointslices", Role::Fact),
    builtin("", "ServiceAccount", "serviceaccounts", Role::Account),
    builtin("networking.k8s.io", "NetworkPolicy", "networkpolicies", Role::Kept),
    Kind {
        // The settings of an Istio mesh.
        name: Some("istio"),
        ..builtin("", "ConfigMap", "configmaps", Role::Kept)
    },
    custom(SECURITY, "PeerAuthentication", "peerauthentications", ISTIO, Role::Kept),
    custom(
        SECURITY,
        "AuthorizationPolicy",
        "authorizationpolicies",
        ISTIO,
        Role::Kept,
    ),
    custom(
        SECURITY,
        "RequestAuthentication",
        "requestauthentications",
        ISTIO,
        Role::Kept,
    ),
    custom(
        "networking.istio.io",
        "WorkloadEntry",
        "workloadentries",
        &["v1", "v1beta1", "v1alpha3"],
        Role::Fact,
    ),
    custom(GATEWAY, "HTTPRoute", "httproutes", &["v1", "v1beta1"], Role::Kept),
    custom(GATEWAY, "GRPCRoute", "grpcroutes", &["v1", "v1alpha2"], Role::Kept),
    custom(
        GATEWAY,
        "ReferenceGrant",
        "referencegrants",
        &["v1", "v1beta1"],
        Role::Kept,
    ),
    custom("squire.mesh", "MeshConfig", "meshconfigs", &["v1"], Role::Kept),
];

impl Kind {
    /// How the API server knows it in one version.
    pub(super) fn resource(&self, version: &str) -> ApiResource {
        let kind = GroupVersionKind::gvk(self.group, version, self.kind);
        ApiResource::from_gvk_with_plural(&kind, self.plural)
    }

    /// `plural.group`, as kubectl has it.
    #[must_use]
    pub fn label(&self) -> &'static str {
        self.plural
    }

    /// Its number in [`KINDS`].
    pub(super) fn index(&self) -> usize {
        // Every `Kind` is one of these.
        KINDS
            .iter()
            .position(|kind| std::ptr::eq(kind, self))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{facts, manifest::Object, tables::is_kept};

    #[test]
    fn every_kind_that_the_directory_reads_is_watched_and_no_other() {
        for kind in &KINDS {
            let api_version = match kind.group {
                "" => "v1".to_owned(),
                group => format!("{group}/{}", kind.versions[0]),
            };
            let value = serde_json::json!({
                "apiVersion": api_version, "kind": kind.kind, "metadata": {"name": kind.name.unwrap_or("x"), "namespace": "istio-system"},
                "data": {"mesh": ""},
            });
            let object = Object::from_value("", value).unwrap();
            assert_eq!(
                facts::is_fact(&api_version, kind.kind),
                kind.role == Role::Fact,
                "{}",
                kind.kind
            );
            assert_eq!(is_kept(&object), kind.role == Role::Kept, "{}", kind.kind);
        }
    }

    #[test]
    fn kinds_have_labels_and_numbers_of_their_own() {
        for (index, kind) in KINDS.iter().enumerate() {
            assert_eq!(kind.index(), index);
            assert!(KINDS.iter().filter(|other| other.label() == kind.label()).count() == 1);
        }
    }
}
