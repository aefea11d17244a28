//! Serving the HTTP/1 requests of one client connection, one after another: read a head, let the side judge it and reach
//! an upstream, relay, count. A request that comes early waits in the client's socket for its turn.

use std::{
    future::{Future, poll_fn},
    io::{self, IoSlice},
    net::SocketAddr,
    sync::Arc,
    task::{Poll, ready},
    time::{Duration, Instant},
};

use squire_mesh::policy::{Decision, PathNormalization};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    ahead::{self, Ahead},
    body::{Body, Length},
    head::{self, Answers, Bad, RequestHead},
    relay::{self, After, Broken, Progress, Task},
    scratch,
    wire::Wire,
};
use crate::{
    authorize::Permit,
    connection::{Application, Connection, Cut},
    ext_authz::Body as Shown,
    forward::Interrupted,
    http::{Course, Edits, Exchange, Flag, Forwarded, Gate, LocalReply, Refused, RequestView, Standing, Version},
    metrics::Series,
    outcome::Outcome,
    shared::Shared,
    traffic::{self as retry, Attempt, Failed, Picked, TryResult},
};

/// How long a client may take to read a reply of ours.
const REPLY_TIME: Duration = Duration::from_secs(30);
/// How long a connection that we end may go on sending what nobody reads.
const LINGER: Duration = Duration::from_secs(1);
/// Longest body of a refused request that is read away to keep the connection.
const MAX_SKIPPED: u64 = 64 * 1024;
/// Label of a head that took too long.
pub(crate) const SLOW: &str = "slow_head";
/// Upstreams tried for one request.
const TRIES: u8 = 3;

/// What differs between the two directions: who judges a request, and where it goes.
pub(crate) trait Side: Send {
    /// A connection that requests are sent over.
    type Up: Wire + Send;

    /// What becomes of one request, whoever takes it.
    type Course: Send + Sync;

    /// Decides what becomes of a request.
    fn plan(&self, view: &RequestView<'_>) -> Result<Self::Course, Refused>;

    /// Judges one try of a request and reaches for an upstream. `tried` have failed for this request; `body`: what has
    /// been read of its body to be shown.
    fn prepare(
        &mut self,
        view: &RequestView<'_>,
        course: &Self::Course,
        tried: &[SocketAddr],
        body: Option<Shown<'_>>,
    ) -> impl Future<Output = Result<Prepared<Self::Up>, Refused>> + Send;

    /// How the route of a request changes its handling; none: not at all.
    fn routed(course: &Self::Course) -> Option<&Course>;

    /// Who judges an open request again, if anybody does.
    fn gate(&self) -> Option<Arc<Gate>>;

    /// Takes an upstream back; `usable`: it can carry another request.
    fn give_back(&mut self, up: Self::Up, at: SocketAddr, usable: bool);

    /// The upstream whose end ends the client's connection too, while no request is open.
    fn bound(&mut self) -> Option<&mut Self::Up>;

    /// The upstream's refusal, if it failed by one: what the client is to be told.
    fn refusal(up: &Self::Up) -> Option<(LocalReply, Flag)>;

    /// Fields added to every request.
    fn forwarded(&self) -> &Forwarded;

    /// How paths are normalised.
    fn normalization(&self) -> PathNormalization;
}

/// A request that may go, and its upstream.
pub(crate) struct Prepared<U> {
    pub(crate) permit: Permit,
    pub(crate) up: U,
    pub(crate) address: SocketAddr,
    /// It has carried requests before: its end may have crossed ours.
    pub(crate) reused: bool,
    pub(crate) edits: Edits,
    /// To be told how the try went.
    pub(crate) picked: Option<Picked>,
    /// Where it counts; none: where its connection does.
    pub(crate) series: Option<Arc<Series>>,
    pub(crate) decision: Option<Decision>,
    pub(crate) standing: Standing,
}

/// Serves the client at the other end of `down` until one of us ends the connection.
pub(crate) async fn serve<D: Wire + Send, S: Side>(
    shared: &Shared,
    connection: &Arc<Connection>,
    down: &mut D,
    side: &mut S,
) -> Outcome {
    connection.facts().application = Application::Http1;
    loop {
        match idle(connection, &shared.draining, down, side).await {
            Idle::Input => {}
            Idle::Over => {
                finish(down).await;
                return Outcome::Complete;
            }
            Idle::Failed(error) => return Outcome::Interrupted(connection.near_failed(error)),
            Idle::Cut(cut) => return Outcome::Interrupted(Interrupted::Cut(cut)),
        }
        let mut head = scratch::take_request();
        let read = read_head(connection, down, &mut head, side.normalization(), shared.head_timeout).await;
        let step = match read {
            Ok(()) => one(shared, connection, down, side, &head).await,
            Err(Unread::Bad(bad)) => refuse(shared, connection, down, bad).await,
            Err(Unread::Late) => late(shared, connection, down).await,
            Err(Unread::Failed(error)) => Step::End(Outcome::Interrupted(connection.near_failed(error))),
            Err(Unread::Cut(cut)) => Step::End(Outcome::Interrupted(Interrupted::Cut(cut))),
        };
        scratch::give_request(head);
        match step {
            Step::Next => {}
            Step::Finish(outcome) => {
                finish(down).await;
                return outcome;
            }
            Step::End(outcome) => {
                down.abort();
                return outcome;
            }
        }
    }
}

/// What follows a request.
enum Step {
    /// The next one.
    Next,
    /// The end of the connection, in order.
    Finish(Outcome),
    /// The end of the connection, as a failure.
    End(Outcome),
}

enum Idle {
    Input,
    Over,
    Failed(io::Error),
    Cut(Cut),
}

/// Waits for the first byte of the next request.
async fn idle<D: Wire, S: Side>(
    connection: &Connection,
    draining: &CancellationToken,
    down: &mut D,
    side: &mut S,
) -> Idle {
    let waiting = poll_fn(|cx| {
        if let Poll::Ready(cut) = connection.poll_cut(cx) {
            return Poll::Ready(Idle::Cut(cut));
        }
        loop {
            match down.input() {
                [] => {}
                // One empty line between requests is overlooked (RFC 9112 §2.2).
                [b'\r', b'\n', ..] => {
                    down.consume(2);
                    continue;
                }
                _ => return Poll::Ready(Idle::Input),
            }
            match down.poll_fill(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Idle::Over),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Idle::Failed(error)),
                Poll::Pending => break,
            }
        }
        // Whatever an upstream says unasked, its connection is of no more use.
        match side.bound().map(|up| up.poll_fill(cx)) {
            Some(Poll::Ready(_)) => Poll::Ready(Idle::Over),
            Some(Poll::Pending) | None => Poll::Pending,
        }
    });
    tokio::select! {
        biased;
        idle = waiting => idle,
        () = draining.cancelled() => Idle::Over,
    }
}

enum Unread {
    Bad(Bad),
    Late,
    Failed(io::Error),
    Cut(Cut),
}

/// Reads the head that has begun.
async fn read_head<D: Wire>(
    connection: &Connection,
    down: &mut D,
    head: &mut RequestHead,
    mode: PathNormalization,
    limit: Duration,
) -> Result<(), Unread> {
    // Nearly always all of it is there.
    if let Some(length) = head.read(down.input(), mode).map_err(Unread::Bad)? {
        down.consume(length);
        return Ok(());
    }
    let mut seen = 0;
    let reading = poll_fn(|cx| {
        loop {
            if let Poll::Ready(cut) = connection.poll_cut(cx) {
                return Poll::Ready(Err(Unread::Cut(cut)));
            }
            if ready!(down.poll_fill(cx)).map_err(Unread::Failed)? == 0 {
                return Poll::Ready(Err(Unread::Failed(io::ErrorKind::UnexpectedEof.into())));
            }
            // Parsed again only when it may be whole, so that a head in many pieces costs no more than one.
            let input = down.input();
            let whole = memchr::memmem::find(&input[seen..], b"\n\r\n").is_some() || input.len() >= head::MAX_HEAD;
            seen = input.len().saturating_sub(2);
            if whole && let Some(length) = head.read(input, mode).map_err(Unread::Bad)? {
                down.consume(length);
                return Poll::Ready(Ok(()));
            }
        }
    });
    timeout(limit, reading).await.unwrap_or(Err(Unread::Late))
}

/// One request whose head has been read.
async fn one<D: Wire + Send, S: Side>(
    shared: &Shared,
    connection: &Arc<Connection>,
    down: &mut D,
    side: &mut S,
    head: &RequestHead,
) -> Step {
    let view = head.view();
    let mut exchange = Exchange::begin(&shared.recorder, connection, &view);
    let gate = side.gate();
    let course = match side.plan(&view) {
        Ok(course) => course,
        Err(refused) => return reply(exchange, down, Asked::of(head), &refused.reply, refused.flag).await,
    };
    let routed = S::routed(&course);
    exchange.route = routed.and_then(Course::route);
    let response_edits = routed.map(Course::response_edits).unwrap_or_default();
    let mut tried = Vec::new();
    let wanted = match &gate {
        Some(gate) if head.length() != Length::None => gate.body_wanted(&view),
        _ => 0,
    };
    let ahead = if wanted == 0 {
        None
    } else {
        let reading = Box::pin(ahead::read(
            connection,
            down,
            head.length(),
            wanted,
            head.expects_continue(),
        ));
        match timeout(shared.head_timeout, reading).await {
            Ok(Ok(ahead)) => Some(ahead),
            Ok(Err(broken)) => {
                return broke(
                    exchange,
                    connection,
                    down,
                    Asked::of(head),
                    broken,
                    None,
                    Progress::default(),
                )
                .await;
            }
            Err(_) => {
                shared.metrics.http_refused(SLOW);
                let answer = LocalReply::text(408, "the request took too long");
                return farewell(exchange, down, &answer, Flag::Malformed, head.is_head()).await;
            }
        }
    };
    let shown = ahead.as_ref().map(Ahead::shown);
    let request = Asked {
        head,
        ahead: ahead.as_ref(),
    };
    loop {
        let prepared = match Box::pin(side.prepare(&view, &course, &tried, shown)).await {
            Ok(prepared) => prepared,
            Err(refused) => {
                exchange.decision = refused.decision;
                return reply(exchange, down, request, &refused.reply, refused.flag).await;
            }
        };
        exchange.attempts += 1;
        exchange.decision = prepared.decision;
        exchange.series = prepared.series;
        let (mut up, permit, mut picked) = (prepared.up, prepared.permit, prepared.picked);
        let mut progress = Progress::default();
        let mut out = scratch::take_bytes();
        let mut edits = prepared.edits;
        if ahead.is_some() {
            // The client has been told already.
            edits.remove.push("expect".into());
        }
        head.write(&mut out, &edits, side.forwarded());
        let body = match &ahead {
            None => Body::new(head.length()),
            Some(ahead) => {
                out.extend_from_slice(&ahead.bytes);
                ahead.rest.clone()
            }
        };
        let standing = prepared.standing;
        let of_providers = &standing.answered.response;
        let merged = (!of_providers.is_empty()).then(|| response_edits.clone().then(of_providers.clone()));
        let still_admitted = || gate.as_ref().is_none_or(|gate| gate.still_admits(&view, &standing));
        let whole = body.is_done();
        let (started, tries) = (exchange.started, u32::from(exchange.attempts));
        let left = || {
            routed
                .and_then(Course::timeout)
                .map(|limit| limit.saturating_sub(started.elapsed()))
        };
        let attempt = |failed, progress: Progress| Attempt {
            method: view.method,
            tries,
            failed,
            body: if whole || !progress.body_consumed {
                retry::Body::Whole
            } else {
                retry::Body::Gone
            },
            responded: progress.response_begun,
            left: left(),
        };
        let hold = |status: u16, progress: Progress| {
            let routed = routed.filter(|routed| routed.wants(status))?;
            routed.retry(&attempt(Failed::Status(status), progress))
        };
        let task = Task {
            connection,
            exchange: &mut exchange,
            body,
            answers: Answers {
                head: head.is_head(),
                connect: head.is_connect(),
            },
            keep_client: head.keeps_alive() && !shared.draining.is_cancelled(),
            old_client: head.version() == Version::Http10,
            response_edits: merged.as_ref().unwrap_or(&response_edits),
            still_admitted: &still_admitted,
            hold: &hold,
            picked: picked.as_mut(),
            sent: Instant::now(),
        };
        let relaying = relay::relay(&permit, down, &mut up, &out, task, &mut progress);
        let limit = [left(), routed.and_then(Course::try_timeout)]
            .into_iter()
            .flatten()
            .min();
        let relayed = match limit {
            None => relaying.await,
            Some(limit) => timeout(limit, relaying).await.unwrap_or(Err(Broken::Late)),
        };
        scratch::give_bytes(out);
        let broken = match relayed {
            Ok(After::Idle { client, upstream }) => {
                side.give_back(up, prepared.address, upstream);
                exchange.finish(Flag::Ok);
                return if client {
                    Step::Next
                } else {
                    Step::Finish(Outcome::Complete)
                };
            }
            Ok(After::Tunnel) => {
                let tunnelled = Box::pin(relay::tunnel(&permit, down, &mut up, connection, &still_admitted)).await;
                return match tunnelled {
                    Ok(()) => {
                        side.give_back(up, prepared.address, false);
                        exchange.finish(Flag::Ok);
                        Step::Finish(Outcome::Complete)
                    }
                    Err(broken) => {
                        up.abort();
                        exchange.finish(flag_of(&broken));
                        Step::End(outcome_of(connection, broken))
                    }
                };
            }
            Err(broken) => broken,
        };
        up.abort();
        let refusal = S::refusal(&up);
        drop(up);
        let failed = match &broken {
            Broken::Upstream(_) if refusal.is_none() && !progress.answered => Some(Failed::Lost),
            Broken::Late if !progress.response_begun => Some(Failed::TimedOut),
            _ => None,
        };
        if let (Some(picked), true) = (&mut picked, failed.is_some()) {
            picked.responded(TryResult::Failure, started.elapsed(), Instant::now());
        }
        drop(picked);
        let wait = match (&broken, failed) {
            (Broken::Held(wait), _) => Some(*wait),
            // The end of a connection that was kept has crossed the request.
            (_, Some(Failed::Lost)) if prepared.reused && !progress.body_consumed && head.is_idempotent() => {
                (exchange.attempts < TRIES).then_some(Duration::ZERO)
            }
            (_, Some(failed)) => routed.and_then(|routed| routed.retry(&attempt(failed, progress))),
            (_, None) => None,
        };
        let Some(wait) = wait else {
            return broke(exchange, connection, down, request, broken, refusal, progress).await;
        };
        if !prepared.reused {
            tried.push(prepared.address);
        }
        if !wait.is_zero() {
            sleep(wait).await;
        }
    }
}

/// A request as far as it has been read from its client.
#[derive(Clone, Copy)]
struct Asked<'a> {
    head: &'a RequestHead,
    ahead: Option<&'a Ahead>,
}

impl<'a> Asked<'a> {
    /// Of which nothing but the head has been read.
    fn of(head: &'a RequestHead) -> Self {
        Self { head, ahead: None }
    }

    /// What is to come of its body.
    fn rest(self) -> Body {
        self.ahead
            .map_or_else(|| Body::new(self.head.length()), |ahead| ahead.rest.clone())
    }

    /// Whether that is so little that it can be read away to keep the connection.
    fn can_be_got_over(self) -> bool {
        let waits = self.ahead.is_none() && self.head.expects_continue();
        match self.rest().left() {
            Some(0) => true,
            Some(left) => left <= MAX_SKIPPED && !waits,
            None => false,
        }
    }
}

/// Says what can still be said about a request that did not reach its end.
async fn broke<D: Wire>(
    exchange: Exchange,
    connection: &Connection,
    down: &mut D,
    request: Asked<'_>,
    broken: Broken,
    refusal: Option<(LocalReply, Flag)>,
    progress: Progress,
) -> Step {
    let flag = flag_of(&broken);
    if progress.response_begun {
        exchange.finish(flag);
        return Step::End(outcome_of(connection, broken));
    }
    let (answer, flag) = match (&broken, refusal) {
        (Broken::Upstream(_), Some(refusal)) => refusal,
        (Broken::Upstream(_), None) => (LocalReply::text(502, "the upstream broke off"), flag),
        (Broken::BadResponse(_) | Broken::BadResponseBody(_), _) => {
            (LocalReply::text(502, "the upstream's response is malformed"), flag)
        }
        (Broken::Late, _) => (LocalReply::text(504, "the upstream took too long"), flag),
        (Broken::NoLongerAdmitted, _) => (LocalReply::text(403, "RBAC: access denied"), flag),
        (Broken::BadRequest(_), _) => (LocalReply::text(400, "bad request"), flag),
        (Broken::Client(_) | Broken::Cut(_) | Broken::Held(_), _) => {
            exchange.finish(flag);
            return Step::End(outcome_of(connection, broken));
        }
    };
    tracing::debug!(%broken, "a request was answered in place of its upstream");
    // A body that was passed on in part cannot be found the end of.
    if progress.body_consumed || matches!(broken, Broken::BadRequest(_)) {
        return farewell(exchange, down, &answer, flag, request.head.is_head()).await;
    }
    reply(exchange, down, request, &answer, flag).await
}

/// Answers a request ourselves; the connection stays if the request's body can be got over.
async fn reply<D: Wire>(exchange: Exchange, down: &mut D, request: Asked<'_>, answer: &LocalReply, flag: Flag) -> Step {
    let head = request.head;
    if !request.can_be_got_over() || !head.keeps_alive() {
        return farewell(exchange, down, answer, flag, head.is_head()).await;
    }
    let sent = say(exchange, down, answer, flag, false, head.is_head()).await;
    if sent && timeout(LINGER, skip(down, request.rest())).await == Ok(true) {
        Step::Next
    } else {
        Step::Finish(Outcome::Complete)
    }
}

/// Answers, and ends the connection.
async fn farewell<D: Wire>(exchange: Exchange, down: &mut D, answer: &LocalReply, flag: Flag, to_head: bool) -> Step {
    say(exchange, down, answer, flag, true, to_head).await;
    Step::Finish(Outcome::Complete)
}

/// Writes a reply of ours. True: it has gone out.
async fn say<D: Wire>(
    mut exchange: Exchange,
    down: &mut D,
    answer: &LocalReply,
    flag: Flag,
    close: bool,
    to_head: bool,
) -> bool {
    exchange.status = answer.status;
    let mut out = scratch::take_bytes();
    head::write_reply(&mut out, answer, close, to_head);
    let mut at = 0;
    let sent = poll_fn(|cx| {
        while at < out.len() {
            match ready!(down.poll_send(cx, &[IoSlice::new(&out[at..])])) {
                Ok(0) | Err(_) => return Poll::Ready(false),
                Ok(sent) => at += sent,
            }
        }
        down.poll_flush(cx).map(|flushed| flushed.is_ok())
    });
    let sent = timeout(REPLY_TIME, sent).await.unwrap_or(false);
    exchange.connection.count_to_client(at);
    scratch::give_bytes(out);
    exchange.finish(flag);
    sent
}

/// Reads a body away. True: all of it.
async fn skip<D: Wire>(down: &mut D, mut body: Body) -> bool {
    poll_fn(|cx| {
        while !body.is_done() {
            if down.input().is_empty() && !matches!(ready!(down.poll_fill(cx)), Ok(1..)) {
                return Poll::Ready(false);
            }
            match body.scan(down.input()) {
                Ok(taken) => down.consume(taken),
                Err(_) => return Poll::Ready(false),
            }
        }
        Poll::Ready(true)
    })
    .await
}

/// Refuses what is no request, and ends the connection.
async fn refuse<D: Wire>(shared: &Shared, connection: &Arc<Connection>, down: &mut D, bad: Bad) -> Step {
    shared.metrics.http_refused(bad.label());
    tracing::debug!(client = %connection.client, %bad, "a request was refused");
    let exchange = Exchange::malformed(&shared.recorder, connection, Version::Http11);
    farewell(exchange, down, &bad.reply(), Flag::Malformed, false).await
}

/// A head that did not come to its end in time.
async fn late<D: Wire>(shared: &Shared, connection: &Arc<Connection>, down: &mut D) -> Step {
    shared.metrics.http_refused(SLOW);
    let exchange = Exchange::malformed(&shared.recorder, connection, Version::Http11);
    let answer = LocalReply::text(408, "the request took too long");
    farewell(exchange, down, &answer, Flag::Malformed, false).await
}

/// Ends our half; what the other side still sends is read away for a moment, so that it gets to read our last words.
async fn finish<D: Wire>(down: &mut D) {
    let ending = poll_fn(|cx| {
        if ready!(down.poll_finish(cx)).is_err() {
            return Poll::Ready(());
        }
        while !down.ended() {
            let waiting = down.input().len();
            down.consume(waiting);
            if ready!(down.poll_fill(cx)).is_err() {
                return Poll::Ready(());
            }
        }
        Poll::Ready(())
    });
    let _ = timeout(LINGER, ending).await;
}

fn flag_of(broken: &Broken) -> Flag {
    match broken {
        Broken::Client(_) => Flag::ClientGone,
        Broken::BadRequest(_) => Flag::Malformed,
        Broken::Upstream(_) | Broken::BadResponse(_) | Broken::BadResponseBody(_) => Flag::UpstreamReset,
        Broken::Late | Broken::Held(_) => Flag::Timeout,
        Broken::Cut(_) => Flag::Cut,
        Broken::NoLongerAdmitted => Flag::Denied,
    }
}

fn outcome_of(connection: &Connection, broken: Broken) -> Outcome {
    let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
    Outcome::Interrupted(match broken {
        Broken::Client(error) => connection.near_failed(error),
        Broken::BadRequest(error) => connection.near_failed(invalid(error.to_string())),
        Broken::Upstream(error) => connection.far_failed(error),
        Broken::BadResponse(error) => connection.far_failed(invalid(error.to_string())),
        Broken::BadResponseBody(error) => connection.far_failed(invalid(error.to_string())),
        Broken::Late | Broken::Held(_) => connection.far_failed(io::ErrorKind::TimedOut.into()),
        Broken::Cut(cut) => Interrupted::Cut(cut),
        Broken::NoLongerAdmitted => Interrupted::Cut(Cut::Policy),
    })
}
