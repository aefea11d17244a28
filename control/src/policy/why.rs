//! `squire policy why`: one question about two workloads, answered with every gate on the way, the object and rule that
//! decided, and for a denial the rule that came nearest to allowing it. The decision is `mesh::policy`'s; this finds the
//! two ends among the objects and puts the answer into words.

mod live;

use std::net::IpAddr;

use serde::Serialize;
use squire_mesh::{
    policy::{
        Connection, Decision, Destination, Http, Nearest, Principal, Request, Source, Table, Why, gates, nearest_allow,
        nearest_egress, nearest_ingress, path,
    },
    spiffe::{SpiffeId, TrustDomain},
    workload::{Interner, UidKind, Workload},
};

use super::{MeshConfig, PolicySet};
use crate::{
    compile::{self, Mesh, Settings},
    facts,
    inventory::Inventory,
    manifest::{Manifest, Problem},
};

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

/// The objects behind an answer: workloads, Services and policies.
pub struct World {
    mesh: Mesh,
    policies: PolicySet,
    /// What is wrong with the objects.
    pub problems: Vec<Problem>,
}

impl World {
    /// From manifests.
    ///
    /// # Errors
    /// When the settings name no valid trust domain.
    pub fn from_manifest(manifest: &Manifest) -> Result<Self, WhyError> {
        let (config, mut problems) = MeshConfig::from_objects(&manifest.objects);
        let trust_domain: TrustDomain = config
            .trust_domain
            .parse()
            .map_err(|error| WhyError::TrustDomain(format!("{error}")))?;
        problems.extend(manifest.problems.iter().cloned());
        let mut interner = Interner::default();
        let mut inventory = Inventory::default();
        for object in &manifest.objects {
            match facts::read(&object.api_version, &object.kind, object.value.clone(), &mut interner) {
                Ok(Some(fact)) => {
                    inventory.add(fact.into());
                }
                Ok(None) => {}
                Err(error) => {
                    let path = error.path().unwrap_or_default().to_owned();
                    problems.push(object.problem(crate::manifest::Severity::Error, &path, error.why(), ""));
                }
            }
        }
        let settings = Settings {
            trust_domain,
            cluster_domain: "cluster.local".to_owned(),
        };
        let mesh = compile::mesh(&inventory, &settings, &mut interner);
        let (policies, found) = PolicySet::from_objects(&manifest.objects, config);
        problems.extend(found);
        Ok(Self {
            mesh,
            policies,
            problems,
        })
    }

    /// From what a running control plane shows at `/debug/objects`, in the trust domain it signs for.
    ///
    /// # Errors
    /// When the page is not one of this version.
    pub fn from_control_plane(page: &str) -> Result<Self, WhyError> {
        let (mesh, objects) = live::read(page).map_err(WhyError::Page)?;
        let (mut config, mut problems) = MeshConfig::from_objects(&objects);
        if let Some(id) = mesh.workloads.values().find_map(|workload| workload.identity.as_ref()) {
            config.trust_domain = id.trust_domain().as_str().to_owned();
        }
        let (policies, found) = PolicySet::from_objects(&objects, config);
        problems.extend(found);
        Ok(Self {
            mesh,
            policies,
            problems,
        })
    }

    /// Answers a question.
    ///
    /// # Errors
    /// When an end is not among the workloads.
    pub fn why(&self, question: &Question) -> Result<Explanation, WhyError> {
        let from = self.source(&question.from)?;
        let (to, port) = self.destination(&question.to)?;
        let mutual_tls =
            !question.plaintext && from.id.is_some() && to.workload.is_none_or(|one| one.transport.is_mtls());
        let source = Source {
            ip: from.ip,
            workload: from.workload.map(|workload| workload as _),
            principal: from.id.as_ref().map(Principal::from),
            own_node: false,
        };
        let destination = Destination {
            ip: to.ip,
            port,
            workload: to.workload.map(|workload| workload as _),
        };
        let connection = Connection {
            mutual_tls,
            ..Connection::default()
        };
        let request = Request::connection(source, destination, connection);
        let table = |workload: Option<&Workload>| workload.map(|workload| self.policies.compile(&workload.into()));
        let tables = Tables {
            source: table(from.workload),
            destination: table(to.workload),
        };

        let mut notes = Vec::new();
        if !self.problems.is_empty() {
            let count = self.problems.len();
            notes.push(format!("{count} problems in these objects: see squire policy check"));
        }
        if !mutual_tls {
            notes.push("the connection is plaintext: the source has no identity that policies could match".to_owned());
        }
        let mut explanation = match &question.http {
            None => {
                if tables.destination.as_ref().is_some_and(|table| table.needs_http(port)) {
                    notes.push("asked about a connection of bytes: for HTTP, say --method and --path".to_owned());
                }
                tables.explain(&request)
            }
            Some(http) => match path::normalize(self.policies.config().path_normalization, &http.path) {
                Err(error) => {
                    notes.push(format!("the path is refused with 400: {error}"));
                    tables.explain_denial(&request, Decision::bad_path())
                }
                Ok(target) => {
                    if target != http.path {
                        notes.push(format!("the path is normalised to {target}"));
                    }
                    let seen = Http::new(&http.method, Some(&target), &http.host, &http.headers);
                    tables.explain(&request.with_http(seen))
                }
            },
        };
        explanation.from = from.name;
        explanation.to = format!("{} port {port}", to.name);
        explanation.notes = notes;
        Ok(explanation)
    }

    fn source(&self, name: &str) -> Result<End<'_>, WhyError> {
        if let Ok(id) = name.parse::<SpiffeId>() {
            let workload = self
                .mesh
                .workloads
                .values()
                .find(|workload| workload.identity.as_ref() == Some(&id));
            let ip = workload
                .and_then(|workload| workload.addresses.first().copied())
                .unwrap_or(NOWHERE);
            let shown = workload.map_or_else(
                || format!("{id} (no workload has it)"),
                |workload| format!("{id} ({})", workload.uid),
            );
            return Ok(End {
                name: shown,
                ip,
                workload,
                id: Some(id),
            });
        }
        let end = self.end("from", name)?;
        let id = end
            .workload
            .filter(|workload| workload.transport.is_mtls())
            .and_then(|workload| workload.identity.clone());
        Ok(End { id, ..end })
    }

    fn destination(&self, text: &str) -> Result<(End<'_>, u16), WhyError> {
        let (name, port) = text.rsplit_once(':').ok_or_else(|| WhyError::Port(text.to_owned()))?;
        let number = port.parse::<u16>().ok();
        let backing = self
            .mesh
            .workloads
            .values()
            .find_map(|workload| Some((workload, workload.membership(name)?)));
        let known = self
            .mesh
            .workloads
            .values()
            .any(|workload| workload.uid.as_str() == name);
        if let Some((workload, membership)) = backing.filter(|_| !known) {
            let pair = membership.ports.iter().find(|pair| Some(pair.service_port) == number);
            let target = pair
                .map(|pair| pair.target_port)
                .or(number)
                .ok_or_else(|| WhyError::Port(text.to_owned()))?;
            let name = format!("{} behind Service {name}", workload.uid);
            return Ok((
                End {
                    name,
                    ..End::of(workload)
                },
                target,
            ));
        }
        let end = self.end("to", name)?;
        let named = end
            .workload
            .and_then(|workload| workload.named_port(port, Default::default()));
        let port = number.or(named).ok_or_else(|| WhyError::Port(text.to_owned()))?;
        Ok((end, port))
    }

    fn end(&self, what: &'static str, name: &str) -> Result<End<'_>, WhyError> {
        if let Ok(ip) = name.trim_matches(['[', ']']).parse::<IpAddr>() {
            let workload = self
                .mesh
                .workloads
                .values()
                .find(|workload| workload.addresses.contains(&ip));
            let shown = workload.map_or_else(
                || format!("{ip} (no workload)"),
                |workload| format!("{ip} ({})", workload.uid),
            );
            return Ok(End {
                name: shown,
                ip,
                workload,
                id: None,
            });
        }
        let workloads = || {
            self.mesh
                .workloads
                .values()
                .filter(|workload| workload.uid.kind() != UidKind::Address)
        };
        let owner = |workload: &&Workload| {
            let owner = workload
                .owner
                .as_ref()
                .map(|owner| format!("{}/{}", workload.namespace, owner.name));
            owner.as_deref() == Some(name)
        };
        let found = workloads()
            .find(|workload| workload.uid.as_str() == name)
            .or_else(|| workloads().find(owner));
        found.map(End::of).ok_or_else(|| WhyError::NotFound {
            what,
            name: name.to_owned(),
            known: workloads()
                .take(10)
                .map(|workload| workload.uid.to_string())
                .collect::<Vec<_>>()
                .join(", "),
        })
    }
}

/// An address that no workload has (RFC 5737), for identities without a workload.
const NOWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

struct End<'w> {
    name: String,
    ip: IpAddr,
    workload: Option<&'w Workload>,
    id: Option<SpiffeId>,
}

impl<'w> End<'w> {
    fn of(workload: &'w Workload) -> Self {
        let ip = workload.addresses.first().copied().unwrap_or(NOWHERE);
        Self {
            name: workload.uid.to_string(),
            ip,
            workload: Some(workload),
            id: None,
        }
    }
}

struct Tables {
    source: Option<Table>,
    destination: Option<Table>,
}

impl Tables {
    fn explain(&self, request: &Request<'_>) -> Explanation {
        self.answer(request, None)
    }

    fn explain_denial(&self, request: &Request<'_>, denial: Decision) -> Explanation {
        self.answer(request, Some(denial))
    }

    fn answer(&self, request: &Request<'_>, authorization: Option<Decision>) -> Explanation {
        let mut gates = gates(self.source.as_ref(), self.destination.as_ref(), request);
        gates.authorization = authorization.unwrap_or(gates.authorization);
        let lines = [
            ("NetworkPolicy egress", &gates.egress),
            ("NetworkPolicy ingress", &gates.ingress),
            ("PeerAuthentication", &gates.peer_authentication),
            ("AuthorizationPolicy", &gates.authorization),
        ];
        let lines = lines.map(|(gate, decision)| GateLine {
            gate,
            verdict: decision.verdict.as_str(),
            by: decision.by.as_ref().map(ToString::to_string),
            why: decision.why.to_string(),
        });
        let denials = [&gates.egress, &gates.ingress, &gates.authorization];
        let nearest = denials
            .into_iter()
            .filter_map(|decision| self.nearest(decision, request));
        let nearest = nearest.map(NearestLine::from).collect();
        let decision = gates.into_decision();
        Explanation {
            verdict: decision.verdict.as_str(),
            from: String::new(),
            to: String::new(),
            nearest,
            by: decision.by.map(|by| by.to_string()),
            why: decision.why.to_string(),
            gates: lines.into(),
            notes: Vec::new(),
        }
    }

    fn nearest(&self, decision: &Decision, request: &Request<'_>) -> Option<Nearest> {
        match decision.why {
            Why::EgressNotAllowed => nearest_egress(self.source.as_ref()?, request),
            Why::IngressNotAllowed => nearest_ingress(self.destination.as_ref()?, request),
            Why::NoAllowRule => nearest_allow(self.destination.as_ref()?, request),
            _ => None,
        }
    }
}

impl From<Nearest> for NearestLine {
    fn from(nearest: Nearest) -> Self {
        Self {
            rule: nearest.rule.to_string(),
            failed: nearest.failed.iter().map(ToString::to_string).collect(),
        }
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
