//! The upstream of a connection of bytes: how it is reached, handed on where requests turn out to be what it carries, and
//! given back.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::net::TcpStream;

use crate::{
    connection::{Carrier, Connection, Record},
    dial::DialError,
    forward::Interrupted,
    http::h1::{IdleUp, LinkWire, TcpWire, UpKey, UpWire},
    link::{
        Framing, Link, LinkStream,
        frame::{Control, ResetReason},
    },
    outcome::Outcome,
    pool::{Key, Leased},
    route::{Endpoint, Via},
    shared::Shared,
    socket,
};

/// An upstream that has been reached, and nothing sent to it.
pub(super) enum Opened {
    Plaintext(TcpStream, SocketAddr),
    /// `squire/1`, with OPEN waiting to be sent.
    Pooled(Key, Leased),
    /// `squire-tls/1`.
    Alone(Box<Link>),
}

pub(super) async fn open(shared: &Arc<Shared>, record: &Record, endpoint: &Endpoint) -> Result<Opened, DialError> {
    let from = shared.source(&shared.snapshot());
    let address = endpoint.address;
    match &endpoint.via {
        Via::Plaintext => {
            let from = endpoint.workload.as_ref().and(from);
            let far = Box::pin(shared.dialer.tcp(address, from)).await?;
            socket::tune(&socket2::SockRef::from(&far));
            record.facts().carrier = Carrier::Plaintext;
            record.count_in(shared.metrics.series_of(record));
            Ok(Opened::Plaintext(far, address))
        }
        Via::Mesh(peer, framing @ Framing::Squire) => {
            let peer = peer.clone();
            let key = Key { peer, address, from };
            let mut leased = Box::pin(shared.pool.lease(&key)).await?;
            let (parameters, handshake) = (leased.parameters, leased.handshake);
            note(record, &leased.peer, *framing, parameters, handshake);
            record.count_in(shared.metrics.series_of(record));
            leased.link.push(Control::Open {
                sequence: leased.sequence,
                id: record.id,
            });
            Ok(Opened::Pooled(key, leased))
        }
        Via::Mesh(peer, framing @ Framing::Plain) => {
            let credentials = shared.credentials.borrow().clone().ok_or(DialError::NoIdentity)?;
            let dialled = Box::pin(shared.dialer.mesh(&credentials, peer, *framing, address, from)).await?;
            let (parameters, took) = (dialled.parameters, Some(dialled.took));
            note(record, &dialled.peer, *framing, parameters, took);
            record.count_in(shared.metrics.series_of(record));
            Ok(Opened::Alone(dialled.link))
        }
    }
}

/// The upstream that has been reached, for the first request.
pub(super) fn kept(shared: &Arc<Shared>, record: &Record, opened: Opened) -> (UpKey, IdleUp) {
    let series = shared.metrics.series_of(record);
    let (key, wire, peer, generation) = match opened {
        Opened::Plaintext(far, address) => {
            let wire = UpWire::Tcp(Box::new(TcpWire::new(far, &[])));
            (UpKey { address, peer: None }, wire, None, 0)
        }
        Opened::Pooled(key, leased) => {
            let up = UpKey {
                address: key.address,
                peer: Some(key.peer.clone()),
            };
            let (peer, generation) = (Arc::clone(&leased.peer), leased.generation);
            let stream = shared.pool.stream_begun(key, leased);
            (
                up,
                UpWire::Link(Box::new(LinkWire::new(stream))),
                Some(peer),
                generation,
            )
        }
        Opened::Alone(link) => {
            let facts = record.facts();
            let peer = facts.peer.clone();
            let up = UpKey {
                address: facts.upstream.unwrap_or(record.destination),
                peer: peer.as_ref().map(|peer| peer.id().clone()),
            };
            let stream = LinkStream::accepted(link, 0, Box::new(|_, _| {}));
            (
                up,
                UpWire::Link(Box::new(LinkWire::new(stream))),
                peer,
                shared.generation(),
            )
        }
    };
    (key, IdleUp::new(wire, peer, generation, series))
}

/// The upstream that has been reached joins those that all HTTP/2 streams share.
pub(super) async fn adopted(shared: &Arc<Shared>, record: &Record, opened: Opened) {
    let (address, in_mesh) = {
        let facts = record.facts();
        (
            facts.upstream.unwrap_or(record.destination),
            facts.peer_workload.is_some(),
        )
    };
    match opened {
        Opened::Plaintext(far, _) => shared.http2.adopt_plain(shared, address, in_mesh, far).await,
        Opened::Pooled(key, leased) => shared.http2.adopt(shared, key, leased).await,
        // Made for one application connection, which it ends with.
        Opened::Alone(link) => link.close(),
    }
}

/// Gives back what can be used again.
pub(super) fn over(shared: &Arc<Shared>, opened: Opened, outcome: Outcome) -> Outcome {
    let interrupted = match &outcome {
        Outcome::Interrupted(interrupted) => Some(interrupted),
        _ => None,
    };
    match (opened, interrupted) {
        (Opened::Pooled(key, leased), None) => shared.pool.give_back(&key, leased),
        (Opened::Pooled(key, leased), Some(interrupted)) => settle(shared, key, leased, interrupted),
        (Opened::Alone(link), None) => link.close(),
        (Opened::Alone(link), Some(_)) => socket::abort_on_close(link.tcp()),
        (Opened::Plaintext(far, _), Some(_)) => socket::abort_on_close(&far),
        (Opened::Plaintext(..), None) => {}
    }
    outcome
}

/// After an abort: the link goes back to the pool once both ends agree that the application connection is over.
fn settle(shared: &Arc<Shared>, key: Key, mut leased: Leased, interrupted: &Interrupted) {
    let sequence = leased.sequence;
    leased.link.discard();
    match interrupted {
        Interrupted::Link(_) | Interrupted::Far(_) => {}
        Interrupted::Reset(_) | Interrupted::App(_) | Interrupted::Cut(_) => {
            let answered = matches!(interrupted, Interrupted::Reset(_));
            leased.link.push(Control::Reset {
                sequence,
                reason: ResetReason::Aborted,
            });
            shared.pool.settle(key, leased, answered);
        }
    }
}

/// Notes in the record whom the connection leads to and how.
pub(crate) fn note(
    record: &Connection,
    peer: &Arc<squire_mesh::svid::VerifiedPeer>,
    framing: Framing,
    parameters: crate::tls::handshake::Parameters,
    handshake: Option<Duration>,
) {
    let mut facts = record.facts();
    facts.peer = Some(Arc::clone(peer));
    facts.carrier = Carrier::Mesh(framing);
    facts.tls = Some(parameters);
    facts.reused = handshake.is_none();
    facts.handshake = handshake;
}
