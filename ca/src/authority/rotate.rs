//! Rotating the root: each step logged and saved first, then in force here, then told to whoever watches. A step is taken
//! when the roster shows that nobody is left behind, or when an admin insists on it by name.

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use super::{CaError, CertificateAuthority, Current, fence::Fence, intermediate_event, root_event};
use squire_mesh::svid::Revocations;

use crate::{
    hierarchy::{self, Hierarchy, Signer},
    log::{Event, rfc3339},
    profile::Validity,
    roster::{Gate, Progress, Roster, Waits},
    rotation::{self, RotationError, Successor},
    state::{Move, Phase, State},
    store::StoreError,
};

/// A gate has to be open for this long: handshakes that were under way end meanwhile.
const SETTLE: Duration = Duration::from_secs(3);
/// How often the gate is looked at while a rotation is under way.
const LOOK: Duration = Duration::from_millis(250);
/// The same where replicas confer.
const CONFERRING: Duration = Duration::from_secs(1);
/// How often to look whether a rotation is due, at least.
const AUTOMATIC: Duration = Duration::from_secs(3600);

/// Why a rotation did not go the way it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// It is not the moment.
    #[error(transparent)]
    Rotation(#[from] RotationError),
    /// The admin spoke of another phase than the one it is in.
    #[error("the rotation has moved on meanwhile (bundle {now}, not {named}): look at it again")]
    MovedOn {
        /// The bundle in force.
        now: u64,
        /// The one that was named.
        named: u64,
    },
    /// It could not be made durable, so it has not taken effect.
    #[error(transparent)]
    Ca(#[from] CaError),
}

impl CertificateAuthority {
    /// Who holds certificates, and where they report.
    #[must_use]
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Begins a rotation: to a root made here, or to the one that is given. Blocks.
    ///
    /// # Errors
    /// When one is under way, the new root does not do, or log or store fail; then nothing has changed.
    pub fn rotate(&self, successor: Option<Successor>, why: &str, now: SystemTime) -> Result<Progress, RotateError> {
        self.take_step(why, now, |state| {
            let successor = match successor {
                Some(successor) => successor,
                None => Successor {
                    root: hierarchy::new_root(&self.domain, now).map_err(RotationError::from)?,
                    intermediate: None,
                },
            };
            Ok(rotation::begin(state, successor, now)?)
        })
    }

    /// Goes back to the root that the rotation began with, over the same gates. Blocks.
    ///
    /// # Errors
    /// When none is under way, or log or store fail; then nothing has changed.
    pub fn abort(&self, now: SystemTime) -> Result<Progress, RotateError> {
        let holders = self.roster.holders();
        self.take_step("aborted by an admin", now, |state| {
            Ok(rotation::back(state, &self.domain, holders, now)?)
        })
    }

    /// Takes the next step whatever the gate says: the admin has seen whom that leaves behind, at this bundle. Blocks.
    ///
    /// # Errors
    /// When the rotation has moved on since, or log or store fail; then nothing has changed.
    pub fn force(&self, sequence: u64, now: SystemTime) -> Result<Progress, RotateError> {
        let holders = self.roster.holders();
        self.take_step("forced by an admin", now, |state| {
            if state.sequence != sequence {
                return Err(RotateError::MovedOn {
                    now: state.sequence,
                    named: sequence,
                });
            }
            Ok(rotation::advance(state, &self.domain, holders, now)?)
        })
    }

    /// Hands a root out for this long at least before it signs: to other meshes, which fetch the bundle now and then and
    /// report to nobody here (SPIFFE Federation 4.1).
    pub fn publish_for(&self, time: Duration) {
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = time;
    }

    /// Until when the root that is being handed out is not to sign, whatever has been reported.
    fn published_until(&self, phase: &Phase) -> Option<SystemTime> {
        let least = *self.published.lock().unwrap_or_else(PoisonError::into_inner);
        match phase {
            Phase::Distribute(rotation) if !least.is_zero() => Some(time(rotation.since) + least),
            Phase::Stable | Phase::Distribute(_) | Phase::Switch(_) | Phase::Retire(_) => None,
        }
    }

    /// Takes the next step if its gate has been open for a moment. Blocks. Says what was reached.
    ///
    /// # Errors
    /// When log or store fail; then nothing has changed.
    pub fn advance_if_open(&self, now: SystemTime) -> Result<Option<Progress>, RotateError> {
        self.roster.forget_ended(now);
        if !self.is_rotating() {
            return Ok(None);
        }
        self.gather(now)?;
        let current = self.current();
        let Some((gate, rotation)) = gate(&current, &self.fence) else {
            return Ok(None);
        };
        let tally = self
            .roster
            .tally(&gate, &self.revocations.borrow(), time(rotation.began), now);
        let published = self
            .published_until(&current.state.phase)
            .is_none_or(|until| now >= until);
        if !self.has_settled(gate.sequence, published && tally.is_complete(), now) {
            return Ok(None);
        }
        let holders = tally.holders;
        self.take_step("every holder has shown it", now, |state| {
            if state.sequence != gate.sequence {
                return Err(RotateError::MovedOn {
                    now: state.sequence,
                    named: gate.sequence,
                });
            }
            Ok(rotation::advance(state, &self.domain, holders, now)?)
        })
        .map(Some)
    }

    /// When the root that signs is valid.
    #[must_use]
    pub fn root_validity(&self) -> Validity {
        self.current().hierarchy.root().validity()
    }

    /// Begins a rotation when so much (in percent) of the life of a root made here is over. Blocks. Says whether it did.
    ///
    /// # Errors
    /// As [`Self::rotate`].
    pub fn rotate_if_due(&self, percent: u32, now: SystemTime) -> Result<bool, RotateError> {
        let current = self.current();
        let due = current.hierarchy.root().validity().at_percent(percent);
        let supplied = current
            .state
            .root(&current.state.active_root)
            .is_some_and(|root| root.supplied);
        if current.state.phase != Phase::Stable || now < due {
            return Ok(false);
        }
        if supplied {
            tracing::warn!(
                until = %rfc3339(current.hierarchy.root().validity().not_after),
                "the root is due for rotation, and an admin brought it: bring the next one with `squire ca rotate --root-cert`"
            );
            return Ok(false);
        }
        self.rotate(None, &format!("{percent} % of the root's life are over"), now)
            .map(|_| true)
    }

    /// How far a rotation is, and whom it waits for.
    #[must_use]
    pub fn progress(&self, now: SystemTime) -> Progress {
        let current = self.current();
        let mut progress = progress(&current, &self.fence, &self.roster, &self.revocations.borrow(), now);
        let published = self.published_until(&current.state.phase);
        if let Some(until) = published.filter(|until| now < *until) {
            progress.waits_for += &format!(
                ", and other meshes to have fetched the bundle (until {})",
                rfc3339(until)
            );
        }
        progress
    }

    /// Takes each step of a rotation when its gate opens, and begins one when that is due, until it is dropped.
    pub async fn turn(self: Arc<Self>, automatic: Option<u32>) {
        let mut bundle = self.bundle.subscribe();
        loop {
            bundle.mark_unchanged();
            let rotating = self.current().state.phase != Phase::Stable;
            let ca = Arc::clone(&self);
            let step = move || {
                let now = SystemTime::now();
                let reached = ca.advance_if_open(now)?;
                match automatic {
                    Some(percent) if !rotating => drop(ca.rotate_if_due(percent, now)?),
                    _ => {}
                }
                Ok::<_, RotateError>(reached)
            };
            match tokio::task::spawn_blocking(step).await {
                Ok(Ok(Some(progress))) => {
                    self.clear_up(&progress).await;
                    tracing::info!(
                        phase = progress.phase,
                        sequence = progress.sequence,
                        "the rotation of the root has gone on"
                    );
                }
                Ok(Ok(None)) => {}
                Ok(Err(error)) => tracing::error!(%error, "the rotation of the root could not go on; trying again"),
                Err(error) => tracing::error!(%error, "the rotation of the root was interrupted; trying again"),
            }
            if rotating {
                tokio::time::sleep(self.pace()).await;
            } else {
                tokio::select! {
                    () = tokio::time::sleep(self.until_due(automatic, SystemTime::now())) => {}
                    changed = bundle.changed() => if changed.is_err() { return },
                }
            }
        }
    }

    /// After a rotation nobody needs the word of other replicas any more.
    async fn clear_up(self: &Arc<Self>, reached: &Progress) {
        if reached.phase != Phase::Stable.label() {
            return;
        }
        let ca = Arc::clone(self);
        let cleared = tokio::task::spawn_blocking(move || ca.store.clear_testimonies()).await;
        if let Ok(Err(error)) = cleared {
            tracing::debug!(%error, "what replicas have told each other stays until the next rotation");
        }
    }

    /// How often the gate is looked at: other replicas have to be asked each time.
    fn pace(&self) -> Duration {
        if self.store.replica().is_some() {
            CONFERRING
        } else {
            LOOK
        }
    }

    /// How long until a rotation may be due.
    fn until_due(&self, automatic: Option<u32>, now: SystemTime) -> Duration {
        let due = automatic.map(|percent| self.root_validity().at_percent(percent));
        let left = due.and_then(|due| due.duration_since(now).ok());
        left.unwrap_or(AUTOMATIC).clamp(Duration::from_secs(1), AUTOMATIC)
    }

    /// Logs, saves, and lets a step take effect.
    pub(super) fn take_step(
        &self,
        why: &str,
        now: SystemTime,
        step: impl FnOnce(&State) -> Result<State, RotateError>,
    ) -> Result<Progress, RotateError> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.store.leads() {
            // Before anything of it is in the log.
            return Err(CaError::from(StoreError::Follower(self.store.place())).into());
        }
        let before = self.current();
        let state = step(&before.state)?;
        let hierarchy = Hierarchy::load(&state).map_err(CaError::from)?;
        for event in events(&before, &state, &hierarchy, why)? {
            self.log.append_blocking(event, now).map_err(CaError::from)?;
        }
        self.save(&state).map_err(CaError::from)?;
        self.adopt(state, hierarchy);
        Ok(self.progress(now))
    }

    /// Whether this gate has been open without a break for long enough.
    fn has_settled(&self, sequence: u64, open: bool, now: SystemTime) -> bool {
        let mut since = self.open_since.lock().unwrap_or_else(PoisonError::into_inner);
        if !open {
            *since = None;
            return false;
        }
        let first = match *since {
            // A clock that was set back begins anew.
            Some((known, first)) if known == sequence && first <= now => first,
            _ => now,
        };
        *since = Some((sequence, first));
        now.duration_since(first).unwrap_or_default() >= SETTLE
    }
}

/// The gate that a state waits at.
fn gate<'c>(current: &'c Current, fence: &Fence) -> Option<(Gate, &'c Move)> {
    let state = &current.state;
    let rotation = state.phase.rotation()?;
    let waits = match &state.phase {
        Phase::Switch(rotation) => Waits::Svid {
            root: rotation.to.clone(),
            digest: current.hierarchy.signing_root().to_string(),
        },
        Phase::Stable | Phase::Distribute(_) | Phase::Retire(_) => Waits::Bundle,
    };
    let gate = Gate {
        sequence: state.sequence,
        digest: current.hierarchy.bundle().digest(),
        waits,
        is_old: fence.is_old(state.sequence, Instant::now()),
    };
    Some((gate, rotation))
}

fn progress(current: &Current, fence: &Fence, roster: &Roster, revoked: &Revocations, now: SystemTime) -> Progress {
    let state = &current.state;
    let mut progress = Progress {
        phase: state.phase.label().to_owned(),
        aborting: false,
        from: state.active_root.clone(),
        to: state.active_root.clone(),
        sequence: state.sequence,
        since: None,
        waits_for: waits_for(&state.phase).to_owned(),
        holders: 0,
        shown: 0,
        missing: Vec::new(),
        more_missing: 0,
        gone: Vec::new(),
        doubt: None,
    };
    let Some((gate, rotation)) = gate(current, fence) else {
        progress.holders = roster.holders();
        return progress;
    };
    let tally = roster.tally(&gate, revoked, time(rotation.began), now);
    progress.aborting = rotation.aborting;
    progress.from.clone_from(&rotation.from);
    progress.to.clone_from(&rotation.to);
    progress.since = Some(rfc3339(time(rotation.since)));
    progress.holders = tally.holders;
    progress.shown = tally.shown;
    progress.missing = tally.missing;
    progress.more_missing = tally.more_missing;
    progress.gone = tally.gone;
    progress.doubt = tally.doubt;
    progress
}

fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn waits_for(phase: &Phase) -> &'static str {
    match phase {
        Phase::Stable => "nothing: no rotation is under way",
        Phase::Distribute(_) => "everybody to trust both roots, before the next one signs",
        Phase::Switch(_) => "everybody to hold an SVID, and to have connections, under the root that stays",
        Phase::Retire(_) => "everybody to have let go of the root that goes",
    }
}

/// What the log tells of a step: new roots and intermediates before the step that puts them into use.
fn events(before: &Current, state: &State, hierarchy: &Hierarchy, why: &str) -> Result<Vec<Event>, RotateError> {
    let mut events = Vec::new();
    for root in &state.roots {
        if before.state.root(&root.name).is_none() {
            let signer = Signer::of_root(root).map_err(CaError::from)?;
            events.push(root_event(&signer));
        }
    }
    if state.intermediate != before.state.intermediate {
        events.push(intermediate_event(hierarchy));
    }
    let (from, to) = match state.phase.rotation().or_else(|| before.state.phase.rotation()) {
        Some(rotation) => (rotation.from.clone(), rotation.to.clone()),
        None => (state.active_root.clone(), state.active_root.clone()),
    };
    events.push(Event::Rotation {
        phase: state.phase.label().to_owned(),
        from,
        to,
        sequence: state.sequence,
        why: why.to_owned(),
    });
    Ok(events)
}
