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
    /// Read ahead, in order.
    ahead: VecDeque<Bytes>,
    /// Bytes that have left the sender's window already, and are yet to be given back by whoever took them.
    free: usize,
    /// The end, if it has been read: with trailers or without.
    end: Option<Option<FieldList>>,
    stream: Receiving,
}

impl From<Receiving> for Body {
    fn from(stream: Receiving) -> Self {
        Self {
            ahead: VecDeque::new(),
            free: 0,
            end: None,
            stream,
        }
    }
}

impl Body {
    /// Whether nothing comes any more, not even trailers.
    pub(super) fn is_end_stream(&self) -> bool {
        self.ahead.is_empty()
            && match &self.end {
                Some(trailers) => trailers.is_none(),
                None => self.stream.is_end_stream(),
            }
    }

    /// Reads to the end, or until more than `wanted` bytes are there.
    ///
    /// # Errors
    /// When the sender broke off.
    pub(super) async fn read_ahead(&mut self, wanted: usize) -> Result<(), Error> {
        let mut read = 0;
        while self.end.is_none() && read <= wanted {
            match poll_fn(|cx| self.stream.poll_data(cx)).await {
                Some(bytes) => {
                    let bytes = bytes?;
                    read += bytes.len();
                    self.free += bytes.len();
                    // The window has to go on: it may be smaller than what is wanted.
                    self.stream.release(bytes.len());
                    if !bytes.is_empty() {
                        self.ahead.push_back(bytes);
                    }
                }
                None => self.end = Some(poll_fn(|cx| self.stream.poll_trailers(cx)).await?),
            }
        }
        Ok(())
    }

    /// What has been read ahead, and whether that is all there is.
    pub(super) fn shown(&self) -> (Vec<u8>, bool) {
        let mut bytes = Vec::with_capacity(self.free);
        self.ahead.iter().for_each(|piece| bytes.extend_from_slice(piece));
        (bytes, self.end.is_some() || self.stream.is_end_stream())
    }

    pub(super) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        if let Some(bytes) = self.ahead.pop_front() {
            return Poll::Ready(Some(Ok(bytes)));
        }
        match self.end {
            Some(_) => Poll::Ready(None),
            None => self.stream.poll_data(cx),
        }
    }

    /// After the last of the data.
    pub(super) fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<FieldList>, Error>> {
        match &mut self.end {
            Some(trailers) => Poll::Ready(Ok(trailers.take())),
            None => self.stream.poll_trailers(cx),
        }
    }

    /// So many bytes have been passed on: the sender may send as many more.
    pub(super) fn release(&mut self, count: usize) {
        let free = self.free.min(count);
        self.free -= free;
        if count > free {
            self.stream.release(count - free);
        }
    }
}
