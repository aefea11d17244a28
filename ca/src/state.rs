//! What the CA must remember, as one document that is replaced as a whole: roots, the root that signs, the intermediate in
//! use, the phase of a root rotation. A crash therefore leaves the old document or the new one, never a mixture.

use serde::{Deserialize, Serialize};
use squire_mesh::spiffe::TrustDomain;

use crate::{
    hierarchy::{Hierarchy, HierarchyError},
    revocation::RevocationRecord,
    secret::Secret,
};

/// The version of the document that this code writes.
pub const VERSION: u32 = 1;

/// The document.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// [`VERSION`].
    pub version: u32,
    /// Whose CA this is.
    pub trust_domain: String,
    /// Grows with every change of the set of roots.
    pub sequence: u64,
    /// Where a root rotation stands.
    pub phase: Phase,
    /// Every root that peers must trust now; the bundle.
    pub roots: Vec<RootRecord>,
    /// Name of the root that signs intermediates.
    pub active_root: String,
    /// The intermediate that signs leaves.
    pub intermediate: IntermediateRecord,
    /// What must no longer be trusted although it is signed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revocations: Vec<RevocationRecord>,
}

/// Where a root rotation stands (DESIGN §7).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Phase {
    /// No rotation: the active root alone signs.
    Stable,
}

/// A root: its key is absent when it is kept elsewhere.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootRecord {
    /// Key identifier, hexadecimal; names the root in this document.
    pub name: String,
    /// PEM.
    pub certificate: String,
    /// PKCS#8 PEM.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub key: Option<Secret>,
}

/// An intermediate and its key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntermediateRecord {
    /// Name of the root that signed it.
    pub root: String,
    /// PEM.
    pub certificate: String,
    /// PKCS#8 PEM.
    pub key: Secret,
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
        if version != VERSION {
            return Err(StateError::Version(version));
        }
        let state: Self = serde_json::from_slice(bytes).map_err(json)?;
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
