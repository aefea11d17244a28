//! HTTP/2 on the wire: connections and streams, at both ends. There are two engines behind one face. `squire` is our own,
//! made for passing on: a stream's bytes are copied from one connection to the other, many frames go out with one write,
//! and heads stay what HPACK holds. `h2` is the `h2` crate; it is what the other one is compared with, and what remains when
//! that is turned off (`http2.engine`).
//!
//! ```text
//! server.rs, client.rs   the two ends of a connection      handle.rs   who holds a stream
//! core.rs     state of a connection   receive.rs   frames in   send.rs   frames out   table.rs   its streams
//! drive.rs    bytes in and out        out.rs       what waits to be written
//! frame.rs    frames    hpack/   header blocks    message.rs, fit.rs   what is a message     fields.rs   its fields
//! library.rs  the same face on the `h2` crate
//! ```
//!
//! Nothing here knows policy, routes or requests' meaning.

mod client;
mod core;
mod drive;
mod error;
mod fields;
mod fit;
mod frame;
mod handle;
mod hpack;
mod library;
mod message;
mod out;
mod receive;
mod send;
mod server;
mod table;

use std::task::{Context, Poll};

use bytes::Bytes;
use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite};

pub(super) use self::{
    error::{By, Error},
    fields::FieldList,
};
use super::limits::Limits;
pub(super) use crate::config::Http2Engine as Engine;

/// A response's head, of the status it has.
pub(super) enum Head<R> {
    /// 1xx: another one follows.
    Interim(u16, FieldList),
    /// And what comes behind it.
    Final(u16, FieldList, R),
}

/// The server's end of a connection.
pub(super) enum Server<S> {
    Squire(Box<server::Server<S>>),
    H2(Box<library::Server<S>>),
}

/// A new stream: its head and its two ends.
pub(super) type Accepted = (FieldList, Receiving, Responding);

impl<S> Server<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Says hello, and waits for the client's.
    pub(super) async fn handshake(io: S, limits: Limits) -> Result<Self, Error> {
        Ok(match limits.engine {
            Engine::Squire => Self::Squire(Box::new(server::Server::handshake(io, limits).await?)),
            Engine::H2 => Self::H2(Box::new(library::Server::handshake(io, limits).await?)),
        })
    }

    /// The next request. None: the connection is over in order.
    pub(super) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Accepted, Error>>> {
        match self {
            Self::Squire(server) => server.poll_accept(cx).map(|accepted| {
                accepted.map(|accepted| {
                    accepted.map(|(head, receiving, responding)| {
                        (head, Receiving::Squire(receiving), Responding::Squire(responding))
                    })
                })
            }),
            Self::H2(server) => server.poll_accept(cx).map(|accepted| {
                accepted.map(|accepted| {
                    accepted.map(|(head, receiving, responding)| {
                        (head, Receiving::H2(receiving), Responding::H2(responding))
                    })
                })
            }),
        }
    }

    /// From here to [`Server::rest`], whoever drives the connection also drives its streams.
    pub(super) fn begin(&mut self) {
        match self {
            Self::Squire(server) => server.begin(),
            Self::H2(_) => {}
        }
    }

    /// Writes what has come together since [`Server::begin`].
    pub(super) fn rest(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::Squire(server) => server.rest(cx),
            Self::H2(_) => {}
        }
    }

    /// Begins an orderly end: streams that are under way are served.
    pub(super) fn graceful_shutdown(&mut self) {
        match self {
            Self::Squire(server) => server.graceful_shutdown(),
            Self::H2(server) => server.graceful_shutdown(),
        }
    }

    /// Says why the connection ends now.
    pub(super) fn abrupt_shutdown(&mut self, reason: Reason) {
        match self {
            Self::Squire(server) => server.abrupt_shutdown(reason),
            Self::H2(server) => server.abrupt_shutdown(reason),
        }
    }

    /// Waits until everything has been written.
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match self {
            Self::Squire(server) => server.poll_closed(cx),
            Self::H2(server) => server.poll_closed(cx),
        }
    }

    /// Asks whether the client is still there; false: it cannot be asked now.
    pub(super) fn ping(&mut self) -> bool {
        match self {
            Self::Squire(server) => {
                server.ping();
                true
            }
            Self::H2(server) => server.ping(),
        }
    }

    /// Whether it has answered.
    pub(super) fn has_answered(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Squire(server) => server.has_answered(),
            Self::H2(server) => server.has_answered(cx),
        }
    }
}

/// What comes from the peer on a stream, behind the head.
pub(super) enum Receiving {
    Squire(handle::Receiving),
    H2(h2::RecvStream),
}

impl Receiving {
    /// Whether nothing more comes.
    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Squire(receiving) => receiving.is_end_stream(),
            Self::H2(receiving) => receiving.is_end_stream(),
        }
    }

    /// The next bytes of the body. Whoever takes them says with [`Receiving::release`] when there is room for more.
    pub(super) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        match self {
            Self::Squire(receiving) => receiving.poll_data(cx),
            Self::H2(receiving) => receiving
                .poll_data(cx)
                .map(|data| data.map(|data| data.map_err(Error::from))),
        }
    }

    /// The trailers, behind the body.
    pub(super) fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<FieldList>, Error>> {
        match self {
            Self::Squire(receiving) => receiving.poll_trailers(cx),
            Self::H2(receiving) => library::poll_trailers(receiving, cx),
        }
    }

    /// The peer may send as many bytes more.
    pub(super) fn release(&mut self, count: usize) {
        match self {
            Self::Squire(receiving) => receiving.release(count),
            Self::H2(receiving) => {
                let _ = receiving.flow_control().release_capacity(count);
            }
        }
    }
}

/// Our end of a stream.
pub(super) enum Sending {
    Squire(handle::Sending),
    H2(h2::SendStream<Bytes>),
}

impl Sending {
    /// Sends of `bytes` what the windows allow; ready when all is sent, and the end with it if it is `last`.
    pub(super) fn poll_send(&mut self, bytes: &mut Bytes, last: bool, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match self {
            Self::Squire(sending) => sending.poll_send(bytes, last, cx),
            Self::H2(sending) => library::poll_send(sending, bytes, last, cx),
        }
    }

    /// Ends our end with trailers.
    pub(super) fn send_trailers(&mut self, fields: &FieldList) -> Result<(), Error> {
        match self {
            Self::Squire(sending) => sending.send_trailers(fields),
            Self::H2(sending) => library::send_trailers(sending, fields),
        }
    }

    /// Ends the stream.
    pub(super) fn send_reset(&mut self, reason: Reason) {
        match self {
            Self::Squire(sending) => sending.send_reset(reason),
            Self::H2(sending) => sending.send_reset(reason),
        }
    }

    /// Ready when the stream is over early.
    pub(super) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        match self {
            Self::Squire(sending) => sending.poll_reset(cx),
            Self::H2(sending) => sending.poll_reset(cx).map(library::reset),
        }
    }
}

/// A client's stream that waits for our answer.
pub(super) enum Responding {
    Squire(handle::Responding),
    H2(h2::server::SendResponse<Bytes>),
}

impl Responding {
    /// A head of 1xx.
    pub(super) fn send_interim(&mut self, fields: &FieldList) -> Result<(), Error> {
        match self {
            Self::Squire(responding) => responding.send_interim(fields),
            Self::H2(responding) => library::send_interim(responding, fields),
        }
    }

    /// The head; `ended`: nothing follows.
    pub(super) fn send_response(&mut self, fields: &FieldList, ended: bool) -> Result<Sending, Error> {
        match self {
            Self::Squire(responding) => responding.send_response(fields, ended).map(Sending::Squire),
            Self::H2(responding) => library::send_response(responding, fields, ended).map(Sending::H2),
        }
    }

    /// Ends the stream.
    pub(super) fn send_reset(&mut self, reason: Reason) {
        match self {
            Self::Squire(responding) => responding.send_reset(reason),
            Self::H2(responding) => responding.send_reset(reason),
        }
    }

    /// Ready when the stream is over early.
    pub(super) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        match self {
            Self::Squire(responding) => responding.poll_reset(cx),
            Self::H2(responding) => responding.poll_reset(cx).map(library::reset),
        }
    }
}

/// Opens streams on a connection. It closes once there is none of these left and every stream has ended.
#[derive(Clone)]
pub(super) enum Opener {
    Squire(client::Opener),
    H2(h2::client::SendRequest<Bytes>),
}

impl Opener {
    /// Sends a request's head; `ended`: nothing follows.
    pub(super) fn send_request(&mut self, head: &FieldList, ended: bool) -> Result<(Awaited, Sending), Error> {
        match self {
            Self::Squire(opener) => opener
                .send_request(head, ended)
                .map(|(awaited, sending)| (Awaited::Squire(awaited), Sending::Squire(sending))),
            Self::H2(opener) => library::send_request(opener, head, ended)
                .map(|(awaited, sending)| (Awaited::H2(awaited), Sending::H2(sending))),
        }
    }

    /// Streams that the server allows at a time.
    pub(super) fn room(&self) -> usize {
        match self {
            Self::Squire(opener) => opener.room(),
            Self::H2(opener) => opener.current_max_send_streams(),
        }
    }

    /// Whether the server takes extended CONNECT, as far as it has said yet.
    pub(super) fn takes_extended_connect(&self) -> bool {
        match self {
            Self::Squire(opener) => opener.takes_extended_connect(),
            Self::H2(opener) => opener.is_extended_connect_protocol_enabled(),
        }
    }

    /// Whether the server takes no more streams.
    pub(super) fn is_gone(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Squire(opener) => opener.is_gone(),
            Self::H2(opener) => matches!(opener.poll_ready(cx), Poll::Ready(Err(_))),
        }
    }
}

/// The response to a request of ours.
pub(super) enum Awaited {
    Squire(handle::Awaited),
    H2(h2::client::ResponseFuture),
}

impl Awaited {
    /// The next head.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head<Receiving>, Error>> {
        match self {
            Self::Squire(awaited) => awaited.poll_head(cx).map(|head| {
                head.map(|head| match head {
                    Head::Interim(status, fields) => Head::Interim(status, fields),
                    Head::Final(status, fields, receiving) => Head::Final(status, fields, Receiving::Squire(receiving)),
                })
            }),
            Self::H2(awaited) => library::poll_head(awaited, cx),
        }
    }
}

/// Drives a connection to a server.
pub(super) enum Client<S>
where
    S: AsyncRead + AsyncWrite,
{
    Squire(Box<client::Client<S>>),
    H2(Box<library::Client<S>>),
}

impl<S> Client<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Says hello.
    pub(super) async fn handshake(io: S, limits: &Limits) -> Result<(Opener, Self), Error> {
        match limits.engine {
            Engine::Squire => {
                let (opener, client) = client::start(io, *limits);
                Ok((Opener::Squire(opener), Self::Squire(Box::new(client))))
            }
            Engine::H2 => {
                let (opener, client) = library::Client::handshake(io, limits).await?;
                Ok((Opener::H2(opener), Self::H2(Box::new(client))))
            }
        }
    }

    /// Reads and writes; ready when the connection is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match self {
            Self::Squire(client) => client.poll(cx),
            Self::H2(client) => client.poll(cx),
        }
    }

    /// Asks the server for an answer; false: it cannot be asked now.
    pub(super) fn ping(&mut self) -> bool {
        match self {
            Self::Squire(client) => {
                client.ping();
                true
            }
            Self::H2(client) => client.ping(),
        }
    }

    /// Whether it has answered.
    pub(super) fn has_answered(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Squire(client) => client.has_answered(),
            Self::H2(client) => client.has_answered(cx),
        }
    }
}
