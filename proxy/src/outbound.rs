//! Application to peer, in order: accept → (what it needs is known) → route → (egress policy) → link from the pool or dialled → forward → close.
//! This page knows the order; the steps live elsewhere.

mod upstream;
mod words;

use std::{net::SocketAddr, sync::Arc, time::Instant};

use tokio::{net::TcpStream, task::yield_now};

pub(crate) use self::upstream::note;
use self::{
    upstream::{Opened, adopted, kept, open, over},
    words::{first_words, heard},
};
use crate::{
    accept::Accepted,
    authorize::{self, Answer, Permit, Question},
    connection::{Application, Connection, Direction, Facts, Record},
    demand::Need,
    destinations::of_family,
    forward::{self, Early},
    http::{
        Way,
        h1::{self, IdleUp, TcpWire, UpKey, Wire as _},
        h2,
    },
    outcome::Outcome,
    route::{Endpoint, Route, Target, route},
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

/// Step after step, each in memory of its own: what is needed only until the way is known is given back then, and an idle
/// connection holds what its last step holds.
async fn attempt(shared: &Arc<Shared>, app: TcpStream, record: &Record, target: &Target) -> Outcome {
    let begun = Box::pin(begin(shared, app, record, target)).await;
    let begun = match begun {
        Ok(begun) => begun,
        Err(outcome) => return outcome,
    };
    match begun.seen {
        Application::Http1 => Box::pin(requests(shared, record, begun.to, begun.wire, None)).await,
        Application::Http2 => Box::pin(streams(shared, record, begun.to, begun.wire)).await,
        _ => {
            let reached = Box::pin(reach(shared, record, begun)).await;
            match reached {
                Ok(reached) => Box::pin(carry(shared, record, reached)).await,
                Err(outcome) => outcome,
            }
        }
    }
}

/// An application that is going to be served.
struct Begun {
    wire: TcpWire,
    to: (Route, Target),
    /// What it speaks, as far as it has said so.
    seen: Application,
}

/// Where it leads, and what its application says first.
async fn begin(shared: &Arc<Shared>, app: TcpStream, record: &Record, target: &Target) -> Result<Begun, Outcome> {
    if let Err(unanswered) = shared.known(Need::Target(target)).await {
        socket::abort_on_close(&app);
        return Err(Outcome::Unanswered(unanswered));
    }
    let snapshot = shared.snapshot();
    let route = match route(&snapshot, target) {
        Ok(route) => route,
        Err(why) => {
            socket::abort_on_close(&app);
            return Err(Outcome::NoRoute(why));
        }
    };
    let declared = route.declared(&snapshot);
    drop(snapshot);
    let mut wire = TcpWire::new(app, &[]);
    // An application that speaks first has usually done so by the time the runtime has looked; then nothing has to be
    // opened to find out what it speaks, and OPEN and its first bytes share one record. Nobody waits: at most one turn of
    // the event loop is spent.
    yield_now().await;
    match heard(&mut wire, record, declared).await {
        Ok(seen) => Ok(Begun {
            wire,
            to: (route, target.clone()),
            seen,
        }),
        Err(interrupted) => Err(abandon(wire, Outcome::Interrupted(interrupted))),
    }
}

/// HTTP/1: each request finds its own way.
async fn requests(
    shared: &Arc<Shared>,
    record: &Record,
    (route, target): (Route, Target),
    mut wire: TcpWire,
    open: Option<(UpKey, IdleUp)>,
) -> Outcome {
    let way = Way {
        shared: Arc::clone(shared),
        connection: Arc::clone(record),
        route,
        target,
    };
    let mut side = h1::Outbound::new(way, open);
    h1::serve(shared, record, &mut wire, &mut side).await
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

/// An application whose peer has been reached.
struct Reached {
    begun: Begun,
    opened: Opened,
    permit: Permit,
}

/// Bytes, or something that is not known yet (`seen`): reaches for an endpoint at once.
async fn reach(shared: &Arc<Shared>, record: &Record, begun: Begun) -> Result<Reached, Outcome> {
    let Begun { wire, to, seen } = begun;
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
                        return Err(abandon(
                            wire,
                            Outcome::NoRoute("the service has no ready endpoint for that port"),
                        ));
                    }
                }
            }
        };
        let address = endpoint.address;
        if tried.contains(&address) {
            break;
        }
        if let Err(why) = shared.destinations.settle(&shared.snapshot(), target, &mut endpoint) {
            return Err(abandon(wire, Outcome::NoRoute(why)));
        }
        let permit = match decide(shared, record, &endpoint) {
            Ok(permit) => permit,
            Err(outcome) => return Err(abandon(wire, outcome)),
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
            Ok(opened) => {
                return Ok(Reached {
                    begun: Begun { wire, to, seen },
                    opened,
                    permit,
                });
            }
            // Nothing was sent yet: another endpoint may do.
            Err(error) => {
                tracing::debug!(address = %endpoint.address, %error, "endpoint not reached");
                tried.push(address);
                last = Outcome::Unreachable(error);
            }
        }
    }
    Err(abandon(wire, last))
}

/// Ends the application's connection as a failure.
fn abandon(mut wire: TcpWire, outcome: Outcome) -> Outcome {
    wire.abort();
    outcome
}

/// Goes on with an upstream that has been reached: whoever speaks first shows what is spoken.
async fn carry(shared: &Arc<Shared>, record: &Record, reached: Reached) -> Outcome {
    let Reached {
        begun: Begun { mut wire, to, mut seen },
        mut opened,
        permit,
    } = reached;
    if seen == Application::Unknown {
        seen = match first_words(&mut wire, &mut opened, record).await {
            Ok(seen) => seen,
            Err(interrupted) => return over(shared, opened, abandon(wire, Outcome::Interrupted(interrupted))),
        };
    }
    if seen == Application::Http1 {
        let open = kept(shared, record, opened);
        return Box::pin(requests(shared, record, to, wire, Some(open))).await;
    }
    if seen == Application::Http2 {
        Box::pin(adopted(shared, record, opened)).await;
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
