//! The issuance log: one JSON line per certificate that was signed, each with the hash of the line before it, and a head kept
//! apart that says how many lines there are and what the last one hashes to. Change, removal, reordering and truncation are
//! found by [`verify`]. Pure: reading and writing are the store's.

mod writer;

pub(crate) use writer::begin;
pub use writer::{Log, LogError};

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::digest::Sha256;

/// The state of the log after an append; kept in a file of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// How many entries there are.
    pub count: u64,
    /// How many bytes they take.
    pub bytes: u64,
    /// SHA-256 of the last line, without its newline.
    pub hash: Sha256,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Position, from 1.
    pub seq: u64,
    /// SHA-256 of the line before.
    pub prev: Sha256,
    /// When it was signed, RFC 3339.
    pub time: String,
    /// What was signed.
    pub event: Event,
}

/// What the CA did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Event {
    /// A root came into use.
    Root {
        /// Key identifier.
        key_id: String,
        /// SHA-256 of the certificate.
        sha256: Sha256,
        /// RFC 3339.
        not_after: String,
    },
    /// An intermediate was signed.
    Intermediate {
        /// Key identifier.
        key_id: String,
        /// Key identifier of the root.
        issuer: String,
        /// SHA-256 of the certificate.
        sha256: Sha256,
        /// RFC 3339.
        not_after: String,
    },
    /// A leaf was signed.
    Issued {
        /// The SPIFFE ID.
        id: String,
        /// Hexadecimal.
        serial: String,
        /// RFC 3339.
        not_before: String,
        /// RFC 3339.
        not_after: String,
        /// SHA-256 of the SubjectPublicKeyInfo.
        key_sha256: Sha256,
        /// Key identifier of the intermediate.
        issuer: String,
        /// Which attestor vouched.
        attestor: String,
        /// For whom, in the attestor's own terms.
        subject: String,
    },
}

/// A log that holds together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The head after every whole line.
    pub head: Head,
    /// Whole lines beyond the recorded head: written, but no answer had been given for them.
    pub unacknowledged: u64,
    /// Bytes of a torn line at the end; it too had not been answered.
    pub torn: u64,
}

/// How a log was damaged or tampered with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogFault {
    /// Lines are missing at the end.
    #[error("entries are missing at the end: there should be {expected}, there are {found}: the log was truncated")]
    Truncated {
        /// According to the head.
        expected: u64,
        /// Whole lines in the log.
        found: u64,
    },
    /// There are entries, but nothing says how many there should be.
    #[error("its head is missing, so nobody can say whether entries are: it was removed")]
    NoHead,
    /// A line is not an entry.
    #[error("line {line} is not an entry: {reason}: it was changed")]
    NotAnEntry {
        /// From 1.
        line: u64,
        /// What the parser said.
        reason: String,
    },
    /// A line is not where it belongs.
    #[error("line {line} holds entry {seq}: entries were removed, inserted or reordered")]
    Order {
        /// From 1.
        line: u64,
        /// What it says it is.
        seq: u64,
    },
    /// A line does not continue the one before.
    #[error("entry {line} does not continue entry {}: one of the two was changed", line - 1)]
    Chain {
        /// From 1.
        line: u64,
    },
    /// The last acknowledged line is not what the head says.
    #[error("entry {line} is not the one the head was made for: it was changed or replaced")]
    Head {
        /// From 1.
        line: u64,
    },
}

impl Head {
    /// Of a log without entries.
    pub const EMPTY: Self = Self {
        count: 0,
        bytes: 0,
        hash: Sha256::ZERO,
    };

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
        Ok((
            line.clone(),
            Self {
                count: entry.seq,
                bytes: self.bytes + line.len() as u64,
                hash,
            },
        ))
    }
}

/// Checks a whole log against its head and hands every entry to `each`.
///
/// # Errors
/// The first fault, with the line it was found at.
pub fn verify(log: &[u8], head: Option<&Head>, mut each: impl FnMut(Entry)) -> Result<Verified, LogFault> {
    let whole = log.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let recorded = head.copied().unwrap_or(Head::EMPTY);
    if head.is_none() && whole > 0 {
        return Err(LogFault::NoHead);
    }
    let mut at = Head::EMPTY;
    for line in log[..whole].split_inclusive(|byte| *byte == b'\n') {
        at = next(&at, line, &mut each)?;
        if at.count == recorded.count && at != recorded {
            return Err(LogFault::Head { line: at.count });
        }
    }
    if at.count < recorded.count {
        return Err(LogFault::Truncated {
            expected: recorded.count,
            found: at.count,
        });
    }
    Ok(Verified {
        head: at,
        unacknowledged: at.count - recorded.count,
        torn: (log.len() - whole) as u64,
    })
}

fn next(at: &Head, line: &[u8], each: &mut impl FnMut(Entry)) -> Result<Head, LogFault> {
    let number = at.count + 1;
    let text = line.strip_suffix(b"\n").unwrap_or(line);
    let entry: Entry = serde_json::from_slice(text).map_err(|error| LogFault::NotAnEntry {
        line: number,
        reason: error.to_string(),
    })?;
    if entry.seq != number {
        return Err(LogFault::Order {
            line: number,
            seq: entry.seq,
        });
    }
    if entry.prev != at.hash {
        return Err(LogFault::Chain { line: number });
    }
    each(entry);
    Ok(Head {
        count: number,
        bytes: at.bytes + line.len() as u64,
        hash: Sha256::of(text),
    })
}

/// A moment as RFC 3339 text, whole seconds, UTC.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let stamp = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    stamp
        .and_then(|stamp| stamp.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{seconds}s"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn event(n: u64) -> Event {
        Event::Issued {
            id: format!("spiffe://cluster.local/ns/shop/sa/w{n}"),
            serial: format!("{n:x}"),
            not_before: rfc3339(SystemTime::UNIX_EPOCH),
            not_after: rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(3600)),
            key_sha256: Sha256::of(&n.to_be_bytes()),
            issuer: "aa".into(),
            attestor: "join-token".into(),
            subject: "token".into(),
        }
    }

    fn log(count: u64) -> (Vec<Vec<u8>>, Head) {
        let mut head = Head::EMPTY;
        let mut lines = Vec::new();
        for n in 0..count {
            let (line, next) = head.extend(event(n), SystemTime::UNIX_EPOCH).unwrap();
            lines.push(line);
            head = next;
        }
        (lines, head)
    }

    fn fault(lines: &[Vec<u8>], head: &Head) -> LogFault {
        verify(&lines.concat(), Some(head), |_| {}).unwrap_err()
    }

    #[test]
    fn a_whole_log_verifies_and_gives_its_entries() {
        let (lines, head) = log(5);
        let mut seen = Vec::new();
        let verified = verify(&lines.concat(), Some(&head), |entry| seen.push(entry.seq)).unwrap();
        assert_eq!(
            verified,
            Verified {
                head,
                unacknowledged: 0,
                torn: 0
            }
        );
        assert_eq!(seen, [1, 2, 3, 4, 5]);
        assert_eq!(verify(b"", None, |_| {}).unwrap().head, Head::EMPTY);
    }

    #[test]
    fn truncation_removal_and_reordering_are_found() {
        let (lines, head) = log(5);
        assert_eq!(fault(&lines[..4], &head), LogFault::Truncated { expected: 5, found: 4 });
        assert_eq!(fault(&[], &head), LogFault::Truncated { expected: 5, found: 0 });
        assert_eq!(fault(&lines[1..], &head), LogFault::Order { line: 1, seq: 2 });
        let mut swapped = lines.clone();
        swapped.swap(1, 2);
        assert_eq!(fault(&swapped, &head), LogFault::Order { line: 2, seq: 3 });
        assert_eq!(verify(&lines.concat(), None, |_| {}), Err(LogFault::NoHead));
    }

    #[test]
    fn a_changed_or_replaced_entry_is_found_even_the_last_one() {
        let (mut lines, head) = log(3);
        let (_, two) = log(2);
        let (last, _) = two.extend(event(99), SystemTime::UNIX_EPOCH).unwrap();
        lines[2] = last;
        assert_eq!(fault(&lines, &head), LogFault::Head { line: 3 });
        let (mut lines, head) = log(3);
        lines[0] = String::from_utf8(lines[0].clone())
            .unwrap()
            .replace("w0", "w9")
            .into_bytes();
        assert_eq!(fault(&lines, &head), LogFault::Chain { line: 2 });
    }

    #[test]
    fn lines_beyond_the_head_and_a_torn_one_are_told_apart_from_tampering() {
        let (lines, _) = log(3);
        let (_, head) = log(2);
        let mut bytes = lines.concat();
        bytes.extend_from_slice(&lines[0][..10]);
        let verified = verify(&bytes, Some(&head), |_| {}).unwrap();
        assert_eq!(
            (verified.unacknowledged, verified.torn, verified.head.count),
            (1, 10, 3)
        );
    }

    proptest! {
        #[test]
        fn no_single_change_of_a_byte_goes_unnoticed(position in 0usize..1500, bit in 0u8..8) {
            let (lines, head) = log(4);
            let mut bytes = lines.concat();
            let position = position % bytes.len();
            bytes[position] ^= 1 << bit;
            let found = verify(&bytes, Some(&head), |_| {});
            prop_assert!(found.is_err());
        }
    }
}
