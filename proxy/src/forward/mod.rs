//! Moving bytes between an application and its peer until both directions are closed, the connection is cut, or an end
//! fails. Forwarding needs a [`Permit`](crate::authorize::Permit): bytes nobody authorized cannot get here.

mod mesh;
mod plain;

use std::io;

pub(crate) use self::{
    mesh::{Early, mesh},
    plain::plain,
};
use crate::{
    connection::Cut,
    link::{LinkError, frame::ResetReason},
};

/// Why forwarding ended before both directions were closed in order.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Interrupted {
    /// The application's socket failed.
    #[error("the application's connection failed: {0}")]
    App(io::Error),
    /// The other end's socket failed (without mutual TLS).
    #[error("the connection to the other end failed: {0}")]
    Far(io::Error),
    /// The mesh connection failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The peer's squire aborted the application connection.
    #[error("the peer's squire reset the connection ({0:?})")]
    Reset(ResetReason),
    /// We cut it: its grounds are gone.
    #[error("cut: {0}")]
    Cut(Cut),
}
