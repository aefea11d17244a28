//! The face of a connection, at either end, whichever engine is behind it.

use std::task::{Context, Poll};

use bytes::Bytes;
use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Engine, client,
    error::Error,
    fields::FieldList,
    library, server,
    streams::{Awaited, Receiving, Responding, Sending},
};
use crate::http::h2::limits::Limits;

/// The server's end of a connection.
pub(in super::super) enum Server<S> {
    Squire(Box<server::Server<S>>),
    H2(Box<library::Server<S>>),
}

/// A new stream: its head and its two ends.
pub(in super::super) type Accepted = (FieldList, Receiving, Responding);

impl<S> Server<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Says hello, and waits for the client's.
    pub(in super::super) async fn handshake(io: S, limits: Limits) -> Result<Self, Error> {
        Ok(match limits.engine {
            Engine::Squire => Self::Squire(Box::new(server::Server::handshake(io, limits).await?)),
            Engine::H2 => Self::H2(Box::new(library::Server::handshake(io, limits).await?)),
        })
    }

    /// The next request. None: the connection is over in order.
    pub(in super::super) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Accepted, Error>>> {
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
    pub(in super::super) fn begin(&mut self) {
        match self {
            Self::Squire(server) => server.begin(),
            Self::H2(_) => {}
        }
    }

    /// Writes what has come together since [`Server::begin`].
    pub(in super::super) fn rest(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::Squire(server) => server.rest(cx),
            Self::H2(_) => {}
        }
    }

    /// Begins an orderly end: streams that are under way are served.
    pub(in super::super) fn graceful_shutdown(&mut self) {
        match self {
            Self::Squire(server) => server.graceful_shutdown(),
            Self::H2(server) => server.graceful_shutdown(),
        }
    }

    /// Says why the connection ends now.
    pub(in super::super) fn abrupt_shutdown(&mut self, reason: Reason) {
        match self {
            Self::Squire(server) => server.abrupt_shutdown(reason),
            Self::H2(server) => server.abrupt_shutdown(reason),
        }
    }

    /// Waits until everything has been written.
    pub(in super::super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match self {
            Self::Squire(server) => server.poll_closed(cx),
            Self::H2(server) => server.poll_closed(cx),
        }
    }

    /// How many requests have been answered 431 since this was asked, for the size of their header list.
    pub(in super::super) fn refused_lists(&mut self) -> usize {
        match self {
            Self::Squire(server) => server.refused_lists(),
            // It answers by itself, and tells nobody.
            Self::H2(_) => 0,
        }
    }

    /// Whether the client's socket does not take what there is for it, as far as that is known.
    pub(in super::super) fn has_unsent(&self) -> bool {
        match self {
            Self::Squire(server) => server.has_unsent(),
            Self::H2(_) => false,
        }
    }

    /// Asks whether the client is still there; false: it cannot be asked now.
    pub(in super::super) fn ping(&mut self) -> bool {
        match self {
            Self::Squire(server) => {
                server.ping();
                true
            }
            Self::H2(server) => server.ping(),
        }
    }

    /// Whether it has answered.
    pub(in super::super) fn has_answered(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Squire(server) => server.has_answered(),
            Self::H2(server) => server.has_answered(cx),
        }
    }
}

/// Opens streams on a connection. It closes once there is none of these left and every stream has ended.
#[derive(Clone)]
pub(in super::super) enum Opener {
    Squire(client::Opener),
    H2(h2::client::SendRequest<Bytes>),
}

impl Opener {
    /// Sends a request's head; `ended`: nothing follows.
    pub(in super::super) fn send_request(
        &mut self,
        head: &FieldList,
        ended: bool,
    ) -> Result<(Awaited, Sending), Error> {
        match self {
            Self::Squire(opener) => opener
                .send_request(head, ended)
                .map(|(awaited, sending)| (Awaited::Squire(awaited), Sending::Squire(sending))),
            Self::H2(opener) => library::send_request(opener, head, ended)
                .map(|(awaited, sending)| (Awaited::H2(awaited), Sending::H2(sending))),
        }
    }

    /// Streams that the server allows at a time.
    pub(in super::super) fn room(&self) -> usize {
        match self {
            Self::Squire(opener) => opener.room(),
            Self::H2(opener) => opener.current_max_send_streams(),
        }
    }

    /// Whether the server takes extended CONNECT, as far as it has said yet.
    pub(in super::super) fn takes_extended_connect(&self) -> bool {
        match self {
            Self::Squire(opener) => opener.takes_extended_connect(),
            Self::H2(opener) => opener.is_extended_connect_protocol_enabled(),
        }
    }

    /// Whether the server takes no more streams.
    pub(in super::super) fn is_gone(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Squire(opener) => opener.is_gone(),
            Self::H2(opener) => matches!(opener.poll_ready(cx), Poll::Ready(Err(_))),
        }
    }
}

/// Drives a connection to a server.
pub(in super::super) enum Client<S>
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
    pub(in super::super) async fn handshake(io: S, limits: &Limits) -> Result<(Opener, Self), Error> {
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
    pub(in super::super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match self {
            Self::Squire(client) => client.poll(cx),
            Self::H2(client) => client.poll(cx),
        }
    }

    /// Asks the server for an answer; false: it cannot be asked now.
    pub(in super::super) fn ping(&mut self) -> bool {
        match self {
            Self::Squire(client) => {
                client.ping();
                true
            }
            Self::H2(client) => client.ping(),
        }
    }

    /// Whether it has answered.
    pub(in super::super) fn has_answered(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Squire(client) => client.has_answered(),
            Self::H2(client) => client.has_answered(cx),
        }
    }
}
