//! A kubelet's probes of an application, as the injector hands them to the sidecar: each has a path of the admin endpoint,
//! and says what to ask of the application. Text in, text out; nobody is probed here.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use serde_json::{Map, Value, json};

/// What every path of a probe begins with.
pub const PREFIX: &str = "/probe/";
/// A probe that says no other time: Kubernetes' own default.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);

/// All probes of one pod, by path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Probes(BTreeMap<String, Probe>);

/// One probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What to ask.
    pub action: Action,
    /// How long the answer may take.
    pub timeout: Duration,
}

/// What a probe asks of the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// An HTTP GET; 200 to 399 is healthy.
    Http {
        /// Over TLS; the certificate is not verified, as a kubelet does not.
        tls: bool,
        /// The application's port.
        port: u16,
        /// Path and query.
        path: String,
        /// Fields beside those of every request; `Host` replaces its own.
        headers: Vec<(String, String)>,
    },
    /// A TCP connection that comes about.
    Tcp {
        /// The application's port.
        port: u16,
    },
    /// `grpc.health.v1.Health/Check`; `SERVING` is healthy.
    Grpc {
        /// The application's port.
        port: u16,
        /// Whose health; empty: the server's.
        service: String,
    },
}

/// Why a text does not describe probes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {what}")]
pub struct ProbeError {
    /// Which probe.
    at: String,
    /// What is wrong with it.
    what: String,
}

/// The path of one container's probe: `/probe/web/liveness`.
#[must_use]
pub fn path(container: &str, kind: &str) -> String {
    format!("{PREFIX}{container}/{kind}")
}

impl Probes {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The probe at a path.
    #[must_use]
    pub fn at(&self, path: &str) -> Option<&Probe> {
        self.0.get(path)
    }

    /// Adds one, in the place of another at the same path.
    pub fn insert(&mut self, path: String, probe: Probe) {
        self.0.insert(path, probe);
    }

    /// Each with its path, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Probe)> {
        self.0.iter().map(|(path, probe)| (path.as_str(), probe))
    }
}

impl fmt::Display for Probes {
    /// One line of JSON.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Map<String, Value> = self
            .iter()
            .map(|(path, probe)| (path.to_owned(), shown(probe)))
            .collect();
        Value::Object(all).fmt(f)
    }
}

fn shown(probe: &Probe) -> Value {
    let millis = u64::try_from(probe.timeout.as_millis()).unwrap_or(u64::MAX);
    match &probe.action {
        Action::Http {
            tls,
            port,
            path,
            headers,
        } => json!({"http": {"tls": tls, "port": port, "path": path, "headers": headers}, "timeoutMs": millis}),
        Action::Tcp { port } => json!({"tcp": {"port": port}, "timeoutMs": millis}),
        Action::Grpc { port, service } => json!({"grpc": {"port": port, "service": service}, "timeoutMs": millis}),
    }
}

impl FromStr for Probes {
    type Err = ProbeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |at: &str, what: &str| ProbeError {
            at: at.to_owned(),
            what: what.to_owned(),
        };
        let all: Map<String, Value> =
            serde_json::from_str(text).map_err(|error| wrong("probes", &error.to_string()))?;
        let mut probes = Self::default();
        for (path, value) in all {
            let rest = path.strip_prefix(PREFIX).unwrap_or_default();
            if rest.split('/').count() != 2 || rest.split('/').any(str::is_empty) {
                return Err(wrong(&path, "the path is not /probe/CONTAINER/KIND"));
            }
            let probe = read(&value).map_err(|what| wrong(&path, what))?;
            probes.insert(path, probe);
        }
        Ok(probes)
    }
}

fn read(value: &Value) -> Result<Probe, &'static str> {
    let timeout = match value.get("timeoutMs") {
        None => DEFAULT_TIMEOUT,
        Some(millis) => Duration::from_millis(millis.as_u64().filter(|ms| *ms > 0).ok_or("timeoutMs is no number")?),
    };
    let (http, tcp, grpc) = (value.get("http"), value.get("tcp"), value.get("grpc"));
    let action = match (http, tcp, grpc) {
        (Some(http), None, None) => Action::Http {
            tls: http.get("tls").is_some_and(|tls| *tls == Value::Bool(true)),
            port: port(http)?,
            path: http.get("path").and_then(Value::as_str).unwrap_or("/").to_owned(),
            headers: headers(http.get("headers"))?,
        },
        (None, Some(tcp), None) => Action::Tcp { port: port(tcp)? },
        (None, None, Some(grpc)) => Action::Grpc {
            port: port(grpc)?,
            service: grpc
                .get("service")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
        },
        _ => return Err("one of http, tcp and grpc is needed"),
    };
    Ok(Probe { action, timeout })
}

fn port(action: &Value) -> Result<u16, &'static str> {
    let port = action.get("port").and_then(Value::as_u64);
    let port = port.and_then(|port| u16::try_from(port).ok());
    port.filter(|port| *port > 0).ok_or("the port is not 1 to 65535")
}

fn headers(value: Option<&Value>) -> Result<Vec<(String, String)>, &'static str> {
    let wrong = "headers is not a list of [name, value]";
    let list = match value {
        None => return Ok(Vec::new()),
        Some(list) => list.as_array().ok_or(wrong)?,
    };
    let pair = |pair: &Value| match pair.as_array().map(Vec::as_slice) {
        Some([Value::String(name), Value::String(value)]) => Ok((name.clone(), value.clone())),
        _ => Err(wrong),
    };
    list.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        let mut probes = Probes::default();
        let headers = vec![
            ("Host".to_owned(), "shop.example".to_owned()),
            ("X-A".to_owned(), "$(B) \"c\"".to_owned()),
        ];
        let actions = [
            Action::Http {
                tls: true,
                port: 8443,
                path: "/healthz?full=1".into(),
                headers,
            },
            Action::Tcp { port: 5432 },
            Action::Grpc {
                port: 50051,
                service: "shop.Cart".into(),
            },
        ];
        for (kind, action) in ["startup", "liveness", "readiness"].into_iter().zip(actions) {
            let timeout = Duration::from_secs(3);
            probes.insert(path("web", kind), Probe { action, timeout });
        }
        assert_eq!(probes.to_string().parse(), Ok(probes));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, says) in [
            ("[]", "probes: "),
            (r#"{"/metrics":{"tcp":{"port":1}}}"#, "/metrics: the path"),
            (r#"{"/probe/web":{"tcp":{"port":1}}}"#, "the path is not"),
            (r#"{"/probe/a/b/c":{"tcp":{"port":1}}}"#, "the path is not"),
            (r#"{"/probe/web/liveness":{}}"#, "one of http, tcp and grpc"),
            (
                r#"{"/probe/web/liveness":{"tcp":{"port":1},"grpc":{"port":1}}}"#,
                "one of",
            ),
            (r#"{"/probe/web/liveness":{"tcp":{"port":0}}}"#, "not 1 to 65535"),
            (r#"{"/probe/web/liveness":{"tcp":{"port":65536}}}"#, "not 1 to 65535"),
            (
                r#"{"/probe/web/liveness":{"tcp":{"port":1},"timeoutMs":0}}"#,
                "timeoutMs",
            ),
            (
                r#"{"/probe/web/liveness":{"http":{"port":1,"headers":["a"]}}}"#,
                "headers",
            ),
        ] {
            let error = text.parse::<Probes>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
