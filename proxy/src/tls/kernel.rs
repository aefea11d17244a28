//! What record protection still needs of rustls after the handshake: the next traffic secrets. One trait over the client
//! and the server side of rustls' kernel connection.

use rustls::{
    ConnectionTrafficSecrets, Error, client::ClientConnectionData, kernel::KernelConnection,
    server::ServerConnectionData,
};

/// The key schedule behind an established connection (RFC 8446 §7.2).
pub(crate) trait Kernel: Send {
    /// The next secrets for what we send, with their first sequence number.
    fn update_tx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error>;
    /// The next secrets for what we receive, with their first sequence number.
    fn update_rx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error>;
}

impl Kernel for KernelConnection<ClientConnectionData> {
    fn update_tx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        self.update_tx_secret()
    }

    fn update_rx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        self.update_rx_secret()
    }
}

impl Kernel for KernelConnection<ServerConnectionData> {
    fn update_tx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        self.update_tx_secret()
    }

    fn update_rx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        self.update_rx_secret()
    }
}
