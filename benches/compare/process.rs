//! Child processes that end when their owner lets go of them, with their output in a log file. Never sends a signal to anything it did
//! not start: each child leads its own process group, and the group is what is ended.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::usage;

/// A running child (and whatever it forked).
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `argv` with its output in `dir/<name>.log`.
    pub(crate) fn spawn(name: &str, argv: &[String], dir: &Path) -> Result<Self> {
        let Some((program, rest)) = argv.split_first() else {
            bail!("{name}: the command is empty")
        };
        let log = dir.join(format!("{name}.log"));
        let output = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let child = Command::new(program)
            .args(rest)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| {
                format!("{name}: cannot start {program}; is it installed? (benches/run installs the peers)")
            })?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// Fails, with the end of its log, if the process has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}); its last words:\n{}", self.name, self.last_words()),
        }
    }

    /// The last lines of its log.
    pub(crate) fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// CPU time so far, with all descendants.
    pub(crate) fn cpu(&self) -> Result<usage::Cpu> {
        usage::cpu(self.child.id()).with_context(|| format!("{}: cannot read its CPU time", self.name))
    }

    /// Memory now, with all descendants.
    pub(crate) fn memory(&self) -> Result<usage::Memory> {
        usage::memory(self.child.id()).with_context(|| format!("{}: cannot read its memory", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // An error means the whole group has already ended.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}
