//! What a set of trust bundles has verified lately. The same chain comes again and again: twice in each handshake, and with
//! every new connection of a peer. Its bytes and the roots do not change, only time does, so only time is looked at again;
//! another set of roots has another memo. Failures are never remembered.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use aws_lc_rs::digest::{Context, SHA256};
use rustls::pki_types::CertificateDer;

use super::{Role, VerifiedPeer};

/// Chains that are remembered at most; then the memo starts anew.
const CAPACITY: usize = 1024;

/// SHA-256 of a chain and the role it was shown in.
pub(super) type Key = [u8; 32];

/// Verified chains.
#[derive(Debug, Default)]
pub(crate) struct Memo(Mutex<HashMap<Key, Remembered>>);

#[derive(Debug)]
struct Remembered {
    peer: VerifiedPeer,
    /// Since then every certificate of the path is valid.
    from: SystemTime,
}

pub(super) fn key(chain: &[CertificateDer<'_>], role: Role) -> Key {
    let mut context = Context::new(&SHA256);
    context.update(&[role as u8]);
    for der in chain {
        context.update(&(der.len() as u64).to_be_bytes());
        context.update(der);
    }
    let mut key = [0; 32];
    key.copy_from_slice(context.finish().as_ref());
    key
}

impl Memo {
    /// The peer of a chain, if it was verified before and every certificate of its path is valid at this time.
    pub(super) fn recall(&self, key: &Key, now: SystemTime) -> Option<VerifiedPeer> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.get(key)?;
        (found.from <= now && now <= found.peer.not_after).then(|| found.peer.clone())
    }

    pub(super) fn keep(&self, key: Key, peer: &VerifiedPeer, from: SystemTime) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= CAPACITY {
            all.clear();
        }
        all.insert(
            key,
            Remembered {
                peer: peer.clone(),
                from,
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::{
        bundle::TrustBundles,
        svid::{
            IdentifyError, Role,
            corpus::{Ca, leaf, now},
            identify,
        },
    };

    const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

    #[test]
    fn a_remembered_chain_still_expires_and_is_not_valid_before_its_time() {
        let ca = Ca::new("cluster.local", "Test root");
        let (bundles, chain) = (ca.bundles(), ca.sign(&leaf(WEB)));
        let at = |time| identify(&chain, &bundles, time, Role::Client);
        let peer = at(now()).unwrap();
        assert_eq!(at(now()).unwrap(), peer);
        let second = Duration::from_secs(1);
        assert_eq!(at(peer.not_after()).unwrap(), peer);
        assert!(matches!(
            at(peer.not_after() + second),
            Err(IdentifyError::Expired { .. })
        ));
        assert!(matches!(
            at(peer.not_before() - second),
            Err(IdentifyError::NotYetValid { .. })
        ));
    }

    #[test]
    fn what_one_set_of_roots_has_verified_means_nothing_to_another() {
        let (ca, other) = (Ca::new("cluster.local", "One"), Ca::new("cluster.local", "Two"));
        let (bundles, chain) = (ca.bundles(), ca.sign(&leaf(WEB)));
        identify(&chain, &bundles, now(), Role::Client).unwrap();
        for others in [
            other.bundles(),
            bundles.with(other.bundle()),
            bundles.without(&ca.domain),
            TrustBundles::default(),
        ] {
            assert!(identify(&chain, &others, now(), Role::Client).is_err());
        }
        assert!(identify(&chain, &bundles.clone(), now(), Role::Client).is_ok());
    }

    #[test]
    fn another_chain_of_the_same_leaf_is_another_chain() {
        let ca = Ca::new("cluster.local", "Test root");
        let (bundles, chain) = (ca.bundles(), ca.sign(&leaf(WEB)));
        identify(&chain, &bundles, now(), Role::Client).unwrap();
        assert!(identify(&chain[..1], &bundles, now(), Role::Client).is_err());
        let mut forged = chain.clone();
        let mut bytes = forged[0].to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        forged[0] = bytes.into();
        assert!(identify(&forged, &bundles, now(), Role::Client).is_err());
    }
}
