//! An endless sequence of bytes in which each place tells which byte belongs there, so that a byte that is lost, doubled,
//! swapped or changed on its way is noticed. It moves no bytes itself.

/// The bytes from `offset` on, `len` of them.
pub(super) fn at(offset: u64, len: usize) -> Vec<u8> {
    let skip = (offset % 8) as usize;
    let words = (skip + len).div_ceil(8) as u64;
    let first = offset / 8;
    let mut bytes: Vec<u8> = (first..first + words)
        .flat_map(|word| mix(word).to_le_bytes())
        .collect();
    bytes.drain(..skip);
    bytes.truncate(len);
    bytes
}

/// SplitMix64: neighbours look nothing alike.
fn mix(word: u64) -> u64 {
    let mut z = word.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_the_same_wherever_it_is_cut() {
        let whole = at(0, 100);
        for (offset, len) in [(0, 0), (0, 1), (1, 7), (7, 2), (8, 8), (13, 60), (99, 1)] {
            assert_eq!(at(offset as u64, len), whole[offset..offset + len], "{offset}+{len}");
        }
        assert_ne!(at(0, 8), at(8, 8));
    }
}
