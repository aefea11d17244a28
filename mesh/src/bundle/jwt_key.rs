//! One key that verifies JWT-SVIDs: it has an ID, and is of a kind that the standard allows (JWT-SVID 2.1, 6.1).

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::jwk::PublicKey;

/// Longest key ID, in bytes.
const MAX_KID: usize = 256;

/// A public key and its ID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtKey {
    kid: Arc<str>,
    key: PublicKey,
}

impl JwtKey {
    /// Puts ID and key together; `None` without an ID, and for keys that no JWT-SVID is signed with.
    #[must_use]
    pub fn new(kid: &str, key: PublicKey) -> Option<Self> {
        let named = !kid.is_empty() && kid.len() <= MAX_KID;
        (named && !matches!(key, PublicKey::Ed25519(_))).then(|| Self { kid: kid.into(), key })
    }

    /// Its ID.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// Its JWK, as in a SPIFFE bundle.
    #[must_use]
    pub fn to_jwk(&self) -> Map<String, Value> {
        let mut jwk = self.key.to_jwk();
        jwk.insert("use".to_owned(), super::document::JWT_USE.into());
        jwk.insert("kid".to_owned(), (*self.kid).into());
        jwk
    }
}
