//! One container as a process: its root directory, mounts, variables, user and capabilities, as its spec says.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use serde_json::Value;
use tokio::process::Command;

use super::{
    image::{self, Runtime},
    volumes,
};
use crate::{cluster::APP_UID, namespace::Namespace};

/// Makes the root directory in a mount namespace of its own, which ends with the process: this machine's programs, the
/// volumes, and what the image brings. Arguments: the directory, whether it may be written to, mounts (from, to, `ro` or
/// `rw`), `--`, and what is run in it.
const ROOT: &str = r#"
set -e
root=$1; writable=$2; shift 2
mount -t tmpfs -o mode=0755 container "$root"
cd "$root"
mkdir usr proc dev etc tmp run var
chmod 1777 tmp
for link in bin sbin lib lib64; do [ ! -L "/$link" ] || ln -s "$(readlink "/$link")" "$link"; done
mount --rbind /usr usr
mount --rbind /proc proc
mount --rbind /dev dev
while [ "$1" != -- ]; do
    if [ -d "$1" ]; then mkdir -p ".$2"; else mkdir -p "$(dirname ".$2")"; : >".$2"; fi
    mount --bind "$1" ".$2"
    [ "$3" = rw ] || mount -o remount,bind,ro ".$2"
    shift 3
done
shift
[ "$writable" = yes ] || mount -o remount,ro "$root"
exec chroot . "$@"
"#;

/// Where a pod's containers live.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) namespace: Namespace,
    /// The pod's own directory.
    pub(super) dir: PathBuf,
    pub(super) pod: Arc<Value>,
    pub(super) address: IpAddr,
}

/// Whether a container can be run here; otherwise its image cannot be pulled.
pub(super) fn is_known(container: &Value) -> bool {
    image::program(container["image"].as_str().unwrap()).is_some() || container["command"].is_array()
}

/// The command that runs a container, and what looks after one of ours.
pub(super) fn command(place: &Place, container: &Value) -> (Command, Option<Runtime>) {
    match image::program(container["image"].as_str().unwrap()) {
        Some(program) => {
            let (command, runtime) = image::command(place, container, program);
            (command, Some(runtime))
        }
        None => (application(place, container), None),
    }
}

/// Applications run with this machine's programs as their image.
fn application(place: &Place, container: &Value) -> Command {
    let name = container["name"].as_str().unwrap();
    let root = place.dir.join(format!("root-{name}"));
    std::fs::create_dir_all(&root).unwrap();
    let security = &container["securityContext"];
    let writable = security["readOnlyRootFilesystem"] != true;
    let mut command = place.namespace.command("sh");
    command.args(["-c", ROOT, "container"]).arg(&root);
    command.arg(if writable { "yes" } else { "no" });
    for file in ["hosts", "resolv.conf"] {
        command.arg(place.dir.join("etc").join(file));
        command.arg(format!("/etc/{file}")).arg("ro");
    }
    for mount in container["volumeMounts"].as_array().into_iter().flatten() {
        let from = volumes::at(&place.pod, &place.dir, mount["name"].as_str().unwrap());
        let path = mount["mountPath"].as_str().unwrap().trim_end_matches('/');
        command.arg(from).arg(path);
        command.arg(if mount["readOnly"] == true { "ro" } else { "rw" });
    }
    command.arg("--").args(user(&place.pod, security));
    let variables = variables(place, container);
    command.args(words(container, "command", &variables));
    command.args(words(container, "args", &variables));
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .envs(variables);
    command
}

/// A program that is run in a container that runs: as its user, with its variables. None while the container's own program
/// has not begun.
pub(super) fn enter(pid: u32, arguments: &[&str]) -> Option<Command> {
    let process = Path::new("/proc").join(pid.to_string());
    let status = std::fs::read_to_string(process.join("status")).ok()?;
    let uid = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))?
        .split_whitespace()
        .next()?;
    // As root its directories are made; nothing that is entered here runs so.
    if uid == "0" {
        return None;
    }
    let mut command = Command::new("nsenter");
    command.args(["--target", &pid.to_string(), "--net", "--mount", "--root", "--wd", "--"]);
    command.args(["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "--"]);
    let environ = std::fs::read(process.join("environ")).ok()?;
    let pairs = environ.split(|byte| *byte == 0).filter_map(|pair| {
        let (name, value) = std::str::from_utf8(pair).ok()?.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    });
    command.env_clear().envs(pairs);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    Some(command)
}

/// User and capabilities. Images run as the application's user unless the spec names one.
fn user(pod: &Value, security: &Value) -> Vec<String> {
    let spec = &pod["spec"]["securityContext"];
    let of = |key: &str| security[key].as_u64().or_else(|| spec[key].as_u64());
    let uid = of("runAsUser").unwrap_or(u64::from(APP_UID));
    let gid = of("runAsGroup").unwrap_or(uid);
    let nonroot = security["runAsNonRoot"]
        .as_bool()
        .or_else(|| spec["runAsNonRoot"].as_bool());
    assert!(uid != 0 || nonroot != Some(true), "runAsNonRoot, and root");
    let mut words: Vec<String> = ["setpriv", "--clear-groups"].map(str::to_owned).into();
    words.extend([format!("--reuid={uid}"), format!("--regid={gid}")]);
    let list = |key: &str| security["capabilities"][key].as_array().cloned().unwrap_or_default();
    if list("drop").iter().any(|name| name == "ALL") {
        let added = list("add").iter().fold(String::new(), |text, name| {
            format!("{text},+{}", name.as_str().unwrap().to_lowercase())
        });
        words.push(format!("--bounding-set=-all{added}"));
        words.push(format!("--inh-caps=-all{added}"));
    }
    if security["allowPrivilegeEscalation"] == false {
        words.push("--no-new-privs".to_owned());
    }
    words.push("--".to_owned());
    words
}

/// Its variables, with references to each other expanded, as the kubelet does it.
pub(super) fn variables(place: &Place, container: &Value) -> BTreeMap<String, String> {
    let mut variables: BTreeMap<String, String> = BTreeMap::new();
    variables.insert("KUBERNETES_SERVICE_HOST".to_owned(), super::API.to_owned());
    variables.insert("KUBERNETES_SERVICE_PORT".to_owned(), "443".to_owned());
    for entry in container["env"].as_array().into_iter().flatten() {
        let value = match entry["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
            Some(path) => field(place, path),
            None => expanded(entry["value"].as_str().unwrap_or_default(), &variables),
        };
        variables.insert(entry["name"].as_str().unwrap().to_owned(), value);
    }
    variables
}

/// `command` or `args`.
pub(super) fn words(container: &Value, key: &str, variables: &BTreeMap<String, String>) -> Vec<String> {
    let list = container[key].as_array().into_iter().flatten();
    list.map(|word| expanded(word.as_str().unwrap(), variables)).collect()
}

fn field(place: &Place, path: &str) -> String {
    if matches!(path, "status.podIP" | "status.podIPs") {
        return place.address.to_string();
    }
    let pointer = format!("/{}", path.replace('.', "/"));
    let value = place.pod.pointer(&pointer).and_then(Value::as_str);
    value.unwrap_or_else(|| panic!("{path} is not played here")).to_owned()
}

/// `$(NAME)` is the variable's value; what names none stays.
fn expanded(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut text = text.to_owned();
    for (name, value) in variables {
        text = text.replace(&format!("$({name})"), value);
    }
    text
}
