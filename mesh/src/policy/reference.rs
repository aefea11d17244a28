//! Where a rule came from: the object's kind, namespace and name, and the index of the rule in it. Only names; no rule.

use std::{fmt, sync::Arc};

/// The kinds of objects that rules come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `networking.k8s.io/v1 NetworkPolicy`
    NetworkPolicy,
    /// `security.istio.io/v1 PeerAuthentication`
    PeerAuthentication,
    /// `security.istio.io/v1 AuthorizationPolicy`
    AuthorizationPolicy,
    /// `security.istio.io/v1 RequestAuthentication`
    RequestAuthentication,
}

impl Kind {
    /// The kind as it is written in an object.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "NetworkPolicy",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::RequestAuthentication => "RequestAuthentication",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One object, by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// What it is.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
}

impl ObjectRef {
    /// The object `namespace/name` of this kind.
    #[must_use]
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Arc<Self> {
        Arc::new(Self {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        })
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// One rule of an object, or the object as a whole. Cheap to clone (one reference count).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RuleRef {
    /// The object.
    pub object: Arc<ObjectRef>,
    /// Index of the rule in the object's list (`ingress`, `egress` or `rules`); none: the object as a whole.
    pub rule: Option<u16>,
}

impl RuleRef {
    /// The object as a whole.
    #[must_use]
    pub fn object(object: &Arc<ObjectRef>) -> Self {
        Self {
            object: Arc::clone(object),
            rule: None,
        }
    }

    /// One rule of the object.
    #[must_use]
    pub fn rule(object: &Arc<ObjectRef>, rule: u16) -> Self {
        Self {
            object: Arc::clone(object),
            rule: Some(rule),
        }
    }

    /// The object's kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.object.kind
    }

    /// The object's namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.object.namespace
    }

    /// The object's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.object.name
    }
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.object.fmt(f)?;
        match self.rule {
            Some(rule) => write!(f, " rule {rule}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_shown_as_kind_namespace_name_and_index() {
        let object = ObjectRef::new(Kind::AuthorizationPolicy, "shop", "db-allow");
        assert_eq!(
            RuleRef::rule(&object, 0).to_string(),
            "AuthorizationPolicy shop/db-allow rule 0"
        );
        assert_eq!(
            RuleRef::object(&object).to_string(),
            "AuthorizationPolicy shop/db-allow"
        );
    }
}
