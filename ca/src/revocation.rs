//! What an admin has revoked, as the state remembers it: an identity for good, what an identity was issued so far, or one
//! certificate. It says when a revocation no longer concerns anything; it never looks at peers, [`Revocations`] does.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use squire_mesh::{
    spiffe::{SpiffeId, SpiffeIdError},
    svid::{Revocations, Serial},
};

use crate::{
    log::rfc3339,
    profile::{BACKDATE, MAX_TTL},
    state::State,
};

/// Revocations that are kept at once: every proxy holds all of them.
pub const MAX_REVOCATIONS: usize = 10_000;
/// Longest reason, in bytes.
pub const MAX_REASON: usize = 256;

/// What is revoked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Target {
    /// A SPIFFE ID.
    Identity(SpiffeId),
    /// A certificate, by serial number.
    Certificate(Serial),
}

/// A text that names nothing that could be revoked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Begins as a SPIFFE ID does, and is none.
    #[error("{text:?} is not a SPIFFE ID: {reason}")]
    Identity {
        /// What was written.
        text: String,
        /// Which rule it breaks.
        reason: SpiffeIdError,
    },
    /// Neither.
    #[error(
        "{0:?} is neither a SPIFFE ID (spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT) nor a serial number in hexadecimal, as `squire ca log` shows it"
    )]
    Neither(String),
}

/// One revocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevocationRecord {
    /// What is revoked.
    pub target: Target,
    /// What the admin wrote.
    pub reason: String,
    /// When, in seconds since the epoch.
    pub at: u64,
    /// Only what was issued before `at`: the identity may be issued new certificates.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub issued_only: bool,
    /// Seconds since the epoch: from then on no certificate it concerns is valid any more. `None`: until it is undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

/// One revocation, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationView {
    /// SPIFFE ID or serial number.
    pub target: String,
    /// What it covers.
    pub covers: String,
    /// What the admin wrote.
    pub reason: String,
    /// RFC 3339.
    pub since: String,
    /// RFC 3339; absent: until it is undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        if text.starts_with("spiffe://") {
            return text
                .parse()
                .map(Self::Identity)
                .map_err(|reason| TargetError::Identity {
                    text: text.to_owned(),
                    reason,
                });
        }
        let serial = hex_bytes(text).map(|bytes| Serial::new(&bytes));
        match serial.filter(|serial| !serial.as_bytes().is_empty()) {
            Some(serial) => Ok(Self::Certificate(serial)),
            None => Err(TargetError::Neither(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Target {
    type Error = TargetError;

    fn try_from(text: String) -> Result<Self, TargetError> {
        text.parse()
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.to_string()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(id) => id.fmt(f),
            Self::Certificate(serial) => serial.fmt(f),
        }
    }
}

/// Pairs of hexadecimal digits, also with colons between them as openssl prints serial numbers.
fn hex_bytes(text: &str) -> Option<Vec<u8>> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    // RFC 5280, 4.1.2.2: at most 20 bytes.
    let fits = !digits.is_empty() && digits.len() <= 40 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let digits = if digits.len().is_multiple_of(2) {
        digits
    } else {
        format!("0{digits}")
    };
    let pairs = (0..digits.len()).step_by(2);
    fits.then(|| {
        pairs
            .filter_map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok())
            .collect()
    })
}

impl RevocationRecord {
    /// A certificate that ends at that time; unknown: no leaf that exists now lives longer than [`MAX_TTL`].
    pub(crate) fn certificate(serial: Serial, reason: String, ends: Option<SystemTime>, now: SystemTime) -> Self {
        let ends = ends.unwrap_or(now + MAX_TTL).min(now + MAX_TTL);
        Self {
            target: Target::Certificate(serial),
            reason,
            at: seconds(now),
            issued_only: false,
            // The second that has begun is still part of its life.
            until: Some(seconds(ends) + 1),
        }
    }

    /// An identity: for good, or only what it was issued so far.
    pub(crate) fn identity(id: SpiffeId, reason: String, issued_only: bool, now: SystemTime) -> Self {
        Self {
            target: Target::Identity(id),
            reason,
            at: seconds(now),
            issued_only,
            until: issued_only.then(|| seconds(now + MAX_TTL) + 1),
        }
    }

    /// Whether any certificate it concerns may still be valid.
    #[must_use]
    pub fn concerns(&self, now: SystemTime) -> bool {
        self.until.is_none_or(|until| seconds(now) < until)
    }

    /// The same for people and programs.
    #[must_use]
    pub fn view(&self) -> RevocationView {
        let covers = match (&self.target, self.issued_only) {
            (Target::Certificate(_), _) => "this certificate",
            (Target::Identity(_), true) => "certificates issued so far",
            (Target::Identity(_), false) => "the identity",
        };
        RevocationView {
            target: self.target.to_string(),
            covers: covers.to_owned(),
            reason: self.reason.clone(),
            since: rfc3339(time(self.at)),
            until: self.until.map(|until| rfc3339(time(until))),
        }
    }
}

/// The revocations of a state that still concern something, oldest first.
#[must_use]
pub fn views(state: &State, now: SystemTime) -> Vec<RevocationView> {
    let current = state.revocations.iter().filter(|record| record.concerns(now));
    current.map(RevocationRecord::view).collect()
}

/// What the CA refuses and what peers are told.
pub(crate) fn in_force(records: &[RevocationRecord]) -> Revocations {
    let mut all = Revocations::default();
    for record in records {
        match &record.target {
            Target::Certificate(serial) => all.revoke_serial(serial.clone(), record.reason.as_str()),
            Target::Identity(id) => {
                // Judged by notBefore, which lies that far before the moment of issue.
                let limit = record.issued_only.then(|| time(record.at + 1) - BACKDATE);
                all.revoke_identity(id.clone(), record.reason.as_str(), limit);
            }
        }
    }
    all
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_spiffe_id_or_a_serial_number_however_it_is_written() {
        let serial = Target::Certificate(Serial::new(&[0x4a, 0x0b, 0xff]));
        for text in ["4a0bff", "4A:0B:FF", "004a0bff", "4A0BFF"] {
            assert_eq!(text.parse(), Ok(serial.clone()), "{text}");
        }
        assert_eq!("a0b".parse(), Ok(Target::Certificate(Serial::new(&[0x0a, 0x0b]))));
        let id = "spiffe://cluster.local/ns/shop/sa/web";
        assert_eq!(id.parse::<Target>().unwrap().to_string(), id);
        for bad in ["", "0", "00", "web", "shop/web", "spiffe://", "4a 0b", &"a".repeat(42)] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_was_issued_so_far_is_revoked_and_what_is_issued_later_is_not() {
        let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
        let now = time(1_800_000_000);
        let all = in_force(&[RevocationRecord::identity(id.clone(), "key lost".into(), true, now)]);
        let issued_at = |at: SystemTime| all.check_identity(&id, at - BACKDATE);
        assert!(issued_at(now).is_err() && issued_at(now - Duration::from_secs(3600)).is_err());
        assert!(issued_at(now + Duration::from_secs(1)).is_ok());
        assert!(all.check_identity(&id, now).is_ok(), "it may be issued a new one");
    }
}
