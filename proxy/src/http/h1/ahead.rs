//! Reading a request's body ahead of its judgement, for providers that want to see it. What was read is kept as it came
//! and forwarded behind the head; nothing of it is looked at here.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    task::{Poll, ready},
};

use super::{
    body::{Body, Length},
    broken::Broken,
    wire::Wire,
};
use crate::{connection::Connection, ext_authz::Body as Shown};

/// What chunked framing may add to the bytes that are wanted.
const FRAMING: usize = 64 * 1024;

/// The front of a body.
pub(super) struct Ahead {
    /// As it came, framing included.
    pub(super) bytes: Vec<u8>,
    /// What it carries.
    data: Vec<u8>,
    /// What is to come.
    pub(super) rest: Body,
}

impl Ahead {
    /// For providers.
    pub(super) fn shown(&self) -> Shown<'_> {
        Shown {
            bytes: &self.data,
            complete: self.rest.is_done(),
        }
    }
}

/// Reads a body to its end, or until more than `wanted` bytes of data are there. `asked`: the client waits for leave to
/// send it, and is given it.
pub(super) async fn read<D: Wire>(
    connection: &Connection,
    down: &mut D,
    length: Length,
    wanted: usize,
    asked: bool,
) -> Result<Ahead, Broken> {
    if asked && down.input().is_empty() {
        go_on(connection, down).await?;
    }
    let mut ahead = Ahead {
        bytes: Vec::new(),
        data: Vec::new(),
        rest: Body::of_request(length),
    };
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(cut) = connection.poll_cut(cx) {
                return Poll::Ready(Err(Broken::Cut(cut)));
            }
            let Ahead { bytes, data, rest } = &mut ahead;
            let scanned = rest.scan_data(down.input(), |piece| data.extend_from_slice(piece));
            let taken = scanned.map_err(Broken::BadRequest)?;
            bytes.extend_from_slice(&down.input()[..taken]);
            down.consume(taken);
            let enough = data.len() > wanted || bytes.len() > 2 * wanted + FRAMING;
            if rest.is_done() || enough {
                return Poll::Ready(Ok(()));
            }
            if down.input().is_empty() && ready!(down.poll_fill(cx)).map_err(Broken::Client)? == 0 {
                return Poll::Ready(Err(Broken::Client(io::ErrorKind::UnexpectedEof.into())));
            }
        }
    })
    .await?;
    Ok(ahead)
}

/// Tells the client to send the body (RFC 9110 §10.1.1).
async fn go_on<D: Wire>(connection: &Connection, down: &mut D) -> Result<(), Broken> {
    const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
    let mut left = CONTINUE;
    poll_fn(|cx| {
        while !left.is_empty() {
            let sent = ready!(down.poll_send(cx, &[IoSlice::new(left)])).map_err(Broken::Client)?;
            if sent == 0 {
                return Poll::Ready(Err(Broken::Client(io::ErrorKind::WriteZero.into())));
            }
            left = &left[sent..];
        }
        down.poll_flush(cx).map_err(Broken::Client)
    })
    .await?;
    connection.count_to_client(CONTINUE.len());
    Ok(())
}
