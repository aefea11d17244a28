//! A table survives the wire, and what is not exactly understood is refused.

use std::time::Duration;

use prost::Message as _;

use super::*;
use crate::policy::{
    Attribute, Authorization, AuthorizationPolicy, BodyInCheck, ClaimHeader, Condition, CustomPolicy, HttpCheck,
    LabelSelector, NamespaceMatch, NetworkGate, NetworkPolicy, NetworkRule, Operator, PathMatch, Peer, PortMatch,
    Protocol, Provider, ProviderAddress, ProviderKind, RequestPrincipalMatch, Requirement, Rule, Template, TextMatch,
    TokenIssuer, TokenKeys, TokenPlace,
};

fn texts() -> Box<[TextMatch]> {
    ["*", "a", "a*", "*a", ""].map(TextMatch::parse).into()
}

fn blocks() -> Box<[Cidr]> {
    ["10.0.0.0/8", "2001:db8::/32", "1.2.3.4"]
        .map(|block| block.parse().unwrap())
        .into()
}

fn every_attribute() -> Vec<Attribute> {
    vec![
        Attribute::Principal(texts()),
        Attribute::Namespace(texts()),
        Attribute::ServiceAccount([("ns".into(), "sa".into())].into()),
        Attribute::TrustDomain(texts()),
        Attribute::SourceIp(blocks()),
        Attribute::RemoteIp(blocks()),
        Attribute::RequestPrincipal(["*", "a/b"].map(RequestPrincipalMatch::parse).into()),
        Attribute::DestinationIp(blocks()),
        Attribute::DestinationPort([0, 80, 65535].into()),
        Attribute::Method(texts()),
        Attribute::Host(texts()),
        Attribute::Path(
            [
                PathMatch::Text(TextMatch::Present),
                PathMatch::Template(Template::parse("/{*}/a/{**}").unwrap()),
            ]
            .into(),
        ),
        Attribute::Header(Box::new(("x-a".into(), texts()))),
        Attribute::Sni(texts()),
        Attribute::Claim(Box::new((["a".into(), "b".into()].into(), texts()))),
        Attribute::Absent("experimental.envoy.filters.a[b]".into()),
    ]
}

fn full_table() -> Table {
    let object = |kind| ObjectRef::new(kind, "ns", "name");
    let policy = || {
        let conditions = every_attribute()
            .into_iter()
            .enumerate()
            .map(|(index, attribute)| Condition {
                negated: index % 2 == 0,
                attribute,
            })
            .collect::<Box<[_]>>();
        let rules = [
            Rule::new([conditions.clone()].into(), [conditions.clone()].into(), conditions),
            Rule::default(),
        ];
        Arc::new(AuthorizationPolicy {
            object: object(Kind::AuthorizationPolicy),
            rules: rules.into(),
        })
    };
    let provider = |kind, fail_open| {
        Some(Arc::new(Provider {
            fail_open,
            address: Some(ProviderAddress {
                host: "ext.shop".into(),
                port: 9000,
            }),
            timeout: Duration::from_millis(1500),
            status_on_error: 503,
            body: Some(BodyInCheck {
                max_bytes: 8192,
                allow_partial: true,
                pack_as_bytes: true,
            }),
            http: HttpCheck {
                path_prefix: "/check".into(),
                request_headers: texts(),
                additional_headers: [("x-a".into(), "b".into())].into(),
                upstream_on_allow: texts(),
                downstream_on_deny: texts(),
                downstream_on_allow: texts(),
            },
            ..Provider::new("p", kind)
        }))
    };
    let custom = |provider| CustomPolicy {
        policy: policy(),
        provider,
    };
    let requirement = |operator| Requirement {
        key: "k".into(),
        operator,
    };
    let selector = || {
        LabelSelector(
            [
                requirement(Operator::In(["v".into()].into())),
                requirement(Operator::NotIn(["v".into(), "".into()].into())),
                requirement(Operator::Exists),
                requirement(Operator::DoesNotExist),
            ]
            .into(),
        )
    };
    let peers = [
        Peer::Pods {
            namespace: NamespaceMatch::Own("ns".into()),
            pods: LabelSelector::default(),
        },
        Peer::Pods {
            namespace: NamespaceMatch::Selector(selector()),
            pods: selector(),
        },
        Peer::Block {
            cidr: "10.0.0.0/8".parse().unwrap(),
            except: blocks(),
        },
    ];
    let ports = [
        PortMatch::All(Protocol::Udp),
        PortMatch::Range(Protocol::Tcp, 1..=65535),
        PortMatch::Named(Protocol::Sctp, "web".into()),
    ];
    let rules = [
        NetworkRule {
            peers: Some(peers.into()),
            ports: Some(ports.into()),
        },
        NetworkRule {
            peers: None,
            ports: None,
        },
        NetworkRule {
            peers: Some([].into()),
            ports: Some([].into()),
        },
    ];
    let refusal = Refusal::new(Some(object(Kind::PeerAuthentication)), "why");
    Table {
        ingress: NetworkGate::Isolated(
            [Arc::new(NetworkPolicy::new(object(Kind::NetworkPolicy), rules.into()))].into(),
        ),
        egress: NetworkGate::Refused(refusal.clone()),
        mutual_tls: MutualTls {
            mode: MtlsMode::Strict,
            by: Some(object(Kind::PeerAuthentication)),
            ports: [(80, MtlsMode::Disable), (81, MtlsMode::Permissive)].into(),
            ports_by: Some(object(Kind::PeerAuthentication)),
            refusal: Some(refusal.clone()),
        },
        authorization: Authorization {
            custom: [
                custom(provider(ProviderKind::Grpc, true)),
                custom(provider(ProviderKind::Http, false)),
                custom(None),
            ]
            .into(),
            deny: [policy()].into(),
            allow: [policy(), policy()].into(),
            audit: [policy()].into(),
            shadow_deny: [policy()].into(),
            shadow_allow: [policy()].into(),
            refusal: Some(refusal),
        },
        path_normalization: PathNormalization::DecodeAndMergeSlashes,
        issuers: [
            TokenIssuer {
                audiences: ["a".into()].into(),
                places: [
                    TokenPlace::Header {
                        name: "x-token".into(),
                        prefix: "Bearer ".into(),
                    },
                    TokenPlace::Param("t".into()),
                    TokenPlace::Cookie("c".into()),
                ]
                .into(),
                forward: true,
                payload_header: Some("x-payload".into()),
                claim_headers: [ClaimHeader {
                    header: "x-sub".into(),
                    claim: "sub".into(),
                }]
                .into(),
                timeout: Duration::from_millis(250),
                space_delimited: ["s".into()].into(),
                ..TokenIssuer::new("i", TokenKeys::Url("https://i/keys".into()))
            },
            TokenIssuer::new("i", TokenKeys::Inline("{}".into())),
            TokenIssuer::new("i", TokenKeys::File("/keys.json".into())),
            TokenIssuer::new("i", TokenKeys::Discovery),
        ]
        .into(),
    }
}

fn round_trip(table: &Table) -> Table {
    let bytes = wire::Policy::from(table).encode_to_vec();
    wire::Policy::decode(&*bytes).unwrap().try_into().unwrap()
}

#[test]
fn a_table_survives_the_wire() {
    for table in [full_table(), Table::default(), Table::deny_all("x")] {
        assert_eq!(round_trip(&table), table);
    }
}

#[test]
fn what_is_not_understood_is_refused() {
    let read = |change: fn(&mut wire::Policy)| {
        let mut message = wire::Policy::from(&full_table());
        change(&mut message);
        Table::try_from(message).unwrap_err()
    };
    assert_eq!(
        Table::try_from(wire::Policy::default()).unwrap_err(),
        WireError::Missing("ingress")
    );
    assert_eq!(
        read(|policy| policy.path_normalization = 9),
        unknown("path normalization", 9)
    );
    assert_eq!(
        read(|policy| policy.egress.as_mut().unwrap().state = None),
        WireError::Missing("network gate state")
    );
    let no_attribute = read(|policy| {
        policy.authorization.as_mut().unwrap().deny[0].rules[0].when[0].attribute = None;
    });
    assert_eq!(no_attribute, WireError::Missing("condition attribute"));
    let unsorted = read(|policy| policy.mutual_tls.as_mut().unwrap().ports.reverse());
    assert_eq!(unsorted, invalid("port modes", "not in ascending order"));
}
