//! The table to and from `squire.v1.Policy`. Reading is strict: what is not exactly understood is an error (the proxy then
//! keeps its last good table), never a guess, because a rule that is half read is another rule.

mod authorization;
mod network;
mod provider;
mod token;

use std::{net::IpAddr, sync::Arc, time::Duration};

use super::{Cidr, Kind, MtlsMode, MutualTls, ObjectRef, PathNormalization, Refusal, Table};
use crate::wire::squire as wire;

/// Why a message is not a table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A part that must be there is not.
    #[error("{0} is missing; is the control plane newer than this proxy?")]
    Missing(&'static str),
    /// An enum value this version does not know.
    #[error("unknown {field} {value}; is the control plane newer than this proxy?")]
    Unknown {
        /// The field.
        field: &'static str,
        /// The number in it.
        value: i32,
    },
    /// A number or an address that cannot be one.
    #[error("{field} is invalid: {why}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong.
        why: String,
    },
}

fn unknown(field: &'static str, value: i32) -> WireError {
    WireError::Unknown { field, value }
}

fn invalid(field: &'static str, why: impl ToString) -> WireError {
    WireError::Invalid {
        field,
        why: why.to_string(),
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Reads a list, or fails with its first bad element.
fn list<W, T>(values: Vec<W>, read: impl Fn(W) -> Result<T, WireError>) -> Result<Box<[T]>, WireError> {
    values.into_iter().map(read).collect()
}

impl TryFrom<wire::Policy> for Table {
    type Error = WireError;

    fn try_from(message: wire::Policy) -> Result<Self, WireError> {
        Ok(Self {
            ingress: network::gate(message.ingress.ok_or(WireError::Missing("ingress"))?)?,
            egress: network::gate(message.egress.ok_or(WireError::Missing("egress"))?)?,
            mutual_tls: mutual_tls(message.mutual_tls.ok_or(WireError::Missing("mutual_tls"))?)?,
            authorization: authorization::authorization(
                message.authorization.ok_or(WireError::Missing("authorization"))?,
            )?,
            path_normalization: normalization(message.path_normalization)?,
            issuers: list(message.issuers, token::issuer)?,
        })
    }
}

impl From<&Table> for wire::Policy {
    fn from(table: &Table) -> Self {
        Self {
            ingress: Some(network::write_gate(&table.ingress)),
            egress: Some(network::write_gate(&table.egress)),
            mutual_tls: Some(write_mutual_tls(&table.mutual_tls)),
            authorization: Some(authorization::write(&table.authorization)),
            path_normalization: write_normalization(table.path_normalization).into(),
            issuers: table.issuers.iter().map(token::write).collect(),
        }
    }
}

fn normalization(value: i32) -> Result<PathNormalization, WireError> {
    match wire::PathNormalization::try_from(value) {
        Ok(wire::PathNormalization::None) => Ok(PathNormalization::None),
        Ok(wire::PathNormalization::Base) => Ok(PathNormalization::Base),
        Ok(wire::PathNormalization::MergeSlashes) => Ok(PathNormalization::MergeSlashes),
        Ok(wire::PathNormalization::DecodeAndMergeSlashes) => Ok(PathNormalization::DecodeAndMergeSlashes),
        Ok(wire::PathNormalization::Unspecified) | Err(_) => Err(unknown("path normalization", value)),
    }
}

fn write_normalization(mode: PathNormalization) -> wire::PathNormalization {
    match mode {
        PathNormalization::None => wire::PathNormalization::None,
        PathNormalization::Base => wire::PathNormalization::Base,
        PathNormalization::MergeSlashes => wire::PathNormalization::MergeSlashes,
        PathNormalization::DecodeAndMergeSlashes => wire::PathNormalization::DecodeAndMergeSlashes,
    }
}

fn mutual_tls(message: wire::MutualTls) -> Result<MutualTls, WireError> {
    let port = |entry: wire::PortMode| Ok((port_number(entry.port)?, mode(entry.mode)?));
    let ports = list(message.ports, port)?;
    if !ports.is_sorted_by(|(a, _), (b, _)| a < b) {
        return Err(invalid("port modes", "not in ascending order"));
    }
    Ok(MutualTls {
        mode: mode(message.mode)?,
        by: message.by.map(object).transpose()?,
        ports,
        ports_by: message.ports_by.map(object).transpose()?,
        refusal: message.refusal.map(refusal).transpose()?,
    })
}

fn write_mutual_tls(mutual_tls: &MutualTls) -> wire::MutualTls {
    let port = |(port, mode): &(u16, MtlsMode)| wire::PortMode {
        port: (*port).into(),
        mode: write_mode(*mode).into(),
    };
    wire::MutualTls {
        mode: write_mode(mutual_tls.mode).into(),
        by: mutual_tls.by.as_deref().map(write_object),
        ports: mutual_tls.ports.iter().map(port).collect(),
        ports_by: mutual_tls.ports_by.as_deref().map(write_object),
        refusal: mutual_tls.refusal.as_ref().map(write_refusal),
    }
}

fn mode(value: i32) -> Result<MtlsMode, WireError> {
    match wire::MtlsMode::try_from(value) {
        Ok(wire::MtlsMode::Disable) => Ok(MtlsMode::Disable),
        Ok(wire::MtlsMode::Permissive) => Ok(MtlsMode::Permissive),
        Ok(wire::MtlsMode::Strict) => Ok(MtlsMode::Strict),
        Ok(wire::MtlsMode::Unspecified) | Err(_) => Err(unknown("mutual TLS mode", value)),
    }
}

fn write_mode(mode: MtlsMode) -> wire::MtlsMode {
    match mode {
        MtlsMode::Disable => wire::MtlsMode::Disable,
        MtlsMode::Permissive => wire::MtlsMode::Permissive,
        MtlsMode::Strict => wire::MtlsMode::Strict,
    }
}

fn refusal(message: wire::Refusal) -> Result<Refusal, WireError> {
    Ok(Refusal {
        by: message.by.map(object).transpose()?,
        reason: message.reason.into(),
    })
}

fn write_refusal(refusal: &Refusal) -> wire::Refusal {
    wire::Refusal {
        by: refusal.by.as_deref().map(write_object),
        reason: refusal.reason.to_string(),
    }
}

fn object(message: wire::ObjectRef) -> Result<Arc<ObjectRef>, WireError> {
    let kind = match wire::PolicyKind::try_from(message.kind) {
        Ok(wire::PolicyKind::NetworkPolicy) => Kind::NetworkPolicy,
        Ok(wire::PolicyKind::PeerAuthentication) => Kind::PeerAuthentication,
        Ok(wire::PolicyKind::AuthorizationPolicy) => Kind::AuthorizationPolicy,
        Ok(wire::PolicyKind::RequestAuthentication) => Kind::RequestAuthentication,
        Ok(wire::PolicyKind::Unspecified) | Err(_) => return Err(unknown("policy kind", message.kind)),
    };
    Ok(ObjectRef::new(kind, &message.namespace, &message.name))
}

fn write_object(object: &ObjectRef) -> wire::ObjectRef {
    let kind = match object.kind {
        Kind::NetworkPolicy => wire::PolicyKind::NetworkPolicy,
        Kind::PeerAuthentication => wire::PolicyKind::PeerAuthentication,
        Kind::AuthorizationPolicy => wire::PolicyKind::AuthorizationPolicy,
        Kind::RequestAuthentication => wire::PolicyKind::RequestAuthentication,
    };
    wire::ObjectRef {
        kind: kind.into(),
        namespace: object.namespace.to_string(),
        name: object.name.to_string(),
    }
}

fn port_number(value: u32) -> Result<u16, WireError> {
    u16::try_from(value).map_err(|_| invalid("port", value))
}

fn block(message: wire::IpBlock) -> Result<Cidr, WireError> {
    let ip = match *message.address {
        [a, b, c, d] => IpAddr::from([a, b, c, d]),
        ref other => IpAddr::from(
            <[u8; 16]>::try_from(other).map_err(|_| invalid("IP block", format!("{} bytes", other.len())))?,
        ),
    };
    let prefix = u8::try_from(message.prefix).map_err(|_| invalid("prefix length", message.prefix))?;
    Cidr::new(ip, prefix).ok_or_else(|| invalid("prefix length", message.prefix))
}

fn write_block(block: &Cidr) -> wire::IpBlock {
    let address = match block.address() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    wire::IpBlock {
        address: address.into(),
        prefix: block.prefix().into(),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::policy::{
        Attribute, Authorization, AuthorizationPolicy, BodyInCheck, ClaimHeader, Condition, CustomPolicy, HttpCheck,
        LabelSelector, NamespaceMatch, NetworkGate, NetworkPolicy, NetworkRule, Operator, PathMatch, Peer, PortMatch,
        Protocol, Provider, ProviderAddress, ProviderKind, RequestPrincipalMatch, Requirement, Rule, Template,
        TextMatch, TokenIssuer, TokenKeys, TokenPlace,
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
                [Arc::new(NetworkPolicy {
                    object: object(Kind::NetworkPolicy),
                    rules: rules.into(),
                })]
                .into(),
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
}
