//! The NetworkPolicy part of the table to and from the wire.

use std::sync::Arc;

use super::{
    WireError, block, invalid, list, object, port_number, refusal, unknown, write_block, write_object, write_refusal,
};
use crate::{
    policy::{
        LabelSelector, NamespaceMatch, NetworkGate, NetworkPolicy, NetworkRule, Operator, Peer, PortMatch, Protocol,
        Requirement,
    },
    wire::squire::{self as wire, network_gate::State, network_peer, port_match},
};

pub(super) fn gate(message: wire::NetworkGate) -> Result<NetworkGate, WireError> {
    match message.state.ok_or(WireError::Missing("network gate state"))? {
        State::Open(_) => Ok(NetworkGate::Open),
        State::Isolated(isolated) => Ok(NetworkGate::Isolated(list(isolated.policies, |message| {
            policy(message).map(Arc::new)
        })?)),
        State::Refused(message) => Ok(NetworkGate::Refused(refusal(message)?)),
    }
}

pub(super) fn write_gate(gate: &NetworkGate) -> wire::NetworkGate {
    let state = match gate {
        NetworkGate::Open => State::Open(wire::network_gate::Open {}),
        NetworkGate::Isolated(policies) => State::Isolated(wire::network_gate::Isolated {
            policies: policies.iter().map(|policy| write_policy(policy)).collect(),
        }),
        NetworkGate::Refused(refusal) => State::Refused(write_refusal(refusal)),
    };
    wire::NetworkGate { state: Some(state) }
}

fn policy(message: wire::NetworkPolicyRules) -> Result<NetworkPolicy, WireError> {
    let object = object(message.object.ok_or(WireError::Missing("network policy object"))?)?;
    Ok(NetworkPolicy::new(object, list(message.rules, rule)?))
}

fn write_policy(policy: &NetworkPolicy) -> wire::NetworkPolicyRules {
    wire::NetworkPolicyRules {
        object: Some(write_object(&policy.object)),
        rules: policy.rules().iter().map(write_rule).collect(),
    }
}

fn rule(message: wire::NetworkRule) -> Result<NetworkRule, WireError> {
    Ok(NetworkRule {
        peers: message.peers.map(|peers| list(peers.peers, peer)).transpose()?,
        ports: message.ports.map(|ports| list(ports.ports, port)).transpose()?,
    })
}

fn write_rule(rule: &NetworkRule) -> wire::NetworkRule {
    wire::NetworkRule {
        peers: rule.peers.as_ref().map(|peers| wire::network_rule::Peers {
            peers: peers.iter().map(write_peer).collect(),
        }),
        ports: rule.ports.as_ref().map(|ports| wire::network_rule::Ports {
            ports: ports.iter().map(write_port).collect(),
        }),
    }
}

fn peer(message: wire::NetworkPeer) -> Result<Peer, WireError> {
    use network_peer::{Peer as Wire, pods::Namespace};
    match message.peer.ok_or(WireError::Missing("network peer"))? {
        Wire::Block(message) => Ok(Peer::Block {
            cidr: block(message.cidr.ok_or(WireError::Missing("CIDR"))?)?,
            except: list(message.except, block)?,
        }),
        Wire::Pods(pods) => Ok(Peer::Pods {
            namespace: match pods.namespace.ok_or(WireError::Missing("peer namespace"))? {
                Namespace::OwnNamespace(name) => NamespaceMatch::Own(name.into()),
                Namespace::Namespaces(labels) => NamespaceMatch::Selector(selector(labels)?),
            },
            pods: selector(pods.pods.ok_or(WireError::Missing("pod selector"))?)?,
        }),
    }
}

fn write_peer(peer: &Peer) -> wire::NetworkPeer {
    use network_peer::{Block, Peer as Wire, Pods, pods::Namespace};
    let peer = match peer {
        Peer::Block { cidr, except } => Wire::Block(Block {
            cidr: Some(write_block(cidr)),
            except: except.iter().map(write_block).collect(),
        }),
        Peer::Pods { namespace, pods } => Wire::Pods(Pods {
            namespace: Some(match namespace {
                NamespaceMatch::Own(name) => Namespace::OwnNamespace(name.to_string()),
                NamespaceMatch::Selector(labels) => Namespace::Namespaces(write_selector(labels)),
            }),
            pods: Some(write_selector(pods)),
        }),
    };
    wire::NetworkPeer { peer: Some(peer) }
}

fn selector(message: wire::LabelSelector) -> Result<LabelSelector, WireError> {
    Ok(LabelSelector(list(message.requirements, requirement)?))
}

fn write_selector(selector: &LabelSelector) -> wire::LabelSelector {
    wire::LabelSelector {
        requirements: selector.0.iter().map(write_requirement).collect(),
    }
}

fn requirement(message: wire::LabelRequirement) -> Result<Requirement, WireError> {
    use wire::LabelOperator as Wire;
    let values = message.values.into_iter().map(Into::into).collect();
    let operator = match Wire::try_from(message.operator) {
        Ok(Wire::In) => Operator::In(values),
        Ok(Wire::NotIn) => Operator::NotIn(values),
        Ok(Wire::Exists) => Operator::Exists,
        Ok(Wire::DoesNotExist) => Operator::DoesNotExist,
        Ok(Wire::Unspecified) | Err(_) => return Err(unknown("label operator", message.operator)),
    };
    Ok(Requirement {
        key: message.key.into(),
        operator,
    })
}

fn write_requirement(requirement: &Requirement) -> wire::LabelRequirement {
    use wire::LabelOperator as Wire;
    let (operator, values) = match &requirement.operator {
        Operator::In(values) => (Wire::In, &**values),
        Operator::NotIn(values) => (Wire::NotIn, &**values),
        Operator::Exists => (Wire::Exists, &[][..]),
        Operator::DoesNotExist => (Wire::DoesNotExist, &[][..]),
    };
    wire::LabelRequirement {
        key: requirement.key.to_string(),
        operator: operator.into(),
        values: values.iter().map(ToString::to_string).collect(),
    }
}

fn port(message: wire::PortMatch) -> Result<PortMatch, WireError> {
    let protocol = match wire::PortProtocol::try_from(message.protocol) {
        Ok(wire::PortProtocol::Tcp) => Protocol::Tcp,
        Ok(wire::PortProtocol::Udp) => Protocol::Udp,
        Ok(wire::PortProtocol::Sctp) => Protocol::Sctp,
        Err(_) => return Err(unknown("protocol", message.protocol)),
    };
    match message.port.ok_or(WireError::Missing("port"))? {
        port_match::Port::All(_) => Ok(PortMatch::All(protocol)),
        port_match::Port::Name(name) => Ok(PortMatch::Named(protocol, name.into())),
        port_match::Port::Range(range) => {
            let (first, last) = (port_number(range.first)?, port_number(range.last)?);
            if first > last {
                return Err(invalid("port range", format!("{first}-{last}")));
            }
            Ok(PortMatch::Range(protocol, first..=last))
        }
    }
}

fn write_port(port: &PortMatch) -> wire::PortMatch {
    let (protocol, port) = match port {
        PortMatch::All(protocol) => (protocol, port_match::Port::All(port_match::All {})),
        PortMatch::Named(protocol, name) => (protocol, port_match::Port::Name(name.to_string())),
        PortMatch::Range(protocol, range) => {
            let range = port_match::Range {
                first: (*range.start()).into(),
                last: (*range.end()).into(),
            };
            (protocol, port_match::Port::Range(range))
        }
    };
    let protocol = match protocol {
        Protocol::Tcp => wire::PortProtocol::Tcp,
        Protocol::Udp => wire::PortProtocol::Udp,
        Protocol::Sctp => wire::PortProtocol::Sctp,
    };
    wire::PortMatch {
        protocol: protocol.into(),
        port: Some(port),
    }
}
