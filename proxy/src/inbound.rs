//! Peer to application, in order: accept → TLS → identify → authorize → dial the application → forward → close. Each
//! application connection on a link is authorized anew. This page knows the order; the steps live elsewhere.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use squire_mesh::{
    policy::MtlsMode,
    svid::{Role, VerifiedPeer, identify},
};
use tokio::{net::TcpStream, sync::oneshot, time::timeout};

use crate::{
    accept::Accepted,
    authorize::{self, Answer, Question, grounds},
    begin::{self, Asked, Begun},
    connection::{Carrier, Cut, Direction, Facts, Record},
    ext_authz::NOBODY_ASKED,
    first_bytes::{self, First},
    forward::{self, Early, Interrupted},
    http::{
        Gate,
        h1::{self, LinkWire, TcpWire, Wire},
        h2,
    },
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

/// One accepted connection, from its first byte to its last.
pub(crate) async fn serve(shared: Arc<Shared>, accepted: Accepted) {
    let Accepted {
        tcp,
        client,
        destination,
        app,
        port,
        since,
        slot: _slot,
    } = accepted;
    let arrival = Arrival {
        client,
        destination,
        port,
        app,
    };
    let snapshot = shared.snapshot();
    let Some(table) = &snapshot.policy else {
        return arrival.refuse(&shared, since, &Outcome::NotReady("policy"));
    };
    if shared.destinations.is_own(&snapshot, arrival.app) {
        let outcome = Outcome::NoRoute("the destination is this sidecar itself");
        return arrival.refuse(&shared, since, &outcome);
    }
    let mode = table.mtls_mode(arrival.port);
    drop(snapshot);
    // Boxed: a connection then holds the frame of its own way, not of the longest.
    match mode {
        MtlsMode::Strict => Box::pin(mutual_tls(&shared, tcp, Vec::new(), since, arrival)).await,
        MtlsMode::Disable => Box::pin(plaintext(&shared, tcp, &[], None, since, arrival)).await,
        MtlsMode::Permissive => Box::pin(permissive(&shared, tcp, since, arrival)).await,
    }
}

/// Where a connection came from and what it is meant for.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    client: SocketAddr,
    destination: SocketAddr,
    port: u16,
    app: SocketAddr,
}

impl Arrival {
    fn asked<'a>(&self, peer: Option<&'a VerifiedPeer>) -> Asked<'a> {
        let question = Question {
            peer,
            remote: self.client,
            local: self.destination,
            port: self.port,
        };
        Asked {
            question,
            app: self.app,
        }
    }

    /// Opens a record with what is known from the start.
    fn record(&self, shared: &Shared, id: u64, since: Instant, facts: Facts) -> Record {
        let local = shared
            .credentials
            .borrow()
            .as_ref()
            .map(|credentials| credentials.svid.id().clone());
        let facts = Facts {
            port: self.port,
            local,
            ..facts
        };
        shared
            .recorder
            .open(Direction::Inbound, id, since, (self.client, self.destination), facts)
    }

    /// A connection that ends before anything is known of it.
    fn refuse(&self, shared: &Shared, since: Instant, outcome: &Outcome) {
        self.record(shared, shared.next_id(), since, Facts::default())
            .close(outcome);
    }
}

/// PERMISSIVE: mesh TLS if the client starts it; anything else passes as it is, without an identity.
async fn permissive(shared: &Arc<Shared>, tcp: TcpStream, since: Instant, arrival: Arrival) {
    let may_enter = match authorize::inbound(&shared.snapshot(), arrival.asked(None).question, &NOBODY_ASKED) {
        Answer::Permitted(permit, _) => Some(permit),
        Answer::Denied(_) | Answer::NotReady(_) => None,
    };
    let limit = shared.dialer.timeouts.handshake;
    let first = Box::pin(first_bytes::wait(shared, &tcp, arrival.app, may_enter.as_ref(), limit)).await;
    match first {
        Ok(First::Mesh(received)) => Box::pin(mutual_tls(shared, tcp, received, since, arrival)).await,
        Ok(First::Opaque { received, app }) => Box::pin(plaintext(shared, tcp, &received, app, since, arrival)).await,
        Ok(First::Silent) => arrival.refuse(shared, since, &Outcome::HandshakeTimeout),
        Err(error) => arrival.refuse(shared, since, &Outcome::Interrupted(Interrupted::Far(error))),
    }
}

/// Without mutual TLS: authorized as an unauthenticated source.
async fn plaintext(
    shared: &Arc<Shared>,
    tcp: TcpStream,
    received: &[u8],
    app: Option<TcpStream>,
    since: Instant,
    arrival: Arrival,
) {
    let facts = Facts {
        carrier: Carrier::Plaintext,
        ..Facts::default()
    };
    let record = arrival.record(shared, shared.next_id(), since, facts);
    let mut wire = TcpWire::new(tcp, received);
    let begun = Box::pin(begin::begin(shared, &record, &arrival.asked(None), &mut wire, app)).await;
    let outcome = match begun {
        Begun::Http1 { app } => Box::pin(requests(shared, &record, &arrival, None, &mut wire, app)).await,
        Begun::Http2 { app } => {
            let (tcp, received) = wire.into_parts();
            let gate = gate(shared, &record, &arrival, None);
            Box::pin(h2::serve_inbound(gate, tcp, received.into(), arrival.app, app)).await
        }
        Begun::Bytes { permit, app } => {
            let (tcp, received) = wire.into_parts();
            let forwarded = forward::plain(&permit, &tcp, &app, &received, &record).await;
            if forwarded.is_err() {
                socket::abort_on_close(&tcp);
                socket::abort_on_close(&app);
            }
            forwarded.map_or_else(Outcome::Interrupted, |()| Outcome::Complete)
        }
        Begun::Refused(outcome) => outcome,
    };
    record.close(&outcome);
}

/// HTTP/1: each request passes the gate.
async fn requests<D: Wire + Send>(
    shared: &Arc<Shared>,
    record: &Record,
    arrival: &Arrival,
    peer: Option<&Arc<VerifiedPeer>>,
    wire: &mut D,
    app: Option<TcpStream>,
) -> Outcome {
    let gate = gate(shared, record, arrival, peer);
    let mut side = h1::Inbound::new(gate, arrival.app, app);
    h1::serve(shared, record, wire, &mut side).await
}

/// The gate that the requests of a connection pass.
fn gate(shared: &Arc<Shared>, record: &Record, arrival: &Arrival, peer: Option<&Arc<VerifiedPeer>>) -> Arc<Gate> {
    let workload = authorize::workload_at(&shared.snapshot(), arrival.client, peer.map(|peer| &**peer));
    record.facts().peer_workload = workload.map(|workload| workload.uid.clone());
    record.count_in(shared.metrics.series_of(record));
    Arc::new(Gate::new(
        Arc::clone(shared),
        Arc::clone(record),
        peer.map(Arc::clone),
        arrival.destination,
        arrival.port,
    ))
}

/// A client that has to prove who it is.
async fn mutual_tls(shared: &Arc<Shared>, tcp: TcpStream, received: Vec<u8>, since: Instant, arrival: Arrival) {
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
    let begun = match grounds(&shared.snapshot(), &session.peer, SystemTime::now()) {
        Ok(()) => {
            let asked = arrival.asked(Some(&session.peer));
            Box::pin(begin::begin(shared, &record, &asked, &mut wire, None)).await
        }
        Err(cut) => Begun::Refused(Outcome::Interrupted(Interrupted::Cut(cut))),
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
