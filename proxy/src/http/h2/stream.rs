//! One stream, from its request's head to the end of its response: checked, judged, sent on, relayed, recorded. Each
//! stream is authorized by itself; what carries it says nothing about what it may do.

use std::{
    future::poll_fn,
    net::SocketAddr,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{HeaderValue, Request};

use super::{
    control::{Control, Interrupt},
    grpc,
    head::{Head, Malformed},
    limits::Limits,
    refusal::Refusal,
    relay::{Event, Relay},
    side::{Pass, Side},
    ticket::Ticket,
    upstream::Slot,
};
use crate::http::{Exchange, Flag, LocalReply, Refused, Version};

/// Serves one stream.
pub(super) async fn serve(
    side: Arc<Side>,
    limits: Limits,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    ticket: Arc<Ticket>,
) {
    let mut control = Control::new(respond, ticket);
    let recorder = &side.shared().recorder;
    let (head, body) = match Head::read(request, side.normalization()) {
        Ok(read) => read,
        Err(malformed) => {
            let exchange = Exchange::malformed(recorder, side.connection(), Version::Http2);
            return refuse_malformed(&side, &mut control, exchange, &malformed);
        }
    };
    let view = head.view();
    let stream = Stream {
        side: &side,
        limits,
        grpc: view.is_grpc(),
        exchange: Some(Exchange::begin(recorder, side.connection(), &view)),
        head: &head,
        control,
        tried: Vec::new(),
    };
    stream.run(body).await;
}

fn refuse_malformed(side: &Side, control: &mut Control, mut exchange: Exchange, malformed: &Malformed) {
    side.shared().metrics.http2_refused(Refusal::Malformed);
    tracing::debug!(%malformed, "request refused");
    let reply = LocalReply::text(400, &format!("bad request: {malformed}"));
    let _ = grpc::reply(&mut control.respond, &reply, false, false);
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
    /// Endpoints that could not be reached.
    tried: Vec<SocketAddr>,
}

/// What to do about an attempt that did not bring a response.
enum Failed {
    /// Nothing has been sent, or nothing of it was looked at: another connection may do.
    Again(RecvStream, Problem),
    /// It is over.
    Over,
}

/// Why an attempt failed before the server looked at it.
enum Problem {
    /// The endpoint.
    Endpoint(Option<SocketAddr>, String),
    /// The connection, on which the server did not take the stream.
    Connection(h2::Error),
}

impl Stream<'_> {
    async fn run(mut self, mut body: RecvStream) {
        for attempt in 1..=self.limits.attempts {
            match self.attempt(body).await {
                Err(Failed::Again(unsent, problem)) => {
                    if attempt == self.limits.attempts {
                        return self.give_up(&problem);
                    }
                    if let Problem::Endpoint(Some(address), _) = problem {
                        self.tried.push(address);
                    }
                    body = unsent;
                }
                Ok(()) | Err(Failed::Over) => return,
            }
        }
    }

    async fn attempt(&mut self, body: RecvStream) -> Result<(), Failed> {
        let pass = match self.control.guard(self.side.pass(&self.head.view(), &self.tried)).await {
            Ok(Ok(pass)) => pass,
            Ok(Err(refused)) => {
                // Nowhere else to go after an endpoint has failed: that is what there is to tell.
                self.refuse(refused);
                return Err(Failed::Over);
            }
            Err(interrupt) => return Err(self.interrupted(None, interrupt)),
        };
        let timeout = self.note(&pass);
        let slot = match self.control.guard(self.side.slot(&pass)).await {
            Ok(Ok(slot)) => slot,
            Ok(Err(unreachable)) => {
                let problem = Problem::Endpoint(pass.address(), unreachable.to_string());
                return Err(Failed::Again(body, problem));
            }
            Err(interrupt) => return Err(self.interrupted(None, interrupt)),
        };
        let (relay, slot) = self.send(body, &pass, slot, timeout)?;
        let done = self.relay(relay, &pass).await;
        drop(slot);
        done
    }

    /// Notes in the record what was decided. Returns the deadline that the next hop has to be told.
    fn note(&mut self, pass: &Pass) -> Option<Duration> {
        let asked = self
            .head
            .field("grpc-timeout")
            .filter(|_| self.grpc)
            .and_then(grpc::timeout);
        let exchange = self.exchange.as_mut()?;
        exchange.decision.clone_from(&pass.decision);
        exchange.route.clone_from(&pass.route);
        let timeout = pass.timeout?;
        self.control
            .end_at(exchange.started + asked.map_or(timeout, |asked| asked.min(timeout)));
        asked.filter(|asked| *asked > timeout).map(|_| timeout)
    }

    /// Sends the head. The slot is held as long as the stream is open.
    fn send(
        &mut self,
        body: RecvStream,
        pass: &Pass,
        mut slot: Slot,
        timeout: Option<Duration>,
    ) -> Result<(Relay, Slot), Failed> {
        let mut request = match self.head.forward(&pass.edits, self.side.forwarded()) {
            Ok(request) => request,
            Err(malformed) => {
                if let Some(exchange) = self.exchange.take() {
                    refuse_malformed(self.side, &mut self.control, exchange, &malformed);
                }
                return Err(Failed::Over);
            }
        };
        if let Some(timeout) = timeout
            && let Ok(value) = HeaderValue::try_from(grpc::write_timeout(timeout))
        {
            request.headers_mut().insert("grpc-timeout", value);
        }
        if let Some(exchange) = &mut self.exchange {
            exchange.attempts = exchange.attempts.saturating_add(1);
        }
        let ended = body.is_end_stream();
        match slot.sender.send_request(request, ended) {
            Ok((response, sink)) => Ok((Relay::new(body, sink, response, ended), slot)),
            Err(error) => Err(Failed::Again(body, Problem::Connection(error))),
        }
    }

    async fn relay(&mut self, mut relay: Relay, pass: &Pass) -> Result<(), Failed> {
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
                Ok(Event::Answered) => self.finish(&relay, Flag::Ok),
                Ok(Event::Over) => return Ok(()),
                Ok(Event::ClientGone(reason)) => {
                    return Err(self.interrupted(Some(relay), Interrupt::Client(reason)));
                }
                Ok(Event::Failed(error)) => return Err(self.failed(relay, error)),
                Err(interrupt) => return Err(self.interrupted(Some(relay), interrupt)),
            }
        }
    }

    fn is_stalled(&self, relay: &Relay) -> bool {
        relay
            .stalled()
            .is_some_and(|since| since.elapsed() >= self.limits.stall)
    }

    /// The server's side failed.
    fn failed(&mut self, mut relay: Relay, error: h2::Error) -> Failed {
        let unprocessed = error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM));
        if unprocessed && relay.is_untouched() {
            return Failed::Again(relay.into_body(), Problem::Connection(error));
        }
        let said = error.reason().filter(|_| error.is_remote() && error.is_reset());
        match said {
            _ if self.control.answered => {
                relay.break_client(said.unwrap_or(Reason::INTERNAL_ERROR));
                self.finish(&relay, Flag::UpstreamReset);
            }
            Some(reason) if reason != Reason::NO_ERROR => {
                self.control.respond.send_reset(reason);
                self.finish(&relay, Flag::UpstreamReset);
            }
            _ => {
                tracing::debug!(%error, "the server broke off before it answered");
                self.reply(
                    &LocalReply::text(502, "the upstream connection failed"),
                    Flag::UpstreamReset,
                );
            }
        }
        Failed::Over
    }

    /// Something else ended the stream: both ends are told.
    fn interrupted(&mut self, relay: Option<Relay>, interrupt: Interrupt) -> Failed {
        let flag = match interrupt {
            Interrupt::Client(_) | Interrupt::Stalled => Flag::ClientGone,
            Interrupt::Denied | Interrupt::Cut => Flag::Cut,
            Interrupt::Deadline => Flag::Timeout,
        };
        if interrupt == Interrupt::Stalled {
            self.side.shared().metrics.http2_refused(Refusal::Stalled);
        }
        let mut relay = relay;
        if let Some(relay) = &mut relay {
            relay.reset_server(match interrupt {
                Interrupt::Client(reason) => reason,
                _ => Reason::CANCEL,
            });
            if self.control.answered {
                relay.end_client(interrupt, self.grpc);
                self.finish(relay, flag);
                return Failed::Over;
            }
        }
        match interrupt {
            Interrupt::Denied => self.reply(&LocalReply::text(403, "RBAC: access denied"), flag),
            Interrupt::Deadline => self.reply(&LocalReply::text(504, "upstream request timeout"), flag),
            Interrupt::Client(_) | Interrupt::Stalled | Interrupt::Cut => {
                self.control.respond.send_reset(Reason::CANCEL);
                if let Some(exchange) = self.exchange.take() {
                    exchange.finish(flag);
                }
            }
        }
        Failed::Over
    }

    fn refuse(&mut self, refused: Refused) {
        if let Some(exchange) = &mut self.exchange {
            exchange.decision = refused.decision.or(exchange.decision.take());
        }
        self.reply(&refused.reply, refused.flag);
    }

    fn give_up(mut self, problem: &Problem) {
        match problem {
            Problem::Endpoint(_, detail) => {
                tracing::debug!(detail, "no endpoint reached");
                self.reply(
                    &LocalReply::text(503, "the upstream cannot be reached"),
                    Flag::Unreachable,
                );
            }
            Problem::Connection(error) => {
                tracing::debug!(%error, "the server takes no stream");
                self.reply(
                    &LocalReply::text(503, "the upstream refused the request"),
                    Flag::UpstreamReset,
                );
            }
        }
    }

    /// Answers in the application's place.
    fn reply(&mut self, reply: &LocalReply, flag: Flag) {
        let _ = grpc::reply(&mut self.control.respond, reply, self.grpc, self.head.is_head());
        if let Some(mut exchange) = self.exchange.take() {
            exchange.status = if self.grpc { 200 } else { reply.status };
            exchange.grpc_status = self.grpc.then(|| reply.grpc_status());
            exchange.finish(flag);
        }
    }

    fn finish(&mut self, relay: &Relay, flag: Flag) {
        if let Some(mut exchange) = self.exchange.take() {
            exchange.status = relay.status;
            exchange.grpc_status = relay.grpc_status;
            exchange.finish(flag);
        }
    }
}
