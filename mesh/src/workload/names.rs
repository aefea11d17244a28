//! Names of workloads and services in the mesh: the resource names of xDS. Parsed once, then always valid. They carry
//! no meaning beyond their parts; whether such a workload exists is not asked here.

use std::{borrow::Borrow, fmt, net::IpAddr, str::FromStr, sync::Arc};

/// Longer names are refused: a namespace takes at most 63 bytes, an object name 253.
const MAX: usize = 63 + 1 + "address".len() + 1 + 253;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not one of the three forms of a workload uid.
    #[error(
        "{0:?} is not a workload: write namespace/name for a pod, namespace/entry/name for a WorkloadEntry, \
         namespace/address/IP for a bare address"
    )]
    Uid(String),
    /// Not `namespace/name`.
    #[error("{0:?} is not a service: write namespace/name")]
    Service(String),
}

/// What kind of object a [`WorkloadUid`] names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UidKind {
    /// `namespace/name`: a Pod.
    Pod,
    /// `namespace/entry/name`: an Istio WorkloadEntry.
    Entry,
    /// `namespace/address/IP`: an address behind a Service that no Pod or WorkloadEntry holds.
    Address,
}

/// The name of a workload: cheap to clone, compares as text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadUid(Arc<str>);

impl WorkloadUid {
    /// The uid of a Pod.
    pub fn pod(namespace: &str, name: &str) -> Self {
        Self(format!("{namespace}/{name}").into())
    }

    /// The uid of a WorkloadEntry.
    pub fn entry(namespace: &str, name: &str) -> Self {
        Self(format!("{namespace}/entry/{name}").into())
    }

    /// The uid of a bare address.
    pub fn address(namespace: &str, address: IpAddr) -> Self {
        Self(format!("{namespace}/address/{address}").into())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As shared text.
    pub fn to_shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    /// What kind of object it names.
    pub fn kind(&self) -> UidKind {
        match self.0.split('/').nth(1) {
            Some("entry") if self.0.split('/').count() == 3 => UidKind::Entry,
            Some("address") if self.0.split('/').count() == 3 => UidKind::Address,
            _ => UidKind::Pod,
        }
    }

    /// The namespace part.
    pub fn namespace(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }
}

impl FromStr for WorkloadUid {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('/');
        let valid = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(namespace), Some(name), None, None) => is_segment(namespace) && is_segment(name),
            (Some(namespace), Some("entry"), Some(name), None) => is_segment(namespace) && is_segment(name),
            (Some(namespace), Some("address"), Some(address), None) => {
                is_segment(namespace) && address.parse::<IpAddr>().is_ok()
            }
            _ => false,
        };
        if valid && text.len() <= MAX {
            Ok(Self(text.into()))
        } else {
            Err(NameError::Uid(excerpt(text)))
        }
    }
}

/// The name of a Service: `namespace/name`, cheap to clone, compares as text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName(Arc<str>);

impl ServiceName {
    /// From its parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self(format!("{namespace}/{name}").into())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As shared text.
    pub fn to_shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    /// The namespace part.
    pub fn namespace(&self) -> &str {
        self.0.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The name part.
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, name)| name)
    }

    /// The same name in text that `intern` shares between equal names.
    pub(super) fn shared_by(self, intern: impl FnOnce(&str) -> Arc<str>) -> Self {
        Self(intern(&self.0))
    }
}

impl FromStr for ServiceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name)) if is_segment(namespace) && is_segment(name) && text.len() <= MAX => {
                Ok(Self(text.into()))
            }
            _ => Err(NameError::Service(excerpt(text))),
        }
    }
}

macro_rules! text_traits {
    ($($name:ident),*) => {$(
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    )*};
}

text_traits!(WorkloadUid, ServiceName);

/// Kubernetes names: lower case letters, digits, `-` and `.`.
fn is_segment(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.'))
}

/// What an error message shows of a text that a stranger sent.
fn excerpt(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_parse_into_their_kind() {
        for (text, kind) in [
            ("shop/web-1", UidKind::Pod),
            ("shop/entry", UidKind::Pod),
            ("shop/entry/vm1", UidKind::Entry),
            ("shop/address/10.0.0.7", UidKind::Address),
            ("shop/address/fd00::7", UidKind::Address),
        ] {
            let uid: WorkloadUid = text.parse().unwrap();
            assert_eq!((uid.kind(), uid.namespace(), uid.as_str()), (kind, "shop", text));
        }
    }

    #[test]
    fn what_is_not_a_uid_is_refused() {
        let long = format!("shop/{}", "a".repeat(400));
        for text in [
            "",
            "web",
            "/web",
            "shop/",
            "shop/x/y",
            "shop/address/web",
            "a/entry/b/c",
            "Shop/web",
            "shop/w eb",
            &long,
        ] {
            assert!(text.parse::<WorkloadUid>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn constructors_agree_with_the_parser() {
        let address = "fd00::7".parse().unwrap();
        for uid in [
            WorkloadUid::pod("a", "b"),
            WorkloadUid::entry("a", "b"),
            WorkloadUid::address("a", address),
        ] {
            assert_eq!(uid.as_str().parse(), Ok(uid.clone()));
        }
    }

    #[test]
    fn services_have_two_parts() {
        let name: ServiceName = "shop/db".parse().unwrap();
        assert_eq!((name.namespace(), name.name()), ("shop", "db"));
        for text in ["db", "shop/", "/db", "shop/db/x"] {
            assert!(text.parse::<ServiceName>().is_err(), "{text:?}");
        }
    }
}
