//! `squire demo`: a whole mesh on this machine, as real processes, and a story told about it in which every claim was seen
//! first. Everything it starts ends with it.

pub(crate) mod app;
mod channel;
mod files;
pub(crate) mod leash;
mod observe;
mod pattern;
mod place;
mod processes;
mod screen;
mod sidecar;
mod story;
mod stream;
mod workload;

use std::path::PathBuf;

use tokio::signal::unix::{Signal, SignalKind, signal};

use self::{files::Files, place::Place, processes::Processes, screen::Screen, story::Story, workload::Workload};
use crate::exit::{Failure, Outcome, block_on};

const EXAMPLES: &str = "\
Examples:
  squire demo
      CA, control plane, four workloads with sidecars, default deny: who gets in, who does not, and why; ends by itself
  squire demo --keep
      stays up until Ctrl-C, with addresses to try
  cargo run --release -- demo
      the same in a source tree; builds squire-proxy first

Needs no root: pods have addresses in 127.0.0.0/8. Exit code 0 only if every step was really observed, else 1.
Ctrl-C ends everything it started and removes its files. Its processes die with it even when it is killed with
SIGKILL; then only its directory (squire-demo-* in TMPDIR) is left.";

/// A whole mesh on this machine, no root needed: shows identities, mutual TLS, policy and what happens when things change
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Leave everything running after the last step, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// The squire-proxy to use [default: the one beside this program, or in PATH]
    #[arg(long, value_name = "FILE")]
    proxy: Option<PathBuf>,
}

impl Args {
    pub(crate) fn run(self) -> Outcome {
        block_on(self.start())
    }

    async fn start(self) -> Outcome {
        let mut interrupted = Interrupt::listen()?;
        let mut screen = Screen::new();
        screen.say("squire demo: a whole mesh on this machine, without root");
        let prepared = tokio::select! {
            prepared = self.prepare(&screen) => prepared.map_err(Failure::unavailable)?,
            () = interrupted.wait() => return Err(stopped(&screen)),
        };
        self.tell(&mut screen, prepared, &mut interrupted).await
    }

    async fn prepare(&self, screen: &Screen) -> anyhow::Result<Prepared> {
        let proxy = match &self.proxy {
            Some(proxy) => proxy.clone(),
            None => sidecar::find(screen).await?,
        };
        Ok(Prepared {
            proxy,
            place: Place::claim()?,
            files: Files::create()?,
            processes: Processes::new()?,
        })
    }

    async fn tell(&self, screen: &mut Screen, prepared: Prepared, interrupted: &mut Interrupt) -> Outcome {
        let Prepared {
            proxy,
            place,
            files,
            mut processes,
        } = prepared;
        // Whatever was built before is not part of the story.
        screen.restart_clock();
        let mut story = Story {
            screen,
            place: &place,
            files: &files,
            processes: &mut processes,
            proxy,
        };
        let told = tokio::select! {
            told = story.tell(self.keep) => Some(told),
            () = interrupted.wait() => None,
        };
        let end = match told {
            None => Err(stopped(screen)),
            Some(Ok(())) => {
                screen.say(&format!("\nEvery step was observed, in {:.1} s.", screen.elapsed()));
                if self.keep {
                    stay(screen, &place, &files);
                    interrupted.wait().await;
                }
                Ok(())
            }
            Some(Err(error)) => {
                missed(screen, &error, &mut processes);
                processes.stop().await;
                let logs = files.keep_logs();
                screen.say(&format!(
                    "\nNot every step was observed; the logs are kept in {}",
                    logs.display()
                ));
                return Err(Failure::finding());
            }
        };
        processes.stop().await;
        end
    }
}

/// What was not seen, and what may be the reason.
fn missed(screen: &Screen, error: &anyhow::Error, processes: &mut Processes) {
    screen.missed(&format!("{error:#}"));
    for dead in processes.dead() {
        screen.note(&dead);
    }
}

/// What the story needs before it begins.
struct Prepared {
    proxy: PathBuf,
    place: Place,
    files: Files,
    processes: Processes,
}

fn stopped(screen: &Screen) -> Failure {
    screen.say("\ninterrupted: ending everything that was started");
    Failure::finding()
}

/// What to try while it stays up.
fn stay(screen: &Screen, place: &Place, files: &Files) {
    let (web, batch) = (place.app(Workload::Web), place.app(Workload::Batch));
    // Under `cargo run` this program is not in PATH.
    let squire = std::env::current_exe().map_or_else(|_| "squire".into(), |path| path.display().to_string());
    let lines = [
        (format!("curl http://{web}/"), "web asks db, and gets an answer"),
        (format!("curl http://{batch}/"), "batch asks db, and is cut off"),
        (
            format!("curl http://{}/", place.pod(Workload::Db)),
            "straight to db's pod, without an identity",
        ),
        (
            format!("curl -N http://{web}/stream"),
            "web streams through db and back, every byte checked, until",
        ),
        (format!("curl http://{web}/stop"), "tells it to stop"),
        (
            format!("{squire} connections --watch --control {}", place.control_admin()),
            "all live connections",
        ),
        (
            format!("$EDITOR {}", files.policy().display()),
            "who may reach db; save it, and see",
        ),
        (
            format!("curl http://{}/debug/sync", place.control_admin()),
            "what every sidecar has acknowledged",
        ),
    ];
    screen.say("\nIt stays up until Ctrl-C. Try:");
    for (command, what) in lines {
        screen.say(&format!("  {command}\n      {what}"));
    }
    screen.say("Sidecars (each also has /connections /config /ready):");
    for workload in Workload::ALL {
        screen.say(&format!("  {workload:<5} http://{}/metrics", place.admin(workload)));
    }
    screen.say(&format!("Logs: {}", files.logs().display()));
}

/// SIGINT, SIGTERM and SIGHUP, taken over from the start.
struct Interrupt {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Interrupt {
    fn listen() -> Result<Self, Failure> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(Failure::unavailable)?,
            terminate: signal(SignalKind::terminate()).map_err(Failure::unavailable)?,
            hangup: signal(SignalKind::hangup()).map_err(Failure::unavailable)?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
