//! A gRPC application as applications write them (tonic on a port of its own), and a client of it.

use std::net::SocketAddr;

use squire_mesh::wire::squire::{
    ReportRequest, ReportResponse,
    report_service_client::ReportServiceClient,
    report_service_server::{ReportService, ReportServiceServer},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tonic::{
    Request, Response, Status,
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
    let endpoint = Endpoint::from_shared(format!("http://{to}"))?;
    let channel = in_time("the channel", endpoint.connect()).await?;
    Ok(ReportServiceClient::new(channel))
}

/// A report of this workload.
#[must_use]
pub fn report(workload: &str) -> ReportRequest {
    ReportRequest {
        workload: workload.into(),
        ..ReportRequest::default()
    }
}
