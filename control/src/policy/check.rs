//! `squire policy check`: what an API server would say of the policies in a manifest, all at once.

use serde::Serialize;

use super::{MeshConfig, PolicySet, kind_of};
use crate::{
    manifest::{Manifest, Problem, Severity},
    routes,
};

/// The result of a check.
#[derive(Debug, Clone, Serialize)]
pub struct Checked {
    /// Whether there are no errors (warnings are allowed).
    pub valid: bool,
    /// Everything that is wrong, in the order of files and lines.
    pub problems: Vec<Problem>,
    /// How many policies were read.
    #[serde(skip)]
    pub policies: usize,
    /// Objects of other kinds, as `kind: how many`.
    #[serde(skip)]
    pub ignored: Vec<(String, usize)>,
}

/// Checks every policy and every route of a manifest, and the traffic settings of its Services.
#[must_use]
pub fn check(manifest: &Manifest) -> Checked {
    let (config, settings) = MeshConfig::from_objects(&manifest.objects);
    let (set, found) = PolicySet::from_objects(&manifest.objects, config);
    let routes = manifest.objects.iter().flat_map(routes::check);
    let read = manifest.problems.iter().cloned().chain(settings).chain(found);
    let mut problems: Vec<Problem> = read.chain(routes).collect();
    problems.sort_by(|a, b| (&a.file, a.document, a.line).cmp(&(&b.file, b.document, b.line)));
    let mut ignored = std::collections::BTreeMap::new();
    for object in &manifest.objects {
        if kind_of(object).is_none() && !MeshConfig::is_settings(object) && !routes::is_route(object) {
            *ignored.entry(object.kind.clone()).or_insert(0) += 1;
        }
    }
    Checked {
        valid: problems.iter().all(|problem| problem.severity != Severity::Error),
        problems,
        policies: set.len(),
        ignored: ignored.into_iter().collect(),
    }
}
