//! The kinds of resources, in the order in which they are sent: what vouches for peers first, then who and where they
//! are, then the policy that speaks about them (make before break).

use squire_mesh::ports;

/// A kind of resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Roots of a trust domain.
    TrustBundle,
    /// What must no longer be trusted.
    Revocation,
    /// A pod, a machine, a bare address.
    Workload,
    /// A Service.
    Service,
    /// The policy of one workload.
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

    /// Its type URL on the wire.
    pub const fn type_url(self) -> &'static str {
        match self {
            Self::TrustBundle => ports::TYPE_TRUST_BUNDLE,
            Self::Revocation => ports::TYPE_REVOCATION,
            Self::Workload => ports::TYPE_WORKLOAD,
            Self::Service => ports::TYPE_SERVICE,
            Self::Policy => ports::TYPE_POLICY,
        }
    }

    /// The kind behind a type URL.
    pub fn of_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// Its name in metrics and on admin pages.
    pub const fn label(self) -> &'static str {
        match self {
            Self::TrustBundle => "trust_bundle",
            Self::Revocation => "revocation",
            Self::Workload => "workload",
            Self::Service => "service",
            Self::Policy => "policy",
        }
    }

    pub(super) const fn index(self) -> usize {
        self as usize
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
