//! Policy objects: read strictly, validated as an API server would, compiled into one `mesh::policy::Table` for each
//! workload, and questioned (`eval`, `why`, `check`). The decision itself is `mesh::policy`; nothing here decides, signs,
//! reads files or talks to the network.
//!
//! - [`PolicySet::from_objects`] parses everything; an object that cannot be understood is kept as a refusal, so that it
//!   fails closed for the workloads it selects.
//! - [`PolicySet::compile`] makes the table of one workload. Its cost depends on the policies of its namespace and labels only.
//! - [`PolicySet::apply`] and [`PolicySet::remove`] say which workloads a change [`Concern`]s.

mod authorization;
mod build;
pub mod check;
mod duration;
pub mod eval;
mod labels;
mod network;
mod peer;
mod providers;
pub(crate) mod report;
mod set;
mod settings;
mod tokens;
pub mod why;

pub use set::{Changed, Concern, PolicySet, Reach, Subject};
pub use settings::MeshConfig;

use std::sync::Arc;

use squire_mesh::policy::{
    Action, AuthorizationPolicy, Kind, LabelSelector, MtlsMode, NetworkPolicy, ObjectRef, Refusal, TokenIssuer,
};

use crate::manifest::{Object, Problem};
use report::Report;

/// A policy object, understood.
#[derive(Debug, Clone)]
pub(crate) struct Parsed {
    object: Arc<ObjectRef>,
    selects: Selects,
    body: Body,
}

/// Which workloads of its namespace (or of the mesh) an object selects.
#[derive(Debug, Clone, PartialEq)]
enum Selects {
    /// Those with these labels.
    Labels(LabelSelector),
    /// None that a sidecar stands beside (`targetRefs`).
    Nothing,
}

#[derive(Debug, Clone)]
enum Body {
    Network {
        ingress: Option<Arc<NetworkPolicy>>,
        egress: Option<Arc<NetworkPolicy>>,
    },
    Peer(peer::PeerPolicy),
    Authorization {
        action: Action,
        dry_run: bool,
        provider: Option<Box<str>>,
        policy: Arc<AuthorizationPolicy>,
    },
    Tokens(Box<[TokenIssuer]>),
    Refused {
        refusal: Refusal,
        ingress: bool,
        egress: bool,
    },
}

/// The mode a user wrote; `UNSET` and nothing are the same.
type Mode = Option<MtlsMode>;

/// The policy kind of an object, if it is one, in whatever API version.
#[must_use]
pub fn kind_of(object: &Object) -> Option<Kind> {
    match (object.group(), object.kind.as_str()) {
        ("networking.k8s.io" | "extensions", "NetworkPolicy") => Some(Kind::NetworkPolicy),
        ("security.istio.io", "PeerAuthentication") => Some(Kind::PeerAuthentication),
        ("security.istio.io", "AuthorizationPolicy") => Some(Kind::AuthorizationPolicy),
        ("security.istio.io", "RequestAuthentication") => Some(Kind::RequestAuthentication),
        _ => None,
    }
}

/// A policy in a version that is not read must not be passed over in silence: its author believes it in force.
fn check_version(object: &Object, report: &mut Report<'_>) {
    let known = [
        "networking.k8s.io/v1",
        "security.istio.io/v1",
        "security.istio.io/v1beta1",
    ]
    .contains(&&*object.api_version);
    if !known {
        report.error(
            "apiVersion",
            format!("{} {} is not read by this version", object.api_version, object.kind),
            "use v1",
        );
    }
}

/// Reads one policy object; `None` for objects of other kinds. An object with errors becomes a refusal.
fn parse(object: &Object, config: &MeshConfig) -> (Option<Parsed>, Vec<Problem>) {
    let Some(kind) = kind_of(object) else {
        return (None, Vec::new());
    };
    let mut report = Report::new(object);
    check_version(object, &mut report);
    let reference = ObjectRef::new(kind, object.namespace_or_default(), &object.name);
    let (selects, body) = match kind {
        Kind::NetworkPolicy => network::parse(object, &reference, &mut report),
        Kind::PeerAuthentication => peer::parse(object, config, &mut report),
        Kind::AuthorizationPolicy => authorization::parse(object, &reference, config, &mut report),
        Kind::RequestAuthentication => tokens::parse(object, &mut report),
    };
    let body = match report.first_error() {
        None => body,
        Some(error) => {
            let refusal = Refusal::new(Some(Arc::clone(&reference)), &error);
            let (ingress, egress) = match body {
                Body::Network { ingress, egress } if ingress.is_some() || egress.is_some() => {
                    (ingress.is_some(), egress.is_some())
                }
                _ => (true, true),
            };
            Body::Refused {
                refusal,
                ingress,
                egress,
            }
        }
    };
    (
        Some(Parsed {
            object: reference,
            selects,
            body,
        }),
        report.finish(),
    )
}
