//! Service accounts that are gone, although certificates in their name may still be valid. While an account does not exist,
//! nobody is it; when it is made anew, certificates of the one before it are not its own.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use squire_mesh::{
    spiffe::{SpiffeId, TrustDomain},
    svid::Revocations,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::raw::Raw;
use crate::facts::Key;

/// No certificate lives longer, with some time for clocks that differ.
const MEMORY: Duration = Duration::from_secs(25 * 3600);
/// How long before the moment of issue a certificate begins to be valid, for clocks that are late.
const BACKDATE: Duration = Duration::from_secs(300);

/// Accounts remembered at once: every proxy holds all of them. Beyond, the oldest is forgotten.
const MOST: usize = 5_000;

/// Accounts that are gone, and those made anew.
#[derive(Default)]
pub(super) struct Accounts {
    gone: BTreeMap<Key, Gone>,
    changed: bool,
}

struct Gone {
    /// When it was last seen to be gone.
    at: SystemTime,
    /// When an account of that name was made again.
    remade: Option<SystemTime>,
}

impl Accounts {
    /// An account has been deleted.
    pub(super) fn deleted(&mut self, key: &Key, at: SystemTime) {
        self.gone.insert(key.clone(), Gone { at, remade: None });
        self.changed = true;
        if self.gone.len() > MOST
            && let Some(oldest) = self
                .gone
                .iter()
                .min_by_key(|(_, gone)| gone.at)
                .map(|(key, _)| key.clone())
        {
            tracing::warn!(account = %oldest, "more than {MOST} service accounts were deleted within a day: certificates of this one are no longer refused");
            self.gone.remove(&oldest);
        }
    }

    /// An account exists.
    pub(super) fn present(&mut self, key: &Key, raw: &Raw) {
        if let Some(gone) = self.gone.get_mut(key).filter(|gone| gone.remade.is_none()) {
            gone.remade = Some(created(raw).unwrap_or_else(SystemTime::now));
            self.changed = true;
        }
    }

    /// Forgets accounts of which no certificate can be valid any more. Whether there were any.
    pub(super) fn forget_old(&mut self, now: SystemTime) -> bool {
        let before = self.gone.len();
        self.gone
            .retain(|_, gone| now.duration_since(gone.at).unwrap_or_default() < MEMORY);
        let forgotten = self.gone.len() != before;
        self.changed |= forgotten;
        forgotten
    }

    /// What nobody may be any more, if that is different from the last time.
    pub(super) fn revocations(&mut self, domain: &TrustDomain) -> Option<Revocations> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let mut revocations = Revocations::default();
        for (key, gone) in &self.gone {
            // A name that can have no identity never had one.
            let Ok(id) = SpiffeId::workload(domain, &key.namespace, &key.name) else {
                continue;
            };
            let (reason, limit) = match gone.remade {
                None => (format!("the service account {key} was deleted"), None),
                Some(remade) => (
                    format!("it was issued to a service account {key} that has been deleted since"),
                    Some(remade - BACKDATE),
                ),
            };
            revocations.revoke_identity(id, reason, limit);
        }
        Some(revocations)
    }
}

fn created(raw: &Raw) -> Option<SystemTime> {
    let text = raw.value.get("metadata")?.get("creationTimestamp")?.as_str()?;
    Some(OffsetDateTime::parse(text, &Rfc3339).ok()?.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key() -> Key {
        Key {
            namespace: "shop".into(),
            name: "web".into(),
        }
    }

    fn account(created: &str) -> Raw {
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "shop", "creationTimestamp": created}}))
            .unwrap()
    }

    #[test]
    fn an_account_made_anew_does_not_inherit_certificates() {
        let domain: TrustDomain = "cluster.local".parse().unwrap();
        let id = SpiffeId::workload(&domain, "shop", "web").unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let mut accounts = Accounts::default();
        assert!(accounts.revocations(&domain).is_none());
        accounts.deleted(&key(), now);
        let gone = accounts.revocations(&domain).unwrap();
        assert!(
            gone.check_identity(&id, now + Duration::from_secs(60)).is_err(),
            "nobody is it"
        );
        // 2027-01-15T08:00:00Z is 1_800_000_000.
        accounts.present(&key(), &account("2027-01-15T08:01:40Z"));
        let remade = accounts.revocations(&domain).unwrap();
        let issued = |seconds: u64| remade.check_identity(&id, now + Duration::from_secs(seconds) - BACKDATE);
        assert!(issued(99).is_err() && issued(100).is_ok());
        assert!(accounts.forget_old(now + MEMORY) && accounts.revocations(&domain).unwrap().is_empty());
    }
}
