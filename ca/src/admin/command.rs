//! What an admin can ask of the process that runs a CA, and what is answered. The CA decides; this only carries it out.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::{
    authority::{CaError, CertificateAuthority, ImportError, RevokeError, RotateError},
    revocation::{RevocationView, Target},
    roster::Progress,
    rotation::Successor,
};

/// What an admin asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// Revoke an identity or a certificate.
    Revoke {
        /// Which.
        target: Target,
        /// Why.
        reason: String,
        /// Only what the identity was issued so far.
        issued_only: bool,
    },
    /// Undo a revocation.
    Unrevoke {
        /// Of what.
        target: Target,
    },
    /// What is revoked?
    Revoked,
    /// Begin a rotation of the root.
    Rotate {
        /// To this root; otherwise to one that is made.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        successor: Option<Box<Successor>>,
    },
    /// Go back to the root that the rotation began with.
    Abort,
    /// Take the next step whatever the gate says.
    Force {
        /// The bundle that the admin has seen the progress of.
        sequence: u64,
    },
    /// How far is the rotation?
    Progress,
    /// Make a key whose certificate is signed elsewhere.
    Csr,
    /// Make a new key for JWT-SVIDs.
    RotateJwtKey {
        /// It signs after so many seconds.
        lead_seconds: u64,
        /// What was signed before is good for nothing from now on.
        drop_old: bool,
    },
    /// Take in what was signed.
    Import {
        /// Intermediate, and its root where that is new.
        pem: String,
    },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reply {
    /// This revocation is in force, or was undone.
    Revocation {
        /// Which.
        revocation: RevocationView,
    },
    /// All that is revoked.
    Revoked {
        /// In the order of their beginning.
        revocations: Vec<RevocationView>,
    },
    /// To be signed elsewhere.
    Csr {
        /// PKCS#10.
        pem: String,
    },
    /// There is a new key for JWT-SVIDs.
    JwtKey {
        /// Its ID.
        kid: String,
    },
    /// So far is the rotation.
    Progress {
        /// How far.
        progress: Box<Progress>,
    },
    /// Nothing was done.
    Refused {
        /// The admin can change what was asked; otherwise the CA failed.
        mistaken: bool,
        /// Why, and what to do.
        why: String,
    },
}

/// Does what is asked. Blocks.
#[must_use]
pub fn execute(ca: &CertificateAuthority, command: Command, now: SystemTime) -> Reply {
    match command {
        Command::Revoke {
            target,
            reason,
            issued_only,
        } => revocation(ca.revoke(&target, &reason, issued_only, now)),
        Command::Unrevoke { target } => revocation(ca.unrevoke(&target, now)),
        Command::Revoked => Reply::Revoked {
            revocations: ca.revoked(now),
        },
        Command::Rotate { successor } => rotation(ca.rotate(successor.map(|new| *new), "begun by an admin", now)),
        Command::RotateJwtKey { lead_seconds, drop_old } => {
            match ca.rotate_jwt_key(std::time::Duration::from_secs(lead_seconds), drop_old, now) {
                Ok(kid) => Reply::JwtKey { kid },
                Err(error) => rotation(Err(error.into())),
            }
        }
        Command::Abort => rotation(ca.abort(now)),
        Command::Force { sequence } => rotation(ca.force(sequence, now)),
        Command::Progress => rotation(Ok(ca.progress(now))),
        Command::Csr => match ca.request_intermediate(now) {
            Ok(pem) => Reply::Csr { pem },
            Err(error) => rotation(Err(error.into())),
        },
        Command::Import { pem } => match ca.import_intermediate(&pem, now) {
            Err(ImportError::Supplied(error)) => Reply::Refused {
                mistaken: true,
                why: error.to_string(),
            },
            Err(ImportError::Rotate(error)) => rotation(Err(error)),
            Err(ImportError::Ca(error)) => rotation(Err(error.into())),
            Ok(progress) => rotation(Ok(progress)),
        },
    }
}

fn revocation(done: Result<RevocationView, RevokeError>) -> Reply {
    match done {
        Ok(revocation) => Reply::Revocation { revocation },
        Err(error) => Reply::Refused {
            mistaken: !matches!(error, RevokeError::Ca(CaError::Store(_) | CaError::Log(_))),
            why: error.to_string(),
        },
    }
}

fn rotation(done: Result<Progress, RotateError>) -> Reply {
    match done {
        Ok(progress) => Reply::Progress {
            progress: Box::new(progress),
        },
        Err(error) => Reply::Refused {
            mistaken: !matches!(error, RotateError::Ca(_)),
            why: error.to_string(),
        },
    }
}
