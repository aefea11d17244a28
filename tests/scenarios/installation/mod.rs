//! The mesh installed in a real cluster, as an admin does it: what `squire install` prints is applied with kubectl, and from
//! then on everything that happens is Kubernetes' doing. The API server admits, calls the webhook and reviews tokens, the
//! controllers make pods and endpoints, the scheduler places them, and the node runs them as they were admitted.
//!
//! Which hard case is shown where, on a real API server:
//!
//! | case | test |
//! |---|---|
//! | a whole life, applied twice, server-side, without residue | `life` |
//! | every probe kind, odd shapes, Windows, specs near the limits | `admission`, table in `cases` |
//! | `kubectl apply` twice and server-side apply of pods | `admission`, `life` |
//! | webhook down, our own pods and system namespaces | `admission` |
//! | certificate rotated under a stream of creations | `admission` |
//! | malformed and oversized reviews, callers without TLS 1.3 | `callers` |
//! | unauthorised callers of the webhook | `callers` |
//! | least privilege | `admission`; of the CA: `kubernetes/tokens`; with a kubeconfig: `kubernetes/reach` |
//! | RBAC removed while running | injector: `admission`; control plane: `kubernetes/survival` |
//! | namespace relabelled | meshed or not: `admission`; under policies: `kubernetes/survival` |
//! | 5,000 pods, 500 policies, churn, 1,000 proxies | `kubernetes/burst` |
//! | service account deleted, connections cut | `kubernetes/survival` |
//! | two pods of one account under a NetworkPolicy | `kubernetes/objects` |
//! | token of a deleted pod, audiences, no fallback | `kubernetes/tokens` |
//! | leader of three killed while it issues and pushes | `kubernetes/replicas` |
//! | restarts of the API server, 410, no flash of emptiness | `kubernetes/survival` |
//! | status conditions and Events; of routes | `kubernetes/objects` |
//! | log of the shared CA bounded, chain verifiable | `kubernetes/log` |
//! | wrong policies refused by schema and CEL | `kubernetes/schemas` |
#![allow(clippy::print_stderr, reason = "figures, for whoever runs it by hand")]

mod admission;
mod callers;
mod cases;
mod life;
mod probes;
mod world;
