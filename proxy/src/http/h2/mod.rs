//! HTTP/2, and gRPC on it: each stream of a client's connection is checked, judged, sent on and recorded by itself.
//!
//! Built on connections and streams themselves (`wire/`) instead of on a client and server above them: what this sidecar
//! has to pass on exactly (the codes of resets, GOAWAY, interim responses, trailers, both windows) is what those hide.
//!
//! ```text
//! server.rs    one client connection: takes streams in, drives them in one task, carries policy, cut and drain to them
//! work.rs      the memory that what serves a stream is in
//! stream.rs    one stream in order; side.rs says what differs between inbound and outbound
//! head.rs      the request's head: checked, normalised, written again     relay.rs, pump.rs, body.rs   bodies and trailers
//! upstream.rs  one connection to a server     line.rs  those to one place     upstreams.rs  those of this sidecar
//! limits.rs    every bound     meter.rs  floods, counted frame by frame     refusal.rs  their names
//! wire/        connections and streams: frames, HPACK, windows
//! ```
//!
//! Nothing here decides: [`Gate`] and [`Way`] do.

mod body;
mod control;
mod grpc;
mod head;
mod limits;
mod line;
mod meter;
mod pump;
mod refusal;
mod relay;
mod server;
mod side;
mod stream;
mod ticket;
mod upstream;
mod upstreams;
mod wire;
mod work;

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use self::side::Side;
pub(crate) use self::{refusal::Refusal, upstreams::Upstreams, work::release};
use super::{Gate, Way};
use crate::outcome::Outcome;

/// How HTTP/2 begins (RFC 9113 §3.4), whoever speaks it with prior knowledge.
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves HTTP/2 that comes in from a peer (an application connection of a link, or plain TCP), until the connection is
/// over; the caller closes the connection's record with the outcome.
///
/// `received` are bytes of the client that have been read already. Each stream passes `gate` and goes to the application
/// at `app`, over one connection that is dialled with the first stream that may pass; `dialled` is one that whoever found
/// out who speaks first has dialled already.
pub(crate) async fn serve_inbound<S>(
    gate: Arc<Gate>,
    client: S,
    received: Bytes,
    app: SocketAddr,
    dialled: Option<TcpStream>,
) -> Outcome
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = gate.shared.http2.limits();
    let side = Side::inbound(gate, app, dialled, limits);
    server::serve(Arc::new(side), client, received, limits).await
}

/// Serves HTTP/2 that the application speaks to the outside, until the connection is over; the caller closes the
/// connection's record with the outcome.
///
/// `received` are bytes of the application that have been read already. Each stream takes the `way` that is chosen for it
/// alone, over connections that all streams of this sidecar share.
pub(crate) async fn serve_outbound<S>(way: Arc<Way>, app: S, received: Bytes) -> Outcome
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = way.shared.http2.limits();
    server::serve(Arc::new(Side::Out(way)), app, received, limits).await
}

#[cfg(test)]
use self::limits::Limits;
#[cfg(test)]
mod tests;
