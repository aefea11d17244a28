//! Whether a failed try may be made again. A pure decision: what is safe by itself (nothing reached the application, or the
//! method is idempotent) or was asked for by the route; never after a byte of the response, never with a body that is gone.

use std::{sync::Arc, time::Duration};

use squire_mesh::traffic::{Retry, Rule};

/// The longest wait, as a multiple of the shortest.
const LONGEST: u32 = 16;

/// What may be tried again for one request.
#[derive(Debug, Clone, Default)]
pub(crate) struct RetryPolicy(Option<Arc<Rule>>);

impl RetryPolicy {
    /// What the rule says.
    pub(super) fn of(rule: &Arc<Rule>) -> Self {
        Self(Some(Arc::clone(rule)))
    }

    fn told(&self) -> Option<&Retry> {
        self.0.as_ref()?.retry.as_ref()
    }

    /// Whether a response with this status may be worth another try: then hold it back until [`super::Traffic::retry`] has
    /// answered.
    pub(crate) fn wants(&self, status: u16) -> bool {
        self.told().is_some_and(|retry| retry.codes.contains(&status))
    }
}

/// How a try failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failed {
    /// No connection came about: nothing was sent.
    Unconnected,
    /// The peer said that it has not looked at the request (REFUSED_STREAM, or a GOAWAY below it).
    Refused,
    /// The connection was lost before the head of a response.
    Lost,
    /// The time for one try was over.
    TimedOut,
    /// The response has this status, and none of it has gone to the client.
    Status(u16),
}

/// What is left of the request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    /// Nothing of it was sent, there is none, or all that was sent is still held.
    Whole,
    /// Bytes of it were sent and are not held any more.
    Gone,
}

/// What is known when a try has failed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempt<'a> {
    /// The method.
    pub(crate) method: &'a str,
    /// Tries made, this one included.
    pub(crate) tries: u32,
    /// How it failed.
    pub(crate) failed: Failed,
    /// The request's body.
    pub(crate) body: Body,
    /// Bytes of a response (a 1xx too) have gone to the client.
    pub(crate) responded: bool,
    /// What is left of the request's timeout; none: it has none.
    pub(crate) left: Option<Duration>,
}

/// Why there is no other try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unretried {
    /// A response is under way to the client.
    Responded,
    /// The body cannot be sent again.
    Body,
    /// Another try might do something twice, and no route asks for it.
    Unsafe,
    /// As often as the route allows.
    Attempts,
    /// The request's time would be over.
    Deadline,
    /// Too many requests of the service are retries already.
    Budget,
}

impl Unretried {
    /// Every reason, for the metric's labels.
    pub(super) const ALL: [Self; 6] = [
        Self::Responded,
        Self::Body,
        Self::Unsafe,
        Self::Attempts,
        Self::Deadline,
        Self::Budget,
    ];

    /// The label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Responded => "responded",
            Self::Body => "body",
            Self::Unsafe => "unsafe",
            Self::Attempts => "attempts",
            Self::Deadline => "deadline",
            Self::Budget => "budget",
        }
    }
}

/// The wait before the next try. `random` is within 0..1.
pub(super) fn may_retry(policy: &RetryPolicy, attempt: &Attempt<'_>, random: f64) -> Result<Duration, Unretried> {
    if attempt.responded {
        return Err(Unretried::Responded);
    }
    let told = policy.told();
    let untouched = matches!(attempt.failed, Failed::Unconnected | Failed::Refused);
    if attempt.body == Body::Gone {
        return Err(Unretried::Body);
    }
    let asked = match attempt.failed {
        Failed::Unconnected | Failed::Refused => true,
        Failed::Lost => told.is_some() || is_idempotent(attempt.method),
        Failed::TimedOut => told.is_some(),
        Failed::Status(status) => policy.wants(status),
    };
    if !asked {
        return Err(Unretried::Unsafe);
    }
    let attempts = told.map_or(Retry::ATTEMPTS, |retry| retry.attempts);
    if attempt.tries > attempts {
        return Err(Unretried::Attempts);
    }
    let wait = match told {
        // Another endpoint, and nothing was asked of the first: no reason to wait.
        None if untouched => Duration::ZERO,
        told => backoff(
            told.map_or(Retry::BACKOFF, |retry| retry.backoff),
            attempt.tries,
            random,
        ),
    };
    if attempt.left.is_some_and(|left| left <= wait) {
        return Err(Unretried::Deadline);
    }
    Ok(wait)
}

/// Never shorter than the route says; doubled with each try, and up to half as long again at random.
fn backoff(base: Duration, tries: u32, random: f64) -> Duration {
    let factor = 1_u32
        .checked_shl(tries.saturating_sub(1))
        .unwrap_or(LONGEST)
        .min(LONGEST);
    base.saturating_mul(factor).mul_f64(1.0 + random.clamp(0.0, 1.0) / 2.0)
}

/// RFC 9110 §9.2.2.
fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}

#[cfg(test)]
mod tests;
