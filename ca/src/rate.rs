//! How many certificates one identity is issued: a bucket for each, filled at a steady pace, so that one broken or stolen
//! workload cannot keep the CA busy or fill its log. It counts; it judges nobody.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use squire_mesh::spiffe::SpiffeId;

/// For each identity: a service account may stand for many pods that all start at once.
pub const DEFAULT_RATE: u32 = 50;
/// So many seconds' worth may be asked for at once.
const BURST_SECONDS: u32 = 20;
/// Identities that are remembered before those with full buckets are forgotten.
const MANY: usize = 10_000;

/// The buckets.
#[derive(Debug)]
pub struct Rates {
    per_second: f64,
    buckets: Mutex<HashMap<SpiffeId, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: SystemTime,
}

/// An identity has asked for too many certificates.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{id} has been issued more certificates than the limit allows: try again in {} s; find out what asks for them (`squire ca log --id {id}`)",
    again.as_secs().max(1)
)]
pub struct TooMany {
    /// Who.
    pub id: SpiffeId,
    /// When there will be one.
    pub again: Duration,
}

impl Rates {
    /// So many a second for each identity, after a burst of 20 seconds' worth.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        Self {
            per_second: f64::from(per_second.max(1)),
            buckets: Mutex::default(),
        }
    }

    /// Takes one from the identity's bucket.
    ///
    /// # Errors
    /// When it is empty.
    pub fn take(&self, id: &SpiffeId, now: SystemTime) -> Result<(), TooMany> {
        let full = self.per_second * f64::from(BURST_SECONDS);
        // Plain numbers: a panic elsewhere has left none in halves.
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let level = |bucket: &Bucket| {
            let since = now.duration_since(bucket.at).unwrap_or_default();
            (bucket.left + since.as_secs_f64() * self.per_second).min(full)
        };
        if buckets.len() >= MANY && !buckets.contains_key(id) {
            buckets.retain(|_, bucket| level(bucket) < full);
        }
        let left = buckets.get(id).map_or(full, level);
        if left < 1.0 {
            return Err(TooMany {
                id: id.clone(),
                again: Duration::from_secs_f64((1.0 - left) / self.per_second),
            });
        }
        let bucket = Bucket {
            left: left - 1.0,
            at: now,
        };
        buckets.insert(id.clone(), bucket);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_000 + millis)
    }

    fn id(account: &str) -> SpiffeId {
        format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap()
    }

    #[test]
    fn an_identity_gets_a_burst_then_a_pace_and_takes_nothing_from_others() {
        let rates = Rates::new(2);
        for _ in 0..40 {
            rates.take(&id("web"), at(0)).unwrap();
        }
        let refused = rates.take(&id("web"), at(0)).unwrap_err();
        assert_eq!(refused.again, Duration::from_millis(500));
        assert!(refused.to_string().contains("try again in 1 s"), "{refused}");
        rates.take(&id("db"), at(0)).unwrap();
        assert!(rates.take(&id("web"), at(499)).is_err());
        rates.take(&id("web"), at(500)).unwrap();
        assert!(rates.take(&id("web"), at(500)).is_err());
        // A clock that is set back gives nothing and takes nothing.
        assert!(rates.take(&id("web"), at(0)).is_err());
    }

    #[test]
    fn what_is_remembered_does_not_grow_with_everybody_who_ever_asked() {
        let rates = Rates::new(1000);
        for nth in 0..2 * MANY as u64 {
            rates.take(&id(&format!("a{nth}")), at(nth)).unwrap();
        }
        let kept = rates.buckets.lock().unwrap().len();
        assert!(kept <= MANY + 1, "{kept}");
    }
}
