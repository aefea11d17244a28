//! What came of a route, parent by parent: what the Gateway API has its status say.

use serde_json::Value;
use squire_mesh::traffic::RouteKind;

use super::{Parent, Parsed};
use crate::manifest::{Object, Problem, Severity};

/// What came of one route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Its kind.
    pub kind: RouteKind,
    /// The version it was read in.
    pub version: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What came of it at each Service it names.
    pub parents: Vec<ParentVerdict>,
}

/// What came of a route at one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentVerdict {
    /// The reference, as the route has it.
    pub reference: Value,
    /// Whether it is in force there.
    pub accepted: Result<(), Why>,
    /// Whether all of its backends are there, and may be led to.
    pub resolved: Result<(), Why>,
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// One of the Gateway API's words.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// There is no such Service, or no such port of it.
pub(super) const NO_PARENT: &str = "NoMatchingParent";
/// The route asks for what cannot be done.
const UNSUPPORTED: &str = "UnsupportedValue";
/// There is no such backend.
pub(super) const NO_BACKEND: &str = "BackendNotFound";
/// No ReferenceGrant allows a backend of another namespace.
pub(super) const NOT_PERMITTED: &str = "RefNotPermitted";

impl Verdict {
    /// From what each parent and the backends were found to be.
    pub(super) fn new(
        object: &Object,
        parsed: &Parsed,
        problems: &[Problem],
        parents: impl Iterator<Item = Result<(), Why>>,
        resolved: &Result<(), Why>,
    ) -> Self {
        let errors: Vec<&str> = problems
            .iter()
            .filter(|problem| problem.severity == Severity::Error)
            .map(|problem| problem.message.as_str())
            .collect();
        let parents = parsed.parents.iter().zip(parents).map(|(parent, found)| ParentVerdict {
            reference: reference(object, parent),
            accepted: match errors.is_empty() {
                true => found,
                false => Err(Why::new(UNSUPPORTED, errors.join("; "))),
            },
            resolved: resolved.clone(),
        });
        Self {
            kind: parsed.kind,
            version: object.api_version.rsplit('/').next().unwrap_or_default().to_owned(),
            namespace: parsed.namespace.clone(),
            name: parsed.name.clone(),
            parents: parents.collect(),
        }
    }
}

impl Why {
    pub(super) fn new(reason: &'static str, message: String) -> Self {
        Self { reason, message }
    }
}

/// The reference as it stands in the object: `spec.parentRefs[2]`.
fn reference(object: &Object, parent: &Parent) -> Value {
    let index = parent
        .path
        .rsplit_once('[')
        .and_then(|(_, rest)| rest.strip_suffix(']'));
    let index: Option<usize> = index.and_then(|index| index.parse().ok());
    let list = object.value.get("spec").and_then(|spec| spec.get("parentRefs"));
    index.and_then(|index| list?.get(index).cloned()).unwrap_or_default()
}
