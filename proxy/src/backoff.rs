//! How long to wait before the next attempt: exponential with full jitter, so that a thousand sidecars that lost the
//! control plane together do not come back together. It does not wait itself.

use std::time::Duration;

use rand::Rng as _;

/// Waits that grow from attempt to attempt up to a cap.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    /// The first wait is at most `base`, none is longer than `cap`.
    #[must_use]
    pub fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, failures: 0 }
    }

    /// A random wait from 0 to the ceiling, which then doubles; never so short that attempts become a busy loop.
    pub fn wait(&mut self) -> Duration {
        let ceiling = self.ceiling();
        self.failures = self.failures.saturating_add(1);
        rand::rng().random_range((self.base / 10).min(ceiling)..=ceiling)
    }

    /// The attempt was a success: start again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    fn ceiling(&self) -> Duration {
        let factor = 1u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_up_to_the_cap_and_starts_again_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(15));
        let expected = [250, 500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000];
        for ceiling in expected.map(Duration::from_millis) {
            assert_eq!(backoff.ceiling(), ceiling);
            let wait = backoff.wait();
            assert!(
                wait <= ceiling && wait >= Duration::from_millis(25),
                "{wait:?} of {ceiling:?}"
            );
        }
        for _ in 0..100 {
            assert!(backoff.wait() <= Duration::from_secs(15), "no overflow");
        }
        backoff.reset();
        assert_eq!(backoff.ceiling(), Duration::from_millis(250));
    }

    #[test]
    fn waits_are_spread() {
        let waits: std::collections::BTreeSet<_> = (0..100)
            .map(|_| Backoff::new(Duration::from_secs(1), Duration::from_secs(1)).wait())
            .collect();
        assert!(waits.len() > 90, "{} different waits of 100", waits.len());
    }
}
