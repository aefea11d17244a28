//! Leads a kubelet's probes through the sidecar's admin port: a kubelet has no identity in the mesh, so under STRICT it would
//! be refused at the application's own port. What a probe asks is handed to the sidecar and stays what it was.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction, Probe as KubeProbe, TCPSocketAction},
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde_json::{Value, json};
use squire_mesh::{
    ports,
    probe::{self, Action, Probe, Probes},
};

use crate::edits::Edits;

/// A lifecycle hook has no time of its own: the pod's grace period ends it.
const HOOK_TIMEOUT: Duration = Duration::from_secs(30);

/// The probes of one pod on their way through the sidecar.
#[derive(Debug, Default)]
pub(crate) struct Rewritten {
    /// What the sidecar is told.
    pub(crate) probes: Probes,
    /// What is wrong with the pod.
    pub(crate) problems: Vec<String>,
    /// What was left as it was, and why.
    pub(crate) warnings: Vec<String>,
}

/// One probe or hook of a container.
struct Place<'a> {
    container: &'a Container,
    /// Path of the container in the pod.
    at: [&'a str; 3],
    /// Path of the handler in the container.
    handler: &'a [&'a str],
    /// In the path of the admin endpoint.
    kind: &'static str,
}

impl Rewritten {
    /// Rewrites every probe of a container, which stands at `spec/<list>/<index>`. `known`: what the sidecar was told at an
    /// earlier call.
    pub(crate) fn container(
        &mut self,
        container: &Container,
        list: &str,
        index: usize,
        known: &Probes,
        edits: &mut Edits,
    ) {
        let index = index.to_string();
        let at = ["spec", list, index.as_str()];
        for (field, kind, probe) in [
            ("startupProbe", "startup", &container.startup_probe),
            ("livenessProbe", "liveness", &container.liveness_probe),
            ("readinessProbe", "readiness", &container.readiness_probe),
        ] {
            if let Some(probe) = probe {
                let handler = &[field][..];
                self.probe(
                    probe,
                    &Place {
                        container,
                        at,
                        handler,
                        kind,
                    },
                    known,
                    edits,
                );
            }
        }
        let lifecycle = container.lifecycle.as_ref();
        for (field, kind, hook) in [
            (
                "postStart",
                "post-start",
                lifecycle.and_then(|hooks| hooks.post_start.as_ref()),
            ),
            (
                "preStop",
                "pre-stop",
                lifecycle.and_then(|hooks| hooks.pre_stop.as_ref()),
            ),
        ] {
            if let Some(get) = hook.and_then(|hook| hook.http_get.as_ref()) {
                let handler = &["lifecycle", field][..];
                self.http(
                    get,
                    HOOK_TIMEOUT,
                    &Place {
                        container,
                        at,
                        handler,
                        kind,
                    },
                    known,
                    edits,
                );
            }
        }
    }

    fn probe(&mut self, probe: &KubeProbe, place: &Place<'_>, known: &Probes, edits: &mut Edits) {
        let seconds = probe.timeout_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let timeout = seconds
            .filter(|seconds| *seconds > 0)
            .map_or(probe::DEFAULT_TIMEOUT, Duration::from_secs);
        if let Some(get) = &probe.http_get {
            self.http(get, timeout, place, known, edits);
        } else if let Some(socket) = &probe.tcp_socket {
            self.tcp(socket, timeout, place, edits);
        } else if let Some(grpc) = &probe.grpc
            && let Some(port) = self.port(&IntOrString::Int(grpc.port), place)
        {
            let service = grpc.service.clone().unwrap_or_default();
            let action = Action::Grpc { port, service };
            self.instead("grpc", Probe { action, timeout }, place, edits);
        }
    }

    fn http(&mut self, get: &HTTPGetAction, timeout: Duration, place: &Place<'_>, known: &Probes, edits: &mut Edits) {
        if get.host.as_ref().is_some_and(|host| !host.is_empty()) {
            return self.other_host(place);
        }
        let ours = place.path();
        if get.port == IntOrString::Int(ports::ADMIN.into()) {
            match known.at(&ours).filter(|_| get.path.as_deref() == Some(&ours)) {
                Some(probe) => self.probes.insert(ours, probe.clone()),
                None => self.problems.push(format!(
                    "{place}: port {} is the sidecar's, which answers for the application's ports",
                    ports::ADMIN
                )),
            }
            return;
        }
        let Some(port) = self.port(&get.port, place) else {
            return;
        };
        let headers = get.http_headers.iter().flatten();
        let action = Action::Http {
            tls: get.scheme.as_deref() == Some("HTTPS"),
            port,
            path: get
                .path
                .clone()
                .filter(|path| !path.is_empty())
                .unwrap_or_else(|| "/".to_owned()),
            headers: headers
                .map(|header| (header.name.clone(), header.value.clone()))
                .collect(),
        };
        self.instead("httpGet", Probe { action, timeout }, place, edits);
    }

    fn tcp(&mut self, socket: &TCPSocketAction, timeout: Duration, place: &Place<'_>, edits: &mut Edits) {
        if socket.host.as_ref().is_some_and(|host| !host.is_empty()) {
            return self.other_host(place);
        }
        if let Some(port) = self.port(&socket.port, place) {
            let action = Action::Tcp { port };
            self.instead("tcpSocket", Probe { action, timeout }, place, edits);
        }
    }

    /// It does not go to the pod, so it is nothing to the sidecar.
    fn other_host(&mut self, place: &Place<'_>) {
        self.warnings.push(format!(
            "{place}: names a host, so it does not go to this pod: left as it is"
        ));
    }

    /// A port as a kubelet finds it: a number, or the name of one of the container's ports.
    fn port(&mut self, port: &IntOrString, place: &Place<'_>) -> Option<u16> {
        let declared = place.container.ports.iter().flatten();
        let number = match port {
            IntOrString::Int(number) => Some(*number),
            IntOrString::String(name) => declared
                .into_iter()
                .find(|port| port.name.as_ref() == Some(name))
                .map(|port| port.container_port)
                .or_else(|| name.parse().ok()),
        };
        let number = number
            .and_then(|number| u16::try_from(number).ok())
            .filter(|number| *number > 0);
        if number.is_none() {
            let port = match port {
                IntOrString::Int(number) => number.to_string(),
                IntOrString::String(name) => format!("{name:?}"),
            };
            self.warnings
                .push(format!("{place}: the container has no port {port}: left as it is"));
        }
        number
    }

    fn instead(&mut self, field: &str, probe: Probe, place: &Place<'_>, edits: &mut Edits) {
        let path = place.path();
        let get = json!({"path": path, "port": ports::ADMIN, "scheme": "HTTP"});
        match field {
            "httpGet" => edits.replace(&place.field(field), get),
            other => {
                edits.remove(&place.field(other));
                edits.add(&place.field("httpGet"), get);
            }
        }
        self.probes.insert(path, probe);
    }
}

impl Place<'_> {
    fn path(&self) -> String {
        probe::path(&self.container.name, self.kind)
    }

    fn field<'a>(&'a self, field: &'a str) -> Vec<&'a str> {
        [&self.at[..], self.handler, &[field]].concat()
    }
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "container {}: {}", self.container.name, self.handler.join("."))
    }
}

/// Probes as a variable's value: Kubernetes reads `$` in values.
pub(crate) fn to_variable(probes: &Probes) -> String {
    probes.to_string().replace('$', "$$")
}

/// What [`to_variable`] wrote; nothing when somebody else wrote it.
pub(crate) fn from_variable(value: &str) -> Probes {
    value.replace("$$", "$").parse().unwrap_or_default()
}

/// A probe of the sidecar's own.
pub(crate) fn own(path: &str) -> Value {
    json!({"httpGet": {"path": path, "port": ports::ADMIN, "scheme": "HTTP"}})
}
