//! Bytes both ways, after a protocol switch or CONNECT. The request that began it stays judged for as long as it is open.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    task::{Context, Poll, ready},
};

use super::{broken::Broken, wire::Wire};
use crate::{authorize::Permit, connection::Connection};

/// Passes them until both halves are closed.
pub(super) async fn tunnel<D: Wire, U: Wire>(
    _permit: &Permit,
    down: &mut D,
    up: &mut U,
    connection: &Connection,
    still_admitted: &(dyn Fn() -> bool + Sync),
) -> Result<(), Broken> {
    let (mut there, mut back) = (false, false);
    poll_fn(|cx| {
        if let Poll::Ready(cut) = connection.poll_cut(cx) {
            return Poll::Ready(Err(Broken::Cut(cut)));
        }
        if connection.to_be_judged() && !still_admitted() {
            return Poll::Ready(Err(Broken::NoLongerAdmitted));
        }
        if !there {
            let count = |n| connection.count_from_client(n);
            there = poll_copy(down, up, cx, count, Broken::Client, Broken::Upstream)?.is_ready();
        }
        if !back {
            let count = |n| connection.count_to_client(n);
            back = poll_copy(up, down, cx, count, Broken::Upstream, Broken::Client)?.is_ready();
        }
        if there && back {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    })
    .await
}

fn poll_copy<F: Wire, T: Wire>(
    from: &mut F,
    to: &mut T,
    cx: &mut Context<'_>,
    count: impl Fn(usize),
    from_failed: fn(io::Error) -> Broken,
    to_failed: fn(io::Error) -> Broken,
) -> Poll<Result<(), Broken>> {
    loop {
        let input = from.input();
        if !input.is_empty() {
            let sent = ready!(to.poll_send(cx, &[IoSlice::new(input)])).map_err(to_failed)?;
            if sent == 0 {
                return Poll::Ready(Err(to_failed(io::ErrorKind::WriteZero.into())));
            }
            count(sent);
            from.consume(sent);
        } else if from.ended() {
            return to.poll_finish(cx).map_err(to_failed);
        } else {
            if let Poll::Ready(flushed) = to.poll_flush(cx) {
                flushed.map_err(to_failed)?;
            }
            ready!(from.poll_fill(cx)).map_err(from_failed)?;
        }
    }
}
