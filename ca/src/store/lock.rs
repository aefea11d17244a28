//! The lock on a CA directory: an advisory lock that the kernel drops with the process, and a note inside that says who
//! holds it and where it can be reached. It guards against mistakes, not against malice.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::StoreError;

const FILE: &str = "lock";

/// Who holds the lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Process ID.
    pub pid: u32,
    /// Where its CA service listens, once it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
}

/// The held lock; dropped with it.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock or says who has it.
    pub(super) fn take(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        let failed = |source| StoreError::Io {
            path: path.clone(),
            action: "open the lock",
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let owner = read_note(&file).map_or_else(|| "(unknown)".to_owned(), |owner| owner.pid.to_string());
                return Err(StoreError::Locked {
                    path: dir.to_owned(),
                    owner,
                });
            }
            Err(error) => return Err(failed(error.into())),
        }
        let lock = Self {
            file,
            path: path.clone(),
        };
        lock.note(None)?;
        Ok(lock)
    }

    /// Writes who we are and where we listen.
    pub(super) fn note(&self, address: Option<SocketAddr>) -> Result<(), StoreError> {
        let owner = Owner {
            pid: std::process::id(),
            address,
        };
        let write = || -> io::Result<()> {
            let text = serde_json::to_vec(&owner)?;
            let mut file = &self.file;
            file.rewind()?;
            file.set_len(0)?;
            file.write_all(&text)
        };
        write().map_err(|source| StoreError::Io {
            path: self.path.clone(),
            action: "write the lock",
            source,
        })
    }
}

/// Who holds the lock of a directory now; `None` when nobody does.
pub(super) fn owner(dir: &Path) -> Option<Owner> {
    let file = File::open(dir.join(FILE)).ok()?;
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => None,
        Err(_) => read_note(&file),
    }
}

fn read_note(mut file: &File) -> Option<Owner> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}
