//! The end of the process: the first SIGTERM or SIGINT drains, the second one forces. It closes nothing itself.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What everybody waits for to end.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// No new work; what is under way may finish.
    pub drain: CancellationToken,
    /// What is under way is cut.
    pub force: CancellationToken,
}

/// The signals that end the process; listened to from the moment this exists.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes the signals over.
    ///
    /// # Errors
    /// When the system does not let us.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Turns the first signal into draining and the second one into force.
    pub async fn drive(mut self, shutdown: Shutdown) {
        let name = self.next().await;
        tracing::info!(signal = name, "draining; send it again to stop at once");
        shutdown.drain.cancel();
        let name = self.next().await;
        tracing::warn!(signal = name, "stopping at once");
        shutdown.force.cancel();
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
