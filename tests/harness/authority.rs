//! A client of the CA's issuing service (`istio.v1.auth`), as any tool that speaks Istio's API would be: over TLS, with a
//! bearer token, an SVID, or nothing to show.

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response, Uri};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use squire_mesh::wire::ca::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient};
use tonic::{Status, body::Body};
use tower_service::Service;

use crate::{Mesh, forge::Shown, tls};

/// Who asks, and how it proves it.
#[derive(Debug, Default, Clone, Copy)]
pub struct Proof<'a> {
    /// Sent as `authorization: Bearer …`.
    pub token: Option<&'a str>,
    /// Shown in the TLS handshake.
    pub svid: Option<&'a Shown>,
}

/// Asks the CA of a mesh to sign a request (PEM); the chain it answers with, as PEM texts.
///
/// # Errors
/// What the CA answers.
pub async fn ask(mesh: &Mesh, csr: &str, proof: Proof<'_>) -> Result<Vec<String>, Status> {
    ask_at(mesh.grpc(), csr, proof).await
}

/// As [`ask`], of the control plane at an address.
///
/// # Errors
/// What the CA answers.
pub async fn ask_at(address: SocketAddr, csr: &str, proof: Proof<'_>) -> Result<Vec<String>, Status> {
    let (channel, origin, _connection) = open(address, proof.svid).await?;
    let mut client = IstioCertificateServiceClient::with_origin(channel, origin);
    let mut request = tonic::Request::new(IstioCertificateRequest {
        csr: csr.to_owned(),
        validity_duration: 3600,
        metadata: None,
    });
    if let Some(token) = proof.token {
        let bearer = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
    }
    let answer = client.create_certificate(request).await;
    Ok(answer?.into_inner().cert_chain)
}

/// A connection to a control plane, with an SVID or without; it ends when its last part is dropped.
///
/// # Errors
/// When it cannot be opened.
pub async fn open(address: SocketAddr, svid: Option<&Shown>) -> Result<(Channel, Uri, Driver), Status> {
    let stream = tls::connect(address, tls::client(svid, &[b"h2"]))
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (send, connection) = handshake.map_err(|error| Status::unavailable(error.to_string()))?;
    let driver = tokio::spawn(async move {
        // How it ends, whoever speaks on it sees.
        let _ = connection.await;
    });
    let origin: Uri = format!("https://{address}/").parse().unwrap();
    Ok((Channel(send), origin, Driver(driver)))
}

/// Drives a connection; ends it when it is dropped.
#[derive(Debug)]
pub struct Driver(tokio::task::JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What gRPC clients speak through.
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
