//! A mesh: a directory of objects, a CA beside it, a control plane, and pods with addresses of their own.

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Output,
    sync::Mutex,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    Figures, Process, Subnet, binary, clock, http,
    sidecar::Pod,
    wait::{eventually, in_time},
};

/// The trust domain of every mesh here.
pub const DOMAIN: &str = "cluster.local";
/// The namespace of every pod here.
const NAMESPACE: &str = "shop";

/// The SPIFFE ID of a service account in the tests' namespace.
#[must_use]
pub fn id(account: &str) -> String {
    format!("spiffe://{DOMAIN}/ns/{NAMESPACE}/sa/{account}")
}

/// A certificate chain, its key and the roots, as PEM files.
#[derive(Debug)]
pub struct Papers {
    /// Leaf and intermediate.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
    /// Root.
    pub bundle: PathBuf,
}

/// A mesh of real processes; everything ends when it is dropped.
#[derive(Debug)]
pub struct Mesh {
    files: TempDir,
    subnet: Subnet,
    domain: String,
    control: Mutex<Option<Process>>,
    addresses: Mutex<HashMap<String, IpAddr>>,
}

impl Default for Mesh {
    fn default() -> Self {
        Self::new()
    }
}

impl Mesh {
    /// A mesh without objects, and nothing running yet.
    #[must_use]
    pub fn new() -> Self {
        let files = tempfile::tempdir().unwrap();
        fs::create_dir(files.path().join("mesh")).unwrap();
        let mesh = Self {
            files,
            subnet: Subnet::unused(),
            domain: DOMAIN.to_owned(),
            control: Mutex::default(),
            addresses: Mutex::default(),
        };
        mesh.write(
            "namespaces.yaml",
            &format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {NAMESPACE}}}}}\n"),
        );
        mesh
    }

    /// One that takes mesh mutual TLS only, everywhere.
    #[must_use]
    pub fn strict() -> Self {
        let mesh = Self::new();
        mesh.write(
            "strict.yaml",
            &format!(
                "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: default, namespace: \
                 {NAMESPACE}}}\nspec: {{mtls: {{mode: STRICT}}}}\n"
            ),
        );
        mesh
    }

    /// The same mesh with another trust domain; to be said before anything is started.
    #[must_use]
    pub fn in_domain(mut self, domain: &str) -> Self {
        domain.clone_into(&mut self.domain);
        self
    }

    /// Its trust domain.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The SPIFFE ID of a service account of this mesh.
    #[must_use]
    pub fn id(&self, account: &str) -> String {
        format!("spiffe://{}/ns/{NAMESPACE}/sa/{account}", self.domain)
    }

    /// Another address of this mesh, for an endpoint of its control plane.
    #[must_use]
    pub fn endpoint(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.subnet.address(1), port)
    }

    /// Where everything of this mesh is kept.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.files.path()
    }

    /// The directory of objects.
    #[must_use]
    pub fn objects(&self) -> PathBuf {
        self.dir().join("mesh")
    }

    /// The CA's directory.
    #[must_use]
    pub fn ca_dir(&self) -> PathBuf {
        self.dir().join("ca")
    }

    /// Where proxies find the control plane.
    #[must_use]
    pub fn grpc(&self) -> SocketAddr {
        SocketAddr::new(self.subnet.address(1), 15012)
    }

    /// The control plane's admin endpoint.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        SocketAddr::new(self.subnet.address(1), 15014)
    }

    /// Writes a file of objects, replaced as a whole as an editor does.
    pub fn write(&self, name: &str, yaml: &str) {
        let aside = self.dir().join("aside");
        fs::write(&aside, yaml).unwrap();
        fs::rename(aside, self.objects().join(name)).unwrap();
    }

    /// Removes a file of objects.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.objects().join(name)).unwrap();
    }

    /// Writes an AuthorizationPolicy of this name: only these service accounts reach the pods labelled `app: <app>`.
    pub fn allow(&self, name: &str, app: &str, accounts: &[&str]) {
        let principals: Vec<String> = accounts
            .iter()
            .map(|account| format!("{DOMAIN}/ns/{NAMESPACE}/sa/{account}"))
            .collect();
        let rules = if principals.is_empty() {
            String::new()
        } else {
            format!("rules: [{{from: [{{source: {{principals: {principals:?}}}}}]}}]")
        };
        self.write(
            &format!("{name}.yaml"),
            &format!(
                "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: \
                 {NAMESPACE}}}\nspec:\n  selector: {{matchLabels: {{app: {app}}}}}\n  action: ALLOW\n  {rules}\n"
            ),
        );
    }

    /// The address of a pod or peer of this name; the same at every call.
    #[must_use]
    pub fn address(&self, name: &str) -> IpAddr {
        let mut addresses = self.addresses.lock().unwrap();
        let next = self.subnet.address(u8::try_from(10 + addresses.len()).unwrap());
        *addresses.entry(name.to_owned()).or_insert(next)
    }

    /// A pod with a sidecar, known to the mesh from now on and not running yet. Its service account has its name.
    #[must_use]
    pub fn pod(&self, name: &str) -> Pod<'_> {
        self.declare(name, "squire");
        Pod::new(self, name)
    }

    /// Makes a workload known that is reached by this transport.
    pub fn declare(&self, name: &str, transport: &str) {
        let address = self.address(name);
        self.write(
            &format!("workload-{name}.yaml"),
            &format!(
                "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: {NAMESPACE}\n  labels: {{app: \
                 {name}}}\n  annotations: {{squire.mesh/transport: {transport}}}\nspec: {{serviceAccountName: {name}, \
                 containers: [{{name: app}}]}}\nstatus: {{phase: Running, podIP: {address}}}\n"
            ),
        );
    }

    /// The `squire control` command of this mesh.
    #[must_use]
    pub fn control_command(&self) -> Command {
        let mut command = Command::new(binary("squire"));
        command.arg("control").arg("--dir").arg(self.objects());
        command.arg("--ca-dir").arg(self.ca_dir());
        command.args(["--grpc", &self.grpc().to_string(), "--admin", &self.admin().to_string()]);
        if self.domain != "cluster.local" {
            command.args(["--trust-domain", &self.domain]);
        }
        command
    }

    /// Starts the control plane and waits until it is ready.
    pub async fn start(&self) {
        self.start_with(&[]).await;
    }

    /// As [`Self::start`], at a time of day that is off by so much.
    pub async fn start_at(&self, by: &str) {
        let mut command = self.control_command();
        clock::shift(&mut command, by);
        self.start_by(&mut command).await;
    }

    /// As [`Self::start`], with further arguments.
    pub async fn start_with(&self, arguments: &[&str]) {
        self.start_by(self.control_command().args(arguments)).await;
    }

    async fn start_by(&self, command: &mut Command) {
        let process = Process::start("control", command, self.dir());
        *self.control.lock().unwrap() = Some(process);
        eventually("the control plane is ready", async || {
            let answer = http::get(self.admin(), "/ready").await.ok()?;
            (answer.0 == 200).then_some(())
        })
        .await;
    }

    /// Kills the control plane and waits until it is gone.
    pub async fn kill_control(&self) {
        let process = self.control.lock().unwrap().take();
        process.expect("it runs").kill().await;
    }

    /// Looks at the running control plane.
    pub fn with_control<T>(&self, look: impl FnOnce(&Process) -> T) -> T {
        look(self.control.lock().unwrap().as_ref().expect("it runs"))
    }

    /// A page of the control plane's admin endpoint.
    pub async fn page(&self, path: &str) -> Value {
        let (_, body) = http::get(self.admin(), path).await.unwrap();
        serde_json::from_str(&body).unwrap_or(Value::String(body))
    }

    /// The control plane's metrics.
    pub async fn figures(&self) -> Figures {
        Figures::new(http::get(self.admin(), "/metrics").await.unwrap().1)
    }

    /// Founds the CA at a time of day that is off by so much: it is that much older, or younger.
    pub async fn found_at(&self, by: &str) {
        let mut command = Command::new(binary("squire"));
        command.args(["ca", "init", "--dir", "ca", "--trust-domain", &self.domain]);
        clock::shift(&mut command, by);
        let output = in_time("a CA is founded", command.current_dir(self.dir()).output())
            .await
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Runs `squire` with these arguments to its end.
    pub async fn squire(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary("squire"));
        command.args(arguments).current_dir(self.dir()).kill_on_drop(true);
        in_time(&format!("squire {arguments:?}"), command.output())
            .await
            .unwrap()
    }

    async fn squire_succeeds(&self, arguments: &[&str]) -> String {
        let output = self.squire(arguments).await;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "squire {arguments:?}: {} {errors}",
            output.status
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// A fresh join token for a service account.
    pub async fn token(&self, account: &str) -> String {
        let id = self.id(account);
        let token = self.squire_succeeds(&["ca", "token", "--dir", "ca", "--id", &id]).await;
        token.trim().to_owned()
    }

    /// An SVID by `squire ca issue`.
    pub async fn issue(&self, account: &str) -> Papers {
        let (out, id) = (format!("papers-{account}"), self.id(account));
        self.squire_succeeds(&["ca", "issue", "--dir", "ca", "--id", &id, "--out", &out])
            .await;
        let dir = self.dir().join(out);
        Papers {
            cert: dir.join("cert.pem"),
            key: dir.join("key.pem"),
            bundle: dir.join("bundle.pem"),
        }
    }

    /// The roots, as PEM.
    pub async fn bundle(&self) -> String {
        self.squire_succeeds(&["ca", "bundle", "--dir", "ca"]).await
    }
}
