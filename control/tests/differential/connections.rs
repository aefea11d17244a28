//! What may be said of a connection before its first request, against what is then decided of each request on it: random
//! policies, one random connection, many random requests. Nothing here knows how the answer is found.

use std::cell::RefCell;

use serde_json::{Map, Value};
use squire_control::policy::{PolicySet, Subject};
use squire_mesh::policy::{
    Answer, Answers, Connection, Decision, Destination, Endpoint, Http, LabelBits, OnConnection, PathNormalization,
    Principal, Protocol, Request, Shadow, Source, Table, Verdict, decide, decide_connection, decide_inbound, path,
};

use super::generate::{self, Random};

/// Requests drawn on each connection.
const REQUESTS: usize = 8;

/// One end of a generated request that is a pod.
pub(crate) struct Pod<'j>(&'j Value);

impl Endpoint for Pod<'_> {
    fn namespace(&self) -> &str {
        self.0["namespace"].as_str().unwrap()
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.0["labels"].get(key)?.as_str()
    }

    fn namespace_label(&self, key: &str) -> Option<&str> {
        self.0["namespaceLabels"].get(key)?.as_str()
    }

    fn label_bits(&self) -> LabelBits {
        let labels = |field: &str| {
            let labels = self.0.get(field).and_then(Value::as_object);
            labels
                .into_iter()
                .flatten()
                .map(|(key, value)| (key.as_str(), value.as_str().unwrap()))
        };
        LabelBits::of(self.namespace(), labels("labels"), labels("namespaceLabels"))
    }

    fn named_port(&self, name: &str, protocol: Protocol) -> Option<u16> {
        let port = self.0.get("namedPorts")?.get(name)?;
        (port["protocol"] == protocol.to_string()).then(|| u16::try_from(port["port"].as_u64().unwrap()).unwrap())
    }
}

/// The answers that providers would give, and whom the decision asked for.
pub(crate) struct Provided<'j> {
    answers: &'j Value,
    asked: RefCell<Vec<String>>,
}

impl<'j> Provided<'j> {
    pub(crate) fn new(answers: &'j Value) -> Self {
        Self {
            answers,
            asked: RefCell::default(),
        }
    }
}

impl Answers for Provided<'_> {
    fn answer(&self, provider: &str) -> Answer {
        self.asked.borrow_mut().push(provider.to_owned());
        match self.answers[provider].as_str() {
            Some("allow") => Answer::Allow,
            Some("deny") => Answer::Deny,
            _ => Answer::Error,
        }
    }
}

/// An HTTP request, with its target as it would be forwarded.
pub(crate) struct Drawn {
    method: String,
    target: Option<String>,
    authority: String,
    headers: Vec<(String, String)>,
    remote_ip: Option<std::net::IpAddr>,
    claims: Option<Map<String, Value>>,
}

impl Drawn {
    /// None: its path is answered with 400 before any rule is asked.
    pub(crate) fn new(http: &Value, mode: PathNormalization) -> Option<Self> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let target = match http["path"].as_str() {
            Some(path) if http["method"] != "CONNECT" => Some(path::normalize(mode, path).ok()?.into_owned()),
            _ => None,
        };
        let pair = |pair: &Value| (text(&pair[0]), text(&pair[1]));
        Some(Self {
            method: text(&http["method"]),
            target,
            authority: text(&http["authority"]),
            headers: http["headers"].as_array().unwrap().iter().map(pair).collect(),
            remote_ip: http.get("remoteIp").map(|ip| ip.as_str().unwrap().parse().unwrap()),
            claims: http.get("jwt").map(|jwt| jwt["claims"].as_object().unwrap().clone()),
        })
    }

    pub(crate) fn view(&self) -> Http<'_> {
        let mut http = Http::new(&self.method, self.target.as_deref(), &self.authority, &self.headers);
        if let Some(ip) = self.remote_ip {
            http = http.with_remote_ip(ip);
        }
        match &self.claims {
            Some(claims) => http.with_claims(claims),
            None => http,
        }
    }
}

/// The table of one end, if it is a pod.
pub(crate) fn table(set: &PolicySet, end: &Value) -> Option<Table> {
    let labels = end["labels"].as_object()?;
    let labels = labels
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str().unwrap()));
    Some(set.compile(&Subject {
        namespace: end["namespace"].as_str()?,
        labels: labels.collect(),
        selectable: true,
    }))
}

fn protocol(name: &Value) -> Protocol {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .find(|protocol| protocol.to_string() == *name)
        .unwrap()
}

/// Asks about the connection of a generated request.
pub(crate) fn with_connection<R>(request: &Value, ask: impl FnOnce(&Request<'_>) -> R) -> R {
    let pod = |end: &'static str| (request[end]["kind"] == "pod").then(|| Pod(&request[end]));
    let (near, far) = (pod("source"), pod("destination"));
    let ip = |end: &str| request[end]["ip"].as_str().unwrap().parse().unwrap();
    let source = Source {
        ip: ip("source"),
        workload: near.as_ref().map(|pod| pod as &dyn Endpoint),
        principal: request["source"]["identity"].as_str().map(Principal::new),
        own_node: false,
    };
    let destination = Destination {
        ip: ip("destination"),
        port: u16::try_from(request["destination"]["port"].as_u64().unwrap()).unwrap(),
        workload: far.as_ref().map(|pod| pod as &dyn Endpoint),
    };
    let connection = Connection {
        protocol: protocol(&request["connection"]["l4"]),
        mutual_tls: request["connection"]["tls"] == "mtls",
        sni: request["connection"]["sni"].as_str(),
    };
    ask(&Request::connection(source, destination, connection))
}

/// What a verdict means to whoever acts on it. Which of several matching rules is named may differ.
fn effect(decision: &Decision) -> (Verdict, bool, Shadow) {
    (decision.verdict, decision.audited.is_some(), decision.shadow)
}

/// How often each answer came up, so that a property that never meets its case is noticed.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) decided: usize,
    pub(crate) per_request: usize,
    pub(crate) blind: usize,
    pub(crate) varied: usize,
    pub(crate) asked: usize,
}

impl Seen {
    /// One connection and its requests.
    pub(crate) fn look(&mut self, set: &PolicySet, request: &Value, r: &mut Random) {
        let Some(destination) = table(set, &request["destination"]) else {
            return;
        };
        let source = table(set, &request["source"]);
        let mode = destination.path_normalization;
        let requests: Vec<(Value, Drawn)> = (0..REQUESTS)
            .filter_map(|_| Some((generate::answers(r), Drawn::new(&generate::http_of(r), mode)?)))
            .collect();
        with_connection(request, |connection| {
            let early = decide_connection(&destination, connection);
            match &early {
                OnConnection::Decided(_) => self.decided += 1,
                OnConnection::PerRequest => self.per_request += 1,
            }
            let looks = destination.needs_http(connection.destination.port);
            self.blind += usize::from(!looks);
            assert!(
                looks || matches!(early, OnConnection::Decided(_)),
                "no request has to be looked at, so the connection decides"
            );
            let mut effects = Vec::new();
            for (answers, drawn) in &requests {
                let provided = Provided::new(answers);
                let asked = connection.with_http(drawn.view()).with_answers(&provided);
                let late = decide_inbound(&destination, &asked);
                if let OnConnection::Decided(early) = &early {
                    assert_eq!(
                        effect(early),
                        effect(&late),
                        "said of the connection: {early}; of a request: {late}"
                    );
                }
                effects.push(effect(&late));
                self.listed_before_asked(source.as_ref(), &destination, &asked, &provided);
            }
            let same = effects.windows(2).all(|pair| pair[0] == pair[1]);
            assert!(
                looks || same,
                "requests on one connection differ, although none has to be looked at"
            );
            self.varied += usize::from(!same);
            // The same connection, carrying bytes.
            let answers = generate::answers(r);
            let provided = Provided::new(&answers);
            self.listed_before_asked(
                source.as_ref(),
                &destination,
                &connection.with_answers(&provided),
                &provided,
            );
        });
    }

    /// A provider that the decision consults is one that the table named beforehand.
    fn listed_before_asked(
        &mut self,
        source: Option<&Table>,
        destination: &Table,
        request: &Request<'_>,
        provided: &Provided<'_>,
    ) {
        let listed: Vec<&str> = destination
            .providers_to_ask(request)
            .map(|provider| &*provider.name)
            .collect();
        let _ = decide(source, Some(destination), request);
        let _ = decide_inbound(destination, request);
        let asked = provided.asked.take();
        self.asked += asked.len();
        for provider in asked {
            assert!(
                listed.contains(&&*provider),
                "{provider} was asked, but only {listed:?} were named"
            );
        }
    }
}
