//! One page of an admin endpoint, over plain HTTP on a loopback or pod address.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, body::Bytes};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use crate::exit::Failure;

/// How long the whole exchange may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than any control plane shows.
const MAX_PAGE: usize = 256 * 1024 * 1024;

/// The page at `path` of the endpoint (`host:port`, with or without `http://`).
pub(super) fn get(address: &str, path: &str) -> Result<String, Failure> {
    let address = address.trim_start_matches("http://").trim_end_matches('/');
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let page = runtime.map_err(Failure::unavailable)?.block_on(async {
        timeout(PATIENCE, fetch(address, path))
            .await
            .unwrap_or_else(|_| Err(anyhow!("no answer within {PATIENCE:?}")))
    });
    page.with_context(|| format!("http://{address}{path}"))
        .map_err(Failure::unavailable)
}

async fn fetch(address: &str, path: &str) -> anyhow::Result<String> {
    let stream = TcpStream::connect(address)
        .await
        .context("cannot connect: is the control plane running there?")?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path).header("host", address).body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        if !response.status().is_success() {
            bail!("answered {}", response.status());
        }
        let body = Limited::new(response.into_body(), MAX_PAGE)
            .collect()
            .await
            .map_err(|error| anyhow!(error))?;
        Ok(String::from_utf8(body.to_bytes().to_vec())?)
    };
    // The connection must be driven while the exchange waits for it.
    tokio::pin!(exchange);
    tokio::select! {
        page = &mut exchange => page,
        ended = connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(error.into()),
        },
    }
}
