//! The decision: gates in their order, each of which must pass (spec §0). NetworkPolicy egress at the source, ingress at
//! the destination, PeerAuthentication, AuthorizationPolicy (CUSTOM, DENY, ALLOW). Pure, total, without allocation.

use std::sync::Arc;

use super::{
    Action, Answer, CustomPolicy, Decision, MtlsMode, NetworkGate, Provider, ProviderKind, Request, RuleRef, Shadow,
    Table, Why,
    matching::{Context, Layer, Tri, any_policy},
    network::{Far, Port, allowing},
};

/// What each gate says on its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gates {
    /// NetworkPolicy at the source.
    pub egress: Decision,
    /// NetworkPolicy at the destination.
    pub ingress: Decision,
    /// PeerAuthentication at the destination.
    pub peer_authentication: Decision,
    /// AuthorizationPolicy at the destination.
    pub authorization: Decision,
}

impl Gates {
    /// The verdict of all gates together: the first that denies, else the most specific that names a rule.
    #[must_use]
    pub fn into_decision(self) -> Decision {
        let gates = [self.egress, self.ingress, self.peer_authentication, self.authorization];
        if let Some(denied) = gates.iter().find(|decision| !decision.is_allowed()) {
            return denied.clone();
        }
        let [egress, ingress, transport, authorization] = gates;
        prefer(authorization, prefer(prefer(ingress, egress), transport))
    }
}

/// What can be said of a connection that carries HTTP before its first request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OnConnection {
    /// The same for every request there can be.
    Decided(Decision),
    /// It depends on the request.
    PerRequest,
}

/// Decides at both ends: the source's table (none: it is not a workload) and the destination's.
#[must_use]
pub fn decide(source: Option<&Table>, destination: Option<&Table>, request: &Request<'_>) -> Decision {
    let out = source.map(|table| decide_outbound(table, request));
    if let Some(denied) = out.as_ref().filter(|decision| !decision.is_allowed()) {
        return denied.clone();
    }
    let inbound = destination.map(|table| decide_inbound(table, request));
    match (out, inbound) {
        (Some(out), Some(inbound)) => prefer(inbound, out),
        (one, other) => other.or(one).unwrap_or_else(unrestricted),
    }
}

/// Decides at the source: may the workload open this connection? (`request.destination` is the far end.)
#[must_use]
pub fn decide_outbound(table: &Table, request: &Request<'_>) -> Decision {
    egress(table, request)
}

/// Decides at the destination, for a connection of bytes (`http: None`) or for one HTTP request.
#[must_use]
pub fn decide_inbound(table: &Table, request: &Request<'_>) -> Decision {
    let network = ingress(table, request);
    if !network.is_allowed() {
        return network;
    }
    let transport = peer_authentication(table, request);
    if !transport.is_allowed() {
        return transport;
    }
    prefer(authorize(table, request), prefer(network, transport))
}

/// Decides at the destination for a connection that carries HTTP, before any request: what holds for every request.
#[must_use]
pub fn decide_connection(table: &Table, request: &Request<'_>) -> OnConnection {
    let network = ingress(table, request);
    if !network.is_allowed() {
        return OnConnection::Decided(network);
    }
    let transport = peer_authentication(table, request);
    if !transport.is_allowed() {
        return OnConnection::Decided(transport);
    }
    match authorize_in(table, request, Layer::HttpToCome) {
        OnConnection::Decided(decision) => OnConnection::Decided(prefer(decision, prefer(network, transport))),
        OnConnection::PerRequest => OnConnection::PerRequest,
    }
}

/// Every gate on its own, for explanations; [`decide`] stops at the first that denies.
#[must_use]
pub fn gates(source: Option<&Table>, destination: Option<&Table>, request: &Request<'_>) -> Gates {
    let at = |table: Option<&Table>, gate: fn(&Table, &Request<'_>) -> Decision| {
        table.map_or_else(unrestricted, |table| gate(table, request))
    };
    Gates {
        egress: at(source, egress),
        ingress: at(destination, ingress),
        peer_authentication: at(destination, peer_authentication),
        authorization: at(destination, authorize),
    }
}

fn unrestricted() -> Decision {
    Decision::allow(Why::Unrestricted, None)
}

/// Of two decisions that both have to pass, the first that denies, else the first that names a rule.
fn prefer(first: Decision, second: Decision) -> Decision {
    if !first.is_allowed() || first.by.is_some() || second.by.is_none() {
        return first;
    }
    Decision {
        audited: first.audited,
        shadow: first.shadow,
        ..second
    }
}

/// NetworkPolicy at the source (spec §1).
#[must_use]
pub fn egress(table: &Table, request: &Request<'_>) -> Decision {
    let far = Far {
        ip: request.destination.ip,
        workload: request.destination.workload,
    };
    network_gate(&table.egress, far, request, Why::EgressAllowed, Why::EgressNotAllowed)
}

/// NetworkPolicy at the destination (spec §1), with the binding of address and identity (spec §1.6.21).
#[must_use]
pub fn ingress(table: &Table, request: &Request<'_>) -> Decision {
    let far = Far {
        ip: request.source.ip,
        workload: request.source.workload,
    };
    let decision = network_gate(
        &table.ingress,
        far,
        request,
        Why::IngressAllowed,
        Why::IngressNotAllowed,
    );
    let isolated = matches!(table.ingress, NetworkGate::Isolated(_));
    if isolated && decision.is_allowed() && decision.why == Why::IngressAllowed && !identity_fits(request) {
        return Decision::deny(Why::AddressIdentityMismatch, decision.by);
    }
    decision
}

fn identity_fits(request: &Request<'_>) -> bool {
    match (request.principal(), request.source.workload) {
        (Some(principal), Some(workload)) => !workload.selectable() || workload.may_show(principal),
        _ => true,
    }
}

fn network_gate(gate: &NetworkGate, far: Far<'_>, request: &Request<'_>, yes: Why, no: Why) -> Decision {
    match gate {
        NetworkGate::Open => unrestricted(),
        NetworkGate::Refused(refusal) => {
            Decision::deny_object(Why::Refused(refusal.reason.clone()), refusal.by.as_ref())
        }
        NetworkGate::Isolated(_) if always_passes(request) => Decision::allow(Why::AlwaysPasses, None),
        NetworkGate::Isolated(policies) => {
            let port = Port {
                protocol: request.connection.protocol,
                number: request.destination.port,
                destination: request.destination.workload,
            };
            match allowing(policies, far, port) {
                Some(rule) => Decision::allow(yes, Some(rule)),
                None => Decision::deny_object(no, policies.first().map(|policy| &policy.object)),
            }
        }
    }
}

/// A pod cannot block itself, nor its own node (spec §1.5.17).
fn always_passes(request: &Request<'_>) -> bool {
    request.source.own_node || request.source.ip.to_canonical() == request.destination.ip.to_canonical()
}

/// PeerAuthentication at the destination (spec §2.2).
#[must_use]
pub fn peer_authentication(table: &Table, request: &Request<'_>) -> Decision {
    if let Some(refusal) = &table.mutual_tls.refusal {
        return Decision::deny_object(Why::Refused(refusal.reason.clone()), refusal.by.as_ref());
    }
    let (mode, by) = table.mutual_tls.of(request.destination.port);
    let mutual_tls = request.connection.mutual_tls;
    match mode {
        MtlsMode::Disable if mutual_tls => Decision::deny(Why::MutualTlsDisabled, by),
        MtlsMode::Strict if !mutual_tls => Decision::deny(Why::PlaintextRefused, by),
        MtlsMode::Strict | MtlsMode::Permissive if mutual_tls && request.source.principal.is_none() => {
            Decision::deny(Why::NoClientIdentity, by)
        }
        MtlsMode::Disable | MtlsMode::Strict | MtlsMode::Permissive => {
            let why = if by.is_some() {
                Why::TransportAccepted
            } else {
                Why::Unrestricted
            };
            Decision::allow(why, by)
        }
    }
}

/// AuthorizationPolicy at the destination (spec §3.2).
#[must_use]
pub fn authorize(table: &Table, request: &Request<'_>) -> Decision {
    match authorize_in(table, request, Layer::of(request)) {
        OnConnection::Decided(decision) => decision,
        // Only a request that is still to come leaves anything open, and here there is none to come.
        OnConnection::PerRequest => Decision::deny(Why::NoAllowRule, None),
    }
}

fn authorize_in(table: &Table, request: &Request<'_>, layer: Layer<'_, '_>) -> OnConnection {
    let authorization = &table.authorization;
    if let Some(refusal) = &authorization.refusal {
        let why = Why::Refused(refusal.reason.clone());
        return OnConnection::Decided(Decision::deny_object(why, refusal.by.as_ref()));
    }
    if authorization.is_empty() {
        return OnConnection::Decided(unrestricted());
    }
    let context = &Context::new(request, layer, &table.issuers);
    let Some((audited, shadow)) = observe(table, context) else {
        return OnConnection::PerRequest;
    };
    match enforce(table, request, context) {
        OnConnection::Decided(decision) => OnConnection::Decided(Decision {
            audited,
            shadow,
            ..decision
        }),
        OnConnection::PerRequest => OnConnection::PerRequest,
    }
}

/// What only marks: AUDIT and dry-run policies. None: it depends on the request.
fn observe(table: &Table, context: &Context<'_, '_>) -> Option<(Option<RuleRef>, Shadow)> {
    let authorization = &table.authorization;
    let (audit, audited) = any_policy(&authorization.audit, Action::Audit, context);
    let (deny, _) = any_policy(&authorization.shadow_deny, Action::Deny, context);
    let (allow, _) = any_policy(&authorization.shadow_allow, Action::Allow, context);
    if [audit, deny, allow].contains(&Tri::Maybe) {
        return None;
    }
    let shadow = Shadow {
        allow: (!authorization.shadow_allow.is_empty()).then_some(allow == Tri::Yes),
        deny: (!authorization.shadow_deny.is_empty()).then_some(deny == Tri::Yes),
    };
    Some((audited, shadow))
}

fn enforce(table: &Table, request: &Request<'_>, context: &Context<'_, '_>) -> OnConnection {
    let authorization = &table.authorization;
    let mut open = false;
    let mut asked = None;
    for custom in &authorization.custom {
        match ask(custom, request, context) {
            Asked::Denied(decision) => return OnConnection::Decided(decision),
            Asked::Open => open = true,
            Asked::Passed(by) => asked = by.or(asked),
        }
    }
    let (denied, by) = any_policy(&authorization.deny, Action::Deny, context);
    if denied == Tri::Yes {
        return OnConnection::Decided(Decision::deny(Why::DenyRule, by));
    }
    open |= denied == Tri::Maybe;
    let (allowed, by) = any_policy(&authorization.allow, Action::Allow, context);
    let Some(first) = authorization.allow.first() else {
        if open {
            return OnConnection::PerRequest;
        }
        let why = if asked.is_some() {
            Why::ProviderAllowed
        } else {
            Why::Unrestricted
        };
        return OnConnection::Decided(Decision::allow(why, asked));
    };
    match allowed {
        Tri::No => OnConnection::Decided(Decision::deny_object(Why::NoAllowRule, Some(&first.object))),
        Tri::Yes if !open => OnConnection::Decided(Decision::allow(Why::AllowRule, by)),
        Tri::Yes | Tri::Maybe => OnConnection::PerRequest,
    }
}

enum Asked {
    Passed(Option<RuleRef>),
    Open,
    Denied(Decision),
}

/// One CUSTOM policy (spec §3.11.40): it can only restrict.
fn ask(custom: &CustomPolicy, request: &Request<'_>, context: &Context<'_, '_>) -> Asked {
    if !can_be_shown(custom, context) {
        return Asked::Passed(None);
    }
    let (matched, by) = custom.policy.matches(Action::Custom, context);
    let provider = match (matched, &custom.provider) {
        (Tri::No, _) => return Asked::Passed(None),
        (Tri::Yes, None) => return Asked::Denied(Decision::deny(Why::ProviderMisconfigured, by)),
        (Tri::Maybe, _) => return Asked::Open,
        (Tri::Yes, Some(provider)) => provider,
    };
    if matches!(context.layer, Layer::HttpToCome) {
        return Asked::Open;
    }
    match request.answers.answer(&provider.name) {
        Answer::Allow => Asked::Passed(by),
        Answer::Error if provider.fail_open => Asked::Passed(by),
        Answer::Error => Asked::Denied(Decision::deny(Why::ProviderFailed, by)),
        Answer::Deny => Asked::Denied(Decision::deny(Why::ProviderDenied, by)),
    }
}

/// A provider that speaks HTTP cannot be shown bytes: there its policies are skipped.
fn can_be_shown(custom: &CustomPolicy, context: &Context<'_, '_>) -> bool {
    !matches!((&custom.provider, context.layer), (Some(provider), Layer::Bytes) if provider.kind == ProviderKind::Http)
}

/// The provider of a CUSTOM policy, if this request must be shown to it.
pub(super) fn may_ask<'t>(custom: &'t CustomPolicy, context: &Context<'_, '_>) -> Option<&'t Arc<Provider>> {
    let provider = custom.provider.as_ref()?;
    let matched = can_be_shown(custom, context) && custom.policy.matches(Action::Custom, context).0 == Tri::Yes;
    matched.then_some(provider)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{
        Attribute, AuthorizationPolicy, Condition, Connection, Destination, Http, Kind, ObjectRef, Principal, Rule,
        Source, TextMatch,
    };

    const NO_HEADERS: [(&str, &str); 0] = [];

    fn policy(name: &str, conditions: Vec<Attribute>) -> Arc<AuthorizationPolicy> {
        let when = conditions
            .into_iter()
            .map(|attribute| Condition {
                negated: false,
                attribute,
            })
            .collect();
        let rule = Rule::new([].into(), [].into(), when);
        let object = ObjectRef::new(Kind::AuthorizationPolicy, "shop", name);
        Arc::new(AuthorizationPolicy {
            object,
            rules: [rule].into(),
        })
    }

    fn text(value: &str) -> Box<[TextMatch]> {
        [TextMatch::parse(value)].into()
    }

    fn request(principal: Option<&'static str>) -> Request<'static> {
        let source = Source::external("10.0.0.1".parse().unwrap());
        let source = principal.map_or(source, |id| source.with_principal(Principal::new(id)));
        let destination = Destination {
            ip: "10.0.0.2".parse().unwrap(),
            port: 80,
            workload: None,
        };
        let connection = Connection {
            mutual_tls: principal.is_some(),
            ..Connection::default()
        };
        Request::connection(source, destination, connection)
    }

    #[test]
    fn an_empty_table_allows_and_deny_all_denies_both_ways() {
        let request = request(None);
        assert_eq!(decide_inbound(&Table::default(), &request).why, Why::Unrestricted);
        let table = Table::deny_all("no table yet");
        assert_eq!(
            decide_inbound(&table, &request).why,
            Why::Refused("no table yet".into())
        );
        assert!(!decide_outbound(&table, &request).is_allowed());
    }

    #[test]
    fn a_connection_is_judged_before_its_first_request_where_that_is_possible() {
        let mut table = Table::default();
        let web = request(Some("spiffe://td/ns/shop/sa/web"));
        let other = request(Some("spiffe://td/ns/shop/sa/other"));
        let get = |request: &Request<'static>| request.with_http(Http::new("GET", Some("/"), "h", &NO_HEADERS));

        table.authorization.allow = [policy("p", vec![Attribute::Principal(text("td/ns/shop/sa/web"))])].into();
        assert!(!table.needs_http(80));
        assert!(matches!(decide_connection(&table, &web), OnConnection::Decided(decision) if decision.is_allowed()));
        assert!(matches!(decide_connection(&table, &other), OnConnection::Decided(decision) if !decision.is_allowed()));

        let both = vec![
            Attribute::Principal(text("td/ns/shop/sa/web")),
            Attribute::Method(text("GET")),
        ];
        table.authorization.allow = [policy("p", both)].into();
        assert!(table.needs_http(80));
        assert_eq!(decide_connection(&table, &web), OnConnection::PerRequest);
        assert!(matches!(decide_connection(&table, &other), OnConnection::Decided(decision) if !decision.is_allowed()));
        assert!(decide_inbound(&table, &get(&web)).is_allowed());
        assert!(
            !decide_inbound(&table, &web).is_allowed(),
            "as bytes, the HTTP rule cannot allow"
        );
    }

    #[test]
    fn a_decision_names_the_rule_that_made_it() {
        let mut table = Table::default();
        table.authorization.deny = [policy("no", vec![Attribute::Principal(text("*/sa/web"))])].into();
        let decision = decide_inbound(&table, &request(Some("spiffe://td/ns/shop/sa/web")));
        assert_eq!(
            decision.to_string(),
            "DENY: a DENY rule matches (AuthorizationPolicy shop/no rule 0)"
        );
    }
}
