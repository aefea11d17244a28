//! Follows the bundles of federated trust domains: each is fetched by its own task, again after the time its owner hints at,
//! and with growing pauses while that fails. The last good one stays; its age can be seen.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use serde::Serialize;
use squire_mesh::{
    bundle::{TrustBundle, TrustBundles},
    spiffe::TrustDomain,
};
use tokio::{sync::watch, task::AbortHandle};
use tokio_util::sync::CancellationToken;

use super::{
    Federated,
    fetch::{FetchError, fetch},
    figures::FederationFigures,
    keep::{Fetched, Shelf},
};
use crate::push::epoch_seconds;

/// How often to look when the bundle does not say (Trust Domain and Bundle 4.1.2).
const DEFAULT_HINT: Duration = Duration::from_secs(300);
/// Bounds on what a bundle may ask for.
const HINTS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3600)];
/// Bounds of the pause after a failure.
const RETRIES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(300)];

/// What is configured; `None` until that is known.
type Settings = watch::Receiver<Option<Arc<[Federated]>>>;

/// Follows all of them.
pub struct Federation {
    own: TrustDomain,
    settings: Settings,
    followed: BTreeMap<TrustDomain, Followed>,
    shared: Arc<Shared>,
}

/// A trust domain that is followed.
struct Followed {
    settings: Federated,
    task: AbortHandle,
}

/// What all tasks share.
struct Shared {
    held: Mutex<BTreeMap<TrustDomain, Held>>,
    /// Why the last attempt failed, where it did.
    failures: Mutex<BTreeMap<TrustDomain, String>>,
    publish: watch::Sender<Arc<[TrustBundle]>>,
    shelf: Shelf,
    figures: FederationFigures,
}

/// What is held of one trust domain.
struct Held {
    bundle: TrustBundle,
    /// When it was last seen at its endpoint; `None`: it is what the settings gave.
    seen: Option<SystemTime>,
}

/// What is held of one trust domain, for people.
#[derive(Debug, Clone, Serialize)]
pub struct FederationView {
    /// Whose bundle.
    pub trust_domain: String,
    /// Its sequence number.
    pub sequence: u64,
    /// SHA-256 of its roots.
    pub roots: Vec<String>,
    /// IDs of its keys for JWT-SVIDs.
    pub jwt_keys: Vec<String>,
    /// When it was last seen at its endpoint, in seconds since the epoch; `null`: never.
    pub seen: Option<u64>,
    /// Why the last attempt failed.
    pub failure: Option<String>,
}

/// Shows what is held.
#[derive(Clone)]
pub struct Views(Arc<Shared>);

impl Federation {
    /// Begins with what was kept on disk: until the settings are known, that is what is in force. Blocks.
    pub fn new(
        own: TrustDomain,
        settings: Settings,
        dir: Option<std::path::PathBuf>,
        figures: FederationFigures,
    ) -> (Self, watch::Receiver<Arc<[TrustBundle]>>, Views) {
        let shelf = Shelf::new(dir);
        let held = shelf
            .read()
            .into_iter()
            .filter(|kept| *kept.bundle.trust_domain() != own);
        let held = held.map(|kept| {
            let held = Held {
                bundle: kept.bundle,
                seen: Some(kept.at),
            };
            (held.bundle.trust_domain().clone(), held)
        });
        let shared = Arc::new(Shared {
            held: Mutex::new(held.collect()),
            failures: Mutex::default(),
            publish: watch::Sender::new(Arc::from([])),
            shelf,
            figures,
        });
        shared.publish();
        let (bundles, views) = (shared.publish.subscribe(), Views(Arc::clone(&shared)));
        let federation = Self {
            own,
            settings,
            followed: BTreeMap::new(),
            shared,
        };
        (federation, bundles, views)
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let settings = self.settings.borrow_and_update().clone();
            if let Some(settings) = settings {
                self.configure(&settings);
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = self.settings.changed() => if changed.is_err() { return },
            }
        }
    }

    fn configure(&mut self, settings: &[Federated]) {
        let wanted = |domain: &TrustDomain| settings.iter().find(|federated| federated.trust_domain == *domain);
        let known: Vec<_> = self.shared.lock().keys().chain(self.followed.keys()).cloned().collect();
        for domain in known.iter().filter(|domain| wanted(domain).is_none()) {
            if let Some(followed) = self.followed.remove(domain) {
                followed.task.abort();
            }
            if self.shared.forget(domain) {
                tracing::info!(%domain, "not federated with any more: its identities are strangers again");
            }
        }
        for federated in settings {
            let domain = &federated.trust_domain;
            if *domain == self.own {
                tracing::error!(%domain, "this is our own trust domain: its bundle comes from our CA alone");
                continue;
            }
            match self.followed.get(domain) {
                Some(followed) if followed.settings == *federated => continue,
                Some(followed) => followed.task.abort(),
                None => self.shared.figures.begin(domain.as_str()),
            }
            self.shared.begin_with(federated);
            let task = tokio::spawn(follow(federated.clone(), Arc::clone(&self.shared))).abort_handle();
            let settings = federated.clone();
            self.followed.insert(domain.clone(), Followed { settings, task });
        }
    }
}

impl Drop for Federation {
    fn drop(&mut self) {
        self.followed.values().for_each(|followed| followed.task.abort());
    }
}

/// Looks after one trust domain for ever.
async fn follow(federated: Federated, shared: Arc<Shared>) {
    let domain = &federated.trust_domain;
    let mut failures = 0_u32;
    loop {
        let trusted = shared.trusted();
        let wait = match fetch(&federated, trusted).await {
            Ok(bundle) => {
                failures = 0;
                let hint = bundle.refresh_hint().unwrap_or(DEFAULT_HINT).clamp(HINTS[0], HINTS[1]);
                shared.take(&federated, bundle);
                hint
            }
            Err(error) => {
                let wait = RETRIES[0]
                    .saturating_mul(1 << failures.min(16))
                    .clamp(RETRIES[0], RETRIES[1]);
                failures = failures.saturating_add(1);
                shared.failed(domain, &error, wait);
                wait
            }
        };
        // Not all replicas and all domains in the same moment.
        tokio::time::sleep(wait.mul_f64(jitter(domain))).await;
    }
}

/// 0.9 to 1.0, from the clock and the name: good enough to spread requests.
fn jitter(domain: &TrustDomain) -> f64 {
    let clock = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let mix = domain
        .as_str()
        .bytes()
        .fold(u64::from(clock.subsec_nanos()), |mix, byte| {
            mix.wrapping_mul(31).wrapping_add(byte.into())
        });
    0.9 + 0.1 * f64::from(u32::try_from(mix % 1000).unwrap_or(0)) / 1000.0
}

impl Shared {
    /// What SVIDs of endpoints are verified by: each by the bundle of its own trust domain.
    fn trusted(&self) -> Arc<TrustBundles> {
        Arc::new(TrustBundles::new(self.lock().values().map(|held| held.bundle.clone())))
    }

    /// What the settings give counts where nothing was fetched, and where an admin has changed it since.
    fn begin_with(&self, federated: &Federated) {
        let domain = &federated.trust_domain;
        let kept = self.shelf.read();
        let kept = kept.iter().find(|kept| kept.bundle.trust_domain() == domain);
        let outdated = kept.is_none_or(|kept| kept.bootstrap != federated.bootstrap);
        let mut held = self.lock();
        if let (Some(bootstrap), true) = (&federated.bootstrap, outdated) {
            let first = Held {
                bundle: bootstrap.clone(),
                seen: None,
            };
            held.insert(domain.clone(), first);
        }
        if let Some(held) = held.get(domain) {
            self.figures.held(&held.bundle, held.seen.map_or(0, epoch_seconds));
        }
        drop(held);
        self.publish();
    }

    fn take(&self, federated: &Federated, bundle: TrustBundle) {
        let (domain, now) = (&federated.trust_domain, SystemTime::now());
        let mut all = self.lock();
        let known = all.get(domain);
        if let Some(known) = known.filter(|known| bundle.sequence() < known.bundle.sequence()) {
            let (held, served) = (known.bundle.sequence(), bundle.sequence());
            drop(all);
            self.figures.counted(domain.as_str(), "older");
            return self.complain(domain, &format!(
                "its endpoint serves sequence {served}, older than {held}, which is held: if the mesh was founded anew, change \
                 the bundle in the settings"
            ));
        }
        let changed = known.is_none_or(|known| known.bundle != bundle || known.bundle.sequence() != bundle.sequence());
        let fetched = Fetched {
            bundle: bundle.clone(),
            at: now,
            bootstrap: federated.bootstrap.clone(),
        };
        if let Err(error) = self.shelf.keep(&fetched) {
            tracing::error!(%domain, %error, "a bundle could not be kept on disk: it will have to be fetched again after a restart");
        }
        self.figures.counted(domain.as_str(), "ok");
        self.figures.held(&bundle, epoch_seconds(now));
        let roots = bundle.roots().len();
        let sequence = bundle.sequence();
        let held = Held {
            bundle,
            seen: Some(now),
        };
        all.insert(domain.clone(), held);
        drop(all);
        if self.failures().remove(domain).is_some() {
            tracing::info!(%domain, "its bundle endpoint answers again");
        }
        if changed {
            tracing::info!(%domain, sequence, roots, "the bundle of a federated trust domain has changed");
            self.publish();
        }
    }

    fn failed(&self, domain: &TrustDomain, error: &FetchError, wait: Duration) {
        self.figures.counted(domain.as_str(), error.label());
        tracing::debug!(%domain, %error, retry_in_ms = wait.as_millis(), "a bundle could not be fetched");
        self.complain(domain, &error.to_string());
    }

    /// Says so once, not at every attempt.
    fn complain(&self, domain: &TrustDomain, why: &str) {
        let said = self.failures().insert(domain.clone(), why.to_owned());
        if said.is_none_or(|said| said != why) {
            let consequence = if self.lock().contains_key(domain) {
                "the last good one stays"
            } else {
                "its identities are strangers"
            };
            tracing::warn!(%domain, why, "no newer bundle of a federated trust domain: {consequence}");
        }
    }

    fn forget(&self, domain: &TrustDomain) -> bool {
        let gone = self.lock().remove(domain).is_some();
        self.failures().remove(domain);
        self.shelf.forget(domain);
        self.figures.end(domain.as_str());
        self.publish();
        gone
    }

    fn publish(&self) {
        let bundles: Arc<[TrustBundle]> = self.lock().values().map(|held| held.bundle.clone()).collect();
        self.publish.send_if_modified(|published| {
            let changed = published[..] != bundles[..];
            if changed {
                *published = bundles;
            }
            changed
        });
    }

    fn failures(&self) -> MutexGuard<'_, BTreeMap<TrustDomain, String>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TrustDomain, Held>> {
        // Whole entries are put in and taken out: a panic elsewhere has left none in halves.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Views {
    /// What is held of each trust domain.
    pub fn all(&self) -> Vec<FederationView> {
        let failures = self.0.failures().clone();
        let view = |(domain, held): (&TrustDomain, &Held)| FederationView {
            trust_domain: domain.to_string(),
            sequence: held.bundle.sequence(),
            roots: held
                .bundle
                .roots()
                .iter()
                .map(|root| root.digest().to_string())
                .collect(),
            jwt_keys: held.bundle.jwt_keys().iter().map(|key| key.kid().to_owned()).collect(),
            seen: held.seen.map(epoch_seconds),
            failure: failures.get(domain).cloned(),
        };
        self.0.lock().iter().map(view).collect()
    }
}

impl std::fmt::Debug for Views {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.all()).finish()
    }
}
