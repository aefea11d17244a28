//! The face of a stream's ends, whichever engine is behind it.

use std::task::{Context, Poll};

use bytes::Bytes;
use h2::Reason;

use super::{Head, error::Error, fields::FieldList, handle, library};

/// What comes from the peer on a stream, behind the head.
pub(in super::super) enum Receiving {
    Squire(handle::Receiving),
    H2(h2::RecvStream),
}

impl Receiving {
    /// Whether nothing more comes.
    pub(in super::super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Squire(receiving) => receiving.is_end_stream(),
            Self::H2(receiving) => receiving.is_end_stream(),
        }
    }

    /// The next bytes of the body. Whoever takes them says with [`Receiving::release`] when there is room for more.
    pub(in super::super) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        match self {
            Self::Squire(receiving) => receiving.poll_data(cx),
            Self::H2(receiving) => receiving
                .poll_data(cx)
                .map(|data| data.map(|data| data.map_err(Error::from))),
        }
    }

    /// The trailers, behind the body.
    pub(in super::super) fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<FieldList>, Error>> {
        match self {
            Self::Squire(receiving) => receiving.poll_trailers(cx),
            Self::H2(receiving) => library::poll_trailers(receiving, cx),
        }
    }

    /// The peer may send as many bytes more.
    pub(in super::super) fn release(&mut self, count: usize) {
        match self {
            Self::Squire(receiving) => receiving.release(count),
            Self::H2(receiving) => {
                let _ = receiving.flow_control().release_capacity(count);
            }
        }
    }
}

/// Our end of a stream.
pub(in super::super) enum Sending {
    Squire(handle::Sending),
    H2(h2::SendStream<Bytes>),
}

impl Sending {
    /// Sends of `bytes` what the windows allow; ready when all is sent, and the end with it if it is `last`.
    pub(in super::super) fn poll_send(
        &mut self,
        bytes: &mut Bytes,
        last: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        match self {
            Self::Squire(sending) => sending.poll_send(bytes, last, cx),
            Self::H2(sending) => library::poll_send(sending, bytes, last, cx),
        }
    }

    /// Ends our end with trailers.
    pub(in super::super) fn send_trailers(&mut self, fields: &FieldList) -> Result<(), Error> {
        match self {
            Self::Squire(sending) => sending.send_trailers(fields),
            Self::H2(sending) => library::send_trailers(sending, fields),
        }
    }

    /// Ends the stream.
    pub(in super::super) fn send_reset(&mut self, reason: Reason) {
        match self {
            Self::Squire(sending) => sending.send_reset(reason),
            Self::H2(sending) => sending.send_reset(reason),
        }
    }

    /// Ready when the stream is over early.
    pub(in super::super) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        match self {
            Self::Squire(sending) => sending.poll_reset(cx),
            Self::H2(sending) => sending.poll_reset(cx).map(library::reset),
        }
    }
}

/// A client's stream that waits for our answer.
pub(in super::super) enum Responding {
    Squire(handle::Responding),
    H2(h2::server::SendResponse<Bytes>),
}

impl Responding {
    /// A head of 1xx.
    pub(in super::super) fn send_interim(&mut self, fields: &FieldList) -> Result<(), Error> {
        match self {
            Self::Squire(responding) => responding.send_interim(fields),
            Self::H2(responding) => library::send_interim(responding, fields),
        }
    }

    /// The head; `ended`: nothing follows.
    pub(in super::super) fn send_response(&mut self, fields: &FieldList, ended: bool) -> Result<Sending, Error> {
        match self {
            Self::Squire(responding) => responding.send_response(fields, ended).map(Sending::Squire),
            Self::H2(responding) => library::send_response(responding, fields, ended).map(Sending::H2),
        }
    }

    /// Ends the stream.
    pub(in super::super) fn send_reset(&mut self, reason: Reason) {
        match self {
            Self::Squire(responding) => responding.send_reset(reason),
            Self::H2(responding) => responding.send_reset(reason),
        }
    }

    /// Ready when the stream is over early.
    pub(in super::super) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        match self {
            Self::Squire(responding) => responding.poll_reset(cx),
            Self::H2(responding) => responding.poll_reset(cx).map(library::reset),
        }
    }
}

/// The response to a request of ours.
pub(in super::super) enum Awaited {
    Squire(handle::Awaited),
    H2(h2::client::ResponseFuture),
}

impl Awaited {
    /// The next head.
    pub(in super::super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head<Receiving>, Error>> {
        match self {
            Self::Squire(awaited) => awaited.poll_head(cx).map(|head| {
                head.map(|head| match head {
                    Head::Interim(status, fields) => Head::Interim(status, fields),
                    Head::Final(status, fields, receiving) => Head::Final(status, fields, Receiving::Squire(receiving)),
                })
            }),
            Self::H2(awaited) => library::poll_head(awaited, cx),
        }
    }
}
