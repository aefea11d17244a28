//! Who takes part in the demo. Names only.

use std::fmt;

/// The namespace of all of them.
pub(super) const NAMESPACE: &str = "shop";
/// The trust domain of all of them.
pub(super) const TRUST_DOMAIN: &str = "cluster.local";

/// A workload of the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Workload {
    /// Holds what others want.
    Db,
    /// May reach `db`.
    Web,
    /// May reach `db`, until the policy is edited.
    Api,
    /// The intruder: a member of the mesh with a good identity, but no business with `db`.
    Batch,
}

impl Workload {
    pub(super) const ALL: [Self; 4] = [Self::Db, Self::Web, Self::Api, Self::Batch];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Db => "db",
            Self::Web => "web",
            Self::Api => "api",
            Self::Batch => "batch",
        }
    }

    /// Its SPIFFE ID.
    pub(super) fn id(self) -> String {
        format!("spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/{self}")
    }

    /// What the control plane knows it by.
    pub(super) fn uid(self) -> String {
        format!("{NAMESPACE}/{self}")
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
