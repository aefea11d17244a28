//! The application over HTTP/2: `GET /bytes/N` as over HTTP/1.1, and a unary gRPC method that sends back the message it was sent, with its
//! status in trailers. A message that is not the pattern is answered with a gRPC error, which fails the run.

use anyhow::{Context, Result};
use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Builder, SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use tokio::net::TcpStream;

use crate::load::{grpc, pattern};

/// gRPC's DATA_LOSS.
const DATA_LOSS: &str = "15";

/// Answers the streams of one connection.
pub(super) async fn converse(stream: TcpStream) -> Result<()> {
    let mut connection = Builder::new().handshake(stream).await?;
    while let Some(accepted) = connection.accept().await {
        // A client that has measured enough just goes.
        let Ok((request, respond)) = accepted else {
            return Ok(());
        };
        tokio::spawn(async move {
            if let Err(problem) = answer(request, respond).await {
                eprintln!("app: {problem:#}");
            }
        });
    }
    Ok(())
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Result<()> {
    let path = request.uri().path().to_owned();
    if path == grpc::PATH {
        return echo(request.into_body(), respond).await;
    }
    let length = path.strip_prefix("/bytes/").and_then(|length| length.parse().ok());
    let Some(length) = length.filter(|length| *length <= pattern::LONGEST) else {
        respond.send_response(status(StatusCode::NOT_FOUND)?, true)?;
        return Ok(());
    };
    let mut head = status(StatusCode::OK)?;
    head.headers_mut().insert("content-length", HeaderValue::from(length));
    let mut sending = respond.send_response(head, false)?;
    sending.send_data(Bytes::from_static(pattern::at(0, length)), true)?;
    Ok(())
}

async fn echo(mut body: RecvStream, mut respond: SendResponse<Bytes>) -> Result<()> {
    let mut received = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        received.extend_from_slice(&piece);
        body.flow_control().release_capacity(piece.len())?;
    }
    let length = received.len().checked_sub(5).context("a message without its prefix")?;
    let outcome = if received == grpc::message(length)? {
        "0"
    } else {
        DATA_LOSS
    };
    let mut head = status(StatusCode::OK)?;
    head.headers_mut()
        .insert("content-type", HeaderValue::from_static(grpc::CONTENT_TYPE));
    let mut sending = respond.send_response(head, false)?;
    sending.send_data(received.into(), false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(outcome));
    sending.send_trailers(trailers)?;
    Ok(())
}

fn status(status: StatusCode) -> Result<Response<()>> {
    Ok(Response::builder().status(status).body(())?)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::accept;
    use crate::load::h2::{Call, start};

    async fn application() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(accept(listener));
        address
    }

    /// Runs a load until it has done something, and lets it finish.
    async fn some(entry: SocketAddr, call: Call) -> anyhow::Result<u64> {
        let mut load = start(entry, 2, 3, call);
        while load.done() < 20 {
            load.check()?;
            tokio::task::yield_now().await;
        }
        let done = load.done();
        load.finish().await?;
        Ok(done)
    }

    #[tokio::test]
    async fn bodies_and_messages_come_back_whole() {
        let app = application().await;
        for call in [Call::Get(1024), Call::Grpc(128), Call::Get(0)] {
            assert!(some(app, call).await.unwrap() >= 20, "{call:?}");
        }
    }

    #[tokio::test]
    async fn a_byte_changed_on_the_way_fails_the_load() {
        let app = application().await;
        let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let entry = relay.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((client, _)) = relay.accept().await {
                let (mut from_client, mut to_client) = client.into_split();
                let server = tokio::net::TcpStream::connect(app).await?;
                let (mut from_server, mut to_server) = server.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
                tokio::spawn(async move {
                    let mut buffer = vec![0; 64 * 1024];
                    loop {
                        let read = from_server.read(&mut buffer).await?;
                        // The last byte of a piece this long is one of a body.
                        if read > 1024 {
                            buffer[read - 1] ^= 0x20;
                        }
                        to_client.write_all(&buffer[..read]).await?;
                        if read == 0 {
                            return anyhow::Ok(());
                        }
                    }
                });
            }
            anyhow::Ok(())
        });
        assert!(some(entry, Call::Get(16_000)).await.is_err());
    }

    #[tokio::test]
    async fn an_unknown_path_is_no_success() {
        let app = application().await;
        assert!(some(app, Call::Get(u64::MAX)).await.is_err());
    }
}
