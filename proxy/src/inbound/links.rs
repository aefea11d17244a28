//! Clients that prove who they are: the TLS handshake, then the application connections that a link brings, one after
//! another. Each is authorized anew.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use squire_mesh::svid::{Role, VerifiedPeer, identify};
use tokio::{net::TcpStream, sync::oneshot, time::timeout};

use super::{Arrival, gate, requests};
use crate::{
    authorize::grounds,
    begin::{self, Begun},
    connection::{Carrier, Cut, Facts, Record},
    forward::{self, Early, Interrupted},
    http::{h1::LinkWire, h2},
    link::{
        Ended, Event, Framing, Link, LinkError, LinkStream,
        frame::{Control, ResetReason},
        framing_of,
    },
    outcome::{Outcome, handshake_reason},
    shared::Shared,
    socket,
    tls::handshake::{self, Parameters},
};

/// A link without an application connection is closed after so long; the dialling side closes its idle ones far earlier.
const LINK_IDLE: Duration = Duration::from_secs(15 * 60);
/// After GOAWAY, how long an idle link may still bring an application connection that was already under way.
const LAST_CALL: Duration = Duration::from_secs(2);

/// A client that has to prove who it is.
pub(super) async fn mutual_tls(
    shared: &Arc<Shared>,
    tcp: TcpStream,
    received: Vec<u8>,
    since: Instant,
    arrival: Arrival,
) {
    let shaken = Box::pin(identified(shared, tcp, received)).await;
    let (link, session) = match shaken {
        Ok(established) => established,
        Err(outcome) => {
            shared.metrics.handshake_failed("server", handshake_reason(&outcome));
            return arrival.refuse(shared, since, &outcome);
        }
    };
    match link.framing() {
        Framing::Squire => Box::pin(one_after_another(shared, link, session, arrival)).await,
        Framing::Plain => Box::pin(only_one(shared, link, session, since, arrival)).await,
    }
}

/// Whom a link leads to.
struct Session {
    peer: Arc<VerifiedPeer>,
    parameters: Parameters,
    handshake: Option<Duration>,
    served: bool,
}

/// The TLS handshake, in time, and who the peer is.
async fn identified(shared: &Shared, tcp: TcpStream, received: Vec<u8>) -> Result<(Box<Link>, Session), Outcome> {
    let credentials = shared
        .credentials
        .borrow()
        .clone()
        .ok_or(Outcome::NotReady("identity"))?;
    let Ok(_pending) = shared.handshakes.try_acquire() else {
        shared.metrics.limit_hit("pending_handshakes");
        return Err(Outcome::Limit("maxPendingHandshakes"));
    };
    let _counted = shared.metrics.handshake_pending();
    let started = Instant::now();
    let strict_plaintext = |error| match &error {
        // Bytes that are no TLS record at all: a client that knows nothing of the mesh.
        handshake::HandshakeError::Tls(rustls::Error::InvalidMessage(_)) => Outcome::Plaintext,
        _ => Outcome::Handshake(error),
    };
    let accepting = handshake::accept(credentials.server(), tcp, received, credentials.engine);
    let established = timeout(shared.dialer.timeouts.handshake, accepting)
        .await
        .map_err(|_| Outcome::HandshakeTimeout)?
        .map_err(strict_plaintext)?;
    let handshake = started.elapsed();
    let framing = framing_of(&established.alpn).ok_or(Outcome::NoProtocol)?;
    let peer = identify(
        &established.peer_chain,
        &credentials.bundles,
        SystemTime::now(),
        Role::Client,
    )
    .map_err(|error| Outcome::Handshake(handshake::HandshakeError::Identity(error)))?;
    let parameters = established.parameters;
    shared.metrics.handshake("server", parameters, handshake);
    let session = Session {
        peer: Arc::new(peer),
        parameters,
        handshake: Some(handshake),
        served: false,
    };
    Ok((Box::new((established, framing).into()), session))
}

/// `squire-tls/1`: the link is the application connection.
async fn only_one(shared: &Arc<Shared>, link: Box<Link>, session: Session, since: Instant, arrival: Arrival) {
    let record = arrival.record(shared, shared.next_id(), since, session.facts(Framing::Plain));
    if let After::Complete(link) = application(shared, link, 0, record, &session, arrival).await {
        link.close();
    }
}

/// `squire/1`: application connections until the peer closes the link or we want it gone.
async fn one_after_another(shared: &Arc<Shared>, mut link: Box<Link>, mut session: Session, arrival: Arrival) {
    let mut last = None;
    loop {
        let next = Box::pin(next_open(shared, &mut link, last)).await;
        let Some((sequence, id)) = next else {
            return link.close();
        };
        let record = arrival.record(shared, id, Instant::now(), session.facts(Framing::Squire));
        let complete;
        (link, complete) = match application(shared, link, sequence, record, &session, arrival).await {
            After::Complete(link) => (link, true),
            After::Reset(link) => (link, false),
            After::Broken => return,
        };
        if link.flush().await.is_err() {
            return;
        }
        last = Some(Last { sequence, complete });
        session.served = true;
        session.handshake = None;
    }
}

/// The application connection that went before on the same link.
#[derive(Clone, Copy)]
struct Last {
    sequence: u32,
    /// Both halves were closed in order; otherwise we have sent RESET, and what still comes of it is nobody's.
    complete: bool,
}

/// Waits for the next OPEN. `None`: there will be none.
async fn next_open(shared: &Shared, link: &mut Link, last: Option<Last>) -> Option<(u32, u64)> {
    let aborted = last.is_some_and(|last| !last.complete);
    let mut patience = LINK_IDLE;
    loop {
        let event = tokio::select! {
            event = timeout(patience, link.event()) => event.ok()?.ok()?,
            () = shared.draining.cancelled(), if patience == LINK_IDLE => {
                link.push(Control::GoAway);
                link.flush().await.ok()?;
                patience = LAST_CALL;
                continue;
            }
        };
        match event {
            Event::Open { sequence, id } => return Some((sequence, id)),
            Event::Data if aborted => link.discard(),
            Event::Fin if aborted => {}
            Event::Reset { sequence, .. } if last.is_some_and(|last| last.sequence == sequence) => {
                // Ours has been sent already, or the peer gave up before it saw our FIN: then it waits for an answer.
                if !aborted {
                    link.push(Control::Reset {
                        sequence,
                        reason: ResetReason::Aborted,
                    });
                    link.flush().await.ok()?;
                }
            }
            Event::Data | Event::Fin | Event::Reset { .. } | Event::GoAway | Event::Closed { .. } => return None,
        }
    }
}

/// What an application connection leaves of its link.
enum After {
    /// Both halves were closed in order.
    Complete(Box<Link>),
    /// RESET is on its way; the link can carry the next one.
    Reset(Box<Link>),
    /// The link is of no further use.
    Broken,
}

/// One application connection: find out what it carries, then authorize, dial, forward.
async fn application(
    shared: &Arc<Shared>,
    link: Box<Link>,
    sequence: u32,
    record: Record,
    session: &Session,
    arrival: Arrival,
) -> After {
    let framing = link.framing();
    let (returning, mut returned) = oneshot::channel();
    let give_back = move |link, ended| drop(returning.send((link, ended)));
    let mut wire = LinkWire::new(LinkStream::accepted(link, sequence, Box::new(give_back)));
    let known = arrival.source_known(shared).await;
    let begun = match (grounds(&shared.snapshot(), &session.peer, SystemTime::now()), known) {
        (Ok(()), Ok(())) => {
            let asked = arrival.asked(Some(&session.peer));
            Box::pin(begin::begin(shared, &record, &asked, &mut wire, None)).await
        }
        (Err(cut), _) => Begun::Refused(Outcome::Interrupted(Interrupted::Cut(cut))),
        (Ok(()), Err(unanswered)) => Begun::Refused(Outcome::Unanswered(unanswered)),
    };
    let (after, outcome) = match begun {
        Begun::Http1 { app } => {
            let peer = Some(&session.peer);
            let outcome = Box::pin(requests(shared, &record, &arrival, peer, &mut wire, app)).await;
            drop(wire);
            (handed_back(&mut returned, framing), outcome)
        }
        Begun::Http2 { app } => {
            let gate = gate(shared, &record, &arrival, Some(&session.peer));
            let (stream, received) = wire.into_stream();
            let outcome = Box::pin(h2::serve_inbound(gate, stream, received.into(), arrival.app, app)).await;
            (handed_back(&mut returned, framing), outcome)
        }
        Begun::Bytes { permit, app } => match wire.into_link() {
            None => (After::Broken, Outcome::Interrupted(LinkError::Truncated.into())),
            Some((mut link, received)) => {
                let early = Early {
                    to_app: &received,
                    ..Early::default()
                };
                let forwarded = forward::mesh(&permit, &mut link, &app, early, sequence, &record).await;
                if forwarded.is_err() {
                    socket::abort_on_close(&app);
                }
                ended(link, sequence, forwarded)
            }
        },
        Begun::Refused(outcome) => {
            wire.abort_for(match outcome {
                Outcome::AppUnreachable(_) => ResetReason::Unreachable,
                _ => ResetReason::Denied,
            });
            (handed_back(&mut returned, framing), outcome)
        }
    };
    record.close(&outcome);
    if grounds(&shared.snapshot(), &session.peer, SystemTime::now()).is_err() {
        return After::Broken;
    }
    after
}

/// The link that a byte stream has left behind.
fn handed_back(returned: &mut oneshot::Receiver<(Box<Link>, Ended)>, framing: Framing) -> After {
    match (returned.try_recv(), framing) {
        (Ok((link, Ended::Complete)), _) => After::Complete(link),
        (Ok((link, Ended::Aborted { .. })), Framing::Squire) => After::Reset(link),
        (Ok((_, Ended::Aborted { .. })), Framing::Plain) | (Err(_), _) => After::Broken,
    }
}

/// How an application connection of bytes ended, and what follows for its link.
fn ended(link: Box<Link>, sequence: u32, forwarded: Result<(), Interrupted>) -> (After, Outcome) {
    let Err(interrupted) = forwarded else {
        return (After::Complete(link), Outcome::Complete);
    };
    let after = match &interrupted {
        Interrupted::Link(_) | Interrupted::Far(_) => After::Broken,
        Interrupted::App(_) => reset(link, sequence, ResetReason::Aborted),
        Interrupted::Reset(_) => reset(link, sequence, ResetReason::Aborted),
        Interrupted::Cut(Cut::Draining) => reset(link, sequence, ResetReason::Draining),
        Interrupted::Cut(_) => reset(link, sequence, ResetReason::Denied),
    };
    (after, Outcome::Interrupted(interrupted))
}

/// Aborts the application connection; the link survives where its framing can tell the next one from this.
fn reset(mut link: Box<Link>, sequence: u32, reason: ResetReason) -> After {
    link.discard();
    match link.framing() {
        Framing::Squire => {
            link.push(Control::Reset { sequence, reason });
            After::Reset(link)
        }
        Framing::Plain => {
            // Nothing may look like an orderly end: no close_notify, and RST instead of FIN.
            socket::abort_on_close(link.tcp());
            After::Broken
        }
    }
}

impl Session {
    fn facts(&self, framing: Framing) -> Facts {
        Facts {
            peer: Some(Arc::clone(&self.peer)),
            carrier: Carrier::Mesh(framing),
            tls: Some(self.parameters),
            handshake: self.handshake,
            reused: self.served,
            ..Facts::default()
        }
    }
}
