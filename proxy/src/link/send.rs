//! The sending half of a link: reads from the application straight into record slots, protects them in place, and
//! writes them with one system call. Holds a buffer only while bytes are in it.

use std::{
    io::{IoSlice, IoSliceMut},
    ops::Range,
    task::{Context, Poll, ready},
};

use tokio::net::TcpStream;

use super::{
    Framing, LinkError, PumpError, Pumped,
    frame::{self, Control},
};
use crate::{
    chunk::{Chunk, RECORD, RECORD_HEADER, RECORD_PLAINTEXT, RECORDS},
    socket,
    tls::records::{RecordError, Records},
};

/// Control bytes that can wait for the next record: at most OPEN, FIN and two answers.
const WAITING: usize = 2 * frame::MAX_CONTROL + 2 * frame::HEADER;
/// Plaintext that one chunk can carry.
const CAPACITY: usize = RECORDS * RECORD_PLAINTEXT;
/// Room kept behind the data for the frame that ends it.
const END: usize = frame::HEADER;
/// Record slots offered to an application that says little at a time: one buffer is read for less than many.
const FEW: usize = 1;

pub(super) struct Sender {
    chunk: Option<Chunk>,
    /// Protected bytes to write, in `chunk`.
    sealed: Range<usize>,
    waiting: [u8; WAITING],
    waiting_length: u8,
    close_notify: bool,
    /// The application's last read filled [`FEW`] slots: it has more to say than that.
    plenty: bool,
}

impl Default for Sender {
    fn default() -> Self {
        Self {
            chunk: None,
            sealed: 0..0,
            waiting: [0; WAITING],
            waiting_length: 0,
            close_notify: false,
            plenty: false,
        }
    }
}

impl Sender {
    pub(super) fn push(&mut self, control: Control) {
        let mut bytes = [0; frame::MAX_CONTROL];
        let length = control.encode(&mut bytes);
        let start = usize::from(self.waiting_length);
        // Never full: a link has at most one OPEN, one FIN, one RESET and one GOAWAY under way.
        if let Some(room) = self.waiting.get_mut(start..start + length) {
            room.copy_from_slice(&bytes[..length]);
            self.waiting_length += length as u8;
        } else {
            debug_assert!(false, "control frames pile up");
        }
    }

    #[cfg(test)]
    pub(super) fn holds_buffer(&self) -> bool {
        self.chunk.is_some()
    }

    pub(super) fn push_close_notify(&mut self) {
        self.close_notify = true;
    }

    /// Writes out what is protected, then what waits.
    pub(super) fn poll_flush(
        &mut self,
        tcp: &TcpStream,
        records: &mut Records,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), LinkError>> {
        loop {
            while let Some(chunk) = self.chunk.as_ref().filter(|_| !self.sealed.is_empty()) {
                let bytes = IoSlice::new(&chunk[self.sealed.clone()]);
                let written = ready!(socket::poll_write(tcp, cx, &[bytes]))?;
                if written == 0 {
                    return Poll::Ready(Err(std::io::Error::from(std::io::ErrorKind::WriteZero).into()));
                }
                self.sealed.start += written;
            }
            if !self.seal_waiting(records)? {
                self.chunk = None;
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Protects key updates, control frames and close_notify that wait. `false`: there were none.
    fn seal_waiting(&mut self, records: &mut Records) -> Result<bool, RecordError> {
        let control = usize::from(self.waiting_length);
        if control == 0 && !self.close_notify && !records.key_update_due() {
            return Ok(false);
        }
        let chunk = self.chunk.get_or_insert_with(Chunk::take);
        let mut end = 0;
        if records.key_update_due() {
            end += records.seal_key_update(&mut chunk[..])?;
        }
        if control > 0 {
            chunk[end + RECORD_HEADER..][..control].copy_from_slice(&self.waiting[..control]);
            end += records.seal(&mut chunk[end..], control)?;
            self.waiting_length = 0;
        }
        if std::mem::take(&mut self.close_notify) {
            end += records.seal_close_notify(&mut chunk[end..])?;
        }
        self.sealed = 0..end;
        Ok(true)
    }

    /// Protects bytes from the front of `bufs`, as many as a chunk takes, together with frames that wait, and writes as
    /// the peer takes it. The count is of bytes that are protected; [`Sender::poll_flush`] sends what is left of them.
    pub(super) fn poll_send(
        &mut self,
        bufs: &[IoSlice<'_>],
        tcp: &TcpStream,
        records: &mut Records,
        framing: Framing,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, LinkError>> {
        if !self.sealed.is_empty() || records.key_update_due() {
            ready!(self.poll_flush(tcp, records, cx))?;
        }
        let control = usize::from(self.waiting_length);
        let start = control + if framing == Framing::Squire { frame::HEADER } else { 0 };
        let room = CAPACITY - start;
        let length = bufs.iter().map(|buf| buf.len()).sum::<usize>().min(room);
        if length == 0 {
            return Poll::Ready(Ok(0));
        }
        let mut chunk = self.chunk.take().unwrap_or_else(Chunk::take);
        write_at(&mut chunk, 0, &self.waiting[..control]);
        if framing == Framing::Squire {
            write_at(&mut chunk, control, &frame::data_header(length));
        }
        let mut at = start;
        for buf in bufs {
            let taken = buf.len().min(start + length - at);
            copy_at(&mut chunk, at, &buf[..taken]);
            at += taken;
        }
        self.waiting_length = 0;
        self.sealed = 0..records.seal(&mut chunk, start + length)?;
        self.chunk = Some(chunk);
        // Written at once where the socket takes it; the bytes count already.
        if let Poll::Ready(done) = self.poll_flush(tcp, records, cx) {
            done?;
        }
        Poll::Ready(Ok(length))
    }

    pub(super) fn poll_pump(
        &mut self,
        app: &TcpStream,
        tcp: &TcpStream,
        records: &mut Records,
        framing: Framing,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Pumped, PumpError>> {
        if !self.sealed.is_empty() || records.key_update_due() {
            ready!(self.poll_flush(tcp, records, cx))?;
        }
        if app.poll_read_ready(cx).map_err(PumpError::App)?.is_pending() {
            ready!(self.poll_flush(tcp, records, cx))?;
            return Poll::Pending;
        }
        let mut chunk = self.chunk.take().unwrap_or_else(Chunk::take);
        let control = usize::from(self.waiting_length);
        write_at(&mut chunk, 0, &self.waiting[..control]);
        let start = control + if framing == Framing::Squire { frame::HEADER } else { 0 };
        let slots = if self.plenty { RECORDS } else { FEW };
        let capacity = slots * RECORD_PLAINTEXT - END;
        let mut end = start;
        let mut ended = false;
        // A second read only where the end of the stream is already known to be there: it then goes out with the data.
        while end < capacity {
            let Poll::Ready(read) = read_at(app, cx, &mut chunk, end..capacity).map_err(PumpError::App)? else {
                break;
            };
            let full = read == capacity - end;
            end += read;
            if read == 0 {
                ended = true;
                break;
            }
            if full {
                break;
            }
            socket::drained(app);
        }
        self.plenty = end >= FEW * RECORD_PLAINTEXT - END;
        let length = end - start;
        if length == 0 && !ended {
            self.chunk = None;
            ready!(self.poll_flush(tcp, records, cx))?;
            return Poll::Pending;
        }
        let mut total = control;
        if length > 0 {
            if framing == Framing::Squire {
                write_at(&mut chunk, control, &frame::data_header(length));
            }
            total = end;
        }
        if ended {
            if framing == Framing::Squire {
                let mut fin = [0; frame::MAX_CONTROL];
                let fin_length = Control::Fin.encode(&mut fin);
                write_at(&mut chunk, total, &fin[..fin_length]);
                total += fin_length;
            } else {
                self.close_notify = true;
            }
        }
        self.waiting_length = 0;
        self.sealed = 0..records.seal(&mut chunk, total)?;
        self.chunk = Some(chunk);
        // Written at once where the socket takes it; otherwise the next call goes on, and the bytes count already.
        if let Poll::Ready(done) = self.poll_flush(tcp, records, cx) {
            done?;
        }
        Poll::Ready(Ok(if ended {
            Pumped::End(length)
        } else {
            Pumped::Bytes(length)
        }))
    }
}

/// Where plaintext position `at` lies in a chunk of record slots.
fn place(at: usize) -> usize {
    at / RECORD_PLAINTEXT * RECORD + RECORD_HEADER + at % RECORD_PLAINTEXT
}

/// Copies control bytes to plaintext position `at`, across a slot's end if need be.
fn write_at(chunk: &mut Chunk, at: usize, bytes: &[u8]) {
    for (offset, &byte) in bytes.iter().enumerate() {
        chunk[place(at + offset)] = byte;
    }
}

/// Copies application bytes to plaintext position `at`, one piece a record slot.
fn copy_at(chunk: &mut Chunk, mut at: usize, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let piece = bytes.len().min(RECORD_PLAINTEXT - at % RECORD_PLAINTEXT);
        let start = place(at);
        chunk[start..start + piece].copy_from_slice(&bytes[..piece]);
        at += piece;
        bytes = &bytes[piece..];
    }
}

/// Reads from the application into the plaintext positions `range`, one slice a record slot.
fn read_at(
    app: &TcpStream,
    cx: &mut Context<'_>,
    chunk: &mut Chunk,
    range: Range<usize>,
) -> Poll<std::io::Result<usize>> {
    let mut slots = chunk.chunks_exact_mut(RECORD);
    let slices: [IoSliceMut<'_>; RECORDS] = std::array::from_fn(|index| {
        let Some(slot) = slots.next() else {
            return IoSliceMut::new(&mut []);
        };
        let first = index * RECORD_PLAINTEXT;
        let start = range.start.clamp(first, first + RECORD_PLAINTEXT) - first;
        let end = range.end.clamp(first, first + RECORD_PLAINTEXT) - first;
        IoSliceMut::new(&mut slot[RECORD_HEADER + start..RECORD_HEADER + end])
    });
    let mut slices = slices;
    let (first, last) = (range.start / RECORD_PLAINTEXT, range.end.div_ceil(RECORD_PLAINTEXT));
    socket::poll_read(app, cx, &mut slices[first..last])
}
