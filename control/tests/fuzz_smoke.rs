//! The bodies of all fuzz targets over their corpus and over mutations of it: what CI can do without a nightly compiler.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "../../fuzz/bodies.rs"]
#[allow(unreachable_pub, reason = "shared with the fuzz crate")]
mod bodies;

use std::{fs, path::Path};

/// Mutations of each corpus file.
const MUTATIONS: u64 = 400;

fn smoke(target: &str, body: impl Fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{target} has no corpus");
    for file in files {
        let original = fs::read(&file).unwrap();
        body(&original);
        for seed in 1..=MUTATIONS {
            body(&mutated(original.clone(), seed));
        }
    }
}

/// A few bytes changed, removed, doubled or cut, from a seed.
fn mutated(mut bytes: Vec<u8>, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = |bound: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % bound.max(1)
    };
    for _ in 0..=next(4) {
        let at = next(bytes.len());
        match next(5) {
            0 if !bytes.is_empty() => bytes[at] = u8::try_from(next(256)).unwrap(),
            1 if !bytes.is_empty() => drop(bytes.remove(at)),
            2 => bytes.truncate(at),
            3 => {
                let end = (at + next(40)).min(bytes.len());
                let copy = bytes[at.min(end)..end].to_vec();
                bytes.splice(at.min(bytes.len())..at.min(bytes.len()), copy);
            }
            _ => bytes.insert(at, b"{}[]:-&*<#/\\%.\"'\n\0 "[next(19)]),
        }
    }
    bytes
}

#[test]
fn manifest() {
    smoke("manifest", bodies::manifest);
}

#[test]
fn spiffe_id() {
    smoke("spiffe_id", bodies::spiffe_id);
}

#[test]
fn path() {
    smoke("path", bodies::path);
}

#[test]
fn wire_policy() {
    smoke("wire_policy", bodies::wire_policy);
}

#[test]
fn eval_line() {
    smoke("eval_line", bodies::eval_line);
}

#[test]
fn wire_workload() {
    smoke("wire_workload", bodies::wire_workload);
}

#[test]
fn wire_service() {
    smoke("wire_service", bodies::wire_service);
}

#[test]
fn values() {
    smoke("values", bodies::values);
}

#[test]
fn claims() {
    smoke("claims", bodies::claims);
}

#[test]
fn objects_page() {
    smoke("objects_page", bodies::objects_page);
}

#[test]
fn every_target_has_a_body_a_corpus_and_a_test() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let names = |directory: &str| -> Vec<String> {
        let entries = fs::read_dir(fuzz.join(directory)).unwrap();
        let name = |entry: fs::DirEntry| entry.path().file_stem().unwrap().to_str().unwrap().to_owned();
        let mut names: Vec<_> = entries.map(|entry| name(entry.unwrap())).collect();
        names.sort();
        names
    };
    let targets = names("fuzz_targets");
    assert_eq!(targets, names("corpus"));
    let (manifest, smoke) = (
        fs::read_to_string(fuzz.join("Cargo.toml")).unwrap(),
        include_str!("fuzz_smoke.rs"),
    );
    for target in targets {
        assert!(manifest.contains(&format!("name = \"{target}\"")), "{target} is built");
        assert!(smoke.contains(&format!("bodies::{target})")), "{target} is run here");
    }
}
