//! Asks admin endpoints: plain HTTP/1.1, one request per connection, bounded in time and size, at an address or at a pod that
//! the API server leads to. It follows no redirects and speaks no TLS.

use std::{fmt, net::SocketAddr, str::FromStr, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use crate::cluster::PodPort;

/// An answer larger than this is a mistake.
const MAX_BODY: usize = 256 << 20;

/// Where an admin endpoint is: `host:port`, with or without `http://` before it; or a port of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint(Place);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Address(String),
    Pod(PodPort),
}

impl Endpoint {
    /// A port of a pod, reached through the API server.
    pub(crate) fn pod(client: kube::Client, namespace: &str, name: &str, port: u16) -> Self {
        Self(Place::Pod(PodPort::new(client, namespace, name, port)))
    }

    /// The same port of another pod, if this is one of a cluster.
    pub(crate) fn beside(&self, namespace: &str, name: &str, port: u16) -> Option<Self> {
        match &self.0 {
            Place::Address(_) => None,
            Place::Pod(pod) => Some(Self(Place::Pod(pod.beside(namespace, name, port)))),
        }
    }

    /// The port, where it is an address.
    pub(crate) fn port(&self) -> u16 {
        match &self.0 {
            Place::Address(address) => address
                .rsplit_once(':')
                .and_then(|(_, port)| port.parse().ok())
                .unwrap_or(0),
            Place::Pod(pod) => pod.port,
        }
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("https://") {
            return Err("admin endpoints speak plain HTTP: write http://HOST:PORT".to_owned());
        }
        let rest = text.strip_prefix("http://").unwrap_or(text);
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let port = authority
            .rsplit_once(':')
            .filter(|(host, _)| !host.is_empty() && !host.contains(['/', '@', '?', ' ']))
            .and_then(|(_, port)| port.parse::<u16>().ok());
        match port {
            Some(port) if port > 0 => Ok(Self(Place::Address(authority.to_owned()))),
            _ => Err("write HOST:PORT, such as 127.0.0.1:15014".to_owned()),
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self(Place::Address(address.to_string()))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Address(address) => f.write_str(address),
            Place::Pod(pod) => pod.fmt(f),
        }
    }
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl Page {
    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Gets a page within `limit`, whatever its status.
pub(crate) async fn page(endpoint: &Endpoint, path: &str, limit: Duration) -> anyhow::Result<Page> {
    let whole = async {
        let (status, body) = open(endpoint, path).await?;
        let body = Limited::new(body, MAX_BODY).collect().await;
        let body = body
            .map_err(|error| anyhow!("http://{endpoint}{path}: the answer broke off: {error}"))?
            .to_bytes();
        Ok(Page { status, body })
    };
    timeout(limit, whole)
        .await
        .unwrap_or_else(|_| bail!("http://{endpoint}{path}: no answer within {limit:?}"))
}

/// Gets a JSON document within `limit`; anything but 200 is an error.
pub(crate) async fn json(endpoint: &Endpoint, path: &str, limit: Duration) -> anyhow::Result<serde_json::Value> {
    let page = page(endpoint, path, limit).await?;
    if page.status != StatusCode::OK {
        bail!(
            "http://{endpoint}{path}: answered {}: {}",
            page.status,
            page.text().trim()
        );
    }
    serde_json::from_slice(&page.body).with_context(|| format!("http://{endpoint}{path}: not the JSON expected there"))
}

/// Sends a request and gives the body as it comes.
pub(crate) async fn open(endpoint: &Endpoint, path: &str) -> anyhow::Result<(StatusCode, Incoming)> {
    let failed = || format!("http://{endpoint}{path}");
    let (mut sender, host) = match &endpoint.0 {
        Place::Address(address) => {
            let tcp = TcpStream::connect(address).await.with_context(failed)?;
            let (sender, connection) = http1::handshake(TokioIo::new(tcp)).await.with_context(failed)?;
            tokio::spawn(connection);
            (sender, address.clone())
        }
        Place::Pod(pod) => {
            let (stream, forwarder) = pod.open().await.with_context(failed)?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.with_context(failed)?;
            tokio::spawn(async move {
                let ended = connection.await;
                drop(forwarder);
                ended
            });
            (sender, format!("localhost:{}", pod.port))
        }
    };
    let request = Request::get(path)
        .header(header::HOST, host)
        .body(Empty::<Bytes>::new())
        .with_context(failed)?;
    let response = sender.send_request(request).await.with_context(failed)?;
    Ok((response.status(), response.into_body()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        for (text, expected) in [
            ("127.0.0.1:15014", "127.0.0.1:15014"),
            ("http://localhost:15014/", "localhost:15014"),
            ("http://[::1]:80", "[::1]:80"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), expected);
        }
        for bad in [
            "",
            "localhost",
            ":80",
            "host:0",
            "host:http",
            "https://host:443",
            "http://a/b:80",
            "a b:80",
        ] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }
}
