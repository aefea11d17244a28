//! Why a request was denied, for people: the allowing rule that came nearest, and which of its conditions failed. It asks
//! the same conditions that decide; it never decides itself, and (unlike deciding) it may allocate.

use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
};

use serde_json::Value;

use super::{
    Action, Attribute, AuthorizationPolicy, Cidr, Condition, Conditions, Http, LabelSelector, NamespaceMatch,
    NetworkGate, NetworkPolicy, Operator, PathMatch, Peer, PortMatch, Request, Rule, RuleRef, Table, TextMatch,
    matching::{Context, Layer, Tri},
    network::{Far, Port},
};

/// A rule that would have allowed the request, had these conditions held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nearest {
    /// The rule.
    pub rule: RuleRef,
    /// What would have to be different.
    pub failed: Vec<Failed>,
}

/// One condition that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Where in the rule: `from`, `to`, `ports`, `from.source`, `to.operation`, `when`.
    pub part: &'static str,
    /// What the rule asks for.
    pub wanted: String,
    /// What the request has.
    pub found: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: wants {}, but {}", self.part, self.wanted, self.found)
    }
}

/// The ALLOW rule that failed on the fewest conditions.
#[must_use]
pub fn nearest_allow(table: &Table, request: &Request<'_>) -> Option<Nearest> {
    let context = Context::of(request, &table.issuers);
    let nearest = |policy: &AuthorizationPolicy| {
        let rules = policy.rules.iter().enumerate().map(|(index, rule)| Nearest {
            rule: RuleRef::rule(&policy.object, u16::try_from(index).unwrap_or(u16::MAX)),
            failed: failed_in(rule, request, &context),
        });
        rules.min_by_key(|nearest| nearest.failed.len())
    };
    table
        .authorization
        .allow
        .iter()
        .filter_map(|policy| nearest(policy))
        .min_by_key(|nearest| nearest.failed.len())
}

/// The NetworkPolicy rule at the destination that failed on the fewest parts.
#[must_use]
pub fn nearest_ingress(table: &Table, request: &Request<'_>) -> Option<Nearest> {
    let far = Far {
        ip: request.source.ip,
        workload: request.source.workload,
    };
    nearest_network(&table.ingress, "from", far, request)
}

/// The NetworkPolicy rule at the source that failed on the fewest parts.
#[must_use]
pub fn nearest_egress(table: &Table, request: &Request<'_>) -> Option<Nearest> {
    let far = Far {
        ip: request.destination.ip,
        workload: request.destination.workload,
    };
    nearest_network(&table.egress, "to", far, request)
}

fn failed_in(rule: &Rule, request: &Request<'_>, context: &Context<'_, '_>) -> Vec<Failed> {
    let mut failed = Vec::new();
    if rule.is_http_only() && matches!(context.layer, Layer::Bytes) {
        failed.push(Failed {
            part: "rule",
            wanted: "an HTTP request (the rule has HTTP-only fields)".to_owned(),
            found: "the connection carries bytes".to_owned(),
        });
    }
    let of = |part, conditions: &[Condition]| -> Vec<Failed> {
        let failed = conditions
            .iter()
            .filter(|one| one.holds(Action::Allow, context) != Tri::Yes);
        failed
            .map(|one| Failed {
                part,
                wanted: one.to_string(),
                found: found(&one.attribute, request),
            })
            .collect()
    };
    let best = |part, items: &[Conditions]| {
        items
            .iter()
            .map(|item| of(part, item))
            .min_by_key(Vec::len)
            .unwrap_or_default()
    };
    failed.extend(best("from.source", rule.sources()));
    failed.extend(best("to.operation", rule.operations()));
    failed.extend(of("when", rule.when()));
    failed
}

fn nearest_network(gate: &NetworkGate, part: &'static str, far: Far<'_>, request: &Request<'_>) -> Option<Nearest> {
    let NetworkGate::Isolated(policies) = gate else {
        return None;
    };
    let port = Port {
        protocol: request.connection.protocol,
        number: request.destination.port,
        destination: request.destination.workload,
    };
    let nearest = |policy: &NetworkPolicy| {
        let rules = policy.rules().iter().enumerate().map(|(index, rule)| {
            let mut failed = Vec::new();
            if let Some(peers) = rule
                .peers
                .as_ref()
                .filter(|peers| !peers.iter().any(|peer| peer.matches(far)))
            {
                failed.push(Failed {
                    part,
                    wanted: listed(peers),
                    found: found_far(far, peers),
                });
            }
            if let Some(ports) = rule
                .ports
                .as_ref()
                .filter(|ports| !ports.iter().any(|item| item.matches(port)))
            {
                let found = format!("it is port {}/{}", port.number, port.protocol);
                failed.push(Failed {
                    part: "ports",
                    wanted: listed(ports),
                    found,
                });
            }
            Nearest {
                rule: RuleRef::rule(&policy.object, u16::try_from(index).unwrap_or(u16::MAX)),
                failed,
            }
        });
        rules.min_by_key(|nearest| nearest.failed.len())
    };
    policies
        .iter()
        .filter_map(|policy| nearest(policy))
        .min_by_key(|nearest| nearest.failed.len())
}

/// Who the far end is, with the labels that the peers ask for.
fn found_far(far: Far<'_>, peers: &[Peer]) -> String {
    let Some(workload) = far.workload else {
        return format!("{} is no workload of the mesh", far.ip);
    };
    if !workload.selectable() {
        return format!("{} has no labels of its own: selectors cannot select it", far.ip);
    }
    let (mut labels, mut of_namespace) = (BTreeSet::new(), BTreeSet::new());
    for peer in peers {
        let Peer::Pods { namespace, pods } = peer else { continue };
        labels.extend(pods.0.iter().map(|requirement| &*requirement.key));
        if let NamespaceMatch::Selector(selector) = namespace {
            of_namespace.extend(selector.0.iter().map(|requirement| &*requirement.key));
        }
    }
    let shown = |keys: BTreeSet<&str>, label: &dyn Fn(&str) -> Option<String>| -> String {
        let one = |key: &str| label(key).map_or(format!(" without {key}"), |value| format!(" with {key}={value}"));
        keys.into_iter().map(one).collect()
    };
    let own = shown(labels, &|key| workload.label(key).map(str::to_owned));
    let its_namespace = shown(of_namespace, &|key| workload.namespace_label(key).map(str::to_owned));
    format!(
        "it is {}{own} in namespace {}{its_namespace}",
        far.ip,
        workload.namespace()
    )
}

/// What the request has of an attribute.
fn found(attribute: &Attribute, request: &Request<'_>) -> String {
    let http = request.http.as_ref();
    let claims = http.and_then(|http| http.claims);
    let peer = || match request.principal() {
        Some(principal) => format!("the peer is {}", principal.as_str()),
        None => "the peer has no identity (no mutual TLS)".to_owned(),
    };
    match attribute {
        Attribute::Principal(_)
        | Attribute::Namespace(_)
        | Attribute::ServiceAccount(_)
        | Attribute::TrustDomain(_) => peer(),
        Attribute::SourceIp(_) => format!("it is {}", request.source.ip),
        Attribute::RemoteIp(_) => {
            format!(
                "it is {}",
                http.and_then(|http| http.remote_ip).unwrap_or(request.source.ip)
            )
        }
        Attribute::DestinationIp(_) => format!("it is {}", request.destination.ip),
        Attribute::DestinationPort(_) => format!("it is {}", request.destination.port),
        Attribute::Sni(_) => match request.connection.sni {
            Some(sni) => format!("it is {sni:?}"),
            None => "there is none".to_owned(),
        },
        Attribute::Method(_) => format!("it is {:?}", http.map_or("", |http| http.method)),
        Attribute::Host(_) => format!("it is {:?}", http.map_or("", |http| http.authority)),
        Attribute::Path(_) => match http.and_then(|http| http.path) {
            Some(path) => format!("it is {path:?}"),
            None => "there is none".to_owned(),
        },
        Attribute::Header(named) => found_header(&named.0, http),
        Attribute::RequestPrincipal(_) | Attribute::Claim(..) if http.is_some_and(|http| http.claims.is_none()) => {
            "the request has no validated token".to_owned()
        }
        Attribute::RequestPrincipal(_) => {
            let claim = |name| claims.and_then(|claims| claims.get(name)).and_then(Value::as_str);
            format!("it is {}/{}", claim("iss").unwrap_or("?"), claim("sub").unwrap_or("?"))
        }
        Attribute::Claim(named) => {
            let (first, nested) = named
                .0
                .split_first()
                .map_or(("", &[][..]), |(first, nested)| (&**first, nested));
            let top = claims.and_then(|claims| claims.get(first));
            match nested
                .iter()
                .try_fold(top, |value, key| Some(value?.get(&**key)))
                .flatten()
            {
                Some(value) => format!("it is {value}"),
                None => "there is none".to_owned(),
            }
        }
        Attribute::Absent(_) => "no request has it".to_owned(),
    }
}

/// The values of a header field, as many as there are.
fn found_header(name: &str, http: Option<&Http<'_>>) -> String {
    let Some(http) = http else {
        return "there is no request".to_owned();
    };
    let mut values = Vec::new();
    match name {
        ":method" => values.push(http.method.into()),
        ":authority" | "host" => values.push(http.authority.into()),
        ":path" => values.extend(http.target.map(Into::into)),
        _ => http.headers.visit(name, &mut |value| {
            values.push(String::from_utf8_lossy(value).into_owned());
            true
        }),
    }
    match &*values {
        [] => "there is none".to_owned(),
        values => format!("it is {values:?}").replace(['[', ']'], ""),
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, values) = match &self.attribute {
            Attribute::Principal(values) => ("principal".to_owned(), listed(values)),
            Attribute::Namespace(values) => ("namespace".to_owned(), listed(values)),
            Attribute::TrustDomain(values) => ("trust domain".to_owned(), listed(values)),
            Attribute::ServiceAccount(values) => {
                let accounts: Vec<_> = values
                    .iter()
                    .map(|(namespace, name)| format!("{namespace}/{name}"))
                    .collect();
                ("service account".to_owned(), accounts.join(" or "))
            }
            Attribute::SourceIp(blocks) => ("source address".to_owned(), listed(blocks)),
            Attribute::RemoteIp(blocks) => ("client address".to_owned(), listed(blocks)),
            Attribute::DestinationIp(blocks) => ("destination address".to_owned(), listed(blocks)),
            Attribute::DestinationPort(ports) => ("port".to_owned(), listed(ports)),
            Attribute::Method(values) => ("method".to_owned(), listed(values)),
            Attribute::Host(values) => ("host".to_owned(), listed(values)),
            Attribute::Path(values) => ("path".to_owned(), listed(values)),
            Attribute::Header(named) => (format!("header {}", named.0), listed(&named.1)),
            Attribute::Sni(values) => ("server name".to_owned(), listed(values)),
            Attribute::Claim(named) => (format!("claim {}", named.0.join(".")), listed(&named.1)),
            Attribute::RequestPrincipal(values) => {
                let one = |value: &super::RequestPrincipalMatch| format!("{}/{}", value.issuer, value.subject);
                (
                    "token of".to_owned(),
                    values.iter().map(one).collect::<Vec<_>>().join(" or "),
                )
            }
            Attribute::Absent(key) => (key.to_string(), String::new()),
        };
        write!(f, "{name} {}{values}", if self.negated { "other than " } else { "" })
    }
}

fn listed<T: fmt::Display>(values: &[T]) -> String {
    let mut text = String::new();
    for (index, value) in values.iter().enumerate() {
        // Writing to a String does not fail.
        let _ = write!(text, "{}{value}", if index > 0 { " or " } else { "" });
    }
    text
}

impl fmt::Display for TextMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present => f.write_str("*"),
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Suffix(text) => write!(f, "*{text}"),
        }
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => text.fmt(f),
            Self::Template(template) => template.fmt(f),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block { cidr, except } if except.is_empty() => write!(f, "addresses in {cidr}"),
            Self::Block { cidr, except } => write!(f, "addresses in {cidr} except {}", listed::<Cidr>(except)),
            Self::Pods { namespace, pods } => write!(f, "pods with {pods} in {namespace}"),
        }
    }
}

impl fmt::Display for NamespaceMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(name) => write!(f, "namespace {name}"),
            Self::Selector(labels) => write!(f, "namespaces with {labels}"),
        }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("any labels");
        }
        for (index, requirement) in self.0.iter().enumerate() {
            let key = &requirement.key;
            f.write_str(if index > 0 { " and " } else { "" })?;
            match &requirement.operator {
                Operator::In(values) if values.len() == 1 => write!(f, "{key}={}", values.concat())?,
                Operator::In(values) => write!(f, "{key} in ({})", values.join(", "))?,
                Operator::NotIn(values) => write!(f, "{key} not in ({})", values.join(", "))?,
                Operator::Exists => write!(f, "{key}")?,
                Operator::DoesNotExist => write!(f, "no {key}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for PortMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(protocol) => write!(f, "any {protocol} port"),
            Self::Named(protocol, name) => write!(f, "{name}/{protocol}"),
            Self::Range(protocol, range) if range.start() == range.end() => {
                write!(f, "{}/{protocol}", range.start())
            }
            Self::Range(protocol, range) => write!(f, "{}-{}/{protocol}", range.start(), range.end()),
        }
    }
}
