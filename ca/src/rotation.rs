//! The steps of a root rotation (DESIGN §7), each a function from one state to the next. Pure: whether a step may be taken
//! is for the evidence to say, keeping what comes out for the authority.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use squire_mesh::spiffe::TrustDomain;

use crate::{
    hierarchy::{self, HierarchyError},
    profile::MAX_TTL,
    state::{IntermediateRecord, Move, Phase, RootRecord, State},
};

/// Why a step cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RotationError {
    /// One at a time.
    #[error("a rotation is under way already: `squire ca rotate --watch` follows it, `squire ca abort` goes back")]
    Underway,
    /// Nothing to go on with, or to go back from.
    #[error("no rotation is under way: `squire ca rotate` begins one")]
    NotUnderway,
    /// Back again is forward.
    #[error("it goes back already: `squire ca rotate --watch` follows it; begin anew when it is stable")]
    Aborting,
    /// The new root is the old one.
    #[error("{0} is a root of this CA already: a rotation needs another one")]
    SameRoot(String),
    /// Nothing under the new root can sign.
    #[error(
        "the key of root {0} is not here, and neither is an intermediate under it that lasts: sign one where the key is kept \
         (`squire ca csr`, `squire ca import`)"
    )]
    NoIntermediate(String),
    /// Keys or certificates failed.
    #[error(transparent)]
    Hierarchy(#[from] HierarchyError),
}

/// What a rotation leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Successor {
    /// The new root.
    pub root: RootRecord,
    /// An intermediate under it; needed where its key is kept elsewhere.
    pub intermediate: Option<IntermediateRecord>,
}

/// `stable(A)` → `distribute`: both are trusted from now on, A goes on signing.
pub(crate) fn begin(state: &State, successor: Successor, now: SystemTime) -> Result<State, RotationError> {
    if state.phase != Phase::Stable {
        return Err(RotationError::Underway);
    }
    let Successor { root, intermediate } = successor;
    if state.root(&root.name).is_some() {
        return Err(RotationError::SameRoot(root.name));
    }
    if root.key.is_none() && intermediate.is_none() {
        return Err(RotationError::NoIntermediate(root.name));
    }
    let mut next = state.clone();
    next.phase = Phase::Distribute(Move {
        from: state.active_root.clone(),
        to: root.name.clone(),
        began: seconds(now),
        since: seconds(now),
        aborting: false,
        renew_within: 0,
    });
    next.roots.push(root);
    next.standby.extend(intermediate);
    next.sequence += 1;
    Ok(next)
}

/// One step on. `holders`: how many SVIDs have to be renewed when the root that signs changes.
pub(crate) fn advance(
    state: &State,
    domain: &TrustDomain,
    holders: usize,
    now: SystemTime,
) -> Result<State, RotationError> {
    let mut next = state.clone();
    let stay = |rotation: &Move| Move {
        since: seconds(now),
        ..rotation.clone()
    };
    match &state.phase {
        Phase::Stable => return Err(RotationError::NotUnderway),
        Phase::Distribute(rotation) => {
            sign_with(&mut next, domain, &rotation.to, now)?;
            let rotation = Move {
                renew_within: spread(holders),
                ..stay(rotation)
            };
            next.phase = Phase::Switch(rotation);
            next.sequence += 1;
        }
        Phase::Switch(rotation) => {
            next.phase = Phase::Retire(stay(rotation));
            next.sequence += 1;
        }
        Phase::Retire(rotation) => {
            next.roots.retain(|root| root.name != rotation.from);
            next.standby.retain(|intermediate| intermediate.root != rotation.from);
            // The bundle is what it was: nobody needs to hear of this.
            next.phase = Phase::Stable;
        }
    }
    Ok(next)
}

/// One step back, from any phase: to the phase from which the same gates lead to the root it began with.
pub(crate) fn back(
    state: &State,
    domain: &TrustDomain,
    holders: usize,
    now: SystemTime,
) -> Result<State, RotationError> {
    let mut next = state.clone();
    let reversed = |rotation: &Move| {
        if rotation.aborting {
            return Err(RotationError::Aborting);
        }
        Ok(Move {
            from: rotation.to.clone(),
            to: rotation.from.clone(),
            began: rotation.began,
            since: seconds(now),
            aborting: true,
            renew_within: spread(holders),
        })
    };
    next.phase = match &state.phase {
        Phase::Stable => return Err(RotationError::NotUnderway),
        // The new root has signed nothing that anybody was given: it goes at once, and nobody has to say so.
        Phase::Distribute(rotation) => {
            let gone = reversed(rotation)?.from;
            next.roots.retain(|root| root.name != gone);
            next.standby.retain(|intermediate| intermediate.root != gone);
            Phase::Stable
        }
        // Both are trusted by all: the old root may sign again at once.
        Phase::Switch(rotation) => {
            let rotation = reversed(rotation)?;
            sign_with(&mut next, domain, &rotation.to, now)?;
            Phase::Switch(rotation)
        }
        // Some no longer trust the old root: it has to be handed out again before it signs.
        Phase::Retire(rotation) => Phase::Distribute(reversed(rotation)?),
    };
    next.sequence += 1;
    Ok(next)
}

/// Lets another root's intermediate sign; the one before stands by.
fn sign_with(state: &mut State, domain: &TrustDomain, to: &str, now: SystemTime) -> Result<(), RotationError> {
    let root = state
        .root(to)
        .ok_or_else(|| HierarchyError::NoActiveRoot(to.to_owned()))?;
    let kept = state.standby.iter().position(|intermediate| intermediate.root == to);
    let usable = match kept.map(|at| &state.standby[at]) {
        Some(kept) => hierarchy::load_intermediate(kept, root)?.validity().not_after > now + MAX_TTL,
        None => false,
    };
    let next = match kept {
        Some(at) if usable => state.standby[at].clone(),
        _ if root.key.is_none() => return Err(RotationError::NoIntermediate(to.to_owned())),
        _ => hierarchy::intermediate_under(domain, root, now)?,
    };
    state.standby.retain(|intermediate| intermediate.root != to);
    state.standby.push(std::mem::replace(&mut state.intermediate, next));
    to.clone_into(&mut state.active_root);
    Ok(())
}

/// How long the renewal of so many SVIDs is spread over, in seconds: a CA on one core issues more than that.
fn spread(holders: usize) -> u32 {
    const EACH_SECOND: usize = 500;
    u32::try_from(holders / EACH_SECOND).unwrap_or(u32::MAX).clamp(1, 300)
}

pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::hierarchy::Hierarchy;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn domain() -> TrustDomain {
        "cluster.local".parse().unwrap()
    }

    fn stable() -> State {
        Hierarchy::found(&domain(), now()).unwrap()
    }

    fn successor() -> Successor {
        Successor {
            root: hierarchy::new_root(&domain(), now()).unwrap(),
            intermediate: None,
        }
    }

    fn on(state: &State) -> State {
        let next = advance(state, &domain(), 3, now()).unwrap();
        checked(&next);
        next
    }

    fn aborted(state: &State) -> State {
        let next = back(state, &domain(), 3, now()).unwrap();
        checked(&next);
        next
    }

    /// Every state on the way is a CA, survives its document, and signs with a root that it says is trusted.
    fn checked(state: &State) {
        let again = State::parse(&state.to_bytes().unwrap()).unwrap();
        assert_eq!((&again.phase, &again.standby), (&state.phase, &state.standby));
        Hierarchy::load(state).unwrap();
        assert!(state.trusted().any(|root| root.name == state.active_root));
    }

    fn shape(state: &State, a: &str) -> (&'static str, &'static str, String) {
        let name = |root: &str| if root == a { "A" } else { "B" };
        let trusted: String = state.trusted().map(|root| name(&root.name)).collect();
        (state.phase.label(), name(&state.active_root), trusted)
    }

    #[test]
    fn a_rotation_goes_from_one_root_over_both_to_the_other_and_forgets_the_first() {
        let first = stable();
        let a = first.active_root.clone();
        let states = [begin(&first, successor(), now()).unwrap()];
        let mut states = Vec::from(states);
        for _ in 0..3 {
            states.push(on(states.last().unwrap()));
        }
        let shapes: Vec<_> = states.iter().map(|state| shape(state, &a)).collect();
        let expected = [
            ("distribute", "A", "AB"),
            ("switch", "B", "AB"),
            ("retire", "B", "B"),
            ("stable", "B", "B"),
        ];
        assert_eq!(
            shapes,
            expected.map(|(phase, signs, trusted)| (phase, signs, trusted.to_owned()))
        );
        let sequences: Vec<_> = states.iter().map(|state| state.sequence).collect();
        assert_eq!(sequences, [2, 3, 4, 4], "each bundle has its own number");
        let last = states.last().unwrap();
        assert_eq!((last.roots.len(), last.standby.len()), (1, 0), "nothing is left of A");
    }

    #[test]
    fn every_phase_leads_back_over_the_same_gates() {
        let first = stable();
        let a = first.active_root.clone();
        let distribute = begin(&first, successor(), now()).unwrap();
        let switch = on(&distribute);
        let retire = on(&switch);
        let ways = [
            (distribute, vec![("stable", "A", "A")]),
            (
                switch,
                vec![("switch", "A", "AB"), ("retire", "A", "A"), ("stable", "A", "A")],
            ),
            (
                retire,
                vec![
                    ("distribute", "B", "AB"),
                    ("switch", "A", "AB"),
                    ("retire", "A", "A"),
                    ("stable", "A", "A"),
                ],
            ),
        ];
        for (from, expected) in ways {
            let mut state = aborted(&from);
            assert!(state.sequence > from.sequence, "old evidence does not count");
            let twice = back(&state, &domain(), 3, now()).unwrap_err();
            let expected_twice = match state.phase {
                Phase::Stable => RotationError::NotUnderway,
                _ => RotationError::Aborting,
            };
            assert_eq!(twice, expected_twice);
            let mut shapes = vec![shape(&state, &a)];
            while state.phase != Phase::Stable {
                state = on(&state);
                shapes.push(shape(&state, &a));
            }
            let expected: Vec<_> = expected.into_iter().map(|(p, s, t)| (p, s, t.to_owned())).collect();
            assert_eq!(shapes, expected, "{from:?}", from = from.phase);
            assert_eq!(state.roots.len(), 1);
        }
    }

    #[test]
    fn a_root_whose_key_is_elsewhere_needs_an_intermediate_and_goes_back_on_the_one_it_had() {
        let first = stable();
        let mut offline = successor();
        let signed = hierarchy::intermediate_under(&domain(), &offline.root, now()).unwrap();
        offline.root.key = None;
        assert!(matches!(
            begin(&first, offline.clone(), now()),
            Err(RotationError::NoIntermediate(_))
        ));
        offline.intermediate = Some(signed.clone());
        let switch = on(&begin(&first, offline, now()).unwrap());
        assert_eq!(switch.intermediate, signed);
        let back = aborted(&switch);
        assert_eq!(back.intermediate, first.intermediate, "the old one stood by");
        let stable = on(&on(&back));
        assert_eq!((stable.phase, stable.intermediate), (Phase::Stable, first.intermediate));
    }

    #[test]
    fn there_is_one_rotation_at_a_time_to_a_root_that_is_new() {
        let first = stable();
        let same = Successor {
            root: first.roots[0].clone(),
            intermediate: None,
        };
        assert!(matches!(begin(&first, same, now()), Err(RotationError::SameRoot(_))));
        let distribute = begin(&first, successor(), now()).unwrap();
        assert_eq!(begin(&distribute, successor(), now()), Err(RotationError::Underway));
        assert_eq!(advance(&first, &domain(), 0, now()), Err(RotationError::NotUnderway));
        assert_eq!(back(&first, &domain(), 0, now()), Err(RotationError::NotUnderway));
    }

    #[test]
    fn renewals_are_spread_by_how_many_there_are() {
        for (holders, seconds) in [(0, 1), (499, 1), (1_000, 2), (100_000, 200), (10_000_000, 300)] {
            assert_eq!(spread(holders), seconds, "{holders}");
        }
    }

    #[test]
    fn a_document_of_the_version_before_is_read() {
        let mut old: serde_json::Value = serde_json::from_slice(&stable().to_bytes().unwrap()).unwrap();
        old["version"] = 1.into();
        let state = State::parse(old.to_string().as_bytes()).unwrap();
        assert_eq!((state.version, state.phase), (crate::state::VERSION, Phase::Stable));
    }
}
