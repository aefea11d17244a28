//! Why something is not a trust bundle. Messages name the domain, the position and what to do.

use crate::spiffe::{SpiffeIdError, TrustDomain};

/// Why something is not a trust bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// The trust domain of a bundle message is not one.
    #[error("the bundle's trust domain {0:?} is not valid: {1}")]
    TrustDomain(String, SpiffeIdError),
    /// The PEM text cannot be read.
    #[error("the trust bundle is not PEM: {0}; it should hold one or more CERTIFICATE blocks")]
    Pem(String),
    /// The PEM text holds no certificate.
    #[error("the trust bundle holds no certificate: put the trust domain's root(s) there as PEM CERTIFICATE blocks")]
    Empty,
    /// A certificate that cannot be parsed.
    #[error("root {index} of trust domain {trust_domain} is not an X.509 certificate: {reason}")]
    Malformed {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// Position, from 0.
        index: usize,
        /// What the parser said.
        reason: String,
    },
    /// A certificate that must not sign others.
    #[error(
        "root {index} of trust domain {trust_domain} is not a signing certificate (CA:true with keyCertSign): \
         is this a leaf? (X.509-SVID 4.1, 4.3)"
    )]
    NotCa {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// Position, from 0.
        index: usize,
    },
    /// A root that names another trust domain, or has a path.
    #[error(
        "root {index} of trust domain {trust_domain} carries {found}: a root carries only the ID of its own trust domain \
         (X.509-SVID 3.2)"
    )]
    OtherDomain {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// Position, from 0.
        index: usize,
        /// The URI found.
        found: String,
    },
    /// The root that is said to sign is not one of the roots.
    #[error("the root that signs for trust domain {0} is not among its roots: the control plane contradicts itself")]
    Signing(TrustDomain),
    /// A document that is not in SPIFFE bundle format.
    #[error("the bundle document of trust domain {trust_domain} cannot be used: {reason} (Trust Domain and Bundle 4)")]
    Document {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// What is wrong with it.
        reason: String,
    },
    /// A key for JWT-SVIDs that verifies nothing.
    #[error(
        "the JWT key {kid:?} of trust domain {trust_domain} has no ID, or is of no kind that signs JWT-SVIDs (JWT-SVID 2.1, 6.1)"
    )]
    JwtKey {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// Its ID.
        kid: String,
    },
}
