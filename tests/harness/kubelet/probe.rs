//! Probes as a kubelet asks them: how often, how many answers in a row change its mind, and each kind as it is: HTTP, TCP and
//! gRPC from the node, by the pod's address; exec in the container, as its user. It never knows what a probe was before it
//! was admitted.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde_json::Value;
use squire_mesh::wire::health::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tonic::transport::Endpoint;

use super::container;
use crate::http::Client;

/// A probe of a container, and what its last answers were.
#[derive(Debug)]
pub(super) struct Probe {
    spec: Value,
    ports: Value,
    next: Instant,
    holds: bool,
    /// Answers in a row that say otherwise.
    otherwise: u64,
}

/// Where a container is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    pub(super) address: IpAddr,
    pub(super) pid: u32,
}

impl Probe {
    /// The probe of this kind (`readinessProbe`, …), if the container has one. What it asks about holds at first, or not.
    pub(super) fn of(container: &Value, kind: &str, holds: bool) -> Option<Self> {
        let spec = container.get(kind).filter(|spec| !spec.is_null())?;
        Some(Self {
            spec: spec.clone(),
            ports: container["ports"].clone(),
            next: Instant::now() + seconds(spec, "initialDelaySeconds", 0),
            holds,
            otherwise: 0,
        })
    }

    /// Asks, if it is time to; whether it holds.
    pub(super) async fn holds(&mut self, at: At) -> bool {
        if Instant::now() < self.next {
            return self.holds;
        }
        if self.spec.get("exec").is_some() && container::enter(at.pid, &[]).is_none() {
            // It is about to begin: there is nothing yet that could be asked.
            return self.holds;
        }
        self.next = Instant::now() + seconds(&self.spec, "periodSeconds", 10);
        if self.asked(at).await == self.holds {
            self.otherwise = 0;
            return self.holds;
        }
        self.otherwise += 1;
        let (key, default) = if self.holds {
            ("failureThreshold", 3)
        } else {
            ("successThreshold", 1)
        };
        if self.otherwise >= self.spec[key].as_u64().unwrap_or(default) {
            (self.holds, self.otherwise) = (!self.holds, 0);
        }
        self.holds
    }

    async fn asked(&self, at: At) -> bool {
        let limit = seconds(&self.spec, "timeoutSeconds", 1);
        timeout(limit, self.answer(at)).await.ok().flatten().is_some()
    }

    /// What is said in time, if it is good.
    async fn answer(&self, at: At) -> Option<()> {
        if let Some(action) = self.spec.get("httpGet") {
            let status = http_get(self.to(at, action), action).await?;
            (200..400).contains(&status).then_some(())
        } else if let Some(action) = self.spec.get("tcpSocket") {
            TcpStream::connect(self.to(at, action)).await.ok().map(drop)
        } else if let Some(action) = self.spec.get("grpc") {
            grpc(self.to(at, action), action["service"].as_str().unwrap_or_default()).await
        } else if let Some(words) = self.spec["exec"]["command"].as_array() {
            let words: Vec<&str> = words.iter().map(|word| word.as_str().unwrap()).collect();
            let output = container::enter(at.pid, &words)?.output().await.unwrap();
            output.status.success().then_some(())
        } else {
            panic!("no such probe is known: {}", self.spec)
        }
    }

    fn to(&self, at: At, action: &Value) -> SocketAddr {
        let port = &action["port"];
        let named = || {
            let ports = self.ports.as_array().into_iter().flatten();
            ports
                .filter(|known| known["name"] == *port)
                .find_map(|known| known["containerPort"].as_u64())
        };
        let number = port.as_u64().or_else(named).expect("the port is declared");
        SocketAddr::new(at.address, u16::try_from(number).unwrap())
    }
}

async fn http_get(to: SocketAddr, action: &Value) -> Option<u16> {
    let plain = action["scheme"].as_str().is_none_or(|scheme| scheme == "HTTP");
    assert!(plain, "probes over HTTPS are the sidecar's here: {action}");
    let path = action["path"].as_str().unwrap_or("/");
    let mut head = format!("GET {path} HTTP/1.1\r\nHost: {to}\r\nUser-Agent: kube-probe/1.34\r\nConnection: close\r\n");
    for field in action["httpHeaders"].as_array().into_iter().flatten() {
        head += &format!(
            "{}: {}\r\n",
            field["name"].as_str().unwrap(),
            field["value"].as_str().unwrap()
        );
    }
    let mut client = Client::connect(to).await.ok()?;
    client.send(&(head + "\r\n")).await.ok()?;
    Some(client.try_answer().await.ok()?.status)
}

async fn grpc(to: SocketAddr, service: &str) -> Option<()> {
    let channel = Endpoint::from_shared(format!("http://{to}"))
        .unwrap()
        .connect()
        .await
        .ok()?;
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let answer = HealthClient::new(channel).check(request).await.ok()?;
    (answer.get_ref().status() == ServingStatus::Serving).then_some(())
}

fn seconds(spec: &Value, key: &str, default: u64) -> Duration {
    Duration::from_secs(spec[key].as_u64().unwrap_or(default))
}
