//! Applications in this process: a server that echoes, one that says who it is, and others that misbehave in known ways.

use std::{future::Future, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// After an accept that failed, as for want of descriptors.
const PAUSE: Duration = Duration::from_secs(1);

/// A server that ends when dropped.
#[derive(Debug)]
pub struct App {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl App {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A server that gives each connection to `serve`.
pub async fn serving<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> App
where
    F: Future<Output = ()> + Send + 'static,
{
    serving_at("127.0.0.1:0".parse().unwrap(), serve).await
}

/// The same at this address.
pub async fn serving_at<F>(address: SocketAddr, serve: impl Fn(TcpStream) -> F + Send + 'static) -> App
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(serve(stream))),
                Err(error) => {
                    eprintln!("the application at {address} cannot accept: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    });
    App { address, task }
}

/// Sends back what it receives, and half-closes when the client has.
pub async fn echo() -> App {
    serving(|stream| async move {
        let (mut read, mut write) = stream.into_split();
        if tokio::io::copy(&mut read, &mut write).await.is_ok() {
            let _ = write.shutdown().await;
        }
    })
    .await
}

/// Speaks first, as MySQL and SMTP do: greets, then echoes.
pub async fn greeter(greeting: &'static str) -> App {
    serving(move |mut stream| async move {
        if stream.write_all(greeting.as_bytes()).await.is_ok() {
            let (mut read, mut write) = stream.into_split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        }
    })
    .await
}

/// Reads everything to the end, only then answers with how much it was, and closes.
pub async fn counter() -> App {
    serving(|mut stream| async move {
        let mut total = 0_u64;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) => break,
                Ok(read) => total += read as u64,
                Err(_) => return,
            }
        }
        let _ = stream.write_all(total.to_string().as_bytes()).await;
        let _ = stream.shutdown().await;
    })
    .await
}

/// Closes its half at once and then reads to the end; says on `received` what came.
pub async fn closes_first(received: tokio::sync::mpsc::Sender<Vec<u8>>) -> App {
    serving(move |mut stream| {
        let received = received.clone();
        async move {
            let _ = stream.write_all(b"bye").await;
            let _ = stream.shutdown().await;
            let mut rest = Vec::new();
            if stream.read_to_end(&mut rest).await.is_ok() {
                let _ = received.send(rest).await;
            }
        }
    })
    .await
}

/// One round trip: `text` is sent and has to come back.
///
/// # Errors
/// When the connection fails or ends before.
pub async fn round_trip(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), text: &[u8]) -> std::io::Result<()> {
    stream.write_all(text).await?;
    stream.flush().await?;
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).await?;
    assert_eq!(back, text, "what comes back is what was sent");
    Ok(())
}

/// Whether an address can be talked to: connects and makes a round trip.
///
/// # Errors
/// When it cannot.
pub async fn echoes(address: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    round_trip(&mut stream, b"hello").await?;
    Ok(stream)
}
