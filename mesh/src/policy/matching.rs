//! Whether AuthorizationPolicy rules match a request (spec §3.3 to §3.10). Three-valued, so that a connection can be
//! judged before its first request: what only the request can say is `Maybe` until it is there. No allocation, and the
//! work is bounded by the size of the rule times the length of what it looks at.

use std::{net::IpAddr, sync::Arc};

use serde_json::{Map, Value};

use super::{
    Action, Attribute, AuthorizationPolicy, Cidr, Condition, Conditions, Http, PathMatch, Principal, Request, Rule,
    RuleRef, TextMatch, TokenIssuer, sketch::Traits,
};

/// Three-valued truth, in ascending order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tri {
    No,
    Maybe,
    Yes,
}

impl Tri {
    #[inline]
    fn not(self) -> Self {
        match self {
            Self::No => Self::Yes,
            Self::Maybe => Self::Maybe,
            Self::Yes => Self::No,
        }
    }
}

impl From<bool> for Tri {
    #[inline]
    fn from(value: bool) -> Self {
        if value { Self::Yes } else { Self::No }
    }
}

/// What is known of the application protocol.
#[derive(Clone, Copy)]
pub(super) enum Layer<'r, 'a> {
    /// Bytes: HTTP attributes do not exist (spec §3.10).
    Bytes,
    /// HTTP, but the request is still to come.
    HttpToCome,
    /// This request.
    Http(&'r Http<'a>),
}

impl<'r, 'a> Layer<'r, 'a> {
    /// Bytes, or the HTTP request that is there.
    pub(super) fn of(request: &'r Request<'a>) -> Self {
        request.http.as_ref().map_or(Self::Bytes, Self::Http)
    }
}

/// A request with what all rules need of it, worked out once.
pub(super) struct Context<'r, 'a> {
    request: &'r Request<'a>,
    principal: Option<&'r Principal<'a>>,
    pub(super) layer: Layer<'r, 'a>,
    issuers: &'r [TokenIssuer],
    traits: Traits,
}

impl<'r, 'a> Context<'r, 'a> {
    pub(super) fn new(request: &'r Request<'a>, layer: Layer<'r, 'a>, issuers: &'r [TokenIssuer]) -> Self {
        Self {
            request,
            principal: request.principal(),
            traits: Traits::of(request, &layer),
            layer,
            issuers,
        }
    }

    /// Bytes, or the HTTP request that is there.
    pub(super) fn of(request: &'r Request<'a>, issuers: &'r [TokenIssuer]) -> Self {
        Self::new(request, Layer::of(request), issuers)
    }
}

/// Whether any of the policies matches, and the first rule that does.
pub(super) fn any_policy(
    policies: &[Arc<AuthorizationPolicy>],
    action: Action,
    context: &Context<'_, '_>,
) -> (Tri, Option<RuleRef>) {
    let mut result = Tri::No;
    for policy in policies {
        let (matched, by) = policy.matches(action, context);
        if matched == Tri::Yes {
            return (Tri::Yes, by);
        }
        result = result.max(matched);
    }
    (result, None)
}

impl AuthorizationPolicy {
    pub(super) fn matches(&self, action: Action, context: &Context<'_, '_>) -> (Tri, Option<RuleRef>) {
        let mut result = Tri::No;
        for (index, rule) in self.rules.iter().enumerate() {
            match rule.matches(action, context) {
                Tri::Yes => {
                    let index = u16::try_from(index).unwrap_or(u16::MAX);
                    return (Tri::Yes, Some(RuleRef::rule(&self.object, index)));
                }
                other => result = result.max(other),
            }
        }
        (result, None)
    }
}

impl Rule {
    #[inline]
    pub(super) fn matches(&self, action: Action, context: &Context<'_, '_>) -> Tri {
        if self.sketch().admits(&context.traits) {
            self.weigh(action, context)
        } else {
            Tri::No
        }
    }

    fn weigh(&self, action: Action, context: &Context<'_, '_>) -> Tri {
        // Spec §3.10.37: on bytes an ALLOW rule with anything HTTP-only is dropped whole.
        if action == Action::Allow && self.is_http_only() && matches!(context.layer, Layer::Bytes) {
            return Tri::No;
        }
        let sources = any_item(self.sources(), action, context);
        if sources == Tri::No {
            return Tri::No;
        }
        let operations = any_item(self.operations(), action, context);
        if operations == Tri::No {
            return Tri::No;
        }
        sources.min(operations).min(all_hold(self.when(), action, context))
    }
}

/// Whether any item of `from` or `to` matches; without items, everything does.
fn any_item(items: &[Conditions], action: Action, context: &Context<'_, '_>) -> Tri {
    let mut result = if items.is_empty() { Tri::Yes } else { Tri::No };
    for item in items {
        result = result.max(all_hold(item, action, context));
        if result == Tri::Yes {
            break;
        }
    }
    result
}

#[inline]
fn all_hold(conditions: &[Condition], action: Action, context: &Context<'_, '_>) -> Tri {
    let mut result = Tri::Yes;
    for condition in conditions {
        result = result.min(condition.holds(action, context));
        if result == Tri::No {
            break;
        }
    }
    result
}

impl Condition {
    #[inline]
    pub(super) fn holds(&self, action: Action, context: &Context<'_, '_>) -> Tri {
        if self.attribute.is_http_only() {
            return match context.layer {
                Layer::HttpToCome => Tri::Maybe,
                // Spec §3.10.38: ignored, that is, treated as matching. (ALLOW rules never get here.)
                Layer::Bytes => Tri::Yes,
                Layer::Http(http) => self.signed(self.attribute.matches_http(http, self.all_values(action), context)),
            };
        }
        match (&self.attribute, context.layer) {
            (Attribute::RemoteIp(_), Layer::HttpToCome) => Tri::Maybe,
            _ => self.signed(self.attribute.matches_connection(context)),
        }
    }

    #[inline]
    fn signed(&self, matches: bool) -> Tri {
        let matches = Tri::from(matches);
        if self.negated { matches.not() } else { matches }
    }

    /// Spec §3.9.33: only a positive ALLOW needs every value of a repeated header to match.
    fn all_values(&self, action: Action) -> bool {
        action == Action::Allow && !self.negated
    }
}

impl Attribute {
    #[inline]
    fn matches_connection(&self, context: &Context<'_, '_>) -> bool {
        let request = context.request;
        let principal = context.principal;
        match self {
            Self::Principal(values) => principal.is_some_and(|one| any_text(values, one.as_str())),
            Self::Namespace(values) => principal
                .and_then(Principal::namespace)
                .is_some_and(|namespace| any_text(values, namespace)),
            Self::TrustDomain(values) => principal.is_some_and(|one| any_text(values, one.trust_domain())),
            Self::ServiceAccount(values) => principal
                .and_then(|one| one.namespace().zip(one.service_account()))
                .is_some_and(|(namespace, account)| {
                    values.iter().any(|(ns, sa)| **sa == *account && **ns == *namespace)
                }),
            Self::SourceIp(blocks) => any_block(blocks, request.source.ip),
            Self::RemoteIp(blocks) => {
                let client = request
                    .http
                    .as_ref()
                    .and_then(|http| http.remote_ip)
                    .unwrap_or(request.source.ip);
                any_block(blocks, client)
            }
            Self::DestinationIp(blocks) => any_block(blocks, request.destination.ip),
            Self::DestinationPort(ports) => ports.contains(&request.destination.port),
            Self::Sni(values) => any_text(values, request.connection.sni.unwrap_or_default()),
            Self::Absent(_) => false,
            Self::RequestPrincipal(_)
            | Self::Method(_)
            | Self::Host(_)
            | Self::Path(_)
            | Self::Header(..)
            | Self::Claim(..) => false,
        }
    }

    fn matches_http(&self, http: &Http<'_>, all_values: bool, context: &Context<'_, '_>) -> bool {
        match self {
            Self::Method(values) => any_text(values, http.method),
            Self::Host(values) => values
                .iter()
                .any(|value| value.matches_ignoring_case(http.authority.as_bytes())),
            Self::Path(values) => http
                .path
                .is_some_and(|path| values.iter().any(|value| value.matches(path))),
            Self::Header(named) => header(http, &named.0, &named.1, all_values),
            Self::RequestPrincipal(values) => {
                let claim = |name| http.claims.and_then(|claims| claims.get(name)).and_then(Value::as_str);
                claim("iss").zip(claim("sub")).is_some_and(|(issuer, subject)| {
                    values.iter().any(|value| {
                        value.issuer.matches(issuer.as_bytes()) && value.subject.matches(subject.as_bytes())
                    })
                })
            }
            Self::Claim(named) => http
                .claims
                .is_some_and(|claims| claim(claims, &named.0, &named.1, context.issuers)),
            _ => false,
        }
    }
}

impl PathMatch {
    #[inline]
    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Text(text) => text.matches(path.as_bytes()),
            Self::Template(template) => template.matches(path),
        }
    }
}

#[inline]
fn any_text(values: &[TextMatch], text: &str) -> bool {
    values.iter().any(|value| value.matches(text.as_bytes()))
}

fn any_block(blocks: &[Cidr], ip: IpAddr) -> bool {
    blocks.iter().any(|block| block.contains(ip))
}

/// Each value of a repeated header is looked at on its own, never joined (spec §3.9.33).
fn header(http: &Http<'_>, name: &str, values: &[TextMatch], all_values: bool) -> bool {
    let one = |value: &[u8]| values.iter().any(|pattern| pattern.matches(value));
    match name {
        ":method" => return one(http.method.as_bytes()),
        ":authority" | "host" => return one(http.authority.as_bytes()),
        ":path" => return http.target.is_some_and(|target| one(target.as_bytes())),
        _ => {}
    }
    let (mut matched, mut missed) = (false, false);
    http.headers.visit(name, &mut |value| {
        if one(value) {
            matched = true;
        } else {
            missed = true;
        }
        // Enough is known: any match where one is enough, any miss where all must match.
        if all_values { !missed } else { !matched }
    });
    matched && !(all_values && missed)
}

/// A claim matches if its text does, or an element of its list (spec §3.9.34).
fn claim(claims: &Map<String, Value>, path: &[Box<str>], values: &[TextMatch], issuers: &[TokenIssuer]) -> bool {
    let Some((first, nested)) = path.split_first() else {
        return false;
    };
    let Some(top) = claims.get(&**first) else { return false };
    let found = nested.iter().try_fold(top, |value, key| value.as_object()?.get(&**key));
    match found {
        Some(Value::String(text)) if nested.is_empty() && is_space_delimited(first, claims, issuers) => {
            text.split(' ').any(|part| any_text(values, part))
        }
        Some(Value::String(text)) => any_text(values, text),
        Some(Value::Array(elements)) => elements
            .iter()
            .filter_map(Value::as_str)
            .any(|text| any_text(values, text)),
        _ => false,
    }
}

fn is_space_delimited(claim: &str, claims: &Map<String, Value>, issuers: &[TokenIssuer]) -> bool {
    if claim == "scope" || claim == "permission" {
        return true;
    }
    let issuer = claims.get("iss").and_then(Value::as_str).unwrap_or_default();
    issuers
        .iter()
        .filter(|known| &*known.issuer == issuer)
        .any(|known| known.space_delimited.iter().any(|listed| &**listed == claim))
}
