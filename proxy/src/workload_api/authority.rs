//! Some gRPC clients (C and Python among them) name a Unix socket by its percent-encoded path in `:authority`, which is no
//! authority (RFC 3986, 3.2), and so HTTP/2 servers refuse their requests. On a socket that has only one server the name says
//! nothing: here it is replaced in the stream of frames, before HTTP/2 is spoken, by one of the same length that is valid.
//! Nothing else is touched, and what is not understood is passed on for HTTP/2 to judge.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// `PRI * HTTP/2.0 …` (RFC 9113, 3.4).
const PREFACE: usize = 24;
/// Bytes of a frame's header.
const FRAME_HEAD: usize = 9;
const HEADERS: u8 = 1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// Longest payload that we let clients send (RFC 9113, 6.5.2: the default).
const MAX_PAYLOAD: usize = 16_384;
/// `:authority` in HPACK's static table (RFC 7541, Appendix A).
const AUTHORITY: usize = 1;
const NAME: &[u8] = b":authority";
/// Read at once.
const CHUNK: usize = 4096;

/// A stream whose requests have a valid `:authority`.
pub(super) struct ValidAuthority<S> {
    stream: S,
    /// What was read and not yet handed on.
    buffer: Vec<u8>,
    /// So much of it may be handed on.
    released: usize,
    /// So many of the bytes that come are none of our business.
    passing: usize,
    ended: bool,
}

impl<S> ValidAuthority<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
            released: 0,
            passing: PREFACE,
            ended: false,
        }
    }

    /// Looks at what was read, as far as whole frames of interest are there.
    fn advance(&mut self) {
        loop {
            let there = self.buffer.len() - self.released;
            let passed = self.passing.min(there);
            self.released += passed;
            self.passing -= passed;
            let Some(rest) = self.buffer.get_mut(self.released..) else {
                return;
            };
            let Some((head, payload)) = rest.split_at_mut_checked(FRAME_HEAD) else {
                return;
            };
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let (kind, flags) = (head[3], head[4]);
            let whole = kind == HEADERS && flags & END_HEADERS != 0 && length <= MAX_PAYLOAD;
            if !whole {
                self.passing = FRAME_HEAD + length;
                continue;
            }
            let Some(payload) = payload.get_mut(..length) else {
                return;
            };
            replace_authority(payload, flags);
            self.released += FRAME_HEAD + length;
        }
    }
}

/// Replaces the value of `:authority` in a whole block of fields; leaves it alone where it is malformed.
fn replace_authority(payload: &mut [u8], flags: u8) -> Option<()> {
    let mut at = 0;
    let mut end = payload.len();
    if flags & PADDED != 0 {
        end = end.checked_sub(usize::from(*payload.first()?))?;
        at += 1;
    }
    if flags & PRIORITY != 0 {
        at += 5;
    }
    let block = payload.get_mut(at..end)?;
    let mut at = 0;
    while at < block.len() {
        let first = block[at];
        // RFC 7541, 6: indexed; literal with indexing; size update; literal without, or never, indexed.
        let prefix = match first {
            0x80.. => 7,
            0x40.. => 6,
            0x20.. => 5,
            _ => 4,
        };
        let index;
        (index, at) = integer(block, at, prefix)?;
        if first & 0x80 != 0 || first & 0xe0 == 0x20 {
            continue;
        }
        let mut named = index == AUTHORITY;
        if index == 0 {
            // gRPC's C core writes the name out, and never Huffman-coded.
            let (length, start) = integer(block, at, 7)?;
            at = start.checked_add(length)?;
            named = block.get(start..at)? == NAME;
        }
        let (length, start) = integer(block, at, 7)?;
        let after = start.checked_add(length)?;
        let value = block.get_mut(start..after)?;
        if named && length > 0 {
            value.fill(b'a');
            // The value is plain text now, not Huffman-coded.
            block[at] &= 0x7f;
        }
        at = after;
    }
    Some(())
}

/// An integer (RFC 7541, 5.1) whose first byte is at `at`, and where it ends.
fn integer(block: &[u8], at: usize, prefix: u32) -> Option<(usize, usize)> {
    let mask = (1_usize << prefix) - 1;
    let mut value = usize::from(*block.get(at)?) & mask;
    let mut at = at + 1;
    if value < mask {
        return Some((value, at));
    }
    for shift in [0, 7, 14] {
        let byte = usize::from(*block.get(at)?);
        at += 1;
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value, at));
        }
    }
    None
}

impl<S: AsyncRead + Unpin> AsyncRead for ValidAuthority<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.released == 0 && !this.ended {
            let mut chunk = [0; CHUNK];
            let mut read = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut read))?;
            this.ended = read.filled().is_empty();
            this.buffer.extend_from_slice(read.filled());
            this.advance();
        }
        if this.ended {
            // Half a frame: HTTP/2 will say what is wrong with it.
            this.released = this.buffer.len();
        }
        let taken = this.released.min(buffer.remaining());
        buffer.put_slice(&this.buffer[..taken]);
        this.buffer.drain(..taken);
        this.released -= taken;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ValidAuthority<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// `:method: POST`, `:authority` with this value (Huffman-coded or not), a field of another name.
    fn block(value: &[u8], huffman: bool) -> Vec<u8> {
        let length = u8::try_from(value.len()).unwrap() | if huffman { 0x80 } else { 0 };
        [&[0x83, 0x41, length], value, b"\x40\x02te\x08trailers"].concat()
    }

    async fn through(bytes: &[u8], at_once: usize) -> Vec<u8> {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let mut server = ValidAuthority::new(server);
        let (sent, mut out) = (bytes.to_vec(), Vec::new());
        let send = async move {
            for part in sent.chunks(at_once) {
                client.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
            drop(client);
        };
        let (_, read) = tokio::join!(send, server.read_to_end(&mut out));
        read.unwrap();
        out
    }

    #[tokio::test]
    async fn an_authority_is_replaced_by_a_valid_one_of_the_same_length_however_the_bytes_arrive() {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let settings = frame(4, 0, &[0, 2, 0, 0, 0, 0]);
        let data = frame(0, 1, &block(b"tmp%2Fx", false));
        let priority = [&[0, 0, 0, 0, 16], &block(b"tmp%2Fx", true)[..]].concat();
        let padded = [&[2], &block(b"tmp%2Fx", false)[..], &[0, 0]].concat();
        let whole = |value: fn(&[u8], bool) -> Vec<u8>| {
            let headers = frame(HEADERS, END_HEADERS, &value(b"tmp%2Fx", true));
            [&preface[..], &settings, &headers, &data].concat()
        };
        let sent = whole(block);
        let expected = whole(|value, _| block(&vec![b'a'; value.len()], false));
        for at_once in [1, 3, 7, 10_000] {
            assert_eq!(through(&sent, at_once).await, expected, "{at_once}");
        }
        let all = |first: Vec<u8>, second: Vec<u8>| {
            [
                &preface[..],
                &frame(HEADERS, END_HEADERS | PRIORITY, &first),
                &frame(HEADERS, END_HEADERS | PADDED, &second),
            ]
            .concat()
        };
        let valid = block(b"aaaaaaa", false);
        let expected = all(
            [&[0, 0, 0, 0, 16], &valid[..]].concat(),
            [&[2], &valid[..], &[0, 0]].concat(),
        );
        assert_eq!(through(&all(priority, padded), 5).await, expected);
        let named = |value: &[u8]| frame(HEADERS, END_HEADERS, &[b"\x40\x0a:authority\x07", value].concat());
        let sent = [&preface[..], &named(b"tmp%2Fx")].concat();
        assert_eq!(through(&sent, 9).await, [&preface[..], &named(b"aaaaaaa")].concat());
    }

    #[tokio::test]
    async fn what_is_not_understood_is_passed_on_as_it_is() {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        for bad in [
            frame(HEADERS, END_HEADERS, &[0x41, 0xff]),
            frame(HEADERS, END_HEADERS, &[0x41, 0x7f, 0xff, 0xff, 0xff, 0xff]),
            frame(HEADERS, END_HEADERS | PADDED, &[200, 0x83]),
            frame(HEADERS, END_HEADERS | PRIORITY, &[0x83]),
            frame(HEADERS, 0, &block(b"tmp%2Fx", false)),
            vec![0, 0, 9, HEADERS, END_HEADERS, 0],
            vec![0xff; 40],
        ] {
            let sent = [preface.clone(), bad].concat();
            assert_eq!(through(&sent, 4).await, sent);
        }
        assert_eq!(through(b"GET", 2).await, b"GET");
    }
}
