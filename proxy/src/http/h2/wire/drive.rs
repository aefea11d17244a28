//! Moves the bytes of one connection: reads what there is and hands each frame to the core, writes what the core has, many
//! frames with one write. Holds a buffer only while bytes are in it.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    core::{Core, Fault},
    error::{By, Error},
    frame::{self, Header},
};
use crate::{chunk::Chunk, http::h2::PREFACE};

/// With so much waiting to be written, nothing more is read: a peer that takes nothing is answered nothing. Bodies stop
/// far below, so that two ends never wait for each other.
const STOP: usize = 1024 * 1024;

/// The core of a connection, shared by whoever drives it and the handles of its streams.
#[derive(Debug)]
pub(super) struct Shared(Mutex<Core>);

impl Shared {
    pub(super) fn new(core: Core) -> Arc<Self> {
        Arc::new(Self(Mutex::new(core)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Core> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The byte stream below a connection.
pub(super) struct Drive<S> {
    io: S,
    pub(super) shared: Arc<Shared>,
    /// The beginning of a frame whose end has not come.
    partial: Vec<u8>,
    /// There may be whole frames in `partial`.
    unread: bool,
    /// Written since the last flush.
    unflushed: bool,
}

impl<S> Drive<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    pub(super) fn new(io: S, core: Core) -> Self {
        Self {
            io,
            shared: Shared::new(core),
            partial: Vec::new(),
            unread: false,
            unflushed: false,
        }
    }

    /// Reads how a client begins (RFC 9113 §3.4), and may read further.
    pub(super) fn poll_preface(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            let have = self.partial.len().min(PREFACE.len());
            if self.partial[..have] != PREFACE[..have] {
                return Poll::Ready(Err(Error::GoAway {
                    reason: Reason::PROTOCOL_ERROR,
                    by: By::Us,
                }));
            }
            if have == PREFACE.len() {
                self.partial.drain(..have);
                self.unread = true;
                return Poll::Ready(Ok(()));
            }
            let mut bytes = [0; 4096];
            let mut buf = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf))?;
            if buf.filled().is_empty() {
                return Poll::Ready(Err(Error::ended()));
            }
            self.partial.extend_from_slice(buf.filled());
        }
    }

    /// Reads once, and takes in every frame that is whole. False: the peer has ended the byte stream.
    pub(super) fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Error>> {
        if std::mem::take(&mut self.unread) {
            let bytes = std::mem::take(&mut self.partial);
            let used = self.take_in(&bytes)?;
            self.partial = bytes[used..].to_vec();
            return Poll::Ready(Ok(true));
        }
        if self.shared.lock().out.len() >= STOP {
            return Poll::Pending;
        }
        let mut chunk = Chunk::take();
        let have = self.partial.len();
        chunk[..have].copy_from_slice(&self.partial);
        let mut buf = ReadBuf::new(&mut chunk);
        buf.advance(have);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf))?;
        let filled = buf.filled().len();
        if filled == have {
            return Poll::Ready(Ok(false));
        }
        let used = self.take_in(&chunk[..filled])?;
        self.partial.clear();
        self.partial.extend_from_slice(&chunk[used..filled]);
        if self.partial.is_empty() && self.partial.capacity() > 1024 {
            self.partial = Vec::new();
        }
        Poll::Ready(Ok(true))
    }

    /// Hands whole frames to the core; how many bytes they are.
    fn take_in(&self, bytes: &[u8]) -> Result<usize, Error> {
        let mut core = self.shared.lock();
        let mut used = 0;
        while let Some(header) = bytes[used..].first_chunk() {
            let header = Header::read(header);
            let fault = if header.length > frame::PAYLOAD {
                Err(Fault::Connection(Reason::FRAME_SIZE_ERROR))
            } else {
                let Some(payload) = bytes[used + frame::HEADER..].get(..header.length) else {
                    break;
                };
                used += frame::HEADER + header.length;
                core.receive(header, payload)
            };
            if let Err(fault) = fault
                && let Some(error) = core.punish(fault)
            {
                return Err(error);
            }
        }
        Ok(used)
    }

    /// Writes everything that waits.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let mut core = self.shared.lock();
        while !core.out.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, core.out.pending()))?;
            if written == 0 {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
            }
            core.out.advance(written);
            self.unflushed = true;
            core.wake_next();
        }
        drop(core);
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes everything, then closes our direction.
    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        ready!(self.poll_flush(cx))?;
        ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        Poll::Ready(Ok(()))
    }
}
