//! A token taken apart (RFC 7515 §3.1, RFC 7519): header, claims, signature. Reads strictly and verifies nothing; the
//! claims are worth nothing until [`super::keys`] has verified the signature.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};
use squire_mesh::json;

use super::TokenRefused;

/// How far clocks may be apart.
const LEEWAY: Duration = Duration::from_secs(60);

/// A token whose signature has not been looked at.
#[derive(Debug)]
pub(super) struct Compact<'t> {
    pub(super) algorithm: String,
    pub(super) kid: Option<String>,
    pub(super) claims: Map<String, Value>,
    /// The payload as it stands in the token.
    pub(super) payload: &'t str,
    /// What is signed.
    pub(super) signed: &'t str,
    pub(super) signature: Vec<u8>,
}

impl<'t> Compact<'t> {
    /// Takes it apart.
    pub(super) fn read(token: &'t str) -> Result<Self, TokenRefused> {
        let mut sections = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (sections.next(), sections.next(), sections.next(), sections.next())
        else {
            return Err(TokenRefused::Malformed);
        };
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
        let head = decode(header)
            .and_then(|bytes| json::object(&bytes))
            .ok_or(TokenRefused::Header)?;
        // We understand no extension, so none can be critical (RFC 7515 §4.1.11).
        if head.contains_key("crit") {
            return Err(TokenRefused::Header);
        }
        let text = |name: &str| match head.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(TokenRefused::Header),
        };
        Ok(Self {
            algorithm: text("alg")?.ok_or(TokenRefused::Header)?,
            kid: text("kid")?,
            claims: decode(payload)
                .and_then(|bytes| json::object(&bytes))
                .ok_or(TokenRefused::Payload)?,
            payload,
            signed: &token[..header.len() + 1 + payload.len()],
            signature: decode(signature)
                .filter(|bytes| !bytes.is_empty())
                .ok_or(TokenRefused::Malformed)?,
        })
    }

    /// The `iss` claim.
    pub(super) fn issuer(&self) -> Option<&str> {
        self.claims.get("iss")?.as_str()
    }

    /// Whether it is valid now (RFC 7519 §4.1.4 and §4.1.5). A token without `exp` does not expire, as in Istio.
    pub(super) fn check_time(&self, now: SystemTime) -> Result<(), TokenRefused> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        if self.date("exp")?.is_some_and(|exp| now >= exp + LEEWAY.as_secs_f64()) {
            return Err(TokenRefused::Expired);
        }
        if self.date("nbf")?.is_some_and(|nbf| now + LEEWAY.as_secs_f64() < nbf) {
            return Err(TokenRefused::NotYetValid);
        }
        Ok(())
    }

    fn date(&self, name: &str) -> Result<Option<f64>, TokenRefused> {
        match self.claims.get(name) {
            None => Ok(None),
            Some(value) => value
                .as_f64()
                .filter(|date| *date >= 0.0)
                .map(Some)
                .ok_or(TokenRefused::Payload),
        }
    }

    /// Whether `aud` (a text or a list of texts) names one of these; any will do if there are none.
    pub(super) fn check_audience(&self, allowed: &[Box<str>]) -> Result<(), TokenRefused> {
        let named = |audience: &Value| audience.as_str().map(|text| allowed.iter().any(|one| **one == *text));
        let good = match self.claims.get("aud") {
            None => Some(false),
            Some(Value::Array(list)) => list.iter().try_fold(false, |any, one| Some(any | named(one)?)),
            Some(one) => named(one),
        };
        match good.ok_or(TokenRefused::Payload)? || allowed.is_empty() {
            true => Ok(()),
            false => Err(TokenRefused::Audience),
        }
    }
}
