//! A kubelet's probes: asked of the sidecar on its admin port, which needs no mesh identity, and put to the application on
//! the address the kubelet dialled. Only what the configuration lists can be asked, and an answer is a status, never
//! what the application said.

mod grpc;
mod http;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ::http::{HeaderMap, StatusCode};
use rustls::ClientConfig;
use squire_mesh::probe::{Action, Probe, Probes};
use tokio::{net::TcpStream, time::timeout};

/// Puts the configured probes.
pub struct Prober {
    probes: Probes,
    tls: Arc<ClientConfig>,
}

/// What came of a probe.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The application's own, where it speaks HTTP.
    pub status: StatusCode,
    /// One line, for the event that a failed probe leaves.
    pub text: String,
}

/// Why the application gave no answer.
#[derive(Debug, thiserror::Error)]
enum ProbeError {
    /// Nobody listens, or nobody can.
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, io::Error),
    /// TLS failed.
    #[error("the TLS handshake with {0} failed: {1}; probes speak TLS 1.3")]
    Tls(SocketAddr, io::Error),
    /// The probe cannot be put.
    #[error("the probe itself is wrong: {0}")]
    Request(::http::Error),
    /// HTTP broke.
    #[error("{0} does not answer in HTTP: {1}")]
    Http(SocketAddr, hyper::Error),
    /// Sent around in circles.
    #[error("{0} redirects more than {max} times", max = http::MAX_REDIRECTS)]
    Circle(SocketAddr),
    /// gRPC broke, or says no.
    #[error("{0}: gRPC health: {1}")]
    Grpc(SocketAddr, String),
}

impl Prober {
    /// For the probes of a configuration.
    #[must_use]
    pub fn new(probes: Probes) -> Self {
        let tls = http::trusting_anybody();
        Self { probes, tls }
    }

    /// Puts the probe at `path` to the application on `local`, the address the kubelet dialled; `None`: there is no such
    /// probe. `asked`: the kubelet's own header fields, whose user agent is passed on.
    pub async fn answer(&self, path: &str, local: IpAddr, asked: &HeaderMap) -> Option<Answer> {
        let probe = self.probes.at(path)?;
        let put = timeout(probe.timeout, self.put(probe, local, asked)).await;
        Some(match put {
            Ok(Ok(status)) => Answer {
                status,
                text: format!("the application answered {status}\n"),
            },
            Ok(Err(error)) => Answer {
                status: StatusCode::SERVICE_UNAVAILABLE,
                text: format!("{error}\n"),
            },
            Err(_) => Answer {
                status: StatusCode::GATEWAY_TIMEOUT,
                text: format!("the application did not answer within {:?}\n", probe.timeout),
            },
        })
    }

    async fn put(&self, probe: &Probe, local: IpAddr, asked: &HeaderMap) -> Result<StatusCode, ProbeError> {
        let at = |port: u16| SocketAddr::new(local, port);
        match &probe.action {
            Action::Tcp { port } => connect(at(*port)).await.map(|_| StatusCode::OK),
            Action::Grpc { port, service } => grpc::check(at(*port), service).await,
            Action::Http {
                tls,
                port,
                path,
                headers,
            } => {
                let tls = tls.then_some(&self.tls);
                http::ask(at(*port), tls, path, headers, asked).await
            }
        }
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, ProbeError> {
    let connected = TcpStream::connect(address).await;
    connected.map_err(|error| ProbeError::Connect(address, error))
}

#[cfg(test)]
mod tests;
