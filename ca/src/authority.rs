//! The certificate authority at work: holds the hierarchy, signs leaves for attested identities, renews its intermediate, and
//! says when the bundle changes. Nothing leaves it that is not in the issuance log, and nothing takes effect that is not
//! in the store. It does not judge who asks: that is the attestors' work.

mod fence;
mod issued;
mod jwt;
mod refresh;
mod replicas;
mod revoke;
mod rotate;
mod supplied;
mod upkeep;

pub use issued::{IssueError, Issued};
pub use revoke::RevokeError;
pub use rotate::RotateError;
pub use supplied::ImportError;
pub use upkeep::INTERMEDIATE_RENEWAL_PERCENT;

use std::{
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant, SystemTime},
};

use rcgen::PublicKeyData;
use rustls::pki_types::PrivateKeyDer;
use squire_mesh::{
    bundle::TrustBundle,
    spiffe::{SpiffeId, TrustDomain},
    svid::Revocations,
    tls::Svid,
};
use tokio::sync::watch;

use self::{fence::Fence, replicas::Left};
use crate::{
    attest::Attested,
    csr::Csr,
    digest::Sha256,
    hierarchy::{self, Hierarchy, HierarchyError, Signer},
    log::{self, Event, Log, LogError, rfc3339},
    profile::granted_ttl,
    revocation,
    roster::{Leaf, Roster},
    state::{State, StateError},
    status::Status,
    store::{Store, StoreError},
};

/// The workload that the control plane's own SVID stands beside; a replica's name follows where there are several.
pub const OWN: &str = "control-plane";

/// A CA that is open for business.
pub struct CertificateAuthority {
    store: Arc<dyn Store>,
    log: Log,
    domain: TrustDomain,
    current: RwLock<Arc<Current>>,
    bundle: watch::Sender<Arc<TrustBundle>>,
    revocations: watch::Sender<Arc<Revocations>>,
    /// One change of the state at a time.
    changing: Mutex<()>,
    roster: Roster,
    /// Since when the gate of the bundle with this number has been open.
    open_since: Mutex<Option<(u64, SystemTime)>>,
    /// The workload that this process' own SVID stands beside.
    own: String,
    fence: Fence,
    left: Mutex<Left>,
    /// How long a root is handed out at least before it signs.
    published: Mutex<Duration>,
}

struct Current {
    state: State,
    hierarchy: Hierarchy,
}

/// Why a CA cannot be initialised or opened, or cannot change its state.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The store failed, or is not what it should be.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log failed, or was tampered with.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The state does not hold together.
    #[error("the CA's state is not valid: {0}")]
    State(#[from] StateError),
    /// Keys and certificates could not be made.
    #[error("{0}")]
    Hierarchy(#[from] HierarchyError),
}

impl CertificateAuthority {
    /// Founds a CA: makes root and intermediate, logs them, saves the state. Blocks.
    ///
    /// # Errors
    /// When there is a CA in the store already, or the store fails; then nothing has taken effect.
    pub fn init(store: &Arc<dyn Store>, domain: &TrustDomain, now: SystemTime) -> Result<Status, CaError> {
        Self::begin(store, now, || Hierarchy::found(domain, now))
    }

    fn begin(
        store: &Arc<dyn Store>,
        now: SystemTime,
        found: impl FnOnce() -> Result<State, HierarchyError>,
    ) -> Result<Status, CaError> {
        if let Some(existing) = store.load()? {
            return Err(StoreError::AlreadyInitialised {
                path: store.place(),
                domain: existing.trust_domain,
            }
            .into());
        }
        log::begin(&**store)?;
        let log = Log::open(Arc::clone(store))?;
        let state = found()?;
        let hierarchy = Hierarchy::load(&state)?;
        log.append_blocking(root_event(hierarchy.root()), now)?;
        let mut entries = log.append_blocking(intermediate_event(&hierarchy), now)?;
        for key in &state.jwt_keys {
            entries = log.append_blocking(jwt::jwt_key_event(key), now)?;
        }
        store.save(&state)?;
        Ok(Status::of(&state, &hierarchy, entries))
    }

    /// Opens a CA, checks everything it remembers, and renews the intermediate if that is due. Blocks.
    ///
    /// # Errors
    /// When there is none, it is damaged, it belongs to another trust domain than `wanted`, or the store fails.
    pub fn open(store: Arc<dyn Store>, wanted: Option<&TrustDomain>, now: SystemTime) -> Result<Arc<Self>, CaError> {
        let asked = Instant::now();
        let state = store.load()?.ok_or_else(|| StoreError::NotInitialised(store.place()))?;
        let domain = state.domain()?;
        if let Some(wanted) = wanted.filter(|wanted| **wanted != domain) {
            let (found, wanted) = (domain.to_string(), wanted.to_string());
            return Err(StoreError::OtherTrustDomain {
                path: store.place(),
                found,
                wanted,
            }
            .into());
        }
        let log = Log::open(Arc::clone(&store))?;
        let hierarchy = Hierarchy::load(&state)?;
        let bundle = watch::Sender::new(Arc::new(hierarchy.bundle().clone()));
        let revocations = watch::Sender::new(Arc::new(revocation::in_force(&state.revocations)));
        let roster = Roster::default();
        roster.intermediate(hierarchy.intermediate().key_id(), &state.intermediate.root);
        let fence = Fence::new(state.sequence, asked);
        let current = RwLock::new(Arc::new(Current { state, hierarchy }));
        let own = match store.replica() {
            Some(replica) => format!("{OWN}/{replica}"),
            None => OWN.to_owned(),
        };
        let ca = Arc::new(Self {
            store,
            log,
            domain,
            current,
            bundle,
            revocations,
            changing: Mutex::new(()),
            roster,
            open_since: Mutex::default(),
            own,
            fence,
            left: Mutex::default(),
            published: Mutex::default(),
        });
        ca.renew_intermediate_if_due(now)?;
        ca.advance_jwt_keys(now)?;
        Ok(ca)
    }

    /// Whose CA this is.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The roots that peers must trust now.
    #[must_use]
    pub fn bundle(&self) -> Arc<TrustBundle> {
        Arc::clone(&self.bundle.borrow())
    }

    /// Tells of every change of the bundle.
    #[must_use]
    pub fn watch_bundle(&self) -> watch::Receiver<Arc<TrustBundle>> {
        self.bundle.subscribe()
    }

    /// What the CA holds and when it ends.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn status(&self) -> Result<Status, CaError> {
        let current = self.current();
        let entries = self.store.log_head()?.map_or(0, |head| head.count);
        Ok(Status::of(&current.state, &current.hierarchy, entries))
    }

    /// Signs a leaf for an attested identity, and returns it once it is in the log. Names in the request play no part.
    ///
    /// # Errors
    /// When the identity is not ours to sign, or signing or logging fails; then no certificate exists.
    pub async fn issue(
        &self,
        attested: &Attested,
        csr: &Csr,
        ttl: Option<Duration>,
        now: SystemTime,
    ) -> Result<Issued, IssueError> {
        self.issue_for(attested, csr.key(), csr.fingerprint(), ttl, now).await
    }

    /// An SVID for the control plane itself; its key is made here and never saved.
    ///
    /// # Errors
    /// As [`CertificateAuthority::issue`].
    pub async fn issue_own(&self, id: SpiffeId, ttl: Option<Duration>, now: SystemTime) -> Result<Svid, IssueError> {
        let key = hierarchy::new_key().map_err(|error| IssueError::Sign(error.to_string()))?;
        let fingerprint = Sha256::of(&key.subject_public_key_info());
        let attested = Attested {
            id,
            attestor: "ca",
            subject: "the control plane itself".into(),
            workload: Some(self.own.clone()),
        };
        let issued = self.issue_for(&attested, &key, fingerprint, ttl, now).await?;
        Ok(Svid::new(
            issued.chain,
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )?)
    }

    async fn issue_for(
        &self,
        attested: &Attested,
        key: &impl PublicKeyData,
        fingerprint: Sha256,
        ttl: Option<Duration>,
        now: SystemTime,
    ) -> Result<Issued, IssueError> {
        loop {
            self.check_fence()?;
            self.revocations.borrow().check_identity(&attested.id, now)?;
            let current = self.current();
            let mut issued = issued::sign(&current.hierarchy, &attested.id, key, granted_ttl(ttl), now)?;
            let issuer = current.hierarchy.intermediate().key_id();
            let event = Event::Issued {
                id: attested.id.to_string(),
                serial: issued.serial.to_string(),
                not_before: rfc3339(issued.validity.not_before),
                not_after: rfc3339(issued.validity.not_after),
                key_sha256: fingerprint,
                issuer: issuer.to_owned(),
                attestor: attested.attestor.to_owned(),
                subject: attested.subject.clone(),
                workload: attested.workload.clone(),
            };
            issued.entry = self.log.append(event, now).await?;
            self.roster.issued(Leaf {
                number: issued.entry,
                id: attested.id.clone(),
                workload: attested.workload.as_deref(),
                serial: &issued.serial.to_string(),
                issuer,
                not_before: issued.validity.not_before,
                not_after: issued.validity.not_after,
            });
            self.check_fence()?;
            // Another root has begun to sign meanwhile: nothing under the one before is handed out any more, so that whoever
            // is known to hold an SVID under the new one holds no older one unseen.
            let latest = self.current();
            if latest.state.active_root == current.state.active_root {
                let roots = latest.hierarchy.bundle().roots();
                issued.roots = roots.iter().map(|root| root.der().clone()).collect();
                return Ok(issued);
            }
        }
    }

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether this replica may sign by the state it knows.
    fn check_fence(&self) -> Result<(), IssueError> {
        match self.store.replica().and_then(|_| self.fence.is_stale(Instant::now())) {
            Some(age) => Err(IssueError::Stale { seconds: age.as_secs() }),
            None => Ok(()),
        }
    }

    /// Saves a state, then lets it take effect.
    fn save_and_adopt(&self, state: State) -> Result<(), CaError> {
        let hierarchy = Hierarchy::load(&state)?;
        self.save(&state)?;
        self.adopt(state, hierarchy);
        Ok(())
    }

    /// Saves a state: nobody else has changed it since it was read.
    fn save(&self, state: &State) -> Result<(), StoreError> {
        let asked = Instant::now();
        self.store.save(state)?;
        self.fence.read(state.sequence, asked);
        Ok(())
    }

    /// Lets a state that was saved take effect.
    fn adopt(&self, state: State, hierarchy: Hierarchy) {
        let bundle = Arc::new(hierarchy.bundle().clone());
        let revocations = revocation::in_force(&state.revocations);
        let intermediate = hierarchy.intermediate().key_id();
        self.roster.intermediate(intermediate, &state.intermediate.root);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Current { state, hierarchy });
        self.bundle.send_if_modified(|old| {
            let changed = old.sequence() != bundle.sequence();
            if changed {
                *old = bundle;
            }
            changed
        });
        self.revocations.send_if_modified(|old| {
            let changed = **old != revocations;
            if changed {
                *old = Arc::new(revocations);
            }
            changed
        });
    }
}

fn root_event(root: &Signer) -> Event {
    Event::Root {
        key_id: root.key_id().to_owned(),
        sha256: Sha256::of(root.der()),
        not_after: rfc3339(root.validity().not_after),
    }
}

fn intermediate_event(hierarchy: &Hierarchy) -> Event {
    let intermediate = hierarchy.intermediate();
    Event::Intermediate {
        key_id: intermediate.key_id().to_owned(),
        issuer: hierarchy.root().key_id().to_owned(),
        sha256: Sha256::of(intermediate.der()),
        not_after: rfc3339(intermediate.validity().not_after),
    }
}

impl std::fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateAuthority")
            .field("domain", &self.domain)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
