//! Checking the hash chain of a log against its head: whole, or only its end. It reads and never repairs.

use std::io::{BufRead, BufReader, Read as _};

use super::{Entry, Event, Head, LogError};
use crate::{digest::Sha256, store::Store};

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
    /// The log ends before the place where its last line should be.
    #[error("it should have {expected} bytes and has fewer: the log was truncated")]
    Short {
        /// According to the head.
        expected: u64,
    },
    /// It cannot be read to its end.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
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
    /// The log does not begin with its first entry, and says nothing of why.
    #[error(
        "it begins after entry {entries}, and nothing in it says that what was before was let go: entries were removed"
    )]
    Beginning {
        /// How many are not there.
        entries: u64,
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

/// Checks a whole log against its head and hands every entry to `each`. Takes one line into memory at a time.
///
/// # Errors
/// The first fault, with the line it was found at.
pub fn verify(log: impl BufRead, head: Option<&Head>, mut each: impl FnMut(Entry)) -> Result<Verified, LogFault> {
    after(&Head::EMPTY, log, head, &mut each)
}

/// Checks the log of a store, from its first entry, or from where its oldest part was let go: then an entry must say so, and
/// name what the first one left continues.
///
/// # Errors
/// When the store cannot be read; else as [`verify`].
pub fn verify_store(store: &dyn Store, mut each: impl FnMut(Entry)) -> Result<Verified, LogError> {
    let head = store.log_head()?;
    let base = store.log_base()?;
    let mut vouched = base == Head::EMPTY;
    let lines = BufReader::new(store.read_log(base.bytes)?);
    let verified = after(&base, lines, head.as_ref(), &mut |entry| {
        if let Event::Pruned { entries, hash, .. } = &entry.event {
            vouched |= *entries == base.count && *hash == base.hash;
        }
        each(entry);
    });
    let fault = match verified {
        Ok(verified) if vouched => return Ok(verified),
        Ok(_) => LogFault::Beginning { entries: base.count },
        Err(fault) => fault,
    };
    Err(LogError::Fault(fault))
}

/// From this head on.
fn after(
    base: &Head,
    log: impl BufRead,
    head: Option<&Head>,
    each: &mut impl FnMut(Entry),
) -> Result<Verified, LogFault> {
    let mut lines = Lines(log);
    let Some(recorded) = head else {
        return match lines.next()? {
            Line::Whole(_) => Err(LogFault::NoHead),
            Line::Torn(torn) => Ok(Verified {
                head: Head::EMPTY,
                unacknowledged: 0,
                torn,
            }),
        };
    };
    follow(*base, recorded, &mut lines, each)
}

/// Checks only the end of a log, in a time that does not grow with it: that it reaches as far as the head says, that its
/// last line is the one the head was made for, and whatever follows. `end` starts at [`Head::start_of_last`].
///
/// # Errors
/// As [`verify`]; what was changed further up is not seen.
pub fn verify_end(end: impl BufRead, recorded: &Head) -> Result<Verified, LogFault> {
    let mut lines = Lines(end);
    if recorded.count > 0 {
        let Line::Whole(line) = lines.next()? else {
            return Err(LogFault::Short {
                expected: recorded.bytes,
            });
        };
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        if line.len() as u64 != recorded.last || Sha256::of(text) != recorded.hash {
            return Err(LogFault::Head { line: recorded.count });
        }
    }
    follow(*recorded, recorded, &mut lines, &mut |_| {})
}

/// Checks what was appended after `known`, and hands every new entry to `each`. `lines` start where `known` ends.
///
/// # Errors
/// As [`verify`].
pub fn verify_from(
    known: &Head,
    head: &Head,
    lines: impl BufRead,
    mut each: impl FnMut(Entry),
) -> Result<Verified, LogFault> {
    follow(*known, head, &mut Lines(lines), &mut each)
}

/// From one head on to the end of the lines.
fn follow(
    mut at: Head,
    recorded: &Head,
    lines: &mut Lines<impl BufRead>,
    each: &mut impl FnMut(Entry),
) -> Result<Verified, LogFault> {
    loop {
        match lines.next()? {
            Line::Whole(line) => at = next(&at, &line, each)?,
            Line::Torn(torn) if at.count >= recorded.count => {
                return Ok(Verified {
                    head: at,
                    unacknowledged: at.count - recorded.count,
                    torn,
                });
            }
            Line::Torn(_) => {
                return Err(LogFault::Truncated {
                    expected: recorded.count,
                    found: at.count,
                });
            }
        }
        if at.count == recorded.count && at != *recorded {
            return Err(LogFault::Head { line: at.count });
        }
    }
}

/// Longest line that can be an entry; more is no log of ours.
const MAX_LINE: u64 = 64 * 1024;

struct Lines<R>(R);

enum Line {
    /// With its newline.
    Whole(Vec<u8>),
    /// The end, after so many bytes without a newline.
    Torn(u64),
}

impl<R: BufRead> Lines<R> {
    fn next(&mut self) -> Result<Line, LogFault> {
        let mut line = Vec::new();
        let read = self.0.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
        read.map_err(|error| LogFault::Unreadable(error.to_string()))?;
        Ok(if line.ends_with(b"\n") {
            Line::Whole(line)
        } else {
            Line::Torn(line.len() as u64)
        })
    }
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
    let last = line.len() as u64;
    Ok(Head {
        count: number,
        bytes: at.bytes + last,
        last,
        hash: Sha256::of(text),
    })
}
