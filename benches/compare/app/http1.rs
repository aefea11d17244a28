//! The application over HTTP/1.1, for bulk transfers and idle connections: `GET /bytes/N` answers N bytes of the pattern, `PUT /bytes`
//! checks that it receives them. An upload with a wrong byte is answered 422, which fails the run.

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::load::{http, pattern};

/// Answers requests until the client has no more.
pub(super) async fn converse(mut stream: TcpStream) -> Result<()> {
    let mut buffer = Vec::new();
    loop {
        let Some(request) = read_request(&mut stream, &mut buffer).await? else {
            return Ok(());
        };
        match request {
            Request::Get(length) => send(&mut stream, length).await?,
            Request::Put(length) => {
                receive(&mut stream, &mut buffer, length).await?;
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    .await?;
            }
        }
    }
}

enum Request {
    Get(u64),
    Put(u64),
}

/// Reads one request head, leaving in `buffer` what follows it; `None` at the end of the connection.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Option<Request>> {
    loop {
        if let Some(head) = http::head(buffer)? {
            let request = parse(&head)?;
            let length = head.length;
            buffer.drain(..length);
            return Ok(Some(request));
        }
        buffer.reserve(1024);
        if stream.read_buf(buffer).await? == 0 {
            return if buffer.is_empty() {
                Ok(None)
            } else {
                bail!("the connection ended within a head")
            };
        }
    }
}

fn parse(head: &http::Head<'_>) -> Result<Request> {
    let path = head
        .start
        .strip_suffix(" HTTP/1.1")
        .with_context(|| format!("not HTTP/1.1: {:?}", head.start))?;
    if path == "PUT /bytes" {
        return Ok(Request::Put(head.body));
    }
    let length = path.strip_prefix("GET /bytes/").and_then(|length| length.parse().ok());
    Ok(Request::Get(
        length.with_context(|| format!("an unknown request: {path:?}"))?,
    ))
}

async fn send(stream: &mut TcpStream, length: u64) -> Result<()> {
    let mut first = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes();
    let mut sent = length.min(1024);
    first.extend_from_slice(pattern::at(0, usize::try_from(sent)?));
    stream.write_all(&first).await?;
    while sent < length {
        let most = usize::try_from(length - sent)
            .unwrap_or(usize::MAX)
            .min(pattern::LONGEST);
        sent += stream.write(pattern::at(sent, most)).await? as u64;
    }
    Ok(())
}

async fn receive(stream: &mut TcpStream, buffer: &mut Vec<u8>, length: u64) -> Result<()> {
    let mut scratch = vec![0; pattern::LONGEST];
    let early = u64::try_from(buffer.len())?.min(length);
    let early: Vec<u8> = buffer.drain(..usize::try_from(early)?).collect();
    judge(stream, 0, &early).await?;
    let mut received = early.len() as u64;
    while received < length {
        let most = scratch
            .len()
            .min(usize::try_from(length - received).unwrap_or(usize::MAX));
        let read = stream.read(&mut scratch[..most]).await?;
        if read == 0 {
            bail!("an upload ended after {received} of {length} bytes");
        }
        judge(stream, received, &scratch[..read]).await?;
        received += read as u64;
    }
    Ok(())
}

/// Checks received bytes; wrong ones are answered 422 and end the connection.
async fn judge(stream: &mut TcpStream, offset: u64, bytes: &[u8]) -> Result<()> {
    let verdict = pattern::check(offset, bytes);
    if verdict.is_err() {
        stream
            .write_all(b"HTTP/1.1 422 Wrong byte\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .await?;
    }
    verdict
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::net::TcpListener;
    use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

    use super::super::accept;
    use super::*;

    /// A body long enough to be cut into many reads.
    const LENGTH: u64 = 3_000_001;

    /// The application, and before it a relay that changes the byte at `flip` of each direction (counted from the connection's start).
    async fn behind_a_relay(flip: Option<u64>) -> Result<SocketAddr> {
        let app = TcpListener::bind("127.0.0.1:0").await?;
        let relay = TcpListener::bind("127.0.0.1:0").await?;
        let (app_address, relay_address) = (app.local_addr()?, relay.local_addr()?);
        tokio::spawn(accept(app));
        tokio::spawn(async move {
            while let Ok((client, _)) = relay.accept().await {
                let server = TcpStream::connect(app_address).await?;
                let ((client_read, client_write), (server_read, server_write)) =
                    (client.into_split(), server.into_split());
                tokio::spawn(relay_one_way(client_read, server_write, flip));
                tokio::spawn(relay_one_way(server_read, client_write, flip));
            }
            anyhow::Ok(())
        });
        Ok(relay_address)
    }

    async fn relay_one_way(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, flip: Option<u64>) -> Result<()> {
        let (mut buffer, mut passed) = (vec![0; 10_000], 0);
        loop {
            let read = from.read(&mut buffer).await?;
            if read == 0 {
                return Ok(to.shutdown().await?);
            }
            if let Some(at) = flip
                .and_then(|flip| flip.checked_sub(passed))
                .filter(|at| *at < read as u64)
            {
                buffer[usize::try_from(at)?] ^= 0x20;
            }
            to.write_all(&buffer[..read]).await?;
            passed += read as u64;
        }
    }

    async fn transfers(flip: Option<u64>) -> [Result<()>; 3] {
        let entry = behind_a_relay(flip).await.unwrap();
        let connect = || async { http::Connection::new(TcpStream::connect(entry).await.unwrap()).unwrap() };
        let mut scratch = vec![0; 50_000];
        [
            connect().await.get(2_000).await,
            connect().await.download(LENGTH, &mut scratch, |_| ()).await,
            connect().await.upload(LENGTH, |_| ()).await,
        ]
    }

    #[tokio::test]
    async fn honest_transfers_pass() {
        for outcome in transfers(None).await {
            outcome.unwrap();
        }
    }

    #[tokio::test]
    async fn one_wrong_byte_fails_a_transfer_in_either_direction() {
        for outcome in transfers(Some(1_500)).await {
            assert!(outcome.is_err());
        }
        let [_, download, upload] = transfers(Some(2_900_000)).await;
        assert!(download.unwrap_err().to_string().contains("wrong"));
        assert!(upload.is_err());
    }
}
