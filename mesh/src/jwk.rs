//! Public keys of signed tokens (RFC 7517) and the signatures they verify (RFC 7518 §3, RFC 8037). An algorithm only ever
//! goes with the kind of key it is made for; `none` and shared secrets do not exist here. It knows no tokens.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

/// A key that verifies signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// Modulus and exponent, big-endian.
    Rsa {
        /// Modulus.
        n: Vec<u8>,
        /// Exponent.
        e: Vec<u8>,
    },
    /// A point of an elliptic curve, uncompressed: 4, x, y.
    Ec(Curve, Vec<u8>),
    /// 32 bytes.
    Ed25519(Vec<u8>),
}

/// An elliptic curve of ECDSA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "their names say all")]
pub enum Curve {
    P256,
    P384,
    P521,
}

/// What the name of a signature algorithm stands for.
#[derive(Debug, Clone, Copy)]
pub struct Algorithm(Kind);

#[derive(Debug, Clone, Copy)]
enum Kind {
    Rsa(&'static RsaParameters),
    Ec(Curve),
    Ed25519,
}

impl Curve {
    /// The curve of this name (`crv`).
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "P-256" => Some(Self::P256),
            "P-384" => Some(Self::P384),
            "P-521" => Some(Self::P521),
            _ => None,
        }
    }

    /// Its name (`crv`).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    /// Bytes of a coordinate.
    const fn size(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_FIXED,
            Self::P384 => &ECDSA_P384_SHA384_FIXED,
            Self::P521 => &ECDSA_P521_SHA512_FIXED,
        }
    }
}

impl Algorithm {
    /// The algorithm of this name (`alg`).
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Some(Self(match name {
            "RS256" => Kind::Rsa(&RSA_PKCS1_2048_8192_SHA256),
            "RS384" => Kind::Rsa(&RSA_PKCS1_2048_8192_SHA384),
            "RS512" => Kind::Rsa(&RSA_PKCS1_2048_8192_SHA512),
            "PS256" => Kind::Rsa(&RSA_PSS_2048_8192_SHA256),
            "PS384" => Kind::Rsa(&RSA_PSS_2048_8192_SHA384),
            "PS512" => Kind::Rsa(&RSA_PSS_2048_8192_SHA512),
            "ES256" => Kind::Ec(Curve::P256),
            "ES384" => Kind::Ec(Curve::P384),
            "ES512" => Kind::Ec(Curve::P521),
            "EdDSA" => Kind::Ed25519,
            _ => return None,
        }))
    }
}

impl PublicKey {
    /// A point of a curve, if it has the curve's size.
    #[must_use]
    pub fn ec(curve: Curve, point: Vec<u8>) -> Option<Self> {
        (point.len() == 1 + 2 * curve.size() && point[0] == 4).then_some(Self::Ec(curve, point))
    }

    /// The key of a JWK; `None` for kinds that are not known, and for what is malformed.
    #[must_use]
    pub fn from_jwk(jwk: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
        match (text("kty")?, text("crv")) {
            ("RSA", _) => Some(Self::Rsa {
                n: bytes("n")?,
                e: bytes("e")?,
            }),
            ("EC", Some(name)) => {
                let curve = Curve::named(name)?;
                let (x, y) = (bytes("x")?, bytes("y")?);
                let fits = x.len() == curve.size() && y.len() == curve.size();
                fits.then(|| Self::Ec(curve, [&[4], x.as_slice(), y.as_slice()].concat()))
            }
            ("OKP", Some("Ed25519")) => Some(Self::Ed25519(bytes("x").filter(|x| x.len() == 32)?)),
            _ => None,
        }
    }

    /// The parameters of its JWK: `kty` and what belongs to it.
    #[must_use]
    pub fn to_jwk(&self) -> Map<String, Value> {
        let encoded = |bytes: &[u8]| Value::from(URL_SAFE_NO_PAD.encode(bytes));
        let pairs = match self {
            Self::Rsa { n, e } => vec![("kty", "RSA".into()), ("n", encoded(n)), ("e", encoded(e))],
            Self::Ec(curve, point) => {
                let (x, y) = point[1..].split_at(curve.size());
                vec![
                    ("kty", "EC".into()),
                    ("crv", curve.name().into()),
                    ("x", encoded(x)),
                    ("y", encoded(y)),
                ]
            }
            Self::Ed25519(key) => vec![("kty", "OKP".into()), ("crv", "Ed25519".into()), ("x", encoded(key))],
        };
        pairs
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    /// Whether the signature is this key's; `None`: the algorithm is for keys of another kind.
    #[must_use]
    pub fn verifies(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> Option<bool> {
        let with = |algorithm: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(algorithm, key).verify(signed, signature)
        };
        let verified = match (self, algorithm.0) {
            (Self::Rsa { n, e }, Kind::Rsa(parameters)) => {
                RsaPublicKeyComponents { n, e }.verify(parameters, signed, signature)
            }
            (Self::Ec(curve, point), Kind::Ec(wanted)) if *curve == wanted => with(curve.verification(), point),
            (Self::Ed25519(key), Kind::Ed25519) => with(&ED25519, key),
            _ => return None,
        };
        Some(verified.is_ok())
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
    };

    use super::*;

    #[test]
    fn a_key_goes_through_jwk_and_verifies_what_it_signed_by_its_own_algorithm_alone() {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let key = PublicKey::ec(Curve::P256, pair.public_key().as_ref().to_vec()).unwrap();
        let back = PublicKey::from_jwk(&key.to_jwk()).unwrap();
        assert_eq!(back, key);
        let signature = pair.sign(&SystemRandom::new(), b"words").unwrap();
        let verifies =
            |name: &str, words: &[u8]| back.verifies(Algorithm::of(name).unwrap(), words, signature.as_ref());
        assert_eq!(verifies("ES256", b"words"), Some(true));
        assert_eq!(verifies("ES256", b"other words"), Some(false));
        assert_eq!((verifies("ES384", b"words"), verifies("RS256", b"words")), (None, None));
        assert!(Algorithm::of("none").is_none() && Algorithm::of("HS256").is_none());
    }

    #[test]
    fn points_of_the_wrong_size_are_no_keys() {
        let mut jwk = PublicKey::Ec(Curve::P256, vec![4; 65]).to_jwk();
        assert!(PublicKey::from_jwk(&jwk).is_some());
        jwk.insert("crv".into(), "P-384".into());
        assert!(PublicKey::from_jwk(&jwk).is_none());
        assert!(PublicKey::ec(Curve::P256, vec![4; 64]).is_none());
        assert!(PublicKey::ec(Curve::P256, vec![2; 65]).is_none());
    }
}
