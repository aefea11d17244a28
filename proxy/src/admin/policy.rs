//! The policy of our workload in a few words: which objects make it up. It never shows conditions in full: `squire policy
//! why` explains decisions.

use std::sync::Arc;

use serde_json::{Value, json};
use squire_mesh::policy::{AuthorizationPolicy, NetworkGate, Table};

/// Objects by what they do.
pub(super) fn view(table: &Table) -> Value {
    let authorization = &table.authorization;
    let objects = |policies: &[Arc<AuthorizationPolicy>]| -> Vec<Value> {
        policies
            .iter()
            .map(|p| json!({ "object": p.object.to_string(), "rules": p.rules.len() }))
            .collect()
    };
    let tls = &table.mutual_tls;
    json!({
        "ingress": gate(&table.ingress),
        "egress": gate(&table.egress),
        "mutualTls": {
            "mode": tls.mode.to_string(),
            "by": tls.by.as_ref().map(ToString::to_string),
            "ports": tls.ports.iter().map(|(port, mode)| json!({ "port": port, "mode": mode.to_string() }))
                .collect::<Vec<_>>(),
            "refused": tls.refusal.as_ref().map(|refusal| refusal.reason.to_string()),
        },
        "authorization": {
            "custom": authorization.custom.iter().map(|c| c.policy.object.to_string()).collect::<Vec<_>>(),
            "deny": objects(&authorization.deny),
            "allow": objects(&authorization.allow),
            "audit": objects(&authorization.audit),
            "dryRunDeny": objects(&authorization.shadow_deny),
            "dryRunAllow": objects(&authorization.shadow_allow),
            "refused": authorization.refusal.as_ref().map(|refusal| refusal.reason.to_string()),
        },
    })
}

fn gate(gate: &NetworkGate) -> Value {
    match gate {
        NetworkGate::Open => json!("open"),
        NetworkGate::Isolated(policies) => json!({
            "isolatedBy": policies.iter().map(|p| json!({ "object": p.object.to_string(), "rules": p.rules().len() }))
                .collect::<Vec<_>>(),
        }),
        NetworkGate::Refused(refusal) => json!({ "refused": refusal.reason.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use squire_mesh::policy::{Kind, NetworkPolicy, ObjectRef};

    use super::*;

    #[test]
    fn the_objects_of_each_part_are_named() {
        let object = ObjectRef::new(Kind::NetworkPolicy, "shop", "db");
        let policy = NetworkPolicy::new(object.clone(), Box::default());
        let mut table = Table {
            ingress: NetworkGate::Isolated([Arc::new(policy)].into()),
            ..Table::default()
        };
        table.authorization.allow = [Arc::new(AuthorizationPolicy {
            object: ObjectRef::new(Kind::AuthorizationPolicy, "shop", "web"),
            rules: Box::default(),
        })]
        .into();
        let view = view(&table);
        assert_eq!(view["ingress"]["isolatedBy"][0]["object"], object.to_string());
        assert_eq!(view["egress"], "open");
        assert!(
            view["authorization"]["allow"][0]["object"]
                .as_str()
                .unwrap()
                .contains("shop/web")
        );
        let refused = super::view(&Table::deny_all("nothing yet"));
        assert_eq!(refused["ingress"]["refused"], "nothing yet");
    }
}
