//! A gRPC application as applications write them (tonic on a port of its own), and a client of it.

use std::net::SocketAddr;

use squire_mesh::wire::squire::{
    ReportRequest, ReportResponse,
    report_service_client::ReportServiceClient,
    report_service_server::{ReportService, ReportServiceServer},
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Channel, Endpoint, Server, server::TcpIncoming},
};

use crate::{Listens, in_time};

/// The application; it ends when it is dropped.
#[derive(Debug)]
pub struct GrpcApp {
    address: SocketAddr,
    task: JoinHandle<()>,
}

struct Reports;

#[tonic::async_trait]
impl ReportService for Reports {
    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportResponse>, Status> {
        match &*request.get_ref().workload {
            "unknown" => Err(Status::not_found("no such workload")),
            _ => Ok(Response::new(ReportResponse::default())),
        }
    }
}

impl GrpcApp {
    /// Starts one that knows every workload but `unknown`.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let server = Server::builder().add_service(ReportServiceServer::new(Reports));
            // It ends with the test.
            let _ = server.serve_with_incoming(TcpIncoming::from(listener)).await;
        });
        Self { address, task }
    }
}

impl Listens for GrpcApp {
    fn listens_at(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for GrpcApp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A client on a connection of its own.
///
/// # Errors
/// When nobody is there.
pub async fn connect(to: SocketAddr) -> Result<ReportServiceClient<Channel>, tonic::transport::Error> {
    channel(to).await.map(ReportServiceClient::new)
}

/// A connection for calls of any kind.
///
/// # Errors
/// When nobody is there.
pub async fn channel(to: SocketAddr) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{to}"))?;
    in_time("the channel", endpoint.connect()).await
}

/// Calls `/service/method` with these fields, where the answer is what was sent, as of an application that echoes.
///
/// # Errors
/// The status, if it is another than OK.
pub async fn call(
    channel: &Channel,
    path: &'static str,
    fields: &[(&'static str, &'static str)],
) -> Result<Response<ReportRequest>, Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client
        .ready()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let mut request = Request::new(report("shop/web"));
    for (name, value) in fields {
        request.metadata_mut().insert(*name, value.parse().unwrap());
    }
    let codec = tonic_prost::ProstCodec::<ReportRequest, ReportRequest>::default();
    let path = http::uri::PathAndQuery::from_static(path);
    in_time("an answer", client.unary(request, path, codec)).await
}

/// Opens a stream of messages each way with `/service/method` of an application that echoes: what to send with, and what
/// comes back.
///
/// # Errors
/// The status, if it is another than OK.
pub async fn stream(
    channel: &Channel,
    path: &'static str,
) -> Result<(mpsc::Sender<ReportRequest>, Streaming<ReportRequest>), Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client
        .ready()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let (sender, messages) = mpsc::channel(8);
    let codec = tonic_prost::ProstCodec::<ReportRequest, ReportRequest>::default();
    let path = http::uri::PathAndQuery::from_static(path);
    let request = Request::new(ReceiverStream::new(messages));
    let answer = in_time("a head", client.streaming(request, path, codec)).await?;
    Ok((sender, answer.into_inner()))
}

/// A report of this workload.
#[must_use]
pub fn report(workload: &str) -> ReportRequest {
    ReportRequest {
        workload: workload.into(),
        ..ReportRequest::default()
    }
}
