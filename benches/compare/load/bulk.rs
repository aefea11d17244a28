//! Bulk load: streams that transfer one large body after another, every byte checked at the receiving end.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::{Load, http, pattern};

/// The size of one body: large enough that the pause between two does not count, small enough to finish soon after the window.
const BODY: u64 = 64 * 1024 * 1024;

/// Which way the bytes go, seen from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Application to client.
    Download,
    /// Client to application.
    Upload,
}

/// Starts the load; its work is counted in bytes.
pub(crate) fn start(entry: SocketAddr, streams: usize, direction: Direction) -> Load {
    Load::start(streams, |_, progress| async move {
        let mut connection = http::Connection::new(TcpStream::connect(entry).await?)?;
        let mut scratch = vec![0; pattern::LONGEST];
        while progress.running() {
            match direction {
                Direction::Download => {
                    connection
                        .download(BODY, &mut scratch, |bytes| progress.add(bytes))
                        .await?
                }
                Direction::Upload => connection.upload(BODY, |bytes| progress.add(bytes)).await?,
            }
        }
        Ok(())
    })
}
