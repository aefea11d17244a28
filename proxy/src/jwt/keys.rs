//! JSON Web Key Sets (RFC 7517) and the signatures they verify (RFC 7518 §3, RFC 8037). An algorithm only ever goes with
//! the kind of key it is made for; `none` and shared secrets do not exist here.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::{TokenRefused, compact::Compact, json};

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
    material: Material,
}

#[derive(Debug, PartialEq, Eq)]
enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    P521(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// What an algorithm's name stands for.
enum Algorithm {
    Rsa(&'static RsaParameters),
    P256,
    P384,
    P521,
    Ed25519,
}

impl Algorithm {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rsa(&RSA_PKCS1_2048_8192_SHA256),
            "RS384" => Self::Rsa(&RSA_PKCS1_2048_8192_SHA384),
            "RS512" => Self::Rsa(&RSA_PKCS1_2048_8192_SHA512),
            "PS256" => Self::Rsa(&RSA_PSS_2048_8192_SHA256),
            "PS384" => Self::Rsa(&RSA_PSS_2048_8192_SHA384),
            "PS512" => Self::Rsa(&RSA_PSS_2048_8192_SHA512),
            "ES256" => Self::P256,
            "ES384" => Self::P384,
            "ES512" => Self::P521,
            "EdDSA" => Self::Ed25519,
            _ => return None,
        })
    }
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
            match key.verify(&algorithm, token) {
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
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
        if text("use").is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let operations = jwk.get("key_ops").and_then(Value::as_array);
        if operations.is_some_and(|operations| !operations.iter().any(|one| one == "verify")) {
            return None;
        }
        let point = |size: usize| {
            let (x, y) = (bytes("x")?, bytes("y")?);
            (x.len() == size && y.len() == size).then(|| [&[4], x.as_slice(), y.as_slice()].concat())
        };
        let material = match (text("kty")?, text("crv")) {
            ("RSA", _) => Material::Rsa {
                n: bytes("n")?,
                e: bytes("e")?,
            },
            ("EC", Some("P-256")) => Material::P256(point(32)?),
            ("EC", Some("P-384")) => Material::P384(point(48)?),
            ("EC", Some("P-521")) => Material::P521(point(66)?),
            ("OKP", Some("Ed25519")) => Material::Ed25519(bytes("x").filter(|x| x.len() == 32)?),
            _ => return None,
        };
        Some(Self {
            kid: text("kid").map(str::to_owned),
            algorithm: text("alg").map(str::to_owned),
            material,
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
    fn verify(&self, algorithm: &Algorithm, token: &Compact<'_>) -> Option<bool> {
        let with = |algorithm: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(algorithm, key).verify(token.signed.as_bytes(), &token.signature)
        };
        let verified = match (&self.material, algorithm) {
            (Material::Rsa { n, e }, Algorithm::Rsa(parameters)) => {
                RsaPublicKeyComponents { n, e }.verify(parameters, token.signed.as_bytes(), &token.signature)
            }
            (Material::P256(point), Algorithm::P256) => with(&ECDSA_P256_SHA256_FIXED, point),
            (Material::P384(point), Algorithm::P384) => with(&ECDSA_P384_SHA384_FIXED, point),
            (Material::P521(point), Algorithm::P521) => with(&ECDSA_P521_SHA512_FIXED, point),
            (Material::Ed25519(key), Algorithm::Ed25519) => with(&ED25519, key),
            _ => return None,
        };
        Some(verified.is_ok())
    }
}
