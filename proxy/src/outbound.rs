//! Application to peer, in order: accept → route → (egress policy) → link from the pool or dialled → forward → close.
//! This page knows the order; the steps live elsewhere.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpStream, task::yield_now};

use crate::{
    accept::Accepted,
    authorize::{self, Answer, Permit, Question},
    connection::{Carrier, Connection, Direction, Facts, Record},
    destinations::of_family,
    dial::DialError,
    forward::{self, Interrupted},
    link::{
        Framing,
        frame::{Control, ResetReason},
    },
    outcome::Outcome,
    pool::{Key, Leased},
    route::{Endpoint, Target, Via},
    shared::Shared,
    socket,
};

/// One accepted connection, from its first byte to its last.
pub(crate) async fn serve(shared: Arc<Shared>, accepted: Accepted, target: Target) {
    let Accepted {
        tcp: app,
        client,
        destination,
        since,
        slot: _slot,
        ..
    } = accepted;
    let local = shared
        .credentials
        .borrow()
        .as_ref()
        .map(|credentials| credentials.svid.id().clone());
    let facts = Facts {
        port: destination.port(),
        local,
        ..Facts::default()
    };
    let id = shared.next_id();
    let record = shared
        .recorder
        .open(Direction::Outbound, id, since, (client, destination), facts);
    let outcome = attempt(&shared, &app, &record, &target).await;
    if !matches!(outcome, Outcome::Complete) {
        socket::abort_on_close(&app);
    }
    record.close(&outcome);
}

async fn attempt(shared: &Arc<Shared>, app: &TcpStream, record: &Record, target: &Target) -> Outcome {
    let snapshot = shared.snapshot();
    let endpoints = match shared.destinations.endpoints(&snapshot, target) {
        Ok(endpoints) => endpoints,
        Err(why) => return Outcome::NoRoute(why),
    };
    drop(snapshot);
    let mut last = Outcome::NoRoute("no endpoint");
    for endpoint in endpoints {
        let permit = match decide(shared, record, &endpoint) {
            Ok(permit) => permit,
            Err(outcome) => return outcome,
        };
        let opened = match &endpoint.via {
            Via::Plaintext => Box::pin(plaintext(shared, app, record, &endpoint, &permit)).await,
            Via::Mesh(_, Framing::Squire) => Box::pin(pooled(shared, app, record, &endpoint, &permit)).await,
            Via::Mesh(_, Framing::Plain) => Box::pin(unpooled(shared, app, record, &endpoint, &permit)).await,
        };
        match opened {
            Ok(outcome) => return outcome,
            // Nothing was sent yet: another endpoint may do.
            Err(error) => {
                tracing::debug!(address = %endpoint.address, %error, "endpoint not reached");
                last = Outcome::Unreachable(error);
            }
        }
    }
    last
}

/// Egress policy, noted in the record. The record is registered by now, so a policy that changes from here on finds it.
pub(crate) fn decide(shared: &Shared, record: &Connection, endpoint: &Endpoint) -> Result<Permit, Outcome> {
    let snapshot = shared.snapshot();
    let ip = endpoint.address.ip();
    let local = snapshot.me.as_ref().and_then(|me| of_family(&me.addresses, ip));
    let question = Question {
        peer: None,
        remote: endpoint.address,
        local: SocketAddr::new(local.unwrap_or_else(|| record.client.ip()), 0),
        port: endpoint.address.port(),
    };
    let answer = authorize::outbound(&snapshot, question, endpoint.workload.as_deref());
    let (result, decision) = match answer {
        Answer::Permitted(permit, decision) => (Ok(permit), decision),
        Answer::Denied(decision) => (Err(Outcome::Denied), decision),
        Answer::NotReady(what) => return Err(Outcome::NotReady(what)),
    };
    shared.metrics.decided(Direction::Outbound, &decision);
    let mut facts = record.facts();
    facts.decision = Some(decision);
    facts.port = endpoint.address.port();
    facts.upstream = Some(endpoint.address);
    facts.peer_workload = endpoint.workload.as_ref().map(|workload| workload.uid.clone());
    result
}

/// To where no mutual TLS is spoken.
async fn plaintext(
    shared: &Shared,
    app: &TcpStream,
    record: &Record,
    endpoint: &Endpoint,
    permit: &Permit,
) -> Result<Outcome, DialError> {
    let from = endpoint
        .workload
        .as_ref()
        .and_then(|_| shared.source(&shared.snapshot()));
    let far = Box::pin(shared.dialer.tcp(endpoint.address, from)).await?;
    socket::tune(&socket2::SockRef::from(&far));
    record.facts().carrier = Carrier::Plaintext;
    record.count_in(shared.metrics.series_of(record));
    Ok(match forward::plain(permit, app, &far, &[], record).await {
        Ok(()) => Outcome::Complete,
        Err(interrupted) => {
            socket::abort_on_close(&far);
            Outcome::Interrupted(interrupted)
        }
    })
}

/// `squire/1`: a link from the pool, given back afterwards.
async fn pooled(
    shared: &Arc<Shared>,
    app: &TcpStream,
    record: &Record,
    endpoint: &Endpoint,
    permit: &Permit,
) -> Result<Outcome, DialError> {
    let Via::Mesh(peer, _) = &endpoint.via else {
        return Err(DialError::NoIdentity);
    };
    let from = shared.source(&shared.snapshot());
    let key = Key {
        peer: peer.clone(),
        address: endpoint.address,
        from,
    };
    let mut leased = Box::pin(shared.pool.lease(&key)).await?;
    note(
        shared,
        record,
        &leased.peer,
        Framing::Squire,
        leased.parameters,
        leased.handshake,
    );
    leased.link.push(Control::Open {
        sequence: leased.sequence,
        id: record.id,
    });
    // An application that speaks first has usually done so by the time the runtime has looked: OPEN and its first bytes
    // then share one record. Nobody waits: at most one turn of the event loop is spent.
    yield_now().await;
    let forwarded = forward::mesh(permit, &mut leased.link, app, leased.sequence, record).await;
    Ok(match forwarded {
        Ok(()) => {
            shared.pool.give_back(&key, leased);
            Outcome::Complete
        }
        Err(interrupted) => {
            settle(shared, key, leased, &interrupted);
            Outcome::Interrupted(interrupted)
        }
    })
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

/// `squire-tls/1`: a link of its own, closed with the application connection.
async fn unpooled(
    shared: &Shared,
    app: &TcpStream,
    record: &Record,
    endpoint: &Endpoint,
    permit: &Permit,
) -> Result<Outcome, DialError> {
    let Via::Mesh(peer, framing) = &endpoint.via else {
        return Err(DialError::NoIdentity);
    };
    let credentials = shared.credentials.borrow().clone().ok_or(DialError::NoIdentity)?;
    let from = shared.source(&shared.snapshot());
    let dialled = Box::pin(shared.dialer.mesh(&credentials, peer, *framing, endpoint.address, from)).await?;
    note(
        shared,
        record,
        &dialled.peer,
        *framing,
        dialled.parameters,
        Some(dialled.took),
    );
    let mut link = dialled.link;
    Ok(match forward::mesh(permit, &mut link, app, 0, record).await {
        Ok(()) => {
            link.close();
            Outcome::Complete
        }
        Err(interrupted) => {
            socket::abort_on_close(link.tcp());
            Outcome::Interrupted(interrupted)
        }
    })
}

/// Notes in the record whom the connection leads to and how.
pub(crate) fn note(
    shared: &Shared,
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
    drop(facts);
    record.count_in(shared.metrics.series_of(record));
}
