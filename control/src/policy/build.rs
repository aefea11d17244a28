//! The table of one workload from the policies that select it. Rules are shared between tables, never copied.

use std::sync::Arc;

use squire_mesh::policy::{
    Action, AuthorizationPolicy, CustomPolicy, Kind, NetworkGate, NetworkPolicy, Refusal, Table, TokenIssuer,
};

use super::{Body, MeshConfig, Parsed, Selects, peer::Levels};

/// The table of a workload that these policies select, in the order of their names.
pub(super) fn table(config: &MeshConfig, selected: &[&Parsed]) -> Table {
    Build { config, selected }.table()
}

/// One table in the making.
struct Build<'s> {
    config: &'s MeshConfig,
    selected: &'s [&'s Parsed],
}

impl Build<'_> {
    fn table(&self) -> Table {
        let mut table = Table {
            path_normalization: self.config.path_normalization,
            ..Table::default()
        };
        table.ingress = self.network(
            |body| match body {
                Body::Network { ingress, .. } => ingress.as_ref(),
                _ => None,
            },
            |ingress, _| ingress,
        );
        table.egress = self.network(
            |body| match body {
                Body::Network { egress, .. } => egress.as_ref(),
                _ => None,
            },
            |_, egress| egress,
        );
        table.mutual_tls = self.levels().effective();
        table.mutual_tls.refusal = self.refusal(Kind::PeerAuthentication);
        self.authorization(&mut table);
        table.issuers = self.issuers();
        table
    }

    fn network<'b>(
        &'b self,
        rules: impl Fn(&'b Body) -> Option<&'b Arc<NetworkPolicy>>,
        direction: impl Fn(bool, bool) -> bool,
    ) -> NetworkGate {
        let refused = self.of(Kind::NetworkPolicy).find_map(|parsed| match &parsed.body {
            Body::Refused {
                refusal,
                ingress,
                egress,
            } if direction(*ingress, *egress) => Some(refusal.clone()),
            _ => None,
        });
        let policies: Box<[_]> = self
            .of(Kind::NetworkPolicy)
            .filter_map(|parsed| rules(&parsed.body))
            .cloned()
            .collect();
        match refused {
            Some(refusal) => NetworkGate::Refused(refusal),
            None if policies.is_empty() => NetworkGate::Open,
            None => NetworkGate::Isolated(policies),
        }
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = &Parsed> {
        self.selected
            .iter()
            .copied()
            .filter(move |parsed| parsed.object.kind == kind)
    }

    fn refusal(&self, kind: Kind) -> Option<Refusal> {
        self.of(kind)
            .filter(|parsed| !self.is_ignored(parsed))
            .find_map(|parsed| match &parsed.body {
                Body::Refused { refusal, .. } => Some(refusal.clone()),
                _ => None,
            })
    }

    /// Spec §2.1.1: a PeerAuthentication with a selector does nothing in the root namespace.
    fn is_ignored(&self, parsed: &Parsed) -> bool {
        parsed.object.kind == Kind::PeerAuthentication
            && *parsed.object.namespace == *self.config.root_namespace
            && matches!(&parsed.selects, Selects::Labels(selector) if !selector.0.is_empty())
    }

    fn levels(&self) -> Levels<'_> {
        let mut levels = Levels::default();
        for parsed in self
            .of(Kind::PeerAuthentication)
            .filter(|parsed| !self.is_ignored(parsed))
        {
            let Body::Peer(policy) = &parsed.body else { continue };
            let selector = matches!(&parsed.selects, Selects::Labels(selector) if !selector.0.is_empty());
            let level = if *parsed.object.namespace == *self.config.root_namespace {
                &mut levels.mesh
            } else if selector {
                &mut levels.workload
            } else {
                &mut levels.namespace
            };
            level.push((&parsed.object, policy));
        }
        levels
    }

    fn authorization(&self, table: &mut Table) {
        let policies = |wanted: Action, shadow: bool| -> Box<[Arc<AuthorizationPolicy>]> {
            let one = |parsed: &Parsed| match &parsed.body {
                Body::Authorization {
                    action,
                    dry_run,
                    policy,
                    ..
                } if *action == wanted && *dry_run == shadow => Some(Arc::clone(policy)),
                _ => None,
            };
            self.of(Kind::AuthorizationPolicy).filter_map(one).collect()
        };
        let authorization = &mut table.authorization;
        authorization.deny = policies(Action::Deny, false);
        authorization.allow = policies(Action::Allow, false);
        authorization.audit = policies(Action::Audit, false);
        authorization.shadow_deny = policies(Action::Deny, true);
        authorization.shadow_allow = policies(Action::Allow, true);
        authorization.custom = self.custom();
        authorization.refusal = self
            .refusal(Kind::AuthorizationPolicy)
            .or_else(|| self.refusal(Kind::RequestAuthentication));
    }

    /// Spec §3.11.40: an unknown provider, or two without the switch, deny what their policies match.
    fn custom(&self) -> Box<[CustomPolicy]> {
        let policies = || {
            self.of(Kind::AuthorizationPolicy)
                .filter_map(|parsed| match &parsed.body {
                    Body::Authorization {
                        action: Action::Custom,
                        provider: Some(provider),
                        policy,
                        ..
                    } => Some((&**provider, policy)),
                    _ => None,
                })
        };
        let first = policies().next().map(|(provider, _)| provider);
        let conflict =
            !self.config.multiple_custom_providers && policies().any(|(provider, _)| Some(provider) != first);
        let custom = |(name, policy): (&str, &Arc<AuthorizationPolicy>)| {
            let provider = self.config.extension_providers.get(name).filter(|_| !conflict);
            CustomPolicy {
                policy: Arc::clone(policy),
                provider: provider.cloned(),
            }
        };
        policies().map(custom).collect()
    }

    fn issuers(&self) -> Box<[TokenIssuer]> {
        let issuers = |parsed: &Parsed| match &parsed.body {
            Body::Tokens(issuers) => issuers.to_vec(),
            _ => Vec::new(),
        };
        self.of(Kind::RequestAuthentication).flat_map(issuers).collect()
    }
}
