//! Closed-loop load: a fixed number of keep-alive connections, each asking again as soon as it has its answer.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::{Load, http};

/// Starts the load; its work is counted in requests.
pub(crate) fn start(entry: SocketAddr, connections: usize, body: u64) -> Load {
    Load::start(connections, |_, progress| async move {
        let mut connection = http::Connection::new(TcpStream::connect(entry).await?)?;
        let request = http::get(body);
        while progress.running() {
            connection.exchange(request.as_bytes(), body).await?;
            progress.add(1);
        }
        Ok(())
    })
}
