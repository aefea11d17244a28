//! Who asks: attestors turn evidence (a bearer token, or the SVID of the connection) into the one SPIFFE ID that may be
//! signed. The first attestor that recognises the evidence decides; there is no fallback to another, and none guesses.

mod join;
mod oidc;
mod renewal;
mod review;

pub use join::JoinTokens;
pub use oidc::{Oidc, OidcConfig, OidcConfigError};
pub use renewal::Renewal;
pub use review::ServiceAccounts;

use std::{fmt, future::Future, pin::Pin, time::SystemTime};

use squire_mesh::{
    spiffe::{SpiffeId, TrustDomain},
    svid::VerifiedPeer,
};
use zeroize::Zeroizing;

use crate::store::StoreError;

/// What a requester shows.
pub struct Evidence {
    /// The bearer token, if one was sent.
    pub bearer: Option<Zeroizing<String>>,
    /// The identity of the mTLS connection, if it has one.
    pub peer: Option<VerifiedPeer>,
    /// When it was shown.
    pub now: SystemTime,
}

/// An identity that an attestor vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attested {
    /// Who.
    pub id: SpiffeId,
    /// Which attestor: `join-token`, `oidc`, `svid` …
    pub attestor: &'static str,
    /// For whom, in the attestor's own terms; goes into the issuance log.
    pub subject: String,
    /// Which of the identity's workloads asks; the requester's own word unless the attestor knows. Tells holders of one
    /// identity apart, and proves nothing.
    pub workload: Option<String>,
}

/// A verdict that may take a while.
pub type Verdict<'a> = Pin<Box<dyn Future<Output = Result<Attested, AttestError>> + Send + 'a>>;

/// One way to prove an identity.
pub trait Attestor: Send + Sync + 'static {
    /// Whether this evidence is of the kind it judges.
    fn recognises(&self, evidence: &Evidence) -> bool;

    /// Judges the evidence. What can be used only once is used up, durably, before the verdict is given.
    fn attest<'a>(&'a self, evidence: &'a Evidence) -> Verdict<'a>;
}

/// Why evidence proves nothing. No message contains any part of a token.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// Nothing was shown.
    #[error(
        "no credential was sent: send a join token or a service-account token as `authorization: Bearer …`, or connect with a current SVID"
    )]
    NoCredential,
    /// Nobody judges this kind.
    #[error(
        "the bearer token is of no kind that this CA accepts: make a join token with `squire ca token`, or configure an OIDC issuer"
    )]
    UnknownCredential,
    /// A join token this CA has not made, or has forgotten.
    #[error(
        "the join token is not known here: it belongs to another CA, or it expired long ago; make a new one with `squire ca token`"
    )]
    UnknownToken,
    /// A join token again.
    #[error(
        "the join token was used before: each works once; make a new one with `squire ca token`, and if you did not use it, find out who did"
    )]
    ReplayedToken,
    /// Too late.
    #[error("the {what} expired at {at}: get a new one")]
    ExpiredToken {
        /// Join token, or JWT.
        what: &'static str,
        /// RFC 3339.
        at: String,
    },
    /// Too early.
    #[error("the JWT is valid only from {0}: check the clocks of its issuer and of this machine")]
    NotYetValid(String),
    /// Meant for someone else.
    #[error("the JWT is not meant for this CA: request it with the audience {0:?}")]
    WrongAudience(String),
    /// Made by someone else.
    #[error("the JWT was not issued by {0:?}, the only issuer this CA trusts")]
    WrongIssuer(String),
    /// No key verifies it.
    #[error("the JWT's signature is wrong, or it was signed with a key that is not in the JWKS {0}")]
    BadSignature(String),
    /// An algorithm that proves nothing.
    #[error("the JWT's algorithm is not accepted: only asymmetric signatures are (RS, PS, ES 256 to 512, EdDSA)")]
    BadAlgorithm,
    /// Not a usable JWT.
    #[error("the JWT cannot be used: {0}")]
    BadJwt(String),
    /// No service account in it.
    #[error("the JWT names no service account: {0}")]
    NoServiceAccount(String),
    /// The API server does not accept it.
    #[error("the Kubernetes API server does not accept the token: {0}; see to its projected volume and its expiry")]
    Refused(String),
    /// Not bound to a pod.
    #[error(
        "the token is not bound to a pod: use a projected volume with serviceAccountToken, not a Secret or `kubectl create token`"
    )]
    NotBound,
    /// Bound to a pod that is no more.
    #[error("the pod {0}, to which the token is bound, {1}")]
    PodGone(String, String),
    /// The API server does not answer.
    #[error(
        "the Kubernetes API server, which judges tokens, does not answer the CA: try again; the control plane's log says more"
    )]
    Reviewer,
    /// Another trust domain's identity.
    #[error("{id} is not in this CA's trust domain {domain}: renew it where it was issued")]
    OtherTrustDomain {
        /// Who asks.
        id: SpiffeId,
        /// Whose CA this is.
        domain: TrustDomain,
    },
    /// The store failed, so nothing can be said.
    #[error("the CA's store failed: try again; its log says more")]
    Store(#[source] StoreError),
    /// The keys that verify tokens cannot be read.
    #[error("the JWKS that verifies tokens cannot be read: {0}")]
    Keys(String),
}

impl AttestError {
    /// A short name from a closed set, for metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::NoCredential => "no_credential",
            Self::UnknownCredential => "unknown_credential",
            Self::UnknownToken => "unknown_token",
            Self::ReplayedToken => "replayed_token",
            Self::ExpiredToken { .. } => "expired_token",
            Self::NotYetValid(_) => "not_yet_valid",
            Self::WrongAudience(_) => "wrong_audience",
            Self::WrongIssuer(_) => "wrong_issuer",
            Self::BadSignature(_) => "bad_signature",
            Self::BadAlgorithm => "bad_algorithm",
            Self::BadJwt(_) => "bad_jwt",
            Self::NoServiceAccount(_) => "no_service_account",
            Self::Refused(_) => "refused",
            Self::NotBound => "not_bound",
            Self::PodGone(..) => "pod_gone",
            Self::Reviewer => "reviewer",
            Self::OtherTrustDomain { .. } => "other_trust_domain",
            Self::Store(_) => "store",
            Self::Keys(_) => "keys",
        }
    }
}

/// Lets the attestor judge that recognises the evidence.
///
/// # Errors
/// As that attestor says; or nobody recognises it, or there is none.
pub async fn attest(attestors: &[Box<dyn Attestor>], evidence: &Evidence) -> Result<Attested, AttestError> {
    match attestors.iter().find(|attestor| attestor.recognises(evidence)) {
        Some(attestor) => attestor.attest(evidence).await,
        None if evidence.bearer.is_some() => Err(AttestError::UnknownCredential),
        None => Err(AttestError::NoCredential),
    }
}

impl fmt::Debug for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Evidence")
            .field("bearer", &self.bearer.is_some())
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}
