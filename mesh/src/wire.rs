//! The messages that cross a process boundary, as generated from `proto/`. They end at the door: every room turns them
//! into domain types with `TryFrom` before it uses them. No meaning lives here.

use std::time::Duration;

/// The generated modules, nested as their protobuf packages are.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/wire.rs"));
}

/// `envoy.config.core.v3`: who is asking.
pub use generated::envoy::config::core::v3 as core;
/// `envoy.service.auth.v3`: external authorization.
pub use generated::envoy::service::auth::v3 as auth;
/// `envoy.service.discovery.v3`: incremental xDS.
pub use generated::envoy::service::discovery::v3 as discovery;
/// `envoy.type.v3`: an HTTP status.
pub use generated::envoy::r#type::v3 as http_status;
/// `google.rpc`: the reason of a NACK.
pub use generated::google::rpc;
/// `grpc.health.v1`: what a kubelet asks of a gRPC server.
pub use generated::grpc::health::v1 as health;
/// `istio.v1.auth`: the certificate signing service.
pub use generated::istio::v1::auth as ca;
/// `squire.v1`: our own resources and reports.
pub use generated::squire::v1 as squire;

/// How durations are written.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The SPIFFE Workload API, whose messages are in no package.
pub mod workload_api {
    pub use super::generated::{
        JwtBundlesRequest, JwtBundlesResponse, Jwtsvid as JwtSvid, JwtsvidRequest as JwtSvidRequest,
        JwtsvidResponse as JwtSvidResponse, ValidateJwtsvidRequest, ValidateJwtsvidResponse, X509BundlesRequest,
        X509BundlesResponse, X509svid as X509Svid, X509svidRequest as X509SvidRequest,
        X509svidResponse as X509SvidResponse, spiffe_workload_api_client, spiffe_workload_api_server,
    };
}
