//! One HTTP/2 connection over mutual TLS to the control plane or the CA. The server has to prove exactly the configured
//! SPIFFE ID before it sees anything from us. It never reconnects by itself: who uses it knows when and as whom.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, Uri};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, pki_types::ServerName};
use squire_mesh::{
    bundle::TrustBundles,
    svid::IdentifyError,
    tls::{self, Expect, Svid},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{self, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tower_service::Service;

use crate::config::{Authority, Host};

/// For each of resolving, connecting and the handshake.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer that is gone without a word is noticed after these two together.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// What the peer may send ahead of our reading: bounds memory, and is far more than a push needs to stay fluent.
const WINDOW: u32 = 1 << 20;

/// A connection that is up; copies share it, and it ends with the last of them.
#[derive(Clone)]
pub struct Channel {
    send: SendRequest<Body>,
    origin: Uri,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The name does not resolve.
    #[error("{address}: the name cannot be resolved: {reason}; check the address in the configuration, and DNS")]
    Resolve {
        /// What was dialled.
        address: String,
        /// What the resolver said.
        reason: String,
    },
    /// No TCP connection.
    #[error("{address}: cannot connect: {source}; check that the control plane runs and listens there")]
    Connect {
        /// What was dialled.
        address: String,
        /// The last address's error.
        source: io::Error,
    },
    /// The server is not whom it should be.
    #[error("{address}: the server was refused: {source}")]
    Identity {
        /// What was dialled.
        address: String,
        /// Which rule its certificate breaks.
        source: IdentifyError,
    },
    /// TLS failed for another reason.
    #[error("{address}: the TLS handshake failed: {source}; check that this is the control plane's gRPC port")]
    Handshake {
        /// What was dialled.
        address: String,
        /// What TLS said.
        source: io::Error,
    },
    /// HTTP/2 did not start.
    #[error("{address}: HTTP/2 did not start: {source}; check that this is the control plane's gRPC port")]
    Http2 {
        /// What was dialled.
        address: String,
        /// What HTTP/2 said.
        source: hyper::Error,
    },
}

impl Channel {
    /// Dials and proves the server; with an SVID, shows it.
    ///
    /// # Errors
    /// The first step that fails; each is bounded in time.
    pub async fn connect(
        authority: &Authority,
        svid: Option<&Svid>,
        bundles: Arc<TrustBundles>,
    ) -> Result<Self, ChannelError> {
        let expected = Expect::Exact(authority.id.clone());
        let config = match svid {
            Some(svid) => tls::client_config(svid, bundles, expected, &[b"h2"]),
            None => tls::anonymous_client_config(bundles, expected, &[b"h2"]),
        };
        let address = authority.address.to_string();
        let tcp = dial(authority, &address).await?;
        let stream = handshake(config, tcp, &address).await?;
        Self::over(stream, "https", &address).await
    }

    /// Begins HTTP/2 on a stream that leads to `address`.
    pub(crate) async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        scheme: &str,
        address: &str,
    ) -> Result<Self, ChannelError> {
        let (send, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| ChannelError::Http2 {
                address: address.to_owned(),
                source,
            })?;
        // It ends by itself with the last copy of `send`; its error reaches whoever has a request under way.
        tokio::spawn(connection);
        let origin = Uri::builder()
            .scheme(scheme)
            .authority(address)
            .path_and_query("/")
            .build();
        // A host:port that was dialled is an authority; the root of nothing would only make the request fail later.
        Ok(Self {
            send,
            origin: origin.unwrap_or_default(),
        })
    }

    /// Whether it has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.send.is_closed()
    }

    /// The origin that requests name.
    #[must_use]
    pub fn origin(&self) -> Uri {
        self.origin.clone()
    }
}

impl ChannelError {
    /// The server did not prove to be under our roots: other roots may help, another attempt will not.
    #[must_use]
    pub fn is_distrust(&self) -> bool {
        use IdentifyError as E;
        matches!(
            self,
            Self::Identity {
                source: E::UnknownIssuer(_) | E::BadSignature(_) | E::UnknownTrustDomain(_),
                ..
            }
        )
    }

    /// Nobody was reached at all.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Resolve { .. } | Self::Connect { .. })
    }
}

/// Every address of the name in turn.
async fn dial(authority: &Authority, address: &str) -> Result<TcpStream, ChannelError> {
    let connect_error = |source| ChannelError::Connect {
        address: address.to_owned(),
        source,
    };
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for target in resolve(authority, address).await? {
        match timeout(STEP_TIMEOUT, TcpStream::connect(target)).await {
            Ok(Ok(tcp)) => {
                tcp.set_nodelay(true).map_err(connect_error)?;
                return Ok(tcp);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(connect_error(last))
}

async fn resolve(authority: &Authority, address: &str) -> Result<Vec<SocketAddr>, ChannelError> {
    let resolve_error = |reason| ChannelError::Resolve {
        address: address.to_owned(),
        reason,
    };
    let port = authority.address.port;
    let name = match &authority.address.host {
        Host::Ip(ip) => return Ok(vec![SocketAddr::new(*ip, port)]),
        Host::Name(name) => name,
    };
    match timeout(STEP_TIMEOUT, net::lookup_host((&**name, port))).await {
        Ok(Ok(found)) => Ok(found.collect()),
        Ok(Err(error)) => Err(resolve_error(error.to_string())),
        Err(_) => Err(resolve_error("no answer in time".to_owned())),
    }
}

async fn handshake(
    config: Arc<ClientConfig>,
    tcp: TcpStream,
    address: &str,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, ChannelError> {
    let failed = |source: io::Error| {
        let address = address.to_owned();
        match tls::identify_error_in_io(&source).cloned() {
            Some(source) => ChannelError::Identity { address, source },
            None => ChannelError::Handshake { address, source },
        }
    };
    let peer = tcp.peer_addr().map_err(failed)?;
    // The name is neither sent nor checked: the SPIFFE ID is.
    let name = ServerName::IpAddress(peer.ip().into());
    match timeout(STEP_TIMEOUT, TlsConnector::from(config).connect(name, tcp)).await {
        Ok(connected) => connected.map_err(failed),
        Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.send.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.send.send_request(request))
    }
}
