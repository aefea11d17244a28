//! How many retries a service may get: a share of its recent requests, and a few a second in any case, so that retries
//! cannot multiply an outage. Ten slots of a second each; no allocation.

use std::time::{Duration, Instant};

/// Seconds that count.
const SLOTS: usize = 10;

/// Requests and retries of the last seconds.
#[derive(Debug, Clone, Default)]
pub(super) struct Budget {
    /// The second that `slots[at]` stands for.
    started: Option<Instant>,
    second: u64,
    slots: [Slot; SLOTS],
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    requests: u64,
    retries: u64,
}

impl Budget {
    /// Counts a request that is no retry.
    pub(super) fn deposit(&mut self, now: Instant) {
        self.slot(now).requests += 1;
    }

    /// Counts a retry, if it is within `percent` of the requests or `floor` a second.
    pub(super) fn withdraw(&mut self, percent: u8, floor: u32, now: Instant) -> bool {
        self.slot(now);
        let requests: u64 = self.slots.iter().map(|slot| slot.requests).sum();
        let retries: u64 = self.slots.iter().map(|slot| slot.retries).sum();
        let allowed = requests * u64::from(percent) / 100 + u64::from(floor) * SLOTS as u64;
        let within = retries < allowed;
        if within {
            self.slot(now).retries += 1;
        }
        within
    }

    fn slot(&mut self, now: Instant) -> &mut Slot {
        let started = *self.started.get_or_insert(now);
        let second = now.saturating_duration_since(started).as_secs();
        let passed = second.saturating_sub(self.second).min(SLOTS as u64);
        for step in 1..=passed {
            self.slots[index(self.second + step)] = Slot::default();
        }
        if passed == SLOTS as u64 {
            self.slots = Default::default();
        }
        self.second = self.second.max(second);
        &mut self.slots[index(self.second)]
    }
}

fn index(second: u64) -> usize {
    (second % Duration::from_secs(SLOTS as u64).as_secs()) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_share_of_recent_requests_and_a_few_in_any_case() {
        let start = Instant::now();
        let mut budget = Budget::default();
        let all = |budget: &mut Budget, percent, floor, now| {
            (0..1_000).filter(|_| budget.withdraw(percent, floor, now)).count()
        };
        assert_eq!(all(&mut budget, 20, 0, start), 0, "no requests, no retries");
        (0..100).for_each(|_| budget.deposit(start));
        assert_eq!(all(&mut budget, 20, 0, start), 20);
        let later = start + Duration::from_secs(9);
        assert_eq!(all(&mut budget, 20, 0, later), 0, "they still count");
        assert_eq!(all(&mut budget, 20, 1, later), 10, "the floor");
        let much_later = start + Duration::from_secs(19);
        assert_eq!(all(&mut budget, 20, 1, much_later), 10, "all is forgotten");
    }

    #[test]
    fn a_slot_is_forgotten_after_ten_seconds_and_not_before() {
        let start = Instant::now();
        let mut budget = Budget::default();
        budget.deposit(start);
        for second in 1..10 {
            budget.deposit(start + Duration::from_secs(second));
        }
        assert!(budget.withdraw(10, 0, start + Duration::from_secs(9)));
        assert!(
            !budget.withdraw(10, 0, start + Duration::from_secs(10)),
            "nine requests are left"
        );
    }
}
