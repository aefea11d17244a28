//! One discovery stream from its first request to its end: who it is, what it asks for, what it is sent, and why it
//! ends. It never outlives the grounds on which it was opened: the certificate, and the workload's identity.

use std::{
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::{Instant, SystemTime},
};

use squire_mesh::{
    svid::{Revocations, VerifiedPeer},
    wire::discovery::DeltaDiscoveryRequest,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::{
    Catalog, Kind,
    catalog::Heads,
    codec::{Outgoing, Requests, Response},
    fleet::{Fleet, Member},
    subscription::{Broken, Reply, Subscription},
};
use crate::metrics::{Metrics, count};

/// What every stream shares.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) catalog: Arc<Catalog>,
    pub(super) fleet: Arc<Fleet>,
    pub(super) metrics: Metrics,
    pub(super) revocations: watch::Receiver<Arc<Revocations>>,
    pub(super) stop: CancellationToken,
}

/// Why a stream ended.
#[derive(Debug)]
pub(super) enum End {
    /// The proxy closed it, or its connection broke.
    Client,
    /// The control plane stops.
    Stopping,
    /// The certificate of the proxy has expired.
    Expired,
    /// The identity or certificate of the proxy has been revoked.
    Revoked(String),
    /// It is not the workload it says it is.
    Denied(String),
    /// It does not speak the protocol.
    Protocol(String),
    /// It asked for more than there is, or did not keep up.
    Broken(Broken),
}

impl End {
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Stopping => "stopping",
            Self::Expired => "expired",
            Self::Revoked(_) => "revoked",
            Self::Denied(_) => "denied",
            Self::Protocol(_) => "protocol",
            Self::Broken(Broken::TooMuch) => "too_much",
            Self::Broken(Broken::FellBehind) => "fell_behind",
        }
    }

    /// What the proxy is told.
    pub(super) fn status(&self) -> Option<Status> {
        let code = match self {
            Self::Client => return None,
            Self::Stopping => Code::Unavailable,
            Self::Expired => Code::Unauthenticated,
            Self::Revoked(_) | Self::Denied(_) => Code::PermissionDenied,
            Self::Protocol(_) => Code::InvalidArgument,
            Self::Broken(Broken::TooMuch) => Code::ResourceExhausted,
            Self::Broken(Broken::FellBehind) => Code::Aborted,
        };
        Some(Status::new(code, self.to_string()))
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client => f.write_str("the proxy closed the stream"),
            Self::Stopping => f.write_str("the control plane stops: connect again"),
            Self::Expired => f.write_str("your certificate has expired: renew it and connect again"),
            Self::Revoked(why) | Self::Denied(why) | Self::Protocol(why) => f.write_str(why),
            Self::Broken(broken) => broken.fmt(f),
        }
    }
}

/// Serves one stream until it ends.
pub(super) async fn serve(
    shared: Shared,
    peer: Arc<VerifiedPeer>,
    address: SocketAddr,
    mut requests: Requests,
    responses: mpsc::Sender<Outgoing>,
) {
    shared.metrics.streams.inc();
    let id = peer.id().to_string();
    let end = match begin(&shared, &peer, address, &mut requests).await {
        Ok((mut stream, first)) => {
            tracing::info!(node = %stream.node, %id, %address, "a proxy has connected");
            let end = stream.run(first, &mut requests, &responses).await;
            tracing::info!(node = %stream.node, %id, %end, "a proxy has disconnected");
            end
        }
        Err(end) => {
            tracing::warn!(%id, %address, %end, "a discovery stream was refused");
            end
        }
    };
    shared.metrics.streams.dec();
    count(&shared.metrics.stream_ends, end.label()).inc();
    if let Some(status) = end.status() {
        responses.send(Box::new(Err(status))).await.ok();
    }
}

/// The first request says which workload the proxy stands beside.
async fn begin(
    shared: &Shared,
    peer: &Arc<VerifiedPeer>,
    address: SocketAddr,
    requests: &mut Requests,
) -> Result<(Stream, DeltaDiscoveryRequest), End> {
    let first = tokio::select! {
        () = shared.stop.cancelled() => return Err(End::Stopping),
        () = expiry(peer) => return Err(End::Expired),
        first = requests.message() => first.ok().flatten().ok_or(End::Client)?,
    };
    let node = first.node.as_ref().map(|node| node.id.as_str()).unwrap_or_default();
    let uid: squire_mesh::workload::WorkloadUid = node
        .parse()
        .map_err(|error| End::Protocol(format!("the first request must carry node.id: {error}")))?;
    let stream = Stream {
        member: shared.fleet.join(uid.to_shared(), peer.id().to_string(), address),
        node: uid.to_shared(),
        peer: Arc::clone(peer),
        shared: shared.clone(),
        subscriptions: Default::default(),
        sent_at: [None; Kind::ALL.len()],
    };
    stream.check_identity()?;
    Ok((stream, first))
}

struct Stream {
    shared: Shared,
    node: Arc<str>,
    peer: Arc<VerifiedPeer>,
    member: Member,
    subscriptions: [Subscription; Kind::ALL.len()],
    sent_at: [Option<Instant>; Kind::ALL.len()],
}

impl Stream {
    async fn run(
        &mut self,
        first: DeltaDiscoveryRequest,
        requests: &mut Requests,
        responses: &mpsc::Sender<Outgoing>,
    ) -> End {
        match self.follow(first, requests, responses).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn follow(
        &mut self,
        first: DeltaDiscoveryRequest,
        requests: &mut Requests,
        responses: &mpsc::Sender<Outgoing>,
    ) -> Result<std::convert::Infallible, End> {
        let mut heads = self.shared.catalog.watch();
        let mut revocations = self.shared.revocations.clone();
        let stop = self.shared.stop.clone();
        let peer = Arc::clone(&self.peer);
        let expired = expiry(&peer);
        tokio::pin!(expired);
        self.request(first)?;
        loop {
            revocations
                .borrow_and_update()
                .check(&peer)
                .map_err(|revoked| End::Revoked(format!("the control plane refuses you: {revoked}")))?;
            let reached: Heads = *heads.borrow_and_update();
            self.check_identity()?;
            self.send(&reached, responses).await?;
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(End::Stopping),
                () = &mut expired => return Err(End::Expired),
                // The senders live as long as the catalog and the control plane; if they are gone, so are we.
                gone = revocations.changed() => gone.map_err(|_| End::Stopping)?,
                message = requests.message() => {
                    let message = message.ok().flatten().ok_or(End::Client)?;
                    self.request(message)?;
                }
                gone = heads.changed() => gone.map_err(|_| End::Stopping)?,
            }
        }
    }

    /// The workload that the proxy names must have the identity that its certificate shows. A workload that is not known
    /// (yet) has no policy to give away.
    fn check_identity(&self) -> Result<(), End> {
        let proved = self.peer.id();
        match self.shared.catalog.identity(&self.node) {
            None => Ok(()),
            Some(Some(identity)) if identity == *proved => Ok(()),
            Some(identity) => {
                let has = identity.map_or_else(|| "has no identity".to_owned(), |id| format!("has the identity {id}"));
                let why = format!(
                    "workload {} {has}, but your certificate shows {proved}: check node.id",
                    self.node
                );
                Err(End::Denied(why))
            }
        }
    }

    fn request(&mut self, request: DeltaDiscoveryRequest) -> Result<(), End> {
        let Some(kind) = Kind::of_type_url(&request.type_url) else {
            // A newer proxy may know more kinds than we do; it lives without them.
            tracing::warn!(node = %self.node, type_url = request.type_url, "an unknown kind of resource was asked for");
            return Ok(());
        };
        let only = kind.is_private().then(|| Arc::clone(&self.node));
        let subscription = &mut self.subscriptions[kind.index()];
        let reply = subscription.request(request, only.as_ref()).map_err(End::Broken)?;
        let asked = subscription.asked();
        self.member.record(kind, |view| view.subscribed = asked);
        self.replied(kind, reply);
        Ok(())
    }

    fn replied(&mut self, kind: Kind, reply: Reply) {
        let metrics = &self.shared.metrics;
        if let (Some(sent), true) = (self.sent_at[kind.index()], reply != Reply::None) {
            metrics.ack_seconds.observe(sent.elapsed().as_secs_f64());
        }
        match reply {
            Reply::None => {}
            Reply::Ack(point) => {
                count(&metrics.acks, kind.label()).inc();
                self.member.record(kind, |view| {
                    (view.version_acked, view.pending, view.nack) = (point, false, None);
                });
            }
            Reply::Nack(point, why) => {
                count(&metrics.nacks, kind.label()).inc();
                let why: String = why.chars().take(1024).collect();
                tracing::warn!(node = %self.node, kind = kind.label(), point, why, "a proxy refused a response and keeps what it had");
                self.member.record(kind, |view| {
                    view.nacks += 1;
                    (view.pending, view.nack) = (false, Some(why));
                });
            }
        }
    }

    /// Sends what there is to say, kind after kind in their order.
    async fn send(&mut self, heads: &Heads, responses: &mpsc::Sender<Outgoing>) -> Result<(), End> {
        for kind in Kind::ALL {
            if heads[kind.index()] == 0 || !self.subscriptions[kind.index()].is_started() {
                continue;
            }
            let only = kind.is_private().then_some(&self.node);
            let subscription = &mut self.subscriptions[kind.index()];
            let page = self
                .shared
                .catalog
                .with(kind, |shelf| subscription.next(shelf, only))
                .map_err(End::Broken)?;
            let Some(page) = page else { continue };
            count(&self.shared.metrics.responses, kind.label()).inc();
            self.member
                .record(kind, |view| (view.version_sent, view.pending) = (page.point, true));
            self.sent_at[kind.index()] = Some(Instant::now());
            let response = Response {
                // A table has a version once it is whole: proxies wait for that before they are ready.
                system_version: if page.partial {
                    String::new()
                } else {
                    page.point.to_string()
                },
                resources: page.resources,
                type_url: kind.type_url(),
                nonce: page.nonce,
                removed: page.removed,
            };
            // One response per kind is in flight at most, and the channel holds that many: this does not wait.
            responses.send(Box::new(Ok(response))).await.map_err(|_| End::Client)?;
        }
        Ok(())
    }
}

/// Waits until the certificate of a peer has expired, by the wall clock.
async fn expiry(peer: &VerifiedPeer) {
    /// Clocks are set now and then: look again.
    const LOOK: std::time::Duration = std::time::Duration::from_secs(60);
    while let Ok(left) = peer.not_after().duration_since(SystemTime::now()) {
        tokio::time::sleep(left.min(LOOK) + std::time::Duration::from_millis(1)).await;
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
    };
    use squire_mesh::{
        bundle::{TrustBundle, TrustBundles},
        svid::{Role, identify},
    };

    use super::*;

    fn peer(not_after: SystemTime) -> VerifiedPeer {
        let root_key = KeyPair::generate().unwrap();
        let mut root = CertificateParams::default();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root_certificate = root.self_signed(&root_key).unwrap();
        let mut leaf = CertificateParams::default();
        let id = "spiffe://cluster.local/ns/shop/sa/web";
        leaf.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        leaf.not_after = not_after.into();
        let leaf = leaf
            .signed_by(&KeyPair::generate().unwrap(), &Issuer::new(root, root_key))
            .unwrap();
        let domain = "cluster.local".parse().unwrap();
        let bundle = TrustBundle::new(domain, [root_certificate.der().clone()], 1).unwrap();
        identify(
            &[leaf.der().clone()],
            &TrustBundles::new([bundle]),
            SystemTime::now(),
            Role::Client,
        )
        .unwrap()
    }

    #[tokio::test]
    async fn a_certificate_expires_by_the_wall_clock() {
        // Certificates count in whole seconds.
        let peer = peer(SystemTime::now() + std::time::Duration::from_secs(2));
        expiry(&peer).await;
        assert!(SystemTime::now() >= peer.not_after());
        let late = SystemTime::now().duration_since(peer.not_after()).unwrap();
        assert!(late < std::time::Duration::from_secs(1), "{late:?}");
    }

    #[test]
    fn every_end_but_the_proxys_own_is_explained() {
        let ends = [
            End::Stopping,
            End::Expired,
            End::Revoked("why".into()),
            End::Denied("why".into()),
            End::Protocol("why".into()),
            End::Broken(Broken::TooMuch),
            End::Broken(Broken::FellBehind),
        ];
        assert!(End::Client.status().is_none());
        let labels: std::collections::HashSet<_> = ends.iter().map(End::label).collect();
        assert_eq!(labels.len(), ends.len());
        assert!(ends.iter().all(|end| !end.status().unwrap().message().is_empty()));
    }
}
