//! How streams and connections of HTTP/2 end before their time.

use std::{io, sync::Arc};

use h2::Reason;

/// Who ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// This end, because the peer broke the protocol or a limit.
    Us,
    /// The other end.
    Peer,
}

/// Why a stream, or a whole connection, is over.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Error {
    /// RST_STREAM.
    #[error("{}: {reason}", said(*by, "the peer reset the stream", "the stream was reset for an error of the peer"))]
    Reset { reason: Reason, by: By },
    /// GOAWAY.
    #[error("{}: {reason}", said(*by, "the peer went away", "the connection was ended for an error of the peer"))]
    GoAway { reason: Reason, by: By },
    /// The bytes ended, or failed.
    #[error("{text}")]
    Io { kind: io::ErrorKind, text: Arc<str> },
}

fn said(by: By, peer: &'static str, us: &'static str) -> &'static str {
    match by {
        By::Peer => peer,
        By::Us => us,
    }
}

impl Error {
    /// The byte stream ended while it was needed.
    pub(crate) fn ended() -> Self {
        io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed").into()
    }

    /// The code of a RST_STREAM.
    pub(crate) fn reset(&self) -> Option<Reason> {
        match self {
            Self::Reset { reason, .. } => Some(*reason),
            Self::GoAway { .. } | Self::Io { .. } => None,
        }
    }

    /// The code that the peer reset the stream with.
    pub(crate) fn reset_by_peer(&self) -> Option<Reason> {
        match self {
            Self::Reset { reason, by: By::Peer } => Some(*reason),
            Self::Reset { by: By::Us, .. } | Self::GoAway { .. } | Self::Io { .. } => None,
        }
    }

    /// What the peer did that ended it, as a code of ours; none: it did nothing wrong.
    pub(crate) fn broken_by_peer(&self) -> Option<Reason> {
        match self {
            Self::Reset { reason, by: By::Us } | Self::GoAway { reason, by: By::Us } => Some(*reason),
            Self::Reset { by: By::Peer, .. } | Self::GoAway { by: By::Peer, .. } | Self::Io { .. } => None,
        }
    }

    /// Whether the peer says that it has not looked at the request (RFC 9113 §8.7).
    pub(crate) fn is_unprocessed(&self) -> bool {
        match self {
            Self::GoAway { by, .. } => *by == By::Peer,
            Self::Reset { reason, by } => *by == By::Peer && *reason == Reason::REFUSED_STREAM,
            Self::Io { .. } => false,
        }
    }

    /// Whether the bytes below failed.
    pub(crate) fn is_io(&self) -> bool {
        matches!(self, Self::Io { .. })
    }

    /// As an error of the byte stream that carried it.
    pub(crate) fn into_io(self) -> io::Error {
        match self {
            Self::Io { kind, text } => io::Error::new(kind, &*text),
            other @ (Self::Reset { .. } | Self::GoAway { .. }) => {
                io::Error::new(io::ErrorKind::InvalidData, format!("HTTP/2: {other}"))
            }
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io {
            kind: error.kind(),
            text: error.to_string().into(),
        }
    }
}

impl From<h2::Error> for Error {
    fn from(error: h2::Error) -> Self {
        let by = if error.is_remote() { By::Peer } else { By::Us };
        match error.reason() {
            Some(reason) if error.is_reset() => Self::Reset { reason, by },
            Some(reason) => Self::GoAway { reason, by },
            None => Self::Io {
                kind: error.get_io().map_or(io::ErrorKind::Other, io::Error::kind),
                text: error.to_string().into(),
            },
        }
    }
}
