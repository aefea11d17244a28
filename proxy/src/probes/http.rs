//! A probe over HTTP/1.1, with or without TLS, as a kubelet does it: its fields, no verification of certificates, redirects
//! followed where they lead back to the application.

use std::{net::SocketAddr, sync::Arc};

use http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use squire_mesh::tls;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::{ProbeError, connect};

/// As many as a kubelet follows.
pub(super) const MAX_REDIRECTS: usize = 10;

/// The status that the application answers with in the end.
pub(super) async fn ask(
    address: SocketAddr,
    tls: Option<&Arc<ClientConfig>>,
    path: &str,
    headers: &[(String, String)],
    asked: &HeaderMap,
) -> Result<StatusCode, ProbeError> {
    let mut path = rooted(path);
    for _ in 0..=MAX_REDIRECTS {
        let request = request(address, &path, headers, asked)?;
        let response = once(address, tls, request).await?;
        match next(&response, address) {
            Next::Here => return Ok(response.status()),
            // To a kubelet, an application that sends it elsewhere is healthy.
            Next::Elsewhere => return Ok(StatusCode::OK),
            Next::Path(next) => path = next,
        }
    }
    Err(ProbeError::Circle(address))
}

fn rooted(path: &str) -> String {
    match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("/{path}"),
    }
}

fn request(
    address: SocketAddr,
    path: &str,
    headers: &[(String, String)],
    asked: &HeaderMap,
) -> Result<Request<Empty<Bytes>>, ProbeError> {
    let given = |name: &header::HeaderName| headers.iter().any(|(key, _)| key.eq_ignore_ascii_case(name.as_str()));
    let mut request = Request::get(path);
    if !given(&header::HOST) {
        request = request.header(header::HOST, address.to_string());
    }
    for name in [header::USER_AGENT, header::ACCEPT] {
        if let Some(value) = asked.get(&name)
            && !given(&name)
        {
            request = request.header(name, value);
        }
    }
    request = request.header(header::CONNECTION, "close");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    request.body(Empty::new()).map_err(ProbeError::Request)
}

async fn once(
    address: SocketAddr,
    tls: Option<&Arc<ClientConfig>>,
    request: Request<Empty<Bytes>>,
) -> Result<Response<Incoming>, ProbeError> {
    let stream = connect(address).await?;
    match tls {
        None => exchange(stream, address, request).await,
        Some(config) => {
            let name = ServerName::IpAddress(address.ip().into());
            let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await;
            let stream = stream.map_err(|error| ProbeError::Tls(address, error))?;
            exchange(stream, address, request).await
        }
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    address: SocketAddr,
    request: Request<Empty<Bytes>>,
) -> Result<Response<Incoming>, ProbeError> {
    let failed = |error| ProbeError::Http(address, error);
    let (mut send, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    // It ends by itself: with the answer, or when the question is given up.
    tokio::spawn(connection);
    send.send_request(request).await.map_err(failed)
}

/// What to do after an answer.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Here,
    Elsewhere,
    Path(String),
}

fn next<B>(response: &Response<B>, address: SocketAddr) -> Next {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Next::Here;
    }
    let location = response.headers().get(header::LOCATION);
    let uri = location.and_then(|value| value.to_str().ok()?.parse::<Uri>().ok());
    let Some(uri) = uri else { return Next::Here };
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    match uri.authority() {
        None => Next::Path(rooted(path)),
        Some(authority) if authority.as_str() == address.to_string() => Next::Path(rooted(path)),
        Some(_) => Next::Elsewhere,
    }
}

/// TLS for a question whose answer is only a status: who answers on the pod's own address is not verified, as a kubelet
/// does not either.
pub(super) fn trusting_anybody() -> Arc<ClientConfig> {
    let provider = tls::provider();
    let verifier = Anybody(Arc::clone(&provider));
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]);
    // The provider has suites of TLS 1.3: it is the mesh's own.
    #[allow(clippy::expect_used, reason = "see the line above")]
    let builder = builder.expect("the provider speaks TLS 1.3");
    let mut config = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_followed_to_the_application_and_nowhere_else() {
        let address: SocketAddr = "10.0.0.7:8080".parse().unwrap();
        for (status, location, expected) in [
            (200, Some("/x"), Next::Here),
            (302, None, Next::Here),
            (304, Some("/x"), Next::Here),
            (302, Some("/ready?a=b"), Next::Path("/ready?a=b".into())),
            (301, Some("http://10.0.0.7:8080/x"), Next::Path("/x".into())),
            (307, Some("http://10.0.0.7:9090/x"), Next::Elsewhere),
            (308, Some("https://login.example/x"), Next::Elsewhere),
        ] {
            let mut response = Response::builder().status(status);
            if let Some(location) = location {
                response = response.header(header::LOCATION, location);
            }
            assert_eq!(
                next(&response.body(()).unwrap(), address),
                expected,
                "{status} {location:?}"
            );
        }
    }
}
