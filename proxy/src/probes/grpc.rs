//! A probe over gRPC: `grpc.health.v1.Health/Check`, in plaintext as a kubelet asks it.

use std::net::SocketAddr;

use http::StatusCode;
use squire_mesh::wire::health::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{ProbeError, connect};
use crate::channel::Channel;

/// 200 when the service serves.
pub(super) async fn check(address: SocketAddr, service: &str) -> Result<StatusCode, ProbeError> {
    let failed = |why: String| ProbeError::Grpc(address, why);
    let stream = connect(address).await?;
    let channel = Channel::over(stream, "http", &address.to_string()).await;
    let channel = channel.map_err(|error| failed(error.to_string()))?;
    let origin = channel.origin();
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let answer = HealthClient::with_origin(channel, origin).check(request).await;
    let answer = answer.map_err(|status| failed(format!("{:?} {}", status.code(), status.message())))?;
    match answer.get_ref().status() {
        ServingStatus::Serving => Ok(StatusCode::OK),
        other => Err(failed(format!("the service {service:?} is {}", other.as_str_name()))),
    }
}
