//! One request on its way: judged, sent to an upstream, relayed; and sent to another one where a try has failed and that
//! is allowed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::{sleep, timeout};

use super::{
    ahead::{self, Ahead},
    answer::{Asked, SLOW, broke, farewell, reply},
    body::{Body, Length},
    broken::{Broken, flag_of, outcome_of},
    head::{Answers, RequestHead},
    relay::{self, After, Progress, Task},
    scratch,
    serve::Step,
    side::Side,
    tunnel,
    wire::Wire,
};
use crate::{
    connection::Connection,
    http::{Course, Exchange, Flag, LocalReply, Version},
    outcome::Outcome,
    shared::Shared,
    traffic::{self as retry, Attempt, Failed, TryResult},
};

/// Upstreams tried for one request.
const TRIES: u8 = 3;

/// One request whose head has been read.
pub(super) async fn one<D: Wire + Send, S: Side>(
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
                let tunnelled = Box::pin(tunnel::tunnel(&permit, down, &mut up, connection, &still_admitted)).await;
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
