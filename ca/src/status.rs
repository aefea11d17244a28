//! What a CA holds, in a form to show: trust domain, roots, intermediate, phase, count of log entries. Contains no secrets.

use std::time::{Duration, SystemTime};

use serde::Serialize;
use squire_mesh::bundle::TrustBundles;

use crate::{
    authority::{CaError, INTERMEDIATE_RENEWAL_PERCENT},
    hierarchy::Hierarchy,
    jwt::{self, JwtKeyRecord},
    log::rfc3339,
    profile::Validity,
    state::{Phase, State},
    store::{Store, StoreError},
};

/// The whole picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Whose CA this is.
    pub trust_domain: String,
    /// Where a root rotation stands.
    pub phase: Phase,
    /// Grows with every change of the bundle.
    pub sequence: u64,
    /// What every up-to-date proxy reports.
    pub bundle_digest: String,
    /// All roots that peers must trust.
    pub roots: Vec<RootStatus>,
    /// What signs leaves.
    pub intermediate: IntermediateStatus,
    /// What signs JWT-SVIDs, and what did so lately.
    pub jwt_keys: Vec<JwtKeyStatus>,
    /// Entries in the issuance log.
    pub log_entries: u64,
}

/// One root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RootStatus {
    /// Key identifier.
    pub key_id: String,
    /// SHA-256 of the certificate.
    pub sha256: String,
    /// It signs intermediates.
    pub active: bool,
    /// Its private key is in the store.
    pub key_present: bool,
    /// RFC 3339.
    pub not_after: String,
}

/// A key for JWT-SVIDs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JwtKeyStatus {
    /// Its ID in tokens and bundle.
    pub kid: String,
    /// RFC 3339: it signs from then on, until the next one does.
    pub signs_from: String,
    /// RFC 3339: it leaves the bundle then; absent while no other key has been made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retired: Option<String>,
}

/// The intermediate in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IntermediateStatus {
    /// Key identifier.
    pub key_id: String,
    /// Key identifier of its root.
    pub root: String,
    /// RFC 3339.
    pub not_before: String,
    /// RFC 3339.
    pub not_after: String,
    /// RFC 3339: when it is going to be replaced.
    pub renewal: String,
    /// Whether it can sign now.
    #[serde(skip)]
    pub validity: Validity,
}

impl Status {
    /// Reads it from a store, also from one that another process runs.
    ///
    /// # Errors
    /// When there is no CA, or the store is damaged.
    pub fn read(store: &dyn Store) -> Result<Self, CaError> {
        let state = store.load()?.ok_or_else(|| StoreError::NotInitialised(store.place()))?;
        let hierarchy = Hierarchy::load(&state)?;
        let entries = store.log_head()?.map_or(0, |head| head.count);
        Ok(Self::of(&state, &hierarchy, entries))
    }

    pub(crate) fn of(state: &State, hierarchy: &Hierarchy, log_entries: u64) -> Self {
        let roots = state
            .trusted()
            .zip(hierarchy.bundle().roots())
            .map(|(record, root)| RootStatus {
                key_id: record.name.clone(),
                sha256: root.digest().to_string(),
                active: record.name == state.active_root,
                key_present: record.key.is_some(),
                not_after: rfc3339(root.not_after()),
            });
        let validity = hierarchy.intermediate().validity();
        Self {
            trust_domain: state.trust_domain.clone(),
            phase: state.phase.clone(),
            sequence: state.sequence,
            bundle_digest: TrustBundles::new([hierarchy.bundle().clone()]).digest().to_owned(),
            roots: roots.collect(),
            intermediate: IntermediateStatus {
                key_id: hierarchy.intermediate().key_id().to_owned(),
                root: state.intermediate.root.clone(),
                not_before: rfc3339(validity.not_before),
                not_after: rfc3339(validity.not_after),
                renewal: rfc3339(validity.at_percent(INTERMEDIATE_RENEWAL_PERCENT)),
                validity,
            },
            jwt_keys: state.jwt_keys.iter().map(|key| jwt_key(state, key)).collect(),
            log_entries,
        }
    }

    /// Whether the CA can sign at that time.
    #[must_use]
    pub fn can_sign(&self, now: SystemTime) -> bool {
        let validity = self.intermediate.validity;
        validity.not_before <= now && now < validity.not_after
    }
}

fn jwt_key(state: &State, key: &JwtKeyRecord) -> JwtKeyStatus {
    JwtKeyStatus {
        kid: key.kid.clone(),
        signs_from: rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(key.signs_from)),
        retired: jwt::retired(&state.jwt_keys, key).map(rfc3339),
    }
}
