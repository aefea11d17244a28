//! The receiving half of a link: reads records, opens them in place, splits them into frames, and offers the application
//! bytes of several records as one gathered write. Holds a buffer only while bytes are in it.

use std::{
    io::{IoSlice, IoSliceMut},
    ops::Range,
    task::{Context, Poll},
};

use tokio::net::TcpStream;

use super::{
    Event, Framing, LinkError,
    frame::{Control, Decoder, Item},
};
use crate::{
    chunk::{CHUNK, Chunk},
    socket,
    tls::records::{Opened, Records},
};

/// Pieces of application data gathered for one write.
pub(super) const SEGMENTS: usize = 16;

#[derive(Default)]
pub(super) struct Receiver {
    chunk: Option<Chunk>,
    /// Protected bytes not yet opened, in `chunk`.
    sealed: Range<usize>,
    /// Plaintext of the record opened last, not yet split into frames.
    plain: Range<usize>,
    /// Application bytes to deliver: offset and length in `chunk`.
    segments: [(u32, u32); SEGMENTS],
    count: usize,
    decoder: Decoder,
    /// Found behind data that has to be delivered first.
    next: Option<Event>,
    /// The peer has sent close_notify or the end of its TCP stream.
    closed: bool,
}

impl Receiver {
    pub(super) fn new(leftover: &[u8]) -> Self {
        let mut receiver = Self::default();
        if !leftover.is_empty() {
            // The handshake holds at most one record and what came with it: far below a chunk.
            let length = leftover.len().min(CHUNK);
            let mut chunk = Chunk::take();
            chunk[..length].copy_from_slice(&leftover[..length]);
            receiver.chunk = Some(chunk);
            receiver.sealed = 0..length;
        }
        receiver
    }

    #[cfg(test)]
    pub(super) fn holds_buffer(&self) -> bool {
        self.chunk.is_some()
    }

    pub(super) fn has_data(&self) -> bool {
        self.count > 0
    }

    /// Fills `slices` with the application bytes; returns how many slices.
    pub(super) fn data<'a>(&'a self, slices: &mut [IoSlice<'a>; SEGMENTS]) -> usize {
        let Some(chunk) = &self.chunk else { return 0 };
        for (slice, &(start, length)) in slices.iter_mut().zip(&self.segments[..self.count]) {
            *slice = IoSlice::new(&chunk[start as usize..(start + length) as usize]);
        }
        self.count
    }

    pub(super) fn unread(&mut self, event: Event) {
        self.next = Some(event);
    }

    /// The first piece of application bytes; empty if there are none.
    pub(super) fn first(&self) -> &[u8] {
        match (&self.chunk, self.count) {
            (Some(chunk), 1..) => {
                let (start, length) = self.segments[0];
                &chunk[start as usize..(start + length) as usize]
            }
            _ => &[],
        }
    }

    /// Drops `written` bytes from the front of the application data.
    pub(super) fn consume(&mut self, mut written: usize) {
        let mut gone = 0;
        for (start, length) in &mut self.segments[..self.count] {
            if written < *length as usize {
                *start += written as u32;
                *length -= written as u32;
                break;
            }
            written -= *length as usize;
            gone += 1;
        }
        self.segments.copy_within(gone..self.count, 0);
        self.count -= gone;
        self.let_go();
    }

    pub(super) fn discard(&mut self) {
        self.count = 0;
        self.let_go();
    }

    /// Gives the buffer back as soon as nothing is left in it: nobody may ask for more for a long time.
    fn let_go(&mut self) {
        if self.count == 0 && self.plain.is_empty() && self.sealed.is_empty() {
            self.chunk = None;
        }
    }

    pub(super) fn poll_event(
        &mut self,
        tcp: &TcpStream,
        records: &mut Records,
        framing: Framing,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Event, LinkError>> {
        debug_assert_eq!(self.count, 0, "deliver what is there before asking for more");
        if let Some(event) = self.next.take() {
            return Poll::Ready(Ok(event));
        }
        loop {
            if let Some(event) = self.open_buffered(records, framing)? {
                if self.count == 0 {
                    self.let_go();
                    return Poll::Ready(Ok(event));
                }
                self.next = (event != Event::Data).then_some(event);
                return Poll::Ready(Ok(Event::Data));
            }
            if self.closed {
                return Poll::Ready(Ok(Event::Closed { orderly: true }));
            }
            match self.poll_fill(tcp, cx) {
                Poll::Ready(Ok(0)) => {
                    self.closed = true;
                    return Poll::Ready(Ok(Event::Closed { orderly: false }));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Opens what is buffered, as far as it goes. `None`: more has to be read.
    fn open_buffered(&mut self, records: &mut Records, framing: Framing) -> Result<Option<Event>, LinkError> {
        let Some(chunk) = &mut self.chunk else { return Ok(None) };
        loop {
            while !self.plain.is_empty() {
                if self.count == SEGMENTS {
                    return Ok(Some(Event::Data));
                }
                let (taken, item) = match framing {
                    Framing::Plain => (self.plain.len(), Item::Data),
                    Framing::Squire => self.decoder.next(&chunk[self.plain.clone()])?,
                };
                let start = self.plain.start;
                self.plain.start += taken;
                match item {
                    Item::Partial => {}
                    Item::Data => {
                        self.segments[self.count] = (start as u32, taken as u32);
                        self.count += 1;
                    }
                    Item::Control(control) => return Ok(Some(event_of(control))),
                }
            }
            if self.closed {
                return Ok((self.count > 0).then_some(Event::Data));
            }
            match records.open(&mut chunk[self.sealed.clone()])? {
                Opened::Data { consumed, plaintext } => {
                    let start = self.sealed.start;
                    self.plain = start + plaintext.start..start + plaintext.end;
                    self.sealed.start += consumed;
                }
                Opened::Control { consumed } => self.sealed.start += consumed,
                Opened::Closed { consumed } => {
                    self.sealed.start += consumed;
                    self.closed = true;
                    return Ok(Some(Event::Closed { orderly: true }));
                }
                Opened::Partial(_) if self.count > 0 => return Ok(Some(Event::Data)),
                Opened::Partial(_) => return Ok(None),
            }
        }
    }

    /// Reads more protected bytes behind what is there; gives the buffer back while there is nothing.
    fn poll_fill(&mut self, tcp: &TcpStream, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        if self.sealed.is_empty() {
            self.sealed = 0..0;
            if tcp.poll_read_ready(cx)?.is_pending() {
                self.chunk = None;
                return Poll::Pending;
            }
        }
        let chunk = self.chunk.get_or_insert_with(Chunk::take);
        if self.sealed.start > 0 {
            chunk.copy_within(self.sealed.clone(), 0);
            self.sealed = 0..self.sealed.len();
        }
        let room = &mut chunk[self.sealed.end..];
        let wanted = room.len();
        let Poll::Ready(read) = socket::poll_read(tcp, cx, &mut [IoSliceMut::new(room)])? else {
            if self.sealed.is_empty() {
                self.chunk = None;
            }
            return Poll::Pending;
        };
        if read < wanted && read > 0 {
            socket::drained(tcp);
        }
        self.sealed.end += read;
        Poll::Ready(Ok(read))
    }
}

fn event_of(control: Control) -> Event {
    match control {
        Control::Open { sequence, id } => Event::Open { sequence, id },
        Control::Fin => Event::Fin,
        Control::Reset { sequence, reason } => Event::Reset { sequence, reason },
        Control::GoAway => Event::GoAway,
    }
}
