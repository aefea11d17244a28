//! What each peer of a NetworkPolicy asks of the far end at least, in a few words of bits, so that peers that cannot match
//! are passed over without reading their selectors. Like `sketch` for AuthorizationPolicies it only ever says "cannot
//! match": where it says nothing, `network` decides.

use super::{Far, NamespaceMatch, NetworkRule, Operator, Peer, Port, PortMatch, Requirement};
use crate::policy::sketch::{hash, mix, port_bit};

/// Fewer peers than this are looked at faster than labels are hashed.
const FEW: usize = 8;

/// Stands for "a pod that selectors can select"; no label has this bit.
const POD: u128 = 1 << 127;

/// Labels of namespaces are told from labels of pods by what their hashes start from.
const OF_POD: u64 = 0;
const OF_NAMESPACE: u64 = 1;
const NAME_OF_NAMESPACE: u64 = 2;

/// Two bits for each label of a workload, each label of its namespace, and the namespace's name. Different labels may share
/// them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelBits(u128);

impl LabelBits {
    /// Where the labels cannot be listed: rules nothing out.
    pub const UNKNOWN: Self = Self(u128::MAX);

    /// The bits of a workload in `namespace` with these labels, in a namespace with those.
    #[must_use]
    pub fn of<'l>(
        namespace: &str,
        labels: impl IntoIterator<Item = (&'l str, &'l str)>,
        namespace_labels: impl IntoIterator<Item = (&'l str, &'l str)>,
    ) -> Self {
        let listed = |start: u64, bits: u128, (key, value): (&str, &str)| bits | pair(start, key, value);
        let bits = pair(NAME_OF_NAMESPACE, namespace, "");
        let bits = labels.into_iter().fold(bits, |bits, label| listed(OF_POD, bits, label));
        let all = namespace_labels
            .into_iter()
            .fold(bits, |bits, label| listed(OF_NAMESPACE, bits, label));
        Self(all)
    }
}

/// Two bits, so that of two labels that share one the other still tells them apart.
#[inline]
fn pair(start: u64, key: &str, value: &str) -> u128 {
    let hash = mix(mix(start, hash(key.as_bytes())), hash(value.as_bytes()));
    // The highest bits of a hash depend on all of it. The last place is kept for pods.
    let bit = |place: u64| 1 << u8::try_from(place & 127).unwrap_or_default().min(126);
    bit(hash >> 57) | bit(hash >> 50)
}

/// One peer of one rule, or a rule that is open to everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lead {
    /// Bits that the far end must have.
    labels: u128,
    /// The bits of the ports that the rule may allow.
    ports: u64,
    rule: u32,
}

/// The leads of all rules, in their order.
pub(super) fn of(rules: &[NetworkRule]) -> Box<[Lead]> {
    let numbered = rules.iter().zip(0..);
    let leads = numbered.flat_map(|(rule, number)| {
        let ports = match &rule.ports {
            None => u64::MAX,
            Some(ports) => ports.iter().fold(0, |bits, port| bits | bits_of_port(port)),
        };
        let labels: Vec<u128> = match &rule.peers {
            None => vec![0],
            Some(peers) => peers.iter().map(bits_of_peer).collect(),
        };
        labels.into_iter().map(move |labels| Lead {
            labels,
            ports,
            rule: number,
        })
    });
    leads.collect()
}

fn bits_of_port(port: &PortMatch) -> u64 {
    match port {
        PortMatch::Range(_, range) if range.start() == range.end() => port_bit(*range.start()),
        PortMatch::Range(..) | PortMatch::All(_) | PortMatch::Named(..) => u64::MAX,
    }
}

fn bits_of_peer(peer: &Peer) -> u128 {
    let required = |start: u64, requirements: &[Requirement]| {
        requirements
            .iter()
            .fold(0, |bits, requirement| match &requirement.operator {
                Operator::In(values) => match &**values {
                    [value] => bits | pair(start, &requirement.key, value),
                    _ => bits,
                },
                Operator::NotIn(_) | Operator::Exists | Operator::DoesNotExist => bits,
            })
    };
    match peer {
        Peer::Block { .. } => 0,
        Peer::Pods { namespace, pods } => {
            let namespace = match namespace {
                NamespaceMatch::Own(name) => pair(NAME_OF_NAMESPACE, name, ""),
                NamespaceMatch::Selector(labels) => required(OF_NAMESPACE, &labels.0),
            };
            POD | namespace | required(OF_POD, &pods.0)
        }
    }
}

/// The same bits of a connection, worked out once for all policies.
pub(super) struct Traits {
    labels: u128,
    port: u64,
}

impl Traits {
    /// `leads`: how many will be compared with them.
    pub(super) fn of(far: Far<'_>, port: Port<'_>, leads: usize) -> Self {
        let labels = match far.workload.filter(|workload| workload.selectable()) {
            None => 0,
            Some(_) if leads < FEW => u128::MAX,
            Some(workload) => POD | workload.label_bits().0,
        };
        Self {
            labels,
            port: port_bit(port.number),
        }
    }
}

/// The first rule that may match and does, by its number.
#[inline]
pub(super) fn first(leads: &[Lead], traits: &Traits, matches: impl Fn(u32) -> bool) -> Option<u32> {
    let mut missed = None;
    for lead in leads {
        let may = lead.labels & !traits.labels == 0 && lead.ports & traits.port != 0;
        if may && missed != Some(lead.rule) {
            if matches(lead.rule) {
                return Some(lead.rule);
            }
            missed = Some(lead.rule);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, net::IpAddr};

    use super::*;
    use crate::policy::{Endpoint, LabelSelector, Protocol};

    struct Pod;

    impl Endpoint for Pod {
        fn namespace(&self) -> &str {
            "shop"
        }
        fn label(&self, key: &str) -> Option<&str> {
            (key == "app").then_some("web")
        }
        fn namespace_label(&self, key: &str) -> Option<&str> {
            (key == "team").then_some("front")
        }
        fn named_port(&self, _name: &str, _protocol: Protocol) -> Option<u16> {
            None
        }
        fn label_bits(&self) -> LabelBits {
            LabelBits::of("shop", [("app", "web")], [("team", "front")])
        }
    }

    fn labels(pairs: &[(&str, &str)]) -> LabelSelector {
        let equals = |(key, value): &(&str, &str)| Requirement {
            key: (*key).into(),
            operator: Operator::In([(*value).into()].into()),
        };
        LabelSelector(pairs.iter().map(equals).collect())
    }

    fn rule(peers: Option<Vec<Peer>>, port: Option<u16>) -> NetworkRule {
        NetworkRule {
            peers: peers.map(Into::into),
            ports: port.map(|port| [PortMatch::Range(Protocol::Tcp, port..=port)].into()),
        }
    }

    fn pods(namespace: NamespaceMatch, pairs: &[(&str, &str)]) -> Peer {
        Peer::Pods {
            namespace,
            pods: labels(pairs),
        }
    }

    /// Which rules are looked at for this far end, on port 80.
    fn looked_at(rules: &[NetworkRule], workload: Option<&dyn Endpoint>) -> Vec<u32> {
        let far = Far {
            ip: IpAddr::from([10, 0, 0, 1]),
            workload,
        };
        let port = Port {
            protocol: Protocol::Tcp,
            number: 80,
            destination: None,
        };
        let seen = RefCell::new(Vec::new());
        let leads = of(rules);
        first(&leads, &Traits::of(far, port, FEW), |rule| {
            seen.borrow_mut().push(rule);
            false
        });
        seen.into_inner()
    }

    #[test]
    fn peers_with_other_labels_and_rules_for_other_ports_are_passed_over() {
        let own = |pairs: &[(&str, &str)]| vec![pods(NamespaceMatch::Own("shop".into()), pairs)];
        let team = |team: &str| NamespaceMatch::Selector(labels(&[("team", team)]));
        let rules = [
            rule(Some(own(&[("app", "db")])), None),
            rule(Some(own(&[("app", "web")])), None),
            rule(Some(own(&[("app", "web")])), Some(8080)),
            rule(Some(vec![pods(NamespaceMatch::Own("other".into()), &[])]), None),
            rule(Some(vec![pods(team("back"), &[])]), Some(80)),
            rule(Some(vec![pods(team("front"), &[("app", "web")])]), Some(80)),
            rule(None, Some(443)),
            rule(None, None),
            rule(Some(Vec::new()), None),
        ];
        assert_eq!(looked_at(&rules, Some(&Pod)), [1, 5, 7]);
        assert_eq!(looked_at(&rules, None), [7], "selectors select pods only");
    }

    #[test]
    fn a_rule_of_several_peers_is_looked_at_once() {
        let block = || Peer::Block {
            cidr: "10.0.0.0/8".parse().unwrap(),
            except: [].into(),
        };
        let rules = [
            rule(
                Some(vec![block(), block(), pods(NamespaceMatch::Own("shop".into()), &[])]),
                None,
            ),
            rule(Some(vec![block()]), None),
        ];
        assert_eq!(looked_at(&rules, Some(&Pod)), [0, 1]);
    }

    #[test]
    fn what_cannot_be_told_from_labels_alone_rules_nothing_out() {
        let several = Requirement {
            key: "app".into(),
            operator: Operator::In(["a".into(), "b".into()].into()),
        };
        let absent = Requirement {
            key: "app".into(),
            operator: Operator::DoesNotExist,
        };
        let any = |requirement| Peer::Pods {
            namespace: NamespaceMatch::Selector(LabelSelector::default()),
            pods: LabelSelector([requirement].into()),
        };
        let rules = [
            rule(Some(vec![any(several)]), None),
            rule(Some(vec![any(absent)]), None),
        ];
        assert_eq!(looked_at(&rules, Some(&Pod)), [0, 1]);
    }
}
