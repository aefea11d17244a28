//! The kinds of resources that a sidecar subscribes to. It holds none of them.

use std::fmt;

use squire_mesh::ports;

/// A kind of resource; the order is that of subscription: trust before the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `squire.v1.TrustBundle`.
    TrustBundle,
    /// `squire.v1.Revocation`.
    Revocation,
    /// `squire.v1.Workload`.
    Workload,
    /// `squire.v1.Service`.
    Service,
    /// `squire.v1.Policy`.
    Policy,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::TrustBundle,
        Self::Revocation,
        Self::Workload,
        Self::Service,
        Self::Policy,
    ];

    /// The xDS type URL.
    #[must_use]
    pub const fn type_url(self) -> &'static str {
        match self {
            Self::TrustBundle => ports::TYPE_TRUST_BUNDLE,
            Self::Revocation => ports::TYPE_REVOCATION,
            Self::Workload => ports::TYPE_WORKLOAD,
            Self::Service => ports::TYPE_SERVICE,
            Self::Policy => ports::TYPE_POLICY,
        }
    }

    /// The kind of an xDS type URL.
    #[must_use]
    pub fn of_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// Its name in metrics and messages: a closed set.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::TrustBundle => "trust_bundle",
            Self::Revocation => "revocation",
            Self::Workload => "workload",
            Self::Service => "service",
            Self::Policy => "policy",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}
