//! What holds a stream: its receiving end, its sending end, the response that a request waits for. A stream that nobody
//! holds any more is reset if it is not over.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::Reason;

use super::{
    Head,
    core::Core,
    drive::Shared,
    error::{By, Error},
    fields::FieldList,
    message,
    table::Half,
};

/// One hold on a stream.
pub(super) struct Hold {
    shared: Arc<Shared>,
    place: usize,
}

impl Hold {
    /// Takes hold of a stream of `core`, which `shared` shares.
    pub(super) fn new(shared: &Arc<Shared>, core: &mut Core, place: usize) -> Self {
        if let Some(stream) = core.streams.get(place) {
            stream.held += 1;
        }
        Self {
            shared: Arc::clone(shared),
            place,
        }
    }

    fn another(&self, core: &mut Core) -> Self {
        Self::new(&self.shared, core, self.place)
    }

    fn reset(&self, reason: Reason) {
        self.shared.lock().end(self.place, Error::Reset { reason, by: By::Us });
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut core = self.shared.lock();
        let Some(stream) = core.streams.get(self.place) else {
            return;
        };
        stream.held -= 1;
        if stream.held == 0 {
            core.let_go(self.place);
        }
    }
}

/// What comes from the peer on a stream, behind the head.
pub(in super::super) struct Receiving(Hold);

impl Receiving {
    pub(super) fn new(hold: Hold) -> Self {
        Self(hold)
    }

    pub(in super::super) fn is_end_stream(&self) -> bool {
        let mut core = self.0.shared.lock();
        core.streams
            .get(self.0.place)
            .is_none_or(|stream| stream.receiving == Half::Ended && stream.data.is_empty() && stream.trailers.is_none())
    }

    pub(in super::super) fn poll_data(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        let mut core = self.0.shared.lock();
        let Some(stream) = core.streams.get(self.0.place) else {
            return Poll::Ready(None);
        };
        if let Some(bytes) = stream.data.pop_front() {
            return Poll::Ready(Some(Ok(bytes.freeze())));
        }
        match &stream.over {
            _ if stream.receiving == Half::Ended => Poll::Ready(None),
            Some(over) => Poll::Ready(Some(Err(over.clone()))),
            None => {
                stream.watch(cx);
                Poll::Pending
            }
        }
    }

    pub(in super::super) fn poll_trailers(&mut self, cx: &Context<'_>) -> Poll<Result<Option<FieldList>, Error>> {
        let mut core = self.0.shared.lock();
        let Some(stream) = core.streams.get(self.0.place) else {
            return Poll::Ready(Ok(None));
        };
        match &stream.over {
            _ if stream.receiving == Half::Ended => Poll::Ready(Ok(stream.trailers.take())),
            Some(over) => Poll::Ready(Err(over.clone())),
            None => {
                stream.watch(cx);
                Poll::Pending
            }
        }
    }

    pub(in super::super) fn release(&mut self, count: usize) {
        // What was taken at once is at most what a stream's window holds.
        self.0.shared.lock().take(self.0.place, count as u32);
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        let mut core = self.0.shared.lock();
        if let Some(stream) = core.streams.get(self.0.place) {
            stream.deaf = true;
            stream.data.clear();
            let unread = std::mem::take(&mut stream.unreleased);
            core.give_back(unread);
        }
    }
}

/// Our end of a stream.
pub(in super::super) struct Sending(Hold);

impl Sending {
    pub(super) fn new(hold: Hold) -> Self {
        Self(hold)
    }

    /// Sends of `bytes` what the windows allow; ready when all is sent, and the end with it if it is `last`.
    pub(in super::super) fn poll_send(
        &mut self,
        bytes: &mut Bytes,
        last: bool,
        cx: &Context<'_>,
    ) -> Poll<Result<(), Error>> {
        self.0.shared.lock().poll_send(self.0.place, bytes, last, cx)
    }

    pub(in super::super) fn send_trailers(&mut self, fields: &FieldList) -> Result<(), Error> {
        self.0.shared.lock().send_fields(self.0.place, fields, true)
    }

    pub(in super::super) fn send_reset(&mut self, reason: Reason) {
        self.0.reset(reason);
    }

    /// Ready when the stream is over early.
    pub(in super::super) fn poll_reset(&mut self, cx: &Context<'_>) -> Poll<Error> {
        let mut core = self.0.shared.lock();
        let Some(stream) = core.streams.get(self.0.place) else {
            return Poll::Ready(Error::ended());
        };
        match &stream.over {
            Some(over) => Poll::Ready(over.clone()),
            None => {
                stream.watch(cx);
                Poll::Pending
            }
        }
    }
}

/// A client's stream that waits for our answer.
pub(in super::super) struct Responding(Sending);

impl Responding {
    pub(super) fn new(hold: Hold) -> Self {
        Self(Sending(hold))
    }

    pub(in super::super) fn send_interim(&mut self, fields: &FieldList) -> Result<(), Error> {
        let hold = &self.0.0;
        hold.shared.lock().send_fields(hold.place, fields, false)
    }

    pub(in super::super) fn send_response(&mut self, fields: &FieldList, ended: bool) -> Result<Sending, Error> {
        let hold = &self.0.0;
        let mut core = hold.shared.lock();
        core.send_fields(hold.place, fields, ended)?;
        Ok(Sending(hold.another(&mut core)))
    }

    pub(in super::super) fn send_reset(&mut self, reason: Reason) {
        self.0.send_reset(reason);
    }

    pub(in super::super) fn poll_reset(&mut self, cx: &Context<'_>) -> Poll<Error> {
        self.0.poll_reset(cx)
    }
}

/// The response to a request of ours.
pub(in super::super) struct Awaited(Hold);

impl Awaited {
    pub(super) fn new(hold: Hold) -> Self {
        Self(hold)
    }

    /// The next head.
    pub(in super::super) fn poll_head(&mut self, cx: &Context<'_>) -> Poll<Result<Head<Receiving>, Error>> {
        let mut core = self.0.shared.lock();
        let Some(stream) = core.streams.get(self.0.place) else {
            return Poll::Ready(Err(Error::ended()));
        };
        if let Some(fields) = stream.take_head() {
            let status = fields.get(":status").and_then(message::status_of).unwrap_or_default();
            return Poll::Ready(Ok(match status {
                100..200 => Head::Interim(status, fields),
                _ => Head::Final(status, fields, Receiving(self.0.another(&mut core))),
            }));
        }
        match &stream.over {
            Some(over) => Poll::Ready(Err(over.clone())),
            None => {
                stream.watch(cx);
                Poll::Pending
            }
        }
    }
}
