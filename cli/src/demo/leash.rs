//! Runs a program that must not outlive its parent: the kernel kills it when the parent dies, even by SIGKILL. Linux keeps
//! the request across exec, so the program need not know. It starts nothing else.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::Command};

use anyhow::anyhow;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use crate::exit::{Failure, Outcome};

const EXAMPLES: &str = "\
Examples:
  squire demo-leash --parent 4711 -- squire-proxy run --config proxy.yaml";

/// Become a program that dies with its parent
#[derive(Debug, clap::Args)]
#[command(hide = true, after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Whose child this is; if it is gone already, nothing is run
    #[arg(long, value_name = "PID")]
    parent: i32,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    program: Vec<OsString>,
}

impl Args {
    pub(crate) fn run(self) -> Outcome {
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(Failure::unavailable)?;
        // Asked for too late: the parent had died before.
        if getppid() != Pid::from_raw(self.parent) {
            return Err(Failure::unavailable(anyhow!("process {} is gone", self.parent)));
        }
        let Some((program, arguments)) = self.program.split_first() else {
            return Err(Failure::usage(anyhow!("name a program")));
        };
        let error = Command::new(program).args(arguments).exec();
        let shown = program.to_string_lossy();
        Err(Failure::unavailable(anyhow!("{shown}: cannot be run: {error}")))
    }
}
