//! Waiting for a proxy that starts: until it accepts, until it serves. Never waits longer than [`PATIENCE`], and never for a process that
//! has already ended.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::load::{self, Protocol};
use crate::process::Process;

/// How long a proxy may take to start.
const PATIENCE: Duration = Duration::from_secs(20);

/// A path that the policy of the L7 pairs does not allow.
const FORBIDDEN: &str = "/forbidden";

/// Between two looks; also the resolution of the start-up figure.
const PAUSE: Duration = Duration::from_millis(1);

/// Waits until `address` accepts a connection.
pub(super) async fn accepting(address: SocketAddr, process: &mut Process) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(address).await.is_err() {
        process.check()?;
        if Instant::now() > deadline {
            bail!(
                "nothing accepts on {address} after {PATIENCE:?}; last words:\n{}",
                process.last_words()
            );
        }
        sleep(PAUSE).await;
    }
    Ok(())
}

/// Waits until a request to `entry` is answered rightly.
pub(crate) async fn serving(entry: SocketAddr, protocol: Protocol, processes: &mut [&mut Process]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = load::probe(entry, protocol).await;
        let Err(problem) = answer else { return Ok(()) };
        for process in &mut *processes {
            process.check()?;
        }
        if Instant::now() > deadline {
            let words: Vec<String> = processes.iter().map(|process| process.last_words()).collect();
            return Err(problem).with_context(|| {
                format!(
                    "no right answer from {entry} after {PATIENCE:?}; last words:\n{}",
                    words.join("\n--\n")
                )
            });
        }
        sleep(PAUSE).await;
    }
}

/// Waits until `GET /ready` at `admin` answers 200.
pub(super) async fn ready(admin: SocketAddr, process: &mut Process) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !load::is_ready(admin).await {
        process.check()?;
        if Instant::now() > deadline {
            bail!(
                "not ready on {admin} after {PATIENCE:?}; last words:\n{}",
                process.last_words()
            );
        }
        sleep(PAUSE).await;
    }
    Ok(())
}

/// Fails if `mesh` answers a request in plaintext: then nothing would have been measured that deserves the name.
pub(super) async fn refusing_plaintext(mesh: SocketAddr) -> Result<()> {
    if load::probe(mesh, Protocol::Http1).await.is_ok() {
        bail!("the server-side proxy answers plaintext on {mesh}, where it must demand mutual TLS");
    }
    Ok(())
}

/// Fails unless a request that the policy of the L7 pairs does not allow is answered 403: then each request is judged by itself.
pub(super) async fn authorizing(entry: SocketAddr) -> Result<()> {
    let status = load::status(entry, FORBIDDEN).await?;
    if status != 403 {
        bail!("GET {FORBIDDEN} is answered {status}, where policy must refuse it with 403");
    }
    Ok(())
}
