//! Waiting for the next request of a client connection, and reading its head in time. What the head says is not looked at
//! here.

use std::{
    future::poll_fn,
    io,
    task::{Poll, ready},
    time::Duration,
};

use squire_mesh::policy::PathNormalization;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{
    head::{self, Bad, RequestHead},
    side::Side,
    wire::Wire,
};
use crate::connection::{Connection, Cut};

/// What became of the wait for a request.
pub(super) enum Idle {
    Input,
    Over,
    Failed(io::Error),
    Cut(Cut),
}

/// Waits for the first byte of the next request.
pub(super) async fn idle<D: Wire, S: Side>(
    connection: &Connection,
    draining: &CancellationToken,
    down: &mut D,
    side: &mut S,
) -> Idle {
    let waiting = poll_fn(|cx| {
        if let Poll::Ready(cut) = connection.poll_cut(cx) {
            return Poll::Ready(Idle::Cut(cut));
        }
        if connection.is_to_rest() {
            side.rest();
        }
        loop {
            match down.input() {
                [] => {}
                // One empty line between requests is overlooked (RFC 9112 §2.2).
                [b'\r', b'\n', ..] => {
                    down.consume(2);
                    continue;
                }
                _ => return Poll::Ready(Idle::Input),
            }
            match down.poll_fill(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Idle::Over),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Idle::Failed(error)),
                Poll::Pending => break,
            }
        }
        // Whatever an upstream says unasked, its connection is of no more use.
        match side.bound().map(|up| up.poll_fill(cx)) {
            Some(Poll::Ready(_)) => Poll::Ready(Idle::Over),
            Some(Poll::Pending) | None => Poll::Pending,
        }
    });
    tokio::select! {
        biased;
        idle = waiting => idle,
        () = draining.cancelled() => Idle::Over,
    }
}

/// Why there is no head.
pub(super) enum Unread {
    Bad(Bad),
    Late,
    Failed(io::Error),
    Cut(Cut),
}

/// Reads the head that has begun.
pub(super) async fn read_head<D: Wire>(
    connection: &Connection,
    down: &mut D,
    head: &mut RequestHead,
    mode: PathNormalization,
    limit: Duration,
) -> Result<(), Unread> {
    // Nearly always all of it is there.
    if let Some(length) = head.read(down.input(), mode).map_err(Unread::Bad)? {
        down.consume(length);
        return Ok(());
    }
    let mut seen = 0;
    let reading = poll_fn(|cx| {
        loop {
            if let Poll::Ready(cut) = connection.poll_cut(cx) {
                return Poll::Ready(Err(Unread::Cut(cut)));
            }
            if ready!(down.poll_fill(cx)).map_err(Unread::Failed)? == 0 {
                return Poll::Ready(Err(Unread::Failed(io::ErrorKind::UnexpectedEof.into())));
            }
            // Parsed again only when it may be whole, so that a head in many pieces costs no more than one.
            let input = down.input();
            let whole = memchr::memmem::find(&input[seen..], b"\n\r\n").is_some() || input.len() >= head::MAX_HEAD;
            seen = input.len().saturating_sub(2);
            if whole && let Some(length) = head.read(input, mode).map_err(Unread::Bad)? {
                down.consume(length);
                return Poll::Ready(Ok(()));
            }
        }
    });
    timeout(limit, reading).await.unwrap_or(Err(Unread::Late))
}
