//! Frames to the peer: heads, bodies as far as the windows go, and windows given back. Streams that wait for the
//! connection take turns, a frame each, in the order in which they came.

use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use h2::Reason;

use super::{
    core::{Core, Role},
    error::{By, Error},
    fields::FieldList,
    frame::{self, Header},
    table::Half,
};

/// Body bytes wait where they come from as long as so much waits here to be written.
pub(super) const FULL: usize = 128 * 1024;

impl Core {
    /// Opens a stream with a request's head. None: the peer allows no more streams now.
    pub(super) fn open(&mut self, fields: &FieldList, ended: bool) -> Option<usize> {
        let free = self.over.is_none() && self.gone_away.is_none();
        if !free || self.streams.open() >= self.peer_streams {
            return None;
        }
        let id = self.next;
        self.next += 2;
        if self.next > frame::MAX_STREAM {
            // No numbers are left: another connection has to do from here on (RFC 9113 §5.1.1).
            self.gone_away = Some(Reason::NO_ERROR);
        }
        let place = self.add(id);
        self.write_headers(id, fields, ended);
        if let Some(stream) = self.streams.get(place) {
            stream.sending = if ended { Half::Ended } else { Half::Open };
            stream.to_head = fields.get(":method") == Some(b"HEAD");
        }
        self.stir();
        Some(place)
    }

    /// Sends a head or trailers on a stream that is there.
    pub(super) fn send_fields(&mut self, place: usize, fields: &FieldList, ended: bool) -> Result<(), Error> {
        let stream = self.streams.get(place).ok_or_else(Error::ended)?;
        if let Some(over) = &stream.over {
            return Err(over.clone());
        }
        if stream.sending == Half::Ended {
            return Err(Error::Reset {
                reason: Reason::INTERNAL_ERROR,
                by: By::Us,
            });
        }
        let interim = fields.get(":status").is_some_and(|status| status.starts_with(b"1"));
        if !interim {
            stream.sending = if ended { Half::Ended } else { Half::Open };
        }
        let (id, done) = (stream.id, stream.is_done());
        self.write_headers(id, fields, ended);
        if done {
            self.done(place);
        }
        self.stir();
        Ok(())
    }

    pub(super) fn write_headers(&mut self, id: u32, fields: &FieldList, ended: bool) {
        let out = self.out.buffer();
        let at = out.len();
        out.extend_from_slice(&[0; frame::HEADER]);
        self.encoder.encode(fields.iter(), out);
        let length = out.len() - at - frame::HEADER;
        let ended = if ended { frame::END_STREAM } else { 0 };
        if length <= frame::PAYLOAD {
            let header = Header {
                length,
                kind: frame::HEADERS,
                flags: ended | frame::END_HEADERS,
                stream: id,
            };
            out[at..at + frame::HEADER].copy_from_slice(&header.bytes());
            return;
        }
        let block = out.split_off(at + frame::HEADER);
        out.truncate(at);
        let count = block.len().div_ceil(frame::PAYLOAD);
        for (index, piece) in block.chunks(frame::PAYLOAD).enumerate() {
            let kind = if index == 0 {
                frame::HEADERS
            } else {
                frame::CONTINUATION
            };
            let first = if index == 0 { ended } else { 0 };
            let last = if index + 1 == count { frame::END_HEADERS } else { 0 };
            frame::write(out, kind, first | last, id, piece);
        }
    }

    /// Sends of `bytes` what the windows allow, and the end behind it if it is `last`; ready when all is sent.
    pub(super) fn poll_send(
        &mut self,
        place: usize,
        bytes: &mut Bytes,
        last: bool,
        cx: &Context<'_>,
    ) -> Poll<Result<(), Error>> {
        loop {
            let Some(stream) = self.streams.get(place) else {
                return Poll::Ready(Err(Error::ended()));
            };
            if let Some(over) = &stream.over {
                return Poll::Ready(Err(over.clone()));
            }
            if bytes.is_empty() && !last {
                return Poll::Ready(Ok(()));
            }
            let (id, window) = (stream.id, stream.send_window);
            if !bytes.is_empty() && window <= 0 {
                stream.watch(cx);
                self.leave_queue(place);
                return Poll::Pending;
            }
            let mut count = 0;
            if !bytes.is_empty() {
                if !self.is_turn_of(place) {
                    self.wait(place, cx);
                    return Poll::Pending;
                }
                let room = window.min(self.send_window).min(frame::PAYLOAD as i64);
                count = bytes.len().min(usize::try_from(room).unwrap_or(0));
            }
            let ended = last && count == bytes.len();
            let header = Header {
                length: count,
                kind: frame::DATA,
                flags: if ended { frame::END_STREAM } else { 0 },
                stream: id,
            };
            let out = self.out.buffer();
            header.write(out);
            out.extend_from_slice(&bytes[..count]);
            bytes.advance(count);
            self.send_window -= count as i64;
            if let Some(stream) = self.streams.get(place) {
                stream.send_window -= count as i64;
                if ended {
                    stream.sending = Half::Ended;
                }
            }
            self.stir();
            self.leave_queue(place);
            if ended {
                if self.streams.get(place).is_some_and(|stream| stream.is_done()) {
                    self.done(place);
                }
                return Poll::Ready(Ok(()));
            }
            if bytes.is_empty() && !last {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Whether the connection takes body bytes of this stream now: those that wait longer come first.
    fn is_turn_of(&self, place: usize) -> bool {
        self.has_room() && self.waiting.front().is_none_or(|first| *first == place)
    }

    fn has_room(&self) -> bool {
        self.send_window > 0 && self.out.len() < FULL
    }

    fn wait(&mut self, place: usize, cx: &Context<'_>) {
        if let Some(stream) = self.streams.get(place) {
            stream.watch(cx);
        }
        if !self.waiting.contains(&place) {
            self.waiting.push_back(place);
        }
        self.wake_next();
    }

    /// The connection may take more: the stream that waits longest goes on.
    pub(super) fn wake_next(&mut self) {
        if self.has_room()
            && let Some(first) = self.waiting.front().copied()
            && let Some(stream) = self.streams.get(first)
        {
            stream.wake();
        }
    }

    /// The stream waits for its turn no longer: it has had it, or is over.
    pub(super) fn leave_queue(&mut self, place: usize) {
        if self.waiting.is_empty() {
            return;
        }
        self.waiting.retain(|waiting| *waiting != place);
        self.wake_next();
    }

    /// Body bytes have been taken: the peer may send as many more.
    pub(super) fn take(&mut self, place: usize, count: u32) {
        if let Some(stream) = self.streams.get(place) {
            let count = count.min(stream.unreleased);
            stream.unreleased -= count;
            self.give_back_on(place, count);
            self.give_back(count);
        }
    }

    /// The stream's window: told when it is half of what the peer still has, so that frames are few and nobody ever waits
    /// for a window that waits for him.
    pub(super) fn give_back_on(&mut self, place: usize, count: u32) {
        let Some(stream) = self.streams.get(place) else { return };
        stream.released += count;
        let due = is_due(stream.released, stream.receive_window);
        if due && stream.receiving == Half::Open && stream.over.is_none() {
            let more = std::mem::take(&mut stream.released);
            stream.receive_window += i64::from(more);
            let id = stream.id;
            frame::write_window(self.out.buffer(), id, more);
            self.stir();
        }
    }

    /// The connection's window, the same way: streams whose bytes nobody takes may hold all the rest of it.
    pub(super) fn give_back(&mut self, count: u32) {
        self.released += count;
        if is_due(self.released, self.receive_window) {
            let more = std::mem::take(&mut self.released);
            self.receive_window += i64::from(more);
            frame::write_window(self.out.buffer(), 0, more);
            self.stir();
        }
    }

    /// Whether another stream may be opened, and how many at a time.
    pub(super) fn room(&self) -> usize {
        debug_assert_eq!(self.role, Role::Client);
        self.peer_streams
    }
}

fn is_due(released: u32, window: i64) -> bool {
    released > 0 && 2 * i64::from(released) >= window
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::h2::{limits::Limits, wire::hpack::Encoder};

    #[test]
    fn streams_that_nobody_reads_leave_the_others_what_these_have_given_back() {
        let limits = Limits {
            stream_window: 60_000,
            connection_window: 80_000,
            ..Limits::default()
        };
        let mut core = Core::new(Role::Server, limits);
        let mut fields = FieldList::default();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "db"),
            (":path", "/"),
        ] {
            fields.push(name.as_bytes(), value.as_bytes());
        }
        let mut encoder = Encoder::new();
        let mut receive = |kind, flags, stream, payload: &[u8]| {
            let header = Header {
                length: payload.len(),
                kind,
                flags,
                stream,
            };
            core.receive(header, payload).unwrap();
            core.streams.find(stream)
        };
        receive(frame::SETTINGS, 0, 0, &[]);
        let mut open = |stream| {
            let mut block = Vec::new();
            encoder.encode(fields.iter(), &mut block);
            receive(frame::HEADERS, frame::END_HEADERS, stream, &block)
        };
        let read = open(1).unwrap();
        open(3).unwrap();
        let piece = [0; 16_000];
        core.receive(
            Header {
                length: piece.len(),
                kind: frame::DATA,
                flags: 0,
                stream: 1,
            },
            &piece,
        )
        .unwrap();
        core.take(read, 16_000);
        assert_eq!(
            core.receive_window, 64_000,
            "a quarter of what is left is not worth a word"
        );
        for _ in 0..3 {
            let header = Header {
                length: piece.len(),
                kind: frame::DATA,
                flags: 0,
                stream: 3,
            };
            core.receive(header, &piece).unwrap();
        }
        assert_eq!(core.receive_window, 80_000 - 64_000 + 16_000);
    }
}
