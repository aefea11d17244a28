//! The product against a slow reference evaluator, on random policies and requests; and properties that must hold
//! whatever the policies are. `SQUIRE_DIFFERENTIAL_PAIRS` sets how many pairs each family gets (default 30,000, some
//! seconds in a debug build; CI runs 100,000), `SQUIRE_DIFFERENTIAL_SEED` where to begin.
//!
//! The long run, with random policies that no shorter one has seen (about 80 s of a CPU for each family):
//! `SQUIRE_DIFFERENTIAL_SEED=20000000 SQUIRE_DIFFERENTIAL_PAIRS=10000000 cargo test --release -p squire-control --test
//! differential with_the_reference`. Without a release build of everything, `CARGO_PROFILE_DEV_OPT_LEVEL=2 cargo test
//! --workspace …` takes the dependencies that other tests use and is as fast.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail")]

#[path = "differential/connections.rs"]
mod connections;
#[path = "differential/generate.rs"]
mod generate;
#[path = "differential/pairs.rs"]
mod pairs;
#[path = "differential/properties.rs"]
mod properties;
#[path = "differential/reference.rs"]
mod reference;

use std::env;

use generate::{Family, Random};
use serde_json::{Value, json};
use squire_control::{
    manifest::{Object, Severity},
    policy::{MeshConfig, PolicySet, eval::Evaluator},
};

fn number_of_pairs() -> usize {
    env::var("SQUIRE_DIFFERENTIAL_PAIRS")
        .ok()
        .map_or(30_000, |text| text.parse().expect("a number"))
}

fn first_seed() -> u64 {
    env::var("SQUIRE_DIFFERENTIAL_SEED")
        .ok()
        .map_or(1, |text| text.parse().expect("a number"))
}

fn set(objects: &[Value], mesh: &Value) -> PolicySet {
    let objects: Vec<Object> = objects
        .iter()
        .map(|value| Object::from_value("test", value.clone()).unwrap())
        .collect();
    let (set, problems) = PolicySet::from_objects(&objects, MeshConfig::from_value(mesh).unwrap());
    let errors: Vec<_> = problems
        .iter()
        .filter(|problem| problem.severity == Severity::Error)
        .collect();
    assert!(
        errors.is_empty(),
        "the generator must make valid objects: {errors:?}\n{objects:?}"
    );
    set
}

fn ask(evaluator: &Evaluator, request: &Value) -> Value {
    serde_json::to_value(evaluator.answer(json!({ "id": 0, "request": request }))).unwrap()
}

fn differs(family: Family) {
    pairs::compare(family, first_seed(), number_of_pairs());
}

#[test]
fn networkpolicy_agrees_with_the_reference() {
    differs(Family::Network);
}

#[test]
fn peerauthentication_agrees_with_the_reference() {
    differs(Family::Peer);
}

#[test]
fn authorizationpolicy_agrees_with_the_reference() {
    differs(Family::Authorization);
}

#[test]
fn all_languages_together_agree_with_the_reference() {
    differs(Family::All);
}

#[test]
fn normalization_agrees_with_the_reference() {
    let parts = [
        "/", "a", ".", "..", "%2f", "%2F", "%5c", "\\", "%61", "%2e", "%25", "%", "//", "?", "#", "%00", "é",
    ];
    for seed in (first_seed()..).take(number_of_pairs()) {
        let r = &mut Random::new(seed);
        let count = r.below(9);
        let path: String = std::iter::once("/").chain((0..count).map(|_| r.pick(&parts))).collect();
        for mode in ["NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"] {
            let actual = squire_mesh::policy::path::normalize(mode.parse().unwrap(), &path);
            let actual = actual.ok().map(|path| path.into_owned());
            assert_eq!(actual, reference::normalized(mode, &path), "{mode} {path}");
        }
    }
}
