//! What is asked of the policy table: views of the source, the destination, the connection and the HTTP request. Views
//! borrow; nothing here owns, parses or verifies (an identity in a [`Source`] has been verified before it gets here).

use std::net::IpAddr;

use serde_json::{Map, Value};

use super::LabelBits;
pub use crate::workload::PortProtocol as Protocol;
use crate::{
    spiffe::SpiffeId,
    workload::{UidKind, Workload},
};

/// What the workload table says of an address.
pub trait Endpoint {
    /// The workload's namespace.
    fn namespace(&self) -> &str;
    /// The value of one of its labels.
    fn label(&self, key: &str) -> Option<&str>;
    /// The value of one of its namespace's labels.
    fn namespace_label(&self, key: &str) -> Option<&str>;
    /// The container port with this name and protocol.
    fn named_port(&self, name: &str, protocol: Protocol) -> Option<u16>;
    /// Its labels and its namespace's as bits, so that many rules are passed over quickly.
    fn label_bits(&self) -> LabelBits {
        LabelBits::UNKNOWN
    }
    /// Whether selectors can select it: not where it shares its node's network (spec §1.5.18), nor where it is a bare
    /// address. Then it counts as an address without labels.
    fn selectable(&self) -> bool {
        true
    }
    /// Whether a certificate with this identity may come from this workload's address (spec §1.6.21).
    fn may_show(&self, principal: &Principal<'_>) -> bool {
        let _ = principal;
        true
    }
}

impl Endpoint for Workload {
    fn namespace(&self) -> &str {
        &self.namespace
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key)
    }

    fn namespace_label(&self, key: &str) -> Option<&str> {
        self.namespace_labels.get(key)
    }

    fn named_port(&self, name: &str, protocol: Protocol) -> Option<u16> {
        self.named_port(name, protocol)
    }

    fn label_bits(&self) -> LabelBits {
        LabelBits::of(&self.namespace, self.labels.iter(), self.namespace_labels.iter())
    }

    fn selectable(&self) -> bool {
        !self.host_network && self.uid.kind() != UidKind::Address
    }

    fn may_show(&self, principal: &Principal<'_>) -> bool {
        self.identity
            .as_ref()
            .is_none_or(|identity| Principal::from(identity) == *principal)
    }
}

impl<'a> From<&'a SpiffeId> for Principal<'a> {
    fn from(id: &'a SpiffeId) -> Self {
        Self::new(id.as_str())
    }
}

/// A verified SPIFFE ID without its scheme, taken apart once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Principal<'a> {
    full: &'a str,
    trust_domain: &'a str,
    workload: Option<(&'a str, &'a str)>,
}

impl<'a> Principal<'a> {
    /// From the text of a valid SPIFFE ID, with or without `spiffe://`.
    #[must_use]
    pub fn new(id: &'a str) -> Self {
        let full = id.strip_prefix("spiffe://").unwrap_or(id);
        let (trust_domain, path) = full.split_once('/').unwrap_or((full, ""));
        let mut parts = path.split('/');
        let workload = match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("ns"), Some(namespace), Some("sa"), Some(account), None) => Some((namespace, account)),
            _ => None,
        };
        Self {
            full,
            trust_domain,
            workload,
        }
    }

    /// `<trust domain>/<path>`, as `principals` are written.
    #[must_use]
    pub fn as_str(&self) -> &'a str {
        self.full
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &'a str {
        self.trust_domain
    }

    /// The namespace, where the path is `/ns/<namespace>/sa/<service account>`.
    #[must_use]
    pub fn namespace(&self) -> Option<&'a str> {
        self.workload.map(|(namespace, _)| namespace)
    }

    /// The service account, where the path is `/ns/<namespace>/sa/<service account>`.
    #[must_use]
    pub fn service_account(&self) -> Option<&'a str> {
        self.workload.map(|(_, account)| account)
    }
}

/// The end that opens the connection.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The address of the TCP peer.
    pub ip: IpAddr,
    /// The workload at that address; none: outside the cluster.
    pub workload: Option<&'a dyn Endpoint>,
    /// The identity in its verified certificate; none without mutual TLS.
    pub principal: Option<Principal<'a>>,
    /// Whether the address is the destination's own node, according to the control plane.
    pub own_node: bool,
}

impl<'a> Source<'a> {
    /// An unauthenticated address outside the cluster.
    #[must_use]
    pub fn external(ip: IpAddr) -> Self {
        Self {
            ip,
            workload: None,
            principal: None,
            own_node: false,
        }
    }

    /// The address of a workload.
    #[must_use]
    pub fn workload(ip: IpAddr, workload: &'a dyn Endpoint) -> Self {
        Self {
            ip,
            workload: Some(workload),
            principal: None,
            own_node: false,
        }
    }

    /// The same with a verified identity.
    #[must_use]
    pub fn with_principal(self, principal: Principal<'a>) -> Self {
        Self {
            principal: Some(principal),
            ..self
        }
    }
}

/// The end that is reached.
#[derive(Clone, Copy)]
pub struct Destination<'a> {
    /// Its address.
    pub ip: IpAddr,
    /// The workload's port (never the Service's).
    pub port: u16,
    /// The workload at that address; none: outside the cluster.
    pub workload: Option<&'a dyn Endpoint>,
}

/// What is known of the connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct Connection<'a> {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Whether it is mesh mutual TLS.
    pub mutual_tls: bool,
    /// Server name in the ClientHello.
    pub sni: Option<&'a str>,
}

/// The header fields of a request.
pub trait Headers {
    /// Calls `visit` with each value of the field named `name` (lower case), in order, until it returns false.
    fn visit(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool);
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> Headers for [(N, V)] {
    fn visit(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) {
        for (field, value) in self {
            if field.as_ref().eq_ignore_ascii_case(name.as_bytes()) && !visit(value.as_ref()) {
                return;
            }
        }
    }
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> Headers for Vec<(N, V)> {
    fn visit(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) {
        self.as_slice().visit(name, visit);
    }
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>, const L: usize> Headers for [(N, V); L] {
    fn visit(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) {
        self.as_slice().visit(name, visit);
    }
}

/// One HTTP request, with its target normalised already (see [`super::path`]).
#[derive(Clone, Copy)]
pub struct Http<'a> {
    pub(super) method: &'a str,
    pub(super) target: Option<&'a str>,
    pub(super) path: Option<&'a str>,
    pub(super) authority: &'a str,
    pub(super) headers: &'a dyn Headers,
    pub(super) remote_ip: Option<IpAddr>,
    pub(super) claims: Option<&'a Map<String, Value>>,
}

impl<'a> Http<'a> {
    /// A request. `target` is the normalised path with its query, exactly as it will be forwarded; none where there is
    /// no path (CONNECT, `OPTIONS *`). `authority` is `:authority` or Host, port included.
    #[must_use]
    pub fn new(method: &'a str, target: Option<&'a str>, authority: &'a str, headers: &'a dyn Headers) -> Self {
        let path = target.map(|target| target.split_once('?').map_or(target, |(path, _)| path));
        Self {
            method,
            target,
            path,
            authority,
            headers,
            remote_ip: None,
            claims: None,
        }
    }

    /// The client address after the trusted-hops rule; without it the TCP peer's address counts.
    #[must_use]
    pub fn with_remote_ip(self, ip: IpAddr) -> Self {
        Self {
            remote_ip: Some(ip),
            ..self
        }
    }

    /// The claims of the request's validated token.
    #[must_use]
    pub fn with_claims(self, claims: &'a Map<String, Value>) -> Self {
        Self {
            claims: Some(claims),
            ..self
        }
    }
}

/// What an external authorization provider said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It allows the request.
    Allow,
    /// It denies the request.
    Deny,
    /// It could not be asked or did not answer.
    Error,
}

/// The answers of external providers, asked beforehand (see [`super::Table::providers_to_ask`]).
pub trait Answers {
    /// What the provider said of this request; a provider that was not asked is an [`Answer::Error`].
    fn answer(&self, provider: &str) -> Answer;
}

/// Nobody was asked.
#[derive(Debug, Clone, Copy)]
pub struct Unanswered;

impl Answers for Unanswered {
    fn answer(&self, _provider: &str) -> Answer {
        Answer::Error
    }
}

/// One question to the policy.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// Who opens the connection.
    pub source: Source<'a>,
    /// Who is reached.
    pub destination: Destination<'a>,
    /// How.
    pub connection: Connection<'a>,
    /// The HTTP request; none: the connection carries bytes (or its first request has not been read).
    pub http: Option<Http<'a>>,
    /// What external providers answered.
    pub answers: &'a dyn Answers,
}

impl<'a> Request<'a> {
    /// A connection of bytes.
    #[must_use]
    pub fn connection(source: Source<'a>, destination: Destination<'a>, connection: Connection<'a>) -> Self {
        Self {
            source,
            destination,
            connection,
            http: None,
            answers: &Unanswered,
        }
    }

    /// One HTTP request on that connection.
    #[must_use]
    pub fn with_http(self, http: Http<'a>) -> Self {
        Self {
            http: Some(http),
            ..self
        }
    }

    /// The same with the answers of external providers.
    #[must_use]
    pub fn with_answers(self, answers: &'a dyn Answers) -> Self {
        Self { answers, ..self }
    }

    /// The identity that counts: only mutual TLS gives one (spec §2.3.11).
    pub(super) fn principal(&self) -> Option<&Principal<'a>> {
        if self.connection.mutual_tls {
            self.source.principal.as_ref()
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_is_taken_apart_only_in_the_five_part_form() {
        let principal = Principal::new("spiffe://cluster.local/ns/shop/sa/web");
        assert_eq!(principal.as_str(), "cluster.local/ns/shop/sa/web");
        assert_eq!(principal.trust_domain(), "cluster.local");
        assert_eq!(
            (principal.namespace(), principal.service_account()),
            (Some("shop"), Some("web"))
        );
        for other in ["td/ns/shop/sa/web/x", "td/x/shop/sa/web", "td/ns/shop", "td", "td/path"] {
            let principal = Principal::new(other);
            assert_eq!(
                (principal.namespace(), principal.service_account()),
                (None, None),
                "{other}"
            );
            assert_eq!(principal.trust_domain(), "td");
        }
    }

    #[test]
    fn the_path_ends_where_the_query_begins() {
        let headers: [(&str, &str); 0] = [];
        assert_eq!(Http::new("GET", Some("/a?b?c"), "h", &headers).path, Some("/a"));
        assert_eq!(Http::new("GET", None, "h", &headers).path, None);
    }
}
