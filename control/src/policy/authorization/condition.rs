//! Conditions from lists of texts, and the keys of `when` (spec §3.9).

use squire_mesh::policy::{Action, Attribute, Cidr, Condition, RequestPrincipalMatch, TextMatch};

use super::{Scope, trust};
use crate::policy::report::{Node, Report};

/// Values with the path of each.
pub(super) type Texts<'v> = [(Node<'v>, &'v str)];

pub(super) fn texts(values: &Texts<'_>) -> Box<[TextMatch]> {
    values.iter().map(|(_, text)| TextMatch::parse(text)).collect()
}

pub(super) fn principals(values: &Texts<'_>, scope: &Scope<'_>) -> Attribute {
    let expanded = values
        .iter()
        .flat_map(|(_, text)| trust::expand_principal(text, scope.config));
    Attribute::Principal(expanded.map(|text| TextMatch::parse(&text)).collect())
}

pub(super) fn namespaces(values: &Texts<'_>, report: &mut Report<'_>) -> Attribute {
    for (node, text) in values {
        check_wildcards(node, text, report);
    }
    Attribute::Namespace(texts(values))
}

pub(super) fn trust_domains(values: &Texts<'_>, scope: &Scope<'_>, report: &mut Report<'_>) -> Attribute {
    for (node, text) in values {
        check_wildcards(node, text, report);
        if text.contains('/') {
            report.error(
                &node.path,
                format!("{text:?} is not a trust domain"),
                "leave out the path: only the trust domain's name",
            );
        }
    }
    let expanded = values
        .iter()
        .flat_map(|(_, text)| trust::expand_trust_domain(text, scope.config));
    Attribute::TrustDomain(expanded.map(|text| TextMatch::parse(&text)).collect())
}

/// `<account>` in the policy's namespace, or `<namespace>/<account>`; exact (spec §3.5.17).
pub(super) fn service_accounts(values: &Texts<'_>, scope: &Scope<'_>, report: &mut Report<'_>) -> Attribute {
    let mut accounts = Vec::with_capacity(values.len());
    for (node, text) in values {
        let (namespace, account) = text.split_once('/').unwrap_or((scope.namespace, text));
        let bad = namespace.is_empty() || account.is_empty() || account.contains('/') || text.contains('*');
        if bad || text.len() > 320 {
            report.error(
                &node.path,
                format!("{text:?} is not a service account"),
                "write <account> or <namespace>/<account>, without wildcards",
            );
        }
        accounts.push((namespace.into(), account.into()));
    }
    Attribute::ServiceAccount(accounts.into())
}

pub(super) fn blocks(values: &Texts<'_>, report: &mut Report<'_>) -> Box<[Cidr]> {
    let mut blocks = Vec::with_capacity(values.len());
    for (node, text) in values {
        match text.parse() {
            Ok(block) => blocks.push(block),
            Err(error) => report.error(
                &node.path,
                format!("{error}"),
                "write an address or CIDR notation, such as 10.0.0.0/8",
            ),
        }
    }
    blocks.into()
}

pub(super) fn ports(values: &Texts<'_>, report: &mut Report<'_>) -> Box<[u16]> {
    let mut ports = Vec::with_capacity(values.len());
    for (node, text) in values {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(port) if digits => ports.push(port),
            _ => report.error(
                &node.path,
                format!("{text:?} is not a port"),
                "write a number from 0 to 65535, in quotes",
            ),
        }
    }
    ports.into()
}

/// One star, at the start or the end.
fn check_wildcards(node: &Node<'_>, text: &str, report: &mut Report<'_>) {
    let literal = match text {
        "*" => "",
        _ => text
            .strip_prefix('*')
            .or_else(|| text.strip_suffix('*'))
            .unwrap_or(text),
    };
    if literal.contains('*') {
        report.error(
            &node.path,
            format!("{text:?}: only one * at the start or the end works"),
            "split it into several values",
        );
    }
}

/// One item of `when`: up to two conditions, from `values` and `notValues`.
pub(super) fn when(node: &Node<'_>, scope: &Scope<'_>, report: &mut Report<'_>) -> Vec<Condition> {
    let fields = node.fields(report, &["key", "values", "notValues"]);
    let Some(key) = fields.text("key", report).filter(|key| !key.is_empty()) else {
        report.error(
            &format!("{}.key", node.path),
            "missing",
            "name an attribute, such as request.headers[x-name]",
        );
        return Vec::new();
    };
    let lists = [
        (fields.texts("values", report), false),
        (fields.texts("notValues", report), true),
    ];
    let nothing = |key| {
        fields
            .get(key)
            .and_then(|node| node.value.as_array().map(Vec::is_empty))
            .unwrap_or(true)
    };
    if nothing("values") && nothing("notValues") {
        report.error(&node.path, "needs values or notValues", "list at least one value");
    }
    let path = format!("{}.key", node.path);
    let Some(kind) = Key::parse(key) else {
        report.error(&path, format!("unknown attribute {key:?}"), fix_for(key));
        return Vec::new();
    };
    if scope.action == Action::Custom && kind.is_identity() {
        report.error(
            &path,
            format!("{key} cannot be used with CUSTOM"),
            "use another attribute, or another action",
        );
    }
    if matches!(kind, Key::Absent) {
        report.warn(
            &path,
            format!("{key}: there are no such attributes in this mesh, it counts as missing"),
            "remove the condition",
        );
    }
    let mut conditions = Vec::new();
    for (values, negated) in lists.iter().filter(|(values, _)| !values.is_empty()) {
        let attribute = kind.attribute(key, values, scope, report);
        conditions.push(Condition {
            negated: *negated,
            attribute,
        });
    }
    conditions
}

/// What a key of `when` stands for.
enum Key<'k> {
    Header(&'k str),
    Claims(Vec<&'k str>),
    Audiences,
    Presenter,
    RequestPrincipal,
    SourceIp,
    RemoteIp,
    Namespace,
    ServiceAccount,
    Principal,
    TrustDomain,
    DestinationIp,
    DestinationPort,
    Sni,
    Absent,
}

impl<'k> Key<'k> {
    fn parse(key: &'k str) -> Option<Self> {
        Some(match key {
            "source.ip" => Self::SourceIp,
            "remote.ip" => Self::RemoteIp,
            "source.namespace" => Self::Namespace,
            "source.serviceAccount" => Self::ServiceAccount,
            "source.principal" => Self::Principal,
            "source.trustDomain" => Self::TrustDomain,
            "request.auth.principal" => Self::RequestPrincipal,
            "request.auth.audiences" => Self::Audiences,
            "request.auth.presenter" => Self::Presenter,
            "destination.ip" => Self::DestinationIp,
            "destination.port" => Self::DestinationPort,
            "connection.sni" => Self::Sni,
            _ => {
                if let Some(rest) = key.strip_prefix("request.headers") {
                    match *brackets(rest)? {
                        [name] => Self::Header(name),
                        _ => return None,
                    }
                } else if let Some(rest) = key.strip_prefix("request.auth.claims") {
                    Self::Claims(brackets(rest)?)
                } else {
                    let rest = key.strip_prefix("experimental.envoy.filters.")?;
                    let open = rest.find('[').filter(|open| *open > 0)?;
                    brackets(rest.get(open..)?)?;
                    Self::Absent
                }
            }
        })
    }

    /// Whether it is what `principals` and its like are about (spec §3.11.40).
    fn is_identity(&self) -> bool {
        match self {
            Self::Claims(_)
            | Self::Audiences
            | Self::Presenter
            | Self::RequestPrincipal
            | Self::Namespace
            | Self::ServiceAccount
            | Self::Principal
            | Self::TrustDomain => true,
            Self::Header(_)
            | Self::SourceIp
            | Self::RemoteIp
            | Self::DestinationIp
            | Self::DestinationPort
            | Self::Sni
            | Self::Absent => false,
        }
    }

    fn attribute(&self, key: &str, values: &Texts<'_>, scope: &Scope<'_>, report: &mut Report<'_>) -> Attribute {
        let claim = |path: &[&str]| {
            Attribute::Claim(Box::new((
                path.iter().map(|part| (*part).into()).collect(),
                texts(values),
            )))
        };
        match self {
            Self::Header(name) => Attribute::Header(Box::new((name.to_ascii_lowercase().into(), texts(values)))),
            Self::Claims(path) => claim(path),
            Self::Audiences => claim(&["aud"]),
            Self::Presenter => claim(&["azp"]),
            Self::RequestPrincipal => Attribute::RequestPrincipal(
                values
                    .iter()
                    .map(|(_, text)| RequestPrincipalMatch::parse(text))
                    .collect(),
            ),
            Self::SourceIp => Attribute::SourceIp(blocks(values, report)),
            Self::RemoteIp => Attribute::RemoteIp(blocks(values, report)),
            Self::DestinationIp => Attribute::DestinationIp(blocks(values, report)),
            Self::DestinationPort => Attribute::DestinationPort(ports(values, report)),
            Self::Namespace => namespaces(values, report),
            Self::ServiceAccount => service_accounts(values, scope, report),
            Self::Principal => principals(values, scope),
            Self::TrustDomain => trust_domains(values, scope, report),
            Self::Sni => Attribute::Sni(texts(values)),
            Self::Absent => Attribute::Absent(key.into()),
        }
    }
}

/// `[a][b]` taken apart; none if it is anything else, or a part is empty.
fn brackets(text: &str) -> Option<Vec<&str>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    let parts: Vec<_> = inner.split("][").collect();
    parts
        .iter()
        .all(|part| !part.is_empty() && !part.contains(['[', ']']))
        .then_some(parts)
}

fn fix_for(key: &str) -> &'static str {
    match key {
        "destination.namespace" => "the policy's own namespace decides where it applies",
        _ if key.starts_with("destination.labels") => "use spec.selector",
        "source.user" => "use source.principal",
        _ if key.starts_with("request.headers") => "write request.headers[name]",
        _ if key.starts_with("request.auth.claims") => "write request.auth.claims[name], nested as [a][b]",
        _ => {
            "use source.ip, remote.ip, source.namespace, source.serviceAccount, source.principal, source.trustDomain, \
             request.headers[…], request.auth.principal, .audiences, .presenter, .claims[…], destination.ip, \
             destination.port or connection.sni"
        }
    }
}
