//! Opening connections: to the application beside us (only with a permit), to addresses outside the mesh, and to peers
//! with mutual TLS, where the peer's identity is checked before ours is shown.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use squire_mesh::{
    spiffe::SpiffeId,
    svid::{IdentifyError, Role, VerifiedPeer, identify},
};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::{
    authorize::MayDial,
    credentials::Credentials,
    link::{Framing, Link, framing_of},
    metrics::Metrics,
    outcome::dial_reason,
    socket, sys,
    tls::handshake::{self, HandshakeError, Parameters},
};

/// Why nothing was opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// TCP failed.
    #[error("connecting to {address} failed: {source}")]
    Io { address: SocketAddr, source: io::Error },
    /// TCP took too long.
    #[error("connecting to {address} took longer than {limit:?}")]
    Timeout { address: SocketAddr, limit: Duration },
    /// TLS failed.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// TLS took too long.
    #[error("the TLS handshake with {address} took longer than {limit:?}")]
    HandshakeTimeout { address: SocketAddr, limit: Duration },
    /// The peer's certificate did not stand a second look.
    #[error("the peer at {address} was not accepted: {source}")]
    Peer { address: SocketAddr, source: IdentifyError },
    /// ALPN chose nothing we know.
    #[error("the peer at {address} chose no protocol of ours")]
    Protocol { address: SocketAddr },
    /// We have no SVID to show.
    #[error("this sidecar has no valid SVID yet")]
    NoIdentity,
}

/// How long each step may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    pub(crate) connect: Duration,
    pub(crate) handshake: Duration,
}

/// Opens connections with the process's settings.
pub(crate) struct Dialer {
    pub(crate) timeouts: Timeouts,
    pub(crate) metrics: Arc<Metrics>,
}

/// A new link and whom it leads to.
pub(crate) struct Dialled {
    pub(crate) link: Box<Link>,
    pub(crate) peer: Arc<VerifiedPeer>,
    pub(crate) parameters: Parameters,
    pub(crate) took: Duration,
}

impl Dialer {
    /// The application beside us; only for what was permitted, or may be.
    pub(crate) async fn app(&self, _may: &impl MayDial, address: SocketAddr) -> Result<TcpStream, DialError> {
        let stream = self.tcp(address, None).await?;
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    /// Plain TCP.
    pub(crate) async fn tcp(&self, address: SocketAddr, from: Option<IpAddr>) -> Result<TcpStream, DialError> {
        let limit = self.timeouts.connect;
        let started = Instant::now();
        let connected = timeout(limit, connect(address, from)).await;
        let stream = connected
            .map_err(|_| DialError::Timeout { address, limit })?
            .map_err(|source| DialError::Io { address, source })?;
        self.metrics.connected(started.elapsed());
        Ok(stream)
    }

    /// A peer that must be `expected`, spoken to in `framing`.
    pub(crate) async fn mesh(
        &self,
        credentials: &Credentials,
        expected: &SpiffeId,
        framing: Framing,
        address: SocketAddr,
        from: Option<IpAddr>,
    ) -> Result<Dialled, DialError> {
        let now = SystemTime::now();
        if credentials.svid.not_after() <= now {
            return Err(DialError::NoIdentity);
        }
        let tcp = self.tcp(address, from).await?;
        socket::tune(&socket2::SockRef::from(&tcp));
        let config = credentials.client(expected, framing);
        let limit = self.timeouts.handshake;
        let started = Instant::now();
        let shaken = timeout(limit, Box::pin(handshake::connect(config, tcp, credentials.engine))).await;
        let failed = |error: DialError| {
            self.metrics.handshake_failed("client", dial_reason(&error));
            error
        };
        let established = shaken
            .map_err(|_| failed(DialError::HandshakeTimeout { address, limit }))?
            .map_err(|error| failed(DialError::Handshake(error)))?;
        let took = started.elapsed();
        if framing_of(&established.alpn) != Some(framing) {
            return Err(failed(DialError::Protocol { address }));
        }
        let peer = identify(&established.peer_chain, &credentials.bundles, now, Role::Server)
            .map_err(|source| failed(DialError::Peer { address, source }))?;
        let parameters = established.parameters;
        self.metrics.handshake("client", parameters, took);
        Ok(Dialled {
            link: Box::new((established, framing).into()),
            peer: Arc::new(peer),
            parameters,
            took,
        })
    }
}

async fn connect(address: SocketAddr, from: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(from) = from.filter(|from| from.is_ipv4() == address.is_ipv4()) {
        sys::bind_address_without_port(&socket)?;
        socket.bind(SocketAddr::new(from, 0))?;
    }
    socket.connect(address).await
}
