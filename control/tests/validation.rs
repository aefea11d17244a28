//! Validation as an API server with the CRDs would do it, of every field of every kind: from an object in which every field
//! is set, each field in turn gets a wrong type, and each mapping a field that does not exist. Then the values that only
//! look right. What each error must say: where, what is wrong, and what to do.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

#[path = "validation/fields.rs"]
mod fields;
#[path = "validation/objects.rs"]
mod objects;
#[path = "validation/values.rs"]
mod values;

use serde_json::Value;
use squire_control::{
    manifest::{Manifest, Problem, Severity},
    policy::check::check,
};

/// What is said of one object.
fn problems(object: &Value) -> Vec<Problem> {
    check(&Manifest::parse("policy.json", &object.to_string())).problems
}

/// The paths of its errors.
fn errors(object: &Value) -> Vec<String> {
    let found = problems(object).into_iter();
    let errors = found.filter(|problem| problem.severity == Severity::Error);
    errors
        .map(|problem| {
            assert!(!problem.message.is_empty() && !problem.fix.is_empty(), "{problem}");
            assert_eq!((&*problem.file, problem.document), ("policy.json", 1), "{problem}");
            assert!(problem.object.is_some(), "{problem}");
            problem.path
        })
        .collect()
}
