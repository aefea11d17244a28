//! What can end a stream from outside while it waits for something: its client, its deadline, policy, a cut. Whoever waits
//! does so under this guard.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::Reason;
use tokio::time::{Sleep, sleep_until};

use super::{
    ticket::Ticket,
    wire::{Responding, Sending},
};

/// Why a stream ends early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interrupt {
    /// Its client reset it, or has gone.
    Client(Reason),
    /// The newest policy denies it.
    Denied,
    /// Its connection is cut.
    Cut,
    /// It took longer than its route or its client allows.
    Deadline,
    /// Its client takes nothing of what waits for it.
    Stalled,
}

/// The client's end of a stream.
pub(super) struct Control {
    pub(super) respond: Responding,
    ticket: Arc<Ticket>,
    deadline: Option<Pin<Box<Sleep>>>,
    /// A response head has been sent.
    pub(super) answered: bool,
    /// Policy has changed, and the stream has not been judged again yet.
    judge: bool,
    look: bool,
    /// What is still to be sent of a reply of our own.
    rest: Option<(Sending, Bytes)>,
}

impl Control {
    pub(super) fn new(respond: Responding, ticket: Arc<Ticket>) -> Self {
        Self {
            respond,
            ticket,
            deadline: None,
            answered: false,
            judge: false,
            look: false,
            rest: None,
        }
    }

    /// The rest of a reply of our own; [`Control::finish`] sends it.
    pub(super) fn leave(&mut self, sending: Sending, bytes: Bytes) {
        self.answered = true;
        self.rest = Some((sending, bytes));
    }

    /// Whether something has been left to be sent.
    pub(super) fn has_rest(&self) -> bool {
        self.rest.is_some()
    }

    /// Sends what has been left, as the client takes it.
    pub(super) async fn finish(&mut self, stall: Duration) -> Result<(), Interrupt> {
        let Some((mut sending, mut bytes)) = self.rest.take() else {
            return Ok(());
        };
        let since = Instant::now();
        poll_fn(|cx| {
            if sending.poll_send(&mut bytes, true, cx).is_ready() || sending.poll_reset(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            if let Poll::Ready(interrupt) = self.poll(cx) {
                sending.send_reset(Reason::CANCEL);
                return Poll::Ready(Err(interrupt));
            }
            if self.takes_a_look() && since.elapsed() >= stall {
                sending.send_reset(Reason::ENHANCE_YOUR_CALM);
                return Poll::Ready(Err(Interrupt::Stalled));
            }
            Poll::Pending
        })
        .await
    }

    pub(super) fn end_at(&mut self, at: Instant) {
        self.deadline = Some(Box::pin(sleep_until(at.into())));
    }

    /// From now on only the limit of the whole request counts, if there is one.
    pub(super) fn end_at_last(&mut self, started: Option<Instant>, limit: Option<Duration>) {
        match started.zip(limit) {
            Some((started, limit)) => self.end_at(started + limit),
            None => self.deadline = None,
        }
    }

    /// True once after each change of policy.
    pub(super) fn takes_judgement(&mut self) -> bool {
        std::mem::take(&mut self.judge)
    }

    /// True once after each tick of the connection.
    pub(super) fn takes_a_look(&mut self) -> bool {
        std::mem::take(&mut self.look)
    }

    /// Waits for `what`, unless the stream ends before.
    pub(super) async fn guard<F: Future>(&mut self, what: F) -> Result<F::Output, Interrupt> {
        let mut what = pin!(what);
        poll_fn(|cx| {
            if let Poll::Ready(interrupt) = self.poll(cx) {
                return Poll::Ready(Err(interrupt));
            }
            what.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    /// Ready when the stream has to end.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Interrupt> {
        let told = self.ticket.told(cx);
        self.judge |= told.judge;
        self.look |= told.look;
        if told.cut {
            return Poll::Ready(Interrupt::Cut);
        }
        if !self.answered
            && let Poll::Ready(over) = self.respond.poll_reset(cx)
        {
            return Poll::Ready(Interrupt::Client(over.reset_by_peer().unwrap_or(Reason::CANCEL)));
        }
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Interrupt::Deadline);
        }
        Poll::Pending
    }
}
