//! Asks the control plane that runs a CA to sign: one gRPC call over TLS. The control plane must prove its SPIFFE ID under
//! the CA's own roots before it sees the token.

use std::{
    future::Future,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use http::{Request, Response, Uri};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use squire_ca::token::JoinToken;
use squire_mesh::{
    bundle::{TrustBundle, TrustBundles},
    ports,
    spiffe::SpiffeId,
    tls::{self, Expect},
    wire::ca::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tower_service::Service;

use super::issue::Papers;
use crate::exit::{Failure, block_on};

/// Connecting, handshake, signing: all of it.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Shows the token to the control plane at `address` and takes its certificate home.
pub(super) fn issue(
    address: SocketAddr,
    bundle: TrustBundle,
    token: &JoinToken,
    request: &str,
    ttl: Duration,
) -> Result<Papers, Failure> {
    let address = reachable(address);
    let mut papers = None;
    block_on(async {
        let asked = timeout(TIMEOUT, ask(address, bundle, token, request, ttl)).await;
        let answer = asked
            .map_err(|_| anyhow!("no answer within {TIMEOUT:?}"))
            .and_then(|answer| answer);
        let context = || format!("the control plane at {address}, which runs this CA");
        papers = Some(answer.with_context(context).map_err(Failure::unavailable)?);
        Ok(())
    })?;
    papers.ok_or_else(|| Failure::unavailable(anyhow!("nothing was issued")))
}

/// A server that listens everywhere is reached on loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

async fn ask(
    address: SocketAddr,
    bundle: TrustBundle,
    token: &JoinToken,
    request: &str,
    ttl: Duration,
) -> anyhow::Result<Papers> {
    let channel = connect(address, &bundle).await?;
    let origin = Uri::builder()
        .scheme("https")
        .authority(address.to_string())
        .path_and_query("/")
        .build()?;
    let mut client = IstioCertificateServiceClient::with_origin(channel, origin);
    let mut message = tonic::Request::new(IstioCertificateRequest {
        csr: request.to_owned(),
        validity_duration: i64::try_from(ttl.as_secs())?,
        metadata: None,
    });
    let bearer = format!("Bearer {}", token.expose().as_str()).parse()?;
    message.metadata_mut().insert("authorization", bearer);
    let answer = client
        .create_certificate(message)
        .await
        .map_err(|status| anyhow!("{}", status.message().to_owned()))?;
    let pem = answer.into_inner().cert_chain;
    let roots = bundle.roots().len();
    if pem.len() < roots + 2 {
        return Err(anyhow!(
            "its answer has {} certificates, too few for leaf, intermediate and root",
            pem.len()
        ));
    }
    let (chain, _) = pem.split_at(pem.len() - roots);
    Ok(Papers {
        chain: chain.concat(),
        bundle: bundle.to_pem(),
    })
}

async fn connect(address: SocketAddr, bundle: &TrustBundle) -> anyhow::Result<Channel> {
    let domain = bundle.trust_domain();
    let control = SpiffeId::workload(domain, ports::SYSTEM_NAMESPACE, ports::CONTROL_ACCOUNT)?;
    let bundles = Arc::new(TrustBundles::new([bundle.clone()]));
    let config = tls::anonymous_client_config(bundles, Expect::Exact(control), &[b"h2"]);
    let tcp = TcpStream::connect(address).await.context("cannot connect")?;
    let name = ServerName::IpAddress(address.ip().into());
    let stream = TlsConnector::from(config)
        .connect(name, tcp)
        .await
        .context("the TLS handshake failed")?;
    let (send, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(Channel(send))
}

struct Channel(http2::SendRequest<Body>);

impl Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_listens_everywhere_is_reached_on_loopback() {
        for (listens, reached) in [
            ("0.0.0.0:15012", "127.0.0.1:15012"),
            ("[::]:15012", "[::1]:15012"),
            ("10.0.0.1:1", "10.0.0.1:1"),
        ] {
            assert_eq!(reachable(listens.parse().unwrap()), reached.parse().unwrap());
        }
    }
}
