//! What a sidecar that subscribes on demand asks for: workloads by name, by address, or by the Service they back. In xDS
//! these are resource names, and aliases of resources. Text and comparison only: which workloads one selects is the
//! control plane's to say.

use std::{fmt, net::IpAddr, str::FromStr};

use super::{NameError, ServiceName, Workload, WorkloadUid};

/// Before an address. No uid begins so: names of namespaces have no colon.
const ADDRESS: &str = "address:";
/// Before the name of a Service.
const SERVICE: &str = "service:";

/// One thing to ask for. As text: a uid, `address:IP`, `service:namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Selector {
    /// The workload with this uid.
    Workload(WorkloadUid),
    /// Every workload at this address.
    Address(IpAddr),
    /// Every workload that backs this Service, ready or not.
    Service(ServiceName),
}

/// Why a text is not a selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// `address:` is followed by something else.
    #[error("{0:?} is not an address")]
    Address(String),
    /// A name that nothing can have.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl Selector {
    /// Workloads at an address. An IPv4 address that is mapped into IPv6 is the IPv4 address.
    #[must_use]
    pub fn address(address: IpAddr) -> Self {
        Self::Address(address.to_canonical())
    }

    /// Whether it may select several workloads, and so is never the name of one.
    #[must_use]
    pub const fn is_alias(&self) -> bool {
        matches!(self, Self::Address(_) | Self::Service(_))
    }
}

impl Workload {
    /// Everything that selects it, beside its uid.
    pub fn aliases(&self) -> impl Iterator<Item = Selector> {
        let addresses = self.addresses.iter().map(|address| Selector::address(*address));
        let services = self.services.iter();
        addresses.chain(services.map(|membership| Selector::Service(membership.service.clone())))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(uid) => uid.fmt(f),
            Self::Address(address) => write!(f, "{ADDRESS}{address}"),
            Self::Service(service) => write!(f, "{SERVICE}{service}"),
        }
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(address) = text.strip_prefix(ADDRESS) {
            let parsed: Result<IpAddr, _> = address.parse();
            return parsed
                .map(Self::address)
                .map_err(|_| SelectorError::Address(address.chars().take(80).collect()));
        }
        match text.strip_prefix(SERVICE) {
            Some(service) => Ok(Self::Service(service.parse()?)),
            None => Ok(Self::Workload(text.parse()?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_survive_text_and_are_told_apart() {
        for (text, alias) in [
            ("shop/web-1", false),
            ("shop/entry/vm", false),
            ("shop/address/fd00::7", false),
            ("address:10.0.0.7", true),
            ("address:fd00::7", true),
            ("service:shop/web", true),
            ("address/10.0.0.7", false),
            ("service/web", false),
        ] {
            let selector: Selector = text.parse().unwrap();
            assert_eq!((selector.to_string().as_str(), selector.is_alias()), (text, alias));
        }
    }

    #[test]
    fn a_mapped_address_is_the_address_itself() {
        assert_eq!(
            "address:::ffff:10.0.0.7".parse(),
            "address:10.0.0.7".parse::<Selector>()
        );
    }

    #[test]
    fn what_selects_nothing_is_refused() {
        for text in ["", "web", "address:", "address:web", "service:web", "service:a/b/c"] {
            assert!(text.parse::<Selector>().is_err(), "{text:?}");
        }
    }
}
