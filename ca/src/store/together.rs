//! A store that several replicas share, in memory: as the cluster's, with one leader, one log, and whoever is second told so. A
//! replica can be cut off from it. For tests.

use std::{
    collections::BTreeMap,
    io::{Cursor, Read},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::SystemTime,
};

use super::{Store, StoreError, TokenStatus};
use crate::{digest::Sha256, log::Head, state::State, token::TokenRecord};

/// What all replicas see.
#[derive(Debug, Default)]
struct Common {
    state: Option<State>,
    version: u64,
    log: Vec<u8>,
    head: Option<Head>,
    words: BTreeMap<String, Vec<u8>>,
}

/// A replica's way to it.
#[derive(Debug)]
pub(crate) struct Together {
    common: Arc<Mutex<Common>>,
    name: String,
    leads: AtomicBool,
    cut_off: AtomicBool,
    version: Mutex<u64>,
}

impl Together {
    /// Replicas of these names; the first one leads.
    pub(crate) fn replicas(names: &[&str]) -> Vec<Arc<Self>> {
        let common: Arc<Mutex<Common>> = Arc::default();
        let replica = |(number, name): (usize, &&str)| Self {
            common: Arc::clone(&common),
            name: (*name).to_owned(),
            leads: AtomicBool::new(number == 0),
            cut_off: AtomicBool::new(false),
            version: Mutex::new(0),
        };
        names.iter().enumerate().map(replica).map(Arc::new).collect()
    }

    /// Whether it leads from now on.
    pub(crate) fn lead(&self, leads: bool) {
        self.leads.store(leads, SeqCst);
    }

    /// Whether nothing comes through to the store any more.
    pub(crate) fn cut_off(&self, cut: bool) {
        self.cut_off.store(cut, SeqCst);
    }

    fn common(&self) -> Result<MutexGuard<'_, Common>, StoreError> {
        if self.cut_off.load(SeqCst) {
            let (path, action) = (self.place(), "reach the store");
            return Err(StoreError::Silent { path, action });
        }
        Ok(self.common.lock().unwrap())
    }
}

impl Store for Together {
    fn place(&self) -> PathBuf {
        "together".into()
    }

    fn leads(&self) -> bool {
        self.leads.load(SeqCst)
    }

    fn replica(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn testify(&self, testimony: &[u8]) -> Result<(), StoreError> {
        self.common()?.words.insert(self.name.clone(), testimony.to_vec());
        Ok(())
    }

    fn testimonies(&self) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let mut words = self.common()?.words.clone();
        words.remove(&self.name);
        Ok(words.into_iter().collect())
    }

    fn clear_testimonies(&self) -> Result<(), StoreError> {
        self.common()?.words.clear();
        Ok(())
    }

    fn load(&self) -> Result<Option<State>, StoreError> {
        let common = self.common()?;
        *self.version.lock().unwrap() = common.version;
        Ok(common.state.clone())
    }

    fn save(&self, state: &State) -> Result<(), StoreError> {
        if !self.leads() {
            return Err(StoreError::Follower(self.place()));
        }
        let (mut common, mut version) = (self.common()?, self.version.lock().unwrap());
        if common.version != *version {
            return Err(StoreError::Changed { path: self.place() });
        }
        common.state = Some(state.clone());
        common.version += 1;
        *version = common.version;
        Ok(())
    }

    fn add_token(&self, _: &Sha256, _: &TokenRecord) -> Result<(), StoreError> {
        unreachable!("no test of replicas makes tokens")
    }

    fn token(&self, _: &Sha256) -> Result<TokenStatus, StoreError> {
        Ok(TokenStatus::Unknown)
    }

    fn use_token(&self, _: &Sha256) -> Result<bool, StoreError> {
        Ok(false)
    }

    fn sweep_tokens(&self, _: SystemTime) -> Result<usize, StoreError> {
        Ok(0)
    }

    fn log_head(&self) -> Result<Option<Head>, StoreError> {
        Ok(self.common()?.head)
    }

    fn read_log(&self, from: u64) -> Result<Box<dyn Read>, StoreError> {
        let rest = self.common()?.log[usize::try_from(from).unwrap()..].to_vec();
        Ok(Box::new(Cursor::new(rest)))
    }

    fn append_log(&self, lines: &[u8], head: &Head) -> Result<(), StoreError> {
        let mut common = self.common()?;
        let end = common.head.unwrap_or(Head::EMPTY);
        if end.bytes + lines.len() as u64 != head.bytes || end.count >= head.count {
            let (path, head) = (self.place(), Box::new(end));
            return Err(StoreError::Moved { path, head });
        }
        common.log.extend(lines);
        common.head = Some(*head);
        Ok(())
    }

    fn set_log_aside(&self, _: SystemTime) -> Result<String, StoreError> {
        unreachable!("no test of replicas sets the log aside")
    }

    fn cut_log(&self, head: &Head) -> Result<(), StoreError> {
        let mut common = self.common()?;
        if common.head.is_none() {
            common.head = Some(*head);
        }
        Ok(())
    }
}
