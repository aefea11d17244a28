//! Ten policies of ten rules, of which the last one of the last matches, as the control plane sends them, and who asks.

use squire_mesh::{
    policy::{Connection, Destination, Http, Principal, Request, Source, Table},
    wire::squire as wire,
};

use wire::{condition::Attribute, path_match, text_match::Match};

const HEADERS: [(&str, &str); 6] = [
    ("accept", "*/*"),
    ("user-agent", "bench"),
    ("content-type", "application/json"),
    ("x-request-id", "0123456789"),
    ("x-tenant", "tenant-7"),
    ("traceparent", "00-0-0-00"),
];

/// Asks for a connection.
pub(crate) fn for_connection(ask: impl FnOnce(&Request<'_>)) {
    ask(&connection());
}

/// Asks for an HTTP request on it.
pub(crate) fn for_request(ask: impl FnOnce(&Request<'_>)) {
    let http = Http::new("GET", Some("/orders/42/items?page=1"), "db.shop", &HEADERS);
    ask(&connection().with_http(http));
}

fn connection() -> Request<'static> {
    let source = Source::external("10.0.0.9".parse().expect("an address"))
        .with_principal(Principal::new("spiffe://cluster.local/ns/client/sa/web"));
    let destination = Destination {
        ip: "10.0.1.1".parse().expect("an address"),
        port: 8080,
        workload: None,
    };
    let connection = Connection {
        mutual_tls: true,
        ..Connection::default()
    };
    Request::connection(source, destination, connection)
}

/// The table; `http`: every rule knows the caller, so that paths and headers have to be looked at.
pub(crate) fn table(http: bool) -> Table {
    let policies = (0..10).map(|policy| wire::AuthorizationPolicy {
        object: Some(object(policy)),
        rules: (0..10).map(|rule| rule_of(policy * 10 + rule, http)).collect(),
    });
    let open = wire::NetworkGate {
        state: Some(wire::network_gate::State::Open(wire::network_gate::Open {})),
    };
    let message = wire::Policy {
        ingress: Some(open.clone()),
        egress: Some(open),
        mutual_tls: Some(wire::MutualTls {
            mode: wire::MtlsMode::Strict.into(),
            ..wire::MutualTls::default()
        }),
        authorization: Some(wire::Authorization {
            allow: policies.collect(),
            ..wire::Authorization::default()
        }),
        path_normalization: wire::PathNormalization::Base.into(),
        issuers: Vec::new(),
    };
    Table::try_from(message).expect("a good table")
}

fn object(policy: usize) -> wire::ObjectRef {
    wire::ObjectRef {
        kind: wire::PolicyKind::AuthorizationPolicy.into(),
        namespace: "shop".to_owned(),
        name: format!("allow-{policy}"),
    }
}

fn rule_of(number: usize, http: bool) -> wire::AuthorizationRule {
    let last = number == 99;
    if http {
        let path = if last {
            "/orders/{*}/items".to_owned()
        } else {
            format!("/service-{number}/{{*}}/items")
        };
        return wire::AuthorizationRule {
            sources: vec![all([Attribute::Namespace(texts([Match::Exact("client".to_owned())]))])],
            operations: vec![all([
                Attribute::Method(texts(["GET", "POST"].map(|method| Match::Exact(method.to_owned())))),
                Attribute::Path(wire::Paths {
                    values: vec![wire::PathMatch {
                        r#match: Some(path_match::Match::Template(path)),
                    }],
                }),
            ])],
            when: vec![condition(Attribute::Header(wire::NamedTextMatches {
                name: "x-tenant".to_owned(),
                values: texts([Match::Exact("acme".to_owned()), Match::Prefix("tenant-".to_owned())]).values,
            }))],
        };
    }
    let account = if last {
        "web".to_owned()
    } else {
        format!("account-{number}")
    };
    let principal = Match::Exact(format!("cluster.local/ns/client/sa/{account}"));
    wire::AuthorizationRule {
        sources: vec![all([Attribute::Principal(texts([principal]))])],
        operations: vec![all([Attribute::DestinationPort(wire::PortNumbers {
            values: vec![8080],
        })])],
        when: Vec::new(),
    }
}

fn texts(values: impl IntoIterator<Item = Match>) -> wire::TextMatches {
    let value = |value| wire::TextMatch { r#match: Some(value) };
    wire::TextMatches {
        values: values.into_iter().map(value).collect(),
    }
}

fn all(attributes: impl IntoIterator<Item = Attribute>) -> wire::Conditions {
    wire::Conditions {
        conditions: attributes.into_iter().map(condition).collect(),
    }
}

fn condition(attribute: Attribute) -> wire::Condition {
    wire::Condition {
        negated: false,
        attribute: Some(attribute),
    }
}
