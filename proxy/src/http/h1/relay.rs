//! Passing on one request and its response, both ways at once: heads as they were written anew, bodies as the bytes they
//! are, each with the other side's back-pressure. Decides nothing but where messages end.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use super::{
    body::{Body, Length},
    broken::Broken,
    head::{Answers, ResponseHead},
    slow::Slow,
    wire::Wire,
};
use crate::{
    authorize::Permit,
    connection::Connection,
    http::{Edits, Exchange},
    traffic::{Picked, TryResult},
};

/// What became of both connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// Whether the client's, and whether the upstream's, can carry another request.
    Idle { client: bool, upstream: bool },
    /// From now on bytes pass both ways (101, or 2xx to CONNECT).
    Tunnel,
}

/// What a relay needs to know beside the two ends.
pub(crate) struct Task<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) exchange: &'a mut Exchange,
    /// What is to come of the request's body.
    pub(crate) body: Body,
    pub(crate) answers: Answers,
    /// Whether the client wants to keep its connection, and may.
    pub(crate) keep_client: bool,
    /// Whether the client speaks HTTP/1.0.
    pub(crate) old_client: bool,
    /// How long the client may take nothing of its response.
    pub(crate) stall: Duration,
    /// What the route or a provider wants changed in the response.
    pub(crate) response_edits: &'a Edits,
    /// Judges the request again.
    pub(crate) still_admitted: &'a (dyn Fn() -> bool + Sync),
    /// Whether, and after what wait, a response with this status is to be held back and the request sent again.
    pub(crate) hold: &'a (dyn Fn(u16, Progress) -> Option<Duration> + Sync),
    /// To be told when the response begins.
    pub(crate) picked: Option<&'a mut Picked>,
    /// When the request was sent.
    pub(crate) sent: Instant,
}

/// How far a relay came; what may still be done about a failure depends on it.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Progress {
    /// Bytes of the request's body were consumed: it cannot be sent again.
    pub(crate) body_consumed: bool,
    /// Bytes of the request reached the upstream's socket.
    pub(crate) request_sent: bool,
    /// The upstream has answered something.
    pub(crate) answered: bool,
    /// Bytes of the response reached the client: nothing else can be said to it.
    pub(crate) response_begun: bool,
}

/// Passes the request on, whose head stands in `head` as it is to be sent, and the response back.
pub(crate) async fn relay<D: Wire, U: Wire>(
    _permit: &Permit,
    down: &mut D,
    up: &mut U,
    head: &[u8],
    task: Task<'_>,
    progress: &mut Progress,
) -> Result<After, Broken> {
    let mut relay = Relay {
        request: Half {
            head,
            body: task.body.clone(),
            approved: 0,
        },
        sent: false,
        send_failed: None,
        response: Reply::Head,
        response_head: super::scratch::take_response(),
        out: super::scratch::take_bytes(),
        out_at: 0,
        slow: Slow::new(task.stall),
        task,
        progress,
    };
    let done = poll_fn(|cx| relay.poll(down, up, cx)).await;
    let Relay { response_head, out, .. } = relay;
    super::scratch::give_response(response_head);
    super::scratch::give_bytes(out);
    done
}

/// One message on its way: what is left of its head, and its body.
struct Half<'a> {
    head: &'a [u8],
    body: Body,
    /// Bytes at the front of the source's input that belong to the body and have not been sent.
    approved: usize,
}

enum Reply {
    /// The next head is awaited.
    Head,
    /// The final response is under way.
    Body(Body, usize),
    /// 101 or CONNECT: the head is under way, then the tunnel begins.
    Switching,
    Done,
}

struct Relay<'a, 'p> {
    request: Half<'a>,
    sent: bool,
    /// The upstream takes no more of the request; it may have said why.
    send_failed: Option<io::Error>,
    response: Reply,
    response_head: Box<ResponseHead>,
    /// Heads written for the client, and how much of them it has got.
    out: Vec<u8>,
    out_at: usize,
    slow: Slow,
    task: Task<'a>,
    progress: &'p mut Progress,
}

impl Relay<'_, '_> {
    fn poll<D: Wire, U: Wire>(
        &mut self,
        down: &mut D,
        up: &mut U,
        cx: &mut Context<'_>,
    ) -> Poll<Result<After, Broken>> {
        if let Poll::Ready(cut) = self.task.connection.poll_cut(cx) {
            return Poll::Ready(Err(Broken::Cut(cut)));
        }
        if self.task.connection.to_be_judged() && !(self.task.still_admitted)() {
            return Poll::Ready(Err(Broken::NoLongerAdmitted));
        }
        if !self.sent && self.send_failed.is_none() {
            match self.poll_request(down, up, cx) {
                Poll::Ready(Ok(())) => self.sent = true,
                // What the upstream has to say about it may be there already.
                Poll::Ready(Err(Broken::Upstream(error))) => self.send_failed = Some(error),
                Poll::Ready(Err(broken)) => return Poll::Ready(Err(broken)),
                Poll::Pending => {}
            }
        }
        let reply = self.poll_response(down, up, cx)?;
        if reply.is_pending() {
            self.watch_client(down, cx)?;
            return Poll::Pending;
        }
        if matches!(self.response, Reply::Switching) {
            return Poll::Ready(Ok(After::Tunnel));
        }
        if self.awaits_request(up, cx) {
            return Poll::Pending;
        }
        let whole = self.sent && self.request.body.is_done();
        let client = whole && self.task.keep_client && !down.ended();
        let upstream = whole && self.response_head.keeps_alive() && !up.ended();
        Poll::Ready(Ok(After::Idle { client, upstream }))
    }

    /// Whether the rest of the request is still wanted, although the response is whole: an upstream may answer first and
    /// read on, as long as it keeps its connection.
    fn awaits_request<U: Wire>(&self, up: &mut U, cx: &mut Context<'_>) -> bool {
        let wanted =
            !self.sent && self.send_failed.is_none() && self.task.keep_client && self.response_head.keeps_alive();
        wanted && up.input().is_empty() && !up.ended() && up.poll_fill(cx).is_pending()
    }

    /// Client to upstream.
    fn poll_request<D: Wire, U: Wire>(
        &mut self,
        down: &mut D,
        up: &mut U,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        let half = &mut self.request;
        loop {
            if half.approved == 0 && !half.body.is_done() && !down.input().is_empty() {
                half.approved = half.body.scan(down.input()).map_err(Broken::BadRequest)?;
            }
            if !half.head.is_empty() || half.approved > 0 {
                let bufs = [IoSlice::new(half.head), IoSlice::new(&down.input()[..half.approved])];
                let first = usize::from(half.head.is_empty());
                let sent = ready!(up.poll_send(cx, &bufs[first..])).map_err(Broken::Upstream)?;
                if sent == 0 {
                    return Poll::Ready(Err(Broken::Upstream(io::ErrorKind::WriteZero.into())));
                }
                self.progress.request_sent = true;
                self.task.connection.count_from_client(sent);
                let of_head = sent.min(half.head.len());
                half.head = &half.head[of_head..];
                half.approved -= sent - of_head;
                down.consume(sent - of_head);
                self.progress.body_consumed |= sent > of_head;
            } else if half.body.is_done() {
                return up.poll_flush(cx).map_err(Broken::Upstream);
            } else {
                // What was sent must not wait for what is to come.
                if let Poll::Ready(flushed) = up.poll_flush(cx) {
                    flushed.map_err(Broken::Upstream)?;
                }
                if ready!(down.poll_fill(cx)).map_err(Broken::Client)? == 0 {
                    return Poll::Ready(Err(Broken::Client(io::ErrorKind::UnexpectedEof.into())));
                }
            }
        }
    }

    /// Upstream to client.
    fn poll_response<D: Wire, U: Wire>(
        &mut self,
        down: &mut D,
        up: &mut U,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        loop {
            match &mut self.response {
                Reply::Head => {
                    match self.response_head.read(up.input()).map_err(Broken::BadResponse)? {
                        Some(length) => {
                            up.consume(length);
                            self.progress.answered = true;
                            self.pass_on()?;
                        }
                        None => {
                            // An interim response is not held back until the final one.
                            ready!(self.poll_out(down, cx))?;
                            let filled = match ready!(up.poll_fill(cx)) {
                                Ok(filled) => filled,
                                Err(error) => return Poll::Ready(Err(self.upstream_failed(error))),
                            };
                            if filled == 0 {
                                let error = io::ErrorKind::UnexpectedEof.into();
                                return Poll::Ready(Err(self.upstream_failed(error)));
                            }
                            self.progress.answered = true;
                        }
                    }
                }
                Reply::Body(body, approved) => {
                    if *approved == 0 && !body.is_done() && !up.input().is_empty() {
                        *approved = body.scan(up.input()).map_err(Broken::BadResponseBody)?;
                    }
                    let head = &self.out[self.out_at..];
                    if !head.is_empty() || *approved > 0 {
                        let bufs = [IoSlice::new(head), IoSlice::new(&up.input()[..*approved])];
                        let first = usize::from(head.is_empty());
                        let Poll::Ready(sent) = down.poll_send(cx, &bufs[first..]) else {
                            return self.slow.poll(cx).map(|()| Err(Broken::Stalled));
                        };
                        self.slow.takes();
                        let sent = sent.map_err(Broken::Client)?;
                        if sent == 0 {
                            return Poll::Ready(Err(Broken::Client(io::ErrorKind::WriteZero.into())));
                        }
                        self.progress.response_begun = true;
                        self.task.connection.count_to_client(sent);
                        let of_head = sent.min(head.len());
                        self.out_at += of_head;
                        *approved -= sent - of_head;
                        up.consume(sent - of_head);
                    } else if body.is_done() {
                        ready!(down.poll_flush(cx)).map_err(Broken::Client)?;
                        self.response = Reply::Done;
                    } else {
                        if let Poll::Ready(flushed) = down.poll_flush(cx) {
                            flushed.map_err(Broken::Client)?;
                        }
                        match ready!(up.poll_fill(cx)) {
                            Ok(0) if body.ends_with_connection() => *body = Body::new(Length::None),
                            Ok(0) => return Poll::Ready(Err(Broken::Upstream(io::ErrorKind::UnexpectedEof.into()))),
                            Ok(_) => {}
                            Err(error) => return Poll::Ready(Err(Broken::Upstream(error))),
                        }
                    }
                }
                Reply::Switching => {
                    ready!(self.poll_out(down, cx))?;
                    return Poll::Ready(Ok(()));
                }
                Reply::Done => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Writes the head that was read for the client, and turns to what follows it.
    fn pass_on(&mut self) -> Result<(), Broken> {
        let head = &self.response_head;
        if self.out_at == self.out.len() {
            self.out.clear();
            self.out_at = 0;
        }
        let switches = head.switches(self.task.answers).map_err(Broken::BadResponse)?;
        if switches || (self.task.answers.connect && (200..300).contains(&head.status)) {
            head.write(&mut self.out, self.task.response_edits, None);
            self.task.exchange.status = head.status;
            self.response = Reply::Switching;
            return Ok(());
        }
        if head.status < 200 {
            // HTTP/1.0 knows no interim responses.
            if !self.task.old_client {
                head.write(&mut self.out, &Edits::default(), None);
            }
            return Ok(());
        }
        if let Some(picked) = &mut self.task.picked {
            let now = Instant::now();
            picked.responded(TryResult::of_status(head.status), now - self.task.sent, now);
        }
        if !self.progress.response_begun
            && let Some(wait) = (self.task.hold)(head.status, *self.progress)
        {
            return Err(Broken::Held(wait));
        }
        let length = head.length(self.task.answers);
        if length == Length::UntilClose || !self.request.body.is_done() && self.send_failed.is_some() {
            self.task.keep_client = false;
        }
        let connection = match (self.task.keep_client, self.task.old_client) {
            (false, _) => Some("close"),
            (true, true) => Some("keep-alive"),
            (true, false) => None,
        };
        head.write(&mut self.out, self.task.response_edits, connection);
        self.task.exchange.status = head.status;
        self.task.exchange.grpc_status = head
            .field("grpc-status")
            .and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
        self.response = Reply::Body(Body::new(length), 0);
        Ok(())
    }

    fn poll_out<D: Wire>(&mut self, down: &mut D, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        while self.out_at < self.out.len() {
            let Poll::Ready(sent) = down.poll_send(cx, &[IoSlice::new(&self.out[self.out_at..])]) else {
                return self.slow.poll(cx).map(|()| Err(Broken::Stalled));
            };
            self.slow.takes();
            let sent = sent.map_err(Broken::Client)?;
            if sent == 0 {
                return Poll::Ready(Err(Broken::Client(io::ErrorKind::WriteZero.into())));
            }
            self.progress.response_begun = true;
            self.task.connection.count_to_client(sent);
            self.out_at += sent;
        }
        down.poll_flush(cx).map_err(Broken::Client)
    }

    /// Why the upstream failed before it answered: what broke the request on its way there says more.
    fn upstream_failed(&mut self, error: io::Error) -> Broken {
        Broken::Upstream(self.send_failed.take().unwrap_or(error))
    }

    /// While the response is awaited, a client that breaks off ends it; one that sends its next request early waits.
    fn watch_client<D: Wire>(&mut self, down: &mut D, cx: &mut Context<'_>) -> Result<(), Broken> {
        if self.sent && !down.ended() && down.input().is_empty() {
            match down.poll_fill(cx) {
                Poll::Ready(Err(error)) => return Err(Broken::Client(error)),
                Poll::Ready(Ok(_)) | Poll::Pending => {}
            }
        }
        Ok(())
    }
}
