//! The client's end of a connection: one part drives it, the other opens streams on it.

use std::{
    sync::Arc,
    task::{Context, Poll, ready},
};

use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    core::{Core, Role},
    drive::{Drive, Shared},
    error::{By, Error},
    fields::FieldList,
    handle::{Awaited, Hold, Sending},
};
use crate::http::h2::limits::Limits;

/// Opens streams. The connection closes once there is none of it left and every stream has ended.
#[derive(Clone)]
pub(in super::super) struct Opener(Arc<Open>);

struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        let mut core = self.0.lock();
        core.closing = true;
        core.stir();
    }
}

/// Drives a connection.
pub(in super::super) struct Client<S> {
    drive: Drive<S>,
    /// GOAWAY has been written.
    said: bool,
}

/// Says hello, and does not wait for the server's.
pub(in super::super) fn start<S>(io: S, limits: Limits) -> (Opener, Client<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let drive = Drive::new(io, Core::new(Role::Client, limits));
    let opener = Opener(Arc::new(Open(Arc::clone(&drive.shared))));
    (opener, Client { drive, said: false })
}

impl Opener {
    /// Sends a request's head.
    pub(in super::super) fn send_request(
        &mut self,
        head: &FieldList,
        ended: bool,
    ) -> Result<(Awaited, Sending), Error> {
        let shared = &self.0.0;
        let mut core = shared.lock();
        let Some(place) = core.open(head, ended) else {
            return Err(core.over.clone().unwrap_or(Error::Reset {
                reason: core.gone_away.unwrap_or(Reason::REFUSED_STREAM),
                by: By::Us,
            }));
        };
        let awaited = Awaited::new(Hold::new(shared, &mut core, place));
        let sending = Sending::new(Hold::new(shared, &mut core, place));
        Ok((awaited, sending))
    }

    /// Streams that the server allows at a time.
    pub(in super::super) fn room(&self) -> usize {
        self.0.0.lock().room()
    }

    /// Whether the server takes extended CONNECT, as far as it has said yet.
    pub(in super::super) fn takes_extended_connect(&self) -> bool {
        self.0.0.lock().peer_connects
    }

    /// Whether the server takes no more streams.
    pub(in super::super) fn is_gone(&self) -> bool {
        let core = self.0.0.lock();
        core.gone_away.is_some() || core.over.is_some()
    }
}

impl<S> Client<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Reads and writes; ready when the connection is over.
    pub(in super::super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            let mut core = self.drive.shared.lock();
            core.watch(cx);
            if core.closing && core.streams.open() == 0 && !self.said {
                self.said = true;
                core.go_away(Reason::NO_ERROR);
            }
            drop(core);
            if let Poll::Ready(Err(error)) = self.drive.poll_flush(cx) {
                return self.lost(error);
            }
            if self.said && self.drive.shared.lock().is_finished() {
                return self.drive.poll_close(cx);
            }
            match ready!(self.drive.poll_receive(cx)) {
                Ok(true) => {}
                Ok(false) => {
                    let idle = self.drive.shared.lock().streams.open() == 0;
                    let lost = self.lost(Error::ended());
                    return if idle { Poll::Ready(Ok(())) } else { lost };
                }
                Err(error) => {
                    let _ = self.drive.poll_flush(cx);
                    return self.lost(error);
                }
            }
        }
    }

    /// Asks the server for an answer.
    pub(in super::super) fn ping(&mut self) {
        self.drive.shared.lock().ask();
    }

    /// Whether it has answered since.
    pub(in super::super) fn has_answered(&self) -> bool {
        self.drive.shared.lock().pong
    }

    fn lost(&self, error: Error) -> Poll<Result<(), Error>> {
        self.drive.shared.lock().lose(&error);
        Poll::Ready(Err(error))
    }
}

impl<S> Drop for Client<S> {
    /// Handles of streams may outlive the connection.
    fn drop(&mut self) {
        self.drive.shared.lock().lose(&Error::ended());
    }
}
