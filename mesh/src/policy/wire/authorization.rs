//! The AuthorizationPolicy part of the table to and from the wire.

use std::sync::Arc;

use super::{
    WireError, block, invalid, list, object, port_number, provider, refusal, write_block, write_object, write_refusal,
};
use crate::{
    policy::{
        Attribute, Authorization, AuthorizationPolicy, Cidr, Condition, Conditions, CustomPolicy, PathMatch,
        RequestPrincipalMatch, Rule, Template, TextMatch,
    },
    wire::squire::{self as wire, condition::Attribute as Wire},
};

pub(super) fn authorization(message: wire::Authorization) -> Result<Authorization, WireError> {
    Ok(Authorization {
        custom: list(message.custom, custom)?,
        deny: list(message.deny, policy)?,
        allow: list(message.allow, policy)?,
        audit: list(message.audit, policy)?,
        shadow_deny: list(message.shadow_deny, policy)?,
        shadow_allow: list(message.shadow_allow, policy)?,
        refusal: message.refusal.map(refusal).transpose()?,
    })
}

pub(super) fn write(authorization: &Authorization) -> wire::Authorization {
    let policies = |policies: &[Arc<AuthorizationPolicy>]| policies.iter().map(|policy| write_policy(policy)).collect();
    wire::Authorization {
        custom: authorization.custom.iter().map(write_custom).collect(),
        deny: policies(&authorization.deny),
        allow: policies(&authorization.allow),
        audit: policies(&authorization.audit),
        shadow_deny: policies(&authorization.shadow_deny),
        shadow_allow: policies(&authorization.shadow_allow),
        refusal: authorization.refusal.as_ref().map(write_refusal),
    }
}

fn policy(message: wire::AuthorizationPolicy) -> Result<Arc<AuthorizationPolicy>, WireError> {
    Ok(Arc::new(AuthorizationPolicy {
        object: object(
            message
                .object
                .ok_or(WireError::Missing("authorization policy object"))?,
        )?,
        rules: list(message.rules, rule)?,
    }))
}

fn write_policy(policy: &AuthorizationPolicy) -> wire::AuthorizationPolicy {
    wire::AuthorizationPolicy {
        object: Some(write_object(&policy.object)),
        rules: policy.rules.iter().map(write_rule).collect(),
    }
}

fn custom(message: wire::CustomPolicy) -> Result<CustomPolicy, WireError> {
    Ok(CustomPolicy {
        policy: policy(message.policy.ok_or(WireError::Missing("custom policy"))?)?,
        provider: message.provider.map(provider::provider).transpose()?.map(Arc::new),
    })
}

fn write_custom(custom: &CustomPolicy) -> wire::CustomPolicy {
    wire::CustomPolicy {
        policy: Some(write_policy(&custom.policy)),
        provider: custom.provider.as_deref().map(provider::write),
    }
}

fn rule(message: wire::AuthorizationRule) -> Result<Rule, WireError> {
    let item = |item: wire::Conditions| list(item.conditions, condition);
    Ok(Rule::new(
        list(message.sources, item)?,
        list(message.operations, item)?,
        list(message.when, condition)?,
    ))
}

fn write_rule(rule: &Rule) -> wire::AuthorizationRule {
    let items = |items: &[Conditions]| {
        items
            .iter()
            .map(|item| wire::Conditions {
                conditions: item.iter().map(write_condition).collect(),
            })
            .collect()
    };
    wire::AuthorizationRule {
        sources: items(rule.sources()),
        operations: items(rule.operations()),
        when: rule.when().iter().map(write_condition).collect(),
    }
}

fn condition(message: wire::Condition) -> Result<Condition, WireError> {
    let attribute = match message.attribute.ok_or(WireError::Missing("condition attribute"))? {
        Wire::Principal(values) => Attribute::Principal(texts(values)?),
        Wire::Namespace(values) => Attribute::Namespace(texts(values)?),
        Wire::TrustDomain(values) => Attribute::TrustDomain(texts(values)?),
        Wire::Method(values) => Attribute::Method(texts(values)?),
        Wire::Host(values) => Attribute::Host(texts(values)?),
        Wire::Sni(values) => Attribute::Sni(texts(values)?),
        Wire::SourceIp(blocks) => Attribute::SourceIp(list(blocks.values, block)?),
        Wire::RemoteIp(blocks) => Attribute::RemoteIp(list(blocks.values, block)?),
        Wire::DestinationIp(blocks) => Attribute::DestinationIp(list(blocks.values, block)?),
        Wire::DestinationPort(ports) => Attribute::DestinationPort(list(ports.values, port_number)?),
        Wire::ServiceAccount(accounts) => Attribute::ServiceAccount(
            accounts
                .values
                .into_iter()
                .map(|account| (account.namespace.into(), account.name.into()))
                .collect(),
        ),
        Wire::RequestPrincipal(values) => Attribute::RequestPrincipal(list(values.values, request_principal)?),
        Wire::Path(values) => Attribute::Path(list(values.values, path)?),
        Wire::Header(header) => Attribute::Header(Box::new((header.name.into(), list(header.values, text)?))),
        Wire::Claim(claim) => Attribute::Claim(Box::new((
            claim.path.into_iter().map(Into::into).collect(),
            list(claim.values, text)?,
        ))),
        Wire::Absent(key) => Attribute::Absent(key.into()),
    };
    Ok(Condition {
        negated: message.negated,
        attribute,
    })
}

fn write_condition(condition: &Condition) -> wire::Condition {
    let attribute = match &condition.attribute {
        Attribute::Principal(values) => Wire::Principal(write_texts(values)),
        Attribute::Namespace(values) => Wire::Namespace(write_texts(values)),
        Attribute::TrustDomain(values) => Wire::TrustDomain(write_texts(values)),
        Attribute::Method(values) => Wire::Method(write_texts(values)),
        Attribute::Host(values) => Wire::Host(write_texts(values)),
        Attribute::Sni(values) => Wire::Sni(write_texts(values)),
        Attribute::SourceIp(blocks) => Wire::SourceIp(write_blocks(blocks)),
        Attribute::RemoteIp(blocks) => Wire::RemoteIp(write_blocks(blocks)),
        Attribute::DestinationIp(blocks) => Wire::DestinationIp(write_blocks(blocks)),
        Attribute::DestinationPort(ports) => Wire::DestinationPort(wire::PortNumbers {
            values: ports.iter().map(|port| (*port).into()).collect(),
        }),
        Attribute::ServiceAccount(accounts) => Wire::ServiceAccount(wire::ServiceAccounts {
            values: accounts
                .iter()
                .map(|(namespace, name)| wire::ServiceAccount {
                    namespace: namespace.to_string(),
                    name: name.to_string(),
                })
                .collect(),
        }),
        Attribute::RequestPrincipal(values) => Wire::RequestPrincipal(wire::RequestPrincipals {
            values: values.iter().map(write_request_principal).collect(),
        }),
        Attribute::Path(values) => Wire::Path(wire::Paths {
            values: values.iter().map(write_path).collect(),
        }),
        Attribute::Header(named) => Wire::Header(wire::NamedTextMatches {
            name: named.0.to_string(),
            values: named.1.iter().map(write_text).collect(),
        }),
        Attribute::Claim(named) => Wire::Claim(wire::ClaimMatches {
            path: named.0.iter().map(ToString::to_string).collect(),
            values: named.1.iter().map(write_text).collect(),
        }),
        Attribute::Absent(key) => Wire::Absent(key.to_string()),
    };
    wire::Condition {
        negated: condition.negated,
        attribute: Some(attribute),
    }
}

fn texts(message: wire::TextMatches) -> Result<Box<[TextMatch]>, WireError> {
    list(message.values, text)
}

fn write_texts(values: &[TextMatch]) -> wire::TextMatches {
    wire::TextMatches {
        values: values.iter().map(write_text).collect(),
    }
}

pub(super) fn text(message: wire::TextMatch) -> Result<TextMatch, WireError> {
    use wire::text_match::Match;
    Ok(match message.r#match.ok_or(WireError::Missing("text match"))? {
        Match::Present(_) => TextMatch::Present,
        Match::Exact(text) => TextMatch::Exact(text.into()),
        Match::Prefix(text) => TextMatch::Prefix(text.into()),
        Match::Suffix(text) => TextMatch::Suffix(text.into()),
    })
}

pub(super) fn write_text(text: &TextMatch) -> wire::TextMatch {
    use wire::text_match::{Match, Present};
    let text = match text {
        TextMatch::Present => Match::Present(Present {}),
        TextMatch::Exact(text) => Match::Exact(text.to_string()),
        TextMatch::Prefix(text) => Match::Prefix(text.to_string()),
        TextMatch::Suffix(text) => Match::Suffix(text.to_string()),
    };
    wire::TextMatch { r#match: Some(text) }
}

fn write_blocks(blocks: &[Cidr]) -> wire::IpBlocks {
    wire::IpBlocks {
        values: blocks.iter().map(write_block).collect(),
    }
}

fn request_principal(message: wire::RequestPrincipal) -> Result<RequestPrincipalMatch, WireError> {
    Ok(RequestPrincipalMatch {
        issuer: text(message.issuer.ok_or(WireError::Missing("issuer"))?)?,
        subject: text(message.subject.ok_or(WireError::Missing("subject"))?)?,
    })
}

fn write_request_principal(value: &RequestPrincipalMatch) -> wire::RequestPrincipal {
    wire::RequestPrincipal {
        issuer: Some(write_text(&value.issuer)),
        subject: Some(write_text(&value.subject)),
    }
}

fn path(message: wire::PathMatch) -> Result<PathMatch, WireError> {
    use wire::path_match::Match;
    match message.r#match.ok_or(WireError::Missing("path match"))? {
        Match::Text(message) => Ok(PathMatch::Text(text(message)?)),
        Match::Template(template) => Ok(PathMatch::Template(
            Template::parse(&template).map_err(|error| invalid("path template", error))?,
        )),
    }
}

fn write_path(path: &PathMatch) -> wire::PathMatch {
    use wire::path_match::Match;
    let path = match path {
        PathMatch::Text(text) => Match::Text(write_text(text)),
        PathMatch::Template(template) => Match::Template(template.to_string()),
    };
    wire::PathMatch { r#match: Some(path) }
}
