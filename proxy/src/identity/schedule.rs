//! When to renew: at a random point in 50–60 % of what is left of a new SVID's life, so that there is time for many
//! failed attempts and sidecars do not ask all at once. It reads no clock.

use std::time::{Duration, SystemTime};

/// When an SVID that lives from `now` to `end` is renewed; `roll` is uniform in 0..1.
pub(super) fn renewal_point(now: SystemTime, end: SystemTime, roll: f64) -> SystemTime {
    within(now, end, 0.5 + 0.1 * roll.clamp(0.0, 1.0))
}

/// When to open the next stream under a newer SVID: well before the server cuts the one that this SVID opened.
pub(crate) fn handover_point(now: SystemTime, end: SystemTime, roll: f64) -> SystemTime {
    within(now, end, 0.8 + 0.1 * roll.clamp(0.0, 1.0))
}

fn within(now: SystemTime, end: SystemTime, share: f64) -> SystemTime {
    now + end.duration_since(now).unwrap_or(Duration::ZERO).mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_lies_in_50_to_60_percent_of_the_life_that_is_left() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        for (life, roll, expected) in [
            (3600.0, 0.0, 1800.0),
            (3600.0, 0.5, 1980.0),
            (3600.0, 1.0, 2160.0),
            (10.0, 0.0, 5.0),
            (10.0, 7.0, 6.0),
        ] {
            let point = renewal_point(now, now + Duration::from_secs_f64(life), roll);
            let after = point.duration_since(now).unwrap().as_secs_f64();
            assert!((after - expected).abs() < 1e-6, "{life} {roll}: {after}");
        }
        let past = now - Duration::from_secs(5);
        assert_eq!(renewal_point(now, past, 0.5), now, "what has ended is renewed at once");
    }

    #[test]
    fn handover_comes_after_renewal_and_before_the_end() {
        let now = SystemTime::UNIX_EPOCH;
        let end = now + Duration::from_secs(100);
        assert!(renewal_point(now, end, 1.0) < handover_point(now, end, 0.0));
        assert!(handover_point(now, end, 1.0) < end);
    }
}
