//! Serves one HTTP/2 connection of a client: takes its streams in, drives them all in one task, and carries to them what
//! happens to the connection (policy, cut, drain, GOAWAY from behind). What a stream does stands in `stream.rs`.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use h2::Reason;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Interval, MissedTickBehavior, Sleep, interval, sleep_until, timeout},
};

use super::{
    limits::Limits,
    meter::{Metered, Watch},
    refusal::{Refusal, refusal_of},
    side::Side,
    stream,
    ticket::Ticket,
    wire::{Accepted, By, Error, Server},
    work::Work,
};
use crate::{
    connection::{Application, Cut},
    forward::Interrupted,
    http::{Exchange, Flag, Version},
    outcome::Outcome,
};

/// A goodbye that the client does not take is not waited for longer.
const GOODBYE: Duration = Duration::from_secs(1);

/// Serves `client`, of which `received` has been read already, until the connection is over.
pub(super) async fn serve<S>(side: Arc<Side>, client: S, received: Bytes, limits: Limits) -> Outcome
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    side.connection().facts().application = Application::Http2;
    let metered = Metered::new(client, received, Arc::clone(side.connection()));
    let watch = metered.watch();
    let hello = timeout(limits.preface, Server::handshake(metered, limits));
    let cut = {
        let connection = Arc::clone(side.connection());
        poll_fn(move |cx| connection.poll_cut(cx))
    };
    let connection = tokio::select! {
        biased;
        cut = cut => return Outcome::Interrupted(Interrupted::Cut(cut)),
        hello = hello => hello,
    };
    match connection {
        Ok(Ok(connection)) => Served::new(side, connection, watch, limits).run().await,
        Ok(Err(error)) => {
            if !error.is_io() {
                side.shared().metrics.http2_refused(Refusal::Preface);
            }
            failed(&side, error)
        }
        Err(_) => {
            side.shared().metrics.http2_refused(Refusal::Preface);
            failed(&side, ended(Reason::SETTINGS_TIMEOUT))
        }
    }
}

/// A connection and its streams.
struct Served<S> {
    side: Arc<Side>,
    connection: Server<Metered<S>>,
    streams: FuturesUnordered<Open>,
    watch: Arc<Watch>,
    limits: Limits,
    ticks: Interval,
    /// When the header block that has no end yet has taken too long.
    patience: Option<Pin<Box<Sleep>>>,
    /// When the PING that has not been answered was sent.
    pinged: Option<Instant>,
    /// Since when the client has been seen to leave unread what is no stream's any more.
    unread: Option<Instant>,
    /// GOAWAY has been sent.
    leaving: bool,
}

/// One open stream.
struct Open {
    ticket: Arc<Ticket>,
    work: Work,
}

impl Future for Open {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.work).poll(cx)
    }
}

/// How the connection itself ended.
enum End {
    /// The client closed it, or everything has been served after GOAWAY.
    Over(Result<(), Error>),
    Cut(Cut),
    Refused(Refusal),
}

impl<S> Served<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    fn new(side: Arc<Side>, connection: Server<Metered<S>>, watch: Arc<Watch>, limits: Limits) -> Self {
        let mut ticks = interval((limits.silence.min(limits.stall) / 4).max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            side,
            connection,
            streams: FuturesUnordered::new(),
            watch,
            limits,
            ticks,
            patience: None,
            pinged: None,
            unread: None,
            leaving: false,
        }
    }

    async fn run(mut self) -> Outcome {
        let end = self.serve().await;
        let outcome = match end {
            End::Over(Ok(())) => Outcome::Complete,
            End::Over(Err(error)) => {
                if let Some(refusal) = refusal_of(&error, self.watch.seen()) {
                    self.side.shared().metrics.http2_refused(refusal);
                }
                failed(&self.side, error)
            }
            End::Cut(cut) => {
                self.leave(Reason::CANCEL).await;
                Outcome::Interrupted(Interrupted::Cut(cut))
            }
            End::Refused(refusal) => {
                self.side.shared().metrics.http2_refused(refusal);
                self.leave(Reason::ENHANCE_YOUR_CALM).await;
                failed(&self.side, ended(Reason::ENHANCE_YOUR_CALM))
            }
        };
        self.settle().await;
        outcome
    }

    async fn serve(&mut self) -> End {
        let side = Arc::clone(&self.side);
        let mut draining = std::pin::pin!(side.shared().draining.cancelled());
        let going_away = side.going_away();
        let mut going_away = std::pin::pin!(async {
            match &going_away {
                Some(told) => told.notified().await,
                None => std::future::pending().await,
            }
        });
        poll_fn(|cx| {
            if let Poll::Ready(cut) = side.connection().poll_cut(cx) {
                return Poll::Ready(End::Cut(cut));
            }
            if side.connection().to_be_judged() {
                self.streams.iter_mut().for_each(|open| open.ticket.judge());
            }
            if !self.leaving && (draining.as_mut().poll(cx).is_ready() || going_away.as_mut().poll(cx).is_ready()) {
                self.leaving = true;
                self.connection.graceful_shutdown();
            }
            self.poll(cx)
        })
        .await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.connection.begin();
        let polled = self.poll_all(cx);
        // What the streams have sent goes out together.
        self.connection.rest(cx);
        polled
    }

    fn poll_all(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        while let Poll::Ready(next) = self.connection.poll_accept(cx) {
            match next {
                Some(Ok(accepted)) => self.open(accepted),
                Some(Err(error)) => return Poll::Ready(End::Over(Err(error))),
                None => return Poll::Ready(End::Over(Ok(()))),
            }
        }
        if let Some(refusal) = self.watch.refusal() {
            return Poll::Ready(End::Refused(refusal));
        }
        for _ in 0..self.connection.refused_lists() {
            self.note_refused_list();
        }
        if self.poll_patience(cx).is_ready() {
            return Poll::Ready(End::Refused(Refusal::SlowHead));
        }
        if self.ticks.poll_tick(cx).is_ready() {
            self.streams.iter_mut().for_each(|open| open.ticket.look());
            if self.is_silent() || self.is_unread() {
                return Poll::Ready(End::Refused(Refusal::Stalled));
            }
            // Registers for the next tick.
            cx.waker().wake_by_ref();
        }
        self.poll_pong(cx);
        while let Poll::Ready(Some(())) = self.streams.poll_next_unpin(cx) {}
        Poll::Pending
    }

    /// A request that was answered 431 before anything else was done with it.
    fn note_refused_list(&self) {
        let shared = self.side.shared();
        shared.metrics.http2_refused(Refusal::HeaderList);
        let mut exchange = Exchange::malformed(&shared.recorder, self.side.connection(), Version::Http2);
        exchange.status = 431;
        exchange.finish(Flag::Malformed);
    }

    /// Ready when a client takes too long to end the header block it has begun.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(since) = self.watch.unfinished() else {
            self.patience = None;
            return Poll::Pending;
        };
        let until = tokio::time::Instant::from_std(since + self.side.shared().head_timeout);
        let patience = self.patience.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if patience.deadline() != until {
            patience.as_mut().reset(until);
        }
        patience.as_mut().poll(cx)
    }

    fn open(&mut self, accepted: Accepted) {
        let ticket = Arc::new(Ticket::default());
        let work = stream::serve(Arc::clone(&self.side), self.limits, accepted, Arc::clone(&ticket));
        self.streams.push(Open {
            ticket,
            work: Work::new(work),
        });
    }

    /// Whether a client with open streams is neither heard nor answers our PING. Sends one when it is time.
    fn is_silent(&mut self) -> bool {
        let heard = self.watch.heard().is_none_or(|at| at.elapsed() < self.limits.silence);
        if self.streams.is_empty() || heard {
            return false;
        }
        match self.pinged {
            Some(at) => at.elapsed() >= self.limits.silence,
            None => {
                if self.connection.ping() {
                    self.pinged = Some(Instant::now());
                }
                false
            }
        }
    }

    /// Whether a client whose streams have ended does not even read that. (While there are streams, they notice.)
    fn is_unread(&mut self) -> bool {
        if !self.streams.is_empty() || !self.connection.has_unsent() {
            self.unread = None;
            return false;
        }
        self.unread.get_or_insert_with(Instant::now).elapsed() >= self.limits.stall
    }

    fn poll_pong(&mut self, cx: &mut Context<'_>) {
        if self.pinged.is_some() && self.connection.has_answered(cx) {
            self.pinged = None;
        }
    }

    /// Resets every stream, says why, and closes.
    async fn leave(&mut self, reason: Reason) {
        self.streams.iter_mut().for_each(|open| open.ticket.cut());
        poll_fn(|cx| {
            while let Poll::Ready(Some(())) = self.streams.poll_next_unpin(cx) {}
            Poll::Ready(())
        })
        .await;
        // The streams' last words go out before GOAWAY.
        let said = poll_fn(|cx| match self.connection.poll_accept(cx) {
            Poll::Ready(_) => Poll::Ready(false),
            Poll::Pending => Poll::Ready(true),
        });
        if said.await {
            self.connection.abrupt_shutdown(reason);
            let _ = timeout(GOODBYE, poll_fn(|cx| self.connection.poll_closed(cx))).await;
        }
    }

    /// The connection is gone: its streams see that, and close their records.
    async fn settle(mut self) {
        drop(self.connection);
        self.streams.iter_mut().for_each(|open| open.ticket.look());
        poll_fn(|cx| {
            while let Poll::Ready(Some(())) = self.streams.poll_next_unpin(cx) {}
            Poll::Ready(())
        })
        .await;
    }
}

/// The client's side failed.
fn failed(side: &Side, error: Error) -> Outcome {
    Outcome::Interrupted(side.connection().near_failed(error.into_io()))
}

/// We ended it, for this reason.
fn ended(reason: Reason) -> Error {
    Error::GoAway { reason, by: By::Us }
}
