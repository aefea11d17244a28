//! An HTTP/1.1 application that shows its clients exactly what reached it, and misbehaves on request: what it does is in
//! the path. Raw on purpose: it hides nothing that a library would put right.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, futures::Notified},
};

use crate::{
    apps::{App, serving},
    http::{Message, body_of, read_head},
};

/// The application and what it has seen.
#[derive(Debug)]
pub struct Mirror {
    app: App,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<String>>>,
    /// Lets requests for `/held` go on.
    pub release: Arc<Notify>,
}

impl Mirror {
    /// Starts one.
    pub async fn start() -> Self {
        let connections = Arc::new(AtomicUsize::new(0));
        let requests = Arc::new(AtomicUsize::new(0));
        let release = Arc::new(Notify::new());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (opened, counted, released) = (Arc::clone(&connections), Arc::clone(&requests), Arc::clone(&release));
        let noted = Arc::clone(&seen);
        let app = serving(move |stream| {
            opened.fetch_add(1, Ordering::SeqCst);
            serve(stream, Arc::clone(&counted), Arc::clone(&noted), Arc::clone(&released))
        })
        .await;
        Self {
            app,
            connections,
            requests,
            seen,
            release,
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> std::net::SocketAddr {
        self.app.address()
    }

    /// Connections that were opened to it.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Whether a request for exactly this target reached it.
    #[must_use]
    pub fn saw(&self, target: &str) -> bool {
        self.seen.lock().unwrap().iter().any(|seen| seen == target)
    }

    /// Requests that reached it.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn serve(mut stream: TcpStream, counted: Arc<AtomicUsize>, seen: Arc<Mutex<Vec<String>>>, release: Arc<Notify>) {
    let mut rest = Vec::new();
    while let Ok(Some(head)) = read_head(&mut stream, &mut rest).await {
        // Before it can be known that the request is here: whoever is let go from then on is let go.
        let released = release.notified();
        counted.fetch_add(1, Ordering::SeqCst);
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        seen.lock().unwrap().push(path.clone());
        let asks_first = head.to_ascii_lowercase().contains("expect: 100-continue");
        if asks_first && stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.is_err() {
            return;
        }
        let Ok(body) = body_of(&mut stream, &mut rest, &head, Message::Request).await else {
            return;
        };
        if answer(&mut stream, &path, &head, &body, released).await.is_err() || path == "/close" {
            return;
        }
        if path == "/upgrade" || head.starts_with("CONNECT ") {
            let (mut read, mut write) = stream.into_split();
            let _ = write.write_all(&rest).await;
            let _ = tokio::io::copy(&mut read, &mut write).await;
            return;
        }
    }
}

async fn answer(
    stream: &mut TcpStream,
    path: &str,
    head: &str,
    body: &[u8],
    released: Notified<'_>,
) -> std::io::Result<()> {
    let whole = |status: &str, body: &[u8]| {
        let mut bytes = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
        bytes.extend_from_slice(body);
        bytes
    };
    if head.starts_with("HEAD ") {
        return stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n")
            .await;
    }
    if head.starts_with("CONNECT ") {
        return stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await;
    }
    match path {
        "/no-content" => stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await,
        "/not-modified" => {
            stream
                .write_all(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\nETag: \"x\"\r\n\r\n")
                .await
        }
        "/chunked" => {
            stream
                .write_all(
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n7;ext=1\r\n, world\r\n0\r\n\
                      X-Sum: 12\r\n\r\n",
                )
                .await
        }
        "/early-hints" => {
            stream.write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await?;
            stream.write_all(&whole("200 OK", b"done")).await
        }
        "/until-close" | "/close" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end").await?;
            stream.shutdown().await
        }
        "/upgrade" => {
            stream
                .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
                .await
        }
        "/switches" => {
            stream
                .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
                .await
        }
        "/breaks" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this").await?;
            Err(std::io::ErrorKind::ConnectionReset.into())
        }
        "/silent" => Err(std::io::ErrorKind::ConnectionReset.into()),
        "/nonsense" => stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n12345").await,
        "/held" => {
            released.await;
            stream.write_all(&whole("200 OK", b"released")).await
        }
        "/half-held" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf").await?;
            released.await;
            stream.write_all(b"half").await
        }
        _ => {
            let mut seen = head.as_bytes().to_vec();
            seen.extend_from_slice(body);
            stream.write_all(&whole("200 OK", &seen)).await
        }
    }
}

/// Reads what is left of a body of this length, and forgets it.
pub async fn drain(stream: &mut TcpStream, mut length: u64) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    while length > 0 {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        length -= read as u64;
    }
    Ok(())
}
