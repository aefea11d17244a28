//! `envoy.service.discovery.v3.AggregatedDiscoveryService`, the incremental method only. It lets in whoever has proved
//! an identity, and hands the stream to a task of its own.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderValue, header};
use squire_mesh::{svid::Revocations, wire::discovery::aggregated_discovery_service_server::SERVICE_NAME};
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Status, body::Body, server::NamedService};
use tower_service::Service;

use super::{
    Catalog, Fleet, Kind,
    codec::{Requests, Responses},
    stream::{self, Shared},
};
use crate::{metrics::Metrics, peer};

const METHOD: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// The discovery service.
#[derive(Clone, Debug)]
pub struct Ads {
    shared: Shared,
    streams: TaskTracker,
}

impl Ads {
    /// Serves what is in `catalog`; streams end when `stop` is cancelled.
    pub fn new(
        catalog: Arc<Catalog>,
        fleet: Arc<Fleet>,
        metrics: Metrics,
        revocations: watch::Receiver<Arc<Revocations>>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            shared: Shared {
                catalog,
                fleet,
                metrics,
                revocations,
                stop,
            },
            streams: TaskTracker::new(),
        }
    }

    /// Starts a stream; its task ends with it.
    fn open(&self, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        let request = Request::from_http(request);
        let (address, peer) = peer::required(&request)?;
        // One response of each kind, and the end.
        let (sender, receiver) = mpsc::channel(Kind::ALL.len() + 1);
        let requests = Requests::of(request.into_inner());
        let stream = stream::serve(self.shared.clone(), peer, address, requests, sender);
        self.streams.spawn(stream);
        let mut response = http::Response::new(Responses::body(receiver));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, tonic::metadata::GRPC_CONTENT_TYPE);
        Ok(response)
    }

    /// The tasks of all streams; they end with their stream.
    pub fn streams(&self) -> &TaskTracker {
        &self.streams
    }
}

impl Service<http::Request<Body>> for Ads {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            if request.uri().path() != METHOD {
                return Ok(unimplemented());
            }
            Ok(this.open(request).unwrap_or_else(Status::into_http))
        })
    }
}

impl NamedService for Ads {
    const NAME: &'static str = SERVICE_NAME;
}

/// State-of-the-world discovery and whatever else this service may have elsewhere.
fn unimplemented() -> http::Response<Body> {
    let mut response = http::Response::new(Body::default());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, tonic::metadata::GRPC_CONTENT_TYPE);
    response.headers_mut().insert(
        Status::GRPC_STATUS,
        HeaderValue::from(tonic::Code::Unimplemented as i32),
    );
    let hint = HeaderValue::from_static("only DeltaAggregatedResources is served");
    response.headers_mut().insert(Status::GRPC_MESSAGE, hint);
    response
}
