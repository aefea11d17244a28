//! The items of `from` (`source`) and `to` (`operation`): each field becomes a condition, each `not…` field a negated one.

use squire_mesh::policy::{Action, Attribute, Condition, Conditions, PathMatch, RequestPrincipalMatch, Template};

use super::{
    Scope,
    condition::{self, Texts},
};
use crate::policy::report::{Fields, Node, Report};

const SOURCE: [&str; 14] = [
    "principals",
    "notPrincipals",
    "requestPrincipals",
    "notRequestPrincipals",
    "namespaces",
    "notNamespaces",
    "serviceAccounts",
    "notServiceAccounts",
    "trustDomains",
    "notTrustDomains",
    "ipBlocks",
    "notIpBlocks",
    "remoteIpBlocks",
    "notRemoteIpBlocks",
];
const OPERATION: [&str; 8] = [
    "hosts",
    "notHosts",
    "ports",
    "notPorts",
    "methods",
    "notMethods",
    "paths",
    "notPaths",
];

pub(super) fn source(node: &Node<'_>, scope: &Scope<'_>, report: &mut Report<'_>) -> Conditions {
    let fields = node.fields(report, &SOURCE);
    check_not_empty(&fields, report);
    check_account_companions(&fields, report);
    if scope.action == Action::Custom {
        check_custom(&fields, report);
    }
    let mut item = Item {
        fields: &fields,
        conditions: Vec::new(),
    };
    item.read("principals", "notPrincipals", report, |texts, _| {
        condition::principals(texts, scope)
    });
    item.read("requestPrincipals", "notRequestPrincipals", report, |texts, _| {
        Attribute::RequestPrincipal(
            texts
                .iter()
                .map(|(_, text)| RequestPrincipalMatch::parse(text))
                .collect(),
        )
    });
    item.read("namespaces", "notNamespaces", report, condition::namespaces);
    item.read("serviceAccounts", "notServiceAccounts", report, |texts, report| {
        condition::service_accounts(texts, scope, report)
    });
    item.read("trustDomains", "notTrustDomains", report, |texts, report| {
        condition::trust_domains(texts, scope, report)
    });
    item.read("ipBlocks", "notIpBlocks", report, |texts, report| {
        Attribute::SourceIp(condition::blocks(texts, report))
    });
    item.read("remoteIpBlocks", "notRemoteIpBlocks", report, |texts, report| {
        Attribute::RemoteIp(condition::blocks(texts, report))
    });
    item.conditions.into()
}

pub(super) fn operation(node: &Node<'_>, report: &mut Report<'_>) -> Conditions {
    let fields = node.fields(report, &OPERATION);
    check_not_empty(&fields, report);
    let mut item = Item {
        fields: &fields,
        conditions: Vec::new(),
    };
    item.read("hosts", "notHosts", report, |texts, _| {
        Attribute::Host(condition::texts(texts))
    });
    item.read("ports", "notPorts", report, |texts, report| {
        Attribute::DestinationPort(condition::ports(texts, report))
    });
    item.read("methods", "notMethods", report, |texts, _| {
        Attribute::Method(condition::texts(texts))
    });
    item.read("paths", "notPaths", report, |texts, report| {
        Attribute::Path(paths(texts, report))
    });
    item.conditions.into()
}

struct Item<'f, 'v> {
    fields: &'f Fields<'v>,
    conditions: Vec<Condition>,
}

impl<'v> Item<'_, 'v> {
    fn read(
        &mut self,
        positive: &str,
        negative: &str,
        report: &mut Report<'_>,
        attribute: impl Fn(&Texts<'v>, &mut Report<'_>) -> Attribute,
    ) {
        for (key, negated) in [(positive, false), (negative, true)] {
            let texts = self.fields.texts(key, report);
            if !texts.is_empty() {
                self.conditions.push(Condition {
                    negated,
                    attribute: attribute(&texts, report),
                });
            }
        }
    }
}

fn check_not_empty(fields: &Fields<'_>, report: &mut Report<'_>) {
    if fields.is_empty() {
        report.error(
            &fields.path,
            "must set at least one field",
            "set a field, or remove the item",
        );
    }
}

fn check_account_companions(fields: &Fields<'_>, report: &mut Report<'_>) {
    let set = |keys: &[&str]| keys.iter().any(|key| fields.get(key).is_some());
    let accounts = set(&["serviceAccounts", "notServiceAccounts"]);
    if accounts && set(&["principals", "notPrincipals", "namespaces", "notNamespaces"]) {
        report.error(
            &fields.path,
            "serviceAccounts exclude principals and namespaces",
            "write <namespace>/<account> instead",
        );
    }
    for key in ["serviceAccounts", "notServiceAccounts"] {
        if let Some(node) = fields.get(key)
            && node.value.as_array().is_some_and(|values| values.len() > 16)
        {
            report.error(&node.path, "more than 16 service accounts", "split the rule");
        }
    }
}

/// Spec §3.11.40: CUSTOM may not look at identities that only an enforced policy may rely on.
fn check_custom(fields: &Fields<'_>, report: &mut Report<'_>) {
    for key in SOURCE
        .iter()
        .filter(|key| !key.to_ascii_lowercase().contains("ipblocks"))
    {
        if let Some(node) = fields.get(key) {
            report.error(
                &node.path,
                format!("{key} cannot be used with CUSTOM"),
                "use ipBlocks, operations or headers, or another action",
            );
        }
    }
}

fn paths(texts: &Texts<'_>, report: &mut Report<'_>) -> Box<[PathMatch]> {
    let mut paths = Vec::with_capacity(texts.len());
    for (node, text) in texts {
        if !text.contains(['{', '}']) {
            paths.push(PathMatch::Text(squire_mesh::policy::TextMatch::parse(text)));
            continue;
        }
        match Template::parse(text) {
            Ok(template) if Template::is_template(text) => paths.push(PathMatch::Template(template)),
            Ok(_) => report.error(
                &node.path,
                format!("{text:?} has braces but is no template"),
                "use {*} or {**} as whole segments",
            ),
            Err(error) => report.error(
                &node.path,
                format!("{text:?}: {error}"),
                "use {*} for one segment and {**} for the rest",
            ),
        }
    }
    paths.into()
}
