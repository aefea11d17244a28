//! One JSON line when a connection ends, from the same record the metrics read. Lines go to a writer thread through a
//! bounded queue: a slow disk or terminal never holds up traffic; what does not fit is counted as lost.

use std::{
    fs::OpenOptions,
    io::{self, BufWriter, Write},
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    time::{Duration, SystemTime},
};

use serde::Serialize;

use crate::{
    connection::{Connection, seconds},
    http::{Exchange, Target},
    metrics::{Metrics, RequestKey},
    outcome::Outcome,
};

/// Lines that may wait for the writer.
const QUEUE: usize = 4096;

/// Where access-log lines go.
#[derive(Clone)]
pub(crate) struct AccessLog {
    lines: Option<SyncSender<Vec<u8>>>,
    metrics: Arc<Metrics>,
}

#[derive(Serialize)]
struct Line<'a> {
    time: f64,
    event: &'static str,
    id: String,
    direction: &'static str,
    outcome: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    detail: &'a str,
    fault: &'static str,
    source: Option<&'a str>,
    destination: Option<&'a str>,
    client: String,
    address: String,
    port: u16,
    upstream: Option<String>,
    workload: Option<String>,
    protocol: &'static str,
    application: &'static str,
    requests: u64,
    tls_version: Option<&'static str>,
    tls_suite: Option<&'static str>,
    tls_group: Option<&'static str>,
    reused: bool,
    handshake_ms: Option<f64>,
    verdict: Option<&'static str>,
    rule: Option<String>,
    why: Option<String>,
    duration_ms: f64,
    bytes_from_client: u64,
    bytes_to_client: u64,
}

#[derive(Serialize)]
struct RequestLine<'a> {
    time: f64,
    event: &'static str,
    /// The connection's.
    id: String,
    direction: &'static str,
    source: Option<&'a str>,
    destination: Option<&'a str>,
    client: String,
    port: u16,
    upstream: Option<String>,
    protocol: &'static str,
    version: &'static str,
    method: &'a str,
    authority: &'a str,
    path: &'a str,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_status: Option<u8>,
    flag: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    attempts: u8,
    verdict: Option<&'static str>,
    rule: Option<String>,
    why: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    duration_ms: f64,
}

impl AccessLog {
    /// No lines at all.
    pub(crate) fn off(metrics: Arc<Metrics>) -> Self {
        Self { lines: None, metrics }
    }

    /// Lines on standard output.
    pub(crate) fn stdout(metrics: Arc<Metrics>) -> io::Result<Self> {
        Self::to(io::stdout(), metrics)
    }

    /// Lines appended to a file.
    pub(crate) fn file(path: &Path, metrics: Arc<Metrics>) -> io::Result<Self> {
        Self::to(OpenOptions::new().create(true).append(true).open(path)?, metrics)
    }

    fn to(out: impl Write + Send + 'static, metrics: Arc<Metrics>) -> io::Result<Self> {
        let (lines, queue) = sync_channel(QUEUE);
        let lost = Arc::clone(&metrics);
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write_all(&queue, out, &lost))?;
        Ok(Self {
            lines: Some(lines),
            metrics,
        })
    }

    /// Whether there are lines at all.
    pub(crate) fn is_on(&self) -> bool {
        self.lines.is_some()
    }

    /// Writes the line of a connection that has ended.
    pub(crate) fn write(&self, connection: &Connection, outcome: &Outcome) {
        self.send(|| line(connection, outcome));
    }

    /// Writes the line of a request that has ended.
    pub(crate) fn write_request(&self, exchange: &Exchange, key: &RequestKey, took: Duration) {
        self.send(|| request_line(exchange, key, took));
    }

    fn send(&self, line: impl FnOnce() -> Vec<u8>) {
        let Some(lines) = &self.lines else { return };
        match lines.try_send(line()) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.metrics.access_log_lost(),
        }
    }
}

/// Writes what comes until every sender is gone; flushes whenever the queue is empty.
fn write_all(queue: &Receiver<Vec<u8>>, out: impl Write, lost: &Metrics) {
    let mut out = BufWriter::new(out);
    while let Ok(first) = queue.recv() {
        let mut next = Some(first);
        while let Some(line) = next {
            if out.write_all(&line).is_err() {
                lost.access_log_lost();
            }
            next = queue.try_recv().ok();
        }
        let _ = out.flush();
    }
}

fn line(connection: &Connection, outcome: &Outcome) -> Vec<u8> {
    let facts = connection.facts();
    let (source, destination) = connection.principals(&facts);
    let (bytes_from_client, bytes_to_client) = connection.bytes();
    let decision = facts.decision.as_ref();
    let detail = outcome.detail();
    let line = Line {
        time: seconds(connection.opened_at()) + connection.age().as_secs_f64(),
        event: "connection",
        id: format!("{:016x}", connection.id),
        direction: connection.direction.as_str(),
        outcome: outcome.label(),
        detail: &detail,
        fault: outcome.fault().as_str(),
        source: source.map(|id| id.as_str()),
        destination: destination.map(|id| id.as_str()),
        client: connection.client.to_string(),
        address: connection.destination.to_string(),
        port: facts.port,
        upstream: facts.upstream.map(|address| address.to_string()),
        workload: facts.peer_workload.as_ref().map(ToString::to_string),
        protocol: facts.carrier.as_str(),
        application: facts.application.as_str(),
        requests: connection.requests(),
        tls_version: facts.tls.map(|tls| tls.version),
        tls_suite: facts.tls.map(|tls| tls.suite),
        tls_group: facts.tls.map(|tls| tls.group),
        reused: facts.reused,
        handshake_ms: facts.handshake.map(|took| took.as_secs_f64() * 1e3),
        verdict: decision.map(|decision| decision.verdict.as_str()),
        rule: decision
            .and_then(|decision| decision.by.as_ref())
            .map(ToString::to_string),
        why: decision.map(|decision| decision.why.to_string()),
        duration_ms: connection.age().as_secs_f64() * 1e3,
        bytes_from_client,
        bytes_to_client,
    };
    let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

fn request_line(exchange: &Exchange, key: &RequestKey, took: Duration) -> Vec<u8> {
    let connection = &exchange.connection;
    let facts = connection.facts();
    let (source, destination) = connection.principals(&facts);
    let decision = exchange.decision.as_ref().or(facts.decision.as_ref());
    let nothing = Target::default();
    let target = exchange.target.as_deref().unwrap_or(&nothing);
    let line = RequestLine {
        time: seconds(SystemTime::now()),
        event: "request",
        id: format!("{:016x}", connection.id),
        direction: connection.direction.as_str(),
        source: source.map(|id| id.as_str()),
        destination: destination.map(|id| id.as_str()),
        client: connection.client.to_string(),
        port: facts.port,
        upstream: facts.upstream.map(|address| address.to_string()),
        protocol: facts.carrier.as_str(),
        version: exchange.version.as_str(),
        method: &target.method,
        authority: &target.authority,
        path: &target.path,
        status: key.status,
        grpc_status: key.grpc_status,
        flag: key.flag.as_str(),
        route: key.route.as_deref(),
        attempts: exchange.attempts,
        verdict: decision.map(|decision| decision.verdict.as_str()),
        rule: decision
            .and_then(|decision| decision.by.as_ref())
            .map(ToString::to_string),
        why: decision.map(|decision| decision.why.to_string()),
        request_id: target.request_id.as_deref(),
        traceparent: target.traceparent.as_deref(),
        duration_ms: took.as_secs_f64() * 1e3,
    };
    let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}
