//! What HTTP/1 messages come from and go to: a TCP connection, or an application connection on a link. Bytes are looked
//! at where they were received and passed on from there; a buffer is held only while bytes are in it. Knows no HTTP.

use std::{
    io::{self, IoSlice, IoSliceMut},
    ops::Range,
    task::{Context, Poll, Waker, ready},
};

use tokio::{io::AsyncWrite, net::TcpStream};

use crate::{
    chunk::{CHUNK, Chunk},
    link::{Link, LinkStream, frame::ResetReason},
    socket,
};

/// One end of an HTTP/1 connection.
pub(crate) trait Wire {
    /// Bytes that were received and not consumed, from the first one on as far as they lie together.
    fn input(&self) -> &[u8];

    /// Drops bytes from the front of the input.
    fn consume(&mut self, count: usize);

    /// Waits for more input, behind what is there. 0: the other side has ended its half.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>>;

    /// Whether the other side has ended its half.
    fn ended(&self) -> bool;

    /// Sends from the front of `bufs`; returns how many bytes were taken.
    fn poll_send(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>>;

    /// Sends what was taken and is still here.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ends our half behind what was sent.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Makes the end that follows look like a failure, not like the end of a message.
    fn abort(&mut self);

    /// Whether an idle connection can carry another message: nothing has come, not even its end.
    fn is_quiet(&mut self) -> bool {
        self.input().is_empty() && !self.ended() && self.poll_fill(&mut Context::from_waker(Waker::noop())).is_pending()
    }
}

/// HTTP/1 over TCP.
pub(crate) struct TcpWire {
    tcp: TcpStream,
    chunk: Option<Chunk>,
    held: Range<usize>,
    ended: bool,
}

impl TcpWire {
    /// Over a connection from which `received` has been read already.
    pub(crate) fn new(tcp: TcpStream, received: &[u8]) -> Self {
        let mut wire = Self {
            tcp,
            chunk: None,
            held: 0..0,
            ended: false,
        };
        if !received.is_empty() {
            let mut chunk = Chunk::take();
            // What is read to find out what a client speaks is far below a chunk.
            let length = received.len().min(CHUNK);
            chunk[..length].copy_from_slice(&received[..length]);
            wire.held = 0..length;
            wire.chunk = Some(chunk);
        }
        wire
    }

    /// The connection, for whoever goes on with bytes, and what has been read from it.
    pub(crate) fn into_parts(self) -> (TcpStream, Vec<u8>) {
        let received = self.input().to_vec();
        (self.tcp, received)
    }
}

impl Wire for TcpWire {
    fn input(&self) -> &[u8] {
        self.chunk.as_ref().map_or(&[], |chunk| &chunk[self.held.clone()])
    }

    fn consume(&mut self, count: usize) {
        self.held.start = (self.held.start + count).min(self.held.end);
        if self.held.is_empty() {
            self.held = 0..0;
            // The connection may be idle from here on.
            self.chunk = None;
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Ok(0));
        }
        if self.held.is_empty() && self.tcp.poll_read_ready(cx)?.is_pending() {
            self.chunk = None;
            return Poll::Pending;
        }
        let chunk = self.chunk.get_or_insert_with(Chunk::take);
        if self.held.start > 0 {
            chunk.copy_within(self.held.clone(), 0);
            self.held = 0..self.held.len();
        }
        let room = &mut chunk[self.held.end..];
        let wanted = room.len();
        if wanted == 0 {
            return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
        }
        let Poll::Ready(read) = socket::poll_read(&self.tcp, cx, &mut [IoSliceMut::new(room)]) else {
            if self.held.is_empty() {
                self.chunk = None;
            }
            return Poll::Pending;
        };
        let read = read?;
        self.held.end += read;
        if read == 0 {
            self.ended = true;
            if self.held.is_empty() {
                self.chunk = None;
            }
        } else if read < wanted {
            socket::drained(&self.tcp);
        }
        Poll::Ready(Ok(read))
    }

    fn ended(&self) -> bool {
        self.ended
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        socket::poll_write(&self.tcp, cx, bufs)
    }

    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(socket::shutdown_write(&self.tcp))
    }

    fn abort(&mut self) {
        socket::abort_on_close(&self.tcp);
    }
}

/// HTTP/1 over an application connection on a link.
pub(crate) struct LinkWire {
    stream: LinkStream,
    /// Input that did not lie together in the link's buffer.
    joined: Vec<u8>,
    at: usize,
    ended: bool,
}

impl LinkWire {
    pub(crate) fn new(stream: LinkStream) -> Self {
        Self {
            stream,
            joined: Vec::new(),
            at: 0,
            ended: false,
        }
    }

    /// Why the peer aborted it, if it did.
    pub(crate) fn reset_reason(&self) -> Option<ResetReason> {
        self.stream.reset_reason()
    }

    /// The link, for whoever goes on with bytes; with input that lies in it no more.
    pub(crate) fn into_link(self) -> Option<(Box<Link>, Vec<u8>)> {
        let Self {
            stream, mut joined, at, ..
        } = self;
        joined.drain(..at);
        Some((stream.into_link()?, joined))
    }

    /// The byte stream, for whoever speaks another protocol on it; with input that lies in it no more.
    pub(crate) fn into_stream(self) -> (LinkStream, Vec<u8>) {
        let Self {
            stream, mut joined, at, ..
        } = self;
        joined.drain(..at);
        (stream, joined)
    }

    /// Aborts it, and tells the peer why.
    pub(crate) fn abort_for(self, reason: ResetReason) {
        self.stream.abort(reason);
    }

    /// Puts everything the link holds behind what was joined before.
    fn join(&mut self) {
        self.joined.drain(..self.at);
        self.at = 0;
        loop {
            let data = self.stream.data();
            if data.is_empty() {
                return;
            }
            let count = data.len();
            self.joined.extend_from_slice(data);
            self.stream.consume(count);
        }
    }
}

impl Wire for LinkWire {
    fn input(&self) -> &[u8] {
        match self.joined.get(self.at..) {
            Some(rest) if !rest.is_empty() => rest,
            _ => self.stream.data(),
        }
    }

    fn consume(&mut self, count: usize) {
        if self.at < self.joined.len() {
            self.at += count;
            if self.at >= self.joined.len() {
                self.joined = Vec::new();
                self.at = 0;
            }
        } else {
            self.stream.consume(count);
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Ok(0));
        }
        let before = self.input().len();
        if before > 0 {
            self.join();
            let joined = self.joined.len();
            if joined > before {
                return Poll::Ready(Ok(joined - before));
            }
        }
        if !ready!(self.stream.poll_data(cx))? {
            self.ended = true;
            return Poll::Ready(Ok(0));
        }
        if before > 0 {
            self.join();
        }
        Poll::Ready(Ok(self.input().len().saturating_sub(before)))
    }

    fn ended(&self) -> bool {
        self.ended
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        std::pin::Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn abort(&mut self) {}
}
