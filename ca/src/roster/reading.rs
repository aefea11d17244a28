//! How far the roster knows who was issued certificates: it is read from the issuance log once, and a log that does not
//! reach back far enough says so. While anybody may be unknown, no gate opens.

use std::{
    io::BufReader,
    time::{Duration, SystemTime},
};

use squire_mesh::spiffe::SpiffeId;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Leaf, Roster};
use crate::{
    log::{self, Entry, Event, LogError, LogFault, Verified, rfc3339},
    profile::MAX_TTL,
    store::Store,
};

/// How far the roster is complete.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Reading {
    /// The log has not been read to its end.
    #[default]
    Pending,
    /// The log cannot be read.
    Failed(String),
    /// The log began anew, or was restored: who was issued certificates before is unknown for as long as these last.
    Gap {
        /// The last of them has ended then.
        until: SystemTime,
    },
    /// Everybody is known.
    Done,
}

impl Reading {
    /// Why somebody may be unknown; `None` when nobody is.
    pub(crate) fn doubt(&self, now: SystemTime) -> Option<String> {
        match self {
            Self::Pending => {
                Some("the issuance log is still being read: who holds certificates is not known yet".into())
            }
            Self::Failed(why) => Some(format!("who holds certificates is not known: {why}")),
            Self::Gap { until } if now < *until => Some(format!(
                "the issuance log was set aside or restored: who holds certificates from before is not known until {}",
                rfc3339(*until)
            )),
            Self::Gap { .. } | Self::Done => None,
        }
    }
}

impl Roster {
    /// Reads the whole log, checks it, and knows who holds what afterwards. Blocks, for as long as the log is.
    ///
    /// # Errors
    /// When the log cannot be read or was tampered with; then no gate opens.
    pub(crate) fn read(&self, store: &dyn Store, now: SystemTime) -> Result<Verified, LogError> {
        let mut gap = None;
        let read = log::verify_store(store, |entry: Entry| self.take(&entry, now, &mut gap));
        let mut inner = self.lock();
        inner.read_to = read.as_ref().ok().map(|verified| verified.head);
        inner.reading = match (&read, gap) {
            (Err(error), _) if may_pass(error) => Reading::Pending,
            (Err(error), _) => Reading::Failed(error.to_string()),
            (Ok(_), Some(until)) => Reading::Gap { until },
            (Ok(_), None) => Reading::Done,
        };
        drop(inner);
        read
    }

    /// Reads what was appended since: other replicas issue too. What was never read is read from its beginning. Blocks.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(crate) fn catch_up(&self, store: &dyn Store, now: SystemTime) -> Result<(), LogError> {
        let (read_to, failed) = {
            let inner = self.lock();
            (inner.read_to, matches!(inner.reading, Reading::Failed(_)))
        };
        if failed {
            // It says so for as long as this process lives: somebody has to see to the log.
            return Ok(());
        }
        let Some(read_to) = read_to else {
            return self.read(store, now).map(drop);
        };
        let head = store.log_head()?.ok_or(LogError::Fault(LogFault::NoHead))?;
        if head == read_to {
            return Ok(());
        }
        if head.count <= read_to.count {
            // It was set aside, and another one begun.
            return self.read(store, now).map(drop);
        }
        let mut gap = None;
        let lines = BufReader::new(store.read_log(read_to.bytes)?);
        let each = |entry: Entry| self.take(&entry, now, &mut gap);
        let read = log::verify_from(&read_to, &head, lines, each).map_err(LogError::Fault);
        if read.is_err() && store.log_base()?.count > read_to.count {
            // What was not read yet has ended, and was let go.
            return self.read(store, now).map(drop);
        }
        let mut inner = self.lock();
        match &read {
            Ok(verified) => inner.read_to = Some(verified.head),
            Err(error) if may_pass(error) => {}
            Err(error) => inner.reading = Reading::Failed(error.to_string()),
        }
        if let Some(until) = gap {
            inner.reading = Reading::Gap { until };
        }
        drop(inner);
        read.map(drop)
    }

    fn take(&self, entry: &Entry, now: SystemTime, gap: &mut Option<SystemTime>) {
        match &entry.event {
            Event::Intermediate { key_id, issuer, .. } => self.intermediate(key_id, issuer),
            Event::Pruned { carried, .. } => {
                for event in carried {
                    if let Event::Intermediate { key_id, issuer, .. } = event {
                        self.intermediate(key_id, issuer);
                    }
                }
            }
            Event::Issued {
                id,
                serial,
                not_before,
                not_after,
                issuer,
                workload,
                ..
            } => {
                let (Ok(id), Some(not_before), Some(not_after)) =
                    (id.parse::<SpiffeId>(), time(not_before), time(not_after))
                else {
                    return;
                };
                if not_after > now {
                    self.issued(Leaf {
                        number: entry.seq,
                        id,
                        workload: workload.as_deref(),
                        serial,
                        issuer,
                        not_before,
                        not_after,
                    });
                }
            }
            Event::Restarted { .. } | Event::Restored { .. } => {
                // Written by this machine's clock; a time that cannot be read is taken for now.
                let at = time(&entry.time).unwrap_or(now);
                *gap = Some(at + MAX_TTL + Duration::from_secs(1));
            }
            Event::Root { .. }
            | Event::Rotation { .. }
            | Event::Revoked { .. }
            | Event::Unrevoked { .. }
            | Event::JwtKey { .. }
            | Event::JwtSvid { .. } => {}
        }
    }
}

/// Whether the log may be read at another time: nothing was found to be wrong with it.
pub(crate) fn may_pass(error: &LogError) -> bool {
    matches!(error, LogError::Store(_) | LogError::Fault(LogFault::Unreadable(_)))
}

fn time(text: &str) -> Option<SystemTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok().map(SystemTime::from)
}
