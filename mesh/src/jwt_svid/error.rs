//! Why a token is not an identity: one variant per rule. No message holds any part of the token but names and dates.

use std::time::SystemTime;

use crate::{
    spiffe::{SpiffeId, SpiffeIdError},
    svid::time,
};

/// Why a token is not a JWT-SVID for whom it was shown to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwtSvidError {
    /// Not a token in compact serialisation.
    #[error("the token is not a JWT-SVID: {0} (JWT-SVID 5.1)")]
    Malformed(&'static str),
    /// An algorithm that is not allowed.
    #[error("the token's alg is not one of RS, ES or PS with 256, 384 or 512 (JWT-SVID 2.1)")]
    Algorithm,
    /// A header that is not allowed.
    #[error("the token's header has {0:?}: only alg, kid and typ may be there (JWT-SVID 2)")]
    Header(String),
    /// Another kind of token.
    #[error("the token's typ is neither JWT nor JOSE (JWT-SVID 2.3)")]
    Type,
    /// No `sub`.
    #[error("the token has no sub: a JWT-SVID carries the SPIFFE ID there (JWT-SVID 3.1)")]
    NoSubject,
    /// `sub` is not a SPIFFE ID.
    #[error("the token's sub {found:?} is not a SPIFFE ID: {reason} (JWT-SVID 3.1)")]
    Subject {
        /// What it says.
        found: String,
        /// Which rule it breaks.
        reason: SpiffeIdError,
    },
    /// The ID of a trust domain, not of a workload.
    #[error("the token's sub {0} is a trust domain, not a workload")]
    NoPath(SpiffeId),
    /// No `aud`.
    #[error("the token has no aud: it must name whom it may be shown to (JWT-SVID 3.2)")]
    NoAudience,
    /// Meant for others.
    #[error("the token is not meant for {0:?}: ask for one with that audience (JWT-SVID 3.2)")]
    Audience(String),
    /// No `exp`.
    #[error("the token has no exp (JWT-SVID 3.3)")]
    NoExpiry,
    /// Past its end.
    #[error("the token expired at {}, and this machine's clock says {}: get a new one, or correct the clock that is wrong", time(*since), time(*now))]
    Expired {
        /// Its end.
        since: SystemTime,
        /// The time of the check.
        now: SystemTime,
    },
    /// Before its beginning.
    #[error("the token is valid only from {}, and this machine's clock says {}: correct the clock that is wrong", time(*from), time(*now))]
    NotYetValid {
        /// Its beginning.
        from: SystemTime,
        /// The time of the check.
        now: SystemTime,
    },
    /// We hold no bundle for its trust domain.
    #[error(
        "nobody vouches for {0}: there is no trust bundle for its trust domain; federate with it (Workload API 6.3)"
    )]
    UnknownTrustDomain(SpiffeId),
    /// No key of that name and kind.
    #[error("the token of {0} was signed with a key that is not in its trust domain's bundle")]
    NoKey(SpiffeId),
    /// The signature is somebody else's.
    #[error("the signature of the token of {0} is wrong")]
    Signature(SpiffeId),
}
