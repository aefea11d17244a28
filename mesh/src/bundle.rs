//! Trust bundles: the roots that may vouch for the identities of one trust domain, kept apart per domain and never
//! merged (SPIFFE Federation 4.2). It checks that a root is a signing certificate; it never verifies peers.

mod error;

pub use error::BundleError;

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest;
use rustls::pki_types::{CertificateDer, TrustAnchor, pem::PemObject as _};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::{
    spiffe::{SpiffeId, TrustDomain},
    svid::memo::Memo,
    wire,
};

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

/// The roots of one trust domain. Without roots it vouches for nobody (Trust Domain and Bundle 4.1.3).
#[derive(Debug, Clone)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    roots: Vec<Root>,
    anchors: Vec<TrustAnchor<'static>>,
    sequence: u64,
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

/// The bundles of all trust domains that are trusted.
#[derive(Debug, Clone)]
pub struct TrustBundles {
    by_domain: BTreeMap<TrustDomain, TrustBundle>,
    digest: String,
    /// What these very roots have verified; a change of roots makes a new one.
    memo: Arc<Memo>,
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
            sequence,
            signing: None,
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
        hash_roots(&mut context, self);
        hex(context.finish().as_ref())
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

    /// Grows with every change of content.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
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

impl TrustBundles {
    /// Puts bundles together, one per trust domain; the last one of a domain wins.
    #[must_use]
    pub fn new(bundles: impl IntoIterator<Item = TrustBundle>) -> Self {
        let by_domain: BTreeMap<_, _> = bundles
            .into_iter()
            .map(|bundle| (bundle.trust_domain.clone(), bundle))
            .collect();
        let digest = digest_of(&by_domain);
        Self {
            by_domain,
            digest,
            memo: Arc::default(),
        }
    }

    /// The bundle of a single trust domain, read from PEM `CERTIFICATE` blocks.
    ///
    /// # Errors
    /// As [`TrustBundle::from_pem`].
    pub fn from_pem(trust_domain: &TrustDomain, pem: &[u8]) -> Result<Self, BundleError> {
        TrustBundle::from_pem(trust_domain, pem).map(|bundle| Self::new([bundle]))
    }

    /// The same bundles with this one put in place of its domain's.
    #[must_use]
    pub fn with(&self, bundle: TrustBundle) -> Self {
        Self::new(self.by_domain.values().cloned().chain([bundle]))
    }

    /// The same bundles without this domain's.
    #[must_use]
    pub fn without(&self, trust_domain: &TrustDomain) -> Self {
        Self::new(
            self.by_domain
                .values()
                .filter(|bundle| bundle.trust_domain != *trust_domain)
                .cloned(),
        )
    }

    /// The bundle of a trust domain.
    #[must_use]
    pub fn get(&self, trust_domain: &TrustDomain) -> Option<&TrustBundle> {
        self.by_domain.get(trust_domain)
    }

    /// All bundles, sorted by trust domain.
    pub fn iter(&self) -> impl Iterator<Item = &TrustBundle> {
        self.by_domain.values()
    }

    /// Whether these are the same bundles, sequence numbers and the roots that sign included.
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        let facts =
            |bundles: &Self| -> Vec<_> { bundles.iter().map(|bundle| (bundle.sequence, bundle.signing)).collect() };
        self.digest == other.digest && facts(self) == facts(other)
    }

    /// Whether this root still vouches for this trust domain.
    #[must_use]
    pub fn holds(&self, trust_domain: &TrustDomain, root: RootDigest) -> bool {
        self.get(trust_domain)
            .is_some_and(|bundle| bundle.roots.iter().any(|known| known.digest == root))
    }

    pub(crate) fn memo(&self) -> &Memo {
        &self.memo
    }

    /// SHA-256 over the trust domains and their sorted roots, hex: equal exactly when the same roots are trusted for
    /// the same domains, whatever their order and sequence numbers.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

impl Default for TrustBundles {
    fn default() -> Self {
        Self::new([])
    }
}

fn digest_of(bundles: &BTreeMap<TrustDomain, TrustBundle>) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for bundle in bundles.values() {
        hash_roots(&mut context, bundle);
    }
    hex(context.finish().as_ref())
}

fn hash_roots(context: &mut digest::Context, bundle: &TrustBundle) {
    let domain = bundle.trust_domain.as_str();
    let mut roots: Vec<_> = bundle.roots.iter().map(|root| root.digest).collect();
    roots.sort_unstable();
    context.update(&(domain.len() as u64).to_be_bytes());
    context.update(domain.as_bytes());
    context.update(&(roots.len() as u64).to_be_bytes());
    roots.iter().for_each(|root| context.update(&root.0));
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

impl TryFrom<wire::squire::TrustBundle> for TrustBundle {
    type Error = BundleError;

    fn try_from(message: wire::squire::TrustBundle) -> Result<Self, BundleError> {
        let domain = message
            .trust_domain
            .parse()
            .map_err(|error| BundleError::TrustDomain(message.trust_domain.chars().take(300).collect(), error))?;
        let roots = message.roots.iter().map(|der| CertificateDer::from(der.to_vec()));
        let bundle = Self::new(domain, roots, message.sequence)?;
        if message.signing_root.is_empty() {
            return Ok(bundle);
        }
        let signing = bundle
            .roots
            .iter()
            .find(|root| root.digest.0[..] == message.signing_root[..]);
        let root = signing
            .ok_or_else(|| BundleError::Signing(bundle.trust_domain.clone()))?
            .digest;
        let renew_within = Duration::from_secs(message.renew_within_seconds.into());
        Ok(bundle.with_signing(Signing { root, renew_within }))
    }
}

impl From<&TrustBundle> for wire::squire::TrustBundle {
    fn from(bundle: &TrustBundle) -> Self {
        Self {
            trust_domain: bundle.trust_domain.to_string(),
            roots: bundle.roots.iter().map(|root| root.der.to_vec().into()).collect(),
            sequence: bundle.sequence,
            signing_root: bundle
                .signing
                .map(|signing| signing.root.0.to_vec().into())
                .unwrap_or_default(),
            renew_within_seconds: bundle.signing.map_or(0, |signing| {
                u32::try_from(signing.renew_within.as_secs()).unwrap_or(u32::MAX)
            }),
        }
    }
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
