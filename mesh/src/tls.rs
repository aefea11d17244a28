//! TLS by SPIFFE identity: verifiers for rustls that call [`identify`](crate::svid::identify), and ready configurations.
//! TLS 1.3 only, aws-lc-rs, session resumption off unless the caller turns it on and verifies stored chains again. It
//! opens no sockets and never checks a DNS name.

mod verifier;

pub use verifier::{ClientVerifier, ServerVerifier, identify_error, identify_error_in_io};

use std::{
    fmt,
    sync::{Arc, LazyLock},
    time::SystemTime,
};

use rustls::{
    CipherSuite, ClientConfig, ServerConfig,
    client::Resumption,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};

use crate::{
    bundle::TrustBundles,
    spiffe::SpiffeId,
    svid::{IdentifyError, Serial, leaf},
};

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    // As ztunnel and Envoy do between themselves: 128 bits are enough, and cost less at both ends.
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
});

/// The one crypto provider of the mesh: aws-lc-rs, X25519MLKEM768 and AES-128-GCM preferred.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

/// Our own identity document: certificate chain (leaf first) and private key.
#[derive(Clone)]
pub struct Svid {
    leaf: leaf::Leaf,
    key: Arc<CertifiedKey>,
}

/// Whom a client wants to reach; checked inside the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// Exactly this identity.
    Exact(SpiffeId),
    /// One of these.
    AnyOf(Arc<[SpiffeId]>),
}

/// Whether a server insists on a client certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// No certificate, no connection.
    Required,
    /// It may come without; if it presents one, it must be good.
    Optional,
}

/// Why chain and key do not make an SVID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    /// The PEM text cannot be read.
    #[error("the {what} is not PEM: {reason}")]
    Pem {
        /// Certificate chain or private key.
        what: &'static str,
        /// What the parser said.
        reason: String,
    },
    /// The leaf is not an X.509-SVID.
    #[error("the certificate is not an X.509-SVID: {0}")]
    Leaf(#[from] IdentifyError),
    /// The key cannot be used, or belongs to another certificate.
    #[error("the private key does not fit the certificate: {0}")]
    Key(String),
}

impl Svid {
    /// Puts a chain (leaf first, then intermediates) and its private key together. The leaf must be an X.509-SVID and
    /// the key must be its key; nothing is said about who signed it.
    ///
    /// # Errors
    /// When the leaf breaks a SPIFFE rule or the key does not fit.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, SvidError> {
        let leaf = leaf::inspect(chain.first().ok_or(IdentifyError::NoCertificate)?)?;
        let key = CertifiedKey::from_der(chain, key, &PROVIDER).map_err(|error| SvidError::Key(error.to_string()))?;
        Ok(Self {
            leaf,
            key: Arc::new(key),
        })
    }

    /// Reads a chain and a private key (PKCS#8, SEC1 or PKCS#1) from PEM text.
    ///
    /// # Errors
    /// As [`Svid::new`], and when a text is not PEM.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, SvidError> {
        let pem = |what, error: rustls::pki_types::pem::Error| SvidError::Pem {
            what,
            reason: error.to_string(),
        };
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| pem("certificate chain", error))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| pem("private key", error))?;
        Self::new(chain, key)
    }

    /// Who we are.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.leaf.id
    }

    /// The chain, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }

    /// Chain and signing key in rustls' form.
    #[must_use]
    pub fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// Serial number of the leaf.
    #[must_use]
    pub fn serial(&self) -> &Serial {
        &self.leaf.serial
    }

    /// The leaf is valid from then.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.leaf.not_before
    }

    /// The leaf is valid until then.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.leaf.not_after
    }

    /// Key identifier of the certificate that signed the leaf, if it names one.
    #[must_use]
    pub fn issuer_key(&self) -> Option<&[u8]> {
        self.leaf.issuer_key.as_deref()
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid").field("leaf", &self.leaf).finish_non_exhaustive()
    }
}

impl Expect {
    /// Whether this is whom we want.
    #[must_use]
    pub fn accepts(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Exact(expected) => expected == id,
            Self::AnyOf(expected) => expected.contains(id),
        }
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(id) => id.fmt(f),
            Self::AnyOf(ids) => {
                f.write_str("one of")?;
                ids.iter().try_for_each(|id| write!(f, " {id}"))
            }
        }
    }
}

/// A client that shows its SVID and talks to nobody but whom it expects.
#[must_use]
pub fn client_config(svid: &Svid, bundles: Arc<TrustBundles>, expected: Expect, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let identity = Arc::new(SingleCertAndKey::from(Arc::clone(&svid.key)));
    let builder = client_builder(bundles, expected);
    finish_client(builder.with_client_cert_resolver(identity), alpn)
}

/// A client without an identity of its own, as a proxy is before its first SVID: the server is verified all the same.
#[must_use]
pub fn anonymous_client_config(bundles: Arc<TrustBundles>, expected: Expect, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    finish_client(client_builder(bundles, expected).with_no_client_auth(), alpn)
}

/// A server that shows its SVID and identifies its clients.
#[must_use]
pub fn server_config(
    svid: Arc<Svid>,
    bundles: Arc<TrustBundles>,
    client_auth: ClientAuth,
    alpn: &[&[u8]],
) -> Arc<ServerConfig> {
    let identity = Arc::new(SingleCertAndKey::from(Arc::clone(&svid.key)));
    #[allow(
        clippy::expect_used,
        reason = "fails only if the provider had no TLS 1.3 suite or group, which it has"
    )]
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("aws-lc-rs speaks TLS 1.3")
        .with_client_cert_verifier(Arc::new(ClientVerifier::new(bundles, client_auth)))
        .with_cert_resolver(identity);
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

/// A server that shows its SVID and asks nobody who they are: for what is public.
#[must_use]
pub fn open_server_config(svid: &Svid, alpn: &[&[u8]]) -> Arc<ServerConfig> {
    #[allow(
        clippy::expect_used,
        reason = "fails only if the provider had no TLS 1.3 suite or group, which it has"
    )]
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("aws-lc-rs speaks TLS 1.3")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&svid.key))));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

fn client_builder(
    bundles: Arc<TrustBundles>,
    expected: Expect,
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    #[allow(
        clippy::expect_used,
        reason = "fails only if the provider had no TLS 1.3 suite or group, which it has"
    )]
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("aws-lc-rs speaks TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ServerVerifier::new(bundles, expected)))
}

fn finish_client(mut config: ClientConfig, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Arc::new(config)
}

#[cfg(test)]
mod tests;
