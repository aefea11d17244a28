//! `networking.k8s.io/v1 NetworkPolicy`: validation and meaning (spec §1). Its rules are the same for every workload it
//! selects, so they are made once and shared.

use std::sync::Arc;

use squire_mesh::policy::{
    Cidr, LabelSelector, NamespaceMatch, NetworkPolicy, NetworkRule, ObjectRef, Peer, PortMatch, Protocol,
};

use super::{
    Body, Selects, labels,
    report::{Fields, Node, Report},
};
use crate::manifest::Object;

pub(super) fn parse(object: &Object, reference: &Arc<ObjectRef>, report: &mut Report<'_>) -> (Selects, Body) {
    let spec = report.spec(&["podSelector", "policyTypes", "ingress", "egress"]);
    let selector = spec
        .get("podSelector")
        .map(|node| labels::selector(&node, report))
        .unwrap_or_default();
    let rules = |key: &str, peers: &str, report: &mut Report<'_>| -> Box<[NetworkRule]> {
        let rules = spec.get(key).map(|list| list.list(report)).unwrap_or_default();
        rules
            .iter()
            .map(|item| rule(item, peers, object.namespace_or_default(), report))
            .collect()
    };
    let ingress = rules("ingress", "from", report);
    let egress = rules("egress", "to", report);
    let (isolates_ingress, isolates_egress) = policy_types(&spec, !egress.is_empty(), report);
    let gate = |isolates: bool, rules| isolates.then(|| Arc::new(NetworkPolicy::new(Arc::clone(reference), rules)));
    let body = Body::Network {
        ingress: gate(isolates_ingress, ingress),
        egress: gate(isolates_egress, egress),
    };
    (Selects::Labels(selector), body)
}

/// Spec §1.1.3: without a list, ingress always, egress only if there are egress rules.
fn policy_types(spec: &Fields<'_>, has_egress_rules: bool, report: &mut Report<'_>) -> (bool, bool) {
    let types = spec
        .get("policyTypes")
        .map(|list| list.list(report))
        .unwrap_or_default();
    if types.is_empty() {
        return (true, has_egress_rules);
    }
    let (mut ingress, mut egress) = (false, false);
    for node in types {
        match node.text(report) {
            Some("Ingress") => ingress = true,
            Some("Egress") => egress = true,
            Some(other) => report.error(
                &node.path,
                format!("unknown policy type {other:?}"),
                "use Ingress or Egress",
            ),
            None => {}
        }
    }
    (ingress, egress)
}

fn rule(item: &Node<'_>, peers_key: &str, namespace: &str, report: &mut Report<'_>) -> NetworkRule {
    let fields = item.fields(report, &["ports", peers_key]);
    let peers = fields.get(peers_key).map(|list| list.list(report)).unwrap_or_default();
    let ports = fields.get("ports").map(|list| list.list(report)).unwrap_or_default();
    // A part whose items are all in error must not become an open part: the object is refused then anyway.
    NetworkRule {
        peers: (!peers.is_empty()).then(|| peers.iter().filter_map(|node| peer(node, namespace, report)).collect()),
        ports: (!ports.is_empty()).then(|| ports.iter().filter_map(|node| port(node, report)).collect()),
    }
}

fn peer(node: &Node<'_>, namespace: &str, report: &mut Report<'_>) -> Option<Peer> {
    let fields = node.fields(report, &["podSelector", "namespaceSelector", "ipBlock"]);
    let pods = fields.get("podSelector").map(|node| labels::selector(&node, report));
    let namespaces = fields
        .get("namespaceSelector")
        .map(|node| labels::selector(&node, report));
    match (fields.get("ipBlock"), pods, namespaces) {
        (Some(block), None, None) => ip_block(&block, report),
        (Some(block), ..) => {
            report.error(
                &block.path,
                "ipBlock excludes podSelector and namespaceSelector",
                "make it an item of its own",
            );
            None
        }
        (None, None, None) => {
            report.error(
                &node.path,
                "a peer with nothing set",
                "set podSelector, namespaceSelector or ipBlock",
            );
            None
        }
        (None, pods, namespaces) => Some(Peer::Pods {
            namespace: namespaces.map_or_else(|| NamespaceMatch::Own(namespace.into()), NamespaceMatch::Selector),
            pods: pods.unwrap_or_else(LabelSelector::default),
        }),
    }
}

fn ip_block(node: &Node<'_>, report: &mut Report<'_>) -> Option<Peer> {
    let fields = node.fields(report, &["cidr", "except"]);
    let Some(cidr) = fields.get("cidr") else {
        report.error(
            &format!("{}.cidr", node.path),
            "missing",
            "write an address block such as 10.0.0.0/8",
        );
        return None;
    };
    let block = cidr_of(&cidr, report);
    let mut except = Vec::new();
    for node in fields.get("except").map(|list| list.list(report)).unwrap_or_default() {
        let Some(inner) = cidr_of(&node, report) else { continue };
        if block.is_some_and(|block| !block.covers(&inner) || block == inner) {
            report.error(
                &node.path,
                format!("{inner} does not lie strictly inside the cidr"),
                "name a part of the cidr",
            );
        }
        except.push(inner);
    }
    Some(Peer::Block {
        cidr: block?,
        except: except.into(),
    })
}

/// A block in CIDR notation (a bare address is not one here).
fn cidr_of(node: &Node<'_>, report: &mut Report<'_>) -> Option<Cidr> {
    let text = node.text(report)?;
    match text.parse::<Cidr>() {
        Ok(block) if text.contains('/') => {
            let host_bits = text.split('/').next().and_then(|address| address.parse().ok());
            if host_bits.is_some_and(|address: std::net::IpAddr| address.to_canonical() != block.address()) {
                report.warn(
                    &node.path,
                    format!("{text} has host bits set; it is read as {block}"),
                    format!("write {block}"),
                );
            }
            Some(block)
        }
        _ => {
            report.error(
                &node.path,
                format!("{text:?} is not an address block"),
                "write CIDR notation, such as 10.0.0.0/8 or 2001:db8::/32",
            );
            None
        }
    }
}

fn port(node: &Node<'_>, report: &mut Report<'_>) -> Option<PortMatch> {
    let fields = node.fields(report, &["protocol", "port", "endPort"]);
    let protocol = match fields.text("protocol", report) {
        None | Some("TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        Some(other) => {
            report.error(
                &format!("{}.protocol", node.path),
                format!("unknown protocol {other:?}"),
                "use TCP, UDP or SCTP",
            );
            return None;
        }
    };
    let end = fields.get("endPort");
    let Some(port) = fields.get("port") else {
        if let Some(end) = end {
            report.error(
                &end.path,
                "endPort without port",
                "set port to the first port of the range",
            );
        }
        return Some(PortMatch::All(protocol));
    };
    if let Some(name) = port.value.as_str() {
        if !is_port_name(name) {
            report.error(
                &port.path,
                format!("{name:?} is not a port name"),
                "lower-case letters, digits and '-', at most 15, with a letter; numbers without quotes",
            );
        }
        if let Some(end) = end {
            report.error(&end.path, "endPort needs a numeric port", "write the port as a number");
        }
        return Some(PortMatch::Named(protocol, name.into()));
    }
    let first = number(&port, report)?;
    let last = match end {
        None => first,
        Some(end) => {
            let last = number(&end, report)?;
            if last < first {
                report.error(
                    &end.path,
                    format!("endPort {last} is below port {first}"),
                    "write the last port of the range",
                );
                return None;
            }
            last
        }
    };
    Some(PortMatch::Range(protocol, first..=last))
}

fn number(node: &Node<'_>, report: &mut Report<'_>) -> Option<u16> {
    let number = node
        .value
        .as_u64()
        .and_then(|value| u16::try_from(value).ok())
        .filter(|port| *port > 0);
    if number.is_none() {
        report.error(
            &node.path,
            format!("{} is not a port number", node.value),
            "write a number from 1 to 65535",
        );
    }
    number
}

/// An IANA service name (RFC 6335 §5.1).
fn is_port_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && name.bytes().any(|byte| byte.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}
