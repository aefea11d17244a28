//! The injector's admin endpoint: `/metrics /ready /live /gaps`. It only tells.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use squire_mesh::tls::Svid;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{gaps::Gaps, metrics::Metrics};

const MAX_CONNECTIONS: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

/// What the pages are made of.
pub(crate) struct Pages {
    pub(crate) metrics: Metrics,
    pub(crate) certificate: watch::Receiver<Option<Arc<Svid>>>,
    pub(crate) gaps: watch::Receiver<Gaps>,
    pub(crate) stop: CancellationToken,
}

impl Pages {
    fn answer(&self, path: &str) -> (StatusCode, Vec<u8>) {
        match path {
            "/metrics" => (StatusCode::OK, self.metrics.text()),
            "/live" => (StatusCode::OK, b"live\n".to_vec()),
            "/ready" => self.ready(),
            "/gaps" => {
                let gaps = self.gaps.borrow();
                let list: Vec<_> = gaps.values().collect();
                (StatusCode::OK, serde_json::to_vec_pretty(&list).unwrap_or_default())
            }
            _ => (
                StatusCode::NOT_FOUND,
                b"squire injector: /metrics /ready /live /gaps\n".to_vec(),
            ),
        }
    }

    fn ready(&self) -> (StatusCode, Vec<u8>) {
        let now = std::time::SystemTime::now();
        let why: &[u8] = if self.stop.is_cancelled() {
            b"stopping\n"
        } else {
            match &*self.certificate.borrow() {
                None => b"no certificate yet; the log says what the CA answered\n",
                Some(svid) if svid.not_after() <= now => {
                    b"the certificate has expired; the log says what the CA answered\n"
                }
                Some(_) => return (StatusCode::OK, b"ready\n".to_vec()),
            }
        };
        (StatusCode::SERVICE_UNAVAILABLE, why.to_vec())
    }
}

/// Serves until the process ends.
pub(crate) async fn serve(listener: TcpListener, pages: Arc<Pages>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            continue;
        };
        let pages = Arc::clone(&pages);
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let (status, body) = pages.answer(request.uri().path());
                let mut response = Response::new(Full::<Bytes>::new(body.into()));
                *response.status_mut() = status;
                async move { Ok::<_, Infallible>(response) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = served.await {
                tracing::debug!(%error, "an admin connection ended with an error");
            }
            drop(slot);
        });
    }
}
