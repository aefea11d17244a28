//! Application to peer, in order: accept → route → (egress policy) → link from the pool or dialled → forward → close.
//! This page knows the order; the steps live elsewhere.

use std::{
    future::poll_fn,
    net::SocketAddr,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use tokio::{net::TcpStream, task::yield_now};

use crate::{
    accept::Accepted,
    authorize::{self, Answer, Permit, Question},
    connection::{Application, Carrier, Connection, Direction, Facts, Record},
    destinations::of_family,
    dial::DialError,
    forward::{self, Early, Interrupted},
    http::{
        Declared, Way, detect,
        h1::{self, IdleUp, LinkWire, TcpWire, UpKey, UpWire, Wire as _},
        h2,
    },
    link::{
        Event, Framing, Link, LinkStream,
        frame::{Control, ResetReason},
    },
    outcome::Outcome,
    pool::{Key, Leased},
    route::{Endpoint, Route, Target, Via, route},
    shared::Shared,
    socket,
    traffic::TryResult,
};

/// Endpoints tried before a connection is given up.
const TRIES: usize = 3;

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
    let outcome = attempt(&shared, app, &record, &target).await;
    record.close(&outcome);
}

async fn attempt(shared: &Arc<Shared>, app: TcpStream, record: &Record, target: &Target) -> Outcome {
    let route = match route(&shared.snapshot(), target) {
        Ok(route) => route,
        Err(why) => {
            socket::abort_on_close(&app);
            return Outcome::NoRoute(why);
        }
    };
    let declared = route.declared();
    let mut wire = TcpWire::new(app, &[]);
    // An application that speaks first has usually done so by the time the runtime has looked; then nothing has to be
    // opened to find out what it speaks, and OPEN and its first bytes share one record. Nobody waits: at most one turn of
    // the event loop is spent.
    yield_now().await;
    let seen = match heard(&mut wire, record, declared).await {
        Ok(seen) => seen,
        Err(interrupted) => return abandon(wire, Outcome::Interrupted(interrupted)),
    };
    if seen == Application::Http1 {
        return Box::pin(requests(shared, record, (route, target.clone()), &mut wire, None)).await;
    }
    if seen == Application::Http2 {
        return Box::pin(streams(shared, record, (route, target.clone()), wire)).await;
    }
    Box::pin(bytes(shared, record, (route, target.clone()), wire, seen)).await
}

/// What the application has said so far. Waited for only where nothing else can be done: in the middle of a first line, or
/// where HTTP is declared.
async fn heard(wire: &mut TcpWire, record: &Record, declared: Declared) -> Result<Application, Interrupted> {
    if declared == Declared::Bytes {
        return Ok(Application::Bytes);
    }
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(cut) = record.poll_cut(cx) {
                return Poll::Ready(Err(Interrupted::Cut(cut)));
            }
            match wire.poll_fill(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(Application::Bytes)),
                Poll::Ready(Ok(_)) => match detect(wire.input(), declared) {
                    Application::Unknown => {}
                    seen => return Poll::Ready(Ok(seen)),
                },
                Poll::Ready(Err(error)) => return Poll::Ready(Err(record.near_failed(error))),
                Poll::Pending if wire.input().is_empty() && declared == Declared::Nothing => {
                    return Poll::Ready(Ok(Application::Unknown));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

/// HTTP/1: each request finds its own way.
async fn requests(
    shared: &Arc<Shared>,
    record: &Record,
    (route, target): (Route, Target),
    wire: &mut TcpWire,
    open: Option<(UpKey, IdleUp)>,
) -> Outcome {
    let way = Way {
        shared: Arc::clone(shared),
        connection: Arc::clone(record),
        route,
        target,
    };
    let mut side = h1::Outbound::new(way, open);
    h1::serve(shared, record, wire, &mut side).await
}

/// HTTP/2: each stream finds its own way.
async fn streams(shared: &Arc<Shared>, record: &Record, (route, target): (Route, Target), wire: TcpWire) -> Outcome {
    let way = Way {
        shared: Arc::clone(shared),
        connection: Arc::clone(record),
        route,
        target,
    };
    let (app, received) = wire.into_parts();
    h2::serve_outbound(Arc::new(way), app, received.into()).await
}

/// Bytes, or something that is not known yet (`seen`): reaches for an endpoint at once.
async fn bytes(
    shared: &Arc<Shared>,
    record: &Record,
    to: (Route, Target),
    wire: TcpWire,
    seen: Application,
) -> Outcome {
    let (route, target) = &to;
    let mut tried = Vec::new();
    let mut last = Outcome::NoRoute("no endpoint");
    while tried.len() < TRIES {
        let (mut endpoint, mut picked) = match route {
            Route::Endpoint(endpoint) => (Endpoint::clone(endpoint), None),
            Route::Service(service, port) => {
                let (snapshot, service) = (shared.snapshot(), service.name.as_str());
                let traffic = &shared.traffic;
                match traffic.pick_connection(&snapshot, service, *port, &tried, Instant::now()) {
                    Ok(picked) => (picked.endpoint().clone(), Some(picked)),
                    Err(_) => {
                        return abandon(
                            wire,
                            Outcome::NoRoute("the service has no ready endpoint for that port"),
                        );
                    }
                }
            }
        };
        let address = endpoint.address;
        if tried.contains(&address) {
            break;
        }
        if let Err(why) = shared.destinations.settle(&shared.snapshot(), target, &mut endpoint) {
            return abandon(wire, Outcome::NoRoute(why));
        }
        let permit = match decide(shared, record, &endpoint) {
            Ok(permit) => permit,
            Err(outcome) => return abandon(wire, outcome),
        };
        let begun = Instant::now();
        let opened = Box::pin(open(shared, record, &endpoint)).await;
        let result = if opened.is_ok() {
            TryResult::Success
        } else {
            TryResult::Failure
        };
        if let Some(picked) = &mut picked {
            picked.responded(result, begun.elapsed(), Instant::now());
        }
        match opened {
            Ok(opened) => return Box::pin(carry(shared, record, to, wire, seen, opened, permit)).await,
            // Nothing was sent yet: another endpoint may do.
            Err(error) => {
                tracing::debug!(address = %endpoint.address, %error, "endpoint not reached");
                tried.push(address);
                last = Outcome::Unreachable(error);
            }
        }
    }
    abandon(wire, last)
}

/// Ends the application's connection as a failure.
fn abandon(mut wire: TcpWire, outcome: Outcome) -> Outcome {
    wire.abort();
    outcome
}

/// An upstream that has been reached, and nothing sent to it.
enum Opened {
    Plaintext(TcpStream, SocketAddr),
    /// `squire/1`, with OPEN waiting to be sent.
    Pooled(Key, Leased),
    /// `squire-tls/1`.
    Alone(Box<Link>),
}

async fn open(shared: &Arc<Shared>, record: &Record, endpoint: &Endpoint) -> Result<Opened, DialError> {
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

/// Goes on with an upstream that has been reached: whoever speaks first shows what is spoken.
async fn carry(
    shared: &Arc<Shared>,
    record: &Record,
    to: (Route, Target),
    mut wire: TcpWire,
    mut seen: Application,
    mut opened: Opened,
    permit: Permit,
) -> Outcome {
    if seen == Application::Unknown {
        seen = match first_words(&mut wire, &mut opened, record).await {
            Ok(seen) => seen,
            Err(interrupted) => return over(shared, opened, abandon(wire, Outcome::Interrupted(interrupted))),
        };
    }
    if seen == Application::Http1 {
        let open = kept(shared, record, opened);
        return Box::pin(requests(shared, record, to, &mut wire, Some(open))).await;
    }
    if seen == Application::Http2 {
        adopted(shared, record, opened).await;
        return Box::pin(streams(shared, record, to, wire)).await;
    }
    record.facts().application = Application::Bytes;
    let (app, received) = wire.into_parts();
    let early = Early {
        to_peer: &received,
        ..Early::default()
    };
    let forwarded = match &mut opened {
        Opened::Plaintext(far, _) => forward::plain(&permit, &app, far, &received, record).await,
        Opened::Pooled(_, leased) => {
            forward::mesh(&permit, &mut leased.link, &app, early, leased.sequence, record).await
        }
        Opened::Alone(link) => forward::mesh(&permit, link, &app, early, 0, record).await,
    };
    let outcome = forwarded.map_or_else(Outcome::Interrupted, |()| Outcome::Complete);
    if !matches!(outcome, Outcome::Complete) {
        socket::abort_on_close(&app);
    }
    over(shared, opened, outcome)
}

/// Waits until one side speaks; the peer's squire is told of the connection, so that its application may be the first.
async fn first_words(wire: &mut TcpWire, opened: &mut Opened, record: &Record) -> Result<Application, Interrupted> {
    poll_fn(|cx| {
        if let Poll::Ready(cut) = record.poll_cut(cx) {
            return Poll::Ready(Err(Interrupted::Cut(cut)));
        }
        loop {
            match wire.poll_fill(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(Application::Bytes)),
                Poll::Ready(Ok(_)) => match detect(wire.input(), Declared::Nothing) {
                    Application::Unknown => {}
                    seen => return Poll::Ready(Ok(seen)),
                },
                Poll::Ready(Err(error)) => return Poll::Ready(Err(record.near_failed(error))),
                Poll::Pending => break,
            }
        }
        let link = match opened {
            Opened::Plaintext(far, _) => {
                return far.poll_read_ready(cx).map(|_| Ok(Application::Bytes));
            }
            Opened::Pooled(_, leased) => &mut leased.link,
            Opened::Alone(link) => link,
        };
        if let Poll::Ready(Err(error)) = link.poll_flush(cx) {
            return Poll::Ready(Err(error.into()));
        }
        if link.has_data() {
            return Poll::Ready(Ok(Application::Bytes));
        }
        let event = match link.poll_event(cx) {
            Poll::Ready(Ok(event)) => event,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
            Poll::Pending => return Poll::Pending,
        };
        if event != Event::Data {
            link.unread(event);
        }
        Poll::Ready(Ok(Application::Bytes))
    })
    .await
}

/// The upstream that has been reached, for the first request.
fn kept(shared: &Arc<Shared>, record: &Record, opened: Opened) -> (UpKey, IdleUp) {
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
async fn adopted(shared: &Arc<Shared>, record: &Record, opened: Opened) {
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
fn over(shared: &Arc<Shared>, opened: Opened, outcome: Outcome) -> Outcome {
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
