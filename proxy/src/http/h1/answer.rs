//! What the sidecar says in place of an upstream, and what follows for the client's connection: it goes on where the
//! request's end can be found, and else ends so that the client gets to read our last words.

use std::{
    future::poll_fn,
    io::IoSlice,
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use tokio::time::timeout;

use super::{
    ahead::Ahead,
    body::Body,
    broken::{Broken, flag_of, outcome_of},
    head::{self, Bad, RequestHead},
    relay::Progress,
    scratch,
    serve::Step,
    wire::Wire,
};
use crate::{
    connection::Connection,
    http::{Exchange, Flag, LocalReply, Version},
    outcome::Outcome,
    shared::Shared,
};

/// How long a client may take to read a reply of ours.
const REPLY_TIME: Duration = Duration::from_secs(30);
/// How long a connection that we end may go on sending what nobody reads.
const LINGER: Duration = Duration::from_secs(1);
/// Longest body of a refused request that is read away to keep the connection.
const MAX_SKIPPED: u64 = 64 * 1024;
/// Label of a head that took too long.
pub(crate) const SLOW: &str = "slow_head";
/// Label of a client that took nothing of its response.
pub(crate) const STALLED: &str = "stalled";

/// A request as far as it has been read from its client.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) head: &'a RequestHead,
    pub(super) ahead: Option<&'a Ahead>,
}

impl<'a> Asked<'a> {
    /// Of which nothing but the head has been read.
    pub(super) fn of(head: &'a RequestHead) -> Self {
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
pub(super) async fn broke<D: Wire>(
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
        (Broken::Client(_) | Broken::Stalled | Broken::Cut(_) | Broken::Held(_), _) => {
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
pub(super) async fn reply<D: Wire>(
    exchange: Exchange,
    down: &mut D,
    request: Asked<'_>,
    answer: &LocalReply,
    flag: Flag,
) -> Step {
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
pub(super) async fn farewell<D: Wire>(
    exchange: Exchange,
    down: &mut D,
    answer: &LocalReply,
    flag: Flag,
    to_head: bool,
) -> Step {
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
pub(super) async fn refuse<D: Wire>(shared: &Shared, connection: &Arc<Connection>, down: &mut D, bad: Bad) -> Step {
    shared.metrics.http_refused(bad.label());
    tracing::debug!(client = %connection.client, %bad, "a request was refused");
    let exchange = Exchange::malformed(&shared.recorder, connection, Version::Http11);
    farewell(exchange, down, &bad.reply(), Flag::Malformed, false).await
}

/// A head that did not come to its end in time.
pub(super) async fn late<D: Wire>(shared: &Shared, connection: &Arc<Connection>, down: &mut D) -> Step {
    shared.metrics.http_refused(SLOW);
    let exchange = Exchange::malformed(&shared.recorder, connection, Version::Http11);
    let answer = LocalReply::text(408, "the request took too long");
    farewell(exchange, down, &answer, Flag::Malformed, false).await
}

/// Ends our half; what the other side still sends is read away for a moment, so that it gets to read our last words.
pub(super) async fn finish<D: Wire>(down: &mut D) {
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
