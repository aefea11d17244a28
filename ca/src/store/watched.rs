//! A store whose failures somebody hears of, for metrics and alarms. It changes nothing else.

use std::{io::Read, path::PathBuf, sync::Arc, time::SystemTime};

use super::{LogPart, Store, StoreError, TokenStatus};
use crate::{digest::Sha256, log::Head, state::State, token::TokenRecord};

/// Hears of each failed operation, by a name from a closed set: [`OPERATIONS`].
pub type Alarm = Arc<dyn Fn(&'static str) + Send + Sync>;

/// The operations of a store.
pub const OPERATIONS: [&str; 9] = [
    "load",
    "save",
    "tokens",
    "evidence",
    "log_read",
    "log_append",
    "log_cut",
    "log_set_aside",
    "log_prune",
];

/// A store and who hears of its failures.
pub struct Watched {
    inner: Arc<dyn Store>,
    alarm: Alarm,
}

impl Watched {
    /// Tells `alarm` whenever `inner` fails.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, alarm: Alarm) -> Self {
        Self { inner, alarm }
    }

    fn heard<T>(&self, operation: &'static str, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if result.is_err() {
            (self.alarm)(operation);
        }
        result
    }
}

impl Store for Watched {
    fn place(&self) -> PathBuf {
        self.inner.place()
    }

    fn leads(&self) -> bool {
        self.inner.leads()
    }

    fn replica(&self) -> Option<&str> {
        self.inner.replica()
    }

    fn testify(&self, testimony: &[u8]) -> Result<(), StoreError> {
        self.heard("evidence", self.inner.testify(testimony))
    }

    fn testimonies(&self) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.heard("evidence", self.inner.testimonies())
    }

    fn clear_testimonies(&self) -> Result<(), StoreError> {
        self.heard("evidence", self.inner.clear_testimonies())
    }

    fn load(&self) -> Result<Option<State>, StoreError> {
        self.heard("load", self.inner.load())
    }

    fn save(&self, state: &State) -> Result<(), StoreError> {
        self.heard("save", self.inner.save(state))
    }

    fn add_token(&self, digest: &Sha256, record: &TokenRecord) -> Result<(), StoreError> {
        self.heard("tokens", self.inner.add_token(digest, record))
    }

    fn token(&self, digest: &Sha256) -> Result<TokenStatus, StoreError> {
        self.heard("tokens", self.inner.token(digest))
    }

    fn use_token(&self, digest: &Sha256) -> Result<bool, StoreError> {
        self.heard("tokens", self.inner.use_token(digest))
    }

    fn sweep_tokens(&self, limit: SystemTime) -> Result<usize, StoreError> {
        self.heard("tokens", self.inner.sweep_tokens(limit))
    }

    fn log_head(&self) -> Result<Option<Head>, StoreError> {
        self.heard("log_read", self.inner.log_head())
    }

    fn log_base(&self) -> Result<Head, StoreError> {
        self.heard("log_read", self.inner.log_base())
    }

    fn oldest_log_part(&self) -> Result<Option<LogPart>, StoreError> {
        self.heard("log_read", self.inner.oldest_log_part())
    }

    fn drop_log_part(&self, part: &LogPart) -> Result<(), StoreError> {
        self.heard("log_prune", self.inner.drop_log_part(part))
    }

    fn read_log(&self, from: u64) -> Result<Box<dyn Read>, StoreError> {
        self.heard("log_read", self.inner.read_log(from))
    }

    fn append_log(&self, lines: &[u8], head: &Head) -> Result<(), StoreError> {
        self.heard("log_append", self.inner.append_log(lines, head))
    }

    fn set_log_aside(&self, now: SystemTime) -> Result<String, StoreError> {
        self.heard("log_set_aside", self.inner.set_log_aside(now))
    }

    fn cut_log(&self, head: &Head) -> Result<(), StoreError> {
        self.heard("log_cut", self.inner.cut_log(head))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::store::DirStore;

    #[test]
    fn each_failure_is_heard_by_its_operation_and_a_success_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca");
        drop(DirStore::create(&path).unwrap());
        let heard: Arc<Mutex<Vec<&'static str>>> = Arc::default();
        let listener = Arc::clone(&heard);
        // Opened for reading only: whatever writes fails.
        let inner: Arc<dyn Store> = Arc::new(DirStore::shared(&path).unwrap());
        let store = Watched::new(
            inner,
            Arc::new(move |operation| listener.lock().unwrap().push(operation)),
        );
        assert!(store.load().unwrap().is_none());
        assert!(heard.lock().unwrap().is_empty());
        let domain = "cluster.local".parse().unwrap();
        let state = crate::hierarchy::Hierarchy::found(&domain, SystemTime::now()).unwrap();
        assert!(store.save(&state).is_err());
        assert!(store.set_log_aside(SystemTime::now()).is_err());
        assert_eq!(*heard.lock().unwrap(), ["save", "log_set_aside"]);
        assert!(
            heard
                .lock()
                .unwrap()
                .iter()
                .all(|operation| OPERATIONS.contains(operation))
        );
    }
}
