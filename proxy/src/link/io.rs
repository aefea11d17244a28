//! One application connection on a link as a byte stream (`AsyncRead + AsyncWrite`), for whatever speaks a protocol of its
//! own above it: hyper, an authorization provider. Gives the link back when both halves are closed; aborts with RESET
//! when it is dropped before. Opens no link and knows no pool.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    Event, Framing, Link, LinkError,
    frame::{Control, ResetReason},
};
use crate::socket;

/// How an application connection left its link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Both halves were closed in order: the link can carry the next one.
    Complete,
    /// RESET has been pushed: [`Link::settle`] sends it and tells whether the link can carry the next one.
    Aborted {
        /// The peer's RESET has come already.
        answered: bool,
    },
}

/// Takes back a `squire/1` link that still works. One that broke is closed, and the return is dropped without a call.
pub(crate) type Return = Box<dyn FnOnce(Box<Link>, Ended) + Send>;

/// One application connection on a link. A write counts once its bytes are protected; `flush` (or the next write) sends
/// what the socket did not take at once.
pub(crate) struct LinkStream {
    /// None: given back, or broken.
    link: Option<Box<Link>>,
    sequence: u32,
    give_back: Option<Return>,
    /// The peer's half.
    incoming: Incoming,
    /// Our half.
    outgoing: Outgoing,
    /// What the peer is told if the stream is dropped now.
    reason: ResetReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Incoming {
    Open,
    Ended,
    Reset(ResetReason),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outgoing {
    Open,
    Closing,
    Closed,
}

impl LinkStream {
    /// Begins application connection `sequence` on a link that was leased for it: OPEN shares a record with its first
    /// bytes, or goes out with the first flush. `id` names the connection in both sidecars' logs.
    pub(crate) fn open(mut link: Box<Link>, sequence: u32, id: u64, give_back: Return) -> Self {
        link.push(Control::Open { sequence, id });
        Self::accepted(link, sequence, give_back)
    }

    /// Serves application connection `sequence` that the peer has opened.
    pub(crate) fn accepted(link: Box<Link>, sequence: u32, give_back: Return) -> Self {
        Self {
            link: Some(link),
            sequence,
            give_back: Some(give_back),
            incoming: Incoming::Open,
            outgoing: Outgoing::Open,
            reason: ResetReason::Aborted,
        }
    }

    /// Aborts it, and tells the peer why.
    pub(crate) fn abort(mut self, reason: ResetReason) {
        self.reason = reason;
    }

    /// The link as it is, in the middle of the application connection; none: it has been given back or is broken.
    pub(crate) fn into_link(mut self) -> Option<Box<Link>> {
        self.give_back = None;
        let mut link = self.link.take()?;
        match self.incoming {
            Incoming::Open => {}
            Incoming::Ended => link.unread(Event::Fin),
            Incoming::Reset(reason) => link.unread(Event::Reset {
                sequence: self.sequence,
                reason,
            }),
        }
        Some(link)
    }

    /// Received bytes where they lie, from the first one on as far as they lie together.
    pub(crate) fn data(&self) -> &[u8] {
        self.link.as_ref().map_or(&[], |link| link.first_data())
    }

    /// Drops bytes from the front of [`LinkStream::data`].
    pub(crate) fn consume(&mut self, count: usize) {
        if let Some(link) = &mut self.link {
            link.consume(count);
        }
    }

    /// Why the peer aborted it, if it did.
    pub(crate) fn reset_reason(&self) -> Option<ResetReason> {
        match self.incoming {
            Incoming::Reset(reason) => Some(reason),
            Incoming::Open | Incoming::Ended => None,
        }
    }

    fn poll_read_into(&mut self, buf: &mut ReadBuf<'_>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if ready!(self.poll_data(cx))?
            && buf.remaining() > 0
            && let Some(link) = &mut self.link
        {
            let taken = link.take_data(buf.initialize_unfilled());
            buf.advance(taken);
        }
        Poll::Ready(Ok(()))
    }

    /// Waits for received bytes. False: the peer has ended its half.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            match self.incoming {
                Incoming::Open => {}
                Incoming::Ended => return Poll::Ready(Ok(false)),
                Incoming::Reset(reason) => return Poll::Ready(Err(reset(reason))),
            }
            let Some(link) = &mut self.link else {
                return Poll::Ready(Err(gone()));
            };
            if link.has_data() {
                return Poll::Ready(Ok(true));
            }
            let event = match ready!(link.poll_event(cx)) {
                Ok(event) => event,
                Err(error) => return Poll::Ready(Err(self.broken(error))),
            };
            match (event, link.framing()) {
                (Event::Data, _) => {}
                (Event::Fin, _) | (Event::Closed { orderly: true }, Framing::Plain) => {
                    self.incoming = Incoming::Ended;
                    self.release_if_over();
                }
                (Event::Reset { sequence, reason }, _) if sequence == self.sequence => {
                    self.incoming = Incoming::Reset(reason);
                }
                // Of an application connection that has ended meanwhile.
                (Event::Reset { .. }, _) => {}
                (Event::GoAway, _) => link.retire(),
                (Event::Open { .. }, _) => return Poll::Ready(Err(self.broken(LinkError::OutOfTurn))),
                (Event::Closed { .. }, _) => return Poll::Ready(Err(self.broken(LinkError::Truncated))),
            }
        }
    }

    /// The link to write to, if the application connection still takes bytes.
    fn writable(&mut self) -> io::Result<&mut Link> {
        if let Incoming::Reset(reason) = self.incoming {
            return Err(reset(reason));
        }
        match (&mut self.link, self.outgoing) {
            (Some(link), Outgoing::Open) => Ok(link),
            (None, Outgoing::Open) => Err(gone()),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn poll_send(&mut self, bufs: &[IoSlice<'_>], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let sent = ready!(self.writable()?.poll_send(bufs, cx));
        Poll::Ready(sent.map_err(|error| self.broken(error)))
    }

    fn poll_flush_link(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(link) = &mut self.link else {
            return Poll::Ready(Ok(()));
        };
        let flushed = ready!(link.poll_flush(cx));
        Poll::Ready(flushed.map_err(|error| self.broken(error)))
    }

    fn poll_close_half(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.outgoing == Outgoing::Open
            && let Incoming::Open | Incoming::Ended = self.incoming
            && let Some(link) = &mut self.link
        {
            link.push_end();
            self.outgoing = Outgoing::Closing;
        }
        ready!(self.poll_flush_link(cx))?;
        if self.outgoing == Outgoing::Closing {
            self.outgoing = Outgoing::Closed;
            self.release_if_over();
        }
        Poll::Ready(Ok(()))
    }

    /// Gives the link back as soon as both halves are closed, not only when the stream is dropped.
    fn release_if_over(&mut self) {
        if (self.incoming, self.outgoing) != (Incoming::Ended, Outgoing::Closed) {
            return;
        }
        let Some(link) = self.link.take() else { return };
        match (link.framing(), self.give_back.take()) {
            (Framing::Squire, Some(give_back)) => give_back(link, Ended::Complete),
            _ => link.close(),
        }
    }

    /// The link is of no further use, to anybody.
    fn broken(&mut self, error: LinkError) -> io::Error {
        self.give_back = None;
        if let Some(link) = self.link.take() {
            socket::abort_on_close(link.tcp());
        }
        match error {
            LinkError::Io(error) => error,
            LinkError::Truncated => io::Error::new(io::ErrorKind::UnexpectedEof, error),
            error @ (LinkError::Record(_) | LinkError::Frame(_) | LinkError::OutOfTurn) => {
                io::Error::new(io::ErrorKind::InvalidData, error)
            }
        }
    }
}

impl Drop for LinkStream {
    fn drop(&mut self) {
        let Some(mut link) = self.link.take() else { return };
        let (Framing::Squire, Some(give_back)) = (link.framing(), self.give_back.take()) else {
            // Nothing may look like an orderly end: no close_notify, and RST instead of FIN.
            return socket::abort_on_close(link.tcp());
        };
        link.discard();
        link.push(Control::Reset {
            sequence: self.sequence,
            reason: self.reason,
        });
        // Sent now as far as the socket takes it, so that the peer learns of it even if nobody settles.
        let _ = link.poll_flush(&mut Context::from_waker(Waker::noop()));
        let answered = matches!(self.incoming, Incoming::Reset(_));
        give_back(link, Ended::Aborted { answered });
    }
}

impl AsyncRead for LinkStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_read_into(buf, cx)
    }
}

impl AsyncWrite for LinkStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(&[IoSlice::new(buf)], cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(bufs, cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush_link(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_close_half(cx)
    }
}

fn reset(reason: ResetReason) -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionReset,
        format!("the peer's squire reset the connection ({reason:?})"),
    )
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the connection to the peer has failed")
}

#[cfg(test)]
mod tests;
