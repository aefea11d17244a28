//! Why a control plane does not start, or ends.

use std::{io, net::SocketAddr};

use crate::config::Mistakes;

/// Why a control plane does not start, or ends.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The configuration is wrong.
    #[error("the configuration is wrong:\n  {0}")]
    Configuration(#[from] Mistakes),
    /// An address cannot be listened on.
    #[error("{what} cannot listen on {address}: {source}{}", hint(.source))]
    Listen {
        /// Which endpoint, and the option that sets it.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Signals cannot be received.
    #[error("signals cannot be received: {0}")]
    Signals(io::Error),
}

impl ControlError {
    /// Whether somebody has to change the configuration or the state it names (exit code 78), rather than wait for
    /// something to become available (69).
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Configuration(_) => true,
            Self::Listen { .. } | Self::Signals(_) => false,
        }
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another process (an earlier control plane?) holds it: stop it or choose another",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need a privilege: choose a higher one",
        io::ErrorKind::AddrNotAvailable => "; no interface of this machine has that address",
        _ => "",
    }
}
