//! One request on its way: judged, sent to an upstream, relayed; and sent to another one where a try has failed and that
//! is allowed.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::{sleep, timeout};

use super::{
    ahead::{self, Ahead},
    answer::{Asked, SLOW, STALLED, broke, farewell, reply},
    body::{Body, Length},
    broken::{Broken, flag_of, outcome_of},
    head::{Answers, RequestHead},
    relay::{self, After, Progress, Task},
    scratch,
    serve::Step,
    side::{Prepared, Side},
    tunnel,
    wire::Wire,
};
use crate::{
    connection::Connection,
    http::{Course, Edits, Exchange, Flag, Forwarded, Gate, LocalReply, RequestView, Version},
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
    let ahead = match read_ahead(shared, connection, down, head, gate.as_deref()).await {
        Ok(ahead) => ahead,
        Err(Unread::Late) => {
            shared.metrics.http_refused(SLOW);
            let answer = LocalReply::text(408, "the request took too long");
            return farewell(exchange, down, &answer, Flag::Malformed, head.is_head()).await;
        }
        Err(Unread::Broken(broken)) => {
            let (asked, progress) = (Asked::of(head), Progress::default());
            return broke(exchange, connection, down, asked, broken, None, progress).await;
        }
    };
    let asked = Asked {
        head,
        ahead: ahead.as_ref(),
    };
    let request = Request {
        shared,
        connection,
        asked,
        view,
        gate,
        routed,
        response_edits: routed.map(Course::response_edits).unwrap_or_default(),
    };
    let mut tried = Vec::new();
    loop {
        let shown = ahead.as_ref().map(Ahead::shown);
        let prepared = match Box::pin(side.prepare(&view, &course, &tried, shown)).await {
            Ok(prepared) => prepared,
            Err(refused) => {
                exchange.decision = refused.decision;
                return reply(exchange, down, asked, &refused.reply, refused.flag).await;
            }
        };
        let (address, reused) = (prepared.address, prepared.reused);
        match request.attempt(&mut exchange, down, side, prepared).await {
            Tried::Done { client } => {
                exchange.finish(Flag::Ok);
                return if client {
                    Step::Next
                } else {
                    Step::Finish(Outcome::Complete)
                };
            }
            Tried::CutOff(broken) => {
                exchange.finish(flag_of(&broken));
                return Step::End(outcome_of(connection, broken));
            }
            Tried::Failed {
                broken,
                refusal,
                progress,
            } => return broke(exchange, connection, down, asked, broken, refusal, progress).await,
            Tried::Again(wait) => {
                if !reused {
                    tried.push(address);
                }
                if !wait.is_zero() {
                    sleep(wait).await;
                }
            }
        }
    }
}

/// Why the body that providers want to see could not be read.
enum Unread {
    Late,
    Broken(Broken),
}

/// Reads as much of a body as providers want to see. None: nobody does.
async fn read_ahead<D: Wire>(
    shared: &Shared,
    connection: &Connection,
    down: &mut D,
    head: &RequestHead,
    gate: Option<&Gate>,
) -> Result<Option<Ahead>, Unread> {
    let wanted = match gate {
        Some(gate) if head.length() != Length::None => gate.body_wanted(&head.view()),
        _ => 0,
    };
    if wanted == 0 {
        return Ok(None);
    }
    let reading = Box::pin(ahead::read(
        connection,
        down,
        head.length(),
        wanted,
        head.expects_continue(),
    ));
    match timeout(shared.head_timeout, reading).await {
        Ok(read) => read.map(Some).map_err(Unread::Broken),
        Err(_) => Err(Unread::Late),
    }
}

/// What holds for every try of a request.
struct Request<'a> {
    shared: &'a Shared,
    connection: &'a Arc<Connection>,
    asked: Asked<'a>,
    view: RequestView<'a>,
    gate: Option<Arc<Gate>>,
    /// How its route changes its handling.
    routed: Option<&'a Course>,
    /// What its route wants changed in the response.
    response_edits: Edits,
}

/// What came of one try.
enum Tried {
    /// The response has been passed on, or a tunnel has come to its end; `client`: its connection can carry another request.
    Done { client: bool },
    /// A tunnel was broken off.
    CutOff(Broken),
    /// To be made again after so long.
    Again(Duration),
    /// It failed, and that is what the client is told.
    Failed {
        broken: Broken,
        /// The upstream's own words.
        refusal: Option<(LocalReply, Flag)>,
        progress: Progress,
    },
}

impl Request<'_> {
    /// Sends the request to the upstream that was prepared for it.
    async fn attempt<D: Wire + Send, S: Side>(
        &self,
        exchange: &mut Exchange,
        down: &mut D,
        side: &mut S,
        prepared: Prepared<S::Up>,
    ) -> Tried {
        let head = self.asked.head;
        exchange.attempts += 1;
        exchange.decision = prepared.decision;
        exchange.series = prepared.series;
        let (mut up, permit, mut picked) = (prepared.up, prepared.permit, prepared.picked);
        let mut progress = Progress::default();
        let mut out = scratch::take_bytes();
        let body = self.write(&mut out, prepared.edits, side.forwarded());
        let standing = prepared.standing;
        let of_providers = &standing.answered.response;
        let merged = (!of_providers.is_empty()).then(|| self.response_edits.clone().then(of_providers.clone()));
        let still_admitted = || {
            let gate = self.gate.as_ref();
            gate.is_none_or(|gate| gate.still_admits(&self.view, &standing))
        };
        let tries = Tries {
            request: self,
            started: exchange.started,
            number: exchange.attempts,
            whole: body.is_done(),
        };
        let hold = |status: u16, progress: Progress| tries.hold(status, progress);
        let task = Task {
            connection: self.connection,
            exchange,
            body,
            answers: Answers {
                head: head.is_head(),
                connect: head.is_connect(),
                upgrade: head.upgrade().is_some(),
            },
            keep_client: head.keeps_alive() && !self.shared.draining.is_cancelled(),
            old_client: head.version() == Version::Http10,
            stall: self.shared.stall_timeout,
            response_edits: merged.as_ref().unwrap_or(&self.response_edits),
            still_admitted: &still_admitted,
            hold: &hold,
            picked: picked.as_mut(),
            sent: Instant::now(),
        };
        let relayed = {
            // In its place from the beginning: it is moved for each request otherwise.
            let relaying = pin!(relay::relay(&permit, down, &mut up, &out, task, &mut progress));
            match tries.limit() {
                None => relaying.await,
                Some(limit) => timeout(limit, relaying).await.unwrap_or(Err(Broken::Late)),
            }
        };
        scratch::give_bytes(out);
        let broken = match relayed {
            Ok(After::Idle { client, upstream }) => {
                side.give_back(up, prepared.address, upstream);
                return Tried::Done { client };
            }
            Ok(After::Tunnel) => {
                let tunnel = tunnel::tunnel(&permit, down, &mut up, self.connection, &still_admitted);
                return match Box::pin(tunnel).await {
                    Ok(()) => {
                        side.give_back(up, prepared.address, false);
                        Tried::Done { client: false }
                    }
                    Err(broken) => {
                        up.abort();
                        Tried::CutOff(broken)
                    }
                };
            }
            Err(broken) => broken,
        };
        if matches!(broken, Broken::Stalled) {
            self.shared.metrics.http_refused(STALLED);
        }
        up.abort();
        let refusal = S::refusal(&up);
        drop(up);
        let failed = match &broken {
            Broken::Upstream(_) if refusal.is_none() && !progress.answered => Some(Failed::Lost),
            Broken::Late if !progress.response_begun => Some(Failed::TimedOut),
            _ => None,
        };
        if let (Some(picked), true) = (&mut picked, failed.is_some()) {
            picked.responded(TryResult::Failure, tries.started.elapsed(), Instant::now());
        }
        drop(picked);
        match tries.again(&broken, failed, progress, prepared.reused) {
            Some(wait) => Tried::Again(wait),
            None => Tried::Failed {
                broken,
                refusal,
                progress,
            },
        }
    }

    /// Writes what can be sent at once, and says what is to come of the body.
    fn write(&self, out: &mut Vec<u8>, mut edits: Edits, forwarded: &Forwarded) -> Body {
        let Asked { head, ahead } = self.asked;
        if ahead.is_some() {
            // The client has been told already.
            edits.remove.push("expect".into());
        }
        head.write(out, &edits, forwarded);
        match ahead {
            None => Body::of_request(head.length()),
            Some(ahead) => {
                out.extend_from_slice(&ahead.bytes);
                ahead.rest.clone()
            }
        }
    }
}

/// Whether, and when, a try may be made again.
struct Tries<'a> {
    request: &'a Request<'a>,
    started: Instant,
    /// The first has number 1.
    number: u8,
    /// The whole request has been read.
    whole: bool,
}

impl Tries<'_> {
    /// How long this try may take.
    fn limit(&self) -> Option<Duration> {
        let one = self.request.routed.and_then(Course::try_timeout);
        [self.left(), one].into_iter().flatten().min()
    }

    /// What is left of the request's time.
    fn left(&self) -> Option<Duration> {
        let limit = self.request.routed.and_then(Course::timeout)?;
        Some(limit.saturating_sub(self.started.elapsed()))
    }

    /// After what wait a response with this status is to be asked for again, instead of being passed on.
    fn hold(&self, status: u16, progress: Progress) -> Option<Duration> {
        let routed = self.request.routed.filter(|routed| routed.wants(status))?;
        routed.retry(&self.attempt(Failed::Status(status), progress))
    }

    /// After what wait a try that broke is to be made again.
    fn again(&self, broken: &Broken, failed: Option<Failed>, progress: Progress, reused: bool) -> Option<Duration> {
        if let Broken::Held(wait) = broken {
            return Some(*wait);
        }
        let failed = failed?;
        // The end of a connection that was kept has crossed the request.
        let idempotent = self.request.asked.head.is_idempotent();
        if failed == Failed::Lost && reused && !progress.body_consumed && idempotent {
            return (self.number < TRIES).then_some(Duration::ZERO);
        }
        self.request.routed?.retry(&self.attempt(failed, progress))
    }

    fn attempt(&self, failed: Failed, progress: Progress) -> Attempt<'_> {
        Attempt {
            method: self.request.view.method,
            tries: u32::from(self.number),
            failed,
            body: if self.whole || !progress.body_consumed {
                retry::Body::Whole
            } else {
                retry::Body::Gone
            },
            responded: progress.response_begun,
            left: self.left(),
        }
    }
}
