//! The server's end of a connection.

use std::{
    future::poll_fn,
    task::{Context, Poll, ready},
};

use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    core::{Core, Role},
    drive::Drive,
    error::Error,
    fields::FieldList,
    handle::{Hold, Receiving, Responding},
};
use crate::http::h2::limits::Limits;

/// A client's connection.
pub(in super::super) struct Server<S> {
    drive: Drive<S>,
    /// Why it has failed, until that is told.
    failed: Option<Error>,
}

impl<S> Server<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Says hello, and waits for the client's.
    pub(in super::super) async fn handshake(io: S, limits: Limits) -> Result<Self, Error> {
        let mut drive = Drive::new(io, Core::new(Role::Server, limits));
        poll_fn(|cx| {
            ready!(drive.poll_flush(cx))?;
            drive.poll_preface(cx)
        })
        .await?;
        Ok(Self { drive, failed: None })
    }

    /// The next request. None: the connection is over in order.
    #[allow(clippy::type_complexity)]
    pub(in super::super) fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<(FieldList, Receiving, Responding), Error>>> {
        loop {
            let shared = &self.drive.shared;
            let mut core = shared.lock();
            core.watch(cx);
            if let Some((place, head)) = core.take_accepted() {
                let receiving = Receiving::new(Hold::new(shared, &mut core, place));
                let responding = Responding::new(Hold::new(shared, &mut core, place));
                return Poll::Ready(Some(Ok((head, receiving, responding))));
            }
            drop(core);
            if let Some(error) = self.failed.take() {
                // The last words go out as far as the socket takes them now.
                let _ = self.drive.poll_close(cx);
                return Poll::Ready(Some(Err(error)));
            }
            if let Poll::Ready(Err(error)) = self.drive.poll_flush(cx) {
                self.lose(error);
                continue;
            }
            if self.drive.shared.lock().is_finished() {
                let _ = ready!(self.drive.poll_close(cx));
                return Poll::Ready(None);
            }
            match ready!(self.drive.poll_receive(cx)) {
                Ok(true) => {}
                Ok(false) => {
                    self.drive.shared.lock().lose(&Error::ended());
                    return Poll::Ready(None);
                }
                Err(error) => self.lose(error),
            }
        }
    }

    fn lose(&mut self, error: Error) {
        self.drive.shared.lock().lose(&error);
        self.failed = Some(error);
    }

    /// From here to [`Server::rest`], what the streams of the connection do is written in the end, without a wake-up.
    pub(in super::super) fn begin(&mut self) {
        self.drive.shared.lock().driven = true;
    }

    /// Writes what has come together.
    pub(in super::super) fn rest(&mut self, cx: &mut Context<'_>) {
        self.drive.shared.lock().driven = false;
        if let Poll::Ready(Err(error)) = self.drive.poll_flush(cx) {
            self.lose(error);
        }
        if self.failed.is_some() || self.drive.shared.lock().is_finished() {
            cx.waker().wake_by_ref();
        }
    }

    /// Begins an orderly end: streams that are under way are served.
    pub(in super::super) fn graceful_shutdown(&mut self) {
        self.drive.shared.lock().announce();
    }

    /// Says why the connection ends now.
    pub(in super::super) fn abrupt_shutdown(&mut self, reason: Reason) {
        let mut core = self.drive.shared.lock();
        core.driven = false;
        core.go_away(reason);
    }

    /// Waits until everything has been written.
    pub(in super::super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.drive.poll_close(cx)
    }

    /// How many requests have been answered 431 since this was asked.
    pub(in super::super) fn refused_lists(&mut self) -> usize {
        std::mem::take(&mut self.drive.shared.lock().refused_lists)
    }

    /// Whether the client's socket does not take what there is for it.
    pub(in super::super) fn has_unsent(&self) -> bool {
        !self.drive.shared.lock().out.is_empty()
    }

    /// Asks whether the client is still there.
    pub(in super::super) fn ping(&mut self) {
        self.drive.shared.lock().ask();
    }

    /// Whether it has answered since.
    pub(in super::super) fn has_answered(&self) -> bool {
        self.drive.shared.lock().pong
    }
}

impl<S> Drop for Server<S> {
    /// Handles of streams may outlive the connection.
    fn drop(&mut self) {
        self.drive.shared.lock().lose(&Error::ended());
    }
}
