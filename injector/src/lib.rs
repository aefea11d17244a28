//! The admission webhook and, at its heart, the pure function from a Pod to a patched Pod: redirect init container,
//! native sidecar, projected token, rewritten probes. It decides no policy and signs nothing.
//!
//! This room holds what the two sides already agree on (ports, the proxy's uid and the annotations are in
//! [`squire_mesh::ports`]); the function and the webhook come with the Kubernetes work.

pub use squire_mesh::ports::{INJECTED, PROXY_UID, WEBHOOK};
