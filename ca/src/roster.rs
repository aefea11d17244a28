//! Who holds a certificate that has not ended, and what each of them last said about itself: the evidence that the gates of
//! a rotation open on. It begins with the issuance log, so that a CA that was killed forgets nobody; whoever was issued a
//! certificate has reported, or it has ended. It judges and counts; it takes no step.

mod gate;
mod others;
mod reading;

pub(crate) use gate::{Gate, Waits};
pub use gate::{Gone, Missing, Progress};
pub(crate) use others::{SILENT, Testimony, Word};
pub use reading::Reading;
pub(crate) use reading::may_pass;

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use squire_mesh::spiffe::SpiffeId;

use self::others::Other;
use crate::{log::Head, profile::MAX_TTL};

/// Holders that stopped counting, as far as they are remembered.
const MAX_GONE: usize = 1000;

/// Who holds certificates.
#[derive(Debug, Default)]
pub struct Roster {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    holders: HashMap<Holder, Entry>,
    /// Key identifier of an intermediate, and the root that signed it.
    intermediates: HashMap<Box<str>, Arc<str>>,
    reading: Reading,
    /// How far the log has been read.
    read_to: Option<Head>,
    /// The word of other replicas, by name.
    others: HashMap<Box<str>, Other>,
    gone: VecDeque<(Holder, SystemTime)>,
}

/// One that holds certificates: a process beside a workload. Each certificate of others stands for itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Holder {
    pub(crate) id: SpiffeId,
    pub(crate) who: Who,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Who {
    /// A workload by its own name: the newest certificate takes the place of the one before.
    Workload(Arc<str>),
    /// The serial number of a certificate of nobody who reports.
    Serial(Box<str>),
}

/// What is known of one holder.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Position of its newest certificate in the log.
    pub(crate) number: u64,
    /// Root of its newest certificate, by name.
    pub(crate) root: Option<Arc<str>>,
    pub(crate) serial: Box<str>,
    /// When its newest certificate was made valid.
    pub(crate) issued: SystemTime,
    /// When the last of its certificates ends.
    pub(crate) ends: SystemTime,
    pub(crate) said: Option<Said>,
}

/// A report and when it came.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    pub(crate) at: SystemTime,
    pub(crate) evidence: Evidence,
}

/// What one process reports of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// SHA-256 over the sorted roots of our trust domain that it trusts, hex.
    pub bundle_digest: String,
    /// The sequence number its bundle came with.
    pub bundle_sequence: u64,
    /// SHA-256 of the root its SVID stands on, hex.
    pub svid_root: String,
    /// Serial number of its SVID.
    pub svid_serial: String,
    /// When its SVID ends.
    pub svid_not_after: SystemTime,
    /// Some of its connections stand on a root that does not sign any more.
    pub stands_on_old_root: bool,
}

/// A certificate as the log tells of it.
#[derive(Debug)]
pub(crate) struct Leaf<'a> {
    /// Position in the log.
    pub(crate) number: u64,
    pub(crate) id: SpiffeId,
    pub(crate) workload: Option<&'a str>,
    pub(crate) serial: &'a str,
    /// Key identifier of the intermediate.
    pub(crate) issuer: &'a str,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

impl Roster {
    /// An intermediate and the root that signed it.
    pub(crate) fn intermediate(&self, key_id: &str, root: &str) {
        self.lock().intermediates.insert(key_id.into(), root.into());
    }

    /// A certificate was issued. Safe in any order: the log is read while others are signed.
    pub(crate) fn issued(&self, leaf: Leaf<'_>) {
        let mut inner = self.lock();
        let root = inner.intermediates.get(leaf.issuer).cloned();
        let who = leaf
            .workload
            .map_or_else(|| Who::Serial(leaf.serial.into()), |name| Who::Workload(name.into()));
        let entry = inner.entry(Holder { id: leaf.id, who });
        entry.ends = entry.ends.max(leaf.not_after);
        if leaf.number >= entry.number {
            entry.number = leaf.number;
            entry.root = root;
            entry.serial = leaf.serial.into();
            entry.issued = leaf.not_before;
        }
    }

    /// A workload has reported. What the log does not know of (it was set aside, or restored) counts from now on.
    pub fn report(&self, id: SpiffeId, workload: &str, evidence: Evidence, now: SystemTime) {
        let mut inner = self.lock();
        let entry = inner.entry(Holder {
            id,
            who: Who::Workload(workload.into()),
        });
        entry.ends = entry.ends.max(evidence.svid_not_after.min(now + MAX_TTL));
        if entry.number == 0 {
            entry.serial = evidence.svid_serial.as_str().into();
        }
        entry.said = Some(Said { at: now, evidence });
    }

    /// How many hold certificates.
    pub(crate) fn holders(&self) -> usize {
        self.lock().holders.len()
    }

    /// Forgets whose certificates have all ended.
    pub(crate) fn forget_ended(&self, now: SystemTime) {
        let mut inner = self.lock();
        let Inner { holders, gone, .. } = &mut *inner;
        holders.retain(|holder, entry| {
            let stays = entry.ends > now;
            if !stays {
                gone.push_back((holder.clone(), entry.ends));
            }
            stays
        });
        while gone.len() > MAX_GONE {
            gone.pop_front();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Whole records are put in and taken out: a panic elsewhere has left none in halves.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn entry(&mut self, holder: Holder) -> &mut Entry {
        self.holders.entry(holder).or_insert_with(|| Entry {
            number: 0,
            root: None,
            serial: Box::default(),
            issued: SystemTime::UNIX_EPOCH,
            ends: SystemTime::UNIX_EPOCH,
            said: None,
        })
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.who {
            Who::Workload(name) => write!(f, "{name} ({})", self.id),
            Who::Serial(serial) => write!(f, "{} (certificate {serial})", self.id),
        }
    }
}

#[cfg(test)]
mod tests;
