//! X.509-SVID verification: [`identify`] is the one door through which a certificate chain becomes a [`VerifiedPeer`].
//! RFC 5280 path validation is webpki's; the SPIFFE rules (X.509-SVID sections 2 to 5) are checked here on top. It never
//! takes time, trust or identities from anywhere but its arguments, and it never looks at DNS names.

mod error;
pub(crate) mod leaf;
pub(crate) mod memo;
mod revocation;
mod signer;

pub use error::IdentifyError;
pub(crate) use error::time;
pub use revocation::{RevocationError, Revocations, Revoked};
pub use signer::{SignerFault, UnverifiedSigner, inspect_signer_unverified};

use std::{fmt, time::SystemTime};

use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyUsage, VerifiedPath};

use crate::{
    bundle::{RootDigest, TrustBundle, TrustBundles, hex, system_time},
    spiffe::{SpiffeId, TrustDomain},
};

/// What the peer is to us in the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It connected to us.
    Client,
    /// We connected to it.
    Server,
}

/// A peer whose certificate chain, validity, trust bundle and SPIFFE ID have been verified. Only [`identify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedPeer {
    id: SpiffeId,
    serial: Serial,
    not_before: SystemTime,
    not_after: SystemTime,
    root: RootDigest,
    issuer_key: Option<Box<[u8]>>,
    fingerprint: [u8; 32],
}

/// A certificate's serial number: big-endian, no leading zeros.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial(Box<[u8]>);

impl VerifiedPeer {
    /// Who it is.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Serial number of its certificate.
    #[must_use]
    pub fn serial(&self) -> &Serial {
        &self.serial
    }

    /// Its certificate is valid from then.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// The grounds for trusting it end then: the earliest end of its certificate, an intermediate or the root.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The root that vouches for it; see [`TrustBundles::holds`].
    #[must_use]
    pub fn root(&self) -> RootDigest {
        self.root
    }

    /// Key identifier of the certificate that signed its certificate, if it names one.
    #[must_use]
    pub fn issuer_key(&self) -> Option<&[u8]> {
        self.issuer_key.as_deref()
    }

    /// SHA-256 of its certificate (DER).
    #[must_use]
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }
}

impl Serial {
    /// Takes a serial number as big-endian bytes; leading zeros do not count.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
        Self(bytes[start..].into())
    }

    /// Big-endian, no leading zeros.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// What a certificate says of itself, for people. It proves nothing: nobody has checked who signed it.
#[derive(Debug, Clone)]
pub struct UnverifiedLeaf {
    /// The SPIFFE ID in it.
    pub id: SpiffeId,
    /// Its serial number.
    pub serial: Serial,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
}

/// Reads a leaf and checks what SPIFFE asks of it alone, its validity included. Only [`identify`] verifies.
///
/// # Errors
/// The first rule that the certificate breaks.
pub fn inspect_unverified(der: &[u8], now: SystemTime) -> Result<UnverifiedLeaf, IdentifyError> {
    let leaf = leaf::inspect(der)?;
    leaf.check_validity(now)?;
    Ok(UnverifiedLeaf {
        id: leaf.id,
        serial: leaf.serial,
        not_before: leaf.not_before,
        not_after: leaf.not_after,
    })
}

/// Verifies a peer's certificate chain (leaf first) at a point in time. A chain that the same bundles have verified before is
/// only checked against the time again.
///
/// # Errors
/// The first rule that the chain breaks: SPIFFE rules of the leaf, then its trust domain, its validity, the path.
pub fn identify(
    chain: &[CertificateDer<'_>],
    bundles: &TrustBundles,
    now: SystemTime,
    role: Role,
) -> Result<VerifiedPeer, IdentifyError> {
    let key = memo::key(chain, role);
    if let Some(peer) = bundles.memo().recall(&key, now) {
        return Ok(peer);
    }
    let (peer, from) = verify(chain, bundles, now, role)?;
    bundles.memo().keep(key, &peer, from);
    Ok(peer)
}

/// The whole verification; says also since when every certificate of the path is valid.
fn verify(
    chain: &[CertificateDer<'_>],
    bundles: &TrustBundles,
    now: SystemTime,
    role: Role,
) -> Result<(VerifiedPeer, SystemTime), IdentifyError> {
    let (first, intermediates) = chain.split_first().ok_or(IdentifyError::NoCertificate)?;
    let leaf = leaf::inspect(first)?;
    let domain = leaf.id.trust_domain();
    let bundle = bundles
        .get(domain)
        .ok_or_else(|| IdentifyError::UnknownTrustDomain(leaf.id.clone()))?;
    leaf.check_validity(now)?;
    let (root, span) = verify_path(first, intermediates, bundle, now, role, &leaf.id)?;
    let peer = VerifiedPeer {
        not_after: leaf.not_after.min(span.until),
        id: leaf.id,
        serial: leaf.serial,
        not_before: leaf.not_before,
        root,
        issuer_key: leaf.issuer_key,
        fingerprint: crate::bundle::sha256(first),
    };
    Ok((peer, leaf.not_before.max(span.from)))
}

/// When all signing certificates of a path are valid.
struct Span {
    from: SystemTime,
    until: SystemTime,
}

/// RFC 5280 path validation against the roots of the leaf's own trust domain; says which root, and when the path is valid.
fn verify_path(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    now: SystemTime,
    role: Role,
    id: &SpiffeId,
) -> Result<(RootDigest, Span), IdentifyError> {
    let entity = EndEntityCert::try_from(leaf).map_err(|error| IdentifyError::of_path(&error, id))?;
    let time = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    let usage: &dyn Fn() -> KeyUsage = match role {
        Role::Client => &KeyUsage::client_auth,
        Role::Server => &KeyUsage::server_auth,
    };
    let path = entity
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            bundle.anchors(),
            intermediates,
            time,
            Usage(usage()),
            None,
            None,
        )
        .map_err(|error| IdentifyError::of_path(&error, id))?;
    let anchor = bundle
        .anchors()
        .iter()
        .position(|anchor| std::ptr::eq(anchor, path.anchor()));
    let root = anchor
        .and_then(|index| bundle.roots().get(index))
        .ok_or_else(|| IdentifyError::UnknownIssuer(id.clone()))?;
    if root.not_after() < now {
        return Err(IdentifyError::Expired {
            what: "its root certificate",
            id: id.clone(),
            since: root.not_after(),
            now,
        });
    }
    let mut span = Span {
        from: SystemTime::UNIX_EPOCH,
        until: root.not_after(),
    };
    check_signers(&path, bundle.trust_domain(), &mut span)?;
    Ok((root.digest(), span))
}

/// webpki's check of the extended key usage, by value.
struct Usage(KeyUsage);

impl ExtendedKeyUsageValidator for Usage {
    fn validate(&self, ids: webpki::KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        self.0.validate(ids)
    }
}

/// The intermediates of the path may carry only their trust domain's ID (X.509-SVID 3.2); narrows the span to theirs.
fn check_signers(path: &VerifiedPath<'_>, domain: &TrustDomain, span: &mut Span) -> Result<(), IdentifyError> {
    for signer in path.intermediate_certificates() {
        let (not_before, not_after) = leaf::inspect_signer(&signer.der(), domain)?;
        span.from = span.from.max(not_before);
        span.until = span.until.min(not_after);
    }
    Ok(())
}

/// The leaf's validity in words that name the clock too.
impl leaf::Leaf {
    fn check_validity(&self, now: SystemTime) -> Result<(), IdentifyError> {
        if now < self.not_before {
            return Err(IdentifyError::NotYetValid {
                id: self.id.clone(),
                from: self.not_before,
                now,
            });
        }
        if now > self.not_after {
            return Err(IdentifyError::Expired {
                what: "the certificate",
                id: self.id.clone(),
                since: self.not_after,
                now,
            });
        }
        Ok(())
    }
}

/// When a certificate is valid, from its parsed form.
fn validity(cert: &x509_parser::certificate::X509Certificate<'_>) -> (SystemTime, SystemTime) {
    let validity = cert.validity();
    (
        system_time(validity.not_before.timestamp()),
        system_time(validity.not_after.timestamp()),
    )
}

#[cfg(test)]
pub(crate) mod corpus;
#[cfg(test)]
mod tests;
