//! Keeps what the process holds of memory close to what it uses: a sidecar is idle most of its life, and stands beside every
//! pod. It frees nothing that is in use, and never works while connections come and go.

use std::time::Duration;

use crate::{
    chunk,
    http::{h1, h2},
    sys,
};

/// With more pieces of work than this between two looks there is traffic, which tidying up would hold up.
const TRICKLE: u64 = 50;
/// A burst that never ends is tidied up after all the same, that often.
const AT_LATEST: Duration = Duration::from_secs(30);

/// Prepares the allocator; called before there is a second thread.
pub fn settle() {
    sys::settle_allocator();
}

/// Gives back what is free. Takes well under a millisecond for the heap of an ordinary sidecar.
pub(crate) fn tidy_up() {
    chunk::release();
    h1::release();
    h2::release();
    sys::trim_heap();
}

/// What was done once and is not done again: reading configuration, the first handshakes, the first push. Gives back what is
/// free, and lets go of the pages of code that all this was read from; what is used from now on is mapped again as it is used.
pub(crate) fn settled() {
    tidy_up();
    sys::unmap_code();
}

/// Finds the quiet after work: handshakes, and updates of the control plane, leave the heap full of holes.
pub(crate) struct Housekeeping {
    every: Duration,
    seen: u64,
    carried: u64,
    untidy_for: Option<Duration>,
}

impl Housekeeping {
    /// [`Housekeeping::look`] is going to be called that often.
    pub(crate) fn new(every: Duration) -> Self {
        Self {
            every,
            seen: 0,
            carried: 0,
            untidy_for: None,
        }
    }

    /// There is something to tidy up.
    pub(crate) fn untidy(&mut self) {
        self.untidy_for.get_or_insert(Duration::ZERO);
    }

    /// Whether it is time. `work`: a number that changes with everything that leaves holes; `carried`: one that grows with
    /// the bytes that are passed on.
    pub(crate) fn look(&mut self, work: u64, carried: u64) -> bool {
        let still = self.seen == work;
        self.seen = work;
        if !still {
            self.untidy();
        }
        let before = std::mem::replace(&mut self.carried, carried);
        let quiet = still && carried.wrapping_sub(before) <= TRICKLE;
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
        let looks: Vec<bool> = [1, 2, 3, 3, 3, 4, 4, 4].map(|work| housekeeping.look(work, 0)).into();
        assert_eq!(looks, [false, false, false, true, false, false, true, false]);
        housekeeping.untidy();
        assert!(housekeeping.look(4, 0));
        assert!(!housekeeping.look(4, 0));
    }

    #[test]
    fn work_that_never_ends_does_not_keep_one_from_it() {
        let mut housekeeping = Housekeeping::new(Duration::from_secs(1));
        let times = (1..=90).filter(|work| housekeeping.look(*work, 0)).count();
        assert_eq!(times, 3);
    }

    #[test]
    fn nobody_who_is_being_served_waits_for_it_and_a_trickle_does_not_put_it_off() {
        let mut housekeeping = Housekeeping::new(Duration::from_secs(1));
        let busy = (1..=5).map(|second| housekeeping.look(1, second * 1000));
        assert!(!busy.collect::<Vec<_>>().contains(&true));
        assert!(housekeeping.look(1, 5010));
        assert!(!housekeeping.look(1, 5020));
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
