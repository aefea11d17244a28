//! Keeping a CA in order while it runs: the intermediate is renewed in time, the whole log is checked once, what no longer
//! concerns anybody is forgotten.

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, SystemTime},
};

use super::{CaError, CertificateAuthority, intermediate_event};
use crate::{
    hierarchy::{Hierarchy, HierarchyError},
    log::{self, LogError, Verified, rfc3339},
    roster::may_pass,
};

/// Share of an intermediate's life after which it is replaced, in percent.
pub const INTERMEDIATE_RENEWAL_PERCENT: u32 = 50;
/// How often [`CertificateAuthority::maintain`] looks, at least.
const MAINTENANCE: Duration = Duration::from_secs(3600);
/// Between two tries to read a log that cannot be read.
const UNREADABLE: Duration = Duration::from_secs(5);
/// Used and expired tokens are remembered that long, so that a replay is called one.
const TOKEN_MEMORY: Duration = Duration::from_secs(24 * 3600);
/// As much of the issuance log is kept, in bytes, where it is kept in parts; more while certificates in it are valid.
const LOG_KEPT: u64 = 16 << 20;

impl CertificateAuthority {
    /// When the intermediate is going to be renewed.
    #[must_use]
    pub fn renewal_due(&self) -> SystemTime {
        self.current()
            .hierarchy
            .intermediate()
            .validity()
            .at_percent(INTERMEDIATE_RENEWAL_PERCENT)
    }

    /// When the intermediate ends: no leaf outlives it.
    #[must_use]
    pub fn intermediate_ends(&self) -> SystemTime {
        self.current().hierarchy.intermediate().validity().not_after
    }

    /// Checks the whole issuance log, line by line, and learns from it who holds certificates. Blocks, for as long as the
    /// log is.
    ///
    /// # Errors
    /// When it cannot be read or was tampered with.
    pub fn verify_log(&self, now: SystemTime) -> Result<Verified, LogError> {
        self.roster.read(&*self.store, now)
    }

    /// Renews the intermediate when half of its life is over: the new one is logged and saved before it signs. Blocks.
    /// Says whether it was renewed.
    ///
    /// # Errors
    /// When log or store fail; the old intermediate goes on signing, as it does while the root's key is elsewhere.
    pub fn renew_intermediate_if_due(&self, now: SystemTime) -> Result<bool, CaError> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if now < self.renewal_due() || !self.store.leads() {
            return Ok(false);
        }
        let current = self.current();
        let state = match current.hierarchy.renew_intermediate(&current.state, now) {
            Err(error @ HierarchyError::RootOffline(_)) => {
                let until = rfc3339(current.hierarchy.intermediate().validity().not_after);
                tracing::warn!(%error, until, "the intermediate is due for renewal (`squire ca csr`, `squire ca import`)");
                return Ok(false);
            }
            renewed => renewed?,
        };
        let hierarchy = Hierarchy::load(&state)?;
        self.log.append_blocking(intermediate_event(&hierarchy), now)?;
        self.save(&state)?;
        self.adopt(state, hierarchy);
        Ok(true)
    }

    /// Keeps the CA in order until it is dropped by the caller: checks the whole log once, renews the intermediate in time,
    /// forgets old tokens.
    pub async fn maintain(self: Arc<Self>) {
        while let Err(error) = self.verify_whole_log().await {
            if !may_pass(&error) {
                tracing::error!(%error, "certificates may have been issued that the log does not show");
                break;
            }
            tracing::warn!(%error, "the issuance log cannot be read: trying again");
            tokio::time::sleep(UNREADABLE).await;
        }
        loop {
            let ca = Arc::clone(&self);
            let done = tokio::task::spawn_blocking(move || ca.tidy(SystemTime::now())).await;
            match done {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "the CA could not be kept in order; trying again"),
                Err(error) => tracing::error!(%error, "the CA's upkeep was interrupted; trying again"),
            }
            let due = self
                .renewal_due()
                .duration_since(SystemTime::now())
                .unwrap_or(Duration::from_secs(60));
            tokio::time::sleep(due.clamp(Duration::from_secs(1), MAINTENANCE)).await;
        }
    }

    async fn verify_whole_log(self: &Arc<Self>) -> Result<(), LogError> {
        let ca = Arc::clone(self);
        let verified = tokio::task::spawn_blocking(move || ca.verify_log(SystemTime::now())).await;
        verified.map_or(Ok(()), |verified| verified.map(drop))
    }

    /// Lets go of the oldest entries of the issuance log while more than `keep` bytes are left, where it is kept in parts and
    /// everything in them has ended; the log says so. How many went. Blocks.
    ///
    /// # Errors
    /// When log or store fail.
    pub fn prune_log(&self, keep: u64, now: SystemTime) -> Result<u64, CaError> {
        if !self.store.leads() {
            return Ok(0);
        }
        Ok(log::prune(&*self.store, &self.log, keep, now)?)
    }

    fn tidy(&self, now: SystemTime) -> Result<(), CaError> {
        if self.renew_intermediate_if_due(now)? {
            tracing::info!(until = %rfc3339(self.intermediate_ends()), "the intermediate was renewed");
        }
        if self.advance_jwt_keys(now)? {
            tracing::info!("the keys for JWT-SVIDs have moved on");
        }
        let expired = self.expire_revocations(now)?;
        if expired > 0 {
            tracing::info!(expired, "revocations ended with the certificates they concerned");
        }
        self.store.sweep_tokens(now - TOKEN_MEMORY)?;
        let pruned = self.prune_log(LOG_KEPT, now)?;
        if pruned > 0 {
            tracing::info!(
                pruned,
                "the oldest entries of the issuance log were let go: all of them had ended"
            );
        }
        Ok(())
    }
}
