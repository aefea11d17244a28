//! How the sidecar reaches a server that it asks something of its own (a provider, a key server): the one trait, and what
//! a connection brings with it. Which way it takes is in `mesh` and `outside`.

use std::{io, pin::Pin};

use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A byte stream of whatever kind.
pub(crate) type Stream = Box<dyn Io>;

/// A connection, and whether what it stands on still holds.
pub(crate) struct Connected {
    pub(crate) stream: Stream,
    pub(crate) standing: Standing,
}

/// Asked before a kept connection is used again: false once the SVID or the trust it was made with is no longer ours.
pub(crate) struct Standing(Option<Box<dyn Fn() -> bool + Send + Sync>>);

impl Standing {
    /// Nothing that could change: a connection outside of the mesh.
    pub(crate) const ALWAYS: Self = Self(None);

    /// As long as `holds` says so.
    pub(crate) fn while_true(holds: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(holds)))
    }

    /// Whether it holds.
    pub(crate) fn holds(&self) -> bool {
        self.0.as_ref().is_none_or(|holds| holds())
    }
}

/// A connection that is being opened.
pub(crate) type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Connected>> + Send + 'a>>;

/// Opens connections by name.
pub(crate) trait Connect: Send + Sync {
    /// A connection to `host` (a name or an IP address) and `port`.
    fn connect<'a>(&'a self, host: &'a str, port: u16) -> Connecting<'a>;
}
