//! How requests to a Service are spread, as users write it: Gateway API routes attached to the Service (GAMMA, GEP-1294)
//! and the annotations for what the Gateway API leaves open. Pure types and matching; nothing here balances, waits,
//! retries or knows a socket.
//!
//! - [`ServiceRoutes::select`] finds the rule of a request, by the precedence the Gateway API documents.
//! - A rule or a backend that could not be understood is `refused`: what it matches is answered with an error, never
//!   passed on as if it were not there.

mod filter;
mod matching;
mod pattern;
mod routes;
mod settings;
mod wire;

use std::{fmt, sync::Arc, time::Duration};

pub use filter::{Filters, HeaderEdits, PathChange, Redirect, Rewrite, Scheme};
pub use matching::{FieldMatch, Head, Match, PathMatch, TextRule};
pub use pattern::{BadPattern, Pattern};
pub use routes::{Selected, ServiceRoutes};
pub use settings::{BadSetting, TrafficSettings};
pub use wire::TrafficError;

use crate::workload::ServiceName;

/// Everything about the traffic of one Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Traffic {
    /// What its annotations say.
    pub settings: TrafficSettings,
    /// The routes attached to it.
    pub routes: ServiceRoutes,
}

impl Traffic {
    /// Whether it says nothing that the default does not say.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.routes.is_empty() && self.settings == TrafficSettings::default()
    }
}

/// Which kind of object a route is. Where both are attached to a port of a Service, GRPCRoutes alone count (GEP-1294).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteKind {
    /// `HTTPRoute`.
    Http,
    /// `GRPCRoute`.
    Grpc,
}

impl RouteKind {
    /// The kind as objects spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
        }
    }
}

impl fmt::Display for RouteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One route, as it is attached to one port of a Service or to all of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Its kind.
    pub kind: RouteKind,
    /// Its namespace. In another namespace than the Service's it holds for the clients of its own namespace only.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// When it was created, in seconds since the epoch; of two equal matches the older one counts, an unknown age last.
    pub created: Option<i64>,
    /// The port of the Service; none: every port.
    pub port: Option<u16>,
    /// Its rules, in order.
    pub rules: Box<[Arc<Rule>]>,
}

/// One rule of a route.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// `HTTPRoute namespace/name`, for metrics and logs.
    pub route: Arc<str>,
    /// What it applies to; any of them.
    pub matches: Box<[Match]>,
    /// What it changes.
    pub filters: Filters,
    /// Where it leads.
    pub backends: Box<[Backend]>,
    /// How long it may take.
    pub timeouts: Timeouts,
    /// What is tried again; none: only what is safe by itself.
    pub retry: Option<Retry>,
    /// Why it could not be understood: what it matches is answered with 500.
    pub refused: Option<Box<str>>,
}

/// One of the places a rule leads to.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// The Service.
    pub service: ServiceName,
    /// Its port.
    pub port: u16,
    /// Its share, relative to the others'; 0: none.
    pub weight: u32,
    /// What is changed on the way there, after the rule's own filters.
    pub filters: Filters,
    /// Why nothing may be sent there: its share is answered with 500.
    pub refused: Option<Box<str>>,
}

/// Deadlines of a rule (GEP-1742).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request to the end of the response, with all tries.
    pub request: Option<Duration>,
    /// One try.
    pub backend_request: Option<Duration>,
}

/// What is tried again (GEP-1731).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Status codes that are worth another try.
    pub codes: Box<[u16]>,
    /// How often, beyond the first try.
    pub attempts: u32,
    /// The shortest wait before another try.
    pub backoff: Duration,
}

impl Retry {
    /// Tries beyond the first, where a route does not say.
    pub const ATTEMPTS: u32 = 2;
    /// The wait before another try, where a route does not say.
    pub const BACKOFF: Duration = Duration::from_millis(25);
}

/// A time as the Gateway API writes it (GEP-2257): up to four of `<number><h|m|s|ms>`.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut total, mut parts) = (text, Duration::ZERO, 0);
    while !rest.is_empty() {
        parts += 1;
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if parts > 4 || !(1..=5).contains(&digits) {
            return None;
        }
        let (number, after) = rest.split_at(digits);
        let number: u64 = number.parse().ok()?;
        let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
        let (unit, milliseconds) = units.into_iter().find(|(unit, _)| after.starts_with(unit))?;
        total += Duration::from_millis(number * milliseconds);
        rest = &after[unit.len()..];
    }
    (parts > 0).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_the_gateway_api_writes_them() {
        for (text, milliseconds) in [
            ("0s", 0),
            ("500ms", 500),
            ("1m30s", 90_000),
            ("1h", 3_600_000),
            ("1s2ms", 1_002),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for bad in ["", "10", "s", "1.5s", "-1s", "123456s", "1s1s1s1s1s", "1us", "1 s"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
