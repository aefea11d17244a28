//! The bundles of several trust domains, one for each and never one out of several.

use std::{collections::BTreeMap, sync::Arc};

use aws_lc_rs::digest;

use super::{BundleError, Root, RootDigest, TrustBundle, hex};
use crate::{spiffe::TrustDomain, svid::memo::Memo};

/// The bundles of all trust domains that are trusted.
#[derive(Debug, Clone)]
pub struct TrustBundles {
    by_domain: BTreeMap<TrustDomain, TrustBundle>,
    digest: String,
    /// What these very roots have verified; a change of roots makes a new one.
    memo: Arc<Memo>,
}

impl TrustBundles {
    /// Puts bundles together, one per trust domain; the last one of a domain wins.
    #[must_use]
    pub fn new(bundles: impl IntoIterator<Item = TrustBundle>) -> Self {
        let by_domain: BTreeMap<_, _> = bundles
            .into_iter()
            .map(|bundle| (bundle.trust_domain().clone(), bundle))
            .collect();
        let digest = digest_of(&by_domain);
        Self {
            by_domain,
            digest,
            memo: Arc::default(),
        }
    }

    /// The bundle of a single trust domain, read from PEM `CERTIFICATE` blocks.
    ///
    /// # Errors
    /// As [`TrustBundle::from_pem`].
    pub fn from_pem(trust_domain: &TrustDomain, pem: &[u8]) -> Result<Self, BundleError> {
        TrustBundle::from_pem(trust_domain, pem).map(|bundle| Self::new([bundle]))
    }

    /// The same bundles with this one put in place of its domain's.
    #[must_use]
    pub fn with(&self, bundle: TrustBundle) -> Self {
        Self::new(self.by_domain.values().cloned().chain([bundle]))
    }

    /// The same bundles without this domain's.
    #[must_use]
    pub fn without(&self, trust_domain: &TrustDomain) -> Self {
        Self::new(
            self.by_domain
                .values()
                .filter(|bundle| bundle.trust_domain() != trust_domain)
                .cloned(),
        )
    }

    /// The bundle of a trust domain.
    #[must_use]
    pub fn get(&self, trust_domain: &TrustDomain) -> Option<&TrustBundle> {
        self.by_domain.get(trust_domain)
    }

    /// All bundles, sorted by trust domain.
    pub fn iter(&self) -> impl Iterator<Item = &TrustBundle> {
        self.by_domain.values()
    }

    /// Whether these are the same bundles, sequence numbers and the roots that sign included.
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        let facts = |bundles: &Self| -> Vec<_> {
            bundles
                .iter()
                .map(|bundle| (bundle.sequence(), bundle.signing()))
                .collect()
        };
        self == other && facts(self) == facts(other)
    }

    /// Whether this root still vouches for this trust domain.
    #[must_use]
    pub fn holds(&self, trust_domain: &TrustDomain, root: RootDigest) -> bool {
        self.get(trust_domain)
            .is_some_and(|bundle| bundle.roots().iter().any(|known| known.digest() == root))
    }

    pub(crate) fn memo(&self) -> &Memo {
        &self.memo
    }

    /// SHA-256 over the trust domains and their sorted roots, hex: equal exactly when the same roots are trusted for
    /// the same domains, whatever their order and sequence numbers.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

impl Default for TrustBundles {
    fn default() -> Self {
        Self::new([])
    }
}

fn digest_of(bundles: &BTreeMap<TrustDomain, TrustBundle>) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for bundle in bundles.values() {
        hash_roots(&mut context, bundle);
    }
    hex(context.finish().as_ref())
}

/// Puts a trust domain and its sorted roots into a digest.
pub(super) fn hash_roots(context: &mut digest::Context, bundle: &TrustBundle) {
    let domain = bundle.trust_domain().as_str();
    let mut roots: Vec<_> = bundle.roots().iter().map(Root::digest).collect();
    roots.sort_unstable();
    context.update(&(domain.len() as u64).to_be_bytes());
    context.update(domain.as_bytes());
    context.update(&(roots.len() as u64).to_be_bytes());
    roots.iter().for_each(|root| context.update(&root.0));
}

/// Equal when they say the same of the same trust domains.
impl PartialEq for TrustBundles {
    fn eq(&self, other: &Self) -> bool {
        self.by_domain == other.by_domain
    }
}
