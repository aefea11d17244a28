//! Taking over what another process has made of the state: replicas that share a store follow the one that leads. It changes
//! nothing in the store.

use std::{sync::PoisonError, time::Instant};

use super::{CaError, CertificateAuthority};
use crate::{hierarchy::Hierarchy, store::StoreError};

impl CertificateAuthority {
    /// Reads the state again, and lets it take effect where it is different. Says whether it was. Blocks.
    ///
    /// # Errors
    /// When it cannot be read, is gone, or does not hold together: then the one before goes on.
    pub fn refresh(&self) -> Result<bool, CaError> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = Instant::now();
        let state = self
            .store
            .load()?
            .ok_or_else(|| StoreError::NotInitialised(self.store.place()))?;
        let sequence = state.sequence;
        let changed = state.to_bytes()? != self.current().state.to_bytes()?;
        if changed {
            let hierarchy = Hierarchy::load(&state)?;
            self.adopt(state, hierarchy);
        }
        self.fence.read(sequence, asked);
        Ok(changed)
    }
}
