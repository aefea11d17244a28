//! `security.istio.io PeerAuthentication`: validation, and which of several counts for a workload (spec §2.1).

use std::sync::Arc;

use squire_mesh::policy::{MtlsMode, MutualTls, ObjectRef};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    Body, MeshConfig, Mode, Selects, labels,
    report::{Node, Report},
};
use crate::manifest::Object;

/// What one object says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PeerPolicy {
    created: Option<OffsetDateTime>,
    mode: Mode,
    ports: Box<[(u16, Mode)]>,
}

pub(super) fn parse(object: &Object, config: &MeshConfig, report: &mut Report<'_>) -> (Selects, Body) {
    let spec = report.spec(&["selector", "mtls", "portLevelMtls"]);
    let selects = labels::workload_selector(&spec, report);
    let has_selector = matches!(&selects, Selects::Labels(selector) if !selector.0.is_empty());
    let mut ports = Vec::new();
    if let Some(node) = spec.get("portLevelMtls") {
        let entries = node.entries(report);
        if !has_selector {
            report.error(
                &node.path,
                "ports need a selector",
                "add selector.matchLabels, or set mtls.mode for all ports",
            );
        }
        if entries.is_empty() {
            report.error(&node.path, "must have at least one port", "list a port, or remove it");
        }
        for (key, value) in entries {
            match key.parse::<u16>() {
                Ok(port) if port > 0 => ports.push((port, mode(&value, report))),
                _ => report.error(
                    &value.path,
                    format!("{key:?} is not a port number"),
                    "write a number from 1 to 65535",
                ),
            }
        }
    }
    ports.sort_by_key(|(port, _)| *port);
    if has_selector && object.namespace_or_default() == config.root_namespace {
        report.warn(
            &format!("{}.selector", spec.path),
            "ignored: in the root namespace a PeerAuthentication with a selector has no effect",
            "put it into the workload's namespace",
        );
    }
    let mode = spec.get("mtls").and_then(|node| mode(&node, report));
    (
        selects,
        Body::Peer(PeerPolicy {
            created: created(report),
            mode,
            ports: ports.into(),
        }),
    )
}

fn mode(node: &Node<'_>, report: &mut Report<'_>) -> Mode {
    let fields = node.fields(report, &["mode"]);
    match fields.text("mode", report) {
        None | Some("UNSET") => None,
        Some("DISABLE") => Some(MtlsMode::Disable),
        Some("PERMISSIVE") => Some(MtlsMode::Permissive),
        Some("STRICT") => Some(MtlsMode::Strict),
        Some(other) => {
            report.error(
                &format!("{}.mode", node.path),
                format!("unknown mode {other:?}"),
                "use STRICT, PERMISSIVE, DISABLE or UNSET",
            );
            None
        }
    }
}

fn created(report: &mut Report<'_>) -> Option<OffsetDateTime> {
    let text = report.metadata_text("creationTimestamp")?;
    let time = OffsetDateTime::parse(text, &Rfc3339).ok();
    if time.is_none() {
        report.error(
            "metadata.creationTimestamp",
            format!("{text:?} is not a time"),
            "write RFC 3339, such as 2024-01-31T12:00:00Z",
        );
    }
    time
}

/// The objects that may count for one workload, by level.
#[derive(Default)]
pub(super) struct Levels<'p> {
    pub(super) mesh: Vec<(&'p Arc<ObjectRef>, &'p PeerPolicy)>,
    pub(super) namespace: Vec<(&'p Arc<ObjectRef>, &'p PeerPolicy)>,
    pub(super) workload: Vec<(&'p Arc<ObjectRef>, &'p PeerPolicy)>,
}

impl Levels<'_> {
    /// The effective modes: narrower levels win, at each level the oldest object counts alone.
    pub(super) fn effective(&self) -> MutualTls {
        let workload = oldest(&self.workload);
        let mut result = MutualTls::default();
        for (object, policy) in [oldest(&self.mesh), oldest(&self.namespace), workload]
            .into_iter()
            .flatten()
        {
            if let Some(mode) = policy.mode {
                (result.mode, result.by) = (mode, Some(Arc::clone(object)));
            }
        }
        if let Some((object, policy)) = workload {
            // A port that is UNSET has the workload's mode, and needs no entry.
            result.ports = policy
                .ports
                .iter()
                .filter_map(|(port, mode)| Some((*port, (*mode)?)))
                .collect();
            result.ports_by = (!result.ports.is_empty()).then(|| Arc::clone(object));
        }
        result
    }
}

/// Spec §2.1.2: oldest creation, then name, then namespace. No timestamp counts as the oldest, as in Go.
fn oldest<'p>(candidates: &[(&'p Arc<ObjectRef>, &'p PeerPolicy)]) -> Option<(&'p Arc<ObjectRef>, &'p PeerPolicy)> {
    let order = |(object, policy): &&(&'p Arc<ObjectRef>, &'p PeerPolicy)| {
        (policy.created, object.name.clone(), object.namespace.clone())
    };
    candidates.iter().min_by_key(order).copied()
}
