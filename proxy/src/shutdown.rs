//! What people tell a running sidecar by signal: the first SIGTERM or SIGINT drains, the second one forces, SIGUSR1
//! renews the SVID at once. It closes nothing itself.

use std::{io, sync::Arc};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
};
use tokio_util::sync::CancellationToken;

/// What everybody waits for to end.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// No new work; what is under way may finish.
    pub drain: CancellationToken,
    /// What is under way is cut.
    pub force: CancellationToken,
}

/// The signals; taken over from the moment this exists.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    renew: Signal,
}

enum Told {
    Stop(&'static str),
    Renew,
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
            renew: signal(SignalKind::user_defined1())?,
        })
    }

    /// Passes on what it is told; ends after the signal that forces.
    pub async fn drive(mut self, shutdown: Shutdown, renew_now: Arc<Notify>) {
        loop {
            match self.next().await {
                Told::Renew => {
                    tracing::info!("SIGUSR1: renewing the SVID now");
                    renew_now.notify_one();
                }
                Told::Stop(name) if shutdown.drain.is_cancelled() => {
                    tracing::warn!(signal = name, "stopping at once");
                    return shutdown.force.cancel();
                }
                Told::Stop(name) => {
                    tracing::info!(signal = name, "draining; send it again to stop at once");
                    shutdown.drain.cancel();
                }
            }
        }
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Told::Stop("SIGINT"),
            _ = self.renew.recv() => Told::Renew,
        }
    }
}
