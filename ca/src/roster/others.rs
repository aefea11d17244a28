//! What other replicas have heard: each leaves word of whoever reports to it, and the one that leads reads them all. Where two
//! have heard of the same holder, the worse word counts; no clocks of different machines are compared. A replica that
//! leaves no word any more is not asked about anybody.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};
use squire_mesh::{ports, spiffe::SpiffeId};

use super::{Evidence, Holder, Inner, Roster, Said, Who};

/// A holder that was silent for longer may be reporting to another replica: reports come every half a minute.
const LATELY: Duration = Duration::from_secs(75);
/// A replica that has left no new word for so long does not work any more; it leaves one every ten seconds.
pub(crate) const SILENT: Duration = Duration::from_secs(30);

/// The word of one replica: who has said the same, by identity.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Testimony {
    said: Vec<Alike>,
}

/// Holders who have said the same of themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Alike {
    bundle: u64,
    digest: String,
    root: String,
    on_old_root: bool,
    /// Workloads by SPIFFE ID.
    who: BTreeMap<String, Vec<String>>,
}

/// What was read of one replica.
#[derive(Debug)]
pub(super) struct Other {
    said: HashMap<Holder, Evidence>,
    /// As it was read, to see whether it changes.
    text: Vec<u8>,
    changed: Instant,
}

impl Roster {
    /// What was said here lately; `own` is this replica's own holder, who says it once and means it.
    pub(crate) fn testimony(&self, own: &str, now: SystemTime) -> Testimony {
        let inner = self.lock();
        let mut alike: BTreeMap<_, BTreeMap<String, Vec<String>>> = BTreeMap::new();
        for (holder, entry) in &inner.holders {
            let (Who::Workload(workload), Some(said)) = (&holder.who, &entry.said) else {
                continue;
            };
            if &**workload != own && !said.is_recent(now) {
                continue;
            }
            let Evidence {
                bundle_digest,
                bundle_sequence,
                svid_root,
                stands_on_old_root,
                ..
            } = &said.evidence;
            let key = (*bundle_sequence, bundle_digest, svid_root, *stands_on_old_root);
            let who = alike.entry(key).or_default();
            who.entry(holder.id.to_string()).or_default().push(workload.to_string());
        }
        let said = alike.into_iter().map(|((bundle, digest, root, on_old_root), mut who)| {
            who.values_mut().for_each(|workloads| workloads.sort_unstable());
            Alike {
                bundle,
                digest: digest.clone(),
                root: root.clone(),
                on_old_root,
                who,
            }
        });
        Testimony { said: said.collect() }
    }

    /// Takes what the others have left as of `at`, in place of what they left before. What cannot be read counts for nothing.
    pub(crate) fn hear(&self, testimonies: Vec<(String, Vec<u8>)>, at: Instant) {
        let mut inner = self.lock();
        let mut before = std::mem::take(&mut inner.others);
        for (replica, text) in testimonies {
            let other = match before.remove(replica.as_str()) {
                Some(known) if known.text == text => known,
                _ => Other::read(text, at),
            };
            inner.others.insert(replica.into(), other);
        }
    }
}

impl Inner {
    /// Everything that counts as the word of a holder.
    pub(super) fn words<'i>(&'i self, holder: &Holder, said: Option<&'i Said>, now: SystemTime) -> Vec<&'i Evidence> {
        let others = self.others.values().filter(|other| other.speaks());
        let mut words: Vec<_> = others.filter_map(|other| other.said.get(holder)).collect();
        if let Some(said) = said
            && (words.is_empty() || said.is_recent(now))
        {
            words.push(&said.evidence);
        }
        words
    }
}

impl Said {
    /// Whether its holder cannot have gone to another replica since without our noticing.
    fn is_recent(&self, now: SystemTime) -> bool {
        // A clock that was set back: it was said a moment ago.
        now.duration_since(self.at).unwrap_or_default() < LATELY
    }
}

impl Other {
    fn read(text: Vec<u8>, at: Instant) -> Self {
        let left: Word = serde_json::from_slice(&text).unwrap_or_else(|error| {
            tracing::warn!(%error, "what a replica has heard cannot be read: it counts for nothing");
            Word::default()
        });
        let mut said = HashMap::new();
        for alike in left.testimony.said {
            let evidence = Evidence {
                bundle_digest: alike.digest,
                bundle_sequence: alike.bundle,
                svid_root: alike.root,
                svid_serial: String::new(),
                svid_not_after: SystemTime::UNIX_EPOCH,
                stands_on_old_root: alike.on_old_root,
            };
            for (id, workloads) in alike.who {
                let Ok(id) = id.parse::<SpiffeId>() else { continue };
                for workload in workloads {
                    let who = Who::Workload(workload.into());
                    said.insert(Holder { id: id.clone(), who }, evidence.clone());
                }
            }
        }
        Self {
            said,
            text,
            changed: at,
        }
    }

    fn speaks(&self) -> bool {
        self.changed.elapsed() < SILENT
    }
}

/// A testimony with a count that shows that whoever left it lives.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Word {
    pub(crate) beat: u64,
    pub(crate) testimony: Testimony,
}

impl Holder {
    /// Whether it is a replica of the control plane, of which nobody can know whether it comes back.
    pub(super) fn is_replica(&self) -> bool {
        let Who::Workload(name) = &self.who else { return false };
        let own = self.id.namespace() == Some(ports::SYSTEM_NAMESPACE)
            && self.id.service_account() == Some(ports::CONTROL_ACCOUNT);
        own && name.starts_with(crate::authority::OWN) && name.len() > crate::authority::OWN.len()
    }
}
