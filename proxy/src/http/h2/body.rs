//! A message's body: what has been read of it ahead of its judgement, for providers to see, and what is to come. What was
//! read ahead has left the sender's window; it is bounded by what providers want to see.

use std::{
    collections::VecDeque,
    future::poll_fn,
    task::{Context, Poll},
};

use bytes::Bytes;

use super::wire::{Error, FieldList, Receiving};

/// A body on its way in.
pub(super) struct Body {
    /// What has been read of it; none: nothing, as of most.
    ahead: Option<Box<Ahead>>,
    stream: Receiving,
}

/// What has been read of a body.
#[derive(Default)]
struct Ahead {
    /// In order.
    pieces: VecDeque<Bytes>,
    /// Bytes that have left the sender's window already, and are yet to be given back by whoever took them.
    free: usize,
    /// The end, if it has been read: with trailers or without.
    end: Option<Option<FieldList>>,
}

impl From<Receiving> for Body {
    fn from(stream: Receiving) -> Self {
        Self { ahead: None, stream }
    }
}

impl Body {
    /// Whether nothing comes any more, not even trailers.
    pub(super) fn is_end_stream(&self) -> bool {
        match self.ahead.as_deref() {
            Some(ahead) if !ahead.pieces.is_empty() => false,
            Some(Ahead {
                end: Some(trailers), ..
            }) => trailers.is_none(),
            _ => self.stream.is_end_stream(),
        }
    }

    /// Reads to the end, or until more than `wanted` bytes are there.
    ///
    /// # Errors
    /// When the sender broke off.
    pub(super) async fn read_ahead(&mut self, wanted: usize) -> Result<(), Error> {
        let (ahead, stream) = (self.ahead.get_or_insert_default(), &mut self.stream);
        let mut read = 0;
        while ahead.end.is_none() && read <= wanted {
            match poll_fn(|cx| stream.poll_data(cx)).await {
                Some(bytes) => {
                    let bytes = bytes?;
                    read += bytes.len();
                    ahead.free += bytes.len();
                    // The window has to go on: it may be smaller than what is wanted.
                    stream.release(bytes.len());
                    if !bytes.is_empty() {
                        ahead.pieces.push_back(bytes);
                    }
                }
                None => ahead.end = Some(poll_fn(|cx| stream.poll_trailers(cx)).await?),
            }
        }
        Ok(())
    }

    /// What has been read ahead, and whether that is all there is.
    pub(super) fn shown(&self) -> (Vec<u8>, bool) {
        let Some(ahead) = &self.ahead else {
            return (Vec::new(), self.stream.is_end_stream());
        };
        let mut bytes = Vec::with_capacity(ahead.free);
        ahead.pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
        (bytes, ahead.end.is_some() || self.stream.is_end_stream())
    }

    pub(super) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        if let Some(ahead) = &mut self.ahead {
            if let Some(bytes) = ahead.pieces.pop_front() {
                return Poll::Ready(Some(Ok(bytes)));
            }
            if ahead.end.is_some() {
                return Poll::Ready(None);
            }
        }
        self.stream.poll_data(cx)
    }

    /// After the last of the data.
    pub(super) fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<FieldList>, Error>> {
        match self.ahead.as_mut().and_then(|ahead| ahead.end.as_mut()) {
            Some(trailers) => Poll::Ready(Ok(trailers.take())),
            None => self.stream.poll_trailers(cx),
        }
    }

    /// So many bytes have been passed on: the sender may send as many more.
    pub(super) fn release(&mut self, count: usize) {
        let free = self.ahead.as_mut().map_or(0, |ahead| {
            let free = ahead.free.min(count);
            ahead.free -= free;
            free
        });
        if count > free {
            self.stream.release(count - free);
        }
    }
}
