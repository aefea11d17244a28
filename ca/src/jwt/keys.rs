//! The keys that sign JWT-SVIDs, one after another: each is published an hour before it signs (SPIFFE Federation 4.1), and
//! stays published until the last token it can have signed has expired. Pure: no clock is read and nothing is saved here.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use jsonwebtoken::EncodingKey;
use rcgen::{KeyPair, PublicKeyData as _};
use serde::{Deserialize, Serialize};
use squire_mesh::{
    bundle::JwtKey,
    jwk::{Curve, PublicKey},
};

use super::MAX_JWT_TTL;
use crate::{
    digest::Sha256,
    hierarchy::{self, HierarchyError},
    profile::BACKDATE,
    secret::Secret,
};

/// How long a key signs before another takes its place.
pub const KEY_LIFE: Duration = Duration::from_secs(48 * 3600);
/// How long a key is published before it signs: whoever verifies has it by then.
pub const LEAD: Duration = Duration::from_secs(3600);
/// Characters of a key ID.
const KID: usize = 32;

/// A key, as the state remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtKeyRecord {
    /// Its ID, from its public key.
    pub kid: String,
    /// PKCS#8 PEM.
    pub key: Secret,
    /// It signs from then on, until a later one does; seconds since the epoch.
    pub signs_from: u64,
}

/// A key that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("its JWT key {kid} {what}")]
pub struct JwtKeyError {
    /// Its ID.
    kid: String,
    /// What is wrong with it.
    what: &'static str,
}

/// All keys, parsed and checked.
pub struct JwtKeys(Vec<Key>);

struct Key {
    public: JwtKey,
    private: EncodingKey,
    signs_from: u64,
}

impl JwtKeys {
    /// Parses the keys of a state.
    ///
    /// # Errors
    /// Names the key that is damaged.
    pub fn load(records: &[JwtKeyRecord]) -> Result<Self, JwtKeyError> {
        records.iter().map(Key::load).collect::<Result<_, _>>().map(Self)
    }

    /// What verifies tokens: the keys that have signed, sign, or are going to.
    pub fn published(&self) -> impl Iterator<Item = JwtKey> + '_ {
        self.0.iter().map(|key| key.public.clone())
    }

    /// The ID and key that sign at that time: the last whose time has come.
    pub(crate) fn signer(&self, now: SystemTime) -> Option<(&str, &EncodingKey)> {
        let due = self.0.iter().filter(|key| key.signs_from <= seconds(now));
        // With a clock that was set back, the earliest is the one that verifiers have known for longest.
        let signer = due.max_by_key(|key| key.signs_from).or_else(|| self.0.first());
        signer.map(|key| (key.public.kid(), &key.private))
    }
}

impl Key {
    fn load(record: &JwtKeyRecord) -> Result<Self, JwtKeyError> {
        let wrong = |what| JwtKeyError {
            kid: record.kid.clone(),
            what,
        };
        let pair = KeyPair::from_pem(record.key.expose()).map_err(|_| wrong("is not a PKCS#8 key in PEM"))?;
        if kid(&pair) != record.kid {
            return Err(wrong("is called by another key's name"));
        }
        let public = PublicKey::ec(Curve::P256, pair.der_bytes().to_vec());
        let public = public.and_then(|public| JwtKey::new(&record.kid, public));
        Ok(Self {
            public: public.ok_or_else(|| wrong("is not of curve P-256"))?,
            private: EncodingKey::from_ec_der(&pair.serialize_der()),
            signs_from: record.signs_from,
        })
    }
}

/// The first key of a CA: nobody has seen a token yet, so it signs at once.
pub(crate) fn first(now: SystemTime) -> Result<JwtKeyRecord, HierarchyError> {
    new(now)
}

/// The keys as they should be now, if that is not what they are: the next one is made in time, those whose last token
/// has expired are dropped.
pub(crate) fn next(records: &[JwtKeyRecord], now: SystemTime) -> Result<Option<Vec<JwtKeyRecord>>, HierarchyError> {
    let mut kept: Vec<_> = without_retired(records, now);
    let newest = kept.iter().map(|record| record.signs_from).max();
    match newest {
        None => kept.push(first(now)?),
        Some(newest) if time(newest) + KEY_LIFE - LEAD <= now => kept.push(new(now + LEAD)?),
        Some(_) => {}
    }
    let same = kept.len() == records.len() && kept.iter().zip(records).all(|(one, other)| one.kid == other.kid);
    Ok((!same).then_some(kept))
}

/// The keys with another one that signs after `lead`, whatever the time. `drop_old`: what was signed before is good for
/// nothing any more.
pub(crate) fn rotated(
    records: &[JwtKeyRecord],
    lead: Duration,
    drop_old: bool,
    now: SystemTime,
) -> Result<Vec<JwtKeyRecord>, HierarchyError> {
    let mut kept = if drop_old {
        Vec::new()
    } else {
        without_retired(records, now)
    };
    // One that was to sign later would otherwise take over again.
    let from = now + lead;
    kept.retain(|record| record.signs_from <= seconds(from));
    kept.push(new(from)?);
    Ok(kept)
}

fn without_retired(records: &[JwtKeyRecord], now: SystemTime) -> Vec<JwtKeyRecord> {
    let keep = |record: &&JwtKeyRecord| retired(records, record).is_none_or(|retired| now < retired);
    records.iter().filter(keep).cloned().collect()
}

/// When the last token that this key can have signed has expired; `None` while no later key is there.
#[must_use]
pub fn retired(records: &[JwtKeyRecord], record: &JwtKeyRecord) -> Option<SystemTime> {
    let later = records.iter().map(|other| other.signs_from);
    let successor = later.filter(|from| *from > record.signs_from).min()?;
    Some(time(successor) + MAX_JWT_TTL + BACKDATE)
}

fn new(signs_from: SystemTime) -> Result<JwtKeyRecord, HierarchyError> {
    let pair = hierarchy::new_key()?;
    Ok(JwtKeyRecord {
        kid: kid(&pair),
        key: Secret::new(pair.serialize_pem()),
        signs_from: seconds(signs_from),
    })
}

fn kid(pair: &KeyPair) -> String {
    let mut kid = Sha256::of(&pair.subject_public_key_info()).to_string();
    kid.truncate(KID);
    kid
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

impl fmt::Debug for JwtKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|key| key.public.kid()))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> SystemTime {
        time(1_800_000_000)
    }

    fn hours(n: u64) -> Duration {
        Duration::from_secs(n * 3600)
    }

    fn signer(records: &[JwtKeyRecord], now: SystemTime) -> String {
        JwtKeys::load(records).unwrap().signer(now).unwrap().0.to_owned()
    }

    #[test]
    fn each_key_is_published_before_it_signs_and_until_its_last_token_has_expired() {
        let mut keys = vec![first(now()).unwrap()];
        let (mut signers, mut seen) = (Vec::<String>::new(), Vec::<(String, SystemTime)>::new());
        for minute in 0..14 * 24 * 60 {
            let now = now() + Duration::from_secs(minute * 60);
            if let Some(next) = next(&keys, now).unwrap() {
                keys = next;
            }
            for key in &keys {
                if !seen.iter().any(|(kid, _)| *kid == key.kid) {
                    seen.push((key.kid.clone(), now));
                }
            }
            let signs = signer(&keys, now);
            if signers.last() != Some(&signs) {
                let published = seen.iter().find(|(kid, _)| *kid == signs).unwrap().1;
                assert!(
                    signers.is_empty() || now >= published + LEAD,
                    "published for an hour before it signs"
                );
                signers.push(signs.clone());
            }
            // Whatever was signed in the last hour is still verified.
            if let Some(before) = signers.len().checked_sub(2).map(|at| &signers[at]) {
                let began = keys.iter().find(|key| key.kid == signs).unwrap().signs_from;
                let in_use = now < time(began) + MAX_JWT_TTL;
                assert!(!in_use || keys.iter().any(|key| key.kid == *before));
            }
            assert!(keys.len() <= 2);
        }
        assert_eq!(signers.len(), 7, "a new one every two days");
    }

    #[test]
    fn a_rotation_by_hand_signs_when_it_says_and_drops_the_old_ones_if_asked() {
        let keys = vec![first(now()).unwrap()];
        let later = now() + hours(1);
        let rotated_softly = rotated(&keys, LEAD, false, later).unwrap();
        assert_eq!(rotated_softly.len(), 2);
        assert_eq!(signer(&rotated_softly, later), keys[0].kid);
        assert_eq!(signer(&rotated_softly, later + LEAD), rotated_softly[1].kid);
        let again = rotated(&rotated_softly, Duration::ZERO, false, later).unwrap();
        assert_eq!(again.len(), 2, "the one that had not signed yet is given up");
        assert_eq!(signer(&again, later + hours(5)), again[1].kid);
        let dropped = rotated(&keys, Duration::ZERO, true, later).unwrap();
        assert_eq!((dropped.len(), dropped[0].kid != keys[0].kid), (1, true));
    }

    #[test]
    fn after_a_long_sleep_the_old_key_signs_until_the_next_is_known() {
        let keys = vec![first(now()).unwrap()];
        let much_later = now() + hours(24 * 30);
        let woken = next(&keys, much_later).unwrap().unwrap();
        assert_eq!((woken.len(), signer(&woken, much_later)), (2, keys[0].kid.clone()));
        assert_eq!(signer(&woken, much_later + LEAD), woken[1].kid);
        assert!(next(&woken, much_later + hours(1)).unwrap().is_none());
        let pruned = next(&woken, much_later + LEAD + MAX_JWT_TTL + BACKDATE)
            .unwrap()
            .unwrap();
        assert_eq!(pruned.len(), 1);
    }

    #[test]
    fn a_damaged_key_is_named() {
        let mut key = first(now()).unwrap();
        key.kid = "0".repeat(KID);
        let error = JwtKeys::load(&[key.clone()]).unwrap_err().to_string();
        assert!(error.contains(&key.kid), "{error}");
        key.key = Secret::new("no key".into());
        assert!(JwtKeys::load(&[key]).is_err());
    }
}
