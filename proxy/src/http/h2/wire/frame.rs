//! Frames (RFC 9113 §4, §6): their header, their kinds and flags, and how the short ones are written. It keeps no state.

use h2::Reason;

pub(super) const HEADER: usize = 9;
/// The largest payload we take, and the largest we send: what everybody has to take (RFC 9113 §4.2).
pub(super) const PAYLOAD: usize = 16 * 1024;
/// Windows before anybody says another size (RFC 9113 §6.9.2).
pub(super) const WINDOW: i64 = 65_535;
/// The largest window.
pub(super) const MAX_WINDOW: i64 = (1 << 31) - 1;
/// The highest stream there can be.
pub(super) const MAX_STREAM: u32 = (1 << 31) - 1;

pub(super) const DATA: u8 = 0x0;
pub(super) const HEADERS: u8 = 0x1;
pub(super) const PRIORITY: u8 = 0x2;
pub(super) const RST_STREAM: u8 = 0x3;
pub(super) const SETTINGS: u8 = 0x4;
pub(super) const PUSH_PROMISE: u8 = 0x5;
pub(super) const PING: u8 = 0x6;
pub(super) const GOAWAY: u8 = 0x7;
pub(super) const WINDOW_UPDATE: u8 = 0x8;
pub(super) const CONTINUATION: u8 = 0x9;

pub(super) const ACK: u8 = 0x1;
pub(super) const END_STREAM: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;
pub(super) const WITH_PRIORITY: u8 = 0x20;

pub(super) const HEADER_TABLE_SIZE: u16 = 0x1;
pub(super) const ENABLE_PUSH: u16 = 0x2;
pub(super) const MAX_CONCURRENT_STREAMS: u16 = 0x3;
pub(super) const INITIAL_WINDOW_SIZE: u16 = 0x4;
pub(super) const MAX_FRAME_SIZE: u16 = 0x5;
pub(super) const MAX_HEADER_LIST_SIZE: u16 = 0x6;
/// RFC 8441 §3.
pub(super) const ENABLE_CONNECT_PROTOCOL: u16 = 0x8;

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) length: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Header {
    pub(super) fn read(bytes: &[u8; HEADER]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = *bytes;
        Self {
            length: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
            kind,
            flags,
            // The first bit is reserved.
            stream: u32::from_be_bytes(stream) & MAX_STREAM,
        }
    }

    pub(super) fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes());
    }

    pub(super) fn bytes(self) -> [u8; HEADER] {
        let [_, a, b, c] = (self.length as u32).to_be_bytes();
        let [d, e, f, g] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, d, e, f, g]
    }

    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Writes a frame whose payload is short.
pub(super) fn write(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    Header {
        length: payload.len(),
        kind,
        flags,
        stream,
    }
    .write(out);
    out.extend_from_slice(payload);
}

pub(super) fn write_reset(out: &mut Vec<u8>, stream: u32, reason: Reason) {
    write(out, RST_STREAM, 0, stream, &u32::from(reason).to_be_bytes());
}

pub(super) fn write_window(out: &mut Vec<u8>, stream: u32, more: u32) {
    write(out, WINDOW_UPDATE, 0, stream, &more.to_be_bytes());
}

pub(super) fn write_goaway(out: &mut Vec<u8>, last: u32, reason: Reason) {
    let [a, b, c, d] = last.to_be_bytes();
    let [e, f, g, h] = u32::from(reason).to_be_bytes();
    write(out, GOAWAY, 0, 0, &[a, b, c, d, e, f, g, h]);
}

pub(super) fn write_settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    let mut payload = Vec::with_capacity(6 * settings.len());
    for (name, value) in settings {
        payload.extend_from_slice(&name.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    write(out, SETTINGS, 0, 0, &payload);
}

/// The payload without its padding (RFC 9113 §6.1); none: more padding than payload.
pub(super) fn unpadded(header: Header, payload: &[u8]) -> Option<&[u8]> {
    if !header.has(PADDED) {
        return Some(payload);
    }
    let (&padding, rest) = payload.split_first()?;
    rest.get(..rest.len().checked_sub(usize::from(padding))?)
}

/// A number of four bytes at the beginning.
pub(super) fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_as_it_was_written() {
        let header = Header {
            length: 0x01_02_03,
            kind: HEADERS,
            flags: END_HEADERS | PADDED,
            stream: 0x7fff_fffe,
        };
        assert_eq!(Header::read(&header.bytes()), header);
        assert_eq!(Header::read(&[0, 0, 0, 0, 0, 0x80, 0, 0, 1]).stream, 1);
    }

    #[test]
    fn padding_is_cut_and_never_more_than_there_is() {
        let padded = |payload| {
            let header = Header {
                length: 0,
                kind: DATA,
                flags: PADDED,
                stream: 1,
            };
            unpadded(header, payload)
        };
        assert_eq!(padded(&[2, 7, 0, 0]), Some(&[7][..]));
        assert_eq!(padded(&[3, 7, 0, 0]), Some(&[][..]));
        assert_eq!(padded(&[4, 7, 0, 0]), None);
        assert_eq!(padded(&[]), None);
    }
}
