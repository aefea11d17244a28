//! One stream, from its request's head to the end of its response: checked, judged, sent on, relayed, recorded. Each
//! stream is authorized by itself; what carries it says nothing about what it may do.

mod again;
mod ends;

use std::{
    future::poll_fn,
    net::SocketAddr,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use h2::Reason;
use tokio::time::timeout;

use self::ends::answer;
use super::{
    body::Body,
    control::{Control, Interrupt},
    grpc,
    head::{Head, Malformed},
    limits::Limits,
    refusal::Refusal,
    relay::{Event, Relay},
    side::{Pass, Side},
    ticket::Ticket,
    upstream::Slot,
    wire::{Accepted, Error, FieldList},
};
use crate::{
    ext_authz::Body as Shown,
    http::{Course, Exchange, Flag, LocalReply, Version},
    traffic::TryResult,
};

/// Serves one stream.
pub(super) async fn serve(side: Arc<Side>, limits: Limits, (fields, body, respond): Accepted, ticket: Arc<Ticket>) {
    let mut control = Control::new(respond, ticket);
    let recorder = &side.shared().recorder;
    let head = match Head::read(fields, side.normalization()) {
        Ok(head) => head,
        Err(malformed) => {
            let exchange = Exchange::malformed(recorder, side.connection(), Version::Http2);
            refuse_malformed(&side, &mut control, exchange, &malformed);
            return Box::pin(finish(&side, control, limits)).await;
        }
    };
    let view = head.view();
    let mut stream = Stream {
        side: &side,
        limits,
        grpc: view.is_grpc(),
        exchange: Some(Exchange::begin(recorder, side.connection(), &view)),
        head: &head,
        control,
        course: None,
        tried: Vec::new(),
        shown: None,
    };
    stream.run(body.into()).await;
    let control = stream.control;
    if control.has_rest() {
        Box::pin(finish(&side, control, limits)).await;
    }
}

/// Sends what is left of a reply of our own.
async fn finish(side: &Side, mut control: Control, limits: Limits) {
    if let Err(Interrupt::Stalled) = control.finish(limits.stall).await {
        side.shared().metrics.http2_refused(Refusal::Stalled);
    }
}

fn refuse_malformed(side: &Side, control: &mut Control, mut exchange: Exchange, malformed: &Malformed) {
    side.shared().metrics.http2_refused(Refusal::Malformed);
    tracing::debug!(%malformed, "request refused");
    let reply = LocalReply::text(400, &format!("bad request: {malformed}"));
    answer(control, &reply, false, false);
    exchange.status = 400;
    exchange.finish(Flag::Malformed);
}

/// A stream whose head has been read.
struct Stream<'a> {
    side: &'a Side,
    limits: Limits,
    head: &'a Head,
    grpc: bool,
    control: Control,
    /// Until the response is over.
    exchange: Option<Exchange>,
    /// Outbound: what becomes of it, whichever endpoint takes it.
    course: Option<Course>,
    /// Endpoints that have failed for it.
    tried: Vec<SocketAddr>,
    /// What has been read of its body to be shown, and whether that is all of it.
    shown: Option<(Vec<u8>, bool)>,
}

/// What to do about an attempt that did not bring a response.
enum Failed {
    /// None of it was looked at, or it may be done twice: another connection or endpoint may do.
    Again(Body, Problem),
    /// It is over.
    Over,
}

/// Why an attempt failed.
enum Problem {
    /// The endpoint could not be reached.
    Unreachable(String),
    /// The server did not take the stream.
    Refused(Error),
    /// It took longer than one try may.
    Late,
    /// The response is not the one that is wanted: to be made again after so long.
    Held(Duration),
}

/// Label and words of a body that took too long.
const SLOW: &str = "the request took too long";

impl Stream<'_> {
    async fn run(&mut self, mut body: Body) {
        match self.side.plan(&self.head.view()) {
            Ok(course) => self.course = course,
            Err(refused) => return self.refuse(refused),
        }
        let wanted = match body.is_end_stream() {
            true => 0,
            false => self.side.body_wanted(&self.head.view()),
        };
        if wanted > 0 && Box::pin(self.read_ahead(&mut body, wanted)).await.is_err() {
            return;
        }
        loop {
            match self.attempt(body).await {
                Err(Failed::Again(unsent, problem)) => {
                    let Some(wait) = self.retry(&problem) else {
                        return self.give_up(&problem);
                    };
                    if !wait.is_zero()
                        && let Err(interrupt) = self.control.guard(Box::pin(tokio::time::sleep(wait))).await
                    {
                        self.interrupted(None, interrupt);
                        return;
                    }
                    body = unsent;
                }
                Ok(()) | Err(Failed::Over) => return,
            }
        }
    }

    /// Reads as much of the body as providers want to see before the request is judged.
    async fn read_ahead(&mut self, body: &mut Body, wanted: usize) -> Result<(), Failed> {
        if self.head.expects_continue() {
            let mut go_on = FieldList::default();
            go_on.push(b":status", b"100");
            // A client that has gone is noticed below.
            let _ = self.control.respond.send_interim(&go_on);
        }
        let reading = timeout(self.side.shared().head_timeout, body.read_ahead(wanted));
        match self.control.guard(reading).await {
            Ok(Ok(Ok(()))) => {
                self.shown = Some(body.shown());
                Ok(())
            }
            Ok(Ok(Err(error))) => {
                let reason = error.reset().unwrap_or(Reason::CANCEL);
                Err(self.interrupted(None, Interrupt::Client(reason)))
            }
            Ok(Err(_)) => {
                self.side.shared().metrics.http2_refused(Refusal::SlowBody);
                self.reply(&LocalReply::text(408, SLOW), Flag::Malformed);
                Err(Failed::Over)
            }
            Err(interrupt) => Err(self.interrupted(None, interrupt)),
        }
    }

    async fn attempt(&mut self, body: Body) -> Result<(), Failed> {
        let view = self.head.view();
        let shown = match &self.shown {
            Some((bytes, complete)) => Some(Shown {
                bytes,
                complete: *complete,
            }),
            None => body.is_end_stream().then_some(Shown::NONE),
        };
        let passing = self.side.pass(&view, self.course.as_ref(), &self.tried, shown);
        let mut pass = match self.control.guard(passing).await {
            Ok(Ok(pass)) => pass,
            Ok(Err(refused)) => {
                self.refuse(refused);
                return Err(Failed::Over);
            }
            Err(interrupt) => return Err(self.interrupted(None, interrupt)),
        };
        self.note(&pass);
        let slot = match self.side.slot_now(&pass) {
            Some(slot) => slot,
            None => {
                let begun = Instant::now();
                let limit = self.course.as_ref().and_then(Course::connect_timeout);
                // Rarely needed and large: it would be a part of every stream's future.
                let reaching = Box::pin(reach(self.side, &pass, limit));
                match self.control.guard(reaching).await {
                    Ok(Ok(slot)) => slot,
                    Ok(Err(unreachable)) => {
                        self.failed_there(&mut pass, begun);
                        return Err(Failed::Again(body, Problem::Unreachable(unreachable)));
                    }
                    Err(interrupt) => return Err(self.interrupted(None, interrupt)),
                }
            }
        };
        if let Some(picked) = &mut pass.picked {
            picked.connected();
        }
        if self.head.is_extended_connect() {
            match self.control.guard(slot.upstream.takes_extended_connect()).await {
                Ok(true) => {}
                Ok(false) => {
                    let reply = LocalReply::text(501, "the upstream takes no WebSocket over HTTP/2");
                    self.reply(&reply, Flag::Malformed);
                    return Err(Failed::Over);
                }
                Err(interrupt) => return Err(self.interrupted(None, interrupt)),
            }
        }
        let (relay, slot) = self.send(body, &pass, slot)?;
        let done = self.relay(relay, &mut pass).await;
        drop(slot);
        done
    }

    /// The endpoint is to blame: it is not tried again for this request, and less for others.
    fn failed_there(&mut self, pass: &mut Pass, begun: Instant) {
        self.tried.extend(pass.address());
        if let Some(picked) = &mut pass.picked {
            picked.responded(TryResult::Failure, begun.elapsed(), Instant::now());
        }
    }

    /// Notes in the record what was decided, and sets the clock.
    fn note(&mut self, pass: &Pass) {
        let (limit, course) = (self.limit(), self.course.as_ref());
        let Some(exchange) = &mut self.exchange else { return };
        exchange.decision.clone_from(&pass.decision);
        exchange.route = course.and_then(Course::route);
        let whole = limit.map(|limit| exchange.started + limit);
        let one = course.and_then(Course::try_timeout).map(|limit| Instant::now() + limit);
        if let Some(at) = whole.into_iter().chain(one).min() {
            self.control.end_at(at);
        }
    }

    /// Sends the head. The slot is held as long as the stream is open.
    #[allow(
        clippy::result_large_err,
        reason = "the unsent body goes back for the next attempt, and is moved either way"
    )]
    fn send(&mut self, body: Body, pass: &Pass, mut slot: Slot) -> Result<(Relay, Slot), Failed> {
        let mut edits = std::borrow::Cow::Borrowed(&pass.edits);
        if self.shown.is_some() && self.head.expects_continue() {
            // The client has been told already.
            edits.to_mut().remove.push("expect".into());
        }
        let mut request = match self.head.forward(&edits, self.side.forwarded()) {
            Ok(request) => request,
            Err(malformed) => {
                if let Some(exchange) = self.exchange.take() {
                    refuse_malformed(self.side, &mut self.control, exchange, &malformed);
                }
                return Err(Failed::Over);
            }
        };
        // A shorter limit of the route is told to the server too.
        let limit = self.course.as_ref().and_then(Course::timeout);
        if let Some(limit) = limit.filter(|limit| self.asked().is_some_and(|asked| asked > *limit)) {
            request.set("grpc-timeout", grpc::write_timeout(limit).as_bytes());
        }
        if let Some(exchange) = &mut self.exchange {
            exchange.attempts = exchange.attempts.saturating_add(1);
        }
        let ended = body.is_end_stream();
        match slot.sender.send_request(&request, ended) {
            Ok((response, sink)) => {
                let edits = self.course.as_ref().map(Course::response_edits).unwrap_or_default();
                let edits = edits.then(pass.response_edits());
                Ok((Relay::new(body, sink, response, ended, edits), slot))
            }
            Err(error) => Err(Failed::Again(body, Problem::Refused(error))),
        }
    }

    async fn relay(&mut self, mut relay: Relay, pass: &mut Pass) -> Result<(), Failed> {
        let sent = Instant::now();
        loop {
            let event = poll_fn(|cx| {
                if let Poll::Ready(interrupt) = self.control.poll(cx) {
                    return Poll::Ready(Err(interrupt));
                }
                if self.control.takes_judgement() && !self.side.still_passes(&self.head.view(), pass) {
                    return Poll::Ready(Err(Interrupt::Denied));
                }
                if self.control.takes_a_look() && self.is_stalled(&relay) {
                    return Poll::Ready(Err(Interrupt::Stalled));
                }
                relay.poll(&mut self.control, cx).map(Ok)
            })
            .await;
            match event {
                Ok(Event::Head) => {
                    if let Some(picked) = &mut pass.picked {
                        picked.responded(result_of(&relay), sent.elapsed(), Instant::now());
                    }
                    if let Some(wait) = self.holds(&relay) {
                        self.tried.extend(pass.address());
                        relay.reset_server(Reason::CANCEL);
                        return Err(Failed::Again(relay.into_body(), Problem::Held(wait)));
                    }
                    if let Err(reason) = relay.answer(&mut self.control) {
                        return Err(self.interrupted(Some(relay), Interrupt::Client(reason)));
                    }
                    if self.head.is_extended_connect() {
                        // From here on it is a WebSocket, which stays open for as long as it likes.
                        self.control.end_at_last(None, None);
                        continue;
                    }
                    // The time for one try is over; the request's own goes on.
                    self.control
                        .end_at_last(self.exchange.as_ref().map(|exchange| exchange.started), self.limit());
                }
                Ok(Event::Answered) => self.finish(&relay, Flag::Ok),
                Ok(Event::Over) => return Ok(()),
                Ok(Event::ClientGone(reason)) => {
                    return Err(self.interrupted(Some(relay), Interrupt::Client(reason)));
                }
                Ok(Event::Failed(error)) => {
                    if !self.control.answered {
                        self.failed_there(pass, sent);
                    }
                    return Err(self.failed(relay, error));
                }
                Err(Interrupt::Deadline) if !self.control.answered => {
                    self.failed_there(pass, sent);
                    return Err(self.late(relay));
                }
                Err(interrupt) => return Err(self.interrupted(Some(relay), interrupt)),
            }
        }
    }

    fn is_stalled(&self, relay: &Relay) -> bool {
        relay
            .stalled()
            .is_some_and(|since| since.elapsed() >= self.limits.stall)
    }
}

/// Room on a connection to where the request goes, in the time there is for that.
async fn reach(side: &Side, pass: &Pass, limit: Option<Duration>) -> Result<Slot, String> {
    let reaching = side.slot(pass);
    let reached = match limit {
        None => reaching.await,
        Some(limit) => timeout(limit, reaching)
            .await
            .map_err(|_| format!("no connection in {limit:?}"))?,
    };
    reached.map_err(|unreachable| unreachable.to_string())
}

/// What a response says of its endpoint. gRPC says it with its status: UNAVAILABLE.
fn result_of(relay: &Relay) -> TryResult {
    match relay.grpc_status {
        Some(14) => TryResult::Failure,
        _ => TryResult::of_status(relay.status),
    }
}
