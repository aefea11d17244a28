//! A real Kubernetes API server with its etcd, on loopback addresses of its own: RBAC, the admission plugins that are on by
//! default, service-account tokens, server-side apply and CRDs as in production. On request, the real controller manager
//! and scheduler beside it. It schedules nothing itself and pretends nothing: what a kubelet would do, tests do.
//!
//! The programs come from `KUBEBUILDER_ASSETS`, as envtest has it, or are built once by `tests/kubernetes/build`.

mod crds;
mod kubectl;
mod papers;
mod programs;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use kube::{
    Api, Client, Config,
    api::PostParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use tempfile::TempDir;
use tokio::{
    process::Command,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep},
};

pub use self::crds::{crd, crds};
use self::{papers::Papers, programs::Programs};
use crate::{Process, Subnet};

/// An API server on a busy machine takes longer than anything else here.
const START: Duration = Duration::from_secs(180);
/// API servers at once: each takes a core for its first seconds.
static ROOM: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(2)));

/// An API server and its etcd; everything ends when it is dropped.
#[derive(Debug)]
pub struct ApiServer {
    files: TempDir,
    subnet: Subnet,
    programs: Programs,
    settings: Vec<String>,
    server: Mutex<Option<Process>>,
    companions: Mutex<Vec<Process>>,
    etcd: Process,
    _room: OwnedSemaphorePermit,
}

impl ApiServer {
    /// Starts one and waits until it serves. `None`, with the reason on standard error, where the programs are missing and
    /// nothing here can build them.
    ///
    /// # Panics
    /// In CI, when the programs are missing.
    pub async fn start() -> Option<Self> {
        Self::start_with(&[]).await
    }

    /// As [`Self::start`], with further flags of kube-apiserver.
    ///
    /// # Panics
    /// In CI, when the programs are missing.
    pub async fn start_with(flags: &[&str]) -> Option<Self> {
        let programs = Programs::find()?;
        let room = Arc::clone(&ROOM).acquire_owned().await.unwrap();
        let files = tempfile::tempdir().unwrap();
        let subnet = Subnet::unused();
        let papers = Papers::new(subnet.address(250));
        papers.write(&files.path().join("pki"), &format!("https://{}", server(subnet)));
        let etcd = etcd(&programs, subnet, files.path());
        let started = Self {
            files,
            subnet,
            programs,
            settings: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            server: Mutex::default(),
            companions: Mutex::default(),
            etcd,
            _room: room,
        };
        started.serve().await;
        Some(started)
    }

    /// Starts the API server (again, after [`Self::kill`]) and waits until it serves.
    pub async fn serve(&self) {
        let pki = |name: &str| self.pki(name).display().to_string();
        let address = server(self.subnet);
        let mut command = self.programs.command("kube-apiserver");
        for (flag, value) in [
            ("etcd-servers", format!("http://{}", etcd_client(self.subnet))),
            ("bind-address", address.ip().to_string()),
            ("secure-port", address.port().to_string()),
            ("advertise-address", address.ip().to_string()),
            // The Service `kubernetes` would need endpoints outside of loopback.
            ("endpoint-reconciler-type", "none".into()),
            ("tls-cert-file", pki("server.crt")),
            ("tls-private-key-file", pki("server.key")),
            ("client-ca-file", pki("ca.crt")),
            ("service-account-key-file", pki("accounts.pub")),
            ("service-account-signing-key-file", pki("accounts.key")),
            ("service-account-issuer", ISSUER.into()),
            ("api-audiences", ISSUER.into()),
            ("kubelet-client-certificate", pki("kubelet-client.crt")),
            ("kubelet-client-key", pki("kubelet-client.key")),
            ("kubelet-certificate-authority", pki("ca.crt")),
            ("authorization-mode", "Node,RBAC".into()),
            ("enable-admission-plugins", "NodeRestriction".into()),
            ("admission-control-config-file", pki("admission.yaml")),
            ("service-cluster-ip-range", "10.96.0.0/16".into()),
            ("allow-privileged", "true".into()),
            ("profiling", "false".into()),
            // Tests do not wait for load balancers.
            ("shutdown-delay-duration", "0s".into()),
        ] {
            command.arg(format!("--{flag}={value}"));
        }
        command.args(&self.settings);
        let process = Process::start("kube-apiserver", &mut command, self.dir());
        *self.server.lock().unwrap() = Some(process);
        self.serves().await;
    }

    /// Kills the API server, as a machine that fails would; etcd goes on.
    pub async fn kill(&self) {
        let process = self.server.lock().unwrap().take();
        process.expect("it runs").kill().await;
    }

    async fn serves(&self) {
        let client = self.client().await;
        let started = Instant::now();
        let mut said = 0;
        loop {
            let request = http::Request::get("/readyz").body(Vec::new()).unwrap();
            if client.request_text(request).await.is_ok() {
                return;
            }
            let lives = self.server.lock().unwrap().as_mut().is_some_and(Process::lives);
            assert!(lives, "kube-apiserver has ended");
            let waited = started.elapsed();
            assert!(waited < START, "kube-apiserver does not serve within {START:?}");
            if waited.as_secs() / 10 > said {
                said = waited.as_secs() / 10;
                eprintln!("waiting for kube-apiserver: {} s", waited.as_secs());
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Starts the controller manager: service accounts, EndpointSlices, owners, Deployments, and all that follows from them.
    pub async fn controllers(&self) {
        let mut command = self.programs.command("kube-controller-manager");
        let key = self.pki("accounts.key");
        command.args([
            "--leader-elect=false",
            "--secure-port=0",
            "--use-service-account-credentials=true",
        ]);
        command.arg(format!(
            "--kubeconfig={}",
            self.pki("controller-manager.kubeconfig").display()
        ));
        command.arg(format!("--service-account-private-key-file={}", key.display()));
        command.arg(format!("--root-ca-file={}", self.pki("ca.crt").display()));
        self.accompany("kube-controller-manager", &mut command);
        let client = self.client().await;
        let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::namespaced(client, "default");
        let started = Instant::now();
        while accounts.get_opt("default").await.unwrap().is_none() {
            assert!(
                started.elapsed() < START,
                "the controllers make no service account within {START:?}"
            );
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Starts the scheduler.
    pub fn scheduler(&self) {
        let mut command = self.programs.command("kube-scheduler");
        command.args(["--leader-elect=false", "--secure-port=0"]);
        command.arg(format!("--kubeconfig={}", self.pki("scheduler.kubeconfig").display()));
        self.accompany("kube-scheduler", &mut command);
    }

    /// Serves what a kubelet serves for port-forwarding, for the pods that [`Self::place`] tells of, and registers the node.
    ///
    /// # Panics
    /// When the program is not ours: no other has this component.
    pub async fn node(&self, name: &str) -> SocketAddr {
        let address = SocketAddr::new(self.subnet.address(253), 10250);
        let mut command = self.programs.own("node");
        command.arg(format!("--listen={address}"));
        command.arg(format!("--tls-cert-file={}", self.pki("node.crt").display()));
        command.arg(format!("--tls-private-key-file={}", self.pki("node.key").display()));
        command.arg(format!("--client-ca-file={}", self.pki("ca.crt").display()));
        command.arg(format!("--pods={}", self.dir().join("pods").display()));
        fs::write(self.dir().join("pods"), "").unwrap();
        self.accompany("node", &mut command);
        self.apply(&format!("{{apiVersion: v1, kind: Node, metadata: {{name: {name}}}}}\n"))
            .await;
        let status = serde_json::json!({"status": {
            "addresses": [{"type": "InternalIP", "address": address.ip().to_string()}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": address.port()}},
            "conditions": [{"type": "Ready", "status": "True", "reason": "Test", "message": ""}],
        }});
        let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(self.client().await);
        let patch = kube::api::Patch::Merge(&status);
        nodes
            .patch_status(name, &kube::api::PatchParams::default(), &patch)
            .await
            .unwrap();
        address
    }

    /// Tells the node where the network of a pod (`namespace/name`) is reached.
    pub fn place(&self, pod: &str, address: std::net::IpAddr) {
        use std::io::Write as _;
        let file = fs::File::options().append(true).open(self.dir().join("pods"));
        writeln!(file.unwrap(), "{pod} {address}").unwrap();
    }

    fn accompany(&self, name: &str, command: &mut Command) {
        let process = Process::start(name, command, self.dir());
        self.companions.lock().unwrap().push(process);
    }

    /// Where its files are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.files.path()
    }

    /// An address of its own /24 of loopback; those from 250 on are taken.
    #[must_use]
    pub fn address(&self, last: u8) -> std::net::IpAddr {
        assert!(last < 250, "taken");
        self.subnet.address(last)
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", server(self.subnet))
    }

    /// A file of its key material: `ca.crt`, …
    #[must_use]
    pub fn pki(&self, name: &str) -> PathBuf {
        self.dir().join("pki").join(name)
    }

    /// A kubeconfig with all rights (`system:masters`).
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.pki("admin.kubeconfig")
    }

    /// A client with all rights.
    pub async fn client(&self) -> Client {
        client(&self.kubeconfig()).await
    }

    /// A kubeconfig of a service account, with a token of its own for the API server.
    pub async fn kubeconfig_of(&self, namespace: &str, account: &str) -> PathBuf {
        let token = self.token(namespace, account, &[], None).await;
        let path = self.dir().join(format!("{namespace}-{account}.kubeconfig"));
        fs::write(
            &path,
            papers::kubeconfig(&self.url(), &self.pki("ca.crt"), &format!("token: {token}")),
        )
        .unwrap();
        path
    }

    /// A client of a service account.
    pub async fn client_of(&self, namespace: &str, account: &str) -> Client {
        client(&self.kubeconfig_of(namespace, account).await).await
    }

    /// A token as the API server makes it for a kubelet: with these audiences (none: the API server's own), bound to a pod
    /// (name and uid) where one is given.
    pub async fn token(&self, namespace: &str, account: &str, audiences: &[&str], pod: Option<(&str, &str)>) -> String {
        let made = token(self.client().await, namespace, account, audiences, pod).await;
        made.unwrap()
    }

    /// Looks at the API server's process.
    pub fn with_server<T>(&self, look: impl FnOnce(&Process) -> T) -> T {
        look(self.server.lock().unwrap().as_ref().expect("it runs"))
    }

    /// Resident memory of etcd, in KiB; for the curious.
    #[must_use]
    pub fn etcd_kib(&self) -> u64 {
        self.etcd.resident_kib()
    }
}

/// The issuer and audience of the API server's own tokens.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

fn server(subnet: Subnet) -> SocketAddr {
    SocketAddr::new(subnet.address(250), 6443)
}

fn etcd_client(subnet: Subnet) -> SocketAddr {
    SocketAddr::new(subnet.address(251), 2379)
}

fn etcd(programs: &Programs, subnet: Subnet, dir: &Path) -> Process {
    let client = format!("http://{}", etcd_client(subnet));
    let peer = format!("http://{}", SocketAddr::new(subnet.address(251), 2380));
    let mut command = programs.command("etcd");
    command.arg(format!("--data-dir={}", dir.join("etcd").display()));
    command.arg(format!("--listen-client-urls={client}"));
    command.arg(format!("--advertise-client-urls={client}"));
    command.arg(format!("--listen-peer-urls={peer}"));
    command.arg(format!("--initial-advertise-peer-urls={peer}"));
    command.arg(format!("--initial-cluster=default={peer}"));
    // What a test writes need not survive the machine.
    command.args(["--unsafe-no-fsync", "--log-level=warn"]);
    Process::start("etcd", &mut command, dir)
}

/// As [`ApiServer::token`], by a client of its own.
///
/// # Errors
/// When the API server makes none: the pod is gone, for one.
pub async fn token(
    client: Client,
    namespace: &str,
    account: &str,
    audiences: &[&str],
    pod: Option<(&str, &str)>,
) -> kube::Result<String> {
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::namespaced(client, namespace);
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: Some(audiences.iter().map(|audience| (*audience).to_owned()).collect()),
            bound_object_ref: pod.map(|(name, uid)| BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(name.to_owned()),
                uid: Some(uid.to_owned()),
            }),
            expiration_seconds: Some(3600),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let made = accounts
        .create_subresource("token", account, &PostParams::default(), &request)
        .await;
    let made: TokenRequest = made?;
    Ok(made.status.unwrap().token.unwrap())
}

/// A client as a kubeconfig says.
pub async fn client(kubeconfig: &Path) -> Client {
    let read = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
    Client::try_from(config.unwrap()).unwrap()
}
