//! Puts the rooms of the control plane together, starts them, and stops them in order.

use std::sync::Arc;

use http::StatusCode;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{self, Answer, Pages},
    config::Config,
    error::ControlError,
};

/// Runs a control plane until SIGTERM or SIGINT.
pub async fn run(config: Config) -> Result<(), ControlError> {
    config.check()?;
    let admin = listen("the admin endpoint (--admin)", config.admin).await?;
    let stop = CancellationToken::new();
    let serving = tokio::spawn(admin::serve(admin, Arc::new(Starting), stop.clone()));
    let signal = stop_signal().await?;
    tracing::info!(signal, "stopping");
    stop.cancel();
    serving.await.ok();
    Ok(())
}

struct Starting;

impl Pages for Starting {
    fn page(&self, path: &str) -> Option<Answer> {
        match path {
            "/live" => Some(Answer::text(StatusCode::OK, "live\n")),
            "/ready" => Some(Answer::text(
                StatusCode::SERVICE_UNAVAILABLE,
                "not ready: no source yet\n",
            )),
            _ => None,
        }
    }
}

async fn listen(what: &'static str, address: std::net::SocketAddr) -> Result<TcpListener, ControlError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ControlError::Listen { what, address, source })
}

async fn stop_signal() -> Result<&'static str, ControlError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(ControlError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ControlError::Signals)?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}
