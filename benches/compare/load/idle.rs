//! Many open connections that do nothing, each after one exchange that proved it works from end to end.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{PATIENCE, http};

/// How many connections are opened at a time.
const AT_ONCE: usize = 64;

/// Open connections; closed when dropped.
#[derive(Default)]
pub(crate) struct Idle {
    connections: Vec<http::Connection>,
}

impl Idle {
    /// Opens connections until there are `count`.
    pub(crate) async fn grow(&mut self, entry: SocketAddr, count: usize) -> Result<()> {
        let mut opening = JoinSet::new();
        while self.connections.len() < count {
            while opening.len() < AT_ONCE.min(count - self.connections.len()) {
                opening.spawn(open(entry));
            }
            if let Some(opened) = opening.join_next().await {
                let number = self.connections.len() + 1;
                self.connections
                    .push(opened?.with_context(|| format!("connection {number} of {count}"))?);
            }
        }
        Ok(())
    }

    /// Makes one more exchange on every connection: none may have been lost while idle.
    pub(crate) async fn check(&mut self) -> Result<()> {
        for (number, connection) in self.connections.iter_mut().enumerate() {
            let answer = timeout(PATIENCE, connection.get(1))
                .await
                .context("no answer")
                .flatten();
            answer.with_context(|| format!("idle connection {number}"))?;
        }
        Ok(())
    }
}

async fn open(entry: SocketAddr) -> Result<http::Connection> {
    let opening = async {
        let mut connection = http::Connection::new(TcpStream::connect(entry).await?)?;
        connection.get(1).await?;
        Ok(connection)
    };
    timeout(PATIENCE, opening).await.context("no answer")?
}
