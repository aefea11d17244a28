//! TLS clients and servers that show what they are told to and trust whomever they meet: for what must be refused by the
//! other side. Peers that must be verified are verified by the squires under test, or by openssl, haproxy and Envoy.

use std::{io, net::SocketAddr, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::verify_tls13_signature,
    pki_types::{CertificateDer, IpAddr, ServerName, UnixTime},
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use squire_mesh::tls::provider;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::forge::Shown;

/// For SPIFFE peers that are not squires.
pub const SPIFFE: &[u8] = b"squire-tls/1";

/// A configuration that shows `shown`, whatever is wrong with it.
#[must_use]
pub fn client(shown: Option<&Shown>, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some(shown) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified(shown)))),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// A server configuration that shows `shown` and asks nobody who they are.
#[must_use]
pub fn server(shown: &Shown, alpn: &[&[u8]]) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified(shown))));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// Connects over TLS. With TLS 1.3 this succeeds before the server has judged the certificate.
///
/// # Errors
/// When the handshake fails.
pub async fn connect(address: SocketAddr, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    handshake(TcpStream::connect(address).await?, config).await
}

async fn handshake(tcp: TcpStream, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    tcp.set_nodelay(true)?;
    let name = ServerName::IpAddress(IpAddr::from(tcp.peer_addr()?.ip()));
    TlsConnector::from(config).connect(name, tcp).await
}

/// Sends something and wants it back.
///
/// # Errors
/// When it is refused at any point.
pub async fn echoes(address: SocketAddr, shown: Option<&Shown>) -> io::Result<()> {
    let tcp = TcpStream::connect(address).await?;
    round_trip(tcp, shown).await
}

/// As [`echoes`], from this address.
///
/// # Errors
/// When it is refused at any point.
pub async fn echoes_from(from: std::net::IpAddr, address: SocketAddr, shown: Option<&Shown>) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    round_trip(socket.connect(address).await?, shown).await
}

async fn round_trip(tcp: TcpStream, shown: Option<&Shown>) -> io::Result<()> {
    let mut stream = handshake(tcp, client(shown, &[SPIFFE])).await?;
    stream.write_all(b"hello").await?;
    stream.flush().await?;
    let mut back = [0; 5];
    stream.read_exact(&mut back).await?;
    assert_eq!(&back, b"hello");
    Ok(())
}

/// Chain and key without a question.
fn certified(shown: &Shown) -> CertifiedKey {
    let key = provider().key_provider.load_private_key(shown.key.clone_key()).unwrap();
    CertifiedKey::new(shown.chain.clone(), key)
}

/// Trusts anybody: the other side is who is tested.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
