//! A stream that is under way: the request's body there, the response back, both at the same time, until both have ended
//! or one of the two ends broke off.

use std::task::{Context, Poll, ready};

use h2::Reason;

use super::{
    body::Body,
    control::{Control, Interrupt},
    grpc,
    head::edit_response,
    pump::{Broken, Pump},
    wire::{Awaited, Error, FieldList, Head, Receiving, Sending},
};
use crate::http::Edits;

/// Both directions of one stream.
pub(super) struct Relay {
    there: Pump,
    there_over: bool,
    back: Back,
    /// Of the response; 0 until there is one.
    pub(super) status: u16,
    pub(super) grpc_status: Option<u8>,
    response_edits: Edits,
    /// That the response is over has been said.
    told: bool,
}

/// The response.
enum Back {
    Awaited(Awaited),
    /// Its head is here, and has not been passed on.
    Arrived(Box<(FieldList, Receiving)>),
    Flowing(Box<Pump>),
    Over,
}

/// What has happened.
#[derive(Debug)]
pub(super) enum Event {
    /// The response's head is here: [`Relay::answer`] passes it on.
    Head,
    /// The response has been passed on whole; the request's body may go on.
    Answered,
    /// Both directions are over.
    Over,
    /// The server's side failed.
    Failed(Error),
    /// The client broke off.
    ClientGone(Reason),
}

impl Relay {
    /// Of a request whose head has been sent; `ended`: there was nothing but the head.
    pub(super) fn new(body: Body, sink: Sending, response: Awaited, ended: bool, response_edits: Edits) -> Self {
        Self {
            there: Pump::request(body, sink),
            there_over: ended,
            back: Back::Awaited(response),
            status: 0,
            grpc_status: None,
            response_edits,
            told: false,
        }
    }

    /// Moves what can be moved.
    pub(super) fn poll(&mut self, control: &mut Control, cx: &mut Context<'_>) -> Poll<Event> {
        if !self.there_over {
            match self.there.poll(cx) {
                // What a server says by resetting is read from the response.
                Poll::Ready(Ok(()) | Err(Broken::Sink(_))) => self.there_over = true,
                Poll::Ready(Err(Broken::Source(error))) => return Poll::Ready(Event::ClientGone(reason_of(&error))),
                Poll::Pending => {}
            }
        }
        loop {
            match &mut self.back {
                Back::Awaited(response) => {
                    let (status, fields, body) = match ready!(response.poll_head(cx)) {
                        Err(error) => return Poll::Ready(Event::Failed(error)),
                        Ok(Head::Interim(status, fields)) => {
                            // RFC 9113 §8.6: there is no 101 in HTTP/2.
                            if status != 101 {
                                // A client that has gone is noticed elsewhere.
                                let _ = control.respond.send_interim(&fields);
                            }
                            continue;
                        }
                        Ok(Head::Final(status, fields, body)) => (status, fields, body),
                    };
                    self.status = status;
                    self.grpc_status = grpc::status(&fields);
                    self.back = Back::Arrived(Box::new((fields, body)));
                    return Poll::Ready(Event::Head);
                }
                Back::Arrived(_) => return Poll::Ready(Event::Head),
                Back::Flowing(pump) => {
                    match ready!(pump.poll(cx)) {
                        Ok(()) => {}
                        Err(Broken::Source(error)) => return Poll::Ready(Event::Failed(error)),
                        Err(Broken::Sink(reason)) => return Poll::Ready(Event::ClientGone(reason)),
                    }
                    self.grpc_status = self.grpc_status.or(pump.grpc_status);
                    self.back = Back::Over;
                }
                Back::Over if !self.told => {
                    self.told = true;
                    return Poll::Ready(Event::Answered);
                }
                Back::Over if self.there_over => return Poll::Ready(Event::Over),
                Back::Over => return Poll::Pending,
            }
        }
    }

    /// Passes on the response's head.
    ///
    /// # Errors
    /// When the client has gone.
    pub(super) fn answer(&mut self, control: &mut Control) -> Result<(), Reason> {
        let (mut fields, body) = match std::mem::replace(&mut self.back, Back::Over) {
            Back::Arrived(arrived) => *arrived,
            other => {
                self.back = other;
                return Ok(());
            }
        };
        if !self.response_edits.is_empty() {
            edit_response(&mut fields, &self.response_edits);
        }
        let ended = body.is_end_stream();
        let sink = control.respond.send_response(&fields, ended);
        let sink = sink.map_err(|error| reason_of(&error))?;
        control.answered = true;
        if !ended {
            self.back = Back::Flowing(Box::new(Pump::response(body.into(), sink)));
        }
        Ok(())
    }

    /// Whether nothing of the request's body has been taken, so that the request can be sent anew.
    pub(super) fn is_untouched(&self) -> bool {
        !self.there.began && matches!(self.back, Back::Awaited(_) | Back::Arrived(_))
    }

    /// The request's body, to send it elsewhere.
    pub(super) fn into_body(self) -> Body {
        self.there.into_source()
    }

    /// Since when the client has taken nothing of what waits for it.
    pub(super) fn stalled(&self) -> Option<std::time::Instant> {
        match &self.back {
            Back::Flowing(pump) => pump.stalled(),
            Back::Awaited(_) | Back::Arrived(_) | Back::Over => None,
        }
    }

    /// Ends the stream at the server.
    pub(super) fn reset_server(&mut self, reason: Reason) {
        self.there.reset_sink(reason);
    }

    /// Ends the stream at a client that has a response head already: a gRPC client is told the status.
    pub(super) fn end_client(&mut self, interrupt: Interrupt, grpc: bool) {
        let Back::Flowing(pump) = &mut self.back else {
            return;
        };
        let status = match interrupt {
            Interrupt::Denied => Some((7, "denied")),
            Interrupt::Deadline => Some((4, "deadline exceeded")),
            Interrupt::Client(_) | Interrupt::Cut | Interrupt::Stalled => None,
        };
        match status.filter(|_| grpc) {
            Some((status, message)) => {
                pump.end_with(&grpc::trailers(status, message.as_bytes()));
                self.grpc_status = Some(status);
            }
            None if interrupt == Interrupt::Stalled => pump.reset_sink(Reason::ENHANCE_YOUR_CALM),
            None => pump.reset_sink(Reason::CANCEL),
        }
    }

    /// Passes on that the server broke off in the middle of its response.
    pub(super) fn break_client(&mut self, reason: Reason) {
        if let Back::Flowing(pump) = &mut self.back {
            pump.reset_sink(reason);
        }
    }
}

/// The code that an end said, or the one for an end that said nothing.
fn reason_of(error: &Error) -> Reason {
    error.reset().unwrap_or(Reason::CANCEL)
}
