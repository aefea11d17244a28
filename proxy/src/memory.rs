//! Keeps what the process holds of memory close to what it uses: a sidecar is idle most of its life, and stands beside every
//! pod. It frees nothing that is in use, and never works while connections come and go.

use std::time::Duration;

use crate::{chunk, sys};

/// A burst that never ends is tidied up after all the same, that often.
const AT_LATEST: Duration = Duration::from_secs(30);

/// Prepares the allocator; called before there is a second thread.
pub fn settle() {
    sys::settle_allocator();
}

/// Gives back what is free. Takes well under a millisecond for the heap of an ordinary sidecar.
pub(crate) fn tidy_up() {
    chunk::release();
    sys::trim_heap();
}

/// Finds the quiet after work: handshakes, and updates of the control plane, leave the heap full of holes.
pub(crate) struct Housekeeping {
    every: Duration,
    seen: u64,
    untidy_for: Option<Duration>,
}

impl Housekeeping {
    /// [`Housekeeping::look`] is going to be called that often.
    pub(crate) fn new(every: Duration) -> Self {
        Self {
            every,
            seen: 0,
            untidy_for: None,
        }
    }

    /// There is something to tidy up.
    pub(crate) fn untidy(&mut self) {
        self.untidy_for.get_or_insert(Duration::ZERO);
    }

    /// Whether it is time. `work`: a number that changes with everything that leaves holes.
    pub(crate) fn look(&mut self, work: u64) -> bool {
        let quiet = self.seen == work;
        self.seen = work;
        if !quiet {
            self.untidy();
        }
        let Some(since) = &mut self.untidy_for else {
            return false;
        };
        *since += self.every;
        let now = quiet || *since >= AT_LATEST;
        if now {
            self.untidy_for = None;
        }
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tidies_up_once_after_work_and_not_during_it() {
        let mut housekeeping = Housekeeping::new(Duration::from_secs(1));
        let looks: Vec<bool> = [1, 2, 3, 3, 3, 4, 4, 4].map(|work| housekeeping.look(work)).into();
        assert_eq!(looks, [false, false, false, true, false, false, true, false]);
        housekeeping.untidy();
        assert!(housekeeping.look(4));
        assert!(!housekeeping.look(4));
    }

    #[test]
    fn work_that_never_ends_does_not_keep_one_from_it() {
        let mut housekeeping = Housekeeping::new(Duration::from_secs(1));
        let times = (1..=90).filter(|work| housekeeping.look(*work)).count();
        assert_eq!(times, 3);
    }

    #[cfg(target_env = "gnu")]
    #[test]
    fn holes_between_pieces_in_use_go_back_to_the_kernel() {
        let resident = || {
            let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
            pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
        };
        // Every 64th piece stays, so that no free part of the heap is at its end.
        let mut pieces: Vec<Option<Vec<u8>>> = (0..64 * 1024).map(|_| Some(vec![1; 1024])).collect();
        for (index, piece) in pieces.iter_mut().enumerate() {
            if index % 64 != 0 {
                *piece = None;
            }
        }
        let before = resident();
        tidy_up();
        let after = resident();
        assert!(
            after + (32 << 20) < before,
            "{before} bytes before, {after} after, {} pieces kept",
            pieces.iter().flatten().count()
        );
    }
}
