//! TLS between squires and SPIFFE peers: the handshake (rustls), then record protection in place. No policy, no framing.

pub(crate) mod alert;
mod fallback;
pub(crate) mod handshake;
mod kernel;
mod own;
pub(crate) mod records;

#[cfg(test)]
pub(crate) mod fixture;
