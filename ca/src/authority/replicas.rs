//! What replicas that issue from one state tell each other while a rotation is under way: each leaves word of whoever reports
//! to it, and reads what the others have issued and heard. It takes no step.

use std::{
    sync::PoisonError,
    time::{Duration, Instant, SystemTime},
};

use super::{CaError, CertificateAuthority};
use crate::{
    roster::{Testimony, Word},
    state::{Phase, StateError},
};

/// A replica leaves word at least this often, so that others see that it lives.
const BEAT: Duration = Duration::from_secs(10);

/// What this replica has left last.
#[derive(Debug, Default)]
pub(super) struct Left {
    beat: u64,
    last: Option<(Testimony, Instant)>,
}

impl CertificateAuthority {
    /// The workload that this process' own SVID stands beside: each replica counts by itself.
    #[must_use]
    pub fn own_workload(&self) -> &str {
        &self.own
    }

    /// Whether a rotation of the root is under way.
    #[must_use]
    pub fn is_rotating(&self) -> bool {
        self.current().state.phase != Phase::Stable
    }

    /// Leaves word of what was reported to this replica, when there is something new or it is time to show that it lives.
    /// Without other replicas there is nobody to leave it for. Blocks.
    ///
    /// # Errors
    /// When the store fails; it is left with the next call.
    pub fn testify(&self, now: SystemTime) -> Result<(), CaError> {
        if self.store.replica().is_none() {
            return Ok(());
        }
        let testimony = self.roster.testimony(&self.own, now);
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((last, at)) = &left.last
            && *last == testimony
            && at.elapsed() < BEAT
        {
            return Ok(());
        }
        let word = Word {
            beat: left.beat + 1,
            testimony,
        };
        let text = serde_json::to_vec(&word).map_err(|error| StateError::Json(error.to_string()))?;
        self.store.testify(&text)?;
        left.beat = word.beat;
        left.last = Some((word.testimony, Instant::now()));
        Ok(())
    }

    /// Reads what other replicas have heard, and then what they have issued: whoever was issued a certificate before a
    /// replica said that it had read the state is known afterwards. Blocks.
    ///
    /// # Errors
    /// When the store fails, or the log was tampered with.
    pub fn gather(&self, now: SystemTime) -> Result<(), CaError> {
        if self.store.replica().is_none() {
            return Ok(());
        }
        let asked = Instant::now();
        self.roster.hear(self.store.testimonies()?, asked);
        self.roster.catch_up(&*self.store, now)?;
        Ok(())
    }
}
