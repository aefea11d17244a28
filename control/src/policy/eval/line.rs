//! The shape of an evaluator line, and its two ends as the decision function sees them.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use squire_mesh::{
    policy::{Answer, Answers, Connection, Destination, Endpoint, Http, Principal, Protocol, Request, Source},
    spiffe::SpiffeId,
};

use crate::policy::Subject;

#[derive(Debug, Deserialize)]
pub(super) struct Line {
    #[serde(default = "empty_mesh")]
    pub(super) mesh: Value,
    pub(super) policies: Option<String>,
    pub(super) request: RequestLine,
}

fn empty_mesh() -> Value {
    Value::Object(Map::new())
}

/// `null` is the same as nothing.
fn or_nothing<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(value: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or_default())
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RequestLine {
    source: EndLine,
    destination: EndLine,
    connection: ConnectionLine,
    http: Option<HttpLine>,
    #[serde(default)]
    ext_authz: Option<BTreeMap<String, AnswerLine>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct EndLine {
    kind: KindLine,
    ip: IpAddr,
    namespace: Option<String>,
    service_account: Option<String>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    namespace_labels: Option<BTreeMap<String, String>>,
    identity: Option<String>,
    /// The node it runs on, or whose own address it is.
    node: Option<String>,
    port: Option<u16>,
    #[serde(default)]
    named_ports: Option<BTreeMap<String, NamedPortLine>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum KindLine {
    Pod,
    External,
}

#[derive(Debug, Deserialize)]
struct NamedPortLine {
    port: u16,
    #[serde(default)]
    protocol: ProtocolLine,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum ProtocolLine {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl From<ProtocolLine> for Protocol {
    fn from(line: ProtocolLine) -> Self {
        match line {
            ProtocolLine::Tcp => Self::Tcp,
            ProtocolLine::Udp => Self::Udp,
            ProtocolLine::Sctp => Self::Sctp,
        }
    }
}

#[derive(Debug, Deserialize)]
struct ConnectionLine {
    #[serde(default)]
    l4: ProtocolLine,
    tls: TlsLine,
    sni: Option<String>,
    protocol: ApplicationLine,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum TlsLine {
    Mtls,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ApplicationLine {
    Http,
    Tcp,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HttpLine {
    pub(super) method: String,
    pub(super) path: Option<String>,
    #[serde(default, deserialize_with = "or_nothing")]
    pub(super) authority: String,
    #[serde(default, deserialize_with = "or_nothing")]
    pub(super) headers: Vec<(String, String)>,
    pub(super) remote_ip: Option<IpAddr>,
    pub(super) jwt: Option<JwtLine>,
}

#[derive(Debug, Deserialize)]
pub(super) struct JwtLine {
    #[serde(default, deserialize_with = "or_nothing")]
    pub(super) claims: Map<String, Value>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum AnswerLine {
    Allow,
    Deny,
    Error,
}

/// A request target, normalised.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) authority: Option<String>,
    pub(super) normalized: String,
}

/// Both ends of a request, checked.
pub(super) struct Ends<'l> {
    pub(super) source: End<'l>,
    pub(super) destination: End<'l>,
    pub(super) port: u16,
    pub(super) http: Option<&'l HttpLine>,
    identity: Option<SpiffeId>,
    mutual_tls: bool,
}

/// One end of a request.
pub(super) struct End<'l> {
    line: &'l EndLine,
}

impl<'l> TryFrom<&'l RequestLine> for Ends<'l> {
    type Error = String;

    fn try_from(line: &'l RequestLine) -> Result<Self, String> {
        let identity = match &line.source.identity {
            Some(id) => Some(id.parse().map_err(|error| format!("source.identity {id:?}: {error}"))?),
            None => None,
        };
        let http = match (line.connection.protocol, &line.http) {
            (ApplicationLine::Http, None) => return Err("connection.protocol is http, but http is missing".to_owned()),
            (ApplicationLine::Http, Some(http)) => Some(http),
            (ApplicationLine::Tcp, _) => None,
        };
        for (name, end) in [("source", &line.source), ("destination", &line.destination)] {
            if end.kind == KindLine::Pod && end.namespace.as_deref().unwrap_or_default().is_empty() {
                return Err(format!("{name}.namespace is missing"));
            }
        }
        Ok(Self {
            source: End { line: &line.source },
            destination: End {
                line: &line.destination,
            },
            port: line.destination.port.ok_or("destination.port is missing")?,
            http,
            identity,
            mutual_tls: line.connection.tls == TlsLine::Mtls,
        })
    }
}

impl Ends<'_> {
    /// Whether the source is an address of the node that the destination runs on (spec §1.5.17).
    fn is_on_own_node(&self) -> bool {
        let (source, destination) = (self.source.line, self.destination.line);
        source.kind == KindLine::External && source.node.is_some() && source.node == destination.node
    }

    /// The request as the decision function takes it.
    pub(super) fn request<'r>(&'r self, http: Option<Http<'r>>, line: &'r Line) -> Request<'r> {
        let source = Source {
            ip: self.source.line.ip,
            workload: self.source.endpoint(),
            principal: self.identity.as_ref().map(Principal::from),
            own_node: self.is_on_own_node(),
        };
        let destination = Destination {
            ip: self.destination.line.ip,
            port: self.port,
            workload: self.destination.endpoint(),
        };
        let connection = Connection {
            protocol: line.request.connection.l4.into(),
            mutual_tls: self.mutual_tls,
            sni: line.request.connection.sni.as_deref(),
        };
        let request = Request::connection(source, destination, connection).with_answers(&line.request);
        match http {
            Some(http) => request.with_http(http),
            None => request,
        }
    }
}

impl Answers for RequestLine {
    fn answer(&self, provider: &str) -> Answer {
        match self.ext_authz.as_ref().and_then(|answers| answers.get(provider)) {
            Some(AnswerLine::Allow) => Answer::Allow,
            Some(AnswerLine::Deny) => Answer::Deny,
            Some(AnswerLine::Error) | None => Answer::Error,
        }
    }
}

impl End<'_> {
    fn endpoint(&self) -> Option<&dyn Endpoint> {
        (self.line.kind == KindLine::Pod).then_some(self.line as &dyn Endpoint)
    }

    /// The workload to compile a table for; none outside the cluster.
    pub(super) fn subject(&self) -> Option<Subject<'_>> {
        let labels = self
            .line
            .labels
            .iter()
            .flatten()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        let namespace = self.line.namespace.as_deref().unwrap_or_default();
        (self.line.kind == KindLine::Pod).then_some(Subject {
            namespace,
            labels,
            selectable: true,
        })
    }
}

impl Endpoint for EndLine {
    fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.labels.as_ref()?.get(key).map(String::as_str)
    }

    fn namespace_label(&self, key: &str) -> Option<&str> {
        let labels = self.namespace_labels.as_ref();
        let given = labels.and_then(|labels| labels.get(key)).map(String::as_str);
        // The API server sets this label on every namespace (spec §1.2.11).
        given.or_else(|| (key == "kubernetes.io/metadata.name").then(|| self.namespace()))
    }

    fn named_port(&self, name: &str, protocol: Protocol) -> Option<u16> {
        let port = self.named_ports.as_ref()?.get(name)?;
        (Protocol::from(port.protocol) == protocol).then_some(port.port)
    }

    fn may_show(&self, principal: &Principal<'_>) -> bool {
        self.service_account.as_deref().is_none_or(|account| {
            principal.service_account() == Some(account) && principal.namespace() == self.namespace.as_deref()
        })
    }
}
