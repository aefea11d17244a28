//! Record protection of an established connection, whichever engine does it: our own, in place, or rustls, which costs
//! two copies more and is there so that ours can be switched off. No socket is touched here.

use std::ops::Range;

use super::{alert, fallback::Fallback, own::Own};
use crate::config::TlsEngine;

/// Which code protects records after the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Engine {
    /// Our own, in place.
    #[default]
    Squire,
    /// rustls.
    Rustls,
}

impl From<TlsEngine> for Engine {
    fn from(configured: TlsEngine) -> Self {
        match configured {
            TlsEngine::Squire => Self::Squire,
            TlsEngine::Rustls => Self::Rustls,
        }
    }
}

/// Why a record could not be opened or sealed. All of them end the connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecordError {
    /// Bytes that are no TLS record, or one over the length limit.
    #[error("the peer sent bytes that are not a TLS 1.3 record (type {kind}, length {length})")]
    Malformed {
        /// Content type of the record header.
        kind: u8,
        /// Length of the record header.
        length: usize,
    },
    /// Authentication failed: altered, replayed or out of order.
    #[error("a TLS record failed authentication: it was altered, or not made by this peer")]
    Unauthentic,
    /// The peer ended the connection with a fatal alert.
    #[error("the peer refused the connection: TLS alert {name} ({code})", name = alert::name(*code))]
    Alert {
        /// Number of the alert (RFC 8446 §6).
        code: u8,
    },
    /// A message that is not allowed after the handshake.
    #[error("the peer sent a TLS message that is not allowed after the handshake (type {0})")]
    Unexpected(u8),
    /// Too many records without application data.
    #[error("the peer sent {limit} TLS records in a row without application data", limit = super::own::MAX_IDLE_RECORDS)]
    Idle,
    /// The sequence number space of a key is used up.
    #[error("the TLS sequence number is used up")]
    Exhausted,
    /// rustls refused a key update.
    #[error("TLS keys could not be updated")]
    KeyUpdate,
}

/// What was at the front of the receive buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Opened {
    /// Not a whole record yet; so many bytes are needed in all.
    Partial(usize),
    /// Application data, decrypted in place at `plaintext`; the record took `consumed` bytes.
    Data { consumed: usize, plaintext: Range<usize> },
    /// A record without application data.
    Control { consumed: usize },
    /// close_notify: the peer sends nothing more.
    Closed { consumed: usize },
}

/// Both directions of one connection.
pub(crate) enum Records {
    Own(Box<Own>),
    Rustls(Box<Fallback>),
}

impl Records {
    /// Opens the record at the front of `buffer`, in place.
    pub(crate) fn open(&mut self, buffer: &mut [u8]) -> Result<Opened, RecordError> {
        match self {
            Self::Own(own) => own.open(buffer),
            Self::Rustls(fallback) => fallback.open(buffer),
        }
    }

    /// Whether [`Records::seal_key_update`] has to run before the next record.
    pub(crate) fn key_update_due(&self) -> bool {
        match self {
            Self::Own(own) => own.key_update_due(),
            Self::Rustls(fallback) => fallback.has_pending(),
        }
    }

    /// Seals a KeyUpdate and moves on to the next key. Returns the bytes written to `out`.
    pub(crate) fn seal_key_update(&mut self, out: &mut [u8]) -> Result<usize, RecordError> {
        match self {
            Self::Own(own) => own.seal_key_update(out),
            Self::Rustls(fallback) => fallback.take_pending(out),
        }
    }

    /// Seals close_notify. Returns the bytes written to `out`.
    pub(crate) fn seal_close_notify(&mut self, out: &mut [u8]) -> Result<usize, RecordError> {
        match self {
            Self::Own(own) => own.seal_close_notify(out),
            Self::Rustls(fallback) => fallback.seal_close_notify(out),
        }
    }

    /// Protects `total` plaintext bytes that lie in the record slots of `slots` (see [`crate::chunk`]). Returns the
    /// length of the protected bytes, which stand at the front of `slots` in one run.
    pub(crate) fn seal(&mut self, slots: &mut [u8], total: usize) -> Result<usize, RecordError> {
        match self {
            Self::Own(own) => own.seal(slots, total),
            Self::Rustls(fallback) => fallback.seal(slots, total),
        }
    }
}

#[cfg(test)]
impl Records {
    /// Updates our sending keys after so many records, so that tests see it happen.
    pub(crate) fn refresh_after(&mut self, records: u64) {
        if let Self::Own(own) = self {
            own.refresh_after(records);
        }
    }

    /// How often our sending keys were updated.
    pub(crate) fn updates(&self) -> u32 {
        match self {
            Self::Own(own) => own.updates(),
            Self::Rustls(_) => 0,
        }
    }
}
