//! JWT-SVIDs: signed with the key whose time it is, and returned once they are in the log; the keys themselves are saved
//! before anybody is told of them. What follows what is `jwt::keys`' business.

use std::{
    sync::PoisonError,
    time::{Duration, SystemTime},
};

use super::{CaError, CertificateAuthority, IssueError};
use crate::{
    attest::Attested,
    jwt::{self, Audience, JwtKeyRecord, SignedJwt, granted_jwt_ttl},
    log::{Event, rfc3339},
    state::State,
};

impl CertificateAuthority {
    /// Signs a token for an attested identity, which ends with `limit` at the latest.
    ///
    /// # Errors
    /// When the identity is not ours to sign, or signing or logging fails; then no token exists.
    pub async fn issue_jwt(
        &self,
        attested: &Attested,
        audience: &Audience,
        ttl: Option<Duration>,
        limit: SystemTime,
        now: SystemTime,
    ) -> Result<SignedJwt, IssueError> {
        let id = &attested.id;
        if *id.trust_domain() != self.domain || id.path().is_empty() {
            return Err(IssueError::NotOurs {
                id: id.clone(),
                domain: self.domain.clone(),
            });
        }
        self.revocations.borrow().check_identity(id, now)?;
        let current = self.current();
        let signer = current.hierarchy.jwt_keys().signer(now);
        let signer = signer.ok_or_else(|| IssueError::Sign("the CA has no key for JWT-SVIDs".into()))?;
        let not_after = (now + granted_jwt_ttl(ttl)).min(limit);
        let signed = jwt::sign(signer, id, audience, now, not_after).map_err(IssueError::Sign)?;
        let event = Event::JwtSvid {
            id: id.to_string(),
            jti: signed.jti.clone(),
            audience: audience.names().to_vec(),
            not_after: rfc3339(signed.not_after),
            kid: signed.kid.clone(),
            attestor: attested.attestor.to_owned(),
            subject: attested.subject.clone(),
        };
        self.log.append(event, now).await?;
        self.check_fence()?;
        Ok(signed)
    }

    /// Makes the next key for JWT-SVIDs when its time has come, and drops those that nothing needs any more. Blocks. Says
    /// whether anything changed.
    ///
    /// # Errors
    /// When log or store fail; the keys stay as they were.
    pub fn advance_jwt_keys(&self, now: SystemTime) -> Result<bool, CaError> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.store.leads() {
            return Ok(false);
        }
        match jwt::next(&self.current().state.jwt_keys, now)? {
            Some(keys) => self.replace_jwt_keys(keys, now).map(|()| true),
            None => Ok(false),
        }
    }

    /// Makes a new key for JWT-SVIDs by an admin's hand, which signs after `lead`; `drop_old`: whatever was signed before
    /// is refused from now on. Returns its ID. Blocks.
    ///
    /// # Errors
    /// When log or store fail; the keys stay as they were.
    pub fn rotate_jwt_key(&self, lead: Duration, drop_old: bool, now: SystemTime) -> Result<String, CaError> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = jwt::rotated(&self.current().state.jwt_keys, lead, drop_old, now)?;
        let kid = keys.last().map(|key| key.kid.clone()).unwrap_or_default();
        self.replace_jwt_keys(keys, now)?;
        Ok(kid)
    }

    /// The newest key for JWT-SVIDs, and when another one should have taken its place.
    #[must_use]
    pub fn jwt_key_ends(&self) -> Option<(String, SystemTime)> {
        let current = self.current();
        let newest = current.state.jwt_keys.iter().max_by_key(|key| key.signs_from)?;
        let from = SystemTime::UNIX_EPOCH + Duration::from_secs(newest.signs_from);
        Some((newest.kid.clone(), from + jwt::KEY_LIFE))
    }

    fn replace_jwt_keys(&self, keys: Vec<JwtKeyRecord>, now: SystemTime) -> Result<(), CaError> {
        let current = self.current();
        let known = |key: &&JwtKeyRecord| current.state.jwt_keys.iter().all(|old| old.kid != key.kid);
        for key in keys.iter().filter(known) {
            self.log.append_blocking(jwt_key_event(key), now)?;
        }
        self.save_and_adopt(State {
            sequence: current.state.sequence + 1,
            jwt_keys: keys,
            ..current.state.clone()
        })
    }
}

pub(super) fn jwt_key_event(key: &JwtKeyRecord) -> Event {
    Event::JwtKey {
        kid: key.kid.clone(),
        signs_from: rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(key.signs_from)),
    }
}
