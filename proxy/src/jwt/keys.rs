//! JSON Web Key Sets (RFC 7517) as issuers publish them: which key a token means. What a key verifies is
//! [`squire_mesh::jwk`]'s business.

use serde_json::{Map, Value};
use squire_mesh::{
    json,
    jwk::{Algorithm, PublicKey},
};

use super::{TokenRefused, compact::Compact};

/// Bytes of a key set.
pub(super) const MAX_SET: usize = 1 << 20;
/// Keys of a set that are looked at.
const MAX_KEYS: usize = 128;

/// The keys of one set that can verify signatures.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct KeySet(Vec<Key>);

#[derive(Debug, PartialEq, Eq)]
struct Key {
    kid: Option<String>,
    /// The one algorithm it is for, if it says so.
    algorithm: Option<String>,
    material: PublicKey,
}

impl KeySet {
    /// Reads a set. Keys of kinds we do not know, for encryption, or malformed, are passed over; none left is an error.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, &'static str> {
        if bytes.len() > MAX_SET {
            return Err("the key set is longer than 1 MiB");
        }
        let set = json::object(bytes).ok_or("not a JSON object")?;
        let keys = set.get("keys").and_then(Value::as_array).ok_or("no \"keys\" in it")?;
        let keys: Vec<_> = keys
            .iter()
            .take(MAX_KEYS)
            .filter_map(Value::as_object)
            .filter_map(Key::read)
            .collect();
        if keys.is_empty() {
            return Err("no key in it can verify signatures");
        }
        Ok(Self(keys))
    }

    /// Verifies the signature with the keys that fit: by kid, if the token names one, by kind and algorithm.
    pub(super) fn verify(&self, token: &Compact<'_>) -> Result<(), TokenRefused> {
        let algorithm = Algorithm::of(&token.algorithm).ok_or(TokenRefused::Algorithm)?;
        let mut outcome = Err(TokenRefused::NoKey);
        for key in self.0.iter().filter(|key| key.fits(token)) {
            match key.verify(algorithm, token) {
                Some(true) => return Ok(()),
                Some(false) => outcome = Err(TokenRefused::Signature),
                None => {}
            }
        }
        outcome
    }
}

impl Key {
    fn read(jwk: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        if text("use").is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let operations = jwk.get("key_ops").and_then(Value::as_array);
        if operations.is_some_and(|operations| !operations.iter().any(|one| one == "verify")) {
            return None;
        }
        Some(Self {
            kid: text("kid").map(str::to_owned),
            algorithm: text("alg").map(str::to_owned),
            material: PublicKey::from_jwk(jwk)?,
        })
    }

    /// A key without a name may be the one a named token means.
    fn fits(&self, token: &Compact<'_>) -> bool {
        let named = match (&token.kid, &self.kid) {
            (Some(wanted), Some(kid)) => wanted == kid,
            _ => true,
        };
        named
            && self
                .algorithm
                .as_ref()
                .is_none_or(|algorithm| *algorithm == token.algorithm)
    }

    /// Whether the signature is this key's; none: the algorithm is for keys of another kind.
    fn verify(&self, algorithm: Algorithm, token: &Compact<'_>) -> Option<bool> {
        self.material
            .verifies(algorithm, token.signed.as_bytes(), &token.signature)
    }
}
