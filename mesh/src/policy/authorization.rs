//! AuthorizationPolicy as data (spec §3.3): policies, rules, conditions, and what they look at. Whether they match is
//! decided in `matching`; where they came from is the control plane's business.

use std::sync::Arc;

use super::{Cidr, ObjectRef, Provider, Template, TextMatch, sketch::Sketch};

/// What a policy does with what it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Allow it.
    Allow,
    /// Deny it.
    Deny,
    /// Mark it.
    Audit,
    /// Ask a provider.
    Custom,
}

impl Action {
    /// The action as users write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
            Self::Audit => "AUDIT",
            Self::Custom => "CUSTOM",
        }
    }
}

/// One policy: it matches if any of its rules does; without rules it never matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    /// The object.
    pub object: Arc<ObjectRef>,
    /// Its rules, in their order.
    pub rules: Box<[Rule]>,
}

/// A CUSTOM policy and whom it asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomPolicy {
    /// What it matches.
    pub policy: Arc<AuthorizationPolicy>,
    /// The provider; none: unknown or in conflict with another one, which denies what matches (spec §3.11.40).
    pub provider: Option<Arc<Provider>>,
}

/// Conditions that must all hold: one item of `from` or `to`.
pub type Conditions = Box<[Condition]>;

/// One rule: any source AND any operation AND every condition of `when`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    sources: Box<[Conditions]>,
    operations: Box<[Conditions]>,
    when: Conditions,
    /// Kept ready: whether any condition anywhere is HTTP-only (spec §3.10.36).
    http_only: bool,
    /// Kept ready: what it can match at most.
    sketch: Sketch,
}

impl Rule {
    /// A rule from the items of `from` (empty: anybody), of `to` (empty: anything) and of `when`.
    #[must_use]
    pub fn new(sources: Box<[Conditions]>, operations: Box<[Conditions]>, when: Conditions) -> Self {
        let mut rule = Self {
            sources,
            operations,
            when,
            ..Self::default()
        };
        let http_only = rule.conditions().any(|condition| condition.attribute.is_http_only());
        rule.http_only = http_only;
        rule.sketch = Sketch::of(&rule);
        rule
    }

    /// Items of `from`.
    #[must_use]
    pub fn sources(&self) -> &[Conditions] {
        &self.sources
    }

    /// Items of `to`.
    #[must_use]
    pub fn operations(&self) -> &[Conditions] {
        &self.operations
    }

    /// Items of `when`.
    #[must_use]
    pub fn when(&self) -> &[Condition] {
        &self.when
    }

    /// Whether any condition anywhere in it is HTTP-only (spec §3.10.36).
    #[must_use]
    pub fn is_http_only(&self) -> bool {
        self.http_only
    }

    pub(super) fn sketch(&self) -> &Sketch {
        &self.sketch
    }

    /// Whether it may match one request and not another of the same connection.
    #[must_use]
    pub fn looks_into_requests(&self) -> bool {
        self.http_only
            || self
                .conditions()
                .any(|condition| matches!(condition.attribute, Attribute::RemoteIp(_)))
    }

    /// Whether it can match on this port at all.
    #[must_use]
    pub fn concerns_port(&self, port: u16) -> bool {
        let open = |condition: &Condition| match &condition.attribute {
            Attribute::DestinationPort(ports) => ports.contains(&port) != condition.negated,
            _ => true,
        };
        self.when.iter().all(open)
            && (self.operations.is_empty() || self.operations.iter().any(|item| item.iter().all(open)))
    }

    fn conditions(&self) -> impl Iterator<Item = &Condition> {
        self.sources.iter().chain(&self.operations).flatten().chain(&self.when)
    }
}

/// One attribute and the values it must, or must not, have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// The `not…` form: holds if no value matches, also where the attribute is missing.
    pub negated: bool,
    /// What is looked at, and the values.
    pub attribute: Attribute,
}

/// The values of a text attribute.
pub type Texts = Box<[TextMatch]>;

/// The names that lead to a claim, from the outside in.
pub type ClaimPath = Box<[Box<str>]>;

/// An attribute with the values that match it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    /// The peer's SPIFFE ID without its scheme.
    Principal(Box<[TextMatch]>),
    /// The namespace in the peer's identity.
    Namespace(Box<[TextMatch]>),
    /// Namespace and service account in the peer's identity, in any trust domain.
    ServiceAccount(Box<[(Box<str>, Box<str>)]>),
    /// The trust domain of the peer's identity.
    TrustDomain(Box<[TextMatch]>),
    /// Address of the TCP peer.
    SourceIp(Box<[Cidr]>),
    /// Client address after the trusted-hops rule.
    RemoteIp(Box<[Cidr]>),
    /// Issuer and subject of the request's token.
    RequestPrincipal(Box<[RequestPrincipalMatch]>),
    /// The workload's address.
    DestinationIp(Box<[Cidr]>),
    /// The workload's port.
    DestinationPort(Box<[u16]>),
    /// HTTP method.
    Method(Box<[TextMatch]>),
    /// `:authority` or Host, port included, whatever its case.
    Host(Box<[TextMatch]>),
    /// Normalised path without the query.
    Path(Box<[PathMatch]>),
    /// A header field, by its lower-case name.
    Header(Box<(Box<str>, Texts)>),
    /// Server name in the ClientHello.
    Sni(Box<[TextMatch]>),
    /// A claim of the request's token, by the path to it.
    Claim(Box<(ClaimPath, Texts)>),
    /// An attribute that this mesh never has (`experimental.envoy.filters.*`): always missing.
    Absent(Box<str>),
}

impl Attribute {
    /// Whether only HTTP requests have it (spec §3.10.36).
    #[must_use]
    #[inline]
    pub fn is_http_only(&self) -> bool {
        match self {
            Self::RequestPrincipal(_)
            | Self::Method(_)
            | Self::Host(_)
            | Self::Path(_)
            | Self::Header(..)
            | Self::Claim(..) => true,
            Self::Principal(_)
            | Self::Namespace(_)
            | Self::ServiceAccount(_)
            | Self::TrustDomain(_)
            | Self::SourceIp(_)
            | Self::RemoteIp(_)
            | Self::DestinationIp(_)
            | Self::DestinationPort(_)
            | Self::Sni(_)
            | Self::Absent(_) => false,
        }
    }
}

/// One value of `paths`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    /// Exact, prefix, suffix or presence.
    Text(TextMatch),
    /// A template.
    Template(Template),
}

/// One value of `requestPrincipals`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestPrincipalMatch {
    /// The `iss` claim.
    pub issuer: TextMatch,
    /// The `sub` claim.
    pub subject: TextMatch,
}

impl RequestPrincipalMatch {
    /// Reads `<iss>/<sub>`, split at the last slash (spec §3.5.20).
    #[must_use]
    pub fn parse(value: &str) -> Self {
        let exact = |text: &str| TextMatch::Exact(text.into());
        let (issuer, subject) = match value.rsplit_once('/') {
            _ if value == "*" => (TextMatch::Present, TextMatch::Present),
            Some((issuer, subject)) if value.starts_with('*') => match issuer {
                "*" => (TextMatch::Present, exact(subject)),
                _ => (TextMatch::Suffix(issuer.trim_start_matches('*').into()), exact(subject)),
            },
            Some((issuer, subject)) => (exact(issuer), TextMatch::parse(subject)),
            None if value.starts_with('*') => (TextMatch::Present, TextMatch::parse(value)),
            None if value.ends_with('*') => (TextMatch::parse(value), TextMatch::Present),
            None => (exact(value), exact("")),
        };
        Self { issuer, subject }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_principals_are_split_at_the_last_slash() {
        let exact = |text: &str| TextMatch::Exact(text.into());
        for (value, issuer, subject) in [
            ("*", TextMatch::Present, TextMatch::Present),
            ("https://i.example/x/sub", exact("https://i.example/x"), exact("sub")),
            ("*x", TextMatch::Present, TextMatch::Suffix("x".into())),
            ("x*", TextMatch::Prefix("x".into()), TextMatch::Present),
            ("*x/y", TextMatch::Suffix("x".into()), exact("y")),
            ("*/y", TextMatch::Present, exact("y")),
            ("x/y*", exact("x"), TextMatch::Prefix("y".into())),
            ("x/*", exact("x"), TextMatch::Present),
        ] {
            assert_eq!(
                RequestPrincipalMatch::parse(value),
                RequestPrincipalMatch { issuer, subject },
                "{value}"
            );
        }
    }

    #[test]
    fn a_rule_concerns_a_port_unless_every_operation_excludes_it() {
        let ports = |negated, ports: &[u16]| -> Conditions {
            [Condition {
                negated,
                attribute: Attribute::DestinationPort(ports.into()),
            }]
            .into()
        };
        let rule = Rule::new(
            [].into(),
            [ports(false, &[80]), ports(true, &[80, 81])].into(),
            [].into(),
        );
        assert!(rule.concerns_port(80) && !rule.concerns_port(81) && rule.concerns_port(82));
    }
}
