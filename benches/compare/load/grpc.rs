//! The little of gRPC that both ends of the benchmark need: one method, and a message of the pattern in its frame. Sends nothing.

use anyhow::Result;
use bytes::{BufMut, Bytes, BytesMut};

use super::pattern;

/// The method, which answers with the message it was sent.
pub(crate) const PATH: &str = "/bench.Echo/Call";

/// What requests and responses declare.
pub(crate) const CONTENT_TYPE: &str = "application/grpc";

/// A message of `length` bytes with its prefix: not compressed, and its length.
pub(crate) fn message(length: usize) -> Result<Bytes> {
    let mut framed = BytesMut::with_capacity(5 + length);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(length)?);
    framed.put_slice(pattern::at(0, length));
    Ok(framed.freeze())
}
