//! From the wire. Whatever is not exactly understood is an error.

use std::{sync::Arc, time::Duration};

use super::{
    super::{
        Backend, FieldMatch, Filters, HeaderEdits, Match, PathChange, PathMatch, Pattern, Redirect, Retry, Rewrite,
        Route, RouteKind, Rule, Scheme, ServiceRoutes, TextRule, Timeouts, Traffic, TrafficSettings,
    },
    Checked, TrafficError,
};
use crate::{wire::squire as wire, workload::ServiceName};

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
