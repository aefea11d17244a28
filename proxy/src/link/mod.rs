//! An established mesh connection (a link): application connections over protected records. Who may use it is decided
//! elsewhere; nothing here knows policy, pools or Kubernetes.

pub(crate) mod frame;
mod io;
mod receive;
mod send;

use std::{
    io::IoSlice,
    task::{Context, Poll, ready},
};

use tokio::net::TcpStream;

pub(crate) use self::io::{Ended, LinkStream};
use self::{
    frame::{Control, FrameError, ResetReason},
    receive::Receiver,
    send::Sender,
};
use crate::tls::{handshake::Established, records::RecordError, records::Records};

/// How application connections lie inside the records; chosen by ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Framing {
    /// `squire/1`: one application connection after another.
    Squire,
    /// `squire-tls/1`: exactly one, its bytes as they are, ended by close_notify.
    Plain,
}

/// Why a link broke. An application that ends is not an error of its link.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// The socket to the peer failed.
    #[error("the connection to the peer failed: {0}")]
    Io(#[from] std::io::Error),
    /// Record protection failed, or the peer sent an alert.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Not `squire/1`.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame that is known, at a time it cannot come.
    #[error("the peer sent a squire/1 frame out of turn")]
    OutOfTurn,
    /// The peer's TCP ended in the middle of an application connection.
    #[error("the peer closed the connection in the middle of a stream")]
    Truncated,
}

/// What came next from the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// Application bytes: see [`Link::data`].
    Data,
    /// The next application connection begins.
    Open { sequence: u32, id: u64 },
    /// The peer's half of the application connection is closed.
    Fin,
    /// The peer aborted the application connection `sequence`.
    Reset { sequence: u32, reason: ResetReason },
    /// No further application connections, please.
    GoAway,
    /// The peer closed the link. `orderly`: with close_notify.
    Closed { orderly: bool },
}

/// What one step of sending did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pumped {
    /// So many bytes of the application were protected (and perhaps written).
    Bytes(usize),
    /// The application closed its half after so many more bytes; FIN (or close_notify) follows them.
    End(usize),
}

/// A mesh connection.
pub(crate) struct Link {
    tcp: TcpStream,
    records: Records,
    receiver: Receiver,
    sender: Sender,
    framing: Framing,
    /// The peer wants no further application connections here.
    retired: bool,
}

impl Link {
    /// Takes over a finished handshake.
    pub(crate) fn new(tcp: TcpStream, records: Records, leftover: &[u8], framing: Framing) -> Self {
        Self {
            tcp,
            records,
            receiver: Receiver::new(leftover),
            sender: Sender::default(),
            framing,
            retired: false,
        }
    }

    /// How application connections lie inside.
    pub(crate) fn framing(&self) -> Framing {
        self.framing
    }

    /// The socket, for addresses and options.
    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Notes that the peer sent GOAWAY.
    pub(crate) fn retire(&mut self) {
        self.retired = true;
    }

    /// Whether another application connection may be opened on it.
    pub(crate) fn reusable(&self) -> bool {
        self.framing == Framing::Squire && !self.retired
    }

    /// Waits for what comes next from the peer. After [`Event::Data`], all of [`Link::data`] must be consumed first.
    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, LinkError>> {
        self.receiver.poll_event(&self.tcp, &mut self.records, self.framing, cx)
    }

    /// Whether received application bytes wait to be passed on.
    pub(crate) fn has_data(&self) -> bool {
        self.receiver.has_data()
    }

    /// Writes received application bytes to `app` until none is left. Returns how many were written at the last step.
    pub(crate) fn poll_deliver(&mut self, app: &TcpStream, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); receive::SEGMENTS];
        let count = self.receiver.data(&mut slices);
        let written = ready!(crate::socket::poll_write(app, cx, &slices[..count]))?;
        if written == 0 {
            return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
        }
        self.receiver.consume(written);
        Poll::Ready(Ok(written))
    }

    /// Puts an event back that was taken too early: it comes again, behind the data that is there.
    pub(crate) fn unread(&mut self, event: Event) {
        self.receiver.unread(event);
    }

    /// The first piece of received application bytes.
    fn first_data(&self) -> &[u8] {
        self.receiver.first()
    }

    /// Drops received application bytes from the front.
    fn consume(&mut self, count: usize) {
        self.receiver.consume(count);
    }

    /// Copies received application bytes to the front of `to`; returns how many.
    fn take_data(&mut self, to: &mut [u8]) -> usize {
        let mut slices = [IoSlice::new(&[]); receive::SEGMENTS];
        let count = self.receiver.data(&mut slices);
        let mut filled = 0;
        for slice in &slices[..count] {
            let piece = slice.len().min(to.len() - filled);
            to[filled..filled + piece].copy_from_slice(&slice[..piece]);
            filled += piece;
        }
        self.receiver.consume(filled);
        filled
    }

    /// Protects application bytes of `bufs`, together with frames that wait; writes as the peer takes it. Returns how
    /// many were taken; [`Link::poll_flush`] sends what the socket has not taken at once.
    pub(crate) fn poll_send(&mut self, bufs: &[IoSlice<'_>], cx: &mut Context<'_>) -> Poll<Result<usize, LinkError>> {
        self.sender
            .poll_send(bufs, &self.tcp, &mut self.records, self.framing, cx)
    }

    /// After an abort: sends the RESET that was pushed and waits for the peer's, unless it has come already. True: both
    /// ends agree that application connection `sequence` is over, and the link can carry the next one.
    pub(crate) async fn settle(&mut self, sequence: u32, answered: bool) -> bool {
        self.discard();
        if self.flush().await.is_err() {
            return false;
        }
        if answered {
            return true;
        }
        loop {
            match self.event().await {
                Ok(Event::Data) => self.discard(),
                Ok(Event::Fin) => {}
                Ok(Event::Reset { sequence: of, .. }) if of == sequence => return true,
                Ok(Event::Reset { .. }) => {}
                Ok(Event::GoAway) => self.retire(),
                Ok(Event::Open { .. } | Event::Closed { .. }) | Err(_) => return false,
            }
        }
    }

    /// Puts a control frame before whatever is sent next. Nothing happens with [`Framing::Plain`].
    pub(crate) fn push(&mut self, control: Control) {
        if self.framing == Framing::Squire {
            self.sender.push(control);
        }
    }

    /// Reads from the application and protects what came, together with frames that wait; writes as the peer takes it.
    pub(crate) fn poll_pump(&mut self, app: &TcpStream, cx: &mut Context<'_>) -> Poll<Result<Pumped, PumpError>> {
        self.sender
            .poll_pump(app, &self.tcp, &mut self.records, self.framing, cx)
    }

    /// Ends our half of the application connection behind what was sent: FIN, or close_notify with [`Framing::Plain`].
    fn push_end(&mut self) {
        match self.framing {
            Framing::Squire => self.sender.push(Control::Fin),
            Framing::Plain => self.sender.push_close_notify(),
        }
    }

    /// Writes everything that waits to the peer.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.sender.poll_flush(&self.tcp, &mut self.records, cx)
    }

    /// [`Link::poll_flush`] as a future.
    pub(crate) async fn flush(&mut self) -> Result<(), LinkError> {
        std::future::poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// [`Link::poll_event`] as a future.
    pub(crate) async fn event(&mut self) -> Result<Event, LinkError> {
        std::future::poll_fn(|cx| self.poll_event(cx)).await
    }

    /// Forgets application bytes that nobody wants any more.
    pub(crate) fn discard(&mut self) {
        self.receiver.discard();
    }

    /// Says goodbye: close_notify, then the end of our direction. Best effort, does not wait.
    pub(crate) fn close(mut self) {
        // With plain framing it went out behind the application's last byte.
        if self.framing == Framing::Squire {
            self.sender.push_close_notify();
        }
        let waker = std::task::Waker::noop();
        let _ = self.poll_flush(&mut Context::from_waker(waker));
        let _ = crate::socket::shutdown_write(&self.tcp);
    }
}

/// Which side failed while pumping.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PumpError {
    /// The application's socket failed.
    #[error("the application's connection failed: {0}")]
    App(std::io::Error),
    /// The link failed.
    #[error(transparent)]
    Link(#[from] LinkError),
}

impl From<RecordError> for PumpError {
    fn from(error: RecordError) -> Self {
        Self::Link(error.into())
    }
}

/// Framing that an ALPN protocol stands for.
pub(crate) fn framing_of(alpn: &[u8]) -> Option<Framing> {
    match alpn {
        squire_mesh::ports::ALPN_SQUIRE => Some(Framing::Squire),
        squire_mesh::ports::ALPN_SPIFFE_TLS => Some(Framing::Plain),
        _ => None,
    }
}

impl From<(Established, Framing)> for Link {
    fn from((established, framing): (Established, Framing)) -> Self {
        Self::new(established.tcp, established.records, &established.leftover, framing)
    }
}

#[cfg(test)]
mod tests;
