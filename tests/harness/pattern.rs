//! A stream of bytes of any length that shows whether something of it was lost, doubled, or put elsewhere.

use bytes::Bytes;

/// Bytes of a block.
const BLOCK: usize = 64 * 1024;

/// Where a writer or a reader of the stream is.
#[derive(Debug)]
pub struct Pattern {
    /// The block that is under way; its number stands at its front.
    block: Vec<u8>,
    number: u64,
    /// Bytes of it that have been checked.
    checked: usize,
}

impl Default for Pattern {
    fn default() -> Self {
        let mut state = 0x9E37_79B9_u32;
        let mut block: Vec<u8> = Vec::with_capacity(BLOCK);
        block.resize_with(BLOCK, || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_le_bytes()[0]
        });
        block[..8].copy_from_slice(&0_u64.to_be_bytes());
        Self {
            block,
            number: 0,
            checked: 0,
        }
    }
}

impl Pattern {
    /// Blocks of a mebibyte.
    pub const BLOCKS_PER_MIB: u64 = (1 << 20) / BLOCK as u64;

    /// The next block.
    pub fn block(&mut self) -> Bytes {
        let bytes = Bytes::copy_from_slice(&self.block);
        self.go_on();
        bytes
    }

    /// Looks whether these are the next bytes, wherever they are cut.
    ///
    /// # Panics
    /// When they are not.
    pub fn check(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let count = bytes.len().min(BLOCK - self.checked);
            let (these, rest) = bytes.split_at(count);
            let same = these == &self.block[self.checked..self.checked + count];
            assert!(
                same,
                "block {} is not what was sent, at or behind byte {}",
                self.number, self.checked
            );
            self.checked += count;
            bytes = rest;
            if self.checked == BLOCK {
                self.go_on();
            }
        }
    }

    /// How many bytes have been checked.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.number * BLOCK as u64 + self.checked as u64
    }

    fn go_on(&mut self) {
        self.number += 1;
        self.checked = 0;
        self.block[..8].copy_from_slice(&self.number.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "block 1 is not what was sent")]
    fn a_byte_that_is_lost_is_noticed() {
        let (mut sent, mut seen) = (Pattern::default(), Pattern::default());
        let bytes = [sent.block(), sent.block()].concat();
        seen.check(&bytes[..BLOCK + 100]);
        seen.check(&bytes[BLOCK + 101..]);
    }
}
