//! Forwarding without mutual TLS: what PERMISSIVE lets in and what leaves the mesh, byte for byte.

use std::{
    future::poll_fn,
    io::{self, IoSlice, IoSliceMut},
    ops::Range,
    task::{Context, Poll, ready},
};

use tokio::net::TcpStream;

use super::Interrupted;
use crate::{authorize::Permit, chunk::Chunk, connection::Connection, socket};

/// Copies both ways between `near` (the side that was accepted) and `far` (the side that was dialled). `received` has
/// already been read from `near` and goes first.
pub(crate) async fn plain(
    _permit: &Permit,
    near: &TcpStream,
    far: &TcpStream,
    received: &[u8],
    connection: &Connection,
) -> Result<(), Interrupted> {
    let mut there = Half::starting_with(received);
    let mut back = Half::default();
    poll_fn(|cx| {
        if let Poll::Ready(cut) = connection.poll_cut(cx) {
            return Poll::Ready(Err(Interrupted::Cut(cut)));
        }
        let near_to_far = there.poll(near, far, cx, |n| connection.count_from_client(n));
        let far_to_near = back.poll(far, near, cx, |n| connection.count_to_client(n));
        match near_to_far {
            Poll::Ready(Err(Failed::From(error))) => return Poll::Ready(Err(connection.near_failed(error))),
            Poll::Ready(Err(Failed::To(error))) => return Poll::Ready(Err(connection.far_failed(error))),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        match far_to_near {
            Poll::Ready(Err(Failed::From(error))) => return Poll::Ready(Err(connection.far_failed(error))),
            Poll::Ready(Err(Failed::To(error))) => return Poll::Ready(Err(connection.near_failed(error))),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        if near_to_far.is_ready() && far_to_near.is_ready() {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    })
    .await
}

enum Failed {
    From(io::Error),
    To(io::Error),
}

/// One direction.
#[derive(Default)]
struct Half {
    chunk: Option<Chunk>,
    held: Range<usize>,
    done: bool,
}

impl Half {
    fn starting_with(received: &[u8]) -> Self {
        let mut half = Self::default();
        if !received.is_empty() {
            let mut chunk = Chunk::take();
            let length = received.len().min(chunk.len());
            chunk[..length].copy_from_slice(&received[..length]);
            half.held = 0..length;
            half.chunk = Some(chunk);
        }
        half
    }

    fn poll(
        &mut self,
        from: &TcpStream,
        to: &TcpStream,
        cx: &mut Context<'_>,
        count: impl Fn(usize),
    ) -> Poll<Result<(), Failed>> {
        loop {
            if self.done {
                return Poll::Ready(Ok(()));
            }
            while let Some(chunk) = self.chunk.as_ref().filter(|_| !self.held.is_empty()) {
                let bytes = IoSlice::new(&chunk[self.held.clone()]);
                let written = ready!(socket::poll_write(to, cx, &[bytes])).map_err(Failed::To)?;
                if written == 0 {
                    return Poll::Ready(Err(Failed::To(io::ErrorKind::WriteZero.into())));
                }
                self.held.start += written;
                count(written);
            }
            if from.poll_read_ready(cx).map_err(Failed::From)?.is_pending() {
                self.chunk = None;
                return Poll::Pending;
            }
            let chunk = self.chunk.get_or_insert_with(Chunk::take);
            let wanted = chunk.len();
            let Poll::Ready(read) = socket::poll_read(from, cx, &mut [IoSliceMut::new(chunk)]) else {
                self.chunk = None;
                return Poll::Pending;
            };
            let read = read.map_err(Failed::From)?;
            self.held = 0..read;
            if read == 0 {
                socket::shutdown_write(to).map_err(Failed::To)?;
                self.chunk = None;
                self.done = true;
            } else if read < wanted {
                socket::drained(from);
            }
        }
    }
}
