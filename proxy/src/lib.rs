//! The sidecar: it gives the workload beside it a cryptographic identity, speaks mutual TLS for it in both directions,
//! lets in only the peers that policy allows, and tells people what it saw. It knows no Kubernetes and signs nothing.

pub mod config;
