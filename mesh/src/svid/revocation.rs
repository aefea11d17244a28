//! What must no longer be trusted although its certificate still is: by SPIFFE ID or by serial number. It decides about
//! verified peers only, and never revokes anything itself.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use super::{Serial, VerifiedPeer};
use crate::{
    spiffe::{SpiffeId, SpiffeIdError},
    wire,
};

/// Identities and certificates that were revoked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations {
    identities: HashMap<SpiffeId, RevokedIdentity>,
    serials: HashMap<Serial, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct RevokedIdentity {
    reason: String,
    /// Certificates issued from then on are good again.
    issued_before: Option<SystemTime>,
}

/// A peer that must not be talked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Revoked {
    /// All certificates of the identity (issued before some time).
    #[error("the identity {id} was revoked: {reason}; `squire ca unrevoke {id}` undoes it")]
    Identity {
        /// Who.
        id: SpiffeId,
        /// What the admin wrote.
        reason: String,
    },
    /// This certificate.
    #[error("the certificate {serial} of {id} was revoked: {reason}; `squire ca unrevoke {serial}` undoes it")]
    Certificate {
        /// Whose certificate.
        id: SpiffeId,
        /// Which one.
        serial: Serial,
        /// What the admin wrote.
        reason: String,
    },
}

/// Why a revocation message cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RevocationError {
    /// An entry whose identity is not a SPIFFE ID.
    #[error("revoked identity {index} is not a SPIFFE ID: {reason}")]
    Identity {
        /// Position, from 0.
        index: usize,
        /// Which rule it breaks.
        reason: SpiffeIdError,
    },
    /// An entry without a serial number.
    #[error("revoked serial {0} is empty")]
    Serial(usize),
}

impl Revocations {
    /// Revokes an identity; with a time: only what was issued before it.
    pub fn revoke_identity(&mut self, id: SpiffeId, reason: impl Into<String>, issued_before: Option<SystemTime>) {
        self.identities.insert(
            id,
            RevokedIdentity {
                reason: reason.into(),
                issued_before,
            },
        );
    }

    /// Revokes one certificate.
    pub fn revoke_serial(&mut self, serial: Serial, reason: impl Into<String>) {
        self.serials.insert(serial, reason.into());
    }

    /// Adds all of another list; what is in both is as the other says.
    pub fn extend(&mut self, other: &Self) {
        let identities = other.identities.iter().map(|(id, entry)| (id.clone(), entry.clone()));
        self.identities.extend(identities);
        let serials = other
            .serials
            .iter()
            .map(|(serial, reason)| (serial.clone(), reason.clone()));
        self.serials.extend(serials);
    }

    /// Nothing is revoked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.identities.is_empty() && self.serials.is_empty()
    }

    /// Whether a peer may still be talked to.
    ///
    /// # Errors
    /// When its identity or its certificate was revoked.
    pub fn check(&self, peer: &VerifiedPeer) -> Result<(), Revoked> {
        self.check_identity(peer.id(), peer.not_before())?;
        match self.serials.get(peer.serial()) {
            None => Ok(()),
            Some(reason) => Err(Revoked::Certificate {
                id: peer.id().clone(),
                serial: peer.serial().clone(),
                reason: reason.clone(),
            }),
        }
    }

    /// Whether the certificate with this serial number is revoked by it.
    #[must_use]
    pub fn has_serial(&self, serial: &Serial) -> bool {
        self.serials.contains_key(serial)
    }

    /// Whether an identity may hold a certificate issued at that time.
    ///
    /// # Errors
    /// When the identity was revoked.
    pub fn check_identity(&self, id: &SpiffeId, issued: SystemTime) -> Result<(), Revoked> {
        match self.identities.get(id) {
            Some(entry) if entry.issued_before.is_none_or(|limit| issued < limit) => Err(Revoked::Identity {
                id: id.clone(),
                reason: entry.reason.clone(),
            }),
            _ => Ok(()),
        }
    }
}

impl TryFrom<wire::squire::Revocation> for Revocations {
    type Error = RevocationError;

    fn try_from(message: wire::squire::Revocation) -> Result<Self, RevocationError> {
        let mut all = Self::default();
        for (index, entry) in message.identities.into_iter().enumerate() {
            let id = entry
                .spiffe_id
                .parse()
                .map_err(|reason| RevocationError::Identity { index, reason })?;
            let limit = u64::try_from(entry.issued_before).ok().filter(|seconds| *seconds > 0);
            all.revoke_identity(
                id,
                entry.reason,
                limit.map(|s| SystemTime::UNIX_EPOCH + Duration::from_secs(s)),
            );
        }
        for (index, entry) in message.serials.into_iter().enumerate() {
            let serial = Serial::new(&entry.serial);
            if serial.as_bytes().is_empty() {
                return Err(RevocationError::Serial(index));
            }
            all.revoke_serial(serial, entry.reason);
        }
        Ok(all)
    }
}

impl From<&Revocations> for wire::squire::Revocation {
    fn from(all: &Revocations) -> Self {
        let seconds = |time: SystemTime| {
            time.duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs()
        };
        let mut identities: Vec<_> = all
            .identities
            .iter()
            .map(|(id, entry)| wire::squire::RevokedIdentity {
                spiffe_id: id.to_string(),
                reason: entry.reason.clone(),
                issued_before: entry
                    .issued_before
                    .map_or(0, |time| i64::try_from(seconds(time)).unwrap_or(i64::MAX)),
            })
            .collect();
        identities.sort_by(|a, b| a.spiffe_id.cmp(&b.spiffe_id));
        let mut serials: Vec<_> = all
            .serials
            .iter()
            .map(|(serial, reason)| wire::squire::RevokedSerial {
                serial: serial.as_bytes().to_vec().into(),
                reason: reason.clone(),
            })
            .collect();
        serials.sort_by(|a, b| a.serial.cmp(&b.serial));
        Self { identities, serials }
    }
}
