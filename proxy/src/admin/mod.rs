//! The admin endpoint: HTTP/1.1 on loopback or wherever the configuration says. It only tells: nothing here changes the
//! sidecar, and no secret is ever shown.

mod pages;
mod policy;

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http::{Request, Response};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::sleep,
};

pub use pages::{Asker, Connections, Pages};

/// People, a Prometheus and a kubelet: more at once is a mistake or an attack.
const MAX_CONNECTIONS: usize = 64;
/// From accept, or the end of the last answer, to the end of a request head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// After a failed accept (no file descriptors): pause instead of spinning.
const PAUSE: Duration = Duration::from_millis(100);

/// The listener, not yet serving.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
}

impl Admin {
    /// Opens the listener; port 0 lets the system choose.
    ///
    /// # Errors
    /// When the address is taken or not ours.
    pub async fn listen(address: SocketAddr) -> io::Result<Self> {
        let listener = match TcpListener::bind(address).await {
            // A kernel without IPv6: everywhere is everywhere in IPv4.
            Err(error) if address.ip().is_unspecified() && address.is_ipv6() && no_ipv6(&error) => {
                TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await?
            }
            bound => bound?,
        };
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until it is dropped.
    pub async fn serve(self, pages: Arc<Pages>) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the admin endpoint cannot accept; check the limit on open files");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                pages.refused_connection();
                continue;
            };
            let pages = Arc::clone(&pages);
            tokio::spawn(async move {
                connection(stream, pages).await;
                drop(slot);
            });
        }
    }
}

fn no_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

async fn connection(stream: TcpStream, pages: Arc<Pages>) {
    let Some(asker) = Asker::of(&stream) else { return };
    let service = service_fn(move |request: Request<Incoming>| {
        let pages = Arc::clone(&pages);
        async move { Ok::<Response<Full<Bytes>>, Infallible>(pages.answer(&request, asker).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "an admin connection ended with an error");
    }
}
