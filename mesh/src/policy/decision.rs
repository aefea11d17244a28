//! What a decision says: the verdict, the rule that decided, and why, as a closed label for metrics and a sentence for
//! people. It never holds anything of the request itself.

use std::{fmt, sync::Arc};

use super::{ObjectRef, RuleRef};

/// Allowed or denied; there is nothing between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// May go on.
    Allow,
    /// Must not.
    Deny,
}

impl Verdict {
    /// `ALLOW` or `DENY`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The effective PeerAuthentication mode of a port (spec §2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MtlsMode {
    /// TLS is never terminated; peers have no identity.
    Disable,
    /// Mutual TLS or plaintext.
    #[default]
    Permissive,
    /// Mutual TLS only.
    Strict,
}

impl MtlsMode {
    /// The mode as users write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "DISABLE",
            Self::Permissive => "PERMISSIVE",
            Self::Strict => "STRICT",
        }
    }
}

impl fmt::Display for MtlsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a verdict is what it is. [`Why::label`] is closed; `Display` is a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// No policy of this language selects the workload.
    Unrestricted,
    /// A pod cannot block itself, nor its own node (spec §1.5).
    AlwaysPasses,
    /// A NetworkPolicy rule at the source allows it.
    EgressAllowed,
    /// A NetworkPolicy rule at the destination allows it.
    IngressAllowed,
    /// The mode of the port accepts this transport.
    TransportAccepted,
    /// An ALLOW rule matches.
    AllowRule,
    /// Every asked provider allowed it and nothing else objects.
    ProviderAllowed,
    /// The source is isolated for egress and no rule allows this.
    EgressNotAllowed,
    /// The destination is isolated for ingress and no rule allows this.
    IngressNotAllowed,
    /// The address belongs to a workload with another identity than the certificate shows.
    AddressIdentityMismatch,
    /// STRICT, and the connection is not mutual TLS.
    PlaintextRefused,
    /// Mutual TLS without a verified client identity.
    NoClientIdentity,
    /// DISABLE, and the client insists on mutual TLS.
    MutualTlsDisabled,
    /// A DENY rule matches.
    DenyRule,
    /// ALLOW policies exist and none matches.
    NoAllowRule,
    /// An external provider said no.
    ProviderDenied,
    /// An external provider gave no answer and does not fail open.
    ProviderFailed,
    /// The CUSTOM policy names a provider that is unknown, or several without the switch that permits it.
    ProviderMisconfigured,
    /// The path is malformed and must be answered with 400.
    BadPath,
    /// An object that selects the workload cannot be understood, or there is no table yet: fail closed.
    Refused(Arc<str>),
}

impl Why {
    /// A short name from a closed set, for metrics and logs.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Unrestricted => "unrestricted",
            Self::AlwaysPasses => "always_passes",
            Self::EgressAllowed => "egress_allowed",
            Self::IngressAllowed => "ingress_allowed",
            Self::TransportAccepted => "transport_accepted",
            Self::AllowRule => "allow_rule",
            Self::ProviderAllowed => "provider_allowed",
            Self::EgressNotAllowed => "egress_not_allowed",
            Self::IngressNotAllowed => "ingress_not_allowed",
            Self::AddressIdentityMismatch => "address_identity_mismatch",
            Self::PlaintextRefused => "plaintext_refused",
            Self::NoClientIdentity => "no_client_identity",
            Self::MutualTlsDisabled => "mtls_disabled",
            Self::DenyRule => "deny_rule",
            Self::NoAllowRule => "no_allow_rule",
            Self::ProviderDenied => "provider_denied",
            Self::ProviderFailed => "provider_failed",
            Self::ProviderMisconfigured => "provider_misconfigured",
            Self::BadPath => "bad_path",
            Self::Refused(_) => "policy_refused",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unrestricted => "no policy restricts it",
            Self::AlwaysPasses => "a workload's traffic with itself and from its own node always passes NetworkPolicy",
            Self::EgressAllowed => "an egress rule at the source allows it",
            Self::IngressAllowed => "an ingress rule at the destination allows it",
            Self::TransportAccepted => "the PeerAuthentication mode of the port accepts this transport",
            Self::AllowRule => "an ALLOW rule matches",
            Self::ProviderAllowed => "every external authorization provider that was asked allowed it",
            Self::EgressNotAllowed => {
                "the source is isolated for egress and no NetworkPolicy rule allows this destination"
            }
            Self::IngressNotAllowed => {
                "the destination is isolated for ingress and no NetworkPolicy rule allows this source and port"
            }
            Self::AddressIdentityMismatch => {
                "the source address belongs to a workload with another identity than the certificate shows"
            }
            Self::PlaintextRefused => "the port is STRICT and the connection is not mutual TLS",
            Self::NoClientIdentity => "mutual TLS without a verified client identity",
            Self::MutualTlsDisabled => {
                "the port is in mode DISABLE, so a mutual TLS client cannot complete its handshake"
            }
            Self::DenyRule => "a DENY rule matches",
            Self::NoAllowRule => "ALLOW policies apply to the workload and none of their rules matches",
            Self::ProviderDenied => "the external authorization provider denied it",
            Self::ProviderFailed => "the external authorization provider could not be asked and does not fail open",
            Self::ProviderMisconfigured => "the CUSTOM policy's provider is unknown or conflicts with another provider",
            Self::BadPath => "the request path is malformed (400)",
            Self::Refused(reason) => return write!(f, "refused, failing closed: {reason}"),
        })
    }
}

/// What dry-run policies of each action would have said; `None` where there are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shadow {
    /// Whether a dry-run ALLOW policy matched.
    pub allow: Option<bool>,
    /// Whether a dry-run DENY policy matched.
    pub deny: Option<bool>,
}

/// One decision, explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Allowed or denied.
    pub verdict: Verdict,
    /// The rule, or the object as a whole, that decided; none where nothing applies.
    pub by: Option<RuleRef>,
    /// Why.
    pub why: Why,
    /// The AUDIT rule that marked it, if any.
    pub audited: Option<RuleRef>,
    /// What dry-run policies matched.
    pub shadow: Shadow,
}

impl Decision {
    pub(crate) fn allow(why: Why, by: Option<RuleRef>) -> Self {
        Self {
            verdict: Verdict::Allow,
            by,
            why,
            audited: None,
            shadow: Shadow::default(),
        }
    }

    pub(crate) fn deny(why: Why, by: Option<RuleRef>) -> Self {
        Self {
            verdict: Verdict::Deny,
            by,
            why,
            audited: None,
            shadow: Shadow::default(),
        }
    }

    pub(crate) fn deny_object(why: Why, by: Option<&Arc<ObjectRef>>) -> Self {
        Self::deny(why, by.map(RuleRef::object))
    }

    /// Whether the verdict is [`Verdict::Allow`].
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.verdict == Verdict::Allow
    }

    /// The denial for a peer whose certificate shows another identity than the workload at its address has. A sidecar
    /// binds the two for every peer, not only where a NetworkPolicy looks at addresses.
    #[must_use]
    pub fn address_mismatch() -> Self {
        Self::deny(Why::AddressIdentityMismatch, None)
    }

    /// The denial for a request whose path is malformed (answer 400).
    #[must_use]
    pub fn bad_path() -> Self {
        Self::deny(Why::BadPath, None)
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.verdict, self.why)?;
        match &self.by {
            Some(by) => write!(f, " ({by})"),
            None => Ok(()),
        }
    }
}
