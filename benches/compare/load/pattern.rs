//! The bytes that all bodies are made of: a fixed sequence that repeats after a prime number of bytes, so that a lost, doubled or swapped
//! piece of any usual buffer size shows. Comparing costs one `memcmp`.

use std::sync::OnceLock;

use anyhow::{Result, bail};

/// After how many bytes the sequence repeats; a prime.
const PERIOD: usize = 65_521;

/// The longest piece that can be taken or compared at once.
pub(crate) const LONGEST: usize = 256 * 1024;

/// `length` (at most [`LONGEST`]) bytes of the sequence from `offset` on.
pub(crate) fn at(offset: u64, length: usize) -> &'static [u8] {
    static SEQUENCE: OnceLock<Vec<u8>> = OnceLock::new();
    let sequence = SEQUENCE.get_or_init(|| make(PERIOD + LONGEST));
    let start = usize::try_from(offset % PERIOD as u64).unwrap_or_default();
    &sequence[start..start + length]
}

/// Fails unless `bytes` are what the sequence has at `offset`.
pub(crate) fn check(offset: u64, bytes: &[u8]) -> Result<()> {
    for (number, piece) in bytes.chunks(LONGEST).enumerate() {
        let from = offset + (number * LONGEST) as u64;
        if piece != at(from, piece.len()) {
            let wrong = piece
                .iter()
                .zip(at(from, piece.len()))
                .position(|(got, right)| got != right)
                .unwrap_or_default();
            bail!("byte {} of a body is wrong", from + wrong as u64);
        }
    }
    Ok(())
}

fn make(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let period: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    })
    .take(PERIOD)
    .collect();
    period.iter().copied().cycle().take(length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_goes_on_across_any_cut() {
        let whole = at(60_000, 100_000);
        for cut in [1, 5_520, 5_521, 5_522, 65_536] {
            assert_eq!(at(60_000 + cut as u64, 1_000), &whole[cut..cut + 1_000], "cut at {cut}");
        }
    }

    #[test]
    fn one_wrong_byte_is_found_and_named() {
        let mut bytes: Vec<u8> = [at(7, LONGEST), at(7 + LONGEST as u64, 10)].concat();
        check(7, &bytes).unwrap();
        bytes[LONGEST + 3] ^= 1;
        let error = check(7, &bytes).unwrap_err().to_string();
        assert!(error.contains(&(7 + LONGEST + 3).to_string()), "{error}");
    }

    #[test]
    fn a_lost_buffer_shows() {
        for size in [1_024, 4_096, 16_384, 65_536] {
            assert!(check(0, at(size, 1_000)).is_err(), "{size}");
        }
    }
}
