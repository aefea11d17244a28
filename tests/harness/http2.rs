//! HTTP/2 on both ends: an application that speaks nothing else, echoes, shows who it was told calls, and misbehaves on
//! request (what it does is in the path); and what clients need.

use std::{
    future::poll_fn,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{
            AtomicU16, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client::SendRequest, server::SendResponse};
use http::{Method, Request, Response};
use tokio::net::TcpStream;

use crate::{
    apps::{App, serving},
    in_time,
    pattern::Pattern,
};

/// The application.
#[derive(Debug)]
pub struct Http2App {
    app: App,
    control: Arc<Control>,
}

#[derive(Debug)]
struct Control {
    name: String,
    status: AtomicU16,
    requests: AtomicUsize,
    resets: AtomicUsize,
}

impl Http2App {
    /// Starts one of this name, which it gives in `x-backend`. WebSockets (RFC 8441) are echoed.
    pub async fn start(name: &str) -> Self {
        Self::offering(name, true).await
    }

    /// One that takes WebSockets, or does not.
    pub async fn offering(name: &str, websockets: bool) -> Self {
        let control = Arc::new(Control {
            name: name.to_owned(),
            status: AtomicU16::new(200),
            requests: AtomicUsize::new(0),
            resets: AtomicUsize::new(0),
        });
        let shared = Arc::clone(&control);
        let app = serving(move |tcp| serve(tcp, websockets, Arc::clone(&shared))).await;
        Self { app, control }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.app.address()
    }

    /// Answers with this status from now on.
    pub fn answers(&self, status: u16) {
        self.control.status.store(status, Relaxed);
    }

    /// Requests that reached it.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.control.requests.load(SeqCst)
    }

    /// Streams that were broken off by the other side.
    #[must_use]
    pub fn resets(&self) -> usize {
        self.control.resets.load(SeqCst)
    }
}

async fn serve(tcp: TcpStream, websockets: bool, control: Arc<Control>) {
    let _ = tcp.set_nodelay(true);
    let mut builder = h2::server::Builder::new();
    if websockets {
        builder.enable_connect_protocol();
    }
    let Ok(mut connection) = builder.handshake(tcp).await else {
        return;
    };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let control = Arc::clone(&control);
        tokio::spawn(async move {
            if answer(request, respond, &control).await.is_err() {
                control.resets.fetch_add(1, SeqCst);
            }
        });
    }
}

/// `/held` is never answered; `/breaks` resets after the first bytes of the body; `/hello` has a few words of its own,
/// `/pattern/N` N MiB; `/no-content`, `/not-modified` and `/early-hints` are what they say, `/told` shows the fields that
/// arrived; a plain CONNECT and all others echo.
async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    control: &Control,
) -> Result<(), h2::Error> {
    control.requests.fetch_add(1, SeqCst);
    let (parts, mut body) = request.into_parts();
    let path = parts.uri.path();
    if path == "/held" {
        poll_fn(|cx| respond.poll_reset(cx)).await?;
        return Err(Reason::CANCEL.into());
    }
    if parts
        .headers
        .get("expect")
        .is_some_and(|expect| expect == "100-continue")
    {
        respond.send_informational(Response::builder().status(100).body(()).unwrap())?;
    }
    if path == "/early-hints" {
        let hints = Response::builder().status(103).header("link", "</style.css>");
        respond.send_informational(hints.body(()).unwrap())?;
    }
    let status = match path {
        "/no-content" => 204,
        "/not-modified" => 304,
        _ => control.status.load(Relaxed),
    };
    let mut response = Response::builder()
        .status(status)
        .header("x-path", path)
        .header("x-backend", &control.name);
    if let Some(client) = parts.headers.get("x-forwarded-client-cert") {
        response = response.header("x-told", client);
    }
    if path == "/told" {
        for (name, value) in &parts.headers {
            response = response.header(format!("told-{name}"), value);
        }
    }
    if parts.method == Method::HEAD {
        response = response.header("content-length", "4000");
    }
    if status == 304 {
        response = response.header("content-length", "77").header("etag", "\"x\"");
    }
    let bare = parts.method == Method::HEAD || matches!(status, 204 | 304);
    let mut stream = respond.send_response(response.body(()).unwrap(), bare)?;
    if bare {
        return Ok(());
    }
    if path == "/hello" {
        return stream.send_data(Bytes::from_static(b"hello to whoever asks"), true);
    }
    if let Some(size) = path.strip_prefix("/pattern/") {
        let mut pattern = Pattern::default();
        for _ in 0..size.parse::<u64>().unwrap() * Pattern::BLOCKS_PER_MIB {
            send(&mut stream, pattern.block()).await?;
        }
        return stream.send_data(Bytes::new(), true);
    }
    while let Some(bytes) = body.data().await {
        let bytes = bytes?;
        let _ = body.flow_control().release_capacity(bytes.len());
        if path == "/breaks" {
            stream.send_reset(Reason::INTERNAL_ERROR);
            return Ok(());
        }
        stream.send_data(bytes, false)?;
    }
    let mut trailers = body.trailers().await?.unwrap_or_default();
    trailers.insert("grpc-status", "0".parse().unwrap());
    stream.send_trailers(trailers)
}

/// Sends bytes as the other side takes them.
///
/// # Errors
/// When it has gone.
pub async fn send(stream: &mut SendStream<Bytes>, mut bytes: Bytes) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let room = match stream.capacity() {
            0 => poll_fn(|cx| stream.poll_capacity(cx))
                .await
                .unwrap_or(Err(Reason::CANCEL.into()))?,
            room => room,
        };
        stream.send_data(bytes.split_to(room.min(bytes.len())), false)?;
    }
    Ok(())
}

/// A client's connection.
pub async fn client(to: SocketAddr) -> SendRequest<Bytes> {
    let tcp = TcpStream::connect(to).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let (send, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    send
}

/// A GET.
#[must_use]
pub fn request(path: &str) -> Request<()> {
    Request::get(format!("http://db:8080{path}")).body(()).unwrap()
}

/// The response to a GET.
pub async fn get(client: &mut SendRequest<Bytes>, path: &str) -> Response<RecvStream> {
    let mut ready = client.clone().ready().await.unwrap();
    let (response, _) = ready.send_request(request(path), true).unwrap();
    in_time("a response", response).await.unwrap()
}

/// A frame (RFC 9113 §4.1).
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}
