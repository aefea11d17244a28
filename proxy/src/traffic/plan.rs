//! What becomes of a request: the rule it falls under, the backend that is drawn, what is changed on the way, how long it
//! may take. Pure: the random number is handed in, and no endpoint is chosen here.

use std::{sync::Arc, time::Duration};

use squire_mesh::{
    traffic::{Backend, Filters, Head, HeaderEdits, Redirect, Rule, Scheme, Selected},
    workload::{Service, ServiceName},
};

use super::RetryPolicy;
use crate::{
    http::{Edits, LocalReply, RequestView},
    state::Snapshot,
};

/// What becomes of a request.
#[derive(Debug)]
pub(crate) enum Plan {
    /// It goes to an endpoint.
    Forward(Forward),
    /// We answer it: a redirect, or an error that the route asks for.
    Reply {
        /// The answer.
        reply: LocalReply,
        /// Why, for the access log: a closed set.
        why: &'static str,
        /// The route, as `HTTPRoute namespace/name`.
        route: Option<Arc<str>>,
    },
}

/// Where a request goes, and how.
#[derive(Debug)]
pub(crate) struct Forward {
    /// The service whose endpoints may take it; for [`super::Traffic::pick`].
    pub(crate) service: ServiceName,
    /// The port of that service.
    pub(crate) port: u16,
    /// Changes to the request. A field named `host` that is set is meant for the authority: `Host` in HTTP/1.1,
    /// `:authority` in HTTP/2.
    pub(crate) edits: Edits,
    /// Changes to the response's header fields (never a target).
    pub(crate) response_edits: Edits,
    /// For everything, from the request to the end of the response; answer 504 after it.
    pub(crate) request_timeout: Option<Duration>,
    /// For one try.
    pub(crate) try_timeout: Option<Duration>,
    /// For connecting; none: the dialer's own.
    pub(crate) connect_timeout: Option<Duration>,
    /// What may be tried again.
    pub(crate) retry: RetryPolicy,
    /// The route, as `HTTPRoute namespace/name`; none: the service has none.
    pub(crate) route: Option<Arc<str>>,
}

/// See [`super::Traffic::plan`]; `point` is random.
pub(super) fn plan(snapshot: &Snapshot, service: &Service, port: u16, request: &RequestView<'_>, point: u64) -> Plan {
    let Some(traffic) = &service.traffic else {
        return Plan::Forward(Forward::to(service.name.clone(), port));
    };
    let client = snapshot.me.as_ref().map(|me| &*me.namespace);
    let head = head(request);
    let rule = match traffic.routes.select(client, port, &head) {
        Selected::Unrouted => {
            let mut forward = Forward::to(service.name.clone(), port);
            forward.connect_timeout = traffic.settings.connect_timeout;
            return Plan::Forward(forward);
        }
        Selected::Nothing => return error(request, 404, "no route matches", "no_route_matches", None),
        Selected::Rule(rule) => rule,
    };
    let failed = |why| error(request, 500, "the route has no usable backend", why, Some(rule));
    if rule.refused.is_some() {
        return failed("route_refused");
    }
    if let Some(redirect) = &rule.filters.redirect {
        return redirected(redirect, request, port, rule);
    }
    let Some(backend) = draw(&rule.backends, point) else {
        return failed("no_backend");
    };
    if backend.refused.is_some() {
        return failed("backend_refused");
    }
    let Some(target) = snapshot.service(backend.service.as_str()) else {
        return failed("backend_unknown");
    };
    if target.port(backend.port).is_none() {
        return failed("backend_unknown");
    }
    if let Some(redirect) = &backend.filters.redirect {
        return redirected(redirect, request, port, rule);
    }
    let settings = target.traffic.as_ref().map(|traffic| traffic.settings);
    Plan::Forward(Forward {
        service: target.name.clone(),
        port: backend.port,
        edits: edits(&rule.filters, request).then(edits(&backend.filters, request)),
        response_edits: fields(&rule.filters.response).then(fields(&backend.filters.response)),
        request_timeout: rule.timeouts.request,
        try_timeout: rule.timeouts.backend_request,
        connect_timeout: settings.and_then(|settings| settings.connect_timeout),
        retry: RetryPolicy::of(rule),
        route: Some(Arc::clone(&rule.route)),
    })
}

impl Forward {
    /// To a service's own endpoints, with nothing changed.
    fn to(service: ServiceName, port: u16) -> Self {
        Self {
            service,
            port,
            edits: Edits::default(),
            response_edits: Edits::default(),
            request_timeout: None,
            try_timeout: None,
            connect_timeout: None,
            retry: RetryPolicy::default(),
            route: None,
        }
    }
}

fn head<'a>(request: &RequestView<'a>) -> Head<'a> {
    let policy = request
        .target
        .map(|target| target.split_once('?').unwrap_or((target, "")));
    Head {
        method: request.method,
        path: policy.map(|(path, _)| path),
        query: policy.map(|(_, query)| query),
        authority: request.authority,
        headers: request.fields,
    }
}

/// The backend at a random point of the weights; none where all of them are 0.
fn draw(backends: &[Backend], point: u64) -> Option<&Backend> {
    let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    let mut left = point.checked_rem(total)?;
    backends.iter().find(|backend| {
        let weight = u64::from(backend.weight);
        let drawn = left < weight;
        left = left.saturating_sub(weight);
        drawn
    })
}

fn edits(filters: &Filters, request: &RequestView<'_>) -> Edits {
    let mut edits = fields(&filters.request);
    if let Some(rewrite) = &filters.rewrite {
        if let Some(host) = &rewrite.host {
            edits.set.push(("host".into(), host.as_bytes().into()));
        }
        edits.target = rewrite
            .path
            .as_ref()
            .zip(request.target)
            .map(|(change, target)| change.apply(target).into());
    }
    edits
}

fn fields(edits: &HeaderEdits) -> Edits {
    let field = |(name, value): &(Box<str>, Box<str>)| (name.clone(), value.as_bytes().into());
    Edits {
        remove: edits.remove.to_vec(),
        set: edits.set.iter().map(field).collect(),
        add: edits.add.iter().map(field).collect(),
        target: None,
    }
}

fn redirected(redirect: &Redirect, request: &RequestView<'_>, port: u16, rule: &Arc<Rule>) -> Plan {
    // What an application sends to its sidecar is plain HTTP.
    let target = request.target.unwrap_or("/");
    let location = redirect.location(Scheme::Http, request.authority, port, target);
    Plan::Reply {
        reply: LocalReply {
            status: redirect.status,
            fields: vec![("location".into(), location.into_bytes().into())],
            body: Box::default(),
        },
        why: "redirect",
        route: Some(Arc::clone(&rule.route)),
    }
}

/// An error of ours. Where the standard asks for 500 a gRPC client is to get UNAVAILABLE, which goes with 503.
fn error(request: &RequestView<'_>, status: u16, body: &str, why: &'static str, rule: Option<&Arc<Rule>>) -> Plan {
    let status = if status == 500 && request.is_grpc() {
        503
    } else {
        status
    };
    Plan::Reply {
        reply: LocalReply::text(status, body),
        why,
        route: rule.map(|rule| Arc::clone(&rule.route)),
    }
}

#[cfg(test)]
mod tests;
