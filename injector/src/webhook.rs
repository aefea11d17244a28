//! The webhook's server: HTTP/1.1 over TLS 1.3, one path, bounded in every direction. It reads reviews and writes answers;
//! what is decided is `review`'s.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use squire_mesh::tls::{self, Svid};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    inject::Cluster,
    metrics::Metrics,
    review::{self, Result as Outcome},
    settings::Settings,
};

/// The only path.
pub const PATH: &str = "/inject";
/// An API server keeps a few dozen; more is a mistake or an attack.
const MAX_CONNECTIONS: usize = 512;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// From accept, or the end of the last answer, to the end of a request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(90);
/// For a request's body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// An API server takes objects of up to 3 MiB, and escapes what it passes on.
pub const MAX_BODY: usize = 16 << 20;
/// After a failed accept: pause instead of spinning.
const PAUSE: Duration = Duration::from_millis(100);

/// What answers depend on.
pub struct Webhook {
    /// The admin's settings.
    pub settings: Settings,
    /// The cluster, as last seen.
    pub cluster: watch::Receiver<Cluster>,
    /// Figures.
    pub metrics: Metrics,
}

/// The certificate that is shown is the newest there is.
#[derive(Debug)]
struct Newest(watch::Receiver<Option<Arc<Svid>>>);

impl ResolvesServerCert for Newest {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.borrow().as_ref().map(|svid| Arc::clone(svid.certified_key()))
    }
}

/// TLS with the newest certificate; with `clients`, only for those who show a certificate under these roots.
///
/// # Errors
/// When `clients` holds no usable certificate.
pub fn tls_config(
    certificate: watch::Receiver<Option<Arc<Svid>>>,
    clients: Option<RootCertStore>,
) -> Result<Arc<ServerConfig>, io::Error> {
    let provider = tls::provider();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(io::Error::other)?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(Newest(certificate)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Roots under which callers have to stand, from PEM.
///
/// # Errors
/// When it is no PEM, holds no certificate, or one that cannot be a root.
pub fn client_roots(pem: &[u8]) -> Result<RootCertStore, io::Error> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| io::Error::other(format!("not PEM: {error:?}")))?;
        roots.add(certificate).map_err(io::Error::other)?;
    }
    if roots.is_empty() {
        return Err(io::Error::other("holds no certificate"));
    }
    Ok(roots)
}

/// Serves until told to stop; requests under way are answered.
pub async fn serve(listener: TcpListener, tls: Arc<ServerConfig>, webhook: Arc<Webhook>, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let tasks = TaskTracker::new();
    let acceptor = TlsAcceptor::from(tls);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the webhook cannot accept; check the limit on open files");
                sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            webhook.metrics.refused("too_many_connections");
            continue;
        };
        let (acceptor, webhook, stop) = (acceptor.clone(), Arc::clone(&webhook), stop.clone());
        tasks.spawn(async move {
            connection(stream, peer, &acceptor, webhook, stop).await;
            drop(slot);
        });
    }
    tasks.close();
    tasks.wait().await;
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: &TlsAcceptor,
    webhook: Arc<Webhook>,
    stop: CancellationToken,
) {
    // Answers are small and wanted at once; a failure here only costs time.
    let _ = stream.set_nodelay(true);
    let stream = match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::warn!(%peer, %error, "a TLS handshake failed");
            return webhook.metrics.refused("handshake");
        }
        Err(_) => return webhook.metrics.refused("handshake_timeout"),
    };
    let service = service_fn(|request: Request<Incoming>| {
        let webhook = Arc::clone(&webhook);
        async move { Ok::<_, Infallible>(webhook.respond(request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "a connection ended with an error");
    }
}

impl Webhook {
    async fn respond(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let refuse = |reason: &'static str, status: StatusCode, why: String| {
            self.metrics.refused(reason);
            tracing::warn!(reason, %why, "a request was refused");
            text(status, why)
        };
        if request.uri().path() != PATH {
            return refuse("path", StatusCode::NOT_FOUND, format!("only {PATH} is served here\n"));
        }
        if request.method() != Method::POST {
            return refuse("method", StatusCode::METHOD_NOT_ALLOWED, "only POST\n".to_owned());
        }
        let kind = request.headers().get(header::CONTENT_TYPE);
        if !kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/json")) {
            let why = "the content type is not application/json\n".to_owned();
            return refuse("content_type", StatusCode::UNSUPPORTED_MEDIA_TYPE, why);
        }
        let started = Instant::now();
        let read = timeout(BODY_TIMEOUT, Limited::new(request.into_body(), MAX_BODY).collect()).await;
        let body = match read {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => {
                let why = format!("the review is larger than {MAX_BODY} bytes\n");
                return refuse("too_large", StatusCode::PAYLOAD_TOO_LARGE, why);
            }
            Ok(Err(error)) => return refuse("body", StatusCode::BAD_REQUEST, format!("{error}\n")),
            Err(_) => {
                return refuse(
                    "body_timeout",
                    StatusCode::REQUEST_TIMEOUT,
                    "the body took too long\n".to_owned(),
                );
            }
        };
        let cluster = self.cluster.borrow().clone();
        match review::answer(&body, &cluster, &self.settings) {
            Ok(answer) => {
                self.metrics.admission(answer.result, answer.owner, started.elapsed());
                log(&answer);
                with_type(Response::new(Full::new(answer.body.into())), "application/json")
            }
            Err(error) => refuse("malformed", StatusCode::BAD_REQUEST, format!("{error}\n")),
        }
    }
}

fn log(answer: &review::Answer) {
    let (pod, owner, dry_run) = (&answer.pod, answer.owner.as_str(), answer.dry_run);
    let (result, why) = (answer.result.label(), answer.why.as_deref());
    match answer.result {
        Outcome::Denied => tracing::warn!(pod, owner, dry_run, result, why, "reviewed"),
        Outcome::Injected | Outcome::Unchanged | Outcome::Skipped => {
            tracing::info!(pod, owner, dry_run, result, why, "reviewed");
        }
    }
}

fn text(status: StatusCode, why: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(why.into()));
    *response.status_mut() = status;
    with_type(response, "text/plain; charset=utf-8")
}

fn with_type(mut response: Response<Full<Bytes>>, kind: &'static str) -> Response<Full<Bytes>> {
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
