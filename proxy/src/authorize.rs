//! Asking policy about a connection. [`Permit`] can only be made here, from an allowing decision: what forwards bytes
//! takes one, so skipping authorization does not compile. The decision itself is `squire_mesh::policy`'s.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::SystemTime,
};

pub(crate) use squire_mesh::policy::OnConnection;
use squire_mesh::{
    bundle::TrustBundle,
    policy::{self, Decision, Endpoint, Http, Principal, Request},
    svid::VerifiedPeer,
    workload::Workload,
};

use crate::{connection::Cut, state::Snapshot};

/// Proof that policy allowed a connection.
#[derive(Debug)]
pub(crate) struct Permit(());

/// Proof that policy allows a connection of bytes if the providers that have to be asked about it say yes. Enough to reach
/// for the application and hear who speaks first, never to forward a byte.
#[derive(Debug)]
pub(crate) struct Prospect(());

/// What the application may be dialled with.
pub(crate) trait MayDial {}

impl MayDial for Permit {}
impl MayDial for Prospect {}

/// Every provider says yes.
struct Agreement;

impl policy::Answers for Agreement {
    fn answer(&self, _provider: &str) -> policy::Answer {
        policy::Answer::Allow
    }
}

/// The connection that is asked about.
#[derive(Clone, Copy)]
pub(crate) struct Question<'a> {
    /// The verified identity at the other end; none: plaintext.
    pub(crate) peer: Option<&'a VerifiedPeer>,
    /// The address at the other end.
    pub(crate) remote: SocketAddr,
    /// The address of our workload.
    pub(crate) local: SocketAddr,
    /// The port that is reached (ours inbound, theirs outbound).
    pub(crate) port: u16,
}

/// What came of asking.
pub(crate) enum Answer {
    /// Allowed.
    Permitted(Permit, Decision),
    /// Denied.
    Denied(Decision),
    /// There is nothing to decide by: refused.
    NotReady(&'static str),
}

impl Answer {
    pub(crate) fn of(decision: Decision) -> Self {
        if decision.is_allowed() {
            Self::Permitted(Permit(()), decision)
        } else {
            Self::Denied(decision)
        }
    }
}

/// May this peer reach our workload on this port, with bytes? `answers`: what external providers said of it.
pub(crate) fn inbound(snapshot: &Snapshot, question: Question<'_>, answers: &dyn policy::Answers) -> Answer {
    let Some(table) = &snapshot.policy else {
        return Answer::NotReady("policy");
    };
    let source = workload_at(snapshot, question.remote, question.peer);
    if let Some(decision) = mismatch(source.as_deref(), question) {
        return Answer::Denied(decision);
    }
    let request = incoming(snapshot, question, source.as_deref()).with_answers(answers);
    Answer::of(policy::decide_inbound(table, &request))
}

/// Whether bytes may pass on this connection if nobody who has to be asked says no.
pub(crate) fn prospect(snapshot: &Snapshot, question: Question<'_>) -> Option<Prospect> {
    match inbound(snapshot, question, &Agreement) {
        Answer::Permitted(..) => Some(Prospect(())),
        Answer::Denied(_) | Answer::NotReady(_) => None,
    }
}

/// A connection of bytes as external providers see it. `source`: the workload at the peer's address.
pub(crate) fn bytes<'a>(snapshot: &'a Snapshot, question: Question<'a>, source: Option<&'a Workload>) -> Request<'a> {
    incoming(snapshot, question, source)
}

/// May this peer reach our workload on this port with HTTP? What holds for every request, if anything does.
pub(crate) fn connection(snapshot: &Snapshot, question: Question<'_>) -> OnConnection {
    let Some(table) = &snapshot.policy else {
        return OnConnection::PerRequest;
    };
    let source = workload_at(snapshot, question.remote, question.peer);
    if let Some(decision) = mismatch(source.as_deref(), question) {
        return OnConnection::Decided(decision);
    }
    policy::decide_connection(table, &incoming(snapshot, question, source.as_deref()))
}

/// May this request reach our workload? `source`: the workload at the peer's address.
pub(crate) fn inbound_request(
    snapshot: &Snapshot,
    question: Question<'_>,
    source: Option<&Workload>,
    http: Http<'_>,
    answers: &dyn policy::Answers,
) -> Answer {
    let Some(table) = &snapshot.policy else {
        return Answer::NotReady("policy");
    };
    if let Some(decision) = mismatch(source, question) {
        return Answer::Denied(decision);
    }
    let request = request(snapshot, question, source, http).with_answers(answers);
    Answer::of(policy::decide_inbound(table, &request))
}

/// A request as policy and external providers see it.
pub(crate) fn request<'a>(
    snapshot: &'a Snapshot,
    question: Question<'a>,
    source: Option<&'a Workload>,
    http: Http<'a>,
) -> Request<'a> {
    incoming(snapshot, question, source).with_http(http)
}

/// An address that stands for one workload while the certificate shows another (spec §1.6.21).
fn mismatch(source: Option<&Workload>, question: Question<'_>) -> Option<Decision> {
    let (workload, peer) = (source?, question.peer?);
    let fits = !workload.selectable() || workload.may_show(&Principal::from(peer.id()));
    (!fits).then(Decision::address_mismatch)
}

/// Whether an address is one of the node that a workload runs on (spec §1.5.17): kubelet's probes come from there.
fn comes_from_node_of(snapshot: &Snapshot, me: &Workload, address: IpAddr) -> bool {
    let mut there = snapshot.workloads_at(address.to_canonical());
    there.any(|workload| me.runs_on_node_of(workload))
}

fn incoming<'a>(snapshot: &'a Snapshot, question: Question<'a>, source: Option<&'a Workload>) -> Request<'a> {
    let me = snapshot.me.as_deref();
    Request::connection(
        policy::Source {
            ip: question.remote.ip().to_canonical(),
            workload: source.map(|workload| workload as &dyn Endpoint),
            principal: question.peer.map(|peer| Principal::from(peer.id())),
            own_node: me.is_some_and(|me| comes_from_node_of(snapshot, me, question.remote.ip())),
        },
        policy::Destination {
            ip: question.local.ip().to_canonical(),
            port: question.port,
            workload: me.map(|workload| workload as &dyn Endpoint),
        },
        policy::Connection {
            mutual_tls: question.peer.is_some(),
            ..policy::Connection::default()
        },
    )
}

/// May our workload reach this address?
pub(crate) fn outbound(snapshot: &Snapshot, question: Question<'_>, to: Option<&Workload>) -> Answer {
    let Some(table) = &snapshot.policy else {
        return Answer::NotReady("policy");
    };
    let me = snapshot.me.as_deref();
    let request = Request::connection(
        policy::Source {
            ip: question.local.ip().to_canonical(),
            workload: me.map(|workload| workload as &dyn Endpoint),
            principal: None,
            own_node: false,
        },
        policy::Destination {
            ip: question.remote.ip().to_canonical(),
            port: question.port,
            workload: to.map(|workload| workload as &dyn Endpoint),
        },
        policy::Connection {
            mutual_tls: question.peer.is_some(),
            ..policy::Connection::default()
        },
    );
    Answer::of(policy::decide_outbound(table, &request))
}

/// The workload an address stands for. Where several share it (their node's), the one with the peer's identity.
pub(crate) fn workload_at(
    snapshot: &Snapshot,
    address: SocketAddr,
    peer: Option<&VerifiedPeer>,
) -> Option<Arc<Workload>> {
    let mut first = None;
    for workload in snapshot.workloads_at(address.ip()) {
        if peer.is_some_and(|peer| workload.identity.as_ref() == Some(peer.id())) {
            return Some(Arc::clone(workload));
        }
        first.get_or_insert(workload);
    }
    first.map(Arc::clone)
}

/// Whether a connection to a peer that was verified once may carry something new: it is trusted now, and will be when a
/// root that no longer signs leaves the bundle.
pub(crate) fn lasting(snapshot: &Snapshot, peer: &VerifiedPeer, now: SystemTime) -> bool {
    grounds(snapshot, peer, now).is_ok() && !on_old_root(snapshot, peer)
}

/// Whether a peer stands on a root of its trust domain that does not sign any more.
pub(crate) fn on_old_root(snapshot: &Snapshot, peer: &VerifiedPeer) -> bool {
    let bundle = snapshot.bundles.get(peer.id().trust_domain());
    let signing = bundle.and_then(TrustBundle::signing);
    signing.is_some_and(|signing| signing.root != peer.root())
}

/// Whether a peer that was verified once may still be trusted now.
pub(crate) fn grounds(snapshot: &Snapshot, peer: &VerifiedPeer, now: SystemTime) -> Result<(), Cut> {
    if peer.not_after() <= now {
        return Err(Cut::Expired);
    }
    if !snapshot.bundles.holds(peer.id().trust_domain(), peer.root()) {
        return Err(Cut::Untrusted);
    }
    snapshot.revocations.check(peer).map_err(|_| Cut::Revoked)
}
