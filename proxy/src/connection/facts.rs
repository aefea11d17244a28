//! What becomes known of a connection step by step. Plain values; [`super::Connection`] guards them.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use squire_mesh::{policy::Decision, spiffe::SpiffeId, svid::VerifiedPeer, workload::WorkloadUid};

use crate::{ext_authz::Answered, link::Framing, tls::handshake::Parameters};

/// Seen from the application beside this sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// A peer connects to the application.
    Inbound,
    /// The application connects to a peer.
    Outbound,
}

impl Direction {
    /// For metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// What carries the connection between the two ends of the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Carrier {
    /// Not known yet.
    #[default]
    Unknown,
    /// Plain bytes, without identity.
    Plaintext,
    /// A link.
    Mesh(Framing),
}

impl Carrier {
    /// For metrics and logs: the ALPN protocol, or what stands in its place.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Plaintext => "plaintext",
            Self::Mesh(Framing::Squire) => "squire/1",
            Self::Mesh(Framing::Plain) => "squire-tls/1",
        }
    }
}

/// What the application speaks, as far as that is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Application {
    /// Not known yet.
    #[default]
    Unknown,
    /// Bytes.
    Bytes,
    /// HTTP/1.0 or 1.1: each request is judged.
    Http1,
    /// HTTP/2: each request is judged.
    Http2,
}

impl Application {
    /// For logs and people.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Bytes => "tcp",
            Self::Http1 => "http/1.1",
            Self::Http2 => "http/2",
        }
    }

    /// Whether policy looks at requests instead of at the connection.
    pub(crate) fn is_http(self) -> bool {
        matches!(self, Self::Http1 | Self::Http2)
    }
}

/// What is known so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// Our own identity at the time.
    pub(crate) local: Option<SpiffeId>,
    /// The verified identity at the other end.
    pub(crate) peer: Option<Arc<VerifiedPeer>>,
    /// The workload at the other end, by its address.
    pub(crate) peer_workload: Option<WorkloadUid>,
    /// The workload's port that is reached.
    pub(crate) port: u16,
    /// Where we dialled.
    pub(crate) upstream: Option<SocketAddr>,
    pub(crate) carrier: Carrier,
    pub(crate) application: Application,
    pub(crate) tls: Option<Parameters>,
    /// How long the handshake of this connection took; none where a link was reused.
    pub(crate) handshake: Option<Duration>,
    /// It rides on a link that served others before.
    pub(crate) reused: bool,
    /// What policy said.
    pub(crate) decision: Option<Decision>,
    /// What external providers said of a connection of bytes, where they were asked.
    pub(crate) answered: Option<Arc<Answered>>,
    /// Since when there has been no further request.
    pub(crate) quiet: Option<Quiet>,
}

/// A connection that has carried requests, between two of them as far as can be seen from outside.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quiet {
    pub(super) requests: u64,
    pub(super) since: Instant,
    /// Whoever serves it has been told.
    pub(super) told: bool,
}

impl Quiet {
    /// After so many requests, from now on.
    pub(super) fn since_now(requests: u64) -> Self {
        Self {
            requests,
            since: Instant::now(),
            told: false,
        }
    }
}
