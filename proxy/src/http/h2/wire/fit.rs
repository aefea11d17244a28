//! Which characters may stand in a field (RFC 9113 §8.2.1, RFC 9110 §5.1, §5.5).

/// Whether this is a field's name: a token in lower case, or a pseudo-header field's.
pub(super) fn is_name(name: &[u8]) -> bool {
    let token = name.strip_prefix(b":").unwrap_or(name);
    !token.is_empty() && token.iter().all(|byte| NAME[usize::from(*byte)])
}

/// Whether this may be a field's value: no control characters but the tab.
pub(super) fn is_value(value: &[u8]) -> bool {
    value.iter().all(|byte| VALUE[usize::from(*byte)])
}

/// Whether this is a method: a token.
pub(super) fn is_method(method: &[u8]) -> bool {
    !method.is_empty() && method.iter().all(|byte| NAME[usize::from(byte.to_ascii_lowercase())])
}

const NAME: [bool; 256] = table(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz");

const VALUE: [bool; 256] = {
    let mut table = [true; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = byte == 0x09;
        byte += 1;
    }
    table[0x7f] = false;
    table
};

const fn table(allowed: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut index = 0;
    while index < allowed.len() {
        table[allowed[index] as usize] = true;
        index += 1;
    }
    table
}
