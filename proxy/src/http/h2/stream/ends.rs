//! How a stream ends otherwise than in order: what each end is told, and what the record says of it.

use bytes::Bytes;
use h2::Reason;

use super::{Failed, Problem, Stream};
use crate::http::{
    Flag, LocalReply, Refused,
    h2::{
        control::{Control, Interrupt},
        grpc,
        refusal::Refusal,
        relay::Relay,
        wire::Error,
    },
};

impl Stream<'_> {
    /// No response in time: the time of one try, or of the request.
    pub(super) fn late(&mut self, mut relay: Relay) -> Failed {
        if relay.is_untouched() && self.left().is_none_or(|left| !left.is_zero()) {
            relay.reset_server(Reason::CANCEL);
            return Failed::Again(relay.into_body(), Problem::Late);
        }
        self.interrupted(Some(relay), Interrupt::Deadline)
    }

    /// The server's side failed.
    pub(super) fn failed(&mut self, mut relay: Relay, error: Error) -> Failed {
        if error.is_unprocessed() && relay.is_untouched() {
            return Failed::Again(relay.into_body(), Problem::Refused(error));
        }
        let said = error.reset_by_peer();
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
    pub(super) fn interrupted(&mut self, relay: Option<Relay>, interrupt: Interrupt) -> Failed {
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

    pub(super) fn refuse(&mut self, refused: Refused) {
        if let Some(exchange) = &mut self.exchange {
            exchange.decision = refused.decision.or(exchange.decision.take());
        }
        self.reply(&refused.reply, refused.flag);
    }

    pub(super) fn give_up(&mut self, problem: &Problem) {
        match problem {
            Problem::Unreachable(detail) => {
                tracing::debug!(detail, "no endpoint reached");
                self.reply(
                    &LocalReply::text(503, "the upstream cannot be reached"),
                    Flag::Unreachable,
                );
            }
            Problem::Refused(error) => {
                tracing::debug!(%error, "the server takes no stream");
                self.reply(
                    &LocalReply::text(503, "the upstream refused the request"),
                    Flag::UpstreamReset,
                );
            }
            Problem::Late | Problem::Held(_) => {
                self.reply(&LocalReply::text(504, "upstream request timeout"), Flag::Timeout)
            }
        }
    }

    /// Answers in the application's place.
    pub(super) fn reply(&mut self, reply: &LocalReply, flag: Flag) {
        answer(&mut self.control, reply, self.grpc, self.head.is_head());
        if let Some(mut exchange) = self.exchange.take() {
            exchange.status = if self.grpc { 200 } else { reply.status };
            exchange.grpc_status = self.grpc.then(|| reply.grpc_status());
            exchange.finish(flag);
        }
    }

    pub(super) fn finish(&mut self, relay: &Relay, flag: Flag) {
        if let Some(mut exchange) = self.exchange.take() {
            exchange.status = relay.status;
            exchange.grpc_status = relay.grpc_status;
            exchange.finish(flag);
        }
    }
}

/// Answers with a reply of our own. A client that has gone is noticed elsewhere.
pub(super) fn answer(control: &mut Control, reply: &LocalReply, grpc: bool, without_body: bool) {
    if let Ok(Some(sending)) = grpc::reply(&mut control.respond, reply, grpc, without_body) {
        control.leave(sending, Bytes::copy_from_slice(&reply.body));
    }
}
