//! The Huffman code of HPACK (RFC 7541 §5.2, Appendix B), decoded. The code is canonical, so the lengths of its codes say
//! everything. We write strings as they are: between neighbours, CPU is dearer than bytes.

/// Length in bits of the code of each byte, and of the end of the string.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12,
    10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6,
    5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22,
    22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28,
    27, 27, 27, 27, 27, 26, 30,
];

const SHORTEST: u32 = 5;
const LONGEST: u32 = 30;
const END_OF_STRING: u16 = 256;

/// Codes of at most so many bits are found with one look.
const QUICK: u32 = 9;

struct Tables {
    /// By the next [`QUICK`] bits: the byte and the length of its code; length 0: a longer code.
    quick: [(u8, u8); 1 << QUICK],
    /// By length: the first code above those of this length, moved to the left end of 32 bits.
    limits: [u64; LONGEST as usize + 1],
    /// By length: what to add to a code to get its place among all.
    offsets: [i64; LONGEST as usize + 1],
    /// All symbols in the order of their codes.
    symbols: [u16; 257],
}

const TABLES: Tables = tables();

const fn tables() -> Tables {
    let mut tables = Tables {
        quick: [(0, 0); 1 << QUICK],
        limits: [0; LONGEST as usize + 1],
        offsets: [0; LONGEST as usize + 1],
        symbols: [0; 257],
    };
    let (mut code, mut place, mut length) = (0_u64, 0_usize, SHORTEST);
    while length <= LONGEST {
        tables.offsets[length as usize] = place as i64 - code as i64;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as u32 == length {
                tables.symbols[place] = symbol as u16;
                if length <= QUICK {
                    let first = (code << (QUICK - length)) as usize;
                    let mut entry = first;
                    while entry < first + (1 << (QUICK - length)) {
                        tables.quick[entry] = (symbol as u8, length as u8);
                        entry += 1;
                    }
                }
                place += 1;
                code += 1;
            }
            symbol += 1;
        }
        tables.limits[length as usize] = code << (32 - length);
        code <<= 1;
        length += 1;
    }
    tables
}

/// Not a string in this code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadCode;

/// Appends what `coded` stands for.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), BadCode> {
    static CODE: Tables = TABLES;
    let mut rest = coded.iter();
    // The bits not used yet, at the left end.
    let (mut bits, mut have) = (0_u64, 0_u32);
    loop {
        while have <= 56 {
            let Some(&byte) = rest.next() else { break };
            bits |= u64::from(byte) << (56 - have);
            have += 8;
        }
        let (byte, length) = CODE.quick[(bits >> (64 - QUICK)) as usize];
        let length = u32::from(length);
        if length != 0 && length <= have {
            out.push(byte);
            (bits, have) = (bits << length, have - length);
            continue;
        }
        // The end, or a longer code. Padding is less than a byte of ones (RFC 7541 §5.2).
        if have < 8 && bits == !(u64::MAX.checked_shr(have).unwrap_or(0)) {
            return Ok(());
        }
        let next = bits >> 32;
        let length = (QUICK + 1..=LONGEST)
            .find(|length| next < CODE.limits[*length as usize])
            .filter(|length| *length <= have)
            .ok_or(BadCode)?;
        let code = (bits >> (64 - length)) as i64;
        let symbol = CODE.symbols[(code + CODE.offsets[length as usize]) as usize];
        if symbol == END_OF_STRING {
            return Err(BadCode);
        }
        out.push(symbol as u8);
        (bits, have) = (bits << length, have - length);
    }
}

/// Writes `plain` in this code, for tests of the other direction.
#[cfg(test)]
pub(super) fn encode(plain: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut have) = (0_u64, 0_u32);
    for &byte in plain {
        let place = TABLES
            .symbols
            .iter()
            .position(|symbol| *symbol == u16::from(byte))
            .unwrap();
        let length = u32::from(LENGTHS[usize::from(byte)]);
        let code = (place as i64 - TABLES.offsets[length as usize]) as u64;
        bits = bits << length | code;
        have += length;
        while have >= 8 {
            out.push((bits >> (have - 8)) as u8);
            have -= 8;
        }
    }
    if have > 0 {
        out.push((bits << (8 - have)) as u8 | (0xff >> have) as u8);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(coded: &[u8]) -> Result<Vec<u8>, BadCode> {
        let mut out = Vec::new();
        decode(coded, &mut out).map(|()| out)
    }

    #[test]
    fn the_examples_of_the_standard_are_read() {
        let coded = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(decoded(&coded).unwrap(), b"www.example.com");
        assert_eq!(decoded(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]).unwrap(), b"no-cache");
        assert_eq!(decoded(&[]).unwrap(), b"");
    }

    #[test]
    fn wrong_padding_and_the_end_of_the_string_are_refused() {
        // A byte of padding and more, padding that is not all ones, a code cut short, the end of the string itself.
        for bad in [
            &[0xff][..],
            &[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf, 0xff],
            &[0b0000_0000],
            &[0xff, 0xff],
            &[0xff, 0xff, 0xff, 0xfc],
            &[0xff, 0xff, 0xff, 0xff],
        ] {
            assert_eq!(decoded(bad), Err(BadCode), "{bad:x?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_coded_is_read_back(plain in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut coded = Vec::new();
            encode(&plain, &mut coded);
            prop_assert_eq!(decoded(&coded).unwrap(), plain);
        }

        #[test]
        fn nothing_makes_it_panic(coded in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decoded(&coded);
        }
    }
}
