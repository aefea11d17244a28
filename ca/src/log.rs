//! The issuance log: one JSON line per certificate that was signed, each with the hash of the line before it, and a head kept
//! apart that says how many lines there are and what the last one hashes to. Change, removal, reordering and truncation are
//! found by [`verify`]. Pure: reading and writing are the store's.

mod chain;
mod entry;
mod prune;
mod writer;

pub use chain::{LogFault, Verified, verify, verify_end, verify_from, verify_store};
pub use entry::{Entry, Event, rfc3339};
pub(crate) use prune::prune;
pub(crate) use writer::begin;
pub use writer::{Log, LogError, restart};

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::digest::Sha256;

/// The state of the log after an append; kept in a file of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// How many entries there are.
    pub count: u64,
    /// How many bytes they take.
    pub bytes: u64,
    /// How many of them are the last line's, newline included.
    pub last: u64,
    /// SHA-256 of the last line, without its newline.
    pub hash: Sha256,
}

impl Head {
    /// Of a log without entries.
    pub const EMPTY: Self = Self {
        count: 0,
        bytes: 0,
        last: 0,
        hash: Sha256::ZERO,
    };

    /// Where the last line starts.
    #[must_use]
    pub fn start_of_last(&self) -> u64 {
        self.bytes.saturating_sub(self.last)
    }

    /// Makes the line for the next entry, newline included, and the head after it.
    ///
    /// # Errors
    /// When the entry cannot be written as JSON.
    pub fn extend(&self, event: Event, now: SystemTime) -> Result<(Vec<u8>, Self), serde_json::Error> {
        let entry = Entry {
            seq: self.count + 1,
            prev: self.hash,
            time: rfc3339(now),
            event,
        };
        let mut line = serde_json::to_vec(&entry)?;
        let hash = Sha256::of(&line);
        line.push(b'\n');
        let last = line.len() as u64;
        Ok((
            line,
            Self {
                count: entry.seq,
                bytes: self.bytes + last,
                last,
                hash,
            },
        ))
    }
}

#[cfg(test)]
mod tests;
