//! What the application was handed and may still use: while any of it stands on a root that does not sign any more, that
//! root must not go. It remembers roots and ends, never keys.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use squire_mesh::bundle::RootDigest;

/// The SVIDs that are out, by root and end; clones share.
#[derive(Clone, Debug, Default)]
pub struct Handed(Arc<Mutex<Vec<Out>>>);

#[derive(Clone, Copy, Debug)]
struct Out {
    root: RootDigest,
    ends: SystemTime,
}

impl Handed {
    /// An SVID was issued to the application. `replaces`: somebody listens, and so gives up the ones before.
    pub(super) fn add(&self, root: RootDigest, ends: SystemTime, replaces: bool, now: SystemTime) {
        let mut out = self.lock();
        out.retain(|other| !replaces && other.ends > now);
        out.push(Out { root, ends });
    }

    /// Whether any that has not ended stands on another root than this one.
    pub(crate) fn any_not_on(&self, root: RootDigest, now: SystemTime) -> bool {
        self.lock().iter().any(|out| out.ends > now && out.root != root)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Out>> {
        // Entries are whole before and after each step: a panic elsewhere has left none in halves.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_handed_out_counts_until_a_listener_has_its_successor_or_it_has_ended() {
        let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
        let (old, new) = (RootDigest::of(b"old"), RootDigest::of(b"new"));
        let handed = Handed::default();
        assert!(!handed.any_not_on(new, now));
        handed.add(old, now + hour, false, now);
        assert!(handed.any_not_on(new, now) && !handed.any_not_on(old, now));
        assert!(!handed.any_not_on(new, now + hour), "it has ended");
        handed.add(new, now + hour, false, now);
        assert!(
            handed.any_not_on(new, now),
            "nobody listened: the old one may be in use"
        );
        handed.add(new, now + hour, true, now);
        assert!(!handed.any_not_on(new, now), "who listens uses the new one");
    }
}
