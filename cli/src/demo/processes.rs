//! The processes of the demo: each with a log file, in a process group of its own so that Ctrl-C reaches only the demo, and
//! on a leash so that none outlives it. Started and ended by pid; it knows nothing of what they do.

use std::{
    ffi::OsStr,
    fs::{self, File},
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use super::files::Files;

/// How long processes get to end by themselves.
const GRACE: Duration = Duration::from_secs(2);
/// Last lines of a log that are shown when its process has failed.
const TAIL: usize = 5;

/// Everything that was started.
pub(super) struct Processes {
    squire: PathBuf,
    running: Vec<Process>,
}

struct Process {
    name: String,
    log: PathBuf,
    pid: Pid,
    child: Child,
}

impl Processes {
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            squire: std::env::current_exe().context("the path of this program is not known")?,
            running: Vec::new(),
        })
    }

    /// Starts this program with other arguments.
    pub(super) fn start_squire<A: AsRef<OsStr>>(
        &mut self,
        files: &Files,
        name: &str,
        arguments: &[A],
    ) -> anyhow::Result<i32> {
        let squire = self.squire.clone();
        self.start(files, name, squire.as_os_str(), arguments)
    }

    /// Starts a program. Call it only from the thread that lives as long as the demo: the leash is tied to it.
    pub(super) fn start<A: AsRef<OsStr>>(
        &mut self,
        files: &Files,
        name: &str,
        program: &OsStr,
        arguments: &[A],
    ) -> anyhow::Result<i32> {
        let log = files.log(name);
        let out = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| log.display().to_string())?;
        let error = out.try_clone().with_context(|| log.display().to_string())?;
        let mut command = Command::new(&self.squire);
        command
            .args(["demo-leash", "--parent", &std::process::id().to_string(), "--"])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(error)
            .process_group(0)
            .kill_on_drop(true);
        // What the user set for another squire is not meant for these.
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("SQUIRE_") {
                command.env_remove(variable);
            }
        }
        let child = command
            .spawn()
            .with_context(|| format!("{name}: {} cannot be started", self.squire.display()))?;
        let raw = child.id().and_then(|id| i32::try_from(id).ok());
        let pid = raw
            .and_then(Pid::from_raw)
            .ok_or_else(|| anyhow!("{name}: ended at once; see {}", log.display()))?;
        self.running.push(Process {
            name: name.to_owned(),
            log,
            pid,
            child,
        });
        Ok(pid.as_raw_pid())
    }

    /// Sends a signal.
    pub(super) fn signal(&self, name: &str, signal: Signal) -> anyhow::Result<()> {
        let process = self.running.iter().find(|process| process.name == name);
        let process = process.ok_or_else(|| anyhow!("{name} does not run"))?;
        kill_process(process.pid, signal).with_context(|| format!("{name}: no signal could be sent"))
    }

    /// Kills a process with SIGKILL and waits for its end.
    pub(super) async fn kill(&mut self, name: &str) -> anyhow::Result<ExitStatus> {
        let index = self.running.iter().position(|process| process.name == name);
        let mut process = self
            .running
            .remove(index.ok_or_else(|| anyhow!("{name} does not run"))?);
        kill_process(process.pid, Signal::KILL).with_context(|| format!("{name}: could not be killed"))?;
        process
            .child
            .wait()
            .await
            .with_context(|| format!("{name}: its end was not seen"))
    }

    /// What has ended although nobody asked it to, with the last lines it wrote.
    pub(super) fn dead(&mut self) -> Vec<String> {
        let ended = |process: &mut Process| {
            let status = process.child.try_wait().ok().flatten()?;
            let log = fs::read_to_string(&process.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n      ");
            Some(format!(
                "{} has ended ({status}); its last words:\n      {tail}",
                process.name
            ))
        };
        self.running.iter_mut().filter_map(ended).collect()
    }

    /// Ends everything: asks first, kills what has not ended in time.
    pub(super) async fn stop(&mut self) {
        for process in &mut self.running {
            if process.child.try_wait().ok().flatten().is_none() {
                let _ = kill_process(process.pid, Signal::TERM);
            }
        }
        let ended = async {
            for process in &mut self.running {
                let _ = process.child.wait().await;
            }
        };
        if timeout(GRACE, ended).await.is_err() {
            for process in &mut self.running {
                let _ = process.child.kill().await;
            }
        }
        self.running.clear();
    }
}
