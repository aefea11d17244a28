//! Load of new connections: each opens TCP, makes one request, closes. Spread over many loopback source addresses, because a closed
//! connection keeps its port busy for a minute.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

use super::{Load, http};

/// Source addresses for each client.
const SOURCES: u8 = 4;

/// Starts the load with `clients` connections under way at a time; its work is counted in connections.
pub(crate) fn start(entry: SocketAddr, clients: usize, body: u64) -> Load {
    Load::start(clients, |number, progress| async move {
        let request = http::get(body);
        let subnet = u8::try_from(number % 200).unwrap_or_default() + 1;
        let mut host = 0;
        while progress.running() {
            host = host % SOURCES + 1;
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, subnet, host), 0)))?;
            let mut connection = http::Connection::new(socket.connect(entry).await?)?;
            connection.exchange(request.as_bytes(), body).await?;
            progress.add(1);
        }
        Ok(())
    })
}
