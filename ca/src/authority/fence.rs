//! What keeps a replica that hears nothing from signing by a state that others have left behind. It signs for a while after it
//! has last read the state; the leader waits for longer than that before it takes a silent replica for one that does not
//! sign. Both are measured on each process' own clock that only runs forward. It stops nobody by itself.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::roster::SILENT;

/// So long after it has read the state a replica signs by it. Less than [`SILENT`], by more than clocks drift meanwhile.
pub(super) const FRESH: Duration = Duration::from_secs(20);

/// When the state was read last, and since when it is the one it is.
#[derive(Debug)]
pub(super) struct Fence(Mutex<Seen>);

#[derive(Debug, Clone, Copy)]
struct Seen {
    read: Instant,
    sequence: u64,
    since: Instant,
}

impl Fence {
    /// The state with the bundle of this number was asked for at that moment, and has come.
    pub(super) fn new(sequence: u64, asked: Instant) -> Self {
        Self(Mutex::new(Seen {
            read: asked,
            sequence,
            since: Instant::now(),
        }))
    }

    /// It was asked for again.
    pub(super) fn read(&self, sequence: u64, asked: Instant) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.read = seen.read.max(asked);
        if seen.sequence != sequence {
            seen.sequence = sequence;
            seen.since = Instant::now();
        }
    }

    /// How long ago the state was asked for, if that is too long to sign by it.
    pub(super) fn is_stale(&self, now: Instant) -> Option<Duration> {
        let read = self.0.lock().unwrap_or_else(PoisonError::into_inner).read;
        Some(now.saturating_duration_since(read)).filter(|age| *age >= FRESH)
    }

    /// Whether the bundle has had this number for so long that no replica signs by the state before.
    pub(super) fn is_old(&self, sequence: u64, now: Instant) -> bool {
        let seen = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.sequence == sequence && now.saturating_duration_since(seen.since) >= SILENT
    }
}

#[cfg(test)]
impl Fence {
    /// As if the state had been read last at that moment.
    pub(super) fn reset(&self, read: Instant) {
        self.0.lock().unwrap().read = read;
    }

    /// As if the phase had begun so much earlier.
    pub(super) fn age(&self, by: Duration) {
        let mut seen = self.0.lock().unwrap();
        seen.since = seen.since.checked_sub(by).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_not_read_the_state_for_a_while_does_not_sign_and_whoever_waits_waits_for_longer() {
        let begun = Instant::now();
        let fence = Fence::new(1, begun);
        assert!(fence.is_stale(begun + FRESH - Duration::from_millis(1)).is_none());
        assert_eq!(fence.is_stale(begun + FRESH), Some(FRESH));
        assert!(!fence.is_old(1, begun + FRESH), "whoever waits, waits for longer");
        assert!(fence.is_old(1, Instant::now() + SILENT) && !fence.is_old(2, Instant::now() + SILENT));
        fence.read(2, begun + FRESH);
        assert!(fence.is_stale(begun + FRESH).is_none());
        assert!(
            !fence.is_old(2, Instant::now() + SILENT - Duration::from_secs(1)),
            "counted from when it came"
        );
        // An answer that was asked for earlier tells nothing new.
        fence.read(2, begun);
        assert!(fence.is_stale(begun + FRESH).is_none());
    }
}
