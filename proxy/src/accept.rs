//! Listening and accepting: a slot is taken before each accept, so that the limit holds and a drain misses nobody; a
//! process that runs out of descriptors waits for one and goes on. Told to stop, it takes what the kernel has accepted for
//! us already, as those clients believe that they are connected. Knows no TLS and no policy.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{metrics::Metrics, outcome::accept_label, socket};

/// Connections the kernel may hold for us before we accept them.
const BACKLOG: i32 = 4096;
/// Pause after an accept that failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(20);

/// A connection, and all that is known of it before its first byte.
pub(crate) struct Accepted {
    pub(crate) tcp: TcpStream,
    pub(crate) client: SocketAddr,
    /// Where the client wanted to go.
    pub(crate) destination: SocketAddr,
    /// Where the application listens (inbound).
    pub(crate) app: SocketAddr,
    /// The workload's port (inbound).
    pub(crate) port: u16,
    pub(crate) since: Instant,
    /// Gives the place back when the connection ends.
    pub(crate) slot: OwnedSemaphorePermit,
}

/// How a listener learns where its connections are meant to go.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Destination {
    /// The kernel redirected them: asked of each socket.
    Original,
    /// Always the same.
    Fixed {
        /// Shown as the destination.
        address: SocketAddr,
        /// Where the application listens (inbound).
        app: SocketAddr,
        /// The workload's port (inbound).
        port: u16,
    },
}

/// Opens a listener.
///
/// # Errors
/// With the address in the message, as when the port is in use.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let open = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket::tune(&socket);
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    open().map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))
}

/// Accepts until `stop`, and then what has been waiting; hands each connection to `serve`.
pub(crate) async fn accept_all(
    listener: TcpListener,
    destination: Destination,
    slots: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    mut serve: impl FnMut(Accepted),
) {
    while let Some(slot) = free_slot(&slots, &metrics, &stop).await {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let (tcp, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                metrics.accept_failed(accept_label(&error));
                if exhausted(&error) {
                    tracing::warn!(%error, "no descriptors or memory to accept with; trying again shortly");
                    sleep(PAUSE).await;
                }
                continue;
            }
        };
        if let Some(accepted) = destination.of(tcp, client, slot, &metrics) {
            serve(accepted);
        }
    }
    // Asked of the kernel itself: tokio may not have heard yet of what came last.
    let Ok(waiting) = listener.into_std() else { return };
    while let Ok(slot) = Arc::clone(&slots).try_acquire_owned()
        && let Ok((tcp, client)) = waiting.accept()
    {
        let adopted = tcp.set_nonblocking(true).and_then(|()| TcpStream::from_std(tcp));
        if let Some(accepted) = adopted.ok().and_then(|tcp| destination.of(tcp, client, slot, &metrics)) {
            serve(accepted);
        }
    }
}

impl Destination {
    /// The connection with where it is meant to go; none if that is nowhere.
    fn of(self, tcp: TcpStream, client: SocketAddr, slot: OwnedSemaphorePermit, metrics: &Metrics) -> Option<Accepted> {
        let since = Instant::now();
        let client = canonical(client);
        let (address, app, port) = match self {
            Self::Fixed { address, app, port } => (address, app, port),
            Self::Original => match original_destination(&tcp) {
                Ok(address) => (address, address, address.port()),
                Err(error) => {
                    metrics.accept_failed("original_destination");
                    tracing::debug!(%client, %error, "connection was not redirected to us; closed");
                    return None;
                }
            },
        };
        Some(Accepted {
            tcp,
            client,
            destination: address,
            app,
            port,
            since,
            slot,
        })
    }
}

/// A place for one more connection; waits while the limit is reached. `None`: stopping.
async fn free_slot(
    slots: &Arc<Semaphore>,
    metrics: &Metrics,
    stop: &CancellationToken,
) -> Option<OwnedSemaphorePermit> {
    if let Ok(slot) = Arc::clone(slots).try_acquire_owned() {
        return Some(slot);
    }
    metrics.limit_hit("connections");
    tokio::select! {
        slot = Arc::clone(slots).acquire_owned() => slot.ok(),
        () = stop.cancelled() => None,
    }
}

/// Errors that say more about us than about the one connection.
fn exhausted(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}

/// Where a redirected connection was meant to go (`SO_ORIGINAL_DST`); an error if it was not redirected.
fn original_destination(tcp: &TcpStream) -> io::Result<SocketAddr> {
    let socket = SockRef::from(tcp);
    let local = canonical(tcp.local_addr()?);
    let original = if local.is_ipv4() {
        socket.original_dst_v4()
    } else {
        socket.original_dst_v6()
    };
    let original = original?.as_socket().map(canonical);
    original
        .filter(|original| *original != local)
        .ok_or_else(|| io::Error::other("not redirected"))
}

/// IPv4 as IPv4, also where the socket says it in IPv6.
fn canonical(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = address.ip().to_canonical();
    SocketAddr::new(ip, address.port())
}
