//! Load generators: they ask for known bodies over HTTP/1.1 and HTTP/2 and check every status and byte of the answers; anything wrong is an error
//! that fails the run. Never time themselves: `figures` does.

pub(crate) mod bulk;
pub(crate) mod fresh;
pub(crate) mod grpc;
pub(crate) mod h2;
pub(crate) mod http;
pub(crate) mod idle;
pub(crate) mod keep_alive;
pub(crate) mod open_loop;
pub(crate) mod pattern;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How long any single answer may take before the run fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// What a load speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// One request for one byte on a connection of its own.
pub(crate) async fn probe(entry: SocketAddr, protocol: Protocol) -> Result<()> {
    let ask = async {
        match protocol {
            Protocol::Http1 => {
                let mut connection = http::Connection::new(TcpStream::connect(entry).await?)?;
                connection.get(1).await
            }
            Protocol::Http2 => h2::probe(entry).await,
        }
    };
    timeout(PATIENCE, ask).await.context("no answer")?
}

/// The status that `GET path` is answered with over HTTP/1.1.
pub(crate) async fn status(entry: SocketAddr, path: &str) -> Result<u16> {
    let ask = async {
        http::Connection::new(TcpStream::connect(entry).await?)?
            .status(path)
            .await
    };
    timeout(PATIENCE, ask).await.context("no answer")?
}

/// The whole answer to `GET path`, head and body.
pub(crate) async fn page(address: SocketAddr, path: &str) -> Result<String> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    };
    timeout(PATIENCE, ask).await.context("no answer")?
}

/// Whether `GET /ready` is answered 200.
pub(crate) async fn is_ready(admin: SocketAddr) -> bool {
    status(admin, "/ready").await.is_ok_and(|status| status == 200)
}

/// What the tasks of a running load share.
#[derive(Clone, Default)]
pub(crate) struct Progress {
    done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Progress {
    /// Counts finished work.
    pub(crate) fn add(&self, work: u64) {
        self.done.fetch_add(work, Ordering::Relaxed);
    }

    /// Whether to begin another piece of work.
    pub(crate) fn running(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

/// A load that runs until it is finished, on the runtime that started it.
pub(crate) struct Load {
    /// Work after which it is warm: about one piece for each client.
    warm_at: u64,
    progress: Progress,
    tasks: JoinSet<Result<()>>,
}

impl Load {
    /// Starts `clients` tasks, each made by `client` from its number and the shared progress.
    pub(crate) fn start<F>(clients: usize, client: impl Fn(usize, Progress) -> F) -> Self
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let progress = Progress::default();
        let mut tasks = JoinSet::new();
        for number in 0..clients {
            tasks.spawn(client(number, progress.clone()));
        }
        Self {
            warm_at: clients as u64,
            progress,
            tasks,
        }
    }

    /// The same load, warm only after so much work.
    pub(crate) fn warm_at(self, work: usize) -> Self {
        Self {
            warm_at: work as u64,
            ..self
        }
    }

    /// Waits until it is warm: a slow machine must not count the beginning of its connections.
    pub(crate) async fn warm(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.done() < self.warm_at {
            self.check()?;
            if Instant::now() > deadline {
                bail!("only {} pieces of work were done in {PATIENCE:?}", self.done());
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Work done so far.
    pub(crate) fn done(&self) -> u64 {
        self.progress.done.load(Ordering::Relaxed)
    }

    /// Fails if a client has failed.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.tasks.try_join_next() {
            None => Ok(()),
            Some(ended) => {
                ended??;
                bail!("a client stopped before it was told to")
            }
        }
    }

    /// Stops, letting every client finish (and so verify) what it has begun.
    pub(crate) async fn finish(mut self) -> Result<()> {
        self.progress.stop.store(true, Ordering::Relaxed);
        let all = async {
            while let Some(ended) = self.tasks.join_next().await {
                ended??;
            }
            Ok(())
        };
        timeout(PATIENCE, all).await.context("a client hangs")?
    }
}
