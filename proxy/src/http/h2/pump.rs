//! One direction of one stream: bytes and trailers from where they are received to where they are sent. The windows of
//! both ends are the only buffers: what cannot be sent is not read, and what is not read is not asked for.

use std::{
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::HeaderMap;

use super::{body::Body, grpc, head::clean_trailers};

/// Why a direction ended before its end.
#[derive(Debug)]
pub(super) enum Broken {
    /// The sender broke off.
    Source(h2::Error),
    /// The receiver wants no more. With NO_ERROR it has had enough, which is no fault.
    Sink(Reason),
}

/// One direction.
pub(super) struct Pump {
    source: Body,
    sink: SendStream<Bytes>,
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
    pub(super) fn request(source: Body, sink: SendStream<Bytes>) -> Self {
        Self::new(source, sink, true)
    }

    pub(super) fn response(source: Body, sink: SendStream<Bytes>) -> Self {
        Self::new(source, sink, false)
    }

    fn new(source: Body, sink: SendStream<Bytes>, request: bool) -> Self {
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
    pub(super) fn end_with(&mut self, trailers: HeaderMap) {
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
                    if bytes.is_empty() && self.source.is_end_stream() {
                        return Poll::Ready(self.send(bytes, true));
                    }
                    self.held = bytes;
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
        if self.sink.capacity() == 0 {
            self.sink.reserve_capacity(self.held.len());
            while self.sink.capacity() == 0 {
                match self.sink.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Err(self.sink_gone(cx))),
                    Poll::Pending => {
                        self.stalled.get_or_insert_with(Instant::now);
                        return self.poll_sink_gone(cx);
                    }
                }
            }
        }
        self.stalled = None;
        let count = self.sink.capacity().min(self.held.len());
        let piece = self.held.split_to(count);
        let last = self.held.is_empty() && self.source.is_end_stream();
        self.send(piece, last)?;
        // Room for the sender only now: what waits here counts against its window.
        self.source.release(count);
        Poll::Ready(Ok(last))
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match ready!(self.source.poll_trailers(cx)) {
            Ok(Some(mut trailers)) => {
                if self.request {
                    clean_trailers(&mut trailers);
                }
                self.grpc_status = grpc::status(&trailers);
                let sent = self.sink.send_trailers(trailers);
                Poll::Ready(sent.map_err(|error| Broken::Sink(error.reason().unwrap_or(Reason::CANCEL))))
            }
            Ok(None) => Poll::Ready(self.send(Bytes::new(), true)),
            Err(error) => Poll::Ready(Err(Broken::Source(error))),
        }
    }

    fn send(&mut self, bytes: Bytes, last: bool) -> Result<(), Broken> {
        self.sink
            .send_data(bytes, last)
            .map_err(|error| Broken::Sink(error.reason().unwrap_or(Reason::CANCEL)))
    }

    /// Whether the receiver has gone meanwhile.
    pub(super) fn poll_sink_gone<T>(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, Broken>> {
        let reason = ready!(self.sink.poll_reset(cx));
        Poll::Ready(Err(Broken::Sink(reason.unwrap_or(Reason::CANCEL))))
    }

    fn sink_gone(&mut self, cx: &mut Context<'_>) -> Broken {
        match self.sink.poll_reset(cx) {
            Poll::Ready(Ok(reason)) => Broken::Sink(reason),
            Poll::Ready(Err(_)) | Poll::Pending => Broken::Sink(Reason::CANCEL),
        }
    }
}
