//! `squire.v1.Traffic` to and from its domain types. Whatever is not exactly understood is an error here: a proxy refuses
//! such a message and keeps what it had.

use std::{sync::Arc, time::Duration};

use super::{
    Backend, BadPattern, FieldMatch, Filters, HeaderEdits, Match, PathChange, PathMatch, Pattern, Redirect, Retry,
    Rewrite, Route, RouteKind, Rule, Scheme, ServiceRoutes, TextRule, Timeouts, Traffic, TrafficSettings, filter,
};
use crate::{
    wire::squire as wire,
    workload::{NameError, ServiceName},
};

/// Why a message says nothing about traffic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrafficError {
    /// A Service name that does not parse.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A regular expression.
    #[error(transparent)]
    Pattern(#[from] BadPattern),
    /// Not a field name.
    #[error("{0:?} is not the name of a header field")]
    HeaderName(String),
    /// A field that routes may not touch.
    #[error("the header field {0:?} belongs to the sidecar or to the framing of messages: a route cannot change it")]
    HeaderProtected(String),
    /// A value that would end its line.
    #[error("the value for the header field {0:?} holds control characters")]
    HeaderValue(String),
    /// A port outside 1..=65535.
    #[error("port {0} is not within 1..=65535")]
    Port(u32),
    /// A number out of its range.
    #[error("{field} cannot be {value}")]
    Range {
        /// The field.
        field: &'static str,
        /// The number in it.
        value: u64,
    },
    /// An empty or unknown alternative.
    #[error("unknown {0}; is the control plane newer than this proxy?")]
    Unknown(&'static str),
}

type Checked<T> = Result<T, TrafficError>;

impl Traffic {
    /// From the wire; `namespace` is the Service's.
    ///
    /// # Errors
    /// When any part is not exactly understood.
    pub fn from_wire(message: wire::Traffic, namespace: &str) -> Checked<Self> {
        let routes = message.routes.into_iter().map(route).collect::<Checked<Vec<_>>>()?;
        Ok(Self {
            settings: message.settings.map_or(Ok(TrafficSettings::default()), settings)?,
            routes: ServiceRoutes::new(namespace, routes),
        })
    }
}

fn settings(message: wire::TrafficSettings) -> Checked<TrafficSettings> {
    let default = TrafficSettings::default();
    let percent = |field, value: Option<u32>, default| match value.map(u8::try_from) {
        None => Ok(default),
        Some(Ok(value @ 0..=100)) => Ok(value),
        Some(_) => Err(range(field, value.unwrap_or_default())),
    };
    let positive = |field, value: Option<u32>, default| match value {
        Some(0) => Err(range(field, 0_u32)),
        other => Ok(other.unwrap_or(default)),
    };
    let endpoint = message.max_active_per_endpoint;
    Ok(TrafficSettings {
        max_active: positive("max_active", message.max_active, default.max_active)?,
        max_pending: positive("max_pending", message.max_pending, default.max_pending)?,
        max_active_per_endpoint: positive("max_active_per_endpoint", endpoint, default.max_active_per_endpoint)?,
        eject_after: message.eject_after.unwrap_or(default.eject_after),
        eject_for: message.eject_for_ms.map_or(default.eject_for, Duration::from_millis),
        eject_share: percent("eject_share", message.eject_share, default.eject_share)?,
        prefer_zone: !message.ignore_zones.unwrap_or(!default.prefer_zone),
        connect_timeout: message.connect_timeout_ms.map(Duration::from_millis),
        retry_percent: percent("retry_percent", message.retry_percent, default.retry_percent)?,
        retry_min_per_second: message.retry_min_per_second.unwrap_or(default.retry_min_per_second),
    })
}

fn route(message: wire::Route) -> Checked<Route> {
    let kind = match wire::RouteKind::try_from(message.kind) {
        Ok(wire::RouteKind::Http) => RouteKind::Http,
        Ok(wire::RouteKind::Grpc) => RouteKind::Grpc,
        Ok(wire::RouteKind::Unspecified) | Err(_) => return Err(TrafficError::Unknown("kind of route")),
    };
    let label: Arc<str> = format!("{kind} {}/{}", message.namespace, message.name).into();
    let rules = message.rules.into_iter().map(|each| rule(&label, each).map(Arc::new));
    Ok(Route {
        kind,
        created: message.created,
        port: (message.port != 0).then(|| port(message.port)).transpose()?,
        rules: rules.collect::<Checked<_>>()?,
        namespace: message.namespace.into(),
        name: message.name.into(),
    })
}

fn rule(route: &Arc<str>, message: wire::RouteRule) -> Checked<Rule> {
    let mut matches = all(message.matches, a_match)?;
    if matches.is_empty() {
        matches = [Match::default()].into();
    }
    Ok(Rule {
        route: Arc::clone(route),
        matches,
        filters: message.filters.map_or(Ok(Filters::default()), filters)?,
        backends: all(message.backends, backend)?,
        timeouts: Timeouts {
            request: time(message.request_timeout_ms),
            backend_request: time(message.backend_timeout_ms),
        },
        retry: message.retry.map(retry).transpose()?,
        refused: optional(message.refused),
    })
}

fn a_match(message: wire::RouteMatch) -> Checked<Match> {
    use wire::route_match::Path;
    let path = match message.path {
        Some(Path::Exact(exact)) => PathMatch::Exact(exact.into()),
        Some(Path::Prefix(prefix)) => PathMatch::Prefix(prefix.into()),
        Some(Path::Pattern(pattern)) => PathMatch::Pattern(Pattern::new(&pattern)?),
        Some(Path::Grpc(grpc)) => PathMatch::Grpc {
            service: grpc.service.map(text_rule).transpose()?,
            method: grpc.method.map(text_rule).transpose()?,
        },
        None => return Err(TrafficError::Unknown("kind of path match")),
    };
    Ok(Match {
        path,
        method: optional(message.method),
        headers: all(message.headers, field_match)?,
        query: all(message.query, field_match)?,
    })
}

fn field_match(message: wire::FieldMatch) -> Checked<FieldMatch> {
    Ok(FieldMatch {
        name: message.name.into(),
        value: text_rule(message.value.unwrap_or_default())?,
    })
}

fn text_rule(message: wire::TextRule) -> Checked<TextRule> {
    use wire::text_rule::Rule;
    match message.rule {
        Some(Rule::Exact(exact)) => Ok(TextRule::Exact(exact.into())),
        Some(Rule::Pattern(pattern)) => Ok(TextRule::Pattern(Pattern::new(&pattern)?)),
        None => Err(TrafficError::Unknown("kind of text match")),
    }
}

fn filters(message: wire::RouteFilters) -> Checked<Filters> {
    Ok(Filters {
        request: message.request.map_or(Ok(HeaderEdits::default()), header_edits)?,
        response: message.response.map_or(Ok(HeaderEdits::default()), header_edits)?,
        redirect: message.redirect.map(redirect).transpose()?,
        rewrite: message.rewrite.map(rewrite).transpose()?,
    })
}

fn header_edits(message: wire::HeaderEdits) -> Checked<HeaderEdits> {
    HeaderEdits::new(
        message.set.iter().map(|field| (&*field.name, &*field.value)),
        message.add.iter().map(|field| (&*field.name, &*field.value)),
        message.remove.iter().map(|name| &**name),
    )
}

impl HeaderEdits {
    /// Changes to header fields.
    ///
    /// # Errors
    /// When a name or value is none, or no route may change it.
    pub fn new<'a>(
        set: impl IntoIterator<Item = (&'a str, &'a str)>,
        add: impl IntoIterator<Item = (&'a str, &'a str)>,
        remove: impl IntoIterator<Item = &'a str>,
    ) -> Checked<Self> {
        let field = |(name, value): (&str, &str)| Ok((filter::editable(name)?, filter::value(name, value)?));
        Ok(Self {
            set: set.into_iter().map(field).collect::<Checked<_>>()?,
            add: add.into_iter().map(field).collect::<Checked<_>>()?,
            remove: remove.into_iter().map(filter::editable).collect::<Checked<_>>()?,
        })
    }
}

fn redirect(message: wire::RouteRedirect) -> Checked<Redirect> {
    let status = u16::try_from(message.status).ok();
    Ok(Redirect {
        scheme: match message.scheme.as_str() {
            "" => None,
            "http" => Some(Scheme::Http),
            "https" => Some(Scheme::Https),
            _ => return Err(TrafficError::Unknown("scheme of a redirect")),
        },
        host: optional(message.host),
        port: (message.port != 0).then(|| port(message.port)).transpose()?,
        path: message.path.map(path_change),
        status: status
            .filter(|status| [301, 302, 303, 307, 308].contains(status))
            .ok_or_else(|| range("status of a redirect", message.status))?,
    })
}

fn rewrite(message: wire::RouteRewrite) -> Checked<Rewrite> {
    Ok(Rewrite {
        host: optional(message.host),
        path: message.path.map(path_change),
    })
}

fn path_change(message: wire::PathChange) -> PathChange {
    let replacement = message.replacement.into();
    match message.prefix {
        Some(prefix) => PathChange::Prefix {
            matched: prefix.into(),
            replacement,
        },
        None => PathChange::Full(replacement),
    }
}

fn backend(message: wire::RouteBackend) -> Checked<Backend> {
    let service: ServiceName = message.service.parse()?;
    Ok(Backend {
        service,
        port: port(message.port)?,
        weight: message.weight,
        filters: message.filters.map_or(Ok(Filters::default()), filters)?,
        refused: optional(message.refused),
    })
}

fn retry(message: wire::RouteRetry) -> Checked<Retry> {
    let code = |code: u32| {
        let known = u16::try_from(code).ok().filter(|code| (400..600).contains(code));
        known.ok_or_else(|| range("a status code to retry", code))
    };
    Ok(Retry {
        codes: all(message.codes, code)?,
        attempts: message.attempts,
        backoff: Duration::from_millis(message.backoff_ms),
    })
}

fn all<M, D>(messages: Vec<M>, one: impl Fn(M) -> Checked<D>) -> Checked<Box<[D]>> {
    messages.into_iter().map(one).collect()
}

fn optional(text: String) -> Option<Box<str>> {
    (!text.is_empty()).then(|| text.into())
}

fn time(milliseconds: u64) -> Option<Duration> {
    (milliseconds != 0).then(|| Duration::from_millis(milliseconds))
}

fn port(number: u32) -> Checked<u16> {
    let port = u16::try_from(number).ok().filter(|port| *port != 0);
    port.ok_or(TrafficError::Port(number))
}

fn range(field: &'static str, value: impl Into<u64>) -> TrafficError {
    TrafficError::Range {
        field,
        value: value.into(),
    }
}

impl From<&Traffic> for wire::Traffic {
    fn from(traffic: &Traffic) -> Self {
        Self {
            settings: Some((&traffic.settings).into()),
            routes: traffic.routes.routes().iter().map(wire::Route::from).collect(),
        }
    }
}

impl From<&TrafficSettings> for wire::TrafficSettings {
    fn from(settings: &TrafficSettings) -> Self {
        Self {
            max_active: Some(settings.max_active),
            max_pending: Some(settings.max_pending),
            max_active_per_endpoint: Some(settings.max_active_per_endpoint),
            eject_after: Some(settings.eject_after),
            eject_for_ms: Some(milliseconds(settings.eject_for)),
            eject_share: Some(settings.eject_share.into()),
            ignore_zones: Some(!settings.prefer_zone),
            connect_timeout_ms: settings.connect_timeout.map(milliseconds),
            retry_percent: Some(settings.retry_percent.into()),
            retry_min_per_second: Some(settings.retry_min_per_second),
        }
    }
}

impl From<&Route> for wire::Route {
    fn from(route: &Route) -> Self {
        Self {
            kind: match route.kind {
                RouteKind::Http => wire::RouteKind::Http,
                RouteKind::Grpc => wire::RouteKind::Grpc,
            }
            .into(),
            namespace: route.namespace.to_string(),
            name: route.name.to_string(),
            created: route.created,
            port: route.port.map_or(0, u32::from),
            rules: route.rules.iter().map(|rule| (&**rule).into()).collect(),
        }
    }
}

impl From<&Rule> for wire::RouteRule {
    fn from(rule: &Rule) -> Self {
        Self {
            matches: rule.matches.iter().map(wire::RouteMatch::from).collect(),
            filters: (!rule.filters.is_empty()).then(|| (&rule.filters).into()),
            backends: rule.backends.iter().map(wire::RouteBackend::from).collect(),
            request_timeout_ms: rule.timeouts.request.map_or(0, milliseconds),
            backend_timeout_ms: rule.timeouts.backend_request.map_or(0, milliseconds),
            retry: rule.retry.as_ref().map(|retry| wire::RouteRetry {
                codes: retry.codes.iter().map(|code| u32::from(*code)).collect(),
                attempts: retry.attempts,
                backoff_ms: milliseconds(retry.backoff),
            }),
            refused: text(rule.refused.as_deref()),
        }
    }
}

impl From<&Match> for wire::RouteMatch {
    fn from(each: &Match) -> Self {
        use wire::route_match::Path;
        let path = match &each.path {
            PathMatch::Exact(exact) => Path::Exact(exact.to_string()),
            PathMatch::Prefix(prefix) => Path::Prefix(prefix.to_string()),
            PathMatch::Pattern(pattern) => Path::Pattern(pattern.as_str().to_owned()),
            PathMatch::Grpc { service, method } => Path::Grpc(wire::GrpcMatch {
                service: service.as_ref().map(wire::TextRule::from),
                method: method.as_ref().map(wire::TextRule::from),
            }),
        };
        Self {
            path: Some(path),
            method: text(each.method.as_deref()),
            headers: each.headers.iter().map(wire::FieldMatch::from).collect(),
            query: each.query.iter().map(wire::FieldMatch::from).collect(),
        }
    }
}

impl From<&FieldMatch> for wire::FieldMatch {
    fn from(field: &FieldMatch) -> Self {
        Self {
            name: field.name.to_string(),
            value: Some((&field.value).into()),
        }
    }
}

impl From<&TextRule> for wire::TextRule {
    fn from(rule: &TextRule) -> Self {
        use wire::text_rule::Rule;
        Self {
            rule: Some(match rule {
                TextRule::Exact(exact) => Rule::Exact(exact.to_string()),
                TextRule::Pattern(pattern) => Rule::Pattern(pattern.as_str().to_owned()),
            }),
        }
    }
}

impl From<&Filters> for wire::RouteFilters {
    fn from(filters: &Filters) -> Self {
        let edits = |edits: &HeaderEdits| (!edits.is_empty()).then(|| edits.into());
        Self {
            request: edits(&filters.request),
            response: edits(&filters.response),
            redirect: filters.redirect.as_ref().map(|redirect| wire::RouteRedirect {
                scheme: redirect.scheme.map_or("", Scheme::as_str).to_owned(),
                host: text(redirect.host.as_deref()),
                port: redirect.port.map_or(0, u32::from),
                path: redirect.path.as_ref().map(wire::PathChange::from),
                status: redirect.status.into(),
            }),
            rewrite: filters.rewrite.as_ref().map(|rewrite| wire::RouteRewrite {
                host: text(rewrite.host.as_deref()),
                path: rewrite.path.as_ref().map(wire::PathChange::from),
            }),
        }
    }
}

impl From<&HeaderEdits> for wire::HeaderEdits {
    fn from(edits: &HeaderEdits) -> Self {
        let field = |(name, value): &(Box<str>, Box<str>)| wire::HeaderField {
            name: name.to_string(),
            value: value.to_string(),
        };
        Self {
            set: edits.set.iter().map(field).collect(),
            add: edits.add.iter().map(field).collect(),
            remove: edits.remove.iter().map(ToString::to_string).collect(),
        }
    }
}

impl From<&PathChange> for wire::PathChange {
    fn from(change: &PathChange) -> Self {
        match change {
            PathChange::Full(full) => Self {
                prefix: None,
                replacement: full.to_string(),
            },
            PathChange::Prefix { matched, replacement } => Self {
                prefix: Some(matched.to_string()),
                replacement: replacement.to_string(),
            },
        }
    }
}

impl From<&Backend> for wire::RouteBackend {
    fn from(backend: &Backend) -> Self {
        Self {
            service: backend.service.to_string(),
            port: backend.port.into(),
            weight: backend.weight,
            filters: (!backend.filters.is_empty()).then(|| (&backend.filters).into()),
            refused: text(backend.refused.as_deref()),
        }
    }
}

fn text(text: Option<&str>) -> String {
    text.unwrap_or_default().to_owned()
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
