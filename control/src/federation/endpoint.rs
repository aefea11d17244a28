//! Our own bundle endpoint, in either profile or both: whoever asks gets the newest bundle of our trust domain, as a document
//! in SPIFFE bundle format (SPIFFE Federation 5.2.1.3, 5.2.2.3). What is served is public; nobody has to show anything.

use std::{convert::Infallible, path::PathBuf, sync::Arc, time::Duration};

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use squire_mesh::bundle::TrustBundle;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::web;
use crate::listener::Tls;

/// What is spoken above TLS.
pub(super) const HTTP: &[u8] = b"http/1.1";
/// Connections at once; further ones wait.
const MAX_CONNECTIONS: usize = 128;
/// From accept to the end of the handshake, and from there to the end of the request head.
const PATIENCE: Duration = Duration::from_secs(10);
/// A whole connection: one document, perhaps several times.
const MAX_LIFE: Duration = Duration::from_secs(60);
/// How often certificate files are looked at.
const RELOAD: Duration = Duration::from_secs(10);

/// A certificate of the web and its key, as PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebCertificate {
    /// The chain.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// What both endpoints serve.
#[derive(Debug, Clone)]
pub struct Endpoints {
    bundle: watch::Receiver<Arc<TrustBundle>>,
    refresh_hint: Duration,
    stop: CancellationToken,
}

impl Endpoints {
    /// Serves this bundle with this word on how often to look for changes.
    pub fn new(bundle: watch::Receiver<Arc<TrustBundle>>, refresh_hint: Duration, stop: CancellationToken) -> Self {
        Self {
            bundle,
            refresh_hint,
            stop,
        }
    }

    /// `https_spiffe`: the endpoint shows the control plane's SVID.
    pub async fn serve_spiffe(self, listener: TcpListener, tls: watch::Receiver<Arc<Tls>>) {
        self.serve(listener, move || Arc::clone(&tls.borrow().open)).await;
    }

    /// `https_web`: it shows the certificate of these files, and another one once they hold another.
    ///
    /// # Errors
    /// When they cannot be used to begin with.
    pub fn serve_web(
        self,
        listener: TcpListener,
        files: WebCertificate,
    ) -> Result<impl Future<Output = ()> + use<>, String> {
        let first = web::server(&files.certificate, &files.key)?;
        let (publish, shown) = watch::channel(first);
        Ok(async move {
            tokio::select! {
                () = reload(files, publish) => {}
                () = self.serve(listener, move || Arc::clone(&shown.borrow())) => {}
            }
        })
    }

    async fn serve(self, listener: TcpListener, tls: impl Fn() -> Arc<ServerConfig>) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (endpoints, tls) = (self.clone(), tls());
                    tokio::spawn(async move {
                        if timeout(MAX_LIFE, endpoints.connection(stream, tls)).await.is_err() {
                            tracing::debug!("a connection to the bundle endpoint was ended: it took too long");
                        }
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the bundle endpoint could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn connection(self, stream: TcpStream, tls: Arc<ServerConfig>) {
        let stop = self.stop.clone();
        let served = async {
            let stream = match timeout(PATIENCE, TlsAcceptor::from(tls).accept(stream)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake at the bundle endpoint failed"),
                Err(_) => return,
            };
            let service = service_fn(|request: Request<Incoming>| {
                let answer = self.answer(request.method(), request.uri().path());
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the bundle endpoint ended early");
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = served => {}
        }
    }

    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let (status, kind, body) = match (method, path) {
            (&Method::GET | &Method::HEAD, "/") => {
                let bundle = TrustBundle::clone(&self.bundle.borrow()).with_refresh_hint(Some(self.refresh_hint));
                (StatusCode::OK, "application/json", bundle.to_document())
            }
            (&Method::GET | &Method::HEAD, _) => (StatusCode::NOT_FOUND, "text/plain", "the bundle is at /\n".into()),
            _ => (
                StatusCode::METHOD_NOT_ALLOWED,
                "text/plain",
                "read only: use GET\n".into(),
            ),
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        let kind = http::HeaderValue::from_static(kind);
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

/// Shows what the files hold once they hold something else that can be used.
async fn reload(files: WebCertificate, publish: watch::Sender<Arc<ServerConfig>>) {
    let content = |files: &WebCertificate| (std::fs::read(&files.certificate).ok(), std::fs::read(&files.key).ok());
    let mut known = content(&files);
    loop {
        tokio::time::sleep(RELOAD).await;
        let now = content(&files);
        if now == known {
            continue;
        }
        match web::server(&files.certificate, &files.key) {
            Ok(config) => {
                tracing::info!("the bundle endpoint shows a new certificate");
                publish.send_replace(config);
            }
            Err(error) => tracing::error!(
                error,
                "the bundle endpoint's new certificate cannot be used: the old one stays"
            ),
        }
        known = now;
    }
}
