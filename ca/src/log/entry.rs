//! What a line of the issuance log says. No meaning beyond its words.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::digest::Sha256;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Position, from 1.
    pub seq: u64,
    /// SHA-256 of the line before.
    pub prev: Sha256,
    /// When it was signed, RFC 3339.
    pub time: String,
    /// What was signed.
    pub event: Event,
}

/// What the CA did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Event {
    /// A root came into use.
    Root {
        /// Key identifier.
        key_id: String,
        /// SHA-256 of the certificate.
        sha256: Sha256,
        /// RFC 3339.
        not_after: String,
    },
    /// An intermediate was signed.
    Intermediate {
        /// Key identifier.
        key_id: String,
        /// Key identifier of the root.
        issuer: String,
        /// SHA-256 of the certificate.
        sha256: Sha256,
        /// RFC 3339.
        not_after: String,
    },
    /// The log before this one was damaged, and an admin has set it aside.
    Restarted {
        /// What the admin wrote.
        reason: String,
        /// The file it is kept in.
        set_aside: String,
    },
    /// The state was restored from a backup; what was logged after that backup was made is not here.
    Restored {
        /// Which backup: SHA-256 of its file.
        backup: Sha256,
        /// When it was made, RFC 3339.
        made: String,
    },
    /// The oldest part of the log was let go, as every certificate in it had ended.
    Pruned {
        /// How many entries, from the first that there ever was.
        entries: u64,
        /// SHA-256 of the last of them: the first that is left continues it.
        hash: Sha256,
        /// Roots and intermediates that stood there.
        carried: Vec<Event>,
    },
    /// A rotation of the root has reached this phase.
    Rotation {
        /// `distribute`, `switch`, `retire` or `stable`.
        phase: String,
        /// Key identifier of the root that is to go.
        from: String,
        /// Key identifier of the root that is to stay.
        to: String,
        /// Of the bundle.
        sequence: u64,
        /// On whose word.
        why: String,
    },
    /// An identity or a certificate was revoked.
    Revoked {
        /// SPIFFE ID or serial number.
        target: String,
        /// What of it.
        covers: String,
        /// What the admin wrote.
        reason: String,
    },
    /// A revocation was undone.
    Unrevoked {
        /// SPIFFE ID or serial number.
        target: String,
    },
    /// A key for JWT-SVIDs came into use.
    JwtKey {
        /// Its ID.
        kid: String,
        /// RFC 3339.
        signs_from: String,
    },
    /// A JWT-SVID was signed.
    JwtSvid {
        /// The SPIFFE ID.
        id: String,
        /// The token's own name.
        jti: String,
        /// Whom it may be shown to.
        audience: Vec<String>,
        /// RFC 3339.
        not_after: String,
        /// The key that signed it.
        kid: String,
        /// Which attestor vouched.
        attestor: String,
        /// For whom, in the attestor's own terms.
        subject: String,
    },
    /// A leaf was signed.
    Issued {
        /// The SPIFFE ID.
        id: String,
        /// Hexadecimal.
        serial: String,
        /// RFC 3339.
        not_before: String,
        /// RFC 3339.
        not_after: String,
        /// SHA-256 of the SubjectPublicKeyInfo.
        key_sha256: Sha256,
        /// Key identifier of the intermediate.
        issuer: String,
        /// Which attestor vouched.
        attestor: String,
        /// For whom, in the attestor's own terms.
        subject: String,
        /// Beside which workload, as the requester says or the attestor knows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        workload: Option<String>,
    },
}

/// A moment as RFC 3339 text, whole seconds, UTC.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let stamp = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    stamp
        .and_then(|stamp| stamp.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{seconds}s"))
}
