//! The connections that are open now, for `/connections` and for everything that has to look at all of them when the
//! grounds change. Holds each for exactly as long as its record is open.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

use super::Connection;

/// All open connections of this sidecar.
#[derive(Default)]
pub struct Registry {
    open: Mutex<HashMap<u64, Arc<Connection>>>,
}

/// One open connection as people see it. Times in seconds since the epoch, ages in seconds, sizes in bytes.
#[derive(Debug, Clone, Serialize)]
pub struct ConnectionView {
    /// Identifier, the same at both ends of a `squire/1` connection, hexadecimal.
    pub id: String,
    /// `inbound` or `outbound`.
    pub direction: &'static str,
    /// SPIFFE ID of the side that opened it, if verified.
    pub source: Option<String>,
    /// SPIFFE ID of the side that is reached, if verified.
    pub destination: Option<String>,
    /// Address of the side that opened it.
    pub client: String,
    /// Original destination address.
    pub address: String,
    /// The workload's port.
    pub port: u16,
    /// Where this sidecar dialled.
    pub upstream: Option<String>,
    /// The peer's workload, by its address.
    pub workload: Option<String>,
    /// What carries it: `squire/1`, `squire-tls/1`, `plaintext`.
    pub protocol: &'static str,
    /// What the application speaks: `http/1.1`, `http/2`, `tcp`, or `unknown` before its first byte.
    pub application: &'static str,
    /// Requests so far.
    pub requests: u64,
    /// TLS version, where there is TLS.
    pub tls_version: Option<&'static str>,
    /// TLS cipher suite.
    pub tls_suite: Option<&'static str>,
    /// TLS key-exchange group.
    pub tls_group: Option<&'static str>,
    /// Whether it rides on a mesh connection that served others before.
    pub reused: bool,
    /// `ALLOW`, `DENY` or none yet.
    pub verdict: Option<&'static str>,
    /// The object and rule that decided.
    pub rule: Option<String>,
    /// Why, in words.
    pub why: Option<String>,
    /// When it was opened.
    pub opened: f64,
    /// For how long it has been open.
    pub age: f64,
    /// Bytes from the side that opened it.
    pub bytes_from_client: u64,
    /// Bytes to the side that opened it.
    pub bytes_to_client: u64,
    /// When the peer's certificate expires.
    pub peer_expires: Option<u64>,
}

impl Registry {
    /// Everything that is open, oldest first.
    #[must_use]
    pub fn snapshot(&self) -> Vec<ConnectionView> {
        let mut connections = self.all();
        connections.sort_by_key(|connection| connection.opened);
        connections
            .iter()
            .map(|connection| ConnectionView::of(connection))
            .collect()
    }

    /// How many are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Handles to everything that is open, in no order.
    pub(crate) fn all(&self) -> Vec<Arc<Connection>> {
        self.lock().values().map(Arc::clone).collect()
    }

    pub(super) fn insert(&self, connection: &Arc<Connection>) {
        self.lock().insert(key(connection), Arc::clone(connection));
    }

    pub(super) fn remove(&self, connection: &Arc<Connection>) {
        let mut open = self.lock();
        open.remove(&key(connection));
        if open.capacity() > 1024 && open.len() < open.capacity() / 4 {
            open.shrink_to_fit();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Unique here: where it is kept in memory (its id is the peer's choice on inbound links).
fn key(connection: &Arc<Connection>) -> u64 {
    Arc::as_ptr(connection) as usize as u64
}

impl ConnectionView {
    fn of(connection: &Connection) -> Self {
        let facts = connection.facts();
        let (bytes_from_client, bytes_to_client) = connection.bytes();
        let (source, destination) = connection.principals(&facts);
        Self {
            id: format!("{:016x}", connection.id),
            direction: connection.direction.as_str(),
            source: source.map(ToString::to_string),
            destination: destination.map(ToString::to_string),
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
            verdict: facts.decision.as_ref().map(|decision| decision.verdict.as_str()),
            rule: facts
                .decision
                .as_ref()
                .and_then(|decision| decision.by.as_ref())
                .map(ToString::to_string),
            why: facts.decision.as_ref().map(|decision| decision.why.to_string()),
            opened: seconds(connection.opened_at),
            age: connection.age().as_secs_f64(),
            bytes_from_client,
            bytes_to_client,
            peer_expires: facts.peer.as_ref().map(|peer| seconds(peer.not_after()) as u64),
        }
    }
}

/// Seconds since the epoch, with fraction; 0 for times before it.
pub(crate) fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
