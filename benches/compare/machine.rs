//! Where and with what a run was made: processor, kernel, versions. Only asks; changes nothing.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The circumstances of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    /// When it began (UTC).
    pub(crate) date: String,
    /// The processor's name.
    pub(crate) processor: String,
    /// How many of them.
    pub(crate) processors: usize,
    /// The kernel's release.
    pub(crate) kernel: String,
    /// The commit that was measured, with `-dirty` if the tree differs from it.
    pub(crate) commit: Option<String>,
}

impl Machine {
    /// Looks around.
    pub(crate) fn look() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Self {
            date: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
            processor: processor.map_or_else(|| "unknown".to_owned(), |(_, name)| name.trim().to_owned()),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            commit: first_line(
                "git",
                &[
                    "describe".into(),
                    "--always".into(),
                    "--dirty".into(),
                    "--exclude=*".into(),
                ],
            ),
        }
    }
}

/// The first line that a command prints, on either output.
pub(crate) fn first_line(program: &str, arguments: &[String]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .map(str::to_owned)
}

/// The file that a shell would execute for `program`.
pub(crate) fn find_program(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return fs::canonicalize(program).ok();
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path).find_map(|dir| fs::canonicalize(dir.join(program)).ok().filter(|file| file.is_file()))
}
