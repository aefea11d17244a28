//! One stream: the subscriptions it opens with, and an ACK or a NACK for everything that comes. It ends with the first
//! error and never opens another.

use std::time::Duration;

use squire_mesh::wire::{
    core::Node,
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
    rpc,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::{
    channel::{Channel, ChannelError},
    config::Config,
    state::{Change, Kind, Store, Update},
    vitals::Vitals,
};

/// From the request to the server's headers.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Answers under way: the opening subscriptions, and a few more.
const ANSWERS: usize = 16;
/// A first push of 100,000 workloads in one message has room.
const MAX_MESSAGE: usize = 256 << 20;

/// How a stream ends without an error.
pub(super) enum End {
    /// There is a newer SVID to open the next one with.
    Handover,
    /// An update was refused a while ago: what was in it is asked for again.
    Again,
}

/// Why a stream could not be opened, or has ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    /// No connection.
    #[error("the control plane at {0}")]
    Channel(#[from] ChannelError),
    /// The control plane did not take the stream.
    #[error("the control plane at {address} refused the stream: {:?} ({:?}); {advice}", status.message(), status.code())]
    Refused {
        /// Where.
        address: String,
        /// Its words.
        status: Status,
        /// What to do.
        advice: &'static str,
    },
    /// It did not answer.
    #[error("the control plane at {0} did not answer within {OPEN_TIMEOUT:?}; check its load")]
    Timeout(String),
    /// The stream broke.
    #[error("the stream broke: {:?} ({:?})", .0.message(), .0.code())]
    Broken(Status),
    /// The stream was closed.
    #[error("the control plane closed the stream")]
    Closed,
}

/// An open stream.
pub(super) struct Stream {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl StreamError {
    /// There was no stream at all.
    pub(super) fn failed_to_open(&self) -> bool {
        match self {
            Self::Channel(_) | Self::Refused { .. } | Self::Timeout(_) => true,
            Self::Broken(_) | Self::Closed => false,
        }
    }
}

impl Stream {
    /// Opens it and subscribes to every kind, saying what is already held.
    pub(super) async fn open(channel: Channel, store: &Store, config: &Config) -> Result<Self, StreamError> {
        let (requests, receiver) = mpsc::channel(ANSWERS);
        for subscription in subscriptions(store, config) {
            // There is room: fewer kinds than answers.
            let _ = requests.try_send(subscription);
        }
        let origin = channel.origin();
        let mut client =
            AggregatedDiscoveryServiceClient::with_origin(channel, origin).max_decoding_message_size(MAX_MESSAGE);
        let address = || config.control.address.to_string();
        match timeout(
            OPEN_TIMEOUT,
            client.delta_aggregated_resources(ReceiverStream::new(receiver)),
        )
        .await
        {
            Ok(Ok(response)) => Ok(Self {
                requests,
                responses: response.into_inner(),
            }),
            Ok(Err(status)) => Err(StreamError::Refused {
                address: address(),
                advice: advice(status.code()),
                status,
            }),
            Err(_) => Err(StreamError::Timeout(address())),
        }
    }

    /// The next message. Safe to drop while waiting.
    pub(super) async fn next(&mut self) -> Result<DeltaDiscoveryResponse, StreamError> {
        self.responses
            .message()
            .await
            .map_err(StreamError::Broken)?
            .ok_or(StreamError::Closed)
    }

    /// Asks for workloads.
    pub(super) async fn subscribe(&mut self, names: Vec<String>) -> Result<(), StreamError> {
        let request = DeltaDiscoveryRequest {
            resource_names_subscribe: names,
            ..DeltaDiscoveryRequest::default()
        };
        self.ask(request).await
    }

    /// Asks for them no more.
    pub(super) async fn unsubscribe(&mut self, names: Vec<String>) -> Result<(), StreamError> {
        let request = DeltaDiscoveryRequest {
            resource_names_unsubscribe: names,
            ..DeltaDiscoveryRequest::default()
        };
        self.ask(request).await
    }

    async fn ask(&mut self, mut request: DeltaDiscoveryRequest) -> Result<(), StreamError> {
        if request.resource_names_subscribe.is_empty() && request.resource_names_unsubscribe.is_empty() {
            return Ok(());
        }
        Kind::Workload.type_url().clone_into(&mut request.type_url);
        self.requests.send(request).await.map_err(|_| StreamError::Closed)
    }

    /// Applies a message and acknowledges it, or refuses it with the reason. Says whether it was applied.
    pub(super) async fn answer(
        &mut self,
        response: DeltaDiscoveryResponse,
        store: &mut Store,
        vitals: &Vitals,
    ) -> Result<bool, StreamError> {
        let (type_url, nonce) = (response.type_url.clone(), response.nonce.clone());
        let error_detail = match Kind::of_type_url(&type_url) {
            None => Some(format!("this proxy did not subscribe to {type_url:?}")),
            Some(kind) => {
                let applied = store.apply(update(kind, response));
                vitals.updated(kind, applied.is_ok());
                applied.err().map(|refused| refused.to_string())
            }
        };
        if let Some(reason) = &error_detail {
            tracing::error!(
                reason,
                "an update from the control plane was refused, the last good state stays"
            );
        }
        let applied = error_detail.is_none();
        let request = DeltaDiscoveryRequest {
            type_url,
            response_nonce: nonce,
            error_detail: error_detail.map(|message| rpc::Status {
                code: Code::InvalidArgument.into(),
                message,
                details: Vec::new(),
            }),
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(request).await.map_err(|_| StreamError::Closed)?;
        Ok(applied)
    }
}

/// The first request of each kind; the very first one says who is asking.
fn subscriptions<'a>(store: &'a Store, config: &Config) -> impl Iterator<Item = DeltaDiscoveryRequest> + 'a {
    let mut node = Some(Node {
        id: config.workload.to_string(),
        cluster: config.trust_domain.to_string(),
        user_agent_name: "squire-proxy".to_owned(),
        user_agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        ..Node::default()
    });
    Kind::ALL.into_iter().map(move |kind| DeltaDiscoveryRequest {
        node: node.take(),
        type_url: kind.type_url().to_owned(),
        resource_names_subscribe: store.subscription(kind),
        initial_resource_versions: store.held(kind).collect(),
        ..DeltaDiscoveryRequest::default()
    })
}

fn update(kind: Kind, response: DeltaDiscoveryResponse) -> Update {
    let change = |resource: squire_mesh::wire::discovery::Resource| Change {
        name: resource.name,
        version: resource.version,
        resource: resource.resource,
    };
    Update {
        kind,
        version: response.system_version_info,
        changed: response.resources.into_iter().map(change).collect(),
        removed: response.removed_resources,
    }
}

fn advice(code: Code) -> &'static str {
    match code {
        Code::Unauthenticated | Code::PermissionDenied => {
            "check that the workload in the configuration belongs to the identity of this proxy's SVID"
        }
        Code::NotFound => "check the workload in the configuration",
        _ => "see the control plane's log",
    }
}
