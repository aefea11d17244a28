//! Pods as Kubernetes makes them: network namespaces on a bridge, with IPv4 and IPv6 addresses, Service addresses that
//! nobody has, a sidecar under its own user that connections are redirected to by `squire-proxy redirect`, and
//! applications under another user that know nothing of all this. Needs root.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU8, Ordering},
    },
};

use serde_json::Value;
use squire_mesh::ports::PROXY_UID;
use tokio::process::Command;

use crate::{
    Capture, Figures, Mesh, Process, binary,
    mesh::DOMAIN,
    namespace::Namespace,
    wait::{eventually, in_time},
};

/// The user of applications.
pub const APP_UID: u32 = 1000;
/// The node's addresses, where the control plane listens.
pub const NODE: [&str; 2] = ["10.77.0.254", "fd77::fe"];

/// A node with its bridge, and a mesh whose control plane runs on it.
#[derive(Debug)]
pub struct Cluster {
    /// Its objects and its CA.
    pub mesh: Mesh,
    control: Mutex<Option<Process>>,
    pods: AtomicU8,
    node: Namespace,
}

/// A pod's network namespace, and what is run in it.
#[derive(Debug)]
pub struct ClusterPod<'c> {
    cluster: &'c Cluster,
    name: String,
    number: u8,
    namespace: Namespace,
}

/// A pod's sidecar.
#[derive(Debug)]
pub struct PodSidecar<'p> {
    /// The process.
    pub process: Process,
    pod: &'p ClusterPod<'p>,
}

impl Cluster {
    /// A cluster around a mesh; its control plane does not run yet.
    #[must_use]
    pub fn new(mesh: Mesh) -> Self {
        let [v4, v6] = NODE;
        Self {
            mesh,
            control: Mutex::default(),
            pods: AtomicU8::new(1),
            node: Namespace::bridge(&[&format!("{v4}/24"), &format!("{v6}/64")]),
        }
    }

    /// The node's namespace.
    #[must_use]
    pub fn node(&self) -> &Namespace {
        &self.node
    }

    /// Starts the control plane and waits until it serves.
    pub async fn start(&self) {
        let mut command = self.node.command_as(PROXY_UID, binary("squire"));
        command.arg("control").arg("--dir").arg(self.mesh.objects());
        command.arg("--ca-dir").arg(self.mesh.ca_dir());
        let address = NODE[0];
        command.args([
            "--grpc",
            &format!("{address}:15012"),
            "--admin",
            &format!("{address}:15014"),
        ]);
        let process = Process::start("control", &mut command, self.mesh.dir());
        process.said(&["the control plane has started"]).await;
        *self.control.lock().unwrap() = Some(process);
    }

    /// A pod that the mesh knows, reached by this transport; `extra` is what its object has besides, as YAML lines.
    #[must_use]
    pub fn pod(&self, name: &str, transport: &str) -> ClusterPod<'_> {
        let pod = self.stranger(name);
        let [v4, v6] = pod.addresses();
        self.declare(name, transport, "", &[&v4, &v6]);
        pod
    }

    /// A machine on the same network that the mesh does not know.
    #[must_use]
    pub fn stranger(&self, name: &str) -> ClusterPod<'_> {
        let number = self.pods.fetch_add(1, Ordering::Relaxed);
        let pod = ClusterPod {
            cluster: self,
            name: name.to_owned(),
            number,
            namespace: Namespace::new(),
        };
        let [v4, v6] = pod.addresses();
        let port = format!("pod{number}");
        let addresses = [format!("{v4}/24"), format!("{v6}/64")];
        pod.namespace
            .plug_into(&self.node, &port, &[&addresses[0], &addresses[1]]);
        // To Service addresses, among others; the node passes nothing on.
        pod.namespace.run(&["ip", "route", "add", "default", "via", NODE[0]]);
        pod.namespace
            .run(&["ip", "-6", "route", "add", "default", "via", NODE[1]]);
        pod
    }

    /// Makes a Pod known to the mesh; `spec` are further fields of it, as YAML.
    pub fn declare(&self, name: &str, transport: &str, spec: &str, addresses: &[&str]) {
        let mut ips = String::new();
        for address in addresses {
            let _ = write!(ips, "{{ip: '{address}'}}, ");
        }
        self.mesh.write(
            &format!("pod-{name}.yaml"),
            &format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}, \
                 annotations: {{squire.mesh/transport: {transport}}}}}\nspec: {{serviceAccountName: {name}, {spec} \
                 containers: [{{name: app}}]}}\nstatus: {{phase: Running, podIP: '{}', podIPs: [{ips}]}}\n",
                addresses[0]
            ),
        );
    }

    /// A Service of the pods labelled `app: <name>`, on these addresses (`None` for a headless one).
    pub fn service(&self, name: &str, addresses: &[&str], port: u16, target: u16) {
        let cluster_ip = match addresses {
            [] => "clusterIP: None".to_owned(),
            [first, ..] => format!("clusterIP: '{first}', clusterIPs: {addresses:?}"),
        };
        self.mesh.write(
            &format!("service-{name}.yaml"),
            &format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{{cluster_ip}, \
                 selector: {{app: {name}}}, ports: [{{name: tcp, port: {port}, targetPort: {target}}}]}}\n"
            ),
        );
    }

    /// Captures everything that crosses the bridge.
    pub async fn capture(&self) -> Capture {
        Capture::start(&self.node, self.mesh.dir()).await
    }
}

impl<'c> ClusterPod<'c> {
    /// Its addresses, IPv4 and IPv6.
    #[must_use]
    pub fn addresses(&self) -> [String; 2] {
        [format!("10.77.0.{}", self.number), format!("fd77::{:x}", self.number)]
    }

    /// Its IPv4 address.
    #[must_use]
    pub fn v4(&self) -> String {
        self.addresses()[0].clone()
    }

    /// Its IPv6 address.
    #[must_use]
    pub fn v6(&self) -> String {
        self.addresses()[1].clone()
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// A directory of its own.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        let dir = self.cluster.mesh.dir().join(format!("pod-{}", self.name));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// Runs `squire-proxy redirect` with these arguments.
    pub async fn redirect(&self, arguments: &[&str]) -> Output {
        let mut command = self.namespace.command(binary("squire-proxy"));
        command.arg("redirect").args(arguments);
        in_time("redirect ends", command.output()).await.unwrap()
    }

    /// Redirects its connections, starts its sidecar with these settings besides, and waits until it is ready.
    pub async fn sidecar(&self, settings: &[&str]) -> PodSidecar<'_> {
        let redirected = self.redirect(&[]).await;
        assert!(redirected.status.success(), "{redirected:?}");
        let dir = self.dir();
        fs::write(dir.join("token"), self.cluster.mesh.token(&self.name).await).unwrap();
        fs::write(dir.join("bundle.pem"), self.cluster.mesh.bundle().await).unwrap();
        let mut command = self.namespace.command_as(PROXY_UID, binary("squire-proxy"));
        command.arg("run");
        let fixed = [
            format!("workload=shop/{}", self.name),
            format!("trustDomain={DOMAIN}"),
            format!("trustBundle={}/bundle.pem", dir.display()),
            format!("token={}/token", dir.display()),
            format!("control={}:15012", NODE[0]),
            "mode=transparent".to_owned(),
        ];
        for setting in fixed.iter().map(String::as_str).chain(settings.iter().copied()) {
            command.args(["--set", setting]);
        }
        let name = format!("proxy-{}", self.name);
        let process = Process::start(&name, &mut command, self.cluster.mesh.dir());
        let sidecar = PodSidecar { process, pod: self };
        eventually(&format!("the sidecar of {} is ready", self.name), async || {
            (sidecar.page("/ready").await?.0 == 200).then_some(())
        })
        .await;
        sidecar
    }

    /// A command of its application's user.
    #[must_use]
    pub fn app(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.namespace.command_as(APP_UID, program)
    }

    /// Starts a server of its application's user; it is up once it listens on this port.
    pub async fn serves(&self, port: u16, program: &str, arguments: &[&str]) -> Process {
        let mut command = self.app(program);
        command.args(arguments).current_dir(self.dir());
        self.starts(port, program, &mut command).await
    }

    /// Starts a server; it is up once it listens on this port.
    pub async fn starts(&self, port: u16, program: &str, command: &mut Command) -> Process {
        let name = format!("{}-{}", self.name, Path::new(program).file_name().unwrap().display());
        let process = Process::start(&name, command, self.cluster.mesh.dir());
        eventually(&format!("{name} listens on {port}"), async || {
            self.listens(port).then_some(())
        })
        .await;
        process
    }

    /// Whether anybody in the pod listens on a port.
    fn listens(&self, port: u16) -> bool {
        let mut ss = self.namespace.command("ss").into_std();
        let output = ss.args(["-Hltn", &format!("sport = :{port}")]).output().unwrap();
        !output.stdout.is_empty()
    }

    /// Runs a program of its application's user to its end.
    pub async fn runs(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = self.app(program);
        command.args(arguments).stdin(Stdio::null()).current_dir(self.dir());
        in_time(&format!("{program} {arguments:?} ends"), command.output())
            .await
            .unwrap()
    }

    /// What a program of its application's user writes, if it succeeds; what it complains of, if not.
    ///
    /// # Errors
    /// When it does not succeed.
    pub async fn tries(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        let output = self.runs(program, arguments).await;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(format!(
                "{}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            ))
        }
    }
}

impl PodSidecar<'_> {
    /// A page of its admin endpoint, and its status.
    pub async fn page(&self, path: &str) -> Option<(u16, String)> {
        let mut curl = self.pod.namespace.command("curl");
        curl.args(["-s", "-w", "\n%{http_code}", &format!("http://127.0.0.1:15020{path}")]);
        let output = curl.output().await.ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let (body, status) = text.rsplit_once('\n')?;
        Some((status.parse().ok()?, body.to_owned()))
    }

    /// Its metrics.
    pub async fn figures(&self) -> Figures {
        Figures::new(self.page("/metrics").await.unwrap().1)
    }

    /// The lines of its access log so far.
    #[must_use]
    pub fn access_log(&self) -> Vec<Value> {
        let log = self.process.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
        lines.filter(|line: &Value| line["event"].is_string()).collect()
    }

    /// Waits for an access-log line whose fields have these values.
    pub async fn logged(&self, fields: &[(&str, &str)]) -> Value {
        let what = format!("{} logs {fields:?}", self.pod.name);
        eventually(&what, async || {
            let fits = |line: &Value| fields.iter().all(|(key, value)| line[key] == *value);
            self.access_log().into_iter().find(fits)
        })
        .await
    }
}
