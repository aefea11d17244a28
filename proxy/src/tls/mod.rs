//! TLS between squires and SPIFFE peers: the handshake (rustls), then record protection in place. No policy, no framing.

pub(crate) mod alert;
mod fallback;
pub(crate) mod handshake;
mod own;
pub(crate) mod records;
pub(crate) mod schedule;

#[cfg(any(test, feature = "measure"))]
pub(crate) mod fixture;
