//! CRDs of the kinds that the mesh reads and Kubernetes does not have, without a schema: what a policy means is not
//! the API server's business in these tests, and wrong ones must get in.

/// Group, kind, plural, versions (the stored one first).
const KINDS: [(&str, &str, &str, &[&str]); 8] = [
    (
        "security.istio.io",
        "PeerAuthentication",
        "peerauthentications",
        &["v1", "v1beta1"],
    ),
    (
        "security.istio.io",
        "AuthorizationPolicy",
        "authorizationpolicies",
        &["v1", "v1beta1"],
    ),
    (
        "security.istio.io",
        "RequestAuthentication",
        "requestauthentications",
        &["v1", "v1beta1"],
    ),
    (
        "networking.istio.io",
        "WorkloadEntry",
        "workloadentries",
        &["v1", "v1beta1"],
    ),
    (
        "gateway.networking.k8s.io",
        "HTTPRoute",
        "httproutes",
        &["v1", "v1beta1"],
    ),
    ("gateway.networking.k8s.io", "GRPCRoute", "grpcroutes", &["v1"]),
    (
        "gateway.networking.k8s.io",
        "ReferenceGrant",
        "referencegrants",
        &["v1beta1"],
    ),
    ("squire.mesh", "MeshConfig", "meshconfigs", &["v1"]),
];

/// The CRD of one kind, as YAML.
///
/// # Panics
/// When the mesh knows no such kind.
#[must_use]
pub fn crd(kind: &str) -> String {
    let known = KINDS.iter().find(|(_, known, ..)| *known == kind);
    let (group, kind, plural, versions) = known.unwrap_or_else(|| panic!("no kind of the mesh: {kind}"));
    let mut text = format!(
        "---\napiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata:\n  name: {plural}.{group}\n  \
         annotations: {{api-approved.kubernetes.io: 'unapproved, a test'}}\nspec:\n  group: {group}\n  scope: Namespaced\n  \
         names: {{kind: {kind}, listKind: {kind}List, plural: {plural}, singular: {}}}\n  versions:\n",
        kind.to_lowercase()
    );
    for (number, version) in versions.iter().enumerate() {
        text += &format!(
            "  - name: {version}\n    served: true\n    storage: {}\n    subresources: {{status: {{}}}}\n    schema: \
             {{openAPIV3Schema: {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}\n",
            number == 0
        );
    }
    text
}

/// The CRDs of all kinds, as YAML.
#[must_use]
pub fn crds() -> String {
    KINDS.iter().map(|(_, kind, ..)| crd(kind)).collect()
}
