//! Why a control plane does not start, or ends.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use crate::{config::Mistakes, source::kubernetes::AccessError};

/// Why a control plane does not start, or ends.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The configuration is wrong.
    #[error("the configuration is wrong:\n  {0}")]
    Configuration(#[from] Mistakes),
    /// The CA's directory cannot be used.
    #[error("the CA in {}: {why}", dir.display())]
    Ca {
        /// The directory.
        dir: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// There is no way to the API server.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// Tokens of the configured issuer cannot be accepted.
    #[error("tokens cannot be accepted: {0}")]
    Tokens(String),
    /// An address cannot be listened on.
    #[error("{what} cannot listen on {address}: {why}{}", hint(.why))]
    Listen {
        /// Which endpoint, and the option that sets it.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        why: io::Error,
    },
    /// The gRPC server failed.
    #[error("the gRPC endpoint failed: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// The certificate of a bundle endpoint cannot be used.
    #[error("the bundle endpoint (--bundle-endpoint-web) cannot start: {0}")]
    BundleEndpoint(String),
    /// Signals cannot be received.
    #[error("signals cannot be received: {0}")]
    Signals(io::Error),
    /// Two metrics of one name.
    #[error("metrics clash: {0}")]
    Metrics(prometheus::Error),
    /// A step was cut short by a panic; the log says more.
    #[error("{0} was interrupted: see the log")]
    Interrupted(&'static str),
}

impl ControlError {
    /// The CA's own errors mostly begin with its directory: it is not said twice.
    pub(crate) fn ca(dir: &Path, error: &impl std::fmt::Display) -> Self {
        let text = error.to_string();
        let why = text
            .strip_prefix(&format!("{}: ", dir.display()))
            .unwrap_or(&text)
            .to_owned();
        Self::Ca {
            dir: dir.to_owned(),
            why,
        }
    }

    /// Whether somebody has to change the configuration or the state it names (exit code 78), rather than wait for
    /// something to become available (69).
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Configuration(_) | Self::Ca { .. } | Self::Access(_) | Self::Tokens(_) | Self::BundleEndpoint(_) => {
                true
            }
            Self::Listen { .. } | Self::Serve(_) | Self::Signals(_) | Self::Metrics(_) | Self::Interrupted(_) => false,
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
