//! Where a CA keeps what it must remember, behind one trait: the state document, the join tokens, the issuance log. A store
//! knows durability and exclusivity; it never interprets certificates and never signs.

mod cluster;
mod dir;
pub mod disk;
#[cfg(test)]
pub(crate) mod faults;
mod lock;
mod permissions;
#[cfg(test)]
pub(crate) mod together;
mod watched;

pub use cluster::{ClusterStore, STATE_SECRET};
pub use dir::DirStore;
pub use lock::Owner;
pub use watched::{Alarm, OPERATIONS, Watched};

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::{
    digest::Sha256,
    log::Head,
    seal::SealError,
    state::{State, StateError},
    token::TokenRecord,
};

/// A durable store. Every method that changes something returns only when the change survives a power cut; an error means
/// that the old or the new content will be found, never a mixture. Methods block: call them where blocking is allowed.
pub trait Store: Send + Sync + 'static {
    /// Where it is, for messages.
    fn place(&self) -> PathBuf;

    /// Whether the state may be changed here; where several processes share a store, by one of them.
    fn leads(&self) -> bool {
        true
    }

    /// The name of this process among several that issue from the same state and write into the same log; `None` where it
    /// is alone with its store.
    fn replica(&self) -> Option<&str> {
        None
    }

    /// Leaves word for the other replicas, in place of what this one has left before. Where there are none, nobody needs it.
    ///
    /// # Errors
    /// When it could not be written.
    fn testify(&self, _testimony: &[u8]) -> Result<(), StoreError> {
        Ok(())
    }

    /// The word of every other replica, by its name.
    ///
    /// # Errors
    /// When it cannot be read.
    fn testimonies(&self) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        Ok(Vec::new())
    }

    /// Takes away what other replicas have left.
    ///
    /// # Errors
    /// When it cannot be removed.
    fn clear_testimonies(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// The state; `None` before a CA was initialised here.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    fn load(&self) -> Result<Option<State>, StoreError>;

    /// Replaces the state.
    ///
    /// # Errors
    /// When it could not be made durable.
    fn save(&self, state: &State) -> Result<(), StoreError>;

    /// Keeps a new join token. Safe from any process.
    ///
    /// # Errors
    /// When it could not be made durable.
    fn add_token(&self, digest: &Sha256, record: &TokenRecord) -> Result<(), StoreError>;

    /// Looks a join token up without using it.
    ///
    /// # Errors
    /// When its record cannot be read or is damaged.
    fn token(&self, digest: &Sha256) -> Result<TokenStatus, StoreError>;

    /// Uses a join token up; `false` when it is no longer there to be used.
    ///
    /// # Errors
    /// When that could not be made durable; the token must then be taken for used.
    fn use_token(&self, digest: &Sha256) -> Result<bool, StoreError>;

    /// Forgets tokens that expired before `limit`.
    ///
    /// # Errors
    /// When the tokens cannot be listed or removed.
    fn sweep_tokens(&self, limit: SystemTime) -> Result<usize, StoreError>;

    /// The head of the issuance log; `None` before there was a log. To read beside a process that appends, ask for the head
    /// first: the log then only is longer than the head says.
    ///
    /// # Errors
    /// When it cannot be read.
    fn log_head(&self) -> Result<Option<Head>, StoreError>;

    /// The head before the first line that is still kept: [`Head::EMPTY`], unless the oldest part was let go.
    ///
    /// # Errors
    /// When it cannot be read.
    fn log_base(&self) -> Result<Head, StoreError> {
        Ok(Head::EMPTY)
    }

    /// The oldest part of a log that is kept in parts, unless it is the one that is appended to.
    ///
    /// # Errors
    /// When it cannot be read.
    fn oldest_log_part(&self) -> Result<Option<LogPart>, StoreError> {
        Ok(None)
    }

    /// Lets go of what [`Store::oldest_log_part`] has shown.
    ///
    /// # Errors
    /// When that could not be made durable, or it is not the oldest any more.
    fn drop_log_part(&self, _: &LogPart) -> Result<(), StoreError> {
        Ok(())
    }

    /// The issuance log from a byte on; empty where there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read_log(&self, from: u64) -> Result<Box<dyn Read>, StoreError>;

    /// Appends whole lines to the log, then moves the head.
    ///
    /// # Errors
    /// When that could not be made durable; call [`Store::cut_log`] before the next try.
    fn append_log(&self, lines: &[u8], head: &Head) -> Result<(), StoreError>;

    /// Takes the log out of use without destroying it, and says under which name it is kept. Safe to repeat.
    ///
    /// # Errors
    /// When that could not be made durable.
    fn set_log_aside(&self, now: SystemTime) -> Result<String, StoreError>;

    /// Sets the head, then cuts everything after it off the log.
    ///
    /// # Errors
    /// When that could not be made durable.
    fn cut_log(&self, head: &Head) -> Result<(), StoreError>;
}

/// A part of the issuance log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPart {
    /// Its name in the store.
    pub name: String,
    /// The head before its first line.
    pub base: Head,
    /// The head after its last line.
    pub end: Head,
    /// Its lines.
    pub lines: Vec<u8>,
}

/// What is known of a join token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenStatus {
    /// Never made here, or forgotten.
    Unknown,
    /// Not used yet.
    Fresh(TokenRecord),
    /// Used before.
    Used,
}

/// Why a store failed: where, what, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("{path}: cannot {action}: {source}{}", hint(source))]
    Io {
        /// Which file.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// There is no CA.
    #[error("{0}: there is no CA here: run `squire ca init --dir {0} --trust-domain NAME`")]
    NotInitialised(PathBuf),
    /// There is one already.
    #[error(
        "{path}: there is a CA for trust domain {domain} here already: use another directory, or remove this one if nothing needs it"
    )]
    AlreadyInitialised {
        /// Which directory.
        path: PathBuf,
        /// Whose CA is there.
        domain: String,
    },
    /// The directory belongs to another mesh.
    #[error(
        "{path}: this CA is for trust domain {found}, not {wanted}: name the right directory, or start with --trust-domain {found}"
    )]
    OtherTrustDomain {
        /// Which directory.
        path: PathBuf,
        /// Whose CA is there.
        found: String,
        /// Whose was wanted.
        wanted: String,
    },
    /// Another process uses it.
    #[error("{path}: in use by process {owner}: only one process may run a CA; stop that one first")]
    Locked {
        /// Which directory.
        path: PathBuf,
        /// Its process ID, if it left it.
        owner: String,
    },
    /// Opened without the lock.
    #[error("{0}: opened for reading only: another process runs this CA")]
    ReadOnly(PathBuf),
    /// The API server refused, or could not be reached.
    #[error("{path}: cannot {action}: {source}{}", api_hint(source))]
    Api {
        /// Which object.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// What it said.
        source: Box<kube::Error>,
    },
    /// The API server did not answer in time; what was asked may have been done.
    #[error("{path}: cannot {action}: the API server does not answer; see whether it is well")]
    Silent {
        /// Which object.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
    },
    /// Another replica changed it since it was read.
    #[error("{path}: another replica has changed it meanwhile: try again")]
    Changed {
        /// Which object.
        path: PathBuf,
    },
    /// Another replica leads.
    #[error("{0}: only the leader changes it, and another replica leads: ask that one")]
    Follower(PathBuf),
    /// Another replica has appended to the log: what is to be appended must follow after that.
    #[error("{path}: another replica has appended to the issuance log")]
    Moved {
        /// Which log.
        path: PathBuf,
        /// Its end now.
        head: Box<Head>,
    },
    /// Others can read the keys.
    #[error("{path}: mode {mode:04o} lets other users in, and private keys are inside: run `chmod {fix} {path}`")]
    Permissions {
        /// Which file or directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// The mode it should have.
        fix: &'static str,
    },
    /// A file's content is damaged.
    #[error("{path}: damaged: {reason}; restore it from a backup")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Encrypted, and not to be opened; or it cannot be encrypted.
    #[error("{path}: {error}")]
    Sealed {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: SealError,
    },
    /// Encrypted, and nothing was given to open it with.
    #[error(
        "{0}: encrypted: say what with, by SQUIRE_CA_PASSPHRASE_FILE (--ca-passphrase-file) or SQUIRE_CA_KEY_COMMAND (--ca-key-command)"
    )]
    NoKey(PathBuf),
    /// The state to be saved is not one.
    #[error("the new state is not valid and was not saved: {0}")]
    State(#[from] StateError),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; run as the user who owns it, or correct its permissions",
        io::ErrorKind::ReadOnlyFilesystem => "; the file system is mounted read-only: name a writable directory",
        io::ErrorKind::StorageFull => "; the disk is full: make room",
        io::ErrorKind::NotFound => "; check the path",
        _ => "",
    }
}

fn api_hint(error: &kube::Error) -> &'static str {
    match error {
        kube::Error::Api(status) if status.code == 403 => "; give the control plane's service account that right",
        kube::Error::Api(_) => "",
        _ => "; see whether the API server can be reached",
    }
}

fn run<T>(path: &Path, action: &'static str, result: io::Result<T>) -> Result<T, StoreError> {
    result.map_err(|source| StoreError::Io {
        path: path.to_owned(),
        action,
        source,
    })
}
