//! Certificates and established connections for tests: a throw-away CA and real handshakes over loopback sockets.

#![allow(
    clippy::unwrap_used,
    reason = "for tests and for who measures: whatever is wrong with it is to be heard of at once"
)]

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::PrivateKeyDer;
use squire_mesh::{
    bundle::{TrustBundle, TrustBundles},
    tls::{ClientAuth, Expect, Svid, client_config, server_config},
};
use tokio::net::{TcpListener, TcpStream};

use super::{
    handshake::{self, Established, HandshakeError},
    records::Engine,
    schedule::Catch,
};

pub(crate) const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
pub(crate) const DB: &str = "spiffe://cluster.local/ns/shop/sa/db";

/// A root that signs leaves directly.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    root: Vec<u8>,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.subject_alt_names = vec![SanType::URI("spiffe://cluster.local".try_into().unwrap())];
        let root = params.self_signed(&key).unwrap().der().to_vec();
        Self {
            issuer: Issuer::new(params, key),
            root,
        }
    }

    pub(crate) fn svid(&self, id: &str) -> Svid {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.not_before = time::OffsetDateTime::now_utc() - time::Duration::minutes(5);
        params.not_after = time::OffsetDateTime::now_utc() + time::Duration::hours(1);
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        Svid::new(
            vec![leaf.der().clone()],
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap()
    }

    pub(crate) fn bundles(&self) -> Arc<TrustBundles> {
        let domain = "cluster.local".parse().unwrap();
        let bundle = TrustBundle::new(domain, [self.root.clone().into()], 1).unwrap();
        Arc::new(TrustBundles::new([bundle]))
    }
}

/// A connected pair of sockets.
pub(crate) async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, server) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (client.unwrap(), server.unwrap().0)
}

/// A handshake over loopback, with these ALPN protocols and engines: the client's view and the server's.
pub(crate) async fn handshake(
    ca: &Ca,
    expected: &str,
    alpn: (&[&[u8]], &[&[u8]]),
    engines: (Engine, Engine),
) -> (Result<Established, HandshakeError>, Result<Established, HandshakeError>) {
    let expect = Expect::Exact(expected.parse().unwrap());
    let mut client = Arc::unwrap_or_clone(client_config(&ca.svid(WEB), ca.bundles(), expect, alpn.0));
    client.enable_secret_extraction = true;
    client.key_log = Arc::new(Catch);
    let mut server = Arc::unwrap_or_clone(server_config(
        Arc::new(ca.svid(DB)),
        ca.bundles(),
        ClientAuth::Required,
        alpn.1,
    ));
    server.enable_secret_extraction = true;
    server.key_log = Arc::new(Catch);
    let (near, far) = sockets().await;
    tokio::join!(
        handshake::connect(Arc::new(client), near, engines.0),
        handshake::accept(Arc::new(server), far, Vec::new(), engines.1)
    )
}
