//! One simulated proxy: everything of a sidecar that faces the control plane, and nothing of its data path. Identity, renewal, trust and reports
//! are the sidecar's own code; only the table of workloads and services is not kept, so that thousands fit into one process.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use squire_mesh::wire::{
    core::Node,
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
};
use squire_proxy::{
    backoff::Backoff,
    channel::Channel,
    config::Config,
    identity::{self, Issued, Renewal},
    report::{Reporter, Standing},
    roots::Roots,
    state::{Change, Kind, State, Store, Update},
    vitals::Vitals,
};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;

use super::board::Board;

/// Requests under way on a stream.
const REQUESTS: usize = 16;
/// A first push has room.
const MAX_MESSAGE: usize = 256 << 20;

/// What all simulated proxies share.
pub(super) struct Shared {
    /// Counts reports and renewals of all of them together.
    pub(super) vitals: Arc<Vitals>,
    /// What has arrived where.
    pub(super) board: Arc<Board>,
    /// Proxies with a smaller number than this may connect.
    pub(super) gate: watch::Sender<usize>,
}

/// Lives as a proxy does, until it is dropped.
pub(super) async fn live(number: usize, config: Config, shared: Arc<Shared>) -> Result<()> {
    let config = Arc::new(config);
    let roots = Roots::open(&config)?;
    let (store, state) = Store::new(
        config.workload.clone(),
        config.trust_domain.clone(),
        Arc::clone(roots.at_start()),
    );
    let vitals = Arc::clone(&shared.vitals);
    let (renewal, identity) = Renewal::new(
        Arc::clone(&config),
        roots.clone(),
        state.clone(),
        Arc::clone(&vitals),
        Arc::new(Notify::new()),
    );
    let (publish, channel) = watch::channel(None);
    // No connection is open, so none stands on an old root: as a sidecar that has judged them all says.
    let (judged, standing) = watch::channel(Standing::default());
    let reporter = Reporter {
        config: Arc::clone(&config),
        identity: identity.clone(),
        state: state.clone(),
        channel,
        admin: config.admin,
        standing,
        vitals,
    };
    let mut follower = Follower {
        number,
        config,
        roots,
        identity,
        state,
        store,
        publish,
        judged,
        board: Arc::clone(&shared.board),
        gate: shared.gate.subscribe(),
    };
    // Ends them when it is dropped.
    let mut tasks = JoinSet::new();
    tasks.spawn(renewal.run());
    tasks.spawn(reporter.run());
    tasks.spawn(async move { follower.follow().await });
    while let Some(ended) = tasks.join_next().await {
        ended.context("a simulated proxy failed")?;
    }
    bail!("a simulated proxy ended")
}

/// The stream from the control plane.
struct Follower {
    number: usize,
    config: Arc<Config>,
    roots: Roots,
    identity: identity::Receiver,
    state: State,
    store: Store,
    publish: watch::Sender<Option<Channel>>,
    judged: watch::Sender<Standing>,
    board: Arc<Board>,
    gate: watch::Receiver<usize>,
}

impl Follower {
    async fn follow(&mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(8));
        if self.valid_identity().await.is_err() {
            return;
        }
        self.board.identified();
        let number = self.number;
        if self.gate.wait_for(|open| number < *open).await.is_err() {
            return;
        }
        while let Ok(issued) = self.valid_identity().await {
            let end = self.session(&issued, &mut backoff).await;
            self.publish.send_replace(None);
            self.board.disconnected(self.number);
            if let Err(error) = end {
                tracing::debug!(%error, "a stream has ended");
                sleep(backoff.wait()).await;
            }
        }
    }

    async fn valid_identity(&mut self) -> Result<Arc<Issued>> {
        loop {
            if let Some(issued) = self.identity.borrow_and_update().valid() {
                return Ok(Arc::clone(issued));
            }
            self.identity.changed().await?;
        }
    }

    /// Ends well when there is a newer SVID to go on with.
    async fn session(&mut self, issued: &Issued, backoff: &mut Backoff) -> Result<()> {
        let snapshot = Arc::clone(&self.state.borrow());
        let (channel, _) = self
            .roots
            .connect(&self.config.control, Some(&issued.svid), &snapshot)
            .await?;
        let (send, requests) = mpsc::channel(REQUESTS);
        for request in self.subscriptions() {
            send.send(request).await?;
        }
        let mut client = AggregatedDiscoveryServiceClient::with_origin(channel.clone(), channel.origin())
            .max_decoding_message_size(MAX_MESSAGE);
        let mut answers = client
            .delta_aggregated_resources(ReceiverStream::new(requests))
            .await?
            .into_inner();
        self.publish.send_replace(Some(channel));
        let generation = issued.generation;
        let mut identity = self.identity.clone();
        let newer = async move {
            let newer =
                |identity: &identity::Identity| identity.valid().is_some_and(|held| held.generation > generation);
            identity.wait_for(newer).await.is_ok()
        };
        tokio::pin!(newer);
        loop {
            tokio::select! {
                answer = answers.message() => {
                    let Some(answer) = answer? else { bail!("the stream was closed") };
                    let ack = DeltaDiscoveryRequest {
                        type_url: answer.type_url.clone(),
                        response_nonce: answer.nonce.clone(),
                        ..DeltaDiscoveryRequest::default()
                    };
                    let whole = !answer.system_version_info.is_empty();
                    let kind = self.take(answer)?;
                    send.send(ack).await?;
                    self.board.acknowledged(self.number, kind, whole);
                    backoff.reset();
                }
                _ = &mut newer => return Ok(()),
            }
        }
    }

    /// As a sidecar's: every kind, with what is held already.
    fn subscriptions(&self) -> impl Iterator<Item = DeltaDiscoveryRequest> + use<> {
        let mut node = Some(Node {
            id: self.config.workload.to_string(),
            cluster: self.config.trust_domain.to_string(),
            user_agent_name: "squire-scale".to_owned(),
            ..Node::default()
        });
        let requests: Vec<_> = Kind::ALL
            .into_iter()
            .map(|kind| DeltaDiscoveryRequest {
                node: node.take(),
                type_url: kind.type_url().to_owned(),
                resource_names_subscribe: self.store.subscription(kind),
                initial_resource_versions: if is_shared(kind) {
                    self.board.held(self.number, kind)
                } else {
                    self.store.held(kind).collect()
                },
                ..DeltaDiscoveryRequest::default()
            })
            .collect();
        requests.into_iter()
    }

    /// Takes what came: trust and policy into the sidecar's own store, workloads and services only by name.
    fn take(&mut self, answer: DeltaDiscoveryResponse) -> Result<Kind> {
        let Some(kind) = Kind::of_type_url(&answer.type_url) else {
            bail!("nobody asked for {}", answer.type_url);
        };
        if is_shared(kind) {
            self.board.took(self.number, kind, answer);
            return Ok(kind);
        }
        let change = |resource: squire_mesh::wire::discovery::Resource| Change {
            name: resource.name,
            version: resource.version,
            resource: resource.resource,
        };
        let update = Update {
            kind,
            version: answer.system_version_info,
            changed: answer.resources.into_iter().map(change).collect(),
            removed: answer.removed_resources,
        };
        self.store
            .apply(update)
            .map_err(|refused| anyhow::anyhow!("{refused}"))?;
        if kind == Kind::TrustBundle {
            let own = self
                .state
                .borrow()
                .bundles
                .get(&self.config.trust_domain)
                .map(|own| own.sequence());
            self.judged.send_replace(Standing {
                bundle: own.unwrap_or_default(),
                on_old_root: false,
            });
        }
        Ok(kind)
    }
}

/// Kinds of which every proxy is told the same.
pub(super) fn is_shared(kind: Kind) -> bool {
    matches!(kind, Kind::Workload | Kind::Service)
}
