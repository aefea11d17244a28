//! `squire policy eval`: one JSON line in, one JSON line out. It reads the line, compiles tables for both ends and calls
//! the proxy's decision function; it decides nothing itself.

mod line;

use serde::Serialize;
use serde_json::Value;
use squire_mesh::policy::{
    BadPath, Decision, Gates, Http, RuleRef, Table, gates,
    path::{self, PathNormalization},
};

use super::{MeshConfig, PolicySet};
use crate::manifest::{Manifest, Problem};
use line::{Ends, HttpLine, Line, Target};

/// Evaluates lines, against the policies it holds or against each line's own.
#[derive(Debug, Default)]
pub struct Evaluator {
    policies: Option<PolicySet>,
}

/// What comes out for one line.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// The verdicts.
    Decided(Box<Evaluation>),
    /// The line could not be read.
    Failed {
        /// The line's id, as far as it could be read.
        id: Value,
        /// What is wrong with it.
        error: String,
    },
}

/// The verdicts of all gates for one request.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Evaluation {
    id: Value,
    decision: &'static str,
    ingress: &'static str,
    egress: &'static str,
    mtls_mode: &'static str,
    authz: &'static str,
    audited: bool,
    shadow: Shadow,
    by: Option<By>,
    why: String,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "UPPERCASE")]
struct Shadow {
    #[serde(skip_serializing_if = "Option::is_none")]
    allow: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deny: Option<bool>,
}

#[derive(Debug, Clone, Serialize)]
struct By {
    kind: &'static str,
    namespace: String,
    name: String,
    rule: Option<u16>,
}

impl From<RuleRef> for By {
    fn from(rule: RuleRef) -> Self {
        Self {
            kind: rule.kind().as_str(),
            namespace: rule.namespace().to_owned(),
            name: rule.name().to_owned(),
            rule: rule.rule,
        }
    }
}

impl Answer {
    /// Whether the line could not be read.
    #[must_use]
    pub fn is_error(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }
}

impl Evaluator {
    /// Evaluates each line against its own policies.
    #[must_use]
    pub fn per_line() -> Self {
        Self::default()
    }

    /// Evaluates every line against these policies; lines must not bring their own.
    #[must_use]
    pub fn with_manifest(manifest: &Manifest) -> (Self, Vec<Problem>) {
        let (config, mut problems) = MeshConfig::from_objects(&manifest.objects);
        let (set, found) = PolicySet::from_objects(&manifest.objects, config);
        problems.extend(manifest.problems.iter().cloned());
        problems.extend(found);
        (Self { policies: Some(set) }, problems)
    }

    /// Evaluates every line against these policies.
    #[must_use]
    pub fn with_policies(policies: PolicySet) -> Self {
        Self {
            policies: Some(policies),
        }
    }

    /// Evaluates one line. It always answers, whatever the line holds.
    #[must_use]
    pub fn line(&self, text: &str) -> Answer {
        let value: Value = match serde_json::from_str(text) {
            Ok(value) => value,
            Err(error) => {
                return Answer::Failed {
                    id: Value::Null,
                    error: format!("not JSON: {error}"),
                };
            }
        };
        self.answer(value)
    }

    /// Evaluates one line that has been parsed. It always answers, whatever the line holds.
    #[must_use]
    pub fn answer(&self, value: Value) -> Answer {
        let id = value.get("id").cloned().unwrap_or_default();
        match self.value(value) {
            Ok(evaluation) => Answer::Decided(Box::new(Evaluation { id, ..evaluation })),
            Err(error) => Answer::Failed { id, error },
        }
    }

    fn value(&self, value: Value) -> Result<Evaluation, String> {
        let line: Line = serde_json::from_value(value).map_err(|error| format!("not a request: {error}"))?;
        match (&self.policies, line.policies.as_deref()) {
            (Some(set), None) => evaluate(set, &line),
            (Some(_), Some(_)) => {
                Err("the line has policies of its own, although policies were given with -f".to_owned())
            }
            (None, policies) => evaluate(&own_policies(&line, policies.unwrap_or_default())?, &line),
        }
    }
}

fn own_policies(line: &Line, text: &str) -> Result<PolicySet, String> {
    let manifest = Manifest::parse("policies", text);
    // An object that is refused by validation still fails closed in the set; a text that is no YAML has no objects.
    if let Some(problem) = manifest.errors().next() {
        return Err(format!("policies: {problem}"));
    }
    let config = MeshConfig::from_value(&line.mesh)?;
    Ok(PolicySet::from_objects(&manifest.objects, config).0)
}

fn evaluate(set: &PolicySet, line: &Line) -> Result<Evaluation, String> {
    let ends = Ends::try_from(&line.request)?;
    let table = |end: &line::End| end.subject().map(|subject| set.compile(&subject));
    let (source, destination) = (table(&ends.source), table(&ends.destination));
    let normalized = match ends.http {
        Some(http) => target(http, set.config().path_normalization),
        None => Ok(None),
    };
    let mode = destination
        .as_ref()
        .map(|table| table.mtls_mode(ends.port))
        .unwrap_or_default();
    let gates = match &normalized {
        Ok(target) => {
            let http = ends.http.map(|http| request_of(http, target.as_ref()));
            gates(source.as_ref(), destination.as_ref(), &ends.request(http, line))
        }
        Err(_) => refused(source.as_ref(), destination.as_ref(), &ends, line),
    };
    Ok(Evaluation::new(gates, mode.as_str()))
}

/// A malformed path is answered with 400: no rule is asked.
fn refused(source: Option<&Table>, destination: Option<&Table>, ends: &Ends<'_>, line: &Line) -> Gates {
    let mut gates = gates(source, destination, &ends.request(None, line));
    if destination.is_some() {
        gates.authorization = Decision::bad_path();
    }
    gates
}

/// The normalised target, and the authority where the target brings its own (spec §3.8.31).
fn target(http: &HttpLine, mode: PathNormalization) -> Result<Option<Target>, BadPath> {
    let raw = match http.path.as_deref() {
        None | Some("*") => return Ok(None),
        Some(_) if http.method == "CONNECT" => return Ok(None),
        Some(raw) => raw,
    };
    let absolute = raw
        .split_once("://")
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https"));
    let (authority, raw) = match absolute {
        Some((_, rest)) => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            (
                Some(authority.to_owned()),
                if path.starts_with('/') {
                    path.to_owned()
                } else {
                    format!("/{path}")
                },
            )
        }
        None => (None, raw.to_owned()),
    };
    let normalized = path::normalize(mode, &raw)?.into_owned();
    Ok(Some(Target { authority, normalized }))
}

fn request_of<'l>(http: &'l HttpLine, target: Option<&'l Target>) -> Http<'l> {
    let authority = target
        .and_then(|target| target.authority.as_deref())
        .unwrap_or(&http.authority);
    let request = Http::new(
        &http.method,
        target.map(|target| target.normalized.as_str()),
        authority,
        &http.headers,
    );
    let request = match http.remote_ip {
        Some(ip) => request.with_remote_ip(ip),
        None => request,
    };
    match &http.jwt {
        Some(jwt) => request.with_claims(&jwt.claims),
        None => request,
    }
}

impl Evaluation {
    fn new(gates: Gates, mtls_mode: &'static str) -> Self {
        let ingress = gates.ingress.verdict.as_str();
        let egress = gates.egress.verdict.as_str();
        let authz = gates.authorization.verdict.as_str();
        let audited = gates.authorization.audited.is_some();
        let shadow = Shadow {
            allow: gates.authorization.shadow.allow,
            deny: gates.authorization.shadow.deny,
        };
        let deciding = gates.into_decision();
        Self {
            id: Value::Null,
            decision: deciding.verdict.as_str(),
            ingress,
            egress,
            mtls_mode,
            authz,
            audited,
            shadow,
            why: deciding.to_string(),
            by: deciding.by.map(By::from),
        }
    }
}
