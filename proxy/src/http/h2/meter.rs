//! The byte stream below a client's HTTP/2 connection: counts its bytes, and looks at the frames a client sends, header by
//! header, for floods that the protocol library answers patiently for ever (PING, SETTINGS, PRIORITY, resets). It changes
//! no byte and holds none back.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::refusal::{Refusal, Seen};
use crate::connection::Connection;

/// Frames without which no client gets on worse: so many at once, and so many a second ever after.
const CONTROL: Rate = Rate {
    burst: 1000,
    per_second: 100,
};
/// Resets: cancelling is everyday business, and a storm of timeouts is no attack.
const RESETS: Rate = Rate {
    burst: 2000,
    per_second: 1000,
};

const PREFACE: usize = 24;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const HEADER: usize = 9;

/// What the meter tells whoever drives the connection.
#[derive(Default)]
pub(super) struct Watch {
    refusal: AtomicU8,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Noted {
    seen: Seen,
    heard: Option<Instant>,
    unfinished: Option<Instant>,
}

impl Watch {
    /// The limit the client has exceeded, if any.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        Refusal::from_u8(self.refusal.load(Relaxed))
    }

    /// The frames so far.
    pub(super) fn seen(&self) -> Seen {
        self.noted().seen
    }

    /// When bytes came last.
    pub(super) fn heard(&self) -> Option<Instant> {
        self.noted().heard
    }

    /// Since when the end of a header block has been missing.
    pub(super) fn unfinished(&self) -> Option<Instant> {
        self.noted().unfinished
    }

    fn noted(&self) -> Noted {
        *self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's byte stream, metered.
pub(super) struct Metered<S> {
    inner: S,
    /// Read before, by whoever found out what the client speaks.
    received: Bytes,
    connection: Arc<Connection>,
    frames: Frames,
    watch: Arc<Watch>,
}

impl<S> Metered<S> {
    pub(super) fn new(inner: S, received: Bytes, connection: Arc<Connection>) -> Self {
        Self {
            inner,
            received,
            connection,
            frames: Frames::new(),
            watch: Arc::default(),
        }
    }

    pub(super) fn watch(&self) -> Arc<Watch> {
        Arc::clone(&self.watch)
    }

    fn note(&mut self, bytes: &[u8], cx: &Context<'_>) {
        self.connection.count_from_client(bytes.len());
        let now = Instant::now();
        let refusal = self.frames.observe(bytes, now);
        *self.watch.noted.lock().unwrap_or_else(PoisonError::into_inner) = Noted {
            seen: self.frames.seen,
            heard: Some(now),
            unfinished: self.frames.unfinished,
        };
        if let Some(refusal) = refusal {
            self.watch.refusal.store(refusal as u8, Relaxed);
            cx.waker().wake_by_ref();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if this.received.has_remaining() {
            let taken = this.received.len().min(buf.remaining());
            buf.put_slice(&this.received.split_to(taken));
        } else {
            ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        }
        this.note(&buf.filled()[before..], cx);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.inner).poll_write(cx, buf))?;
        this.connection.count_to_client(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.inner).poll_write_vectored(cx, bufs))?;
        this.connection.count_to_client(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

/// Finds the frame headers in what a client sends.
struct Frames {
    /// Bytes until the next frame header begins.
    skip: usize,
    header: [u8; HEADER],
    have: usize,
    /// When a header block began that has no end yet.
    unfinished: Option<Instant>,
    /// Its end is in the frame that is being skipped.
    last: bool,
    seen: Seen,
    control: Bucket,
    resets: Bucket,
}

impl Frames {
    fn new() -> Self {
        Self {
            skip: PREFACE,
            header: [0; HEADER],
            have: 0,
            unfinished: None,
            last: false,
            seen: Seen::default(),
            control: Bucket::new(CONTROL),
            resets: Bucket::new(RESETS),
        }
    }

    fn observe(&mut self, mut bytes: &[u8], now: Instant) -> Option<Refusal> {
        let mut refusal = None;
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if self.skip == 0 && std::mem::take(&mut self.last) {
                self.unfinished = None;
            }
            if bytes.is_empty() {
                return refusal;
            }
            let taken = (HEADER - self.have).min(bytes.len());
            self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have < HEADER {
                return refusal;
            }
            self.have = 0;
            let [a, b, c, kind, flags, ..] = self.header;
            self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            if matches!(kind, HEADERS | CONTINUATION) {
                self.unfinished.get_or_insert(now);
                self.last = flags & END_HEADERS != 0;
            }
            refusal = refusal.or(self.frame(kind, flags, self.skip));
        }
    }

    /// One frame more (RFC 9113 §6).
    fn frame(&mut self, kind: u8, flags: u8, length: usize) -> Option<Refusal> {
        let (bucket, refusal) = match kind {
            0x0 => {
                self.seen.data += 1;
                // Nothing in it, and not the end either: no window bounds these.
                if length > 0 || flags & END_STREAM != 0 {
                    return None;
                }
                (&mut self.control, Refusal::TinyFrames)
            }
            HEADERS => {
                self.seen.headers += 1;
                self.seen.continuations = 0;
                return None;
            }
            // Followed by so many as there are: the library bounds them.
            CONTINUATION => {
                self.seen.continuations += 1;
                return None;
            }
            0x3 => {
                self.seen.resets += 1;
                (&mut self.resets, Refusal::RapidReset)
            }
            0x8 => return None,
            0x4 => (&mut self.control, Refusal::SettingsFlood),
            0x6 => (&mut self.control, Refusal::PingFlood),
            _ => (&mut self.control, Refusal::FrameFlood),
        };
        (!bucket.take()).then_some(refusal)
    }
}

#[derive(Clone, Copy)]
struct Rate {
    burst: u32,
    per_second: u32,
}

/// A token bucket.
struct Bucket {
    rate: Rate,
    left: u32,
    filled: Option<Instant>,
}

impl Bucket {
    fn new(rate: Rate) -> Self {
        Self {
            rate,
            left: rate.burst,
            filled: None,
        }
    }

    fn take(&mut self) -> bool {
        if self.left == 0 {
            self.fill();
        }
        let taken = self.left.checked_sub(1);
        self.left = taken.unwrap_or(0);
        taken.is_some()
    }

    /// What has come in since the last time, looked at only when the bucket is empty.
    fn fill(&mut self) {
        let since = self.filled.map_or(Duration::ZERO, |at| at.elapsed());
        let more = since.as_millis() * u128::from(self.rate.per_second) / 1000;
        if self.filled.is_none() || more > 0 {
            self.filled = Some(Instant::now());
        }
        self.left = u32::try_from(more).unwrap_or(u32::MAX).min(self.rate.burst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: usize) -> Vec<u8> {
        let mut bytes = vec![
            (payload >> 16) as u8,
            (payload >> 8) as u8,
            payload as u8,
            kind,
            0,
            0,
            0,
            0,
            1,
        ];
        bytes.resize(HEADER + payload, 0xAA);
        bytes
    }

    #[test]
    fn frames_are_found_however_the_bytes_are_cut() {
        let mut bytes = vec![0; PREFACE];
        for (kind, payload) in [(4, 18), (1, 300), (9, 70_000), (9, 0), (0, 1), (3, 4), (6, 8), (0, 0)] {
            bytes.extend(frame(kind, payload));
        }
        for piece in [1, 2, 7, 9, 10, 4096, usize::MAX] {
            let mut frames = Frames::new();
            for piece in bytes.chunks(piece.min(bytes.len())) {
                assert_eq!(frames.observe(piece, Instant::now()), None);
            }
            let seen = frames.seen;
            assert_eq!((seen.headers, seen.resets, seen.data, seen.continuations), (1, 1, 2, 2));
            assert_eq!((frames.control.left, frames.resets.left), (997, 1999));
        }
    }

    #[test]
    fn a_flood_is_named_and_data_is_none() {
        for (kind, refusal) in [
            (6, Refusal::PingFlood),
            (4, Refusal::SettingsFlood),
            (2, Refusal::FrameFlood),
            (0xBE, Refusal::FrameFlood),
            (3, Refusal::RapidReset),
        ] {
            let mut frames = Frames::new();
            frames.skip = 0;
            let flood = frame(kind, 5).repeat(4000);
            assert_eq!(frames.observe(&flood, Instant::now()), Some(refusal));
        }
        let mut frames = Frames::new();
        frames.skip = 0;
        for kind in [0, 1, 8] {
            assert_eq!(frames.observe(&frame(kind, 5).repeat(4000), Instant::now()), None);
        }
        let tiny = frames.observe(&frame(0, 0).repeat(4000), Instant::now());
        assert_eq!(tiny, Some(Refusal::TinyFrames));
    }

    #[test]
    fn a_header_block_is_unfinished_until_the_last_byte_of_its_last_frame() {
        let mut frames = Frames::new();
        frames.skip = 0;
        let began = Instant::now();
        let mut see = |bytes: &[u8]| {
            frames.observe(bytes, began);
            frames.unfinished
        };
        let with = |kind, flags| {
            let mut bytes = frame(kind, 3);
            bytes[4] = flags;
            bytes
        };
        assert_eq!(see(&with(HEADERS, END_HEADERS)), None);
        assert_eq!(see(&with(HEADERS, 0)), Some(began));
        let last = with(CONTINUATION, END_HEADERS);
        assert_eq!(see(&last[..11]), Some(began));
        assert_eq!(see(&last[11..]), None);
        assert_eq!(see(&frame(0, 3)[..10]), None, "a body may take its time");
    }
}
