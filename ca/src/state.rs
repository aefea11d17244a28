//! What the CA must remember, as one document that is replaced as a whole: roots, the root that signs, intermediates, the
//! phase of a root rotation. A crash therefore leaves the old document or the new one, never a mixture.

use serde::{Deserialize, Serialize};
use squire_mesh::spiffe::TrustDomain;

use crate::{
    hierarchy::{Hierarchy, HierarchyError},
    jwt::JwtKeyRecord,
    revocation::RevocationRecord,
    secret::Secret,
};

/// The version of the document that this code writes.
pub const VERSION: u32 = 2;
/// The oldest version that it reads: documents without a rotation, standby intermediates or requests.
const OLDEST: u32 = 1;

/// The document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// [`VERSION`].
    pub version: u32,
    /// Whose CA this is.
    pub trust_domain: String,
    /// Grows with every change of the bundle: of its roots, or of the root that signs.
    pub sequence: u64,
    /// Where a root rotation stands.
    pub phase: Phase,
    /// Every root that is known. Peers must trust [`State::trusted`].
    pub roots: Vec<RootRecord>,
    /// Name of the root that signs intermediates.
    pub active_root: String,
    /// The intermediate that signs leaves.
    pub intermediate: IntermediateRecord,
    /// Intermediates of the other root of a rotation: imported ones, and the one in use before, for going back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub standby: Vec<IntermediateRecord>,
    /// A key made here whose certificate is being signed elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested: Option<RequestRecord>,
    /// What must no longer be trusted although it is signed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revocations: Vec<RevocationRecord>,
    /// What signs JWT-SVIDs, and what has signed some that may still be shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jwt_keys: Vec<JwtKeyRecord>,
}

/// Where a root rotation stands (DESIGN §7).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum Phase {
    /// No rotation: the active root alone signs and is trusted.
    Stable,
    /// `from` signs, both are trusted. Gate 1: every holder of an SVID trusts both.
    Distribute(Move),
    /// `to` signs, both are trusted. Gate 2: nobody stands on `from` any more.
    Switch(Move),
    /// `to` signs and alone is trusted; `from` is kept for going back. Gate 3: every holder has let go of `from`.
    Retire(Move),
}

/// From which root to which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Move {
    /// The root that is to go.
    pub from: String,
    /// The root that is to stay.
    pub to: String,
    /// When the rotation began, in seconds since the epoch.
    pub began: u64,
    /// When this phase began, in seconds since the epoch.
    pub since: u64,
    /// It leads back: an admin has aborted the rotation.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub aborting: bool,
    /// SVIDs under `from` are to be renewed within so many seconds once `to` signs.
    #[serde(default)]
    pub renew_within: u32,
}

/// A root: its key is absent when it is kept elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootRecord {
    /// Key identifier, hexadecimal; names the root in this document.
    pub name: String,
    /// PEM.
    pub certificate: String,
    /// PKCS#8 PEM.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub key: Option<Secret>,
    /// An admin brought it: it is replaced by nobody else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub supplied: bool,
}

/// An intermediate and its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntermediateRecord {
    /// Name of the root that signed it.
    pub root: String,
    /// PEM.
    pub certificate: String,
    /// PKCS#8 PEM.
    pub key: Secret,
}

/// The key of an intermediate that is to be signed elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestRecord {
    /// PKCS#8 PEM.
    pub key: Secret,
    /// When it was made, in seconds since the epoch.
    pub made: u64,
}

/// Why a document is not the state of a CA.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Not JSON, cut off, or with unknown parts.
    #[error("it is not a CA state document: {0}")]
    Json(String),
    /// Written by another version of this program.
    #[error("it has version {0}, this program knows {VERSION}: run the version of squire that wrote it")]
    Version(u32),
    /// Its certificates and keys do not fit together.
    #[error(transparent)]
    Hierarchy(#[from] HierarchyError),
}

impl State {
    /// Reads a document and checks that everything in it fits together.
    ///
    /// # Errors
    /// When it is not JSON, of another version, or its parts contradict each other.
    pub fn parse(bytes: &[u8]) -> Result<Self, StateError> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let json = |error: serde_json::Error| StateError::Json(error.to_string());
        let Version { version } = serde_json::from_slice(bytes).map_err(json)?;
        if !(OLDEST..=VERSION).contains(&version) {
            return Err(StateError::Version(version));
        }
        let mut state: Self = serde_json::from_slice(bytes).map_err(json)?;
        // Whatever is missing in an older document has its default; it is written anew with the next change.
        state.version = VERSION;
        Hierarchy::load(&state)?;
        Ok(state)
    }

    /// The document's bytes.
    ///
    /// # Errors
    /// Never for a document built from text, as all of these are.
    pub fn to_bytes(&self) -> Result<zeroize::Zeroizing<Vec<u8>>, StateError> {
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| StateError::Json(error.to_string()))?;
        Ok(zeroize::Zeroizing::new(bytes))
    }

    /// The roots that peers must trust now.
    pub fn trusted(&self) -> impl Iterator<Item = &RootRecord> {
        self.roots.iter().filter(|root| match &self.phase {
            Phase::Stable => root.name == self.active_root,
            Phase::Distribute(_) | Phase::Switch(_) => true,
            Phase::Retire(rotation) => root.name == rotation.to,
        })
    }

    /// The root of that name.
    #[must_use]
    pub fn root(&self, name: &str) -> Option<&RootRecord> {
        self.roots.iter().find(|root| root.name == name)
    }

    /// Whose CA this is.
    ///
    /// # Errors
    /// When the name in the document is not a trust domain.
    pub fn domain(&self) -> Result<TrustDomain, StateError> {
        self.trust_domain
            .parse()
            .map_err(|error| HierarchyError::TrustDomain(error).into())
    }
}

impl Phase {
    /// The rotation under way.
    #[must_use]
    pub fn rotation(&self) -> Option<&Move> {
        match self {
            Self::Stable => None,
            Self::Distribute(rotation) | Self::Switch(rotation) | Self::Retire(rotation) => Some(rotation),
        }
    }

    /// Its name, from a closed set.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Distribute(_) => "distribute",
            Self::Switch(_) => "switch",
            Self::Retire(_) => "retire",
        }
    }
}
