//! Network namespaces and what is plugged into them. Needs root. Each is gone when its value is dropped, also when a test
//! panics; what a killed process left behind is swept away by the next that starts.

use std::{
    fs,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::Command as StdCommand,
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::{process::Command, task::JoinHandle};

/// What the names of our namespaces begin with; then the process that made them.
const PREFIX: &str = "squire-test-";

static NEXT: AtomicU32 = AtomicU32::new(0);
static SWEPT: Once = Once::new();

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

/// Removes the namespaces of processes that are gone.
fn sweep() {
    let Ok(entries) = fs::read_dir("/run/netns") else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((pid, _)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')) else {
            continue;
        };
        if !Path::new("/proc").join(pid).exists() {
            let _ = StdCommand::new("ip").args(["netns", "del", &name]).output();
        }
    }
}

impl Namespace {
    /// One with nothing but loopback.
    #[must_use]
    pub fn new() -> Self {
        SWEPT.call_once(sweep);
        let nth = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = Self(format!("{PREFIX}{}-{nth}", std::process::id()));
        run(&["ip", "netns", "add", &namespace.0]);
        namespace.run(&["ip", "link", "set", "lo", "up"]);
        // As container runtimes do: applications that are not root have ports such as 80.
        namespace.run(&["sysctl", "-qw", "net.ipv4.ip_unprivileged_port_start=0"]);
        namespace
    }

    /// One with a bridge, `br0`, that others can be plugged into. It has these addresses (with their prefix).
    #[must_use]
    pub fn bridge(addresses: &[&str]) -> Self {
        let namespace = Self::new();
        // Nobody asks for multicast groups here, and neighbours are found by multicast.
        namespace.run(&["ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0"]);
        namespace.run(&["ip", "link", "set", "br0", "up"]);
        namespace.give("br0", addresses);
        namespace
    }

    /// Plugs this into a namespace with a bridge: `eth0` here, with these addresses, and `port` there.
    pub fn plug_into(&self, bridge: &Self, port: &str, addresses: &[&str]) {
        bridge.run(&[
            "ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", &self.0,
        ]);
        bridge.run(&["ip", "link", "set", port, "master", "br0", "up"]);
        self.run(&["ip", "link", "set", "eth0", "up"]);
        self.give("eth0", addresses);
    }

    fn give(&self, interface: &str, addresses: &[&str]) {
        for address in addresses {
            // Without duplicate address detection, which would take a second.
            let mut words = vec!["ip", "address", "add", address, "dev", interface];
            words.extend(address.contains(':').then_some("nodad"));
            self.run(&words);
        }
    }

    /// Runs a command inside, which has to succeed.
    pub fn run(&self, words: &[&str]) {
        run(&[&["ip", "netns", "exec", &self.0], words].concat());
    }

    /// The file by which programs find it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.0)
    }

    /// A command that runs inside.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).arg(program).kill_on_drop(true);
        command
    }

    /// Runs a future inside, on a thread of its own: its sockets are the namespace's.
    pub fn inside<F, T>(&self, work: impl FnOnce() -> F + Send + 'static) -> JoinHandle<T>
    where
        F: Future<Output = T>,
        T: Send + 'static,
    {
        let path = self.path();
        tokio::task::spawn_blocking(move || {
            // A thread that nobody else uses: it ends in the namespace that it has moved to.
            let inside = std::thread::spawn(move || {
                let namespace = fs::File::open(path).unwrap();
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(work())
            });
            inside.join().unwrap()
        })
    }

    /// As [`Self::command`], as another user who can read everything.
    #[must_use]
    pub fn command_as(&self, uid: u32, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.command_with(uid, "+dac_override,+dac_read_search", program)
    }

    /// As [`Self::command`], as another user with these capabilities alone, as setpriv(1) writes them.
    #[must_use]
    pub fn command_with(&self, uid: u32, capabilities: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.command("setpriv");
        command.args(["--reuid", &uid.to_string(), "--clear-groups"]);
        command.args(["--inh-caps", capabilities, "--ambient-caps", capabilities, "--"]);
        command.arg(program);
        command
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = StdCommand::new("ip").args(["netns", "del", &self.0]).status();
    }
}
