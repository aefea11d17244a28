//! The mesh installed in a real cluster, as an admin does it: what `squire install` prints is applied with kubectl, and from
//! then on everything that happens is Kubernetes' doing. The API server admits, calls the webhook and reviews tokens, the
//! controllers make pods and endpoints, the scheduler places them, and the node runs them as they were admitted.
//!
//! Which statement of Kubernetes' issue is shown where (files of `tests/scenarios/` unless another room is named):
//!
//! | what must exist | test |
//! |---|---|
//! | a real API server, RBAC, TokenRequest, CRDs, `KUBEBUILDER_ASSETS` | all of these; `tests/harness/kubernetes/programs` |
//! | objects of every kind followed, enforced, status and Event | `kubernetes/objects` |
//! | nodes as sources of probes | `kubernetes/objects` (a pod's own node) |
//! | CRDs that come later; only what a change concerns compiled | `kubernetes/objects` |
//! | relists without a flash, 410, restarts, rights withdrawn | `kubernetes/survival` |
//! | CA in a Secret, one leader, three replicas, leader killed | `kubernetes/replicas`; in a rotation: `kubernetes/rotation` |
//! | TokenReview: audience, bound pod, review alone | `kubernetes/tokens` |
//! | webhook's certificate from our CA, renewed, `caBundle` | `certificates`; when: `injector/src/certificate` |
//! | sidecar, redirection, security context, volumes, resources | `injector/src/inject/tests`; as admitted and run: `life` |
//! | probes rewritten: as admitted `cases`, as asked | `probes` (each kind, with a sidecar and without) |
//! | annotations, their denials | `injector/src/annotations`, `cases` |
//! | by label, opt-out, skipped with the reason, gaps | `admission` |
//! | idempotent, reinvoked, clusters too old | `injector/src/inject/tests`; applied twice: `admission` |
//! | Jobs and CronJobs complete, owner kinds | `life` |
//! | install: typed, deterministic, least privilege, policies, budgets | `deploy/src/tests`; on the API server: `life`, `admission` |
//! | CRDs with schemas and CEL | `kubernetes/schemas` |
//! | `squire check`, all well; and what to do | `life`; `admission`, `deploy/src/check` |
//! | `squire inject -f` | `admission` (the same as the webhook's) |
//! | images from nothing but their program | `life` (by runc), `deploy/src/tests` (Containerfile) |
//! | PodMonitor and scrape annotations | `deploy/src/tests`, `injector/src/inject/tests` |
//! | `connections`, `policy why`, `ca status` by port-forward | `kubernetes/reach` |
//!
//! | hard case | test |
//! |---|---|
//! | every probe kind, odd shapes, Windows, specs near the limits | `cases` |
//! | `kubectl apply` twice and server-side | pods: `admission`; the installation, Deployments: `life` |
//! | webhook down, our own pods and system namespaces | `admission` |
//! | certificate rotated under a stream of creations | `certificates` |
//! | malformed and oversized reviews, callers without TLS 1.3 | `callers` |
//! | unauthorised callers | webhook: `callers`; CA: `kubernetes/tokens`; kubeconfig: `kubernetes/reach`; roles: `admission` |
//! | RBAC removed while running | injector: `admission`; control plane: `kubernetes/survival` |
//! | 5,000 pods, 500 policies, churn, 1,000 proxies | `kubernetes/burst` (`SQUIRE_BURST=full`) |
//! | namespace relabelled | meshed or not: `admission`; under policies: `kubernetes/survival` |
//! | service account deleted, connections cut | `kubernetes/survival` |
//! | two pods of one account under a NetworkPolicy | `kubernetes/objects` |
//! | token of a deleted pod | `kubernetes/tokens` |
//! | log of the shared CA bounded, status of routes | `kubernetes/log`, `kubernetes/objects` |
//!
//! | what it must reach | test |
//! |---|---|
//! | policy at 1,000 proxies within 1 s, 150 MiB | `kubernetes/burst` (`SQUIRE_BURST=full`) |
//! | injection p99 within 20 ms | `admission` (`SQUIRE_BENCH=1`) |
//! | install to ready within 30 s | `life` |
//! | a whole life, without residue | `life` |
#![allow(clippy::print_stderr, reason = "figures, for whoever runs it by hand")]

mod admission;
mod callers;
mod cases;
mod certificates;
mod life;
mod probes;
mod world;
