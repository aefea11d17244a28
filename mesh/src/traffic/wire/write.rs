//! To the wire.

use super::super::{
    Backend, FieldMatch, Filters, HeaderEdits, Match, PathChange, PathMatch, Route, RouteKind, Rule, Scheme, TextRule,
    Traffic, TrafficSettings,
};
use crate::wire::{milliseconds, squire as wire};

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
