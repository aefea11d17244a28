//! What a JWT-SVID says: `sub`, `aud`, `iat`, `exp`, `jti` under a header of `alg`, `kid`, `typ` (JWT-SVID 2, 3). Pure.

use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use squire_mesh::spiffe::SpiffeId;

use crate::{digest::hex, profile::ProfileError};

/// Life of a token when the request names none.
pub const DEFAULT_JWT_TTL: Duration = Duration::from_secs(5 * 60);
/// Longest life of a token: it cannot be called back.
pub const MAX_JWT_TTL: Duration = Duration::from_secs(3600);
/// Shortest life of a token.
const MIN_JWT_TTL: Duration = Duration::from_secs(60);
/// Audiences of one token.
const MAX_AUDIENCES: usize = 16;
/// Longest audience, in bytes.
const MAX_AUDIENCE: usize = 512;

/// Whom a token may be shown to: one at least.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Audience(Vec<String>);

/// Why a token cannot be meant for these.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AudienceError {
    /// For nobody.
    #[error("no audience was named: a JWT-SVID says whom it may be shown to (JWT-SVID 3.2)")]
    None,
    /// For too many.
    #[error("{0} audiences were named, at most {MAX_AUDIENCES} fit: ask for one token for each service")]
    TooMany(usize),
    /// Not a name.
    #[error("an audience is empty, has control characters, or more than {MAX_AUDIENCE} bytes")]
    Name,
}

impl Audience {
    /// Checks what was asked for; a name given twice counts once.
    ///
    /// # Errors
    /// When there is none, too many, or one that is no name.
    pub fn new(names: Vec<String>) -> Result<Self, AudienceError> {
        let named = |name: &String| !name.is_empty() && name.len() <= MAX_AUDIENCE && !name.contains(char::is_control);
        let mut distinct: Vec<String> = Vec::new();
        for name in names {
            if !named(&name) {
                return Err(AudienceError::Name);
            }
            if !distinct.contains(&name) {
                distinct.push(name);
            }
        }
        match distinct.len() {
            0 => Err(AudienceError::None),
            many if many > MAX_AUDIENCES => Err(AudienceError::TooMany(many)),
            _ => Ok(Self(distinct)),
        }
    }

    /// The names.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.0
    }
}

/// A token that was signed and logged.
#[derive(Clone)]
pub struct SignedJwt {
    /// Compact serialisation.
    pub token: String,
    /// Its own name, as in the log.
    pub jti: String,
    /// The key that signed it.
    pub kid: String,
    /// When it was signed.
    pub issued_at: SystemTime,
    /// It proves nothing from then on.
    pub not_after: SystemTime,
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    aud: &'a Audience,
    iat: u64,
    exp: u64,
    jti: &'a str,
}

/// The life a request gets: the default if it names none.
#[must_use]
pub fn granted_jwt_ttl(requested: Option<Duration>) -> Duration {
    requested.unwrap_or(DEFAULT_JWT_TTL).clamp(MIN_JWT_TTL, MAX_JWT_TTL)
}

/// Signs a token; its log entry is still to be made.
pub(crate) fn sign(
    (kid, key): (&str, &EncodingKey),
    id: &SpiffeId,
    audience: &Audience,
    now: SystemTime,
    not_after: SystemTime,
) -> Result<SignedJwt, String> {
    let mut random = [0; 16];
    rand::fill(&mut random).map_err(|_| ProfileError::Random.to_string())?;
    let jti = hex(&random);
    let (iat, exp) = (seconds(now), seconds(not_after));
    let claims = Claims {
        sub: id.as_str(),
        aud: audience,
        iat,
        exp,
        jti: &jti,
    };
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some(kid.to_owned());
    let token = jsonwebtoken::encode(&header, &claims, key).map_err(|error| error.to_string())?;
    Ok(SignedJwt {
        token,
        jti,
        kid: kid.to_owned(),
        issued_at: SystemTime::UNIX_EPOCH + Duration::from_secs(iat),
        not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(exp),
    })
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// The token itself is a secret while it lives.
impl std::fmt::Debug for SignedJwt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignedJwt")
            .field("jti", &self.jti)
            .field("kid", &self.kid)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_for_somebody_and_for_not_too_many() {
        let audience = |names: &[&str]| Audience::new(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(audience(&["a", "b", "a"]).unwrap().names(), ["a", "b"]);
        assert_eq!(audience(&[]), Err(AudienceError::None));
        for bad in ["", "a\nb", &"x".repeat(MAX_AUDIENCE + 1)] {
            assert_eq!(audience(&["a", bad]), Err(AudienceError::Name));
        }
        let many: Vec<_> = (0..=MAX_AUDIENCES).map(|n| n.to_string()).collect();
        assert_eq!(Audience::new(many), Err(AudienceError::TooMany(MAX_AUDIENCES + 1)));
    }

    #[test]
    fn the_life_of_a_token_is_clamped() {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        for (asked, given) in [(None, 5), (Some(0), 1), (Some(30), 30), (Some(600), 60)] {
            assert_eq!(granted_jwt_ttl(asked.map(minutes)), minutes(given), "{asked:?}");
        }
    }
}
