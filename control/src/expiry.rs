//! What of the CA's ends, and when: a noun between who signs and who makes forecasts, which do not know each other.

use std::{sync::Arc, time::SystemTime};

use serde::Serialize;

/// Something of the CA's that ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Expiry {
    /// `root`, `intermediate`, `jwt_key` or `control_svid`.
    pub what: &'static str,
    /// Which: a digest, a key ID or a serial number; empty where there is only one.
    pub name: String,
    /// Seconds since the epoch.
    pub not_after: u64,
}

/// Tells what of the CA's ends when.
pub type Expiries = Arc<dyn Fn() -> Vec<Expiry> + Send + Sync>;

impl Expiry {
    /// It ends then.
    #[must_use]
    pub fn new(what: &'static str, name: String, end: SystemTime) -> Self {
        let since = end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            what,
            name,
            not_after: since.as_secs(),
        }
    }
}
