//! Trust bundles as JSON: the SPIFFE bundle format (Trust Domain and Bundle, section 4), and the JWK Set of the Workload API.
//! What the format does not define is passed over; what it defines and is malformed makes the document unusable.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::pki_types::CertificateDer;
use serde_json::{Map, Value, json};
use x509_parser::{
    oid_registry::Oid,
    prelude::{FromDer as _, X509Certificate},
    public_key::PublicKey as Spki,
};

use super::{BundleError, JwtKey, Root, TrustBundle};
use crate::{
    json,
    jwk::{Curve, PublicKey},
    spiffe::TrustDomain,
};

/// Longest document that is read, in bytes.
pub const MAX_DOCUMENT: usize = 1 << 20;
/// `use` of keys that verify X509-SVIDs.
const X509_USE: &str = "x509-svid";
/// `use` of keys that verify JWT-SVIDs.
pub(super) const JWT_USE: &str = "jwt-svid";
/// Key types that are known (4.2.1).
const KEY_TYPES: [&str; 2] = ["EC", "RSA"];

impl TrustBundle {
    /// Reads a document in SPIFFE bundle format as the bundle of a trust domain that is known from elsewhere: the document
    /// does not name it.
    ///
    /// # Errors
    /// When it is not one, or a root in it is not a root of this trust domain.
    pub fn from_document(trust_domain: &TrustDomain, document: &[u8]) -> Result<Self, BundleError> {
        let broken = |reason: &str| BundleError::Document {
            trust_domain: trust_domain.clone(),
            reason: reason.to_owned(),
        };
        if document.len() > MAX_DOCUMENT {
            return Err(broken("it is longer than 1 MiB"));
        }
        let set =
            json::object(document).ok_or_else(|| broken("it is not a JSON object, or a name comes twice in it"))?;
        let number = |name: &str| match set.get(name) {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(number) => Ok(Some(number)),
                None => Err(broken(&format!("its {name} is not a whole number from 0 on"))),
            },
        };
        let keys = set.get("keys").and_then(Value::as_array);
        let keys = keys.ok_or_else(|| broken("it has no list of \"keys\""))?;
        let (mut roots, mut jwt_keys) = (Vec::new(), Vec::new());
        for jwk in keys.iter().filter_map(Value::as_object) {
            match usage(jwk) {
                Some(X509_USE) => roots.extend(root(jwk).map_err(broken)?),
                Some(JWT_USE) => jwt_keys.extend(jwt_key(jwk)),
                _ => {}
            }
        }
        let sequence = number("spiffe_sequence")?.unwrap_or(0);
        let hint = number("spiffe_refresh_hint")?.filter(|seconds| *seconds > 0);
        Ok(Self::new(trust_domain.clone(), roots, sequence)?
            .with_jwt_keys(jwt_keys)
            .with_refresh_hint(hint.map(Duration::from_secs)))
    }

    /// The bundle as a document in SPIFFE bundle format.
    #[must_use]
    pub fn to_document(&self) -> String {
        let roots = self.roots().iter().map(root_jwk);
        let jwt_keys = self.jwt_keys().iter().map(JwtKey::to_jwk);
        let mut set = json!({
            "keys": roots.chain(jwt_keys).collect::<Vec<_>>(),
            "spiffe_sequence": self.sequence(),
        });
        if let Some(hint) = self.refresh_hint() {
            set["spiffe_refresh_hint"] = hint.as_secs().into();
        }
        set.to_string()
    }

    /// The keys for JWT-SVIDs alone, as a JWK Set (Workload API 6.2.2).
    #[must_use]
    pub fn to_jwt_key_set(&self) -> String {
        let keys: Vec<_> = self.jwt_keys().iter().map(JwtKey::to_jwk).collect();
        json!({ "keys": keys }).to_string()
    }
}

/// What an entry is for, if it is of a type that is known (4.2.1, 4.2.2).
fn usage(jwk: &Map<String, Value>) -> Option<&str> {
    let known = jwk
        .get("kty")
        .and_then(Value::as_str)
        .is_some_and(|kty| KEY_TYPES.contains(&kty));
    jwk.get("use").and_then(Value::as_str).filter(|_| known)
}

/// The first certificate of `x5c`; an entry without one is passed over (X.509-SVID 6.2).
fn root(jwk: &Map<String, Value>) -> Result<Option<CertificateDer<'static>>, &'static str> {
    let Some(first) = jwk.get("x5c").and_then(Value::as_array).and_then(|chain| chain.first()) else {
        return Ok(None);
    };
    let decoded = first.as_str().and_then(|text| STANDARD.decode(text).ok());
    decoded
        .map(|der| Some(CertificateDer::from(der)))
        .ok_or("an x5c in it does not hold a certificate in base64")
}

/// A key that verifies JWT-SVIDs; what has no ID, or is of a curve we do not know, can verify none.
fn jwt_key(jwk: &Map<String, Value>) -> Option<JwtKey> {
    JwtKey::new(jwk.get("kid")?.as_str()?, PublicKey::from_jwk(jwk)?)
}

/// A root as JWK: its public key, and the certificate (X.509-SVID 6.1: no `kid`).
fn root_jwk(root: &Root) -> Map<String, Value> {
    let mut jwk = public_key(root).map(|key| key.to_jwk()).unwrap_or_default();
    jwk.insert("use".to_owned(), X509_USE.into());
    jwk.insert("x5c".to_owned(), json!([STANDARD.encode(root.der())]));
    jwk
}

/// The public key of a certificate, if it is of a kind that a JWK can hold.
fn public_key(root: &Root) -> Option<PublicKey> {
    let (_, cert) = X509Certificate::from_der(root.der()).ok()?;
    let spki = cert.public_key();
    match spki.parsed().ok()? {
        Spki::RSA(rsa) => {
            let unsigned = |bytes: &[u8]| bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
            Some(PublicKey::Rsa {
                n: unsigned(rsa.modulus),
                e: unsigned(rsa.exponent),
            })
        }
        Spki::EC(point) => {
            let curve = curve(&spki.algorithm.parameters.as_ref()?.as_oid().ok()?)?;
            PublicKey::ec(curve, point.data().to_vec())
        }
        _ => None,
    }
}

fn curve(oid: &Oid<'_>) -> Option<Curve> {
    match oid.to_id_string().as_str() {
        "1.2.840.10045.3.1.7" => Some(Curve::P256),
        "1.3.132.0.34" => Some(Curve::P384),
        "1.3.132.0.35" => Some(Curve::P521),
        _ => None,
    }
}
