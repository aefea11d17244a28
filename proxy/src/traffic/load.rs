//! What is known of one endpoint's load: requests under way from here, and a peak-sensitive moving average of its latency
//! (as Finagle and tower have it): a slow answer counts at once, quick ones bring the estimate down with time. It draws no
//! conclusions.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// After this time an observation counts a third.
const DECAY: Duration = Duration::from_secs(10);
/// Nobody is faster than that: the number of requests under way always counts.
const FLOOR_NANOS: f64 = 10_000.0;
/// What an endpoint costs that has not answered anything yet, but has something to answer.
const UNKNOWN: f64 = 1e13;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Load {
    /// Requests (or connections) under way.
    pub(super) outstanding: AtomicU32,
    /// Failures without a success in between.
    pub(super) failures: AtomicU32,
    /// Ejections without a return in between.
    pub(super) ejections: AtomicU32,
    latency: Mutex<Option<Latency>>,
}

#[derive(Debug, Clone, Copy)]
struct Latency {
    nanos: f64,
    at: Instant,
}

impl Load {
    /// What another request would cost. An endpoint nobody has tried yet is tried next, with one request.
    pub(super) fn cost(&self, now: Instant) -> f64 {
        let outstanding = f64::from(self.outstanding.load(Relaxed));
        match *self.latency() {
            None if outstanding == 0.0 => 0.0,
            None => UNKNOWN + outstanding,
            Some(latency) => latency.decayed(now).max(FLOOR_NANOS) * (outstanding + 1.0),
        }
    }

    /// An answer came after this time.
    pub(super) fn observe(&self, took: Duration, now: Instant) {
        self.learn(took, now, false);
    }

    /// It failed after this time: failing fast makes nobody attractive.
    pub(super) fn observe_failure(&self, took: Duration, now: Instant) {
        self.learn(took, now, true);
    }

    fn learn(&self, took: Duration, now: Instant, only_worse: bool) {
        let took = took.as_nanos() as f64;
        let mut latency = self.latency();
        let nanos = match *latency {
            None if only_worse => return,
            None => took,
            Some(known) if took > known.decayed(now) => took,
            Some(_) if only_worse => return,
            Some(known) => {
                let weight = known.weight(now);
                known.nanos * weight + took * (1.0 - weight)
            }
        };
        *latency = Some(Latency { nanos, at: now });
    }

    fn latency(&self) -> MutexGuard<'_, Option<Latency>> {
        self.latency.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Latency {
    fn weight(&self, now: Instant) -> f64 {
        decay(now.saturating_duration_since(self.at).as_secs_f64() / DECAY.as_secs_f64())
    }

    fn decayed(&self, now: Instant) -> f64 {
        self.nanos * self.weight(now)
    }
}

/// e^-x, near enough: (1 + x/256)^-256. It was the one use of the C library's mathematics, which every sidecar mapped for it.
fn decay(x: f64) -> f64 {
    let mut power = 1.0 + x / 256.0;
    for _ in 0..8 {
        power *= power;
    }
    power.recip()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decay_is_all_at_first_and_nothing_in_the_end() {
        assert_eq!(decay(0.0), 1.0);
        for tenth in 1..60 {
            let x = f64::from(tenth) / 10.0;
            assert!((decay(x) - (-x).exp()).abs() < 0.002, "{x}: {}", decay(x));
            assert!(decay(x) < decay(x - 0.1));
        }
        assert!(decay(1e6) < 1e-9);
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_peak_counts_at_once_and_decays() {
        let (load, start) = (Load::default(), Instant::now());
        load.observe(MS, start);
        assert_eq!(load.cost(start), 1e6);
        load.observe(100 * MS, start);
        assert_eq!(load.cost(start), 1e8, "slow at once");
        load.observe(MS, start + MS);
        assert!(load.cost(start + MS) > 0.99e8, "one quick answer is no proof");
        let later = start + 60 * Duration::from_secs(1);
        assert!(load.cost(later) < 1e6, "old news");
        load.observe(2 * MS, later);
        assert_eq!(load.cost(later), 2e6);
    }

    #[test]
    fn requests_under_way_multiply_the_cost() {
        let (load, now) = (Load::default(), Instant::now());
        assert_eq!(load.cost(now), 0.0, "unknown and idle: tried next");
        load.outstanding.store(1, Relaxed);
        assert!(load.cost(now) >= UNKNOWN, "unknown and busy: one is enough");
        load.observe(MS, now);
        assert_eq!(load.cost(now), 2e6);
        let idle = now + Duration::from_secs(3_600);
        assert_eq!(load.cost(idle), 2.0 * FLOOR_NANOS, "never nothing");
    }

    #[test]
    fn failing_fast_does_not_attract() {
        let (load, now) = (Load::default(), Instant::now());
        load.observe(10 * MS, now);
        load.observe_failure(MS, now + Duration::from_secs(1));
        let before = load.cost(now + Duration::from_secs(1));
        assert!(before > 9e6, "{before}");
        load.observe_failure(20 * MS, now + Duration::from_secs(1));
        assert_eq!(load.cost(now + Duration::from_secs(1)), 2e7);
    }
}
