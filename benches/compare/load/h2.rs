//! HTTP/2 load with prior knowledge: connections with several streams under way each, every status, byte and trailer checked. Also one
//! request by itself, to see whether an application or a pair serves. Not a general client: anything unexpected is an error.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use h2::RecvStream;
use h2::client::{Builder, SendRequest};
use http::{HeaderMap, Method, Request, StatusCode};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{Load, Progress, grpc, pattern};

/// Large enough that no window ever holds up a body of these figures.
const WINDOW: u32 = 1 << 20;

/// What each request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// `GET` of so many bytes.
    Get(u64),
    /// A unary gRPC call with a message of so many bytes, which comes back.
    Grpc(usize),
}

/// Starts a closed loop of `connections` × `streams` requests; its work is counted in requests.
pub(crate) fn start(entry: SocketAddr, connections: usize, streams: usize, call: Call) -> Load {
    Load::start(connections, move |_, progress| async move {
        let client = Client::connect(entry).await?;
        let mut asking = JoinSet::new();
        for _ in 0..streams {
            asking.spawn(repeat(client.requests.clone(), call, progress.clone()));
        }
        while let Some(ended) = asking.join_next().await {
            ended??;
        }
        Ok(())
    })
    .warm_at(connections * streams)
}

/// One request for one byte on a connection of its own.
pub(crate) async fn probe(entry: SocketAddr) -> Result<()> {
    let client = Client::connect(entry).await?;
    exchange(client.requests.clone(), Call::Get(1)).await
}

/// A connection; closed when dropped.
struct Client {
    requests: SendRequest<Bytes>,
    _driver: JoinSet<Result<(), h2::Error>>,
}

impl Client {
    async fn connect(entry: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(entry).await?;
        stream.set_nodelay(true)?;
        let (requests, connection) = Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .enable_push(false)
            .handshake(stream)
            .await?;
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        Ok(Self {
            requests,
            _driver: driver,
        })
    }
}

async fn repeat(requests: SendRequest<Bytes>, call: Call, progress: Progress) -> Result<()> {
    while progress.running() {
        exchange(requests.clone(), call).await?;
        progress.add(1);
    }
    Ok(())
}

async fn exchange(requests: SendRequest<Bytes>, call: Call) -> Result<()> {
    let mut requests = requests.ready().await?;
    let (request, body) = request(call)?;
    let (response, mut sending) = requests.send_request(request, body.is_none())?;
    if let Some(body) = body {
        sending.send_data(body, true)?;
    }
    let response = response.await?;
    if response.status() != StatusCode::OK {
        bail!("status {} instead of 200", response.status());
    }
    let headers = response.headers().clone();
    let mut body = response.into_body();
    match call {
        Call::Get(length) => {
            let received = receive(&mut body, 0).await?;
            if received != length {
                bail!("a body of {received} bytes instead of {length}");
            }
        }
        Call::Grpc(length) => {
            receive_message(&mut body, length).await?;
            let trailers = body.trailers().await?;
            expect_grpc_ok(trailers.as_ref().unwrap_or(&headers))?;
        }
    }
    Ok(())
}

/// The head, and the body if there is one.
fn request(call: Call) -> Result<(Request<()>, Option<Bytes>)> {
    let request = Request::builder().header("user-agent", "squire-compare");
    Ok(match call {
        Call::Get(length) => {
            let uri = format!("http://bench/bytes/{length}");
            (request.method(Method::GET).uri(uri).body(())?, None)
        }
        Call::Grpc(length) => {
            let request = request
                .method(Method::POST)
                .uri(format!("http://bench{}", grpc::PATH))
                .header("content-type", grpc::CONTENT_TYPE)
                .header("te", "trailers");
            (request.body(())?, Some(grpc::message(length)?))
        }
    })
}

/// Reads the body to its end, checking it against the pattern from `offset` on.
async fn receive(body: &mut RecvStream, mut offset: u64) -> Result<u64> {
    while let Some(piece) = body.data().await {
        let piece = piece?;
        pattern::check(offset, &piece)?;
        offset += piece.len() as u64;
        body.flow_control().release_capacity(piece.len())?;
    }
    Ok(offset)
}

async fn receive_message(body: &mut RecvStream, length: usize) -> Result<()> {
    let mut received = Vec::with_capacity(length + 5);
    while let Some(piece) = body.data().await {
        let piece = piece?;
        received.extend_from_slice(&piece);
        body.flow_control().release_capacity(piece.len())?;
    }
    if received != grpc::message(length)? {
        bail!("{} bytes that are not the message that was sent", received.len());
    }
    Ok(())
}

fn expect_grpc_ok(headers: &HeaderMap) -> Result<()> {
    let status = headers.get("grpc-status").context("no grpc-status")?;
    if status != "0" {
        bail!("grpc-status {status:?} instead of 0");
    }
    Ok(())
}
