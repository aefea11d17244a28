//! External authorization providers as data: where they are, how they are asked, and what of their answer counts (spec
//! §3.11.40). Nothing here asks.

use std::time::Duration;

use super::TextMatch;

/// How long a provider may take where the mesh config does not say (as in Istio).
pub const PROVIDER_TIMEOUT: Duration = Duration::from_secs(600);

/// An external authorization provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// Its name in the mesh config.
    pub name: Box<str>,
    /// How it is asked.
    pub kind: ProviderKind,
    /// Whether a request passes when it cannot be asked.
    pub fail_open: bool,
    /// Where it is; none: not configured, which denies what it should be asked.
    pub address: Option<ProviderAddress>,
    /// How long it may take.
    pub timeout: Duration,
    /// The status of a request that is denied because it could not be asked.
    pub status_on_error: u16,
    /// How much of the request's body it is shown; none: nothing.
    pub body: Option<BodyInCheck>,
    /// What only providers over HTTP have.
    pub http: HttpCheck,
}

impl Provider {
    /// A provider with nothing but its name and kind.
    #[must_use]
    pub fn new(name: &str, kind: ProviderKind) -> Self {
        Self {
            name: name.into(),
            kind,
            fail_open: false,
            address: None,
            timeout: PROVIDER_TIMEOUT,
            status_on_error: 403,
            body: None,
            http: HttpCheck::default(),
        }
    }
}

/// How a provider is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProviderKind {
    /// Over HTTP: only HTTP requests can be shown to it.
    Http,
    /// Over gRPC: it is asked for connections too.
    Grpc,
}

/// Where a provider is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProviderAddress {
    /// A host name, of the mesh or outside, or an IP address.
    pub host: Box<str>,
    /// The port.
    pub port: u16,
}

/// How much of a request's body is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyInCheck {
    /// At most so many bytes.
    pub max_bytes: u32,
    /// A longer body is cut; otherwise the request is refused with 413.
    pub allow_partial: bool,
    /// gRPC: in `raw_body` instead of `body`.
    pub pack_as_bytes: bool,
}

/// What is sent to a provider over HTTP, and which header fields of its answer count.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HttpCheck {
    /// Put before the request's path.
    pub path_prefix: Box<str>,
    /// Names of the request's fields that it is shown, beside Host and Authorization.
    pub request_headers: Box<[TextMatch]>,
    /// Fields (lower case) with fixed values that are added.
    pub additional_headers: Box<[(Box<str>, Box<str>)]>,
    /// Fields of an allowing answer that are put into the request.
    pub upstream_on_allow: Box<[TextMatch]>,
    /// Fields of a denying answer that the client gets; empty: all.
    pub downstream_on_deny: Box<[TextMatch]>,
    /// Fields of an allowing answer that are put into the application's response.
    pub downstream_on_allow: Box<[TextMatch]>,
}
