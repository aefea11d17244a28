//! One resource, encoded once for every stream that will carry it. Its version is a digest of its content: the same in
//! every replica and after every restart, so that a proxy that reconnects is sent only what differs.

use std::{fmt, str::FromStr, sync::Arc};

use aws_lc_rs::digest;
use prost::{Message, bytes::Bytes};
use squire_mesh::wire::discovery;

use super::Kind;

/// The version of a resource: the first 128 bits of the SHA-256 of its content.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version(u128);

impl Version {
    /// No version that any content has (2⁻¹²⁸): what a proxy holds whose version is not one of ours.
    pub(super) const UNKNOWN: Self = Self(0);

    fn of(content: &[u8]) -> Self {
        let digest = digest::digest(&digest::SHA256, content);
        let mut first = [0; 16];
        first.copy_from_slice(&digest.as_ref()[..16]);
        Self(u128::from_be_bytes(first))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Version {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(Self)
    }
}

/// A resource as it goes out.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Its name.
    pub name: Arc<str>,
    /// Its version.
    pub version: Version,
    /// The encoded `envoy.service.discovery.v3.Resource`, shared by all streams.
    pub encoded: Bytes,
    /// Other names by which it can be subscribed to, each perhaps together with other resources. What they are follows
    /// from the content.
    pub aliases: Arc<[Arc<str>]>,
}

/// An encoded message, to be sent under one name or several.
#[derive(Clone, Debug)]
pub struct Content {
    value: Vec<u8>,
    version: Version,
    aliases: Arc<[Arc<str>]>,
}

impl Content {
    /// Encodes a message.
    pub fn of(message: &impl Message) -> Self {
        let value = message.encode_to_vec();
        Self {
            version: Version::of(&value),
            value,
            aliases: Arc::default(),
        }
    }

    /// The same under other names too.
    #[must_use]
    pub fn with_aliases(mut self, aliases: impl IntoIterator<Item = Arc<str>>) -> Self {
        self.aliases = aliases.into_iter().collect();
        self
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }
}

impl Resource {
    /// Encodes a message.
    pub fn new(kind: Kind, name: Arc<str>, message: &impl Message) -> Self {
        Self::with(kind, name, &Content::of(message))
    }

    /// With content that is already encoded.
    pub fn with(kind: Kind, name: Arc<str>, content: &Content) -> Self {
        let version = content.version;
        let envelope = discovery::Resource {
            version: version.to_string(),
            resource: Some(prost_types::Any {
                type_url: kind.type_url().to_owned(),
                value: content.value.clone(),
            }),
            name: name.to_string(),
            aliases: Vec::new(),
            ttl: None,
        };
        Self {
            name,
            version,
            encoded: envelope.encode_to_vec().into(),
            aliases: Arc::clone(&content.aliases),
        }
    }
}

/// Says that everything an alias stands for has been sent: a resource of that name and nothing in it.
pub(super) fn answered(alias: &str) -> Bytes {
    let envelope = discovery::Resource {
        name: alias.to_owned(),
        ..discovery::Resource::default()
    };
    envelope.encode_to_vec().into()
}

#[cfg(test)]
mod tests {
    use squire_mesh::wire::squire as wire;

    use super::*;

    #[test]
    fn a_version_depends_on_content_alone_and_survives_text() {
        let service = |name: &str| wire::Service {
            name: name.to_owned(),
            ..Default::default()
        };
        let one = Resource::new(Kind::Service, "a/b".into(), &service("b"));
        let same = Resource::new(Kind::Service, "a/b".into(), &service("b"));
        let other = Resource::new(Kind::Service, "a/b".into(), &service("c"));
        assert_eq!(one.version, same.version);
        assert_ne!(one.version, other.version);
        assert_eq!(one.version.to_string().parse(), Ok(one.version));
    }

    #[test]
    fn the_envelope_decodes_as_what_went_in() {
        let message = wire::Service {
            name: "b".to_owned(),
            ..Default::default()
        };
        let resource = Resource::new(Kind::Service, "a/b".into(), &message);
        let envelope = discovery::Resource::decode(resource.encoded).unwrap();
        let any = envelope.resource.unwrap();
        assert_eq!(
            (envelope.name.as_str(), any.type_url.as_str()),
            ("a/b", Kind::Service.type_url())
        );
        assert_eq!(wire::Service::decode(&*any.value).unwrap(), message);
    }
}
