//! What a gate asks of every holder, and what is told of those who have not shown it. A gate opens when all who count have;
//! it never counts what was said before the phase began.

use std::{sync::Arc, time::SystemTime};

use serde::{Deserialize, Serialize};
use squire_mesh::svid::Revocations;

use super::{Entry, Evidence, Holder, Roster, Who};
use crate::{log::rfc3339, revocation::Target};

/// Holders that are named; further ones are counted.
const MAX_NAMED: usize = 500;

/// What every holder has to have shown.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    /// Sequence number and digest of the bundle.
    pub(crate) sequence: u64,
    pub(crate) digest: String,
    pub(crate) waits: Waits,
    /// The phase lasts so long that a replica which has not read it signs nothing any more.
    pub(crate) is_old: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum Waits {
    /// That it trusts exactly this bundle.
    Bundle,
    /// That its SVID, and all of its connections, stand on this root.
    Svid {
        /// By name.
        root: String,
        /// By the digest of its certificate, hex.
        digest: String,
    },
}

/// How far a rotation is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// `stable`, `distribute`, `switch` or `retire`.
    pub phase: String,
    /// It leads back to the root it began with.
    pub aborting: bool,
    /// Key identifier of the root that is to go; of the only one when stable.
    pub from: String,
    /// Key identifier of the root that is to stay.
    pub to: String,
    /// Of the bundle in force.
    pub sequence: u64,
    /// RFC 3339: when the phase began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// What it waits for, in words.
    pub waits_for: String,
    /// Who counts.
    pub holders: usize,
    /// How many of them have shown what the gate asks for.
    pub shown: usize,
    /// The others, longest silence first.
    pub missing: Vec<Missing>,
    /// Further ones that are not named.
    pub more_missing: usize,
    /// Who stopped counting because all of its certificates have ended.
    pub gone: Vec<Gone>,
    /// Why somebody may be unknown; no gate opens then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<String>,
}

/// One that has not shown what the gate asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Its SPIFFE ID.
    pub id: String,
    /// The workload, if it said which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// Serial number of its newest certificate.
    pub serial: String,
    /// What is missing.
    pub why: String,
    /// RFC 3339: its last report, or when it was issued its certificate if it never reported to this process.
    pub since: String,
    /// RFC 3339: it stops counting then, if it is issued nothing more.
    pub ends: String,
}

/// One whose certificates have all ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// Workload and SPIFFE ID.
    pub who: String,
    /// RFC 3339.
    pub ended: String,
}

/// What was found of all holders.
pub(crate) struct Tally {
    pub(crate) holders: usize,
    pub(crate) shown: usize,
    pub(crate) missing: Vec<Missing>,
    pub(crate) more_missing: usize,
    pub(crate) gone: Vec<Gone>,
    pub(crate) doubt: Option<String>,
}

impl Tally {
    /// Whether the gate is open.
    pub(crate) fn is_complete(&self) -> bool {
        self.doubt.is_none() && self.shown == self.holders
    }
}

impl Roster {
    /// Asks every holder that counts: whose certificates have ended or are revoked does not.
    pub(crate) fn tally(&self, gate: &Gate, revoked: &Revocations, since: SystemTime, now: SystemTime) -> Tally {
        let inner = self.lock();
        let mut tally = Tally {
            holders: 0,
            shown: 0,
            missing: Vec::new(),
            more_missing: 0,
            gone: Vec::new(),
            doubt: inner.reading.doubt(now),
        };
        let mut missing = Vec::new();
        for (holder, entry) in &inner.holders {
            if entry.ends <= now || holder.is_revoked(entry, revoked) {
                continue;
            }
            let words = inner.words(holder, entry.said.as_ref(), now);
            if gate.is_old && words.is_empty() && holder.is_replica() {
                tally.gone.push(Gone::silent(holder, entry));
                continue;
            }
            tally.holders += 1;
            match gate.asks(holder, entry, &words) {
                Ok(()) => tally.shown += 1,
                Err(why) => missing.push((entry.last_word(), holder, entry, why)),
            }
        }
        missing.sort_by(|(a, x, ..), (b, y, ..)| (a, x.id.as_str()).cmp(&(b, y.id.as_str())));
        tally.more_missing = missing.len().saturating_sub(MAX_NAMED);
        missing.truncate(MAX_NAMED);
        tally.missing = missing
            .into_iter()
            .map(|(_, holder, entry, why)| named(holder, entry, why))
            .collect();
        let ended = inner.gone.iter().filter(|(_, ended)| *ended > since);
        let told = ended.map(|(holder, ended)| Gone {
            who: holder.to_string(),
            ended: rfc3339(*ended),
        });
        tally.gone.extend(told);
        tally
    }
}

impl Gate {
    /// What a holder has not shown.
    fn asks(&self, holder: &Holder, entry: &Entry, words: &[&Evidence]) -> Result<(), String> {
        if words.is_empty() {
            return Err(match &holder.who {
                Who::Workload(_) if holder.is_replica() => {
                    "has not said that it has read this phase; it stops counting when it says nothing for half a minute"
                        .to_owned()
                }
                Who::Workload(_) => "has not reported to this control plane since it started".to_owned(),
                Who::Serial(_) => {
                    "does not report: give it the new bundle by hand, or wait until its certificate ends".to_owned()
                }
            });
        }
        words.iter().try_for_each(|word| self.judges(entry, word))
    }

    fn judges(&self, entry: &Entry, evidence: &Evidence) -> Result<(), String> {
        let (has, needs) = (evidence.bundle_sequence, self.sequence);
        if has != needs || evidence.bundle_digest != self.digest {
            return Err(format!("trusts bundle {has}, not {needs}"));
        }
        let Waits::Svid { root, digest } = &self.waits else {
            return Ok(());
        };
        let newest = entry.root.as_deref().is_none_or(|newest| newest == root);
        if evidence.svid_root != *digest || !newest {
            return Err("holds an SVID under the root that is to go".to_owned());
        }
        if evidence.stands_on_old_root {
            return Err("has connections that stand on the root that is to go".to_owned());
        }
        Ok(())
    }
}

impl Gone {
    /// A replica that signs nothing any more, whether it has ended or only hears nothing.
    fn silent(holder: &Holder, entry: &Entry) -> Self {
        Self {
            who: format!("{holder}, which is silent and cannot sign"),
            ended: rfc3339(entry.last_word()),
        }
    }
}

impl Holder {
    fn is_revoked(&self, entry: &Entry, revoked: &Revocations) -> bool {
        let by_serial = match &self.who {
            Who::Workload(_) => false,
            Who::Serial(serial) => {
                matches!(serial.parse(), Ok(Target::Certificate(serial)) if revoked.has_serial(&serial))
            }
        };
        by_serial || revoked.check_identity(&self.id, entry.issued).is_err()
    }
}

impl Entry {
    fn last_word(&self) -> SystemTime {
        self.said.as_ref().map_or(self.issued, |said| said.at)
    }
}

fn named(holder: &Holder, entry: &Entry, why: String) -> Missing {
    let workload = match &holder.who {
        Who::Workload(name) => Some(Arc::clone(name).to_string()),
        Who::Serial(_) => None,
    };
    Missing {
        id: holder.id.to_string(),
        workload,
        serial: entry.serial.to_string(),
        why,
        since: rfc3339(entry.last_word()),
        ends: rfc3339(entry.ends),
    }
}
