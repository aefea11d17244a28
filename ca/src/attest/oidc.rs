//! OIDC JWTs, which is what Kubernetes' projected service-account tokens are: signature against a JWKS file, issuer and
//! audience mandatory, expiry with little leeway, asymmetric algorithms only. It fetches nothing from the network.

mod claims;
mod keys;

use std::{path::PathBuf, sync::Arc, time::Duration};

use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind, jwk::Jwk};
use squire_mesh::spiffe::{SpiffeId, TrustDomain};

use self::{claims::Claims, keys::Keys};
use super::{AttestError, Attested, Attestor, Evidence, Verdict};
use crate::{log::rfc3339, token::PREFIX};

/// How far clocks may differ.
const LEEWAY: Duration = Duration::from_secs(60);
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// Whose tokens are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OidcConfig {
    /// The `iss` that tokens must have.
    pub issuer: String,
    /// The `aud` that tokens must name; usually [`squire_mesh::ports::CA_AUDIENCE`].
    pub audience: String,
    /// File with the issuer's JWKS; read again when it changes.
    pub jwks: PathBuf,
}

/// Why tokens of an issuer cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OidcConfigError {
    /// No issuer.
    #[error("the OIDC issuer is empty: name the `iss` of the tokens, for Kubernetes its --service-account-issuer")]
    NoIssuer,
    /// No audience.
    #[error("the OIDC audience is empty: name the audience that tokens for this CA carry, such as squire-ca")]
    NoAudience,
    /// No keys.
    #[error("{path}: not a JWKS: {reason}; for Kubernetes: `kubectl get --raw /openid/v1/jwks`", path = path.display())]
    Keys {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Accepts the tokens of one issuer.
pub struct Oidc {
    config: OidcConfig,
    domain: TrustDomain,
    keys: Arc<Keys>,
}

impl Oidc {
    /// Accepts tokens of this issuer for identities of this trust domain.
    ///
    /// # Errors
    /// When issuer or audience are empty, or the JWKS cannot be read.
    pub fn new(config: OidcConfig, domain: TrustDomain) -> Result<Self, OidcConfigError> {
        if config.issuer.is_empty() {
            return Err(OidcConfigError::NoIssuer);
        }
        if config.audience.is_empty() {
            return Err(OidcConfigError::NoAudience);
        }
        let keys = Keys::open(&config.jwks).map_err(|reason| OidcConfigError::Keys {
            path: config.jwks.clone(),
            reason,
        })?;
        Ok(Self {
            config,
            domain,
            keys: Arc::new(keys),
        })
    }

    fn judge(&self, token: &str, evidence: &Evidence) -> Result<Attested, AttestError> {
        let header = jsonwebtoken::decode_header(token).map_err(|error| self.refusal(error.kind()))?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(AttestError::BadAlgorithm);
        }
        let keys = self.keys.current().map_err(AttestError::Keys)?;
        let unknown = || AttestError::BadSignature(self.config.jwks.display().to_string());
        let candidates: Vec<&Jwk> = match &header.kid {
            Some(kid) => keys
                .keys
                .iter()
                .filter(|key| key.common.key_id.as_ref() == Some(kid))
                .collect(),
            None => keys.keys.iter().collect(),
        };
        let mut refused = unknown();
        for key in candidates {
            match self.verify(token, key, header.alg) {
                Ok(claims) => return self.conclude(&claims, evidence),
                Err(error @ AttestError::BadSignature(_)) => refused = error,
                Err(other) => return Err(other),
            }
        }
        Err(refused)
    }

    fn verify(&self, token: &str, key: &Jwk, algorithm: Algorithm) -> Result<Claims, AttestError> {
        let unfit = || AttestError::BadSignature(self.config.jwks.display().to_string());
        // A key that names its algorithm is for that one only.
        if key
            .common
            .key_algorithm
            .is_some_and(|own| own.to_string() != format!("{algorithm:?}"))
        {
            return Err(unfit());
        }
        let decoding = DecodingKey::from_jwk(key).map_err(|_| unfit())?;
        let mut validation = Validation::new(algorithm);
        validation.set_audience(&[&self.config.audience]);
        validation.set_issuer(&[&self.config.issuer]);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        // Times are checked against the time of the evidence, not of the library.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        jsonwebtoken::decode::<Claims>(token, &decoding, &validation)
            .map(|data| data.claims)
            .map_err(|error| self.refusal(error.kind()))
    }

    fn conclude(&self, claims: &Claims, evidence: &Evidence) -> Result<Attested, AttestError> {
        if claims.expires() + LEEWAY <= evidence.now {
            return Err(AttestError::ExpiredToken {
                what: "JWT",
                at: rfc3339(claims.expires()),
            });
        }
        if let Some(from) = claims.not_before()
            && from > evidence.now + LEEWAY
        {
            return Err(AttestError::NotYetValid(rfc3339(from)));
        }
        let (namespace, account) = claims.service_account().map_err(AttestError::NoServiceAccount)?;
        let id = SpiffeId::workload(&self.domain, namespace, account)
            .map_err(|error| AttestError::NoServiceAccount(error.to_string()))?;
        Ok(Attested {
            id,
            attestor: "oidc",
            subject: claims.sub.clone(),
            workload: None,
        })
    }

    fn refusal(&self, kind: &ErrorKind) -> AttestError {
        match kind {
            ErrorKind::InvalidAudience => AttestError::WrongAudience(self.config.audience.clone()),
            ErrorKind::InvalidIssuer => AttestError::WrongIssuer(self.config.issuer.clone()),
            ErrorKind::InvalidSignature | ErrorKind::InvalidKeyFormat => {
                AttestError::BadSignature(self.config.jwks.display().to_string())
            }
            ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName | ErrorKind::UnsupportedAlgorithm => {
                AttestError::BadAlgorithm
            }
            ErrorKind::MissingRequiredClaim(claim) if claim == "aud" => {
                AttestError::WrongAudience(self.config.audience.clone())
            }
            ErrorKind::MissingRequiredClaim(claim) if claim == "iss" => {
                AttestError::WrongIssuer(self.config.issuer.clone())
            }
            ErrorKind::MissingRequiredClaim(claim) => AttestError::BadJwt(format!("it has no claim {claim:?}")),
            ErrorKind::InvalidToken => AttestError::BadJwt("it is not of the form header.claims.signature".into()),
            _ => AttestError::BadJwt("its header or claims are not what a JWT has".into()),
        }
    }
}

impl Attestor for Oidc {
    fn recognises(&self, evidence: &Evidence) -> bool {
        let jwt = |bearer: &str| !bearer.starts_with(PREFIX) && bearer.split('.').count() == 3;
        evidence.bearer.as_ref().is_some_and(|bearer| jwt(bearer))
    }

    fn attest<'a>(&'a self, evidence: &'a Evidence) -> Verdict<'a> {
        Box::pin(async move {
            let token = evidence.bearer.as_ref().ok_or(AttestError::NoCredential)?;
            self.judge(token, evidence)
        })
    }
}

#[cfg(test)]
mod tests;
