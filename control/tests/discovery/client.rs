//! A client of the incremental discovery protocol, as a proxy would be one.

use std::{collections::BTreeMap, time::Duration};

use squire_mesh::{
    tls::Svid,
    wire::{
        core::Node,
        discovery::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse,
            aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
        rpc,
        squire::{ReportRequest, report_service_client::ReportServiceClient},
    },
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

pub(crate) use squire_mesh::ports::{
    TYPE_POLICY as POLICY, TYPE_REVOCATION as REVOCATION, TYPE_SERVICE as SERVICE, TYPE_TRUST_BUNDLE as TRUST_BUNDLE,
    TYPE_WORKLOAD as WORKLOAD,
};

/// Nothing takes that long: a wait that does is a failure.
const PATIENCE: Duration = Duration::from_secs(20);

/// A response.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) kind: String,
    pub(crate) removed: Vec<String>,
    nonce: String,
    resources: BTreeMap<String, String>,
}

impl Seen {
    /// The resources in it.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.resources.keys().map(String::as_str).collect()
    }

    /// Their versions, as a proxy would name them when it comes back.
    pub(crate) fn versions(&self) -> BTreeMap<String, String> {
        self.resources.clone()
    }
}

impl From<DeltaDiscoveryResponse> for Seen {
    fn from(response: DeltaDiscoveryResponse) -> Self {
        for resource in &response.resources {
            assert_eq!(resource.resource.as_ref().unwrap().type_url, response.type_url);
        }
        Self {
            kind: response.type_url,
            removed: response.removed_resources,
            nonce: response.nonce,
            resources: response
                .resources
                .into_iter()
                .map(|each| (each.name, each.version))
                .collect(),
        }
    }
}

/// One discovery stream.
pub(crate) struct Client {
    pub(crate) svid: Svid,
    node: String,
    channel: Channel,
    send: mpsc::Sender<DeltaDiscoveryRequest>,
    receive: Streaming<DeltaDiscoveryResponse>,
    introduced: bool,
}

impl Client {
    pub(crate) async fn open(channel: Channel, svid: Svid, node: &str) -> Result<Self, Status> {
        let (send, requests) = mpsc::channel(16);
        let mut discovery = AggregatedDiscoveryServiceClient::new(channel.clone());
        let receive = discovery
            .delta_aggregated_resources(ReceiverStream::new(requests))
            .await?
            .into_inner();
        Ok(Self {
            svid,
            node: node.to_owned(),
            channel,
            send,
            receive,
            introduced: false,
        })
    }

    async fn request(&mut self, mut request: DeltaDiscoveryRequest) {
        if !std::mem::replace(&mut self.introduced, true) {
            request.node = Some(Node {
                id: self.node.clone(),
                ..Default::default()
            });
        }
        // A stream that has ended says why when it is read.
        self.send.send(request).await.ok();
    }

    pub(crate) async fn subscribe(&mut self, kind: &str, names: &[&str]) {
        self.resume(kind, names, BTreeMap::new()).await;
    }

    pub(crate) async fn resume(&mut self, kind: &str, names: &[&str], held: BTreeMap<String, String>) {
        let request = DeltaDiscoveryRequest {
            type_url: kind.to_owned(),
            resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
            initial_resource_versions: held,
            ..Default::default()
        };
        self.request(request).await;
    }

    pub(crate) async fn unsubscribe(&mut self, kind: &str, names: &[&str]) {
        let resource_names_unsubscribe = names.iter().map(ToString::to_string).collect();
        let request = DeltaDiscoveryRequest {
            type_url: kind.to_owned(),
            resource_names_unsubscribe,
            ..Default::default()
        };
        self.request(request).await;
    }

    pub(crate) async fn ack(&mut self, seen: &Seen) {
        let request = DeltaDiscoveryRequest {
            type_url: seen.kind.clone(),
            response_nonce: seen.nonce.clone(),
            ..Default::default()
        };
        self.request(request).await;
    }

    pub(crate) async fn nack(&mut self, seen: &Seen, why: &str) {
        let request = DeltaDiscoveryRequest {
            type_url: seen.kind.clone(),
            response_nonce: seen.nonce.clone(),
            error_detail: Some(rpc::Status {
                code: 3,
                message: why.to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        };
        self.request(request).await;
    }

    /// Subscribes, waits for the first answer and acknowledges it.
    pub(crate) async fn follow(&mut self, kind: &str, names: &[&str]) -> Seen {
        self.subscribe(kind, names).await;
        let seen = self.follow_next().await;
        assert_eq!(seen.kind, kind);
        seen
    }

    /// The next response, acknowledged.
    pub(crate) async fn follow_next(&mut self) -> Seen {
        let seen = self.next().await;
        self.ack(&seen).await;
        seen
    }

    pub(crate) async fn next(&mut self) -> Seen {
        let message = timeout(PATIENCE, self.receive.message())
            .await
            .expect("a response in time");
        message
            .expect("a stream in order")
            .expect("a stream that goes on")
            .into()
    }

    /// Reads until the stream ends.
    pub(crate) async fn end(&mut self) -> Status {
        loop {
            match timeout(PATIENCE, self.receive.message()).await.expect("an end in time") {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok(""),
                Err(status) => return status,
            }
        }
    }

    pub(crate) async fn report(&self, admin_address: &str) -> Result<(), Status> {
        let report = ReportRequest {
            workload: self.node.clone(),
            admin_address: admin_address.to_owned(),
            ..Default::default()
        };
        ReportServiceClient::new(self.channel.clone())
            .report(report)
            .await
            .map(drop)
    }
}
