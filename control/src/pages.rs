//! What the admin endpoint shows of a control plane.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{Arc, PoisonError},
    time::SystemTime,
};

use http::StatusCode;
use serde_json::{Value, json};
use squire_mesh::{
    bundle::TrustBundle,
    workload::{Service, Workload},
};
use tokio::sync::watch;

use crate::{
    admin::{Answer, Pages},
    federation::Views,
    forecast::Forecaster,
    manifest::Severity,
    metrics::Metrics,
    pipeline::Status,
    push::{Catalog, Fleet, Kind},
    reports::Reports,
};

/// What the admin endpoint shows of a control plane.
pub struct ControlPages {
    pub(crate) metrics: Metrics,
    pub(crate) status: watch::Receiver<Arc<Status>>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) reports: Arc<Reports>,
    /// The roots that everybody must trust.
    pub(crate) bundle: watch::Receiver<Arc<TrustBundle>>,
    /// What the CA holds; blocks.
    pub(crate) ca: Box<dyn Fn() -> Result<Value, String> + Send + Sync>,
    pub(crate) federation: Views,
    pub(crate) forecaster: Forecaster,
}

const INDEX: &str = "\
/ready            200 once every file has been read without an error at least once, else 503 and the reason
/live             200 while the process serves
/metrics          Prometheus
/debug/sync       every connected proxy: what it was sent, what it has acknowledged, what it reports
/debug/problems   what is wrong with the files, and which state is in force instead
/debug/objects    the workloads, services and policies in force
/ca/status        what the CA holds
/ca/bundle        the roots that everybody must trust, as PEM
/debug/forecast   what fails when, if the control plane stopped now; what the CA signs with, and until when
/debug/federation the bundles of other trust domains, and when each was last seen at its endpoint
";

impl Pages for ControlPages {
    fn page(&self, path: &str) -> Option<Answer> {
        Some(match path {
            "/" => Answer::text(StatusCode::OK, INDEX),
            "/live" => Answer::text(StatusCode::OK, "live\n"),
            "/ready" => self.ready(),
            "/metrics" => self.figures(),
            "/debug/forecast" => Answer::json(&self.forecaster.look(SystemTime::now())),
            "/debug/sync" => Answer::json(&self.sync()),
            "/debug/problems" => Answer::json(&self.problems()),
            "/debug/objects" => Answer::json(&self.objects()),
            "/ca/bundle" => Answer::text(StatusCode::OK, self.bundle.borrow().to_pem()),
            // The CA may have to ask its store.
            "/ca/status" => match tokio::task::block_in_place(|| (self.ca)()) {
                Ok(status) => Answer::json(&status),
                Err(why) => Answer::text(StatusCode::SERVICE_UNAVAILABLE, format!("the CA cannot tell: {why}\n")),
            },
            "/debug/federation" => Answer::json(&self.federation.all()),
            _ => return None,
        })
    }
}

impl ControlPages {
    fn figures(&self) -> Answer {
        self.forecaster.look(SystemTime::now());
        Answer {
            status: StatusCode::OK,
            content_type: "text/plain; version=0.0.4; charset=utf-8",
            body: self.metrics.render(),
        }
    }

    fn ready(&self) -> Answer {
        let status = self.status.borrow();
        if status.complete {
            return Answer::text(StatusCode::OK, "ready\n");
        }
        let mut why = String::from("not ready: ");
        why.push_str(if status.scanned {
            "these have never been read without an error, so what they contain is unknown:\n"
        } else {
            "the objects have not been read yet\n"
        });
        let errors = status
            .problems
            .iter()
            .filter(|problem| problem.severity == Severity::Error);
        for problem in errors.take(100) {
            // Writing to a String does not fail.
            writeln!(why, "  {problem}").ok();
        }
        Answer::text(StatusCode::SERVICE_UNAVAILABLE, why)
    }

    fn sync(&self) -> Value {
        let reports = self.reports.view().into_iter();
        let mut reports: BTreeMap<String, _> = reports.map(|(uid, report)| (uid.to_string(), report)).collect();
        let proxies: Vec<Value> = self
            .fleet
            .view()
            .into_iter()
            .map(|proxy| {
                let report = reports.remove(proxy.node.as_str());
                json!({"proxy": proxy, "report": report})
            })
            .collect();
        let versions: BTreeMap<&str, Value> = Kind::ALL
            .into_iter()
            .map(|kind| {
                (
                    kind.label(),
                    json!({"version": self.catalog.version(kind), "resources": self.catalog.len(kind)}),
                )
            })
            .collect();
        json!({"catalog": versions, "proxies": proxies, "reports_without_stream": reports})
    }

    fn problems(&self) -> Value {
        let status = self.status.borrow();
        json!({"complete": status.complete, "problems": status.problems, "files": status.files})
    }

    fn objects(&self) -> Value {
        let status = Arc::clone(&self.status.borrow());
        let mesh = status.mesh.read().unwrap_or_else(PoisonError::into_inner);
        let workloads: Vec<Value> = mesh.workloads.values().map(workload).collect();
        let services: Vec<Value> = mesh.services.values().map(service).collect();
        drop(mesh);
        let policies: Vec<&Value> = status.policies.iter().map(|policy| &policy.value).collect();
        let trust_domain = self.bundle.borrow().trust_domain().to_string();
        json!({"trust_domain": trust_domain, "workloads": workloads, "services": services, "policies": policies})
    }
}

fn workload(workload: &Workload) -> Value {
    let labels = |labels: &squire_mesh::workload::LabelSet| -> BTreeMap<String, String> {
        labels
            .iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    };
    let port = |port: &squire_mesh::workload::NamedPort| json!({"name": &*port.name, "port": port.port, "protocol": port.protocol.to_string(), "app_protocol": port.app_protocol.as_deref()});
    let membership = |membership: &squire_mesh::workload::Membership| {
        let pairs = membership
            .ports
            .iter()
            .map(|pair| json!([pair.service_port, pair.target_port]));
        json!({"service": membership.service.as_str(), "ports": pairs.collect::<Vec<_>>()})
    };
    json!({
        "uid": workload.uid.as_str(),
        "namespace": &*workload.namespace,
        "name": &*workload.name,
        "spiffe_id": workload.identity.as_ref().map(ToString::to_string),
        "addresses": &*workload.addresses,
        "transport": workload.transport.as_str(),
        "ready": workload.ready,
        "host_network": workload.host_network,
        "labels": labels(&workload.labels),
        "namespace_labels": labels(&workload.namespace_labels),
        "ports": workload.ports.iter().map(port).collect::<Vec<_>>(),
        "services": workload.services.iter().map(membership).collect::<Vec<_>>(),
        "node": workload.node.as_deref(),
        "owner": workload.owner.as_ref().map(|owner| format!("{}/{}", owner.kind, owner.name)),
    })
}

fn service(service: &Service) -> Value {
    let port = |port: &squire_mesh::workload::ServicePort| json!({"port": port.port, "name": &*port.name, "app_protocol": port.app_protocol.as_deref()});
    json!({
        "name": service.name.as_str(),
        "hostnames": service.hostnames.iter().map(|name| &**name).collect::<Vec<_>>(),
        "vips": &*service.vips,
        "ports": service.ports.iter().map(port).collect::<Vec<_>>(),
    })
}
