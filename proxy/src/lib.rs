//! The sidecar: it gives the workload beside it a cryptographic identity, speaks mutual TLS for it in both directions,
//! lets in only the peers that policy allows, and tells people what it saw. It knows no Kubernetes and signs nothing.

pub mod admin;
pub mod backoff;
pub mod channel;
pub mod config;
pub mod identity;
pub mod logging;
pub mod readiness;
pub mod report;
pub mod roots;
pub mod shutdown;
pub mod state;
pub mod vitals;
pub mod xds;
