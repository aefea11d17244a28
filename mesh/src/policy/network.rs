//! The NetworkPolicy half of the table (spec §1): which rules the isolating policies have, and whether one of them
//! matches a connection. It decides nothing about identities.

mod leads;

use std::{net::IpAddr, ops::RangeInclusive, sync::Arc};

pub use leads::LabelBits;
use leads::{Lead, Traits};

use super::{Cidr, Endpoint, ObjectRef, Protocol, Refusal, RuleRef};

/// One direction of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum NetworkGate {
    /// Not isolated: everything passes.
    #[default]
    Open,
    /// Isolated: the union of these policies decides. Never empty.
    Isolated(Box<[Arc<NetworkPolicy>]>),
    /// A policy that selects it cannot be understood.
    Refused(Refusal),
}

/// One policy that isolates the workload, with its rules for this direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// The object.
    pub object: Arc<ObjectRef>,
    rules: Box<[NetworkRule]>,
    /// Kept ready: what each peer asks at least.
    leads: Box<[Lead]>,
}

impl NetworkPolicy {
    /// A policy with these rules, its `ingress` or `egress` list.
    #[must_use]
    pub fn new(object: Arc<ObjectRef>, rules: Box<[NetworkRule]>) -> Self {
        Self {
            leads: leads::of(&rules),
            object,
            rules,
        }
    }

    /// Its `ingress` or `egress` list.
    #[must_use]
    pub fn rules(&self) -> &[NetworkRule] {
        &self.rules
    }
}

/// One rule: peers AND ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkRule {
    /// Any of these; none: everybody, outside the cluster too.
    pub peers: Option<Box<[Peer]>>,
    /// Any of these; none: every port of every protocol.
    pub ports: Option<Box<[PortMatch]>>,
}

/// One item of `from` or `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Pods with these labels in these namespaces.
    Pods {
        /// Which namespaces.
        namespace: NamespaceMatch,
        /// Which pods in them.
        pods: LabelSelector,
    },
    /// Addresses.
    Block {
        /// Inside this block …
        cidr: Cidr,
        /// … and in none of these.
        except: Box<[Cidr]>,
    },
}

/// Which namespaces a peer may be in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamespaceMatch {
    /// The policy's own.
    Own(Box<str>),
    /// Those with these labels.
    Selector(LabelSelector),
}

/// All requirements must hold; none: everything is selected.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelSelector(pub Box<[Requirement]>);

/// One requirement on labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: Box<str>,
    /// What is required of it.
    pub operator: Operator,
}

/// What is required of a label (spec §1.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operator {
    /// Present with one of these values.
    In(Box<[Box<str>]>),
    /// Absent, or with none of these values.
    NotIn(Box<[Box<str>]>),
    /// Present.
    Exists,
    /// Absent.
    DoesNotExist,
}

/// One item of `ports`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortMatch {
    /// Every port of the protocol.
    All(Protocol),
    /// A range of ports (a single port is a range of one).
    Range(Protocol, RangeInclusive<u16>),
    /// A container port of the destination, by name.
    Named(Protocol, Box<str>),
}

/// The far end of a connection as a rule sees it.
#[derive(Clone, Copy)]
pub(super) struct Far<'a> {
    pub(super) ip: IpAddr,
    pub(super) workload: Option<&'a dyn Endpoint>,
}

/// The port that is reached, and on whom.
#[derive(Clone, Copy)]
pub(super) struct Port<'a> {
    pub(super) protocol: Protocol,
    pub(super) number: u16,
    pub(super) destination: Option<&'a dyn Endpoint>,
}

/// The first rule that matches, if any.
pub(super) fn allowing(policies: &[Arc<NetworkPolicy>], far: Far<'_>, port: Port<'_>) -> Option<RuleRef> {
    let traits = Traits::of(far, port, policies.iter().map(|policy| policy.leads.len()).sum());
    policies.iter().find_map(|policy| {
        let rule = |index: u32| policy.rules.get(usize::try_from(index).ok()?);
        let matches = |index| rule(index).is_some_and(|rule| rule.matches(far, port));
        let index = leads::first(&policy.leads, &traits, matches)?;
        Some(RuleRef::rule(&policy.object, u16::try_from(index).unwrap_or(u16::MAX)))
    })
}

impl NetworkRule {
    fn matches(&self, far: Far<'_>, port: Port<'_>) -> bool {
        self.ports
            .as_ref()
            .is_none_or(|ports| ports.iter().any(|item| item.matches(port)))
            && self
                .peers
                .as_ref()
                .is_none_or(|peers| peers.iter().any(|peer| peer.matches(far)))
    }
}

impl Peer {
    pub(super) fn matches(&self, far: Far<'_>) -> bool {
        match self {
            Self::Block { cidr, except } => cidr.contains(far.ip) && !except.iter().any(|block| block.contains(far.ip)),
            Self::Pods { namespace, pods } => far
                .workload
                .filter(|workload| workload.selectable())
                .is_some_and(|workload| namespace.matches(workload) && pods.matches(|key| workload.label(key))),
        }
    }
}

impl NamespaceMatch {
    fn matches(&self, workload: &dyn Endpoint) -> bool {
        match self {
            Self::Own(namespace) => workload.namespace() == &**namespace,
            Self::Selector(selector) => selector.matches(|key| workload.namespace_label(key)),
        }
    }
}

impl LabelSelector {
    /// Whether all requirements hold for labels looked up with `label`.
    pub fn matches<'l>(&self, label: impl Fn(&str) -> Option<&'l str>) -> bool {
        self.0
            .iter()
            .all(|requirement| requirement.operator.holds(label(&requirement.key)))
    }
}

impl Operator {
    fn holds(&self, value: Option<&str>) -> bool {
        match self {
            Self::In(values) => value.is_some_and(|value| values.iter().any(|listed| &**listed == value)),
            Self::NotIn(values) => value.is_none_or(|value| values.iter().all(|listed| &**listed != value)),
            Self::Exists => value.is_some(),
            Self::DoesNotExist => value.is_none(),
        }
    }
}

impl PortMatch {
    pub(super) fn matches(&self, port: Port<'_>) -> bool {
        match self {
            Self::All(protocol) => *protocol == port.protocol,
            Self::Range(protocol, range) => *protocol == port.protocol && range.contains(&port.number),
            Self::Named(protocol, name) => {
                *protocol == port.protocol
                    && port.destination.and_then(|pod| pod.named_port(name, *protocol)) == Some(port.number)
            }
        }
    }
}
