//! Child processes: their output goes to files that can be read while they run and are shown when a test fails; they are
//! killed when the value is dropped.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _},
    path::{Path, PathBuf},
    process::ExitStatus,
};

use rustix::process::{Pid, Resource, getrlimit, kill_process, setrlimit};
use tokio::process::{Child, Command};

pub use rustix::process::Signal;

use crate::wait::{eventually, in_time};

/// Lines of each process that are shown when a test fails.
const SHOWN: usize = 60;

/// Where binaries of another build are, if those are to be tested: release builds, for figures.
const BINARIES: &str = "SQUIRE_TEST_BINARIES";

/// The path of a binary of the workspace.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    if let Some(dir) = std::env::var_os(BINARIES) {
        return PathBuf::from(dir).join(name);
    }
    let test = std::env::current_exe().unwrap();
    let built = test.parent().and_then(Path::parent).unwrap().join(name);
    assert!(
        built.exists(),
        "{} is not built: use tests/run, or `cargo build --workspace --bins` first",
        built.display()
    );
    built
}

/// Lets this process and its children open as many files as the system allows, and says how many that is.
pub fn raise_file_limit() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    limit.current.unwrap_or(u64::MAX)
}

/// Whether this process is there for `test` alone. Where it is not, one that is has passed it when this returns.
pub async fn alone(test: &str) -> bool {
    const ALONE: &str = "SQUIRE_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture"])
        .env(ALONE, "1")
        .kill_on_drop(true);
    let output = command.output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "no test has this name: {test}\n{said}");
    eprintln!("{said}");
    false
}

/// A running child.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    /// Readable also when the directory it was in is gone, as it is when a test fails.
    log: File,
}

impl Process {
    /// Starts `command` with its output in `dir`.
    #[must_use]
    pub fn start(name: &str, command: &mut Command, dir: &Path) -> Self {
        let path = dir.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&path).unwrap();
        let log = File::open(&path).unwrap();
        command.stdin(std::process::Stdio::null());
        command
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .kill_on_drop(true);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
        Self {
            name: name.to_owned(),
            child,
            log,
        }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it has not been waited for")
    }

    /// Everything it has written, on standard output and standard error.
    #[must_use]
    pub fn log(&self) -> String {
        let (mut file, mut bytes) = (&self.log, Vec::new());
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until a line of its output contains all of these texts.
    pub async fn said(&self, texts: &[&str]) -> String {
        let what = format!("{} says {texts:?}", self.name);
        eventually(&what, async || {
            let log = self.log();
            log.lines()
                .find(|line| texts.iter().all(|text| line.contains(text)))
                .map(str::to_owned)
        })
        .await
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Kills it and waits until it is gone.
    pub async fn kill(&mut self) {
        in_time("a killed process ends", self.child.kill()).await.unwrap();
    }

    /// Waits until it ends by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        in_time(&format!("{} ends", self.name), self.child.wait())
            .await
            .unwrap()
    }

    /// How it has ended; none while it runs.
    pub fn exit(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Whether it still runs.
    pub fn lives(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Resident memory, in KiB.
    #[must_use]
    pub fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// CPU time it has used so far, in seconds.
    #[must_use]
    pub fn cpu_seconds(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // After the name, which may hold anything but this: state is field 3, utime and stime are 14 and 15 (proc_pid_stat(5)).
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let fields: Vec<_> = fields.split_whitespace().collect();
        let ticks: f64 = [11, 12]
            .iter()
            .map(|at: &usize| fields[*at].parse::<f64>().unwrap())
            .sum();
        // USER_HZ, which is 100 on every architecture that we build for.
        ticks / 100.0
    }

    /// How many descriptors it has open.
    ///
    /// # Errors
    /// When it is gone.
    pub fn descriptors(&self) -> io::Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(SHOWN)..];
            eprintln!(
                "--- {} (its last {} lines)\n{}\n",
                self.name,
                last.len(),
                last.join("\n")
            );
        }
    }
}
