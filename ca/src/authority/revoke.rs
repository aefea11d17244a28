//! Revoking and undoing it: logged and saved first, then in force here, then told to whoever watches. It ends no
//! connection itself.

use std::{
    sync::{Arc, PoisonError},
    time::SystemTime,
};

use squire_mesh::svid::Revocations;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::watch;

use super::{CaError, CertificateAuthority};
use crate::{
    log::{self, Event, LogError},
    revocation::{self, MAX_REASON, MAX_REVOCATIONS, RevocationRecord, RevocationView, Target},
};

/// Why nothing was revoked, or undone.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// Nobody would know later why.
    #[error("--reason: say why in 1 to {MAX_REASON} bytes on one line: it is shown to whoever is refused")]
    Reason,
    /// One certificate was issued already.
    #[error("{0} is one certificate: only an identity can be revoked for what it was issued so far")]
    IssuedOnly(Target),
    /// It was not revoked.
    #[error("{0} is not revoked: `squire ca revoked` lists what is")]
    NotRevoked(Target),
    /// Every proxy holds all of them.
    #[error(
        "{MAX_REVOCATIONS} revocations are in force already: undo some, or revoke identities instead of certificates"
    )]
    TooMany,
    /// It could not be made durable, so it has not taken effect.
    #[error(transparent)]
    Ca(#[from] CaError),
}

impl CertificateAuthority {
    /// Tells of every change of what is revoked.
    #[must_use]
    pub fn watch_revocations(&self) -> watch::Receiver<Arc<Revocations>> {
        self.revocations.subscribe()
    }

    /// What is revoked now, oldest first.
    #[must_use]
    pub fn revoked(&self, now: SystemTime) -> Vec<RevocationView> {
        revocation::views(&self.current().state, now)
    }

    /// Revokes an identity (`issued_only`: what it was issued so far) or a certificate. Revoking again replaces the
    /// reason. In force when it returns. Blocks.
    ///
    /// # Errors
    /// When the reason is missing, or log or store fail; then nothing has changed.
    pub fn revoke(
        &self,
        target: &Target,
        reason: &str,
        issued_only: bool,
        now: SystemTime,
    ) -> Result<RevocationView, RevokeError> {
        if reason.trim().is_empty() || reason.len() > MAX_REASON || reason.chars().any(char::is_control) {
            return Err(RevokeError::Reason);
        }
        let record = match target {
            Target::Certificate(_) if issued_only => return Err(RevokeError::IssuedOnly(target.clone())),
            Target::Certificate(serial) => {
                let ends = self.ends(&serial.to_string()).map_err(CaError::from)?;
                RevocationRecord::certificate(serial.clone(), reason.to_owned(), ends, now)
            }
            Target::Identity(id) => RevocationRecord::identity(id.clone(), reason.to_owned(), issued_only, now),
        };
        let view = record.view();
        let event = Event::Revoked {
            target: view.target.clone(),
            covers: view.covers.clone(),
            reason: view.reason.clone(),
        };
        self.change_revocations(event, now, |records| {
            records.retain(|known| known.target != *target);
            if records.len() >= MAX_REVOCATIONS {
                return Err(RevokeError::TooMany);
            }
            records.push(record);
            Ok(())
        })?;
        Ok(view)
    }

    /// Undoes a revocation. In force when it returns. Blocks.
    ///
    /// # Errors
    /// When it is not revoked, or log or store fail; then nothing has changed.
    pub fn unrevoke(&self, target: &Target, now: SystemTime) -> Result<RevocationView, RevokeError> {
        let event = Event::Unrevoked {
            target: target.to_string(),
        };
        let mut undone = None;
        self.change_revocations(event, now, |records| {
            records.retain(|known| {
                let found = known.target == *target;
                if found {
                    undone = Some(known.view());
                }
                !found
            });
            if undone.is_none() {
                return Err(RevokeError::NotRevoked(target.clone()));
            }
            Ok(())
        })?;
        undone.ok_or_else(|| RevokeError::NotRevoked(target.clone()))
    }

    /// Forgets revocations of which no certificate is valid any more. Says how many.
    pub(super) fn expire_revocations(&self, now: SystemTime) -> Result<usize, CaError> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.current().state.clone();
        let before = state.revocations.len();
        state.revocations.retain(|record| record.concerns(now));
        let expired = before - state.revocations.len();
        if expired > 0 {
            self.save_and_adopt(state)?;
        }
        Ok(expired)
    }

    fn change_revocations(
        &self,
        event: Event,
        now: SystemTime,
        change: impl FnOnce(&mut Vec<RevocationRecord>) -> Result<(), RevokeError>,
    ) -> Result<(), RevokeError> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.current().state.clone();
        state.revocations.retain(|record| record.concerns(now));
        change(&mut state.revocations)?;
        self.log.append_blocking(event, now).map_err(CaError::from)?;
        self.save_and_adopt(state)?;
        Ok(())
    }

    /// When the certificate of a serial number ends, as the issuance log tells.
    fn ends(&self, wanted: &str) -> Result<Option<SystemTime>, LogError> {
        let mut ends = None;
        log::verify_store(&*self.store, |entry| {
            if let Event::Issued { serial, not_after, .. } = &entry.event
                && serial == wanted
            {
                ends = OffsetDateTime::parse(not_after, &Rfc3339).ok().map(SystemTime::from);
            }
        })?;
        Ok(ends)
    }
}
