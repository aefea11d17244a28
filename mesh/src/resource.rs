//! The kinds of resources that the control plane pushes, in the order in which they are subscribed to and sent: what vouches
//! for peers first, then who and where they are, then the policy that speaks about them (make before break). It holds none.

use std::fmt;

use crate::ports;

/// A kind of resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `squire.v1.TrustBundle`: the roots of a trust domain.
    TrustBundle,
    /// `squire.v1.Revocation`: what must no longer be trusted.
    Revocation,
    /// `squire.v1.Workload`: a pod, a machine, a bare address.
    Workload,
    /// `squire.v1.Service`: names and virtual addresses.
    Service,
    /// `squire.v1.Policy`: the policy of one workload.
    Policy,
}

impl Kind {
    /// Every kind, in the order of sending.
    pub const ALL: [Self; 5] = [
        Self::TrustBundle,
        Self::Revocation,
        Self::Workload,
        Self::Service,
        Self::Policy,
    ];

    /// Its xDS type URL.
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

    /// Its name in metrics, messages and on admin pages: a closed set.
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

    /// Whether a proxy only ever sees the one resource that is named after its own workload.
    #[must_use]
    pub const fn is_private(self) -> bool {
        matches!(self, Self::Policy)
    }

    /// Its place in [`Self::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_type_url_and_stand_at_their_index() {
        for (at, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!((Kind::of_type_url(kind.type_url()), kind.index()), (Some(kind), at));
        }
        assert_eq!(
            Kind::of_type_url("type.googleapis.com/envoy.config.cluster.v3.Cluster"),
            None
        );
    }
}
