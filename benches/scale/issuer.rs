//! Stands for an API server's token issuer: signs the service-account tokens by which thousands of proxies prove to the CA who they are.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use serde_json::json;

/// The issuer's name.
pub(super) const NAME: &str = "https://issuer.bench";

/// A signing key.
pub(super) struct Issuer(EncodingKey);

impl Issuer {
    /// Makes a key and writes its JSON Web Key Set.
    pub(super) fn write(jwks: &Path) -> Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        // An uncompressed point: 4, x, y.
        let point = key.der_bytes();
        let (x, y) = (
            URL_SAFE_NO_PAD.encode(&point[1..33]),
            URL_SAFE_NO_PAD.encode(&point[33..65]),
        );
        let set = json!({"keys": [{"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "one", "x": x, "y": y}]});
        fs::write(jwks, serde_json::to_vec(&set)?)?;
        Ok(Self(EncodingKey::from_ec_der(&key.serialize_der())))
    }

    /// A token of a service account, good for an hour.
    pub(super) fn token(&self, subject: &str) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let claims =
            json!({"iss": NAME, "aud": ["squire-ca"], "sub": subject, "exp": now + 3600, "iat": now, "nbf": now});
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some("one".to_owned());
        Ok(jsonwebtoken::encode(&header, &claims, &self.0)?)
    }
}
