//! Forwarding one application connection over a link.

use std::{
    future::poll_fn,
    io::IoSlice,
    task::{Context, Poll, ready},
};

use tokio::net::TcpStream;

use super::Interrupted;
use crate::{
    authorize::Permit,
    connection::Connection,
    link::{Event, Framing, Link, LinkError, PumpError, Pumped},
    socket,
};

/// Bytes that were read before it was known that they are only to be forwarded.
#[derive(Default)]
pub(crate) struct Early<'a> {
    /// From the application.
    pub(crate) to_peer: &'a [u8],
    /// From the peer.
    pub(crate) to_app: &'a [u8],
}

/// Forwards between `app` and the peer at the other end of `link` until both halves are closed. `sequence` names the
/// application connection on the link. Afterwards a `squire/1` link is ready for the next one.
pub(crate) async fn mesh(
    _permit: &Permit,
    link: &mut Link,
    app: &TcpStream,
    early: Early<'_>,
    sequence: u32,
    connection: &Connection,
) -> Result<(), Interrupted> {
    let Early { to_peer, mut to_app } = early;
    let mut there = Outgoing::Early(to_peer);
    let mut back_done = false;
    poll_fn(|cx| {
        if let Poll::Ready(cut) = connection.poll_cut(cx) {
            return Poll::Ready(Err(Interrupted::Cut(cut)));
        }
        // What the peer says comes first: a reset makes sending pointless.
        while !to_app.is_empty() {
            let Poll::Ready(written) = socket::poll_write(app, cx, &[IoSlice::new(to_app)]) else {
                return Poll::Pending;
            };
            let written = written.map_err(Interrupted::App)?;
            connection.count_from_peer(written);
            to_app = &to_app[written..];
        }
        if !back_done && poll_incoming(link, app, sequence, connection, cx)?.is_ready() {
            back_done = true;
        }
        let sent = there.poll(link, app, connection, cx)?;
        if back_done && sent.is_ready() {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    })
    .await
}

/// App to peer.
enum Outgoing<'a> {
    Early(&'a [u8]),
    Pumping,
    Flushing,
    Done,
}

impl Outgoing<'_> {
    fn poll(
        &mut self,
        link: &mut Link,
        app: &TcpStream,
        connection: &Connection,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Interrupted>> {
        loop {
            match self {
                Self::Early([]) => *self = Self::Pumping,
                Self::Early(bytes) => {
                    let sent = ready!(link.poll_send(&[IoSlice::new(bytes)], cx))?;
                    connection.count_to_peer(sent);
                    *bytes = &bytes[sent..];
                }
                Self::Pumping => {
                    let pumped = match ready!(link.poll_pump(app, cx)) {
                        Ok(pumped) => pumped,
                        Err(PumpError::App(error)) => return Poll::Ready(Err(Interrupted::App(error))),
                        Err(PumpError::Link(error)) => return Poll::Ready(Err(error.into())),
                    };
                    match pumped {
                        Pumped::Bytes(count) => connection.count_to_peer(count),
                        Pumped::End(count) => {
                            connection.count_to_peer(count);
                            *self = Self::Flushing;
                        }
                    }
                }
                Self::Flushing => {
                    ready!(link.poll_flush(cx))?;
                    *self = Self::Done;
                }
                Self::Done => {
                    // Answers that only arise now (a key update) still go out.
                    ready!(link.poll_flush(cx))?;
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

/// Peer to app, until the peer's half is closed.
fn poll_incoming(
    link: &mut Link,
    app: &TcpStream,
    sequence: u32,
    connection: &Connection,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Interrupted>> {
    loop {
        while link.has_data() {
            let written = ready!(link.poll_deliver(app, cx)).map_err(Interrupted::App)?;
            connection.count_from_peer(written);
        }
        match (ready!(link.poll_event(cx))?, link.framing()) {
            (Event::Data, _) => {}
            (Event::Fin, _) | (Event::Closed { orderly: true }, Framing::Plain) => {
                socket::shutdown_write(app).map_err(Interrupted::App)?;
                return Poll::Ready(Ok(()));
            }
            (Event::Reset { sequence: of, reason }, _) if of == sequence => {
                return Poll::Ready(Err(Interrupted::Reset(reason)));
            }
            // Of an application connection that has ended meanwhile.
            (Event::Reset { .. }, _) => {}
            (Event::GoAway, _) => link.retire(),
            (Event::Open { .. }, _) => return Poll::Ready(Err(LinkError::OutOfTurn.into())),
            (Event::Closed { .. }, _) => return Poll::Ready(Err(LinkError::Truncated.into())),
        }
    }
}
