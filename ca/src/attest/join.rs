//! One-time join tokens: used up, durably, before anything is signed for their bearer. It never makes tokens.

use std::{sync::Arc, time::SystemTime};

use squire_mesh::spiffe::{SpiffeId, TrustDomain};

use super::{AttestError, Attested, Attestor, Evidence, Verdict};
use crate::{
    log::rfc3339,
    store::{Store, TokenStatus},
    token::{JoinToken, PREFIX},
};

/// Accepts the tokens of a store.
pub struct JoinTokens {
    store: Arc<dyn Store>,
    domain: TrustDomain,
}

impl JoinTokens {
    /// Accepts the tokens of this store for identities of this trust domain.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, domain: TrustDomain) -> Self {
        Self { store, domain }
    }
}

impl Attestor for JoinTokens {
    fn recognises(&self, evidence: &Evidence) -> bool {
        evidence
            .bearer
            .as_ref()
            .is_some_and(|bearer| bearer.starts_with(PREFIX))
    }

    fn attest<'a>(&'a self, evidence: &'a Evidence) -> Verdict<'a> {
        Box::pin(async move {
            let bearer = evidence.bearer.as_ref().ok_or(AttestError::NoCredential)?;
            let token: JoinToken = bearer.parse().map_err(|_| AttestError::UnknownToken)?;
            let (store, domain, now) = (Arc::clone(&self.store), self.domain.clone(), evidence.now);
            let redeemed = tokio::task::spawn_blocking(move || redeem(&*store, &domain, &token, now)).await;
            redeemed.map_err(|_| AttestError::Keys("the check of the token was interrupted".into()))?
        })
    }
}

fn redeem(
    store: &dyn Store,
    domain: &TrustDomain,
    token: &JoinToken,
    now: SystemTime,
) -> Result<Attested, AttestError> {
    let digest = token.digest();
    let record = match store.token(&digest).map_err(AttestError::Store)? {
        TokenStatus::Fresh(record) if record.sha256.same(&digest) => record,
        TokenStatus::Fresh(_) | TokenStatus::Unknown => return Err(AttestError::UnknownToken),
        TokenStatus::Used => return Err(AttestError::ReplayedToken),
    };
    if record.expires() <= now {
        return Err(AttestError::ExpiredToken {
            what: "join token",
            at: rfc3339(record.expires()),
        });
    }
    let id: SpiffeId = record.id.parse().map_err(|_| AttestError::UnknownToken)?;
    if id.trust_domain() != domain || id.path().is_empty() {
        return Err(AttestError::OtherTrustDomain {
            id,
            domain: domain.clone(),
        });
    }
    if !store.use_token(&digest).map_err(AttestError::Store)? {
        return Err(AttestError::ReplayedToken);
    }
    Ok(Attested {
        id,
        attestor: "join-token",
        subject: format!("sha256:{}", &digest.to_string()[..16]),
        workload: None,
    })
}
