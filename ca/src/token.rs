//! One-time join tokens: 256 random bits that stand for one SPIFFE ID, for a short time, once. Only their SHA-256 is kept,
//! so a stolen store gives none away. Where they are kept is the store's business, accepting them the attestor's.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

use aws_lc_rs::rand;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use squire_mesh::spiffe::SpiffeId;
use zeroize::Zeroizing;

use crate::{
    digest::Sha256,
    store::{Store, StoreError},
};

/// What every join token begins with.
pub const PREFIX: &str = "squire-join-";
/// Life of a token when none is asked for.
pub const DEFAULT_TTL: Duration = Duration::from_secs(10 * 60);
/// Longest life of a token.
pub const MAX_TTL: Duration = Duration::from_secs(24 * 3600);

/// The secret itself. Shown once to whoever asked for it, printed by nothing else.
#[derive(Clone)]
pub struct JoinToken(Zeroizing<[u8; 32]>);

/// What is kept of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRecord {
    /// Hash of the token.
    pub sha256: Sha256,
    /// Who it makes of its bearer.
    pub id: String,
    /// Seconds since the epoch.
    pub expires: u64,
}

/// Why a token could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The machine gives no random numbers.
    #[error("the operating system gave no random numbers: check /dev/urandom")]
    Random,
    /// The ID is a trust domain's own.
    #[error("{0} has no path: a join token is for a workload, as spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT")]
    NoPath(SpiffeId),
    /// The ID is of a trust domain that this CA does not serve.
    #[error("{id} is not in this CA's trust domain {domain}: begin the ID with spiffe://{domain}/")]
    OtherTrustDomain {
        /// What was asked for.
        id: SpiffeId,
        /// Whose CA this is.
        domain: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A text that is not a join token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a join token: it begins with {PREFIX} and is made by `squire ca token`")]
pub struct NotAToken;

impl JoinToken {
    /// Makes a token that lets its bearer become `id`, once, within `ttl` (at most [`MAX_TTL`]), and keeps its hash.
    /// Works beside a running CA too: each token is a file of its own, put in place by one rename.
    ///
    /// # Errors
    /// When `id` is not a workload of the store's trust domain, or the store fails.
    pub fn create(
        store: &dyn Store,
        domain: &str,
        id: &SpiffeId,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Self, TokenError> {
        if id.trust_domain().as_str() != domain {
            return Err(TokenError::OtherTrustDomain {
                id: id.clone(),
                domain: domain.to_owned(),
            });
        }
        if id.path().is_empty() {
            return Err(TokenError::NoPath(id.clone()));
        }
        let mut bytes = Zeroizing::new([0; 32]);
        rand::fill(bytes.as_mut()).map_err(|_| TokenError::Random)?;
        let token = Self(bytes);
        let expires = (now + ttl.min(MAX_TTL))
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let record = TokenRecord {
            sha256: token.digest(),
            id: id.to_string(),
            expires,
        };
        store.add_token(&record.sha256, &record)?;
        Ok(token)
    }

    /// What the store knows it by.
    #[must_use]
    pub fn digest(&self) -> Sha256 {
        Sha256::of(self.0.as_ref())
    }

    /// The text to hand to the workload.
    #[must_use]
    pub fn expose(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(self.0.as_ref())))
    }
}

impl TokenRecord {
    /// From then on it is refused.
    #[must_use]
    pub fn expires(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.expires)
    }
}

impl FromStr for JoinToken {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        let code = text.trim().strip_prefix(PREFIX).ok_or(NotAToken)?;
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(code).map_err(|_| NotAToken)?);
        let bytes: [u8; 32] = bytes.as_slice().try_into().map_err(|_| NotAToken)?;
        Ok(Self(Zeroizing::new(bytes)))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_no_token_is_refused_and_a_token_is_never_printed() {
        for bad in [
            "",
            "squire-join-",
            "squire-join-AAAA",
            "squire-join-!!!",
            "eyJhbGciOi.x.y",
        ] {
            assert_eq!(bad.parse::<JoinToken>().err(), Some(NotAToken), "{bad}");
        }
        let token = JoinToken(Zeroizing::new([7; 32]));
        let text = token.expose();
        assert_eq!(text.parse::<JoinToken>().unwrap().digest(), token.digest());
        assert_eq!(format!("{token:?}"), "JoinToken(secret)");
    }
}
