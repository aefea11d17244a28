//! A directory's state and log as they are kept, byte for byte: for backups.

use std::{
    fs::OpenOptions,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt as _,
};

use zeroize::Zeroizing;

use super::{DirStore, LOG, STATE, seal};
use crate::{
    log::Head,
    state::State,
    store::{StoreError, disk::Disk, run},
};

impl<D: Disk> DirStore<D> {
    /// A state as it is kept.
    ///
    /// # Errors
    /// When it is not one, or cannot be opened.
    pub(crate) fn parse(&self, bytes: &[u8]) -> Result<State, StoreError> {
        let path = self.dir.join(STATE);
        let opened;
        let plain = match &self.seal {
            _ if !seal::is_sealed(bytes) => bytes,
            Some(seal) => {
                opened = seal.open(bytes).map_err(|error| StoreError::Sealed {
                    path: path.clone(),
                    error,
                })?;
                &opened
            }
            None => return Err(StoreError::NoKey(path)),
        };
        State::parse(plain).map_err(|error| StoreError::Damaged {
            path,
            reason: error.to_string(),
        })
    }
}

impl DirStore {
    /// The state as it is kept, encrypted or not.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub(crate) fn raw_state(&self) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let bytes = self.read(&self.dir.join(STATE))?.map(Zeroizing::new);
        bytes.ok_or_else(|| StoreError::NotInitialised(self.dir.clone()))
    }

    /// Puts a state in place as it was kept.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub(crate) fn put_raw_state(&self, bytes: &[u8]) -> Result<(), StoreError> {
        self.exclusive()?;
        self.replace(&self.dir.join(STATE), bytes)
    }

    /// Puts a whole log in place, and its head after it.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub(crate) fn put_log(&self, log: &mut impl Read, head: &Head) -> Result<(), StoreError> {
        self.exclusive()?;
        let path = self.dir.join(LOG);
        let mut copy = || -> io::Result<()> {
            let mut options = OpenOptions::new();
            let mut file = options
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&path)?;
            io::copy(log, &mut file)?;
            file.sync_all()
        };
        run(&path, "write", copy())?;
        self.sync_parent(&path)?;
        self.write_head(head)
    }
}
