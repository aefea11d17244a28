//! The shared conformance cases, where they stand beside the checkout (`../shared/spec/cases`, or the directory named by
//! `SQUIRE_SPEC_CASES`): the evaluator must agree with every one of them. Without the directory there is nothing to run.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test may fail, and say why it had nothing to do"
)]

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use squire_control::{
    manifest::{Manifest, Severity},
    policy::{check, eval::Evaluator},
};
use squire_mesh::{
    policy::path::{PathNormalization, normalize},
    spiffe::SpiffeId,
};

fn directory() -> Option<PathBuf> {
    let named = env::var_os("SQUIRE_SPEC_CASES").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/spec/cases");
    let directory = named.unwrap_or(beside);
    directory.is_dir().then_some(directory)
}

/// The cases of one file; none if there are no shared cases here.
fn cases(file: &str) -> Vec<Value> {
    let Some(directory) = directory() else {
        eprintln!("no shared cases beside this checkout: nothing to compare");
        return Vec::new();
    };
    let text = fs::read_to_string(directory.join(file)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Runs every case and fails with all disagreements at once.
fn agree(file: &str, actual: impl Fn(&Value) -> Value) {
    let cases = cases(file);
    let mut disagreements = Vec::new();
    for case in &cases {
        let actual = actual(case);
        for (field, expected) in case["expected"].as_object().unwrap() {
            if actual[field] != *expected {
                disagreements.push(format!(
                    "{} ({}): {field} should be {expected}\n  {actual}",
                    case["id"], case["title"]
                ));
            }
        }
    }
    let (count, total) = (disagreements.len(), cases.len());
    assert!(
        disagreements.is_empty(),
        "{file}: {count} of {total} disagree\n{}",
        disagreements.join("\n")
    );
}

fn evaluate(file: &str) {
    let evaluator = Evaluator::per_line();
    agree(file, |case| {
        serde_json::to_value(evaluator.line(&case.to_string())).unwrap()
    });
}

#[test]
fn networkpolicy() {
    evaluate("networkpolicy.jsonl");
}

#[test]
fn peerauthentication() {
    evaluate("peerauthentication.jsonl");
}

#[test]
fn authorizationpolicy() {
    evaluate("authorizationpolicy.jsonl");
}

#[test]
fn authorizationpolicy_with_tokens() {
    evaluate("authorizationpolicy_jwt.jsonl");
}

#[test]
fn all_languages_together() {
    evaluate("combined.jsonl");
}

#[test]
fn normalization() {
    agree("normalization.jsonl", |case| {
        let mode: PathNormalization = case["mode"].as_str().unwrap().parse().unwrap();
        let path =
            normalize(mode, case["path"].as_str().unwrap()).map_or_else(|_| "400".to_owned(), |path| path.into_owned());
        serde_json::json!({ "path": path })
    });
}

#[test]
fn validation() {
    agree("validation.jsonl", |case| {
        let manifest = Manifest::parse("policies", case["policies"].as_str().unwrap());
        let checked = check::check(&manifest);
        let warning = checked
            .problems
            .iter()
            .any(|problem| problem.severity == Severity::Warning);
        let problems: Vec<_> = checked.problems.iter().map(ToString::to_string).collect();
        serde_json::json!({ "valid": checked.valid, "warning": warning, "problems": problems })
    });
}

#[test]
fn spiffe_ids() {
    agree("spiffe_id.jsonl", |case| {
        let id = case["id_string"].as_str().unwrap().parse::<SpiffeId>();
        let leaf = case["leaf"].as_bool().unwrap();
        let valid = id.as_ref().is_ok_and(|id| !leaf || !id.path().is_empty());
        serde_json::json!({ "valid": valid, "why": id.err().map(|error| error.to_string()) })
    });
}
