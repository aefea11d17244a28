//! What the admin endpoint answers: figures, readiness, live connections, effective configuration, the application's
//! probes. It opens no sockets.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Bytes;
use prometheus::{Registry, TextEncoder};
use serde_json::{Value, json};
use squire_mesh::probe;
use tokio::net::TcpStream;

use super::policy;
use crate::{
    config::{
        AccessLog, AdminDetails, Authority, Config, Http2Engine, LogFormat, Mode, SubscriptionMode, TlsEngine, Unknown,
        Users,
    },
    identity::{self, Identity},
    probes::Prober,
    readiness::Readiness,
    state::{Kind, Snapshot, State},
    vitals::Vitals,
};

/// The live connections, as JSON values.
pub type Connections = Box<dyn Fn() -> Value + Send + Sync>;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
const INDEX: &str = "squire-proxy admin: /metrics /ready /live /connections /config /probe/CONTAINER/KIND\n";
const PRIVATE: &str = "only shown over loopback: kubectl port-forward POD 15020, then ask localhost:15020\n";

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// The address it dialled: the pod's own.
    pub local: IpAddr,
    /// Where it comes from.
    pub peer: IpAddr,
}

/// What the pages are made of.
pub struct Pages {
    /// Every figure of the process.
    pub registry: Registry,
    /// Figures that are measured by looking.
    pub vitals: Arc<Vitals>,
    /// What is missing.
    pub readiness: Arc<Readiness>,
    /// Live connections.
    pub connections: Connections,
    /// As read at the start.
    pub config: Arc<Config>,
    /// Who we are.
    pub identity: identity::Receiver,
    /// What we were told.
    pub state: State,
    /// Asks the application.
    pub prober: Prober,
}

impl Asker {
    /// Of a connection; `None` when it is gone already.
    #[must_use]
    pub fn of(stream: &TcpStream) -> Option<Self> {
        let ip = |address: std::io::Result<std::net::SocketAddr>| Some(address.ok()?.ip().to_canonical());
        Some(Self {
            local: ip(stream.local_addr())?,
            peer: ip(stream.peer_addr())?,
        })
    }
}

impl Pages {
    /// The answer to one request.
    pub async fn answer<B>(&self, request: &Request<B>, asker: Asker) -> Response<Full<Bytes>> {
        let (method, path) = (request.method(), request.uri().path());
        if path.starts_with(probe::PREFIX) {
            return self.probe(request, asker).await;
        }
        if method != Method::GET && method != Method::HEAD {
            let mut refused = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".into());
            refused
                .headers_mut()
                .insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        match path {
            "/metrics" => self.metrics(),
            "/ready" => self.ready(),
            "/live" => response(StatusCode::OK, TEXT, "live\n".into()),
            "/connections" | "/config" if self.is_private(asker) => {
                response(StatusCode::FORBIDDEN, TEXT, PRIVATE.into())
            }
            "/connections" => json_response(StatusCode::OK, &(self.connections)()),
            "/config" => json_response(StatusCode::OK, &self.config_page()),
            "/" => response(StatusCode::OK, TEXT, INDEX.into()),
            _ => response(StatusCode::NOT_FOUND, TEXT, format!("no such page\n{INDEX}").into()),
        }
    }

    /// Lifecycle hooks ask with GET as probes do; the path alone says what is asked.
    async fn probe<B>(&self, request: &Request<B>, asker: Asker) -> Response<Full<Bytes>> {
        let answer = self
            .prober
            .answer(request.uri().path(), asker.local, request.headers())
            .await;
        match answer {
            Some(answer) => response(answer.status, TEXT, answer.text.into()),
            None => response(StatusCode::NOT_FOUND, TEXT, "no such probe is configured\n".into()),
        }
    }

    fn is_private(&self, asker: Asker) -> bool {
        self.config.admin_details == AdminDetails::Loopback && !asker.peer.is_loopback()
    }

    pub(super) fn refused_connection(&self) {
        self.vitals.admin_refused();
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        self.vitals.look(&self.state.borrow());
        match TextEncoder::new().encode_to_string(&self.registry.gather()) {
            Ok(text) => response(StatusCode::OK, METRICS, text.into()),
            Err(error) => response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n").into()),
        }
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        let missing = self.readiness.missing();
        let status = if missing.is_empty() {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        json_response(status, &json!({ "ready": missing.is_empty(), "missing": missing }))
    }

    fn config_page(&self) -> Value {
        let snapshot = Arc::clone(&self.state.borrow());
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "config": config_view(&self.config),
            "identity": identity_view(&self.identity.borrow()),
            "bundles": bundles_view(&snapshot),
            "tables": tables_view(&snapshot),
            "workload": snapshot.me.as_ref().map(|me| json!({
                "uid": me.uid.as_str(),
                "identity": me.identity.as_ref().map(ToString::to_string),
                "addresses": me.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "services": me.services.iter().map(|m| m.service.as_str().to_owned()).collect::<Vec<_>>(),
            })),
            "policy": snapshot.policy.as_deref().map(policy::view),
        })
    }
}

/// The effective configuration. It holds paths, never what the files hold: there is no secret in it.
fn config_view(config: &Config) -> Value {
    let authority = |a: &Authority| json!({ "address": a.address.to_string(), "id": a.id.to_string() });
    let limits = &config.limits;
    json!({
        "workload": config.workload.to_string(),
        "trustDomain": config.trust_domain.to_string(),
        "identity": config.identity.as_ref().map(ToString::to_string),
        "trustBundle": config.trust_bundle,
        "token": config.token,
        "control": authority(&config.control),
        "ca": authority(&config.ca),
        "admin": config.admin,
        "adminDetails": match config.admin_details {
            AdminDetails::Anyone => "anyone",
            AdminDetails::Loopback => "loopback",
        },
        "probes": config.probes.iter().map(|(path, _)| path).collect::<Vec<_>>(),
        "mode": mode_view(&config.mode),
        "bindSource": config.bind_source,
        "limits": {
            "maxConnections": limits.max_connections,
            "maxPendingHandshakes": limits.max_pending_handshakes,
            "headTimeout": text(limits.head_timeout),
            "stallTimeout": text(limits.stall_timeout),
            "handshakeTimeout": text(limits.handshake_timeout),
            "connectTimeout": text(limits.connect_timeout),
        },
        "pool": {
            "ready": config.pool.ready,
            "maxIdlePerPeer": config.pool.max_idle_per_peer,
            "idleTimeout": text(config.pool.idle_timeout),
        },
        "unknownDestinations": match config.unknown {
            Unknown::Passthrough => "passthrough",
            Unknown::Refuse => "refuse",
        },
        "subscription": {
            "mode": match config.subscription.mode {
                SubscriptionMode::All => "all",
                SubscriptionMode::OnDemand => "on-demand",
            },
            "timeout": text(config.subscription.timeout),
            "keep": text(config.subscription.keep),
            "maxSelectors": config.subscription.max_selectors,
        },
        "tokens": { "keysRefresh": text(config.token_keys_refresh) },
        "tls": {
            "engine": match config.tls_engine {
                TlsEngine::Squire => "squire",
                TlsEngine::Rustls => "rustls",
            },
        },
        "http2": {
            "engine": match config.http2_engine {
                Http2Engine::Squire => "squire",
                Http2Engine::H2 => "h2",
            },
        },
        "drain": { "grace": text(config.drain_grace) },
        "svid": { "lifetime": text(config.svid_lifetime) },
        "log": {
            "level": config.log.filter,
            "format": match config.log.format {
                LogFormat::Text => "text",
                LogFormat::Json => "json",
            },
        },
        "workloadApi": config.workload_api.as_ref().map(|api| json!({
            "socket": api.socket,
            "users": match &api.users {
                Users::Own => json!("own"),
                Users::Any => json!("any"),
                Users::These(users) => json!(users),
            },
        })),
        "accessLog": match &config.access_log {
            AccessLog::Off => "off".to_owned(),
            AccessLog::Stdout => "stdout".to_owned(),
            AccessLog::File(path) => path.display().to_string(),
        },
    })
}

fn mode_view(mode: &Mode) -> Value {
    match mode {
        Mode::Transparent { inbound, outbound } => {
            json!({ "transparent": { "inboundPort": inbound, "outboundPort": outbound } })
        }
        Mode::Explicit { inbound, outbound } => json!({ "explicit": {
            "inbound": inbound.iter().map(|l| json!({ "listen": l.listen, "app": l.app, "port": l.port }))
                .collect::<Vec<_>>(),
            "outbound": outbound.iter().map(|l| json!({ "listen": l.listen, "to": l.to.to_string() }))
                .collect::<Vec<_>>(),
        }}),
    }
}

fn identity_view(identity: &Identity) -> Value {
    let status = match identity {
        Identity::Waiting => "waiting",
        Identity::Valid(_) => "valid",
        Identity::Expired(_) => "expired",
    };
    let svid = identity.last().map(|issued| {
        json!({
            "id": issued.svid.id().to_string(),
            "serial": issued.svid.serial().to_string(),
            "notBefore": seconds(issued.svid.not_before()),
            "notAfter": seconds(issued.not_after),
            "generation": issued.generation,
            "root": issued.root.to_string(),
        })
    });
    json!({ "status": status, "svid": svid })
}

fn bundles_view(snapshot: &Snapshot) -> Value {
    let bundles: Vec<Value> = snapshot
        .bundles
        .iter()
        .map(|bundle| {
            json!({
                "trustDomain": bundle.trust_domain().to_string(),
                "sequence": bundle.sequence(),
                "roots": bundle.roots().iter().map(|root| json!({
                    "sha256": root.digest().to_string(),
                    "notAfter": seconds(root.not_after()),
                })).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({ "digest": snapshot.bundles.digest(), "domains": bundles })
}

fn tables_view(snapshot: &Snapshot) -> Value {
    let (workloads, services) = snapshot.counts();
    let view = |kind| {
        let table = snapshot.tables.of(kind);
        json!({
            "version": &*table.version,
            "applied": table.applied.map(seconds),
            "refused": table.refused.as_ref().map(ToString::to_string),
        })
    };
    let mut tables: serde_json::Map<String, Value> = Kind::ALL
        .into_iter()
        .map(|kind| (kind.label().to_owned(), view(kind)))
        .collect();
    tables.insert(
        "counts".to_owned(),
        json!({ "workloads": workloads, "services": services }),
    );
    Value::Object(tables)
}

/// Seconds since the epoch.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// A duration as the configuration writes it.
fn text(duration: Duration) -> String {
    match (duration.as_secs(), duration.subsec_millis()) {
        (seconds, 0) => format!("{seconds}s"),
        _ => format!("{}ms", duration.as_millis()),
    }
}

fn json_response(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    let mut body = value.to_string();
    body.push('\n');
    response(status, JSON, body.into())
}

fn response(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}
