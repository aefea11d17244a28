//! The table: everything policy says about one workload, as data. How it is read is in `decide`; how it was made is the
//! control plane's business.

use std::sync::Arc;

use super::{
    AuthorizationPolicy, CustomPolicy, MtlsMode, NetworkGate, ObjectRef, PathNormalization, Provider, Request, RuleRef,
    TokenIssuer, decide::may_ask, matching::Context,
};
use crate::workload::PlaintextPorts;

/// Why a gate refuses everything: an object that cannot be understood, or nothing received yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The object, if there is one.
    pub by: Option<Arc<ObjectRef>>,
    /// What is wrong, for people.
    pub reason: Arc<str>,
}

impl Refusal {
    /// A refusal because of this object.
    #[must_use]
    pub fn new(by: Option<Arc<ObjectRef>>, reason: &str) -> Self {
        Self {
            by,
            reason: reason.into(),
        }
    }
}

/// The effective PeerAuthentication of a workload (spec §2.1).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MutualTls {
    /// The mode of every port that is not listed.
    pub mode: MtlsMode,
    /// The object that set it; none: the default.
    pub by: Option<Arc<ObjectRef>>,
    /// Ports with a mode of their own, ascending by port, all set by `ports_by`.
    pub ports: Box<[(u16, MtlsMode)]>,
    /// The object that lists the ports.
    pub ports_by: Option<Arc<ObjectRef>>,
    /// An object that cannot be understood: nothing comes in.
    pub refusal: Option<Refusal>,
}

impl MutualTls {
    /// The mode of a port and the object that set it.
    #[must_use]
    pub fn of(&self, port: u16) -> (MtlsMode, Option<RuleRef>) {
        let (mode, by) = match self.ports.binary_search_by_key(&port, |(port, _)| *port) {
            Ok(index) => (
                self.ports.get(index).map_or(self.mode, |(_, mode)| *mode),
                self.ports_by.as_ref(),
            ),
            Err(_) => (self.mode, self.by.as_ref()),
        };
        (mode, by.map(RuleRef::object))
    }

    /// The ports on which a client must not start mutual TLS (spec §2.2.9); none where an object is not understood, for
    /// then nothing comes in either way.
    #[must_use]
    pub fn plaintext_ports(&self) -> Option<PlaintextPorts> {
        if self.refusal.is_some() {
            return None;
        }
        let everywhere = self.mode == MtlsMode::Disable;
        let differs = |(port, mode): &(u16, MtlsMode)| ((*mode == MtlsMode::Disable) != everywhere).then_some(*port);
        PlaintextPorts::new(everywhere, self.ports.iter().filter_map(differs))
    }
}

/// All AuthorizationPolicies that apply to a workload, by what they do (spec §3.2). Shared between the tables of all
/// workloads that they select.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Authorization {
    /// Ask an external provider.
    pub custom: Box<[CustomPolicy]>,
    /// Deny what matches.
    pub deny: Box<[Arc<AuthorizationPolicy>]>,
    /// Allow only what matches, if there is any.
    pub allow: Box<[Arc<AuthorizationPolicy>]>,
    /// Mark what matches.
    pub audit: Box<[Arc<AuthorizationPolicy>]>,
    /// DENY policies in dry-run: recorded, never enforced.
    pub shadow_deny: Box<[Arc<AuthorizationPolicy>]>,
    /// ALLOW policies in dry-run: recorded, never enforced.
    pub shadow_allow: Box<[Arc<AuthorizationPolicy>]>,
    /// An object that cannot be understood: everything is denied.
    pub refusal: Option<Refusal>,
}

impl Authorization {
    /// Whether it restricts and records nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.refusal.is_none()
            && self.custom.is_empty()
            && [
                &self.deny,
                &self.allow,
                &self.audit,
                &self.shadow_deny,
                &self.shadow_allow,
            ]
            .into_iter()
            .all(|policies| policies.is_empty())
    }
}

/// The policy of one workload.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    /// NetworkPolicies that select it for ingress.
    pub ingress: NetworkGate,
    /// NetworkPolicies that select it for egress.
    pub egress: NetworkGate,
    /// PeerAuthentication.
    pub mutual_tls: MutualTls,
    /// AuthorizationPolicies.
    pub authorization: Authorization,
    /// How request paths are normalised before anything matches them.
    pub path_normalization: PathNormalization,
    /// What RequestAuthentications say of tokens, rule by rule.
    pub issuers: Box<[TokenIssuer]>,
}

impl Table {
    /// A table that refuses everything in both directions: what holds before the first table has arrived.
    #[must_use]
    pub fn deny_all(reason: &str) -> Self {
        let refusal = Refusal::new(None, reason);
        Self {
            ingress: NetworkGate::Refused(refusal.clone()),
            egress: NetworkGate::Refused(refusal),
            ..Self::default()
        }
    }

    /// The effective mode of a port (spec §2.1).
    #[must_use]
    pub fn mtls_mode(&self, port: u16) -> MtlsMode {
        self.mutual_tls.of(port).0
    }

    /// Whether a verdict for HTTP on this port can depend on what is in the request (its token included), so that each
    /// request must be decided. Where it cannot, one decision holds for the whole connection.
    #[must_use]
    pub fn needs_http(&self, port: u16) -> bool {
        let authorization = &self.authorization;
        !self.issuers.is_empty()
            || !authorization.custom.is_empty()
            || [
                &authorization.deny,
                &authorization.allow,
                &authorization.audit,
                &authorization.shadow_deny,
                &authorization.shadow_allow,
            ]
            .into_iter()
            .flatten()
            .flat_map(|policy| &policy.rules)
            .any(|rule| rule.looks_into_requests() && rule.concerns_port(port))
    }

    /// The providers whose CUSTOM policies match this request and who must be asked before [`super::decide_inbound`] is
    /// called with their answers. A provider may come up more than once.
    pub fn providers_to_ask<'t>(&'t self, request: &'t Request<'_>) -> impl Iterator<Item = &'t Arc<Provider>> {
        // Most workloads have no provider: nothing is worked out for them.
        let context = (!self.authorization.custom.is_empty()).then(|| Context::of(request, &self.issuers));
        context.into_iter().flat_map(|context| {
            self.authorization
                .custom
                .iter()
                .filter_map(move |custom| may_ask(custom, &context))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Kind;

    #[test]
    fn listed_ports_have_their_own_mode() {
        let object = ObjectRef::new(Kind::PeerAuthentication, "foo", "w");
        let mutual_tls = MutualTls {
            mode: MtlsMode::Strict,
            by: None,
            ports: [(80, MtlsMode::Disable), (9000, MtlsMode::Permissive)].into(),
            ports_by: Some(object),
            refusal: None,
        };
        assert_eq!(mutual_tls.of(80).0, MtlsMode::Disable);
        assert_eq!(
            mutual_tls.of(9000).1.map(|by| by.to_string()).as_deref(),
            Some("PeerAuthentication foo/w")
        );
        assert_eq!(mutual_tls.of(81), (MtlsMode::Strict, None));
        let plaintext = mutual_tls.plaintext_ports().unwrap();
        assert_eq!(plaintext.parts(), (false, &[80][..]));
    }

    #[test]
    fn clients_are_told_every_port_in_mode_disable_and_no_other() {
        let modes = [MtlsMode::Disable, MtlsMode::Permissive, MtlsMode::Strict];
        for (mode, listed) in modes.into_iter().flat_map(|mode| modes.map(|listed| (mode, listed))) {
            let mutual_tls = MutualTls {
                mode,
                ports: [(80, listed)].into(),
                ..MutualTls::default()
            };
            let told = mutual_tls.plaintext_ports();
            for port in [80, 81] {
                let expected = mutual_tls.of(port).0 == MtlsMode::Disable;
                let contains = told.as_ref().is_some_and(|ports| ports.contains(port));
                assert_eq!(contains, expected, "{mode} {listed} {port}");
            }
        }
        let refused = MutualTls {
            mode: MtlsMode::Disable,
            refusal: Some(Refusal::new(None, "not understood")),
            ..MutualTls::default()
        };
        assert_eq!(refused.plaintext_ports(), None);
    }
}
