//! One direction of one stream: bytes and trailers from where they are received to where they are sent. The windows of
//! both ends are the only buffers: what cannot be sent is not read, and what is not read is not asked for.

use std::{
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use h2::Reason;

use super::{
    body::Body,
    grpc,
    head::clean_trailers,
    wire::{Error, FieldList, Sending},
};

/// Why a direction ended before its end.
#[derive(Debug)]
pub(super) enum Broken {
    /// The sender broke off.
    Source(Error),
    /// The receiver wants no more. With NO_ERROR it has had enough, which is no fault.
    Sink(Reason),
}

/// One direction.
pub(super) struct Pump {
    source: Body,
    sink: Sending,
    /// Received, and no room to send it yet.
    held: Bytes,
    /// Since when the receiver has taken nothing of it.
    stalled: Option<Instant>,
    /// Whether a byte (or the end) of the body was taken from the source: then it cannot be sent anew.
    pub(super) began: bool,
    /// Requests may not tell the application who sent them, not even in trailers.
    request: bool,
    /// `grpc-status` of the trailers.
    pub(super) grpc_status: Option<u8>,
}

impl Pump {
    pub(super) fn request(source: Body, sink: Sending) -> Self {
        Self::new(source, sink, true)
    }

    pub(super) fn response(source: Body, sink: Sending) -> Self {
        Self::new(source, sink, false)
    }

    fn new(source: Body, sink: Sending, request: bool) -> Self {
        Self {
            source,
            sink,
            held: Bytes::new(),
            stalled: None,
            began: false,
            request,
            grpc_status: None,
        }
    }

    /// Since when bytes have waited for the receiver.
    pub(super) fn stalled(&self) -> Option<Instant> {
        self.stalled
    }

    /// Tells the receiver why there will be no more.
    pub(super) fn reset_sink(&mut self, reason: Reason) {
        self.sink.send_reset(reason);
    }

    /// Ends the receiver's side with trailers of our own.
    pub(super) fn end_with(&mut self, trailers: &FieldList) {
        if self.sink.send_trailers(trailers).is_err() {
            self.sink.send_reset(Reason::CANCEL);
        }
    }

    /// The source, to send it elsewhere.
    pub(super) fn into_source(self) -> Body {
        self.source
    }

    /// Moves what can be moved; ready at the end.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            if !self.held.is_empty() {
                if ready!(self.poll_send(cx))? {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            match self.source.poll_data(cx) {
                Poll::Ready(Some(Ok(bytes))) => {
                    self.began = true;
                    self.held = bytes;
                    if self.held.is_empty() && self.source.is_end_stream() {
                        return self.poll_last(cx);
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(Broken::Source(error))),
                Poll::Ready(None) => {
                    self.began = true;
                    return self.poll_end(cx);
                }
                Poll::Pending => return self.poll_sink_gone(cx),
            }
        }
    }

    /// Sends what the receiver has room for; true: that was the end.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Broken>> {
        let before = self.held.len();
        let last = self.source.is_end_stream();
        let sent = self.sink.poll_send(&mut self.held, last, cx);
        let count = before - self.held.len();
        if count > 0 {
            self.stalled = None;
            // Room for the sender only now: what waits here counts against its window.
            self.source.release(count);
        }
        match sent {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(last)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(broken(&error))),
            Poll::Pending => {
                self.stalled.get_or_insert_with(Instant::now);
                self.poll_sink_gone(cx)
            }
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match ready!(self.source.poll_trailers(cx)) {
            Ok(Some(mut trailers)) => {
                if self.request {
                    clean_trailers(&mut trailers);
                }
                self.grpc_status = grpc::status(&trailers);
                Poll::Ready(self.sink.send_trailers(&trailers).map_err(|error| broken(&error)))
            }
            Ok(None) => self.poll_last(cx),
            Err(error) => Poll::Ready(Err(Broken::Source(error))),
        }
    }

    /// The end, with nothing in it: it needs no room.
    fn poll_last(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.sink
            .poll_send(&mut self.held, true, cx)
            .map_err(|error| broken(&error))
    }

    /// Whether the receiver has gone meanwhile.
    pub(super) fn poll_sink_gone<T>(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, Broken>> {
        let over = ready!(self.sink.poll_reset(cx));
        Poll::Ready(Err(broken(&over)))
    }
}

/// The receiver takes no more.
fn broken(over: &Error) -> Broken {
    Broken::Sink(over.reset().unwrap_or(Reason::CANCEL))
}
