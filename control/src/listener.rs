//! The mTLS door of the gRPC endpoint: accepts connections, shakes hands within a time limit, says who came. Whether
//! somebody without a certificate may do anything is for each service to say. It holds no keys: TLS settings come from
//! a watch, so that a renewed certificate is shown from the next connection on.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use rustls::ServerConfig;
use squire_mesh::{
    bundle::TrustBundles,
    svid::{Revocations, Role, identify},
    tls::{Svid, identify_error_in_io},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::server::Connected;

use crate::{
    config::Limits,
    metrics::{Metrics, count},
    peer::Peer,
};

/// What a server shows, and whom it believes.
#[derive(Clone, Debug)]
pub struct Tls {
    /// With our certificate, and client certificates optional.
    pub config: Arc<ServerConfig>,
    /// With our certificate, and nobody asked for theirs: for what is public.
    pub open: Arc<ServerConfig>,
    /// That certificate.
    pub svid: Arc<Svid>,
    /// The roots that client certificates are judged by.
    pub bundles: Arc<TrustBundles>,
}

/// Accepts connections.
#[derive(Clone, Debug)]
pub struct Door {
    /// What we show now.
    pub tls: watch::Receiver<Arc<Tls>>,
    /// Who is turned away whatever its certificate says.
    pub revocations: watch::Receiver<Arc<Revocations>>,
    /// How much at once.
    pub limits: Limits,
    /// What is counted.
    pub metrics: Metrics,
    /// When to stop.
    pub stop: CancellationToken,
}

impl Door {
    /// The connections whose handshake succeeded, for tonic to serve.
    pub fn open(self, listener: TcpListener) -> ReceiverStream<io::Result<Connection>> {
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(self.accept_all(listener, sender));
        ReceiverStream::new(receiver)
    }

    async fn accept_all(self, listener: TcpListener, connections: mpsc::Sender<io::Result<Connection>>) {
        let slots = Arc::new(Semaphore::new(self.limits.connections));
        let handshakes = Arc::new(Semaphore::new(self.limits.handshakes));
        let tasks = TaskTracker::new();
        while let Some((stream, address, slot)) = self.accept(&listener, &slots).await {
            let (door, handshakes, connections) = (self.clone(), Arc::clone(&handshakes), connections.clone());
            tasks.spawn(async move {
                let shaken = tokio::select! {
                    () = door.stop.cancelled() => return,
                    shaken = door.shake_hands(stream, address, slot, handshakes) => shaken,
                };
                if let Some(connection) = shaken {
                    connections.send(Ok(connection)).await.ok();
                }
            });
        }
        tasks.close();
        tasks.wait().await;
    }

    /// The next connection; a slot is taken first, so that those beyond the limit wait in the kernel's queue.
    async fn accept(
        &self,
        listener: &TcpListener,
        slots: &Arc<Semaphore>,
    ) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        if slots.available_permits() == 0 {
            count(&self.metrics.limit_hits, "connections").inc();
            tracing::warn!(
                limit = self.limits.connections,
                "as many connections as allowed: further ones wait"
            );
        }
        let slot = tokio::select! {
            () = self.stop.cancelled() => return None,
            slot = Arc::clone(slots).acquire_owned() => slot.ok()?,
        };
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return None,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => return Some((stream, address, slot)),
                Err(error) => {
                    // Out of file descriptors, most likely: they come back.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn shake_hands(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        slot: OwnedSemaphorePermit,
        handshakes: Arc<Semaphore>,
    ) -> Option<Connection> {
        if handshakes.available_permits() == 0 {
            count(&self.metrics.limit_hits, "handshakes").inc();
        }
        let _turn = handshakes.acquire_owned().await.ok()?;
        let tls = Arc::clone(&self.tls.borrow());
        stream.set_nodelay(true).ok();
        let acceptor = TlsAcceptor::from(Arc::clone(&tls.config));
        let outcome = match timeout(self.limits.handshake_timeout, acceptor.accept(stream)).await {
            Err(_) => Err(("timeout", "it took too long".to_owned())),
            Ok(Err(error)) => Err((
                identify_error_in_io(&error).map_or("tls", |error| error.label()),
                error.to_string(),
            )),
            Ok(Ok(stream)) => self.name(&stream, &tls, address).map(|peer| (stream, peer)),
        };
        match outcome {
            Ok((stream, peer)) => {
                count(&self.metrics.handshakes, "ok").inc();
                self.metrics.connections.inc();
                Some(Connection {
                    stream,
                    peer,
                    metrics: self.metrics.clone(),
                    _slot: slot,
                })
            }
            Err((label, why)) => {
                count(&self.metrics.handshakes, label).inc();
                tracing::debug!(%address, why, "a TLS handshake failed");
                None
            }
        }
    }

    /// Who came, from the certificates that the handshake has verified.
    fn name(
        &self,
        stream: &TlsStream<TcpStream>,
        tls: &Tls,
        address: SocketAddr,
    ) -> Result<Peer, (&'static str, String)> {
        let Some(chain) = stream.get_ref().1.peer_certificates() else {
            return Ok(Peer {
                address,
                verified: None,
            });
        };
        let verified = identify(chain, &tls.bundles, SystemTime::now(), Role::Client)
            .map_err(|error| (error.label(), error.to_string()))?;
        if let Err(revoked) = self.revocations.borrow().check(&verified) {
            tracing::warn!(id = %verified.id(), %address, %revoked, "a revoked identity was turned away");
            return Err(("revoked", revoked.to_string()));
        }
        Ok(Peer {
            address,
            verified: Some(Arc::new(verified)),
        })
    }
}

/// A connection whose handshake is done.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    metrics: Metrics,
    _slot: OwnedSemaphorePermit,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.metrics.connections.dec();
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
