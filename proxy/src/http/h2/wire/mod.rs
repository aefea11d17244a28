//! HTTP/2 on the wire: connections and streams, at both ends. There are two engines behind one face. `squire` is our own,
//! made for passing on: a stream's bytes are copied from one connection to the other, many frames go out with one write,
//! and heads stay what HPACK holds. `h2` is the `h2` crate; it is what the other one is compared with, and what remains when
//! that is turned off (`http2.engine`).
//!
//! ```text
//! connections.rs, streams.rs   the face of both engines
//! server.rs, client.rs   the two ends of a connection      handle.rs   who holds a stream
//! core.rs     state of a connection   receive.rs   frames in   send.rs   frames out   table.rs   its streams
//! drive.rs    bytes in and out        out.rs       what waits to be written
//! frame.rs    frames    hpack/   header blocks    message.rs, fit.rs   what is a message     fields.rs   its fields
//! library.rs  the same face on the `h2` crate
//! ```
//!
//! Nothing here knows policy, routes or requests' meaning.

mod client;
mod connections;
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
mod streams;
mod table;

pub(super) use self::{
    connections::{Accepted, Client, Opener, Server},
    error::{By, Error},
    fields::FieldList,
    streams::{Awaited, Receiving, Responding, Sending},
};
pub(super) use crate::config::Http2Engine as Engine;

/// A response's head, of the status it has.
pub(super) enum Head<R> {
    /// 1xx: another one follows.
    Interim(u16, FieldList),
    /// And what comes behind it.
    Final(u16, FieldList, R),
}
