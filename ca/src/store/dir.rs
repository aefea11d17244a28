//! The store in a directory: `state.json` (the state, keys included), `tokens/` (one file per join token, named by its
//! hash), `log.jsonl` and `log.head` (the issuance log), `lock`. Directory 0700, files 0600. Every file but the log is
//! replaced as a whole: write aside, fsync, rename, fsync the directory. It never leaves a file half-written under its name.

mod raw;

use std::{
    io::{self, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use super::{
    Owner, Store, StoreError, TokenStatus,
    disk::{Disk, RealDisk},
    lock::{self, Lock},
    permissions::{check_permissions, make_private},
    run,
};
use crate::{
    digest::Sha256,
    log::Head,
    seal::{self, Seal},
    state::{State, StateError},
    token::TokenRecord,
};

const STATE: &str = "state.json";
const LOG: &str = "log.jsonl";
const HEAD: &str = "log.head";
const TOKENS: &str = "tokens";
/// Written aside under this ending, then renamed.
const ASIDE: &str = ".new";
const FRESH: &str = ".json";
const USED: &str = ".used";

/// A CA's directory.
#[derive(Debug)]
pub struct DirStore<D: Disk = RealDisk> {
    dir: PathBuf,
    disk: D,
    lock: Access,
    seal: Option<Arc<Seal>>,
}

#[derive(Debug)]
enum Access {
    Locked(Lock),
    /// No lock: reads, and tokens may be added.
    Shared,
    #[cfg(test)]
    Test,
}

impl DirStore {
    /// Makes the directory if need be, locks it, and checks its permissions.
    ///
    /// # Errors
    /// When it cannot be made or locked, or other users may look into it.
    pub fn create(dir: &Path) -> Result<Self, StoreError> {
        make_private(dir)?;
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            let sync = RealDisk.sync_dir(parent);
            sync.map_err(|source| StoreError::Io {
                path: parent.to_owned(),
                action: "sync",
                source,
            })?;
        }
        Self::open(dir)
    }

    /// Locks an existing directory and checks its permissions; leftovers of an interrupted write are cleared away.
    ///
    /// # Errors
    /// When it is missing or locked by another process, or other users may look into it.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        check_permissions(dir)?;
        let lock = Access::Locked(Lock::take(dir)?);
        make_private(&dir.join(TOKENS))?;
        let store = Self {
            dir: dir.to_owned(),
            disk: RealDisk,
            lock,
            seal: None,
        };
        store.clear_leftovers()?;
        Ok(store)
    }

    /// Opens a directory that another process may be running: for reading, and for adding tokens.
    ///
    /// # Errors
    /// When it is missing or other users may look into it.
    pub fn shared(dir: &Path) -> Result<Self, StoreError> {
        check_permissions(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            disk: RealDisk,
            lock: Access::Shared,
            seal: None,
        })
    }

    /// Tells other processes where our CA service listens.
    ///
    /// # Errors
    /// When the note cannot be written.
    pub fn advertise(&self, address: SocketAddr) -> Result<(), StoreError> {
        match &self.lock {
            Access::Locked(lock) => lock.note(Some(address)),
            _ => Err(StoreError::ReadOnly(self.dir.clone())),
        }
    }

    /// Who runs the CA of a directory; `None` when nobody does.
    #[must_use]
    pub fn owner(dir: &Path) -> Option<Owner> {
        lock::owner(dir)
    }
}

impl<D: Disk> DirStore<D> {
    /// Encrypts the state from now on, and opens one that is encrypted.
    #[must_use]
    pub fn sealed_by(mut self, seal: Option<Arc<Seal>>) -> Self {
        self.seal = seal;
        self
    }

    /// Encrypts a state that was kept in plain text until now. Says whether it was.
    ///
    /// # Errors
    /// When it cannot be read, sealed or made durable.
    pub fn seal_if_plain(&self) -> Result<bool, StoreError> {
        let bytes = self.read(&self.dir.join(STATE))?.map(zeroize::Zeroizing::new);
        match (bytes, &self.seal) {
            (Some(bytes), Some(_)) if !seal::is_sealed(&bytes) => match self.load()? {
                Some(state) => self.save(&state).map(|()| true),
                None => Ok(false),
            },
            _ => Ok(false),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }

    #[cfg(test)]
    pub(crate) fn on(disk: D) -> Result<Self, StoreError> {
        let store = Self {
            dir: PathBuf::from("/ca"),
            disk,
            lock: Access::Test,
            seal: None,
        };
        store.clear_leftovers()?;
        Ok(store)
    }

    fn exclusive(&self) -> Result<(), StoreError> {
        match self.lock {
            Access::Shared => Err(StoreError::ReadOnly(self.dir.clone())),
            _ => Ok(()),
        }
    }

    /// Replaces a file as a whole, durably.
    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let aside = aside(path);
        run(&aside, "create", self.disk.create(&aside))?;
        run(&aside, "write", self.disk.append(&aside, bytes))?;
        run(&aside, "sync", self.disk.sync(&aside))?;
        run(path, "rename the new file into place", self.disk.rename(&aside, path))?;
        self.sync_parent(path)
    }

    fn sync_parent(&self, path: &Path) -> Result<(), StoreError> {
        let parent = path.parent().unwrap_or(&self.dir);
        run(parent, "sync the directory", self.disk.sync_dir(parent))
    }

    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
        match self.disk.read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::Io {
                path: path.to_owned(),
                action: "read",
                source,
            }),
        }
    }

    fn write_head(&self, head: &Head) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(head).map_err(|error| StateError::Json(error.to_string()))?;
        self.replace(&self.dir.join(HEAD), &bytes)
    }

    /// Removes what an interrupted write left aside.
    fn clear_leftovers(&self) -> Result<(), StoreError> {
        for dir in [self.dir.clone(), self.dir.join(TOKENS)] {
            for name in run(&dir, "list", self.disk.list(&dir))? {
                if name.ends_with(ASIDE) {
                    let path = dir.join(name);
                    run(&path, "remove", self.disk.remove(&path))?;
                }
            }
        }
        Ok(())
    }

    fn token_path(&self, digest: &Sha256, ending: &str) -> PathBuf {
        self.dir.join(TOKENS).join(format!("{digest}{ending}"))
    }

    fn read_token(&self, path: &Path) -> Result<Option<TokenRecord>, StoreError> {
        let Some(bytes) = self.read(path)? else { return Ok(None) };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| StoreError::Damaged {
                path: path.to_owned(),
                reason: error.to_string(),
            })
    }
}

impl<D: Disk> Store for DirStore<D> {
    fn place(&self) -> PathBuf {
        self.dir.clone()
    }

    fn load(&self) -> Result<Option<State>, StoreError> {
        let bytes = self.read(&self.dir.join(STATE))?.map(zeroize::Zeroizing::new);
        bytes.map(|bytes| self.parse(&bytes)).transpose()
    }

    fn save(&self, state: &State) -> Result<(), StoreError> {
        self.exclusive()?;
        let path = self.dir.join(STATE);
        let bytes = state.to_bytes()?;
        match &self.seal {
            None => self.replace(&path, &bytes),
            Some(seal) => {
                let sealed = seal.seal(&bytes).map_err(|error| StoreError::Sealed {
                    path: path.clone(),
                    error,
                })?;
                self.replace(&path, &sealed)
            }
        }
    }

    fn add_token(&self, digest: &Sha256, record: &TokenRecord) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(record).map_err(|error| StateError::Json(error.to_string()))?;
        self.replace(&self.token_path(digest, FRESH), &bytes)
    }

    fn token(&self, digest: &Sha256) -> Result<TokenStatus, StoreError> {
        if let Some(record) = self.read_token(&self.token_path(digest, FRESH))? {
            return Ok(TokenStatus::Fresh(record));
        }
        let used = self.read(&self.token_path(digest, USED))?;
        Ok(used.map_or(TokenStatus::Unknown, |_| TokenStatus::Used))
    }

    fn use_token(&self, digest: &Sha256) -> Result<bool, StoreError> {
        self.exclusive()?;
        let (fresh, used) = (self.token_path(digest, FRESH), self.token_path(digest, USED));
        match self.disk.rename(&fresh, &used) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(source) => {
                return Err(StoreError::Io {
                    path: fresh,
                    action: "use the token",
                    source,
                });
            }
        }
        self.sync_parent(&used)?;
        Ok(true)
    }

    fn sweep_tokens(&self, limit: SystemTime) -> Result<usize, StoreError> {
        self.exclusive()?;
        let dir = self.dir.join(TOKENS);
        let mut removed = 0;
        for name in run(&dir, "list", self.disk.list(&dir))? {
            let path = dir.join(name);
            // What cannot be read is not swept: somebody should look at it.
            if let Ok(Some(record)) = self.read_token(&path)
                && record.expires() < limit
            {
                run(&path, "remove", self.disk.remove(&path))?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn log_head(&self) -> Result<Option<Head>, StoreError> {
        let path = self.dir.join(HEAD);
        let Some(bytes) = self.read(&path)? else {
            return Ok(None);
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| StoreError::Damaged {
                path,
                reason: error.to_string(),
            })
    }

    fn read_log(&self, from: u64) -> Result<Box<dyn Read>, StoreError> {
        let path = self.dir.join(LOG);
        match self.disk.open(&path, from) {
            Ok(reader) => Ok(reader),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Box::new(io::empty())),
            Err(source) => Err(StoreError::Io {
                path,
                action: "read",
                source,
            }),
        }
    }

    fn append_log(&self, lines: &[u8], head: &Head) -> Result<(), StoreError> {
        self.exclusive()?;
        let path = self.dir.join(LOG);
        run(&path, "append", self.disk.append(&path, lines))?;
        run(&path, "sync", self.disk.sync(&path))?;
        self.write_head(head)
    }

    fn set_log_aside(&self, now: SystemTime) -> Result<String, StoreError> {
        self.exclusive()?;
        let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let taken = run(&self.dir, "list", self.disk.list(&self.dir))?;
        let mut name = format!("log.damaged-{seconds}.jsonl");
        for number in 2.. {
            if !taken.contains(&name) {
                break;
            }
            name = format!("log.damaged-{seconds}-{number}.jsonl");
        }
        // The head goes first: without one, an interrupted attempt is repeated, and the log itself is never lost.
        let head = self.dir.join(HEAD);
        match self.disk.remove(&head) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return run(&head, "remove", Err(error)),
            _ => self.sync_parent(&head)?,
        }
        let (log, aside) = (self.dir.join(LOG), self.dir.join(&name));
        match self.disk.rename(&log, &aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => run(&log, "set aside", Err(error))?,
            _ => self.sync_parent(&log)?,
        }
        Ok(name)
    }

    fn cut_log(&self, head: &Head) -> Result<(), StoreError> {
        self.exclusive()?;
        self.write_head(head)?;
        let path = self.dir.join(LOG);
        if self.read(&path)?.is_none() {
            run(&path, "create", self.disk.create(&path))?;
            return self.sync_parent(&path);
        }
        run(&path, "truncate", self.disk.truncate(&path, head.bytes))?;
        run(&path, "sync", self.disk.sync(&path))
    }
}

fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ASIDE);
    name.into()
}

#[cfg(test)]
mod tests;
