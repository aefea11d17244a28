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
use squire_mesh::{
    svid::Revocations,
    wire::discovery::{DeltaDiscoveryRequest, aggregated_discovery_service_server::SERVICE_NAME},
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    Request, Status, Streaming,
    body::Body,
    server::{Grpc, NamedService, StreamingService},
};
use tower_service::Service;

use super::{
    Catalog, Fleet, Kind,
    codec::{DiscoveryCodec, Response},
    stream::{self, Shared},
};
use crate::{metrics::Metrics, peer};

/// Largest request: a proxy that reconnects names every resource it holds.
const MAX_REQUEST: usize = 16 * 1024 * 1024;
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

    /// The tasks of all streams; they end with their stream.
    pub fn streams(&self) -> &TaskTracker {
        &self.streams
    }
}

type Started<T> = Pin<Box<dyn Future<Output = Result<T, Status>> + Send>>;

/// The one method, for tonic to call.
struct Streams(Ads);

impl StreamingService<DeltaDiscoveryRequest> for Streams {
    type Response = Response;
    type ResponseStream = ReceiverStream<Result<Response, Status>>;
    type Future = Started<tonic::Response<Self::ResponseStream>>;

    fn call(&mut self, request: Request<Streaming<DeltaDiscoveryRequest>>) -> Self::Future {
        let (shared, streams) = (self.0.shared.clone(), self.0.streams.clone());
        Box::pin(async move {
            let (address, peer) = peer::required(&request)?;
            // One response of each kind, and the end.
            let (sender, receiver) = mpsc::channel(Kind::ALL.len() + 1);
            streams.spawn(stream::serve(shared, peer, address, request.into_inner(), sender));
            Ok(tonic::Response::new(ReceiverStream::new(receiver)))
        })
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
            let mut grpc = Grpc::new(DiscoveryCodec).apply_max_message_size_config(Some(MAX_REQUEST), None);
            Ok(grpc.streaming(Streams(this), request).await)
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
