//! `squire policy why`: one question about two workloads, answered with every gate on the way, the object and rule that
//! decided, and for a denial the rule that came nearest to allowing it. The decision is `mesh::policy`'s; this finds the
//! two ends among the objects and puts the answer into words.

mod explain;
mod live;
mod world;

use serde::Serialize;
use squire_mesh::{
    policy::{Answer, Answers, Connection, Decision, Destination, Http, Principal, Request, Source, path},
    workload::Workload,
};

use explain::Tables;
use world::End;
pub use world::World;

/// What is asked.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// A SPIFFE ID, a workload (`namespace/name`) or an address.
    pub from: String,
    /// A workload or Service (`namespace/name`) or an address, and a port: `shop/db:5432`.
    pub to: String,
    /// Ask about an HTTP request rather than a connection.
    pub http: Option<HttpQuestion>,
    /// The connection is not mutual TLS.
    pub plaintext: bool,
}

/// The HTTP request that is asked about.
#[derive(Debug, Clone)]
pub struct HttpQuestion {
    /// Its method.
    pub method: String,
    /// Its path, as it comes.
    pub path: String,
    /// Its host.
    pub host: String,
    /// Its header fields.
    pub headers: Vec<(String, String)>,
}

/// Why a question cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum WhyError {
    /// No such workload.
    #[error("{what}: {name:?} is not among the workloads; known: {known}")]
    NotFound {
        /// Which end.
        what: &'static str,
        /// What was asked for.
        name: String,
        /// Some that exist.
        known: String,
    },
    /// No port, or not one.
    #[error("to: {0:?} has no port: write namespace/name:port")]
    Port(String),
    /// A page that is not what a control plane of this version shows.
    #[error("the control plane's /debug/objects cannot be read: {0}; is it of the same version?")]
    Page(String),
    /// A trust domain that is not one.
    #[error("the mesh settings have no valid trust domain: {0}")]
    TrustDomain(String),
}

/// The answer.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// `ALLOW` or `DENY`.
    pub verdict: &'static str,
    /// What was decided about.
    pub from: String,
    /// What was decided about.
    pub to: String,
    /// The rule or object that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The reason, as a sentence.
    pub why: String,
    /// Every gate, in the order they are passed.
    pub gates: Vec<GateLine>,
    /// For a denial: at each gate that denies, the rule that came nearest to allowing it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nearest: Vec<NearestLine>,
    /// What else a person should know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// One gate.
#[derive(Debug, Clone, Serialize)]
pub struct GateLine {
    /// Its name.
    pub gate: &'static str,
    /// `ALLOW` or `DENY`.
    pub verdict: &'static str,
    /// The rule that decided there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The reason.
    pub why: String,
}

/// The rule that came nearest, and what it wants.
#[derive(Debug, Clone, Serialize)]
pub struct NearestLine {
    /// The rule.
    pub rule: String,
    /// Each condition that failed.
    pub failed: Vec<String>,
}

impl World {
    /// Answers a question.
    ///
    /// # Errors
    /// When an end is not among the workloads.
    pub fn why(&self, question: &Question) -> Result<Explanation, WhyError> {
        let (from, to, port) = self.ends(question)?;
        let table = |workload: Option<&Workload>| workload.map(|workload| self.table(workload));
        let tables = Tables {
            source: table(from.workload),
            destination: table(to.workload),
        };
        let transport = Carrier::of(question, &from, &to, port, &tables);
        let connection = Connection {
            mutual_tls: transport == Carrier::MutualTls,
            ..Connection::default()
        };
        let source = Source {
            own_node: self.is_own_node(&from, &to),
            ..source(&from)
        };
        let request = Request::connection(source, destination(&to, port), connection).with_answers(&Agreeing);
        let mut notes = Vec::new();
        if !self.problems.is_empty() {
            let count = self.problems.len();
            notes.push(format!("{count} problems in these objects: see squire policy check"));
        }
        notes.extend(transport.note().map(str::to_owned));
        let mut explanation = match &question.http {
            None => {
                if tables.destination.as_ref().is_some_and(|table| table.needs_http(port)) {
                    notes.push("asked about a connection of bytes: for HTTP, say --method and --path".to_owned());
                }
                tables.note_providers(&request, &mut notes);
                tables.explain(&request)
            }
            Some(http) => self.why_http(http, &request, &tables, &mut notes),
        };
        explanation.from = from.name;
        explanation.to = format!("{} port {port}", to.name);
        explanation.notes = notes;
        Ok(explanation)
    }

    fn why_http(
        &self,
        http: &HttpQuestion,
        connection: &Request<'_>,
        tables: &Tables,
        notes: &mut Vec<String>,
    ) -> Explanation {
        match path::normalize(self.config().path_normalization, &http.path) {
            Err(error) => {
                notes.push(format!("the path is refused with 400: {error}"));
                tables.explain_denial(connection, Decision::bad_path())
            }
            Ok(target) => {
                if target != http.path {
                    notes.push(format!("the path is normalised to {target}"));
                }
                let seen = Http::new(&http.method, Some(&target), &http.host, &http.headers);
                let request = connection.with_http(seen);
                tables.note_providers(&request, notes);
                tables.explain(&request)
            }
        }
    }
}

/// External providers are not asked here: they are taken to allow, and a note says so.
struct Agreeing;

impl Answers for Agreeing {
    fn answer(&self, _provider: &str) -> Answer {
        Answer::Allow
    }
}

/// What the client's sidecar would start.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Carrier {
    MutualTls,
    /// Plain bytes, because the port's mode is DISABLE.
    Disabled,
    /// Plain bytes, because one end has no identity or the question says so.
    Plaintext,
}

impl Carrier {
    fn of(question: &Question, from: &End<'_>, to: &End<'_>, port: u16, tables: &Tables) -> Self {
        let able = from.id.is_some() && to.workload.is_none_or(|one| one.transport.is_mtls());
        let modes = tables.destination.as_ref().map(|table| &table.mutual_tls);
        let plaintext = modes.and_then(|modes| modes.plaintext_ports());
        match plaintext.is_some_and(|ports| ports.contains(port)) {
            _ if question.plaintext || !able => Self::Plaintext,
            true => Self::Disabled,
            false => Self::MutualTls,
        }
    }

    fn note(self) -> Option<&'static str> {
        match self {
            Self::MutualTls => None,
            Self::Disabled => Some(
                "the port is in mode DISABLE: the client's sidecar sends plain bytes, so the source has no identity that \
                 policies could match",
            ),
            Self::Plaintext => {
                Some("the connection is plaintext: the source has no identity that policies could match")
            }
        }
    }
}

fn source<'e>(from: &'e End<'_>) -> Source<'e> {
    Source {
        ip: from.ip,
        workload: from.workload.map(|workload| workload as _),
        principal: from.id.as_ref().map(Principal::from),
        own_node: false,
    }
}

fn destination<'e>(to: &'e End<'_>, port: u16) -> Destination<'e> {
    Destination {
        ip: to.ip,
        port,
        workload: to.workload.map(|workload| workload as _),
    }
}

/// Header fields from `name: value` texts.
#[must_use]
pub fn headers(texts: &[String]) -> Vec<(String, String)> {
    let split = |text: &String| {
        let (name, value) = text.split_once([':', '=']).unwrap_or((text, ""));
        (name.trim().to_ascii_lowercase(), value.trim().to_owned())
    };
    texts.iter().map(split).collect::<Vec<_>>()
}
