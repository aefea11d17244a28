//! JWT-SVIDs: the one place where a token becomes an identity (JWT-SVID, sections 2 to 4). It always checks algorithm,
//! audience, expiry, the trust domain's own keys and the SPIFFE ID. It signs nothing, and keeps no tokens.

mod error;

pub use error::JwtSvidError;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use crate::{
    bundle::{TrustBundle, TrustBundles},
    json,
    jwk::Algorithm,
    spiffe::SpiffeId,
};

/// Longest token that is looked at, in bytes.
const MAX_TOKEN: usize = 16 * 1024;
/// How far ahead the clock may be that a token's beginning was read from. Its end gets no such grace (JWT-SVID 3.3).
const LEEWAY: Duration = Duration::from_secs(60);
/// The only header parameters (JWT-SVID 2).
const HEADERS: [&str; 3] = ["alg", "kid", "typ"];
/// The only algorithms (JWT-SVID 2.1).
const ALGORITHMS: [&str; 9] = [
    "RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512",
];

/// A token that was verified.
#[derive(Debug, Clone, PartialEq)]
pub struct JwtSvid {
    /// Who showed it, or let it be shown.
    pub id: SpiffeId,
    /// It proves nothing from then on.
    pub not_after: SystemTime,
    /// Everything it says.
    pub claims: Map<String, Value>,
}

/// Verifies a token that was shown to `audience`, with the keys of its subject's own trust domain.
///
/// # Errors
/// Every rule that it breaks has its own error; the first one found is returned.
pub fn verify(token: &str, audience: &str, bundles: &TrustBundles, now: SystemTime) -> Result<JwtSvid, JwtSvidError> {
    let parts = Parts::split(token)?;
    let header = Header::read(parts.header)?;
    let claims = decode(parts.claims).and_then(|bytes| json::object(&bytes));
    let claims = claims.ok_or(JwtSvidError::Malformed("its claims are not a JSON object in base64url"))?;
    let id = subject(&claims)?;
    check_audience(&claims, audience)?;
    let not_after = check_time(&claims, now)?;
    let bundle = bundles.get(id.trust_domain());
    let bundle = bundle.ok_or_else(|| JwtSvidError::UnknownTrustDomain(id.clone()))?;
    check_signature(bundle, &header, &parts, &id)?;
    Ok(JwtSvid { id, not_after, claims })
}

/// Compact serialisation, the only one (JWT-SVID 5.1).
struct Parts<'t> {
    header: &'t str,
    claims: &'t str,
    signature: &'t str,
    /// What is signed.
    signed: &'t str,
}

impl<'t> Parts<'t> {
    fn split(token: &'t str) -> Result<Self, JwtSvidError> {
        if token.len() > MAX_TOKEN {
            return Err(JwtSvidError::Malformed("it is longer than 16 KiB"));
        }
        let mut parts = token.split('.');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(header), Some(claims), Some(signature), None) => Ok(Self {
                header,
                claims,
                signature,
                signed: &token[..header.len() + 1 + claims.len()],
            }),
            _ => Err(JwtSvidError::Malformed(
                "it does not have three parts with dots between them",
            )),
        }
    }
}

struct Header {
    algorithm: Algorithm,
    kid: Option<String>,
}

impl Header {
    fn read(encoded: &str) -> Result<Self, JwtSvidError> {
        let head = decode(encoded).and_then(|bytes| json::object(&bytes));
        let head = head.ok_or(JwtSvidError::Malformed("its header is not a JSON object in base64url"))?;
        let text = |name: &str| head.get(name).and_then(Value::as_str);
        let algorithm = text("alg")
            .filter(|name| ALGORITHMS.contains(name))
            .and_then(Algorithm::of);
        let algorithm = algorithm.ok_or(JwtSvidError::Algorithm)?;
        if let Some(name) = head.keys().find(|name| !HEADERS.contains(&name.as_str())) {
            return Err(JwtSvidError::Header(name.chars().take(50).collect()));
        }
        if head.contains_key("typ") && !matches!(text("typ"), Some("JWT" | "JOSE")) {
            return Err(JwtSvidError::Type);
        }
        match head.get("kid") {
            None => Ok(Self { algorithm, kid: None }),
            Some(Value::String(kid)) => Ok(Self {
                algorithm,
                kid: Some(kid.clone()),
            }),
            Some(_) => Err(JwtSvidError::Malformed("its kid is not a text")),
        }
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// `sub`, the identity (JWT-SVID 3.1).
fn subject(claims: &Map<String, Value>) -> Result<SpiffeId, JwtSvidError> {
    let subject = claims
        .get("sub")
        .and_then(Value::as_str)
        .ok_or(JwtSvidError::NoSubject)?;
    let id: SpiffeId = subject.parse().map_err(|reason| JwtSvidError::Subject {
        found: subject.chars().take(200).collect(),
        reason,
    })?;
    if id.path().is_empty() {
        return Err(JwtSvidError::NoPath(id));
    }
    Ok(id)
}

/// `aud` is there and names who asks (JWT-SVID 3.2).
fn check_audience(claims: &Map<String, Value>, audience: &str) -> Result<(), JwtSvidError> {
    let named = match claims.get("aud") {
        Some(Value::String(one)) => one == audience,
        Some(Value::Array(several)) => several.iter().any(|one| one.as_str() == Some(audience)),
        _ => return Err(JwtSvidError::NoAudience),
    };
    match named && !audience.is_empty() {
        true => Ok(()),
        false => Err(JwtSvidError::Audience(audience.chars().take(200).collect())),
    }
}

/// `exp` is there and ahead (JWT-SVID 3.3), `nbf` and `iat` are not. Says when it ends.
fn check_time(claims: &Map<String, Value>, now: SystemTime) -> Result<SystemTime, JwtSvidError> {
    let date = |name: &'static str| match claims.get(name) {
        None => Ok(None),
        Some(value) => match value.as_f64() {
            // Dates beyond the year 9999 are no dates.
            Some(seconds) if (0.0..2.6e11).contains(&seconds) => {
                Ok(Some(UNIX_EPOCH + Duration::from_secs_f64(seconds)))
            }
            _ => Err(JwtSvidError::Malformed(
                "a date in it is not a number of seconds since 1970",
            )),
        },
    };
    let not_after = date("exp")?.ok_or(JwtSvidError::NoExpiry)?;
    if now >= not_after {
        return Err(JwtSvidError::Expired { since: not_after, now });
    }
    for name in ["nbf", "iat"] {
        if let Some(from) = date(name)?.filter(|from| now + LEEWAY < *from) {
            return Err(JwtSvidError::NotYetValid { from, now });
        }
    }
    Ok(not_after)
}

/// Signed by a key of the subject's trust domain: the one it names, or any of them if it names none.
fn check_signature(
    bundle: &TrustBundle,
    header: &Header,
    parts: &Parts<'_>,
    id: &SpiffeId,
) -> Result<(), JwtSvidError> {
    let signature = decode(parts.signature).filter(|bytes| !bytes.is_empty());
    let signature = signature.ok_or(JwtSvidError::Malformed("its signature is not base64url"))?;
    let named = |kid: &str| header.kid.as_ref().is_none_or(|wanted| wanted == kid);
    let keys = bundle.jwt_keys().iter().filter(|key| named(key.kid()));
    let mut outcome = Err(JwtSvidError::NoKey(id.clone()));
    for key in keys {
        match key
            .key()
            .verifies(header.algorithm, parts.signed.as_bytes(), &signature)
        {
            Some(true) => return Ok(()),
            Some(false) => outcome = Err(JwtSvidError::Signature(id.clone())),
            None => {}
        }
    }
    outcome
}

#[cfg(test)]
mod tests;
