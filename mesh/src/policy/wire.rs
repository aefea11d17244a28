//! The table to and from `squire.v1.Policy`. Reading is strict: what is not exactly understood is an error (the proxy then
//! keeps its last good table), never a guess, because a rule that is half read is another rule.

mod authorization;
mod network;
mod provider;
mod token;

use std::{net::IpAddr, sync::Arc};

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
mod tests;
