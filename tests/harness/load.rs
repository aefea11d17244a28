//! Connections of several kinds, one after another for as long as it is wanted: of bytes, HTTP/1.1, HTTP/2 and gRPC, short ones
//! and ones that stay open for seconds. It counts what went through and what did not; why not, sidecars say.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{net::TcpStream, task::JoinSet, time::sleep};

use crate::{apps, grpc, http, http2};

/// After a connection that failed, before the next one.
const PAUSE: Duration = Duration::from_millis(20);
/// Nothing has gone through for so long: nothing does any more.
const STALLED: Duration = Duration::from_secs(120);

/// Where each kind of application is reached.
#[derive(Debug, Clone, Copy)]
pub struct Targets {
    /// One that echoes bytes.
    pub bytes: SocketAddr,
    /// One that speaks HTTP/1.1.
    pub http1: SocketAddr,
    /// One that speaks HTTP/2.
    pub http2: SocketAddr,
    /// One that speaks gRPC.
    pub grpc: SocketAddr,
}

/// The kinds of connections.
pub const KINDS: [&str; 6] = ["bytes", "long bytes", "http/1", "http/2", "long http/2", "grpc"];

/// A load that is under way.
#[derive(Debug)]
pub struct Load {
    count: Arc<Count>,
    tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Count {
    /// By kind: went through, and failed.
    done: [[AtomicU64; 2]; KINDS.len()],
    over: AtomicBool,
}

impl Load {
    /// Begins: a few connections of each kind at any time.
    #[must_use]
    pub fn begin(to: Targets) -> Self {
        let mut load = Self {
            count: Arc::default(),
            tasks: JoinSet::new(),
        };
        for _ in 0..4 {
            load.repeats(0, move |_| async move { apps::echoes(to.bytes).await.map(drop) });
        }
        for nth in 0..4 {
            load.repeats(1, move |over| long(to.bytes, Duration::from_secs(1 + nth), over));
        }
        for _ in 0..2 {
            load.repeats(2, move |_| http1(to.http1));
            load.repeats(3, move |_| streams(to.http2));
        }
        load.repeats(4, move |over| one_stream(to.http2, over));
        load.repeats(5, move |_| calls(to.grpc));
        load
    }

    fn repeats<F>(&mut self, kind: usize, connection: impl Fn(Arc<Count>) -> F + Send + Sync + 'static)
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let count = Arc::clone(&self.count);
        self.tasks.spawn(async move {
            while !count.is_over() {
                let failed = connection(Arc::clone(&count)).await.is_err();
                count.done[kind][usize::from(failed)].fetch_add(1, SeqCst);
                if failed {
                    sleep(PAUSE).await;
                }
            }
        });
    }

    /// How many went through.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.count.sum(0)
    }

    /// Waits until so many have gone through.
    pub async fn reaches(&self, wanted: u64) {
        let mut last = (0, Instant::now());
        while self.done() < wanted {
            if self.done() != last.0 {
                last = (self.done(), Instant::now());
            }
            assert!(last.1.elapsed() < STALLED, "{} connections, and no more", last.0);
            sleep(PAUSE).await;
        }
    }

    /// Ends it, and says of each kind how many went through, and how many failed.
    pub async fn end(self) -> Vec<(&'static str, u64, u64)> {
        self.count.over.store(true, SeqCst);
        self.tasks.join_all().await;
        let counts = KINDS.iter().zip(&self.count.done);
        counts
            .map(|(kind, [done, failed])| (*kind, done.load(SeqCst), failed.load(SeqCst)))
            .collect()
    }
}

impl Count {
    fn is_over(&self) -> bool {
        self.over.load(SeqCst)
    }

    fn sum(&self, which: usize) -> u64 {
        self.done.iter().map(|kind| kind[which].load(SeqCst)).sum()
    }
}

/// Bytes to and fro, for so long.
async fn long(to: SocketAddr, lasts: Duration, count: Arc<Count>) -> io::Result<()> {
    let mut stream = apps::echoes(to).await?;
    let until = Instant::now() + lasts;
    while Instant::now() < until && !count.is_over() {
        apps::round_trip(&mut stream, b"still here").await?;
        sleep(Duration::from_millis(25)).await;
    }
    Ok(())
}

async fn http1(to: SocketAddr) -> io::Result<()> {
    match http::get(to, "/").await? {
        (200, _) => Ok(()),
        (status, _) => Err(io::Error::other(status.to_string())),
    }
}

/// A connection with a few streams one after another.
async fn streams(to: SocketAddr) -> io::Result<()> {
    let (send, _driver) = connect(to).await?;
    for _ in 0..3 {
        let mut ready = send.clone().ready().await.map_err(io::Error::other)?;
        let (response, _) = ready
            .send_request(http2::request("/hello"), true)
            .map_err(io::Error::other)?;
        let mut response = response.await.map_err(io::Error::other)?;
        if response.status() != 200 {
            return Err(io::Error::other(response.status().to_string()));
        }
        while let Some(bytes) = response.body_mut().data().await {
            let bytes = bytes.map_err(io::Error::other)?;
            let _ = response.body_mut().flow_control().release_capacity(bytes.len());
        }
    }
    Ok(())
}

/// A stream that goes on for seconds: each message comes back before the next one is sent.
async fn one_stream(to: SocketAddr, count: Arc<Count>) -> io::Result<()> {
    let (send, _driver) = connect(to).await?;
    let mut ready = send.ready().await.map_err(io::Error::other)?;
    let (response, mut body) = ready
        .send_request(http2::request("/echo"), false)
        .map_err(io::Error::other)?;
    let mut answers = None;
    let mut response = Some(response);
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until && !count.is_over() {
        let sent = http2::send(&mut body, Bytes::from_static(b"still here")).await;
        sent.map_err(io::Error::other)?;
        if let Some(response) = response.take() {
            answers = Some(response.await.map_err(io::Error::other)?.into_body());
        }
        let answers = answers.as_mut().expect("there is a response by now");
        let mut missing = b"still here".len();
        while missing > 0 {
            let bytes = answers.data().await.ok_or(io::ErrorKind::UnexpectedEof)?;
            let bytes = bytes.map_err(io::Error::other)?;
            let _ = answers.flow_control().release_capacity(bytes.len());
            missing -= bytes.len().min(missing);
        }
        sleep(Duration::from_millis(25)).await;
    }
    body.send_data(Bytes::new(), true).map_err(io::Error::other)
}

/// A channel with a few calls.
async fn calls(to: SocketAddr) -> io::Result<()> {
    let mut client = grpc::connect(to).await.map_err(io::Error::other)?;
    for _ in 0..3 {
        client
            .report(grpc::report("shop/web"))
            .await
            .map_err(io::Error::other)?;
    }
    Ok(())
}

/// Ends an HTTP/2 connection that nobody uses any more.
struct Driver(tokio::task::JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn connect(to: SocketAddr) -> io::Result<(h2::client::SendRequest<Bytes>, Driver)> {
    let tcp = TcpStream::connect(to).await?;
    let (send, connection) = h2::client::handshake(tcp).await.map_err(io::Error::other)?;
    let driver = tokio::spawn(async move {
        // How it ends, whoever speaks on it sees.
        let _ = connection.await;
    });
    Ok((send, Driver(driver)))
}
