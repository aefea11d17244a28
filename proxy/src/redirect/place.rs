//! Is this network namespace a pod's, or the machine's own? Rules in the machine's own would lead every connection of the
//! node through one sidecar. Looks only; where it cannot tell, it says so, and whoever asks refuses.
//!
//! Comparing `/proc/1/ns/net` with ours is not enough: in a pod without `hostPID` PID 1 is the pod's own process, and in
//! one with `hostPID` a container without CAP_SYS_PTRACE may not look at the node's. But sysctls that hold for the whole
//! kernel are shown in its first network namespace alone (`net_core_table` in Linux' net/core/sysctl_net_core.c).

use std::{fs, io, path::Path};

/// A sysctl of the kernel's first network namespace: there since Linux 2.3, in no other namespace.
const OF_THE_KERNEL: &str = "sys/net/core/netdev_max_backlog";
/// One that every network namespace has.
const OF_EACH: &str = "sys/net/core/somaxconn";
/// What a machine's first process is called, also where the machine is a container (`kind`).
const INITS: [&str; 2] = ["systemd", "init"];

/// Whose network namespace this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Nothing says that it is a machine's.
    Pod,
    /// The machine's own; why that is known.
    Machine(&'static str),
    /// It cannot be told; why not.
    Unknown(String),
}

impl Place {
    /// Where this process is.
    #[must_use]
    pub fn here() -> Self {
        Self::by(Path::new("/proc"), std::process::id())
    }

    /// By a mounted `proc`; `pid` is ours in it.
    fn by(proc: &Path, pid: u32) -> Self {
        match proc.join(OF_THE_KERNEL).try_exists() {
            Ok(true) => return Self::Machine("it is the kernel's first, which is the node's"),
            Ok(false) => {}
            Err(error) => return Self::Unknown(format!("/proc/{OF_THE_KERNEL}: {error}")),
        }
        if !proc.join(OF_EACH).exists() {
            return Self::Unknown(format!("/proc/{OF_EACH} is not there: is /proc mounted?"));
        }
        match pid != 1 && shares_with_init(proc) {
            true => Self::Machine("the init of the machine is in it too"),
            false => Self::Pod,
        }
    }
}

/// Whether PID 1 is an init and in our network namespace. Not to be allowed to look at it means that it is none of ours.
fn shares_with_init(proc: &Path) -> bool {
    let named = fs::read_to_string(proc.join("1/comm")).unwrap_or_default();
    let namespace = |of: &str| -> io::Result<_> { fs::read_link(proc.join(of).join("ns/net")) };
    let same = matches!((namespace("1"), namespace("self")), (Ok(its), Ok(ours)) if its == ours);
    same && INITS.contains(&named.trim())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    /// A `proc` with these files, PID 1 of this name in `its` network namespace and us in `ours`.
    fn proc(files: &[&str], init: &str, its: &str, ours: &str) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for file in files {
            put(file, "1000");
        }
        put("1/comm", &format!("{init}\n"));
        for (process, namespace) in [("1", its), ("self", ours)] {
            fs::create_dir_all(dir.path().join(process).join("ns")).unwrap();
            symlink(namespace, dir.path().join(process).join("ns/net")).unwrap();
        }
        dir
    }

    #[test]
    fn the_machines_own_namespace_is_told_from_a_pods() {
        let (first, pod) = ([OF_EACH, OF_THE_KERNEL], [OF_EACH]);
        let of =
            |files: &[&str], init: &str, its: &str, pid: u32| Place::by(proc(files, init, its, "net:[1]").path(), pid);
        assert!(
            matches!(of(&first, "squire-proxy", "net:[1]", 1), Place::Machine(_)),
            "hostNetwork"
        );
        assert!(
            matches!(of(&first, "systemd", "net:[1]", 77), Place::Machine(_)),
            "by hand, or hostPID too"
        );
        assert!(
            matches!(of(&pod, "systemd", "net:[1]", 77), Place::Machine(_)),
            "a node that is a container"
        );
        assert_eq!(
            of(&pod, "squire-proxy", "net:[1]", 1),
            Place::Pod,
            "PID 1 is this very process"
        );
        assert_eq!(
            of(&pod, "pause", "net:[1]", 7),
            Place::Pod,
            "processes that are shared in a pod"
        );
        assert_eq!(
            of(&pod, "systemd", "net:[2]", 77),
            Place::Pod,
            "a pod with hostPID alone"
        );
    }

    #[test]
    fn where_it_cannot_be_told_that_is_what_it_says() {
        let nothing = proc(&[], "systemd", "net:[1]", "net:[1]");
        assert!(matches!(Place::by(nothing.path(), 7), Place::Unknown(why) if why.contains("/proc mounted")));
    }
}
