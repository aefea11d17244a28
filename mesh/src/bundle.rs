//! Trust bundles: the roots that may vouch for the X.509 identities of one trust domain and the keys that verify its
//! JWT-SVIDs, kept apart per domain and never merged (SPIFFE Federation 4.2). It checks that a root is a signing
//! certificate; it never verifies peers.

mod document;
mod error;
mod jwt_key;
mod message;
mod set;

pub use document::MAX_DOCUMENT;
pub use error::BundleError;
pub use jwt_key::JwtKey;
pub use set::TrustBundles;

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest;
use rustls::pki_types::{CertificateDer, TrustAnchor, pem::PemObject as _};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::spiffe::{SpiffeId, TrustDomain};

/// SHA-256 of a root certificate's DER.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RootDigest([u8; 32]);

/// One root of a bundle.
#[derive(Debug, Clone)]
pub struct Root {
    der: CertificateDer<'static>,
    digest: RootDigest,
    not_after: SystemTime,
}

/// What vouches for one trust domain. Without roots it vouches for no certificate, without keys for no token (Trust
/// Domain and Bundle 4.1.3).
#[derive(Debug, Clone)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    roots: Vec<Root>,
    anchors: Vec<TrustAnchor<'static>>,
    jwt_keys: Vec<JwtKey>,
    sequence: u64,
    refresh_hint: Option<Duration>,
    signing: Option<Signing>,
}

/// Which root of a bundle signs now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signing {
    /// Its digest.
    pub root: RootDigest,
    /// An SVID under another root is to be renewed at a random moment within this time.
    pub renew_within: Duration,
}

impl RootDigest {
    /// The digest of a certificate's DER.
    #[must_use]
    pub fn of(der: &[u8]) -> Self {
        Self(sha256(der))
    }
}

/// SHA-256 of a certificate's DER.
pub(crate) fn sha256(der: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, der).as_ref());
    out
}

impl Root {
    /// The certificate.
    #[must_use]
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Its SHA-256.
    #[must_use]
    pub fn digest(&self) -> RootDigest {
        self.digest
    }

    /// From then on it vouches for nobody.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

impl TrustBundle {
    /// Builds a bundle from DER certificates; the same root given twice counts once.
    ///
    /// # Errors
    /// When a certificate is malformed, not a CA, or carries another trust domain's ID.
    pub fn new(
        trust_domain: TrustDomain,
        roots: impl IntoIterator<Item = CertificateDer<'static>>,
        sequence: u64,
    ) -> Result<Self, BundleError> {
        let mut bundle = Self {
            trust_domain,
            roots: Vec::new(),
            anchors: Vec::new(),
            jwt_keys: Vec::new(),
            sequence,
            signing: None,
            refresh_hint: None,
        };
        for (index, der) in roots.into_iter().enumerate() {
            bundle.push(index, der)?;
        }
        Ok(bundle)
    }

    /// Reads PEM `CERTIFICATE` blocks.
    ///
    /// # Errors
    /// As [`TrustBundle::new`], and when the text is not PEM or holds no certificate.
    pub fn from_pem(trust_domain: &TrustDomain, pem: &[u8]) -> Result<Self, BundleError> {
        let ders = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| BundleError::Pem(error.to_string()))?;
        if ders.is_empty() {
            return Err(BundleError::Empty);
        }
        Self::new(trust_domain.clone(), ders, 0)
    }

    /// The same, saying which of its roots signs now.
    #[must_use]
    pub fn with_signing(mut self, signing: Signing) -> Self {
        self.signing = Some(signing);
        self
    }

    /// Which root signs now, if that is known.
    #[must_use]
    pub fn signing(&self) -> Option<Signing> {
        self.signing
    }

    /// SHA-256 over the sorted roots, hex: equal exactly when the same roots are trusted.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut context = digest::Context::new(&digest::SHA256);
        set::hash_roots(&mut context, self);
        hex(context.finish().as_ref())
    }

    /// The same with these keys for JWT-SVIDs; a key ID given twice counts once.
    #[must_use]
    pub fn with_jwt_keys(mut self, keys: impl IntoIterator<Item = JwtKey>) -> Self {
        self.jwt_keys.clear();
        for key in keys {
            if self.jwt_key(key.kid()).is_none() {
                self.jwt_keys.push(key);
            }
        }
        self
    }

    /// The same with this word on how often to look for changes.
    #[must_use]
    pub fn with_refresh_hint(mut self, hint: Option<Duration>) -> Self {
        self.refresh_hint = hint;
        self
    }

    /// Whose roots these are.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The roots, in the order given.
    #[must_use]
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// The keys that verify JWT-SVIDs, in the order given.
    #[must_use]
    pub fn jwt_keys(&self) -> &[JwtKey] {
        &self.jwt_keys
    }

    /// The key of this ID.
    #[must_use]
    pub fn jwt_key(&self, kid: &str) -> Option<&JwtKey> {
        self.jwt_keys.iter().find(|key| key.kid() == kid)
    }

    /// Grows with every change of content.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// How often its owner thinks one should look for changes.
    #[must_use]
    pub fn refresh_hint(&self) -> Option<Duration> {
        self.refresh_hint
    }

    /// The roots as webpki wants them; same order as [`TrustBundle::roots`].
    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    /// All roots as PEM text.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.roots
            .iter()
            .map(|root| pem::encode(&pem::Pem::new("CERTIFICATE", root.der.as_ref())))
            .collect()
    }

    fn push(&mut self, index: usize, der: CertificateDer<'static>) -> Result<(), BundleError> {
        let digest = RootDigest::of(&der);
        if self.roots.iter().any(|root| root.digest == digest) {
            return Ok(());
        }
        let malformed = |reason: String| BundleError::Malformed {
            trust_domain: self.trust_domain.clone(),
            index,
            reason,
        };
        let anchor = webpki::anchor_from_trusted_cert(&der)
            .map_err(|error| malformed(error.to_string()))?
            .to_owned();
        let not_after = check_root(&self.trust_domain, index, &der)?;
        self.roots.push(Root { der, digest, not_after });
        self.anchors.push(anchor);
        Ok(())
    }
}

/// Equal when they say the same, whatever their sequence numbers.
impl PartialEq for TrustBundle {
    fn eq(&self, other: &Self) -> bool {
        let roots = |bundle: &Self| bundle.roots.iter().map(|root| root.digest).collect::<Vec<_>>();
        self.trust_domain == other.trust_domain
            && roots(self) == roots(other)
            && self.jwt_keys == other.jwt_keys
            && self.refresh_hint == other.refresh_hint
    }
}

fn check_root(trust_domain: &TrustDomain, index: usize, der: &[u8]) -> Result<SystemTime, BundleError> {
    let domain = || trust_domain.clone();
    let malformed = |reason: String| BundleError::Malformed {
        trust_domain: domain(),
        index,
        reason,
    };
    let (_, cert) = X509Certificate::from_der(der).map_err(|error| malformed(error.to_string()))?;
    let usage = cert.key_usage().map_err(|error| malformed(error.to_string()))?;
    if !cert.is_ca() || !usage.is_none_or(|usage| usage.value.key_cert_sign()) {
        return Err(BundleError::NotCa {
            trust_domain: domain(),
            index,
        });
    }
    let names = cert
        .subject_alternative_name()
        .map_err(|error| malformed(error.to_string()))?;
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        if let GeneralName::URI(uri) = name
            && uri.parse::<SpiffeId>().as_ref() != Ok(&trust_domain.id())
        {
            return Err(BundleError::OtherDomain {
                trust_domain: domain(),
                index,
                found: (*uri).to_owned(),
            });
        }
    }
    Ok(system_time(cert.validity().not_after.timestamp()))
}

/// Seconds since the epoch as a [`SystemTime`]; what lies before 1970 becomes 1970.
pub(crate) fn system_time(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

impl fmt::Display for RootDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for RootDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

#[cfg(test)]
mod tests;
