//! HPACK, the compression of header fields (RFC 7541): one [`Decoder`] and one [`Encoder`] for each connection. What is
//! decoded is bounded by the header list's limit; a block is always read to its end, so that the tables stay in step.

mod decode;
mod encode;
mod huffman;
mod table;

pub(super) use self::{
    decode::{Decoded, Decoder},
    encode::Encoder,
};

/// The size that a table has until somebody says another (RFC 9113 §6.5.2). We never ask for another one.
pub(super) const TABLE: usize = 4096;

#[cfg(test)]
mod tests;
