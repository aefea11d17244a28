//! Roots and intermediates that an admin brings, taken into the CA: a key is made for signing elsewhere, and what comes back
//! takes the place of the intermediate in use, or begins a rotation to its root. Everything is logged and saved first.

use std::{
    sync::{Arc, PoisonError},
    time::SystemTime,
};

use squire_mesh::spiffe::TrustDomain;

use super::{CaError, CertificateAuthority, RotateError};
use crate::{
    hierarchy::Hierarchy,
    roster::Progress,
    rotation::Successor,
    state::{Phase, RootRecord},
    status::Status,
    store::Store,
    supplied::{self, SuppliedError},
};

/// Why what an admin brings was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It does not do.
    #[error(transparent)]
    Supplied(#[from] SuppliedError),
    /// It is not the moment for another root.
    #[error(transparent)]
    Rotate(#[from] RotateError),
    /// It could not be made durable, so it has not taken effect.
    #[error(transparent)]
    Ca(#[from] CaError),
}

impl CertificateAuthority {
    /// As [`CertificateAuthority::init`], on a root that an admin brings. Blocks.
    ///
    /// # Errors
    /// As there.
    pub fn init_on(
        store: &Arc<dyn Store>,
        domain: &TrustDomain,
        root: RootRecord,
        now: SystemTime,
    ) -> Result<Status, CaError> {
        Self::begin(store, now, || Hierarchy::found_on(domain, root, now))
    }

    /// The request for an intermediate that is signed elsewhere, as PEM; its key is made here, once. Blocks.
    ///
    /// # Errors
    /// When keys cannot be made, or the store fails.
    pub fn request_intermediate(&self, now: SystemTime) -> Result<String, CaError> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.current().state.clone();
        let request = match state.requested.clone() {
            Some(waiting) => waiting,
            None => {
                let made = supplied::request(now)?;
                state.requested = Some(made.clone());
                self.save_and_adopt(state)?;
                made
            }
        };
        Ok(supplied::csr(&self.domain, &request)?)
    }

    /// Takes a signed intermediate in: under the root in use it signs from now on; under another root it begins a rotation,
    /// or stands by for the one under way. Blocks.
    ///
    /// # Errors
    /// When it does not do, or log or store fail; then nothing has changed.
    pub fn import_intermediate(&self, pem: &str, now: SystemTime) -> Result<Progress, ImportError> {
        let state = self.current().state.clone();
        let found = supplied::intermediate(&self.domain, state.requested.as_ref(), &state.roots, pem, now);
        let (root, intermediate) = found?;
        let why = "an admin brought an intermediate";
        let used = |state: &mut crate::state::State| state.requested = None;
        if state.root(&root.name).is_none() {
            let successor = Successor {
                root,
                intermediate: Some(intermediate),
            };
            return Ok(self.take_step(why, now, |state| {
                let mut next = crate::rotation::begin(state, successor, now).map_err(RotateError::from)?;
                used(&mut next);
                Ok(next)
            })?);
        }
        Ok(self.take_step(why, now, |state| {
            let mut next = state.clone();
            used(&mut next);
            if next.active_root == root.name {
                next.intermediate = intermediate;
            } else {
                debug_assert!(next.phase != Phase::Stable, "only a rotation knows another root");
                next.standby.retain(|known| known.root != root.name);
                next.standby.push(intermediate);
            }
            Ok(next)
        })?)
    }
}
