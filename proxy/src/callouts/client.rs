//! A small HTTP/1.1 client for callouts: one request, one bounded response, connections kept for the next. No redirects,
//! no cookies, no proxies.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;

use super::{
    connect::{Connect, Standing, Stream},
    outside::Tls,
};

/// Connections kept for one server.
const KEPT: usize = 8;
/// Of a response's head; more than any answer needs.
const MAX_HEAD: usize = 64 << 10;

/// A server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) tls: bool,
    pub(crate) host: Box<str>,
    pub(crate) port: u16,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// Not reached.
    #[error("not reached: {0}")]
    Connect(#[source] io::Error),
    /// Reached, but no whole HTTP response came.
    #[error("no answer: {0}")]
    Http(#[source] hyper::Error),
    /// The response's body is longer than allowed, or broke off.
    #[error("the answer's body cannot be used: {0}")]
    Body(String),
}

/// A response with its whole body.
pub(crate) type Response = http::Response<Bytes>;

/// Opens connections of either kind and keeps HTTP/1.1 ones.
pub(crate) struct Client {
    connect: Arc<dyn Connect>,
    tls: Tls,
    kept: Mutex<HashMap<Origin, Vec<Kept>>>,
}

struct Kept {
    send: SendRequest<Full<Bytes>>,
    standing: Standing,
}

impl Client {
    /// Over this way of reaching servers; `tls` for those that are asked by `https`.
    pub(crate) fn new(connect: Arc<dyn Connect>, tls: Tls) -> Self {
        Self {
            connect,
            tls,
            kept: Mutex::default(),
        }
    }

    /// A stream to a server, TLS included.
    pub(crate) async fn stream(&self, origin: &Origin) -> Result<(Stream, Standing), CallError> {
        let connected = self.connect.connect(&origin.host, origin.port).await;
        let connected = connected.map_err(CallError::Connect)?;
        let stream = if origin.tls {
            let tls = self.tls.connect(&origin.host, connected.stream).await;
            tls.map_err(CallError::Connect)?
        } else {
            connected.stream
        };
        Ok((stream, connected.standing))
    }

    /// Sends a request and reads the response, of at most `limit` bytes of body. A kept connection that turns out to be
    /// closed is replaced; to be asked twice does a check or a key server no harm.
    pub(crate) async fn send(
        &self,
        origin: &Origin,
        request: http::Request<Full<Bytes>>,
        limit: usize,
    ) -> Result<Response, CallError> {
        while let Some(kept) = self.take(origin) {
            match self.exchange(origin, kept, request.clone(), limit).await {
                // Closed by the server between two requests.
                Err(CallError::Http(error))
                    if error.is_canceled() || error.is_closed() || error.is_incomplete_message() => {}
                done => return done,
            }
        }
        let (stream, standing) = self.stream(origin).await?;
        let (send, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(CallError::Http)?;
        // It ends by itself with `send`; its error reaches the request under way.
        tokio::spawn(connection);
        self.exchange(origin, Kept { send, standing }, request, limit).await
    }

    async fn exchange(
        &self,
        origin: &Origin,
        mut kept: Kept,
        request: http::Request<Full<Bytes>>,
        limit: usize,
    ) -> Result<Response, CallError> {
        kept.send.ready().await.map_err(CallError::Http)?;
        let response = kept.send.send_request(request).await.map_err(CallError::Http)?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, limit).collect().await;
        let body = body.map_err(|error| CallError::Body(error.to_string()))?.to_bytes();
        if !kept.send.is_closed() {
            let mut all = self.lock();
            let same = all.entry(origin.clone()).or_default();
            if same.len() < KEPT {
                same.push(kept);
            }
        }
        Ok(http::Response::from_parts(head, body))
    }

    fn take(&self, origin: &Origin) -> Option<Kept> {
        let mut all = self.lock();
        let same = all.get_mut(origin)?;
        while let Some(kept) = same.pop() {
            if !kept.send.is_closed() && kept.standing.holds() {
                return Some(kept);
            }
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Origin, Vec<Kept>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Origin {
    /// As it stands in `Host`.
    pub(crate) fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Takes an `http` or `https` URL apart: the server, and the path with its query.
    pub(crate) fn of_url(url: &str) -> Option<(Self, String)> {
        let uri: http::Uri = url.parse().ok()?;
        let tls = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let origin = Self {
            tls,
            host: uri.host()?.to_ascii_lowercase().into(),
            port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Some((origin, path.to_owned()))
    }
}
