//! Why a certificate chain is not an identity: one variant per rule, each with a closed metric label and a message that
//! says what to do. It never holds secrets, only what the peer itself has sent.

use std::time::SystemTime;

use x509_parser::time::ASN1Time;

use crate::spiffe::{SpiffeId, SpiffeIdError, TrustDomain};

/// Why a peer could not be identified.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentifyError {
    /// The peer sent no certificate.
    #[error("the peer sent no certificate: it must present an X.509-SVID of the mesh")]
    NoCertificate,
    /// Not a certificate, or one that breaks X.509.
    #[error("the certificate cannot be parsed: {0}")]
    Malformed(String),
    /// No URI among the subject alternative names.
    #[error("the certificate has no URI name, so no SPIFFE ID: issue it with exactly one (X.509-SVID 2)")]
    NoUri,
    /// Several URIs.
    #[error("the certificate has {0} URI names: an X.509-SVID has exactly one (X.509-SVID 2, 5.2)")]
    ManyUris(usize),
    /// The URI is not a SPIFFE ID.
    #[error("the certificate's URI name {uri:?} is not a SPIFFE ID: {reason}")]
    BadId {
        /// What the certificate says.
        uri: String,
        /// Which rule it breaks.
        reason: SpiffeIdError,
    },
    /// The ID of a trust domain, not of a workload.
    #[error("{0} has no path: only signing certificates carry a trust domain's own ID (X.509-SVID 3.1, 5.2)")]
    NoPath(SpiffeId),
    /// Names without a subject, and the extension is not critical.
    #[error("the certificate of {0} has an empty subject but its subjectAltName is not critical (X.509-SVID 3.1)")]
    SanNotCritical(SpiffeId),
    /// A signing certificate where a leaf belongs.
    #[error(
        "the certificate of {0} is a signing certificate (CA:true), which must not authenticate (X.509-SVID 3.2, 5.2)"
    )]
    CaLeaf(SpiffeId),
    /// No basicConstraints.
    #[error("the certificate of {0} does not say CA:false: issue it with basicConstraints (X.509-SVID 4.1, 5.2)")]
    NoBasicConstraints(SpiffeId),
    /// keyUsage missing, not critical, or with the wrong bits.
    #[error("the key usage of the certificate of {id} is wrong: {problem} (X.509-SVID 4.3)")]
    KeyUsage {
        /// Whose certificate.
        id: SpiffeId,
        /// What is wrong.
        problem: &'static str,
    },
    /// extendedKeyUsage lacks one of the two, or the one that is needed.
    #[error(
        "the extended key usage of the certificate of {0} must name both serverAuth and clientAuth (X.509-SVID 4.4)"
    )]
    ExtendedKeyUsage(SpiffeId),
    /// We hold no bundle for the peer's trust domain.
    #[error(
        "nobody vouches for {0}: there is no trust bundle for its trust domain; federate with it, or check which mesh the peer belongs to"
    )]
    UnknownTrustDomain(SpiffeId),
    /// Past its end.
    #[error("{what} of {id} expired at {}, and this machine's clock says {}: renew it, or correct the clock that is wrong", time(*since), time(*now))]
    Expired {
        /// Which certificate of the chain.
        what: &'static str,
        /// Who the leaf says it is.
        id: SpiffeId,
        /// When it ended.
        since: SystemTime,
        /// The time of the check.
        now: SystemTime,
    },
    /// Before its start.
    #[error("the certificate of {id} is valid only from {}, and this machine's clock says {}: correct the clock that is wrong", time(*from), time(*now))]
    NotYetValid {
        /// Who the leaf says it is.
        id: SpiffeId,
        /// When it starts.
        from: SystemTime,
        /// The time of the check.
        now: SystemTime,
    },
    /// No path to a root of the bundle.
    #[error(
        "the certificate of {0} was not issued under a root of its trust domain's bundle: it comes from another CA, or its intermediates were not sent"
    )]
    UnknownIssuer(SpiffeId),
    /// A signature in the path does not verify.
    #[error(
        "a signature in the certificate chain of {0} is wrong: it was forged, or comes from a CA of the same name with another key"
    )]
    BadSignature(SpiffeId),
    /// An intermediate that speaks for something else than its trust domain.
    #[error("a signing certificate of the chain carries {found}, not spiffe://{domain} (X.509-SVID 3.2)")]
    Signer {
        /// The trust domain of the leaf.
        domain: TrustDomain,
        /// The URI found.
        found: String,
    },
    /// Path validation failed for another reason (name constraints, path length, critical extensions …).
    #[error("the certificate chain of {id} does not pass path validation: {reason} (RFC 5280, 6.1)")]
    Path {
        /// Who the leaf says it is.
        id: SpiffeId,
        /// What webpki said.
        reason: String,
    },
    /// A good identity, but not the one we wanted to reach.
    #[error(
        "the peer is {actual}, expected {expected}: the address belongs to another workload now, or someone impersonates it"
    )]
    Unexpected {
        /// Whom we wanted.
        expected: String,
        /// Who it proved to be.
        actual: SpiffeId,
    },
}

impl IdentifyError {
    /// A short name from a closed set, for metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::Malformed(_) => "malformed",
            Self::NoUri => "no_uri_san",
            Self::ManyUris(_) => "many_uri_sans",
            Self::BadId { .. } => "bad_spiffe_id",
            Self::NoPath(_) => "no_path",
            Self::SanNotCritical(_) => "san_not_critical",
            Self::CaLeaf(_) => "ca_leaf",
            Self::NoBasicConstraints(_) => "no_basic_constraints",
            Self::KeyUsage { .. } => "bad_key_usage",
            Self::ExtendedKeyUsage(_) => "bad_extended_key_usage",
            Self::UnknownTrustDomain(_) => "unknown_trust_domain",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::UnknownIssuer(_) => "unknown_issuer",
            Self::BadSignature(_) => "bad_signature",
            Self::Signer { .. } => "bad_signer",
            Self::Path { .. } => "bad_path",
            Self::Unexpected { .. } => "unexpected_id",
        }
    }

    /// Puts what webpki found into our words.
    pub(super) fn of_path(error: &webpki::Error, id: &SpiffeId) -> Self {
        use webpki::Error as E;
        let at = |time: &rustls::pki_types::UnixTime| {
            SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(time.as_secs())
        };
        match error {
            E::UnknownIssuer => Self::UnknownIssuer(id.clone()),
            E::InvalidSignatureForPublicKey => Self::BadSignature(id.clone()),
            E::CaUsedAsEndEntity => Self::CaLeaf(id.clone()),
            E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => Self::ExtendedKeyUsage(id.clone()),
            E::CertExpired { time, not_after } => Self::Expired {
                what: "a signing certificate in the chain",
                id: id.clone(),
                since: at(not_after),
                now: at(time),
            },
            E::CertNotValidYet { time, not_before } => Self::NotYetValid {
                id: id.clone(),
                from: at(not_before),
                now: at(time),
            },
            E::BadDer | E::BadDerTime | E::TrailingData(_) | E::MalformedExtensions | E::ExtensionValueInvalid => {
                Self::Malformed(error.to_string())
            }
            other => Self::Path {
                id: id.clone(),
                reason: other.to_string(),
            },
        }
    }
}

/// A moment in words.
pub(crate) fn time(time: SystemTime) -> String {
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let stamp = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| ASN1Time::from_timestamp(seconds).ok());
    stamp
        .and_then(|stamp| stamp.to_rfc2822().ok())
        .unwrap_or_else(|| format!("{seconds} s after 1970"))
}
