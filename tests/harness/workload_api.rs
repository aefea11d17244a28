//! The Workload API of a sidecar as clients see it that we did not write: the Rust `spiffe` crate, the Python package, and a
//! bare gRPC client that may leave out what a good one says.

use std::{
    env,
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response, Uri};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use spiffe::WorkloadApiClient;
use squire_mesh::wire::workload_api::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use tokio::{net::UnixStream, process::Command};
use tonic::body::Body;
use tower_service::Service;

use crate::{Mesh, Pod, wait::in_time};

/// Where the tests' Python finds its `spiffe` package; `tests/run` sees to that.
const PYTHON: &str = "SQUIRE_TEST_PYTHONPATH";

impl Pod<'_> {
    /// With the Workload API; its socket is [`socket`].
    #[must_use]
    pub fn workload_api(self) -> Self {
        let setting = format!("workloadApi.socket={}", socket(self.mesh(), self.name()).display());
        self.set(&setting)
    }
}

/// The socket of a pod's Workload API.
#[must_use]
pub fn socket(mesh: &Mesh, pod: &str) -> PathBuf {
    mesh.dir().join(format!("{pod}.sock"))
}

/// The Rust `spiffe` crate's client.
pub async fn client(socket: &Path) -> WorkloadApiClient {
    let endpoint = format!("unix:{}", socket.display());
    in_time("a client connects", WorkloadApiClient::connect_to(endpoint))
        .await
        .unwrap()
}

/// A gRPC client that sends no header of its own.
///
/// # Errors
/// When the socket lets nobody in.
pub async fn bare(socket: &Path) -> std::io::Result<SpiffeWorkloadApiClient<Channel>> {
    let stream = UnixStream::connect(socket).await?;
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (send, connection) = handshake.map_err(std::io::Error::other)?;
    tokio::spawn(connection);
    let origin = Uri::from_static("http://localhost/");
    Ok(SpiffeWorkloadApiClient::with_origin(Channel(send), origin))
}

/// Runs a program for the Python `spiffe` package; it prints one JSON document.
pub async fn python(program: &str, arguments: &[&str]) -> Value {
    let packages = env::var(PYTHON).unwrap_or_else(|_| panic!("{PYTHON} is not set: use tests/run"));
    let mut command = Command::new("python3");
    command
        .env("PYTHONPATH", packages)
        .args(["-c", program])
        .args(arguments);
    let output = in_time("the Python client ends", command.output()).await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// One connection.
#[derive(Debug)]
pub struct Channel(http2::SendRequest<Body>);

impl Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
