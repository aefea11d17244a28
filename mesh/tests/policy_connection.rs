//! What a table says before there is a request: whether requests must be looked at, what already holds for the whole
//! connection, and which providers must be asked. Statement by statement; random tables are compared in the control room.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use std::sync::Arc;

use squire_mesh::policy::{
    Action, Attribute, AuthorizationPolicy, Condition, Connection, CustomPolicy, Decision, Destination, Http, Kind,
    MtlsMode, NetworkGate, NetworkPolicy, ObjectRef, OnConnection, Principal, Provider, ProviderKind, Request, Rule,
    Source, Table, TextMatch, Verdict, Why, decide_connection, decide_inbound,
};

const NO_HEADERS: [(&str, &str); 0] = [];

fn texts(value: &str) -> Box<[TextMatch]> {
    [TextMatch::parse(value)].into()
}

fn caller(name: &str) -> Attribute {
    Attribute::Principal(texts(&format!("td/ns/shop/sa/{name}")))
}

fn method(name: &str) -> Attribute {
    Attribute::Method(texts(name))
}

fn port(port: u16) -> Attribute {
    Attribute::DestinationPort([port].into())
}

/// A policy of one rule, all of whose conditions must hold.
fn policy(conditions: impl IntoIterator<Item = Attribute>) -> Arc<AuthorizationPolicy> {
    let condition = |attribute| Condition {
        negated: false,
        attribute,
    };
    let rule = Rule::new([].into(), [].into(), conditions.into_iter().map(condition).collect());
    Arc::new(AuthorizationPolicy {
        object: ObjectRef::new(Kind::AuthorizationPolicy, "shop", "p"),
        rules: [rule].into(),
    })
}

fn custom(provider: Option<ProviderKind>, conditions: impl IntoIterator<Item = Attribute>) -> CustomPolicy {
    CustomPolicy {
        policy: policy(conditions),
        provider: provider.map(|kind| Arc::new(Provider::new("judge", kind))),
    }
}

/// A table with one policy of this action.
fn with(action: Action, conditions: impl IntoIterator<Item = Attribute>) -> Table {
    let mut table = Table::default();
    let authorization = &mut table.authorization;
    match action {
        Action::Allow => authorization.allow = [policy(conditions)].into(),
        Action::Deny => authorization.deny = [policy(conditions)].into(),
        Action::Audit => authorization.audit = [policy(conditions)].into(),
        Action::Custom => authorization.custom = [custom(Some(ProviderKind::Grpc), conditions)].into(),
    }
    table
}

/// `web` calls port 80 over mutual TLS.
fn connection() -> Request<'static> {
    let source = Source::external("10.0.0.1".parse().unwrap());
    let destination = Destination {
        ip: "10.0.0.2".parse().unwrap(),
        port: 80,
        workload: None,
    };
    let connection = Connection {
        mutual_tls: true,
        ..Connection::default()
    };
    let principal = Principal::new("spiffe://td/ns/shop/sa/web");
    Request::connection(source.with_principal(principal), destination, connection)
}

fn get() -> Request<'static> {
    connection().with_http(Http::new("GET", Some("/"), "h", &NO_HEADERS))
}

fn decided(table: &Table) -> Decision {
    match decide_connection(table, &connection()) {
        OnConnection::Decided(decision) => decision,
        OnConnection::PerRequest => panic!("left to the requests: {table:?}"),
    }
}

fn is_left_to_requests(table: &Table) -> bool {
    decide_connection(table, &connection()) == OnConnection::PerRequest
}

#[test]
fn requests_need_not_be_looked_at_where_no_rule_speaks_of_them() {
    assert!(!Table::default().needs_http(80));
    assert!(!with(Action::Allow, [caller("web"), port(80)]).needs_http(80));
    let block = Attribute::SourceIp(["10.0.0.0/8".parse().unwrap()].into());
    assert!(!with(Action::Deny, [block]).needs_http(80));
}

#[test]
fn requests_are_looked_at_for_every_action_that_speaks_of_them() {
    for action in [Action::Allow, Action::Deny, Action::Audit, Action::Custom] {
        assert!(with(action, [method("GET")]).needs_http(80), "{action:?}");
    }
    let mut dry = Table::default();
    dry.authorization.shadow_deny = [policy([method("GET")])].into();
    assert!(dry.needs_http(80), "a dry run is recorded for each request");
    dry.authorization.shadow_deny = [].into();
    dry.authorization.shadow_allow = [policy([method("GET")])].into();
    assert!(dry.needs_http(80));
}

#[test]
fn a_rule_for_another_port_does_not_make_requests_worth_a_look() {
    for action in [Action::Allow, Action::Deny, Action::Audit] {
        let table = with(action, [method("GET"), port(81)]);
        assert!(!table.needs_http(80), "{action:?}");
        assert!(table.needs_http(81), "{action:?}");
    }
}

#[test]
fn the_client_address_behind_trusted_hops_is_a_matter_of_requests() {
    let remote = Attribute::RemoteIp(["10.0.0.0/8".parse().unwrap()].into());
    let table = with(Action::Allow, [remote]);
    assert!(table.needs_http(80));
    assert!(is_left_to_requests(&table));
    let elsewhere = Http::new("GET", Some("/"), "h", &NO_HEADERS).with_remote_ip("192.0.2.1".parse().unwrap());
    assert!(decide_inbound(&table, &get()).is_allowed());
    assert!(!decide_inbound(&table, &connection().with_http(elsewhere)).is_allowed());
}

#[test]
fn a_provider_judges_each_request_whatever_its_policy_looks_at() {
    let table = with(Action::Custom, [caller("web")]);
    assert!(table.needs_http(80));
    assert!(is_left_to_requests(&table));
}

#[test]
fn a_network_or_transport_denial_holds_for_every_request() {
    let mut isolated = with(Action::Allow, [method("GET")]);
    let nobody = NetworkPolicy::new(ObjectRef::new(Kind::NetworkPolicy, "shop", "none"), [].into());
    isolated.ingress = NetworkGate::Isolated([Arc::new(nobody)].into());
    assert_eq!(decided(&isolated).why, Why::IngressNotAllowed);
    let mut disabled = with(Action::Allow, [method("GET")]);
    disabled.mutual_tls.mode = MtlsMode::Disable;
    assert_eq!(decided(&disabled).why, Why::MutualTlsDisabled);
    assert_eq!(
        decided(&Table::deny_all("nothing yet")).why,
        Why::Refused("nothing yet".into())
    );
}

#[test]
fn a_denial_by_the_caller_alone_does_not_wait_for_a_request() {
    let mut table = with(Action::Deny, [caller("web")]);
    table.authorization.allow = [policy([method("GET")])].into();
    assert_eq!(decided(&table).why, Why::DenyRule);
    let table = with(Action::Allow, [caller("other"), method("GET")]);
    assert_eq!(
        decided(&table).why,
        Why::NoAllowRule,
        "no request can bring an allowance"
    );
}

#[test]
fn an_allowance_by_the_caller_alone_waits_only_for_a_denial_that_may_come() {
    let mut table = with(Action::Allow, [caller("web")]);
    assert_eq!(decided(&table).why, Why::AllowRule);
    table.authorization.deny = [policy([method("POST")])].into();
    assert!(is_left_to_requests(&table));
    table.authorization.deny = [policy([caller("other"), method("POST")])].into();
    assert_eq!(
        decided(&table).why,
        Why::AllowRule,
        "that denial cannot match this caller"
    );
}

#[test]
fn an_http_rule_leaves_it_to_requests_although_bytes_would_be_denied() {
    let table = with(Action::Allow, [method("GET")]);
    assert!(is_left_to_requests(&table));
    assert_eq!(decide_inbound(&table, &connection()).verdict, Verdict::Deny, "as bytes");
    assert!(decide_inbound(&table, &get()).is_allowed());
}

#[test]
fn what_is_only_marked_or_tried_out_is_left_to_requests_too() {
    let table = with(Action::Audit, [method("GET")]);
    assert!(is_left_to_requests(&table), "each request is marked or not");
    assert!(decide_inbound(&table, &get()).audited.is_some());
    let mut dry = Table::default();
    dry.authorization.shadow_deny = [policy([method("GET")])].into();
    assert!(is_left_to_requests(&dry));
    let by_caller = with(Action::Audit, [caller("web")]);
    assert!(
        decided(&by_caller).audited.is_some(),
        "the caller alone is enough to be marked"
    );
}

#[test]
fn without_a_usable_provider_a_matching_custom_policy_denies_at_once() {
    let mut table = Table::default();
    table.authorization.custom = [custom(None, [caller("web")])].into();
    assert_eq!(decided(&table).why, Why::ProviderMisconfigured);
    table.authorization.custom = [custom(None, [method("GET")])].into();
    assert!(is_left_to_requests(&table), "only requests that match are denied");
}

#[test]
fn providers_are_named_only_for_what_their_policies_match() {
    let named = |table: &Table, request: &Request<'_>| -> Vec<String> {
        let providers = table.providers_to_ask(request);
        providers.map(|provider| provider.name.to_string()).collect()
    };
    let none: [&str; 0] = [];
    assert_eq!(named(&with(Action::Custom, [method("GET")]), &get()), ["judge"]);
    assert_eq!(named(&with(Action::Custom, [method("POST")]), &get()), none);
    assert_eq!(named(&with(Action::Custom, [caller("other")]), &connection()), none);
    assert_eq!(named(&with(Action::Custom, [caller("web")]), &connection()), ["judge"]);
    let mut table = Table::default();
    table.authorization.custom = [custom(None, [caller("web")])].into();
    assert_eq!(named(&table, &get()), none, "nobody stands behind an unknown name");
}

#[test]
fn a_provider_that_speaks_http_is_shown_requests_and_never_bytes() {
    let mut table = Table::default();
    table.authorization.custom = [custom(Some(ProviderKind::Http), [caller("web")])].into();
    assert_eq!(table.providers_to_ask(&connection()).count(), 0);
    assert_eq!(table.providers_to_ask(&get()).count(), 1);
    assert!(decide_inbound(&table, &connection()).is_allowed(), "skipped for bytes");
    assert_eq!(
        decide_inbound(&table, &get()).why,
        Why::ProviderFailed,
        "a provider that was not asked did not answer"
    );
}
