//! Network namespaces: a pod's network as Kubernetes makes it, two of them with a cable between. Needs root.

use std::process::Command as StdCommand;

use tokio::process::Command;

/// A network namespace; gone when dropped.
#[derive(Debug)]
pub struct Namespace(String);

/// Whether namespaces can be made here. In CI they must be; elsewhere a test may be skipped, and says so.
///
/// # Panics
/// In CI, when this is not root.
#[must_use]
pub fn possible() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        assert!(
            std::env::var_os("CI").is_none(),
            "CI must run as root: network namespaces are made"
        );
        eprintln!("SKIPPED: needs root, to make network namespaces");
    }
    root
}

/// Runs a command that has to succeed.
fn run(words: &[&str]) {
    let output = StdCommand::new(words[0]).args(&words[1..]).output();
    let output = output.unwrap_or_else(|error| panic!("{words:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {errors}");
}

impl Namespace {
    /// Two namespaces with a cable between them: the first has `.1`, the other `.2` of 10.77.0.0/24 and fd77::/64.
    #[must_use]
    pub fn pair() -> (Self, Self) {
        let pid = std::process::id();
        let (one, two) = (Self(format!("squire-{pid}-1")), Self(format!("squire-{pid}-2")));
        for namespace in [&one, &two] {
            run(&["ip", "netns", "add", &namespace.0]);
            namespace.run(&["ip", "link", "set", "lo", "up"]);
        }
        one.run(&[
            "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &two.0,
        ]);
        for (namespace, last) in [(&one, 1), (&two, 2)] {
            namespace.run(&["ip", "link", "set", "eth0", "up"]);
            namespace.run(&["ip", "address", "add", &format!("10.77.0.{last}/24"), "dev", "eth0"]);
            // Without duplicate address detection, which would take a second.
            namespace.run(&[
                "ip",
                "address",
                "add",
                &format!("fd77::{last}/64"),
                "dev",
                "eth0",
                "nodad",
            ]);
        }
        (one, two)
    }

    /// Runs a command inside, which has to succeed.
    pub fn run(&self, words: &[&str]) {
        run(&[&["ip", "netns", "exec", &self.0], words].concat());
    }

    /// A command that runs inside.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).arg(program).kill_on_drop(true);
        command
    }

    /// As [`Self::command`], as another user who can read everything.
    #[must_use]
    pub fn command_as(&self, uid: u32, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.command("setpriv");
        let capabilities = "+dac_override,+dac_read_search";
        command.args(["--reuid", &uid.to_string(), "--clear-groups"]);
        command.args(["--inh-caps", capabilities, "--ambient-caps", capabilities, "--"]);
        command.arg(program);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = StdCommand::new("ip").args(["netns", "del", &self.0]).status();
    }
}
