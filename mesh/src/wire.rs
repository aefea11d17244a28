//! The messages that cross a process boundary, as generated from `proto/`. They end at the door: every room turns them
//! into domain types with `TryFrom` before it uses them. No meaning lives here.

#![allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used)]

/// `istio.v1.auth`: the certificate signing service.
pub mod ca {
    tonic::include_proto!("istio.v1.auth");
}

/// `envoy.config.core.v3`: who is asking.
pub mod core {
    tonic::include_proto!("envoy.config.core.v3");
}

/// `google.rpc`: the reason of a NACK.
pub mod rpc {
    tonic::include_proto!("google.rpc");
}

/// `envoy.service.discovery.v3`: incremental xDS.
pub mod discovery {
    tonic::include_proto!("envoy.service.discovery.v3");
}

/// `squire.v1`: our own resources and reports.
pub mod squire {
    tonic::include_proto!("squire.v1");
}
