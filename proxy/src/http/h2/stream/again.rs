//! Whether a request whose try failed is made again, and in what time. The route and its budget have the say; what a
//! server has not looked at costs nobody anything.

use std::time::Duration;

use super::{Problem, Stream};
use crate::{
    http::h2::{grpc, relay::Relay},
    traffic::{self as retry, Attempt},
};

impl Stream<'_> {
    /// After what wait the request may be tried again, if it may. Its body is whole.
    pub(super) fn retry(&self, problem: &Problem) -> Option<Duration> {
        let failed = match problem {
            Problem::Unreachable(_) => retry::Failed::Unconnected,
            Problem::Refused(_) => retry::Failed::Refused,
            Problem::Late => retry::Failed::TimedOut,
            Problem::Held(wait) => return Some(*wait),
        };
        let exchange = self.exchange.as_ref()?;
        if matches!(problem, Problem::Unreachable(_)) && self.tried.len() >= usize::from(self.limits.attempts) {
            return None;
        }
        let by_route = self.retry_by_route(failed);
        // A stream that a server has not looked at costs nobody anything: a connection that goes away loses no request.
        let unread = matches!(problem, Problem::Refused(_)) && exchange.attempts < self.limits.attempts;
        by_route.or_else(|| unread.then_some(Duration::ZERO))
    }

    /// The same as far as the route has a say in it; a yes counts against its budget.
    fn retry_by_route(&self, failed: retry::Failed) -> Option<Duration> {
        // What could not be reached was a try too, though nothing was sent.
        let sent = usize::from(self.exchange.as_ref()?.attempts);
        let tries = sent.max(self.tried.len()).max(1);
        let attempt = Attempt {
            method: self.head.view().method,
            tries: u32::try_from(tries).unwrap_or(u32::MAX),
            failed,
            body: retry::Body::Whole,
            responded: false,
            left: self.left(),
        };
        self.course.as_ref()?.retry(&attempt)
    }

    /// Whether the response that has arrived is to be held back, and the request made again after so long.
    pub(super) fn holds(&self, relay: &Relay) -> Option<Duration> {
        let wanted = self.course.as_ref()?.wants(relay.status);
        let again = wanted && relay.is_untouched() && !self.head.is_extended_connect();
        again.then(|| self.retry_by_route(retry::Failed::Status(relay.status)))?
    }

    /// What is left of the request's time.
    pub(super) fn left(&self) -> Option<Duration> {
        let limit = self.limit()?;
        let exchange = self.exchange.as_ref()?;
        Some(limit.saturating_sub(exchange.started.elapsed()))
    }

    /// The route's limit, or the client's if that is shorter; none: the route sets none.
    pub(super) fn limit(&self) -> Option<Duration> {
        let limit = self.course.as_ref()?.timeout()?;
        Some(self.asked().map_or(limit, |asked| asked.min(limit)))
    }

    /// The deadline that a gRPC client asks for.
    pub(super) fn asked(&self) -> Option<Duration> {
        self.head
            .field("grpc-timeout")
            .filter(|_| self.grpc)
            .and_then(grpc::timeout)
    }
}
