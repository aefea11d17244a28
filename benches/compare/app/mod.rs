//! The application behind the proxies where nginx will not do (a process of its own). It checks what it receives, and tells HTTP/1.1 and
//! HTTP/2 apart by the first bytes. Plaintext on loopback only.

mod http1;
mod http2;

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Serves until it is killed.
pub(crate) fn serve(listen: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket
            .bind(listen)
            .with_context(|| format!("cannot listen on {listen}"))?;
        accept(socket.listen(4096)?).await
    })
}

async fn accept(listener: TcpListener) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await.context("cannot accept")?;
        tokio::spawn(async move {
            if let Err(problem) = converse(stream).await {
                eprintln!("app: {problem:#}");
            }
        });
    }
}

async fn converse(stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    // The preface of HTTP/2 begins with `PRI`; nobody sends less than that in one piece here.
    let mut first = [0; 3];
    stream.peek(&mut first).await?;
    if &first == b"PRI" {
        http2::converse(stream).await
    } else {
        http1::converse(stream).await
    }
}
