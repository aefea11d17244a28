//! Names and numbers that more than one process must agree on: ports, ALPN protocols, annotations, type URLs. No logic.

/// Outbound listener of a sidecar: connections the application opens are redirected here.
pub const OUTBOUND: u16 = 15001;
/// Inbound listener of a sidecar: connections to the pod are redirected here.
pub const INBOUND: u16 = 15006;
/// Admin endpoint of a sidecar: `/metrics /ready /live /connections /config`.
pub const ADMIN: u16 = 15020;
/// The control plane's mTLS gRPC port: issuing, xDS, reports.
pub const CONTROL: u16 = 15012;
/// The control plane's admin endpoint.
pub const CONTROL_ADMIN: u16 = 15014;
/// The admission webhook.
pub const WEBHOOK: u16 = 15017;
/// The user the sidecar runs as; its own connections pass the redirection.
pub const PROXY_UID: u32 = 2102;

/// Mesh protocol between squires: application connections, one after another, in light frames.
pub const ALPN_SQUIRE: &[u8] = b"squire/1";
/// Plain bytes after the handshake, for SPIFFE peers that are not squires.
pub const ALPN_SPIFFE_TLS: &[u8] = b"squire-tls/1";

/// How a workload is reached: `squire`, `spiffe-tls` or `plaintext` (label or annotation).
pub const TRANSPORT: &str = "squire.mesh/transport";
/// Set to `true` on pods that carry a sidecar.
pub const INJECTED: &str = "squire.mesh/injected";

/// On a namespace, as a label: its pods get sidecars (`true`). On a pod, as an annotation or label: this one gets none
/// (`false`).
pub const INJECT: &str = "squire.mesh/inject";
/// Why a pod of a meshed namespace was left without a sidecar; written by the injector.
pub const SKIPPED: &str = "squire.mesh/skipped";
/// The kind of object that made a pod (`Deployment`, `Job`, …); a label written by the injector.
pub const OWNER_KIND: &str = "squire.mesh/owner-kind";
/// Name of the sidecar's container.
pub const PROXY_CONTAINER: &str = "squire-proxy";
/// Name of the init container that leads connections through the sidecar.
pub const REDIRECT_CONTAINER: &str = "squire-redirect";

/// Set to `true` on pods whose application is to have the SPIFFE Workload API.
pub const WORKLOAD_API: &str = "squire.mesh/workload-api";
/// Its socket in such a pod.
pub const WORKLOAD_API_SOCKET: &str = "/run/squire/workload-api/agent.sock";
/// Tells SPIFFE clients where the socket is: `unix://` and its path.
pub const WORKLOAD_API_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";
/// Trust domain of a workload of another mesh (annotation of a WorkloadEntry).
pub const TRUST_DOMAIN: &str = "squire.mesh/trust-domain";

/// Namespace of the control plane, unless configured otherwise.
pub const SYSTEM_NAMESPACE: &str = "squire-system";
/// Service account of the control plane.
pub const CONTROL_ACCOUNT: &str = "squire-control";
/// Service account, and Service, of the admission webhook.
pub const INJECTOR_ACCOUNT: &str = "squire-injector";
/// ConfigMap with the mesh's roots, in every meshed namespace and in the control plane's own.
pub const BUNDLE_CONFIG_MAP: &str = "squire-trust-bundle";
/// Its key: PEM certificates.
pub const BUNDLE_KEY: &str = "root.pem";
/// Audience that tokens presented to the CA must name.
pub const CA_AUDIENCE: &str = "squire-ca";

/// Field of a certificate request's metadata: which workload its sender stands beside.
pub const CA_METADATA_WORKLOAD: &str = "workload";

/// xDS type of `squire.v1.Workload`.
pub const TYPE_WORKLOAD: &str = "type.googleapis.com/squire.v1.Workload";
/// xDS type of `squire.v1.Service`.
pub const TYPE_SERVICE: &str = "type.googleapis.com/squire.v1.Service";
/// xDS type of `squire.v1.Policy`.
pub const TYPE_POLICY: &str = "type.googleapis.com/squire.v1.Policy";
/// xDS type of `squire.v1.TrustBundle`.
pub const TYPE_TRUST_BUNDLE: &str = "type.googleapis.com/squire.v1.TrustBundle";
/// xDS type of `squire.v1.Revocation`.
pub const TYPE_REVOCATION: &str = "type.googleapis.com/squire.v1.Revocation";
/// Resource name of the one `squire.v1.Revocation`.
pub const REVOCATIONS: &str = "revocations";
