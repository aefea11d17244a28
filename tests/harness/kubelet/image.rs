//! Our own images, run by a container runtime (runc) as the Containerfile makes them: a root directory with one program in it.
//! Where that program is static there is nothing else (`SQUIRE_TEST_STATIC`: the directory it was built into); where it is
//! not, the loader and the libraries that it names. No shell, no other program, no file of this machine's.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command as StdCommand,
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
};

use serde_json::{Value, json};
use tokio::process::Command;

use super::{
    container::{self, Place},
    volumes,
};
use crate::binary;

/// Where static builds of our programs are, if those are to be run.
const STATIC: &str = "SQUIRE_TEST_STATIC";

/// Where the runtime keeps what it knows, in a directory for each process of tests. Not beside a test's other files: those go
/// first, and the runtime could end nothing any more.
const STATE: &str = "/run/squire-test-runc";

static NEXT: AtomicU32 = AtomicU32::new(0);
static SWEPT: Once = Once::new();

/// A container that a runtime looks after; it ends when this is dropped, also when a test panics. What a killed process left
/// behind is swept away by the next that starts one.
#[derive(Debug)]
pub(super) struct Runtime {
    id: String,
}

impl Drop for Runtime {
    fn drop(&mut self) {
        ended(&state(), &self.id);
    }
}

fn state() -> PathBuf {
    Path::new(STATE).join(std::process::id().to_string())
}

/// Ends a container. It is gone already if it has ended by itself.
fn ended(state: &Path, id: &str) {
    let _ = runc(state).args(["delete", "--force", id]).output();
}

/// Ends the containers of processes that are gone.
fn sweep() {
    for entry in fs::read_dir(STATE).into_iter().flatten().flatten() {
        let pid = entry.file_name();
        if Path::new("/proc").join(&pid).exists() {
            continue;
        }
        for container in fs::read_dir(entry.path()).into_iter().flatten().flatten() {
            ended(&entry.path(), &container.file_name().to_string_lossy());
        }
        let _ = fs::remove_dir_all(entry.path());
    }
}

/// The program of an image of ours.
pub(super) fn program(image: &str) -> Option<&'static str> {
    match image.split_once(':').map_or(image, |(name, _)| name) {
        "squire" => Some("squire"),
        "squire-proxy" => Some("squire-proxy"),
        _ => None,
    }
}

/// What the image of a program brings: files of this machine, and where they are in it.
fn brings(program: &str) -> Vec<(PathBuf, String)> {
    let built = std::env::var_os(STATIC).map(|dir| PathBuf::from(dir).join(program));
    let is_static = built.as_ref().is_some_and(|built| built.exists());
    let file = built.filter(|_| is_static).unwrap_or_else(|| binary(program));
    let ldd = StdCommand::new("ldd").arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&ldd.stdout).into_owned();
    let needs = said.split_whitespace().filter(|word| word.starts_with('/'));
    let libraries: Vec<_> = needs.map(|path| (PathBuf::from(path), path.to_owned())).collect();
    assert_eq!(
        is_static,
        libraries.is_empty(),
        "{}: {said}; {STATIC} is for static builds",
        file.display()
    );
    [(file, format!("/{program}"))].into_iter().chain(libraries).collect()
}

fn runc(state: &Path) -> StdCommand {
    let mut command = StdCommand::new("runc");
    command.arg("--root").arg(state);
    command
}

/// The command that runs a container of ours to its end.
pub(super) fn command(place: &Place, container: &Value, program: &str) -> (Command, Runtime) {
    SWEPT.call_once(sweep);
    let name = container["name"].as_str().unwrap();
    // A container that is started again is another one; so is one of another process, for the control groups are shared.
    let nth = NEXT.fetch_add(1, Ordering::Relaxed);
    let runtime = Runtime {
        id: format!("squire-test-{}-{nth}-{name}", std::process::id()),
    };
    let bundle = place.dir.join(format!("bundle-{name}"));
    fs::create_dir_all(bundle.join("rootfs")).unwrap();
    fs::write(
        bundle.join("config.json"),
        bundled(place, container, program).to_string(),
    )
    .unwrap();
    let mut command = Command::from(runc(&state()));
    command.args(["run", "--bundle"]).arg(&bundle).arg(&runtime.id);
    command.kill_on_drop(true);
    (command, runtime)
}

/// The configuration of the OCI runtime specification, as kubelets have it made of a container's spec.
fn bundled(place: &Place, container: &Value, program: &str) -> Value {
    let (security, pod) = (&container["securityContext"], &place.pod["spec"]["securityContext"]);
    let of = |key: &str| security.get(key).or_else(|| pod.get(key)).cloned().unwrap_or_default();
    let user = of("runAsUser")
        .as_u64()
        .expect("images of ours are run as the spec says");
    assert!(user != 0 || of("runAsNonRoot") != true, "runAsNonRoot, and root");
    assert_eq!(security["capabilities"]["drop"], json!(["ALL"]), "{container}");
    let added = security["capabilities"]["add"].as_array().into_iter().flatten();
    let capabilities: Vec<String> = added.map(|name| format!("CAP_{}", name.as_str().unwrap())).collect();
    let variables = container::variables(place, container);
    let own = container["command"].is_array();
    assert!(!own, "an image of ours has one program: {container}");
    let args = std::iter::once(format!("/{program}")).chain(container::words(container, "args", &variables));
    let env = variables.iter().map(|(name, value)| format!("{name}={value}"));
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": user, "gid": of("runAsGroup").as_u64().unwrap_or(user)},
            "args": args.collect::<Vec<_>>(),
            "env": env.collect::<Vec<_>>(),
            "cwd": "/",
            // Without root none is in effect, whichever are added.
            "capabilities": {
                "bounding": capabilities,
                "permitted": if user == 0 { &capabilities[..] } else { &[] },
                "effective": if user == 0 { &capabilities[..] } else { &[] },
            },
            "noNewPrivileges": security["allowPrivilegeEscalation"] == false,
        },
        "root": {"path": "rootfs", "readonly": security["readOnlyRootFilesystem"] == true},
        "mounts": mounts(place, container, program),
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                {"type": "network", "path": place.namespace.path()},
            ],
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

/// What every runtime mounts, what the kubelet brings, what the image brings, and the volumes.
fn mounts(place: &Place, container: &Value, program: &str) -> Vec<Value> {
    let special = |to: &str, kind: &str, options: &[&str]| json!({"destination": to, "type": kind, "source": kind, "options": options});
    let bound = |from: &Path, to: &str, mode: &str| json!({"destination": to, "type": "bind", "source": from, "options": ["rbind", "nosuid", "nodev", mode]});
    let mut mounts = vec![
        special("/proc", "proc", &[]),
        special("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        special(
            "/dev/shm",
            "tmpfs",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        special("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    ];
    for file in ["hosts", "resolv.conf"] {
        mounts.push(bound(&place.dir.join("etc").join(file), &format!("/etc/{file}"), "ro"));
    }
    mounts.extend(brings(program).iter().map(|(from, to)| bound(from, to, "ro")));
    for mount in container["volumeMounts"].as_array().into_iter().flatten() {
        let from = volumes::at(&place.pod, &place.dir, mount["name"].as_str().unwrap());
        let mode = if mount["readOnly"] == true { "ro" } else { "rw" };
        mounts.push(bound(&from, mount["mountPath"].as_str().unwrap(), mode));
    }
    mounts
}
