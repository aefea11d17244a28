//! A cluster with a namespace `shop`, and replicas of the control plane beside it.

use std::net::SocketAddr;

use squire_tests::{ApiServer, Figures, Mesh, Process, Sidecar, apps, binary, eventually, http, kubernetes};
use tokio::{net::TcpStream, process::Command};

/// The control plane's namespace.
pub(super) const SYSTEM: &str = "squire-system";
/// What the CA's tokens are made for.
pub(super) const AUDIENCE: &str = "squire-ca";

/// An API server, and a mesh whose sidecars run here.
pub(super) struct World {
    pub(super) api: ApiServer,
    pub(super) mesh: Mesh,
}

/// One replica of the control plane.
pub(super) struct Replica {
    pub(super) process: Process,
    pub(super) admin: SocketAddr,
}

impl World {
    /// With namespaces, service accounts and the CRDs of all kinds; none where there is no API server.
    pub(super) async fn new() -> Option<Self> {
        Self::with(&kubernetes::crds()).await
    }

    /// With these objects besides.
    pub(super) async fn with(objects: &str) -> Option<Self> {
        let api = ApiServer::start().await?;
        let mut yaml = String::new();
        for namespace in [SYSTEM, "shop"] {
            yaml += &format!(
                "---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}, labels: {{team: a}}}}}}\n"
            );
        }
        for account in ["web", "db", "batch"] {
            yaml += &format!(
                "---\n{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {account}, namespace: shop}}}}\n"
            );
        }
        api.apply(&format!("{yaml}{objects}")).await;
        let mesh = Mesh::new();
        Some(Self { api, mesh })
    }

    /// Starts the one control plane of this mesh, and waits until it is ready.
    pub(super) async fn control(&self) -> Replica {
        let kubeconfig = self.api.kubeconfig();
        let replica = self.replica("control-0", self.mesh.grpc(), self.mesh.admin(), &kubeconfig);
        replica.ready().await;
        replica
    }

    /// Starts a control plane.
    pub(super) fn replica(
        &self,
        name: &str,
        grpc: SocketAddr,
        admin: SocketAddr,
        kubeconfig: &std::path::Path,
    ) -> Replica {
        let mut command = Command::new(binary("squire"));
        command.args(["control", "--kubernetes", "--lease-seconds", "4", "--replica", name]);
        command.arg("--kubeconfig").arg(kubeconfig);
        command.args(["--grpc", &grpc.to_string(), "--admin", &admin.to_string()]);
        Replica {
            process: Process::start(name, &mut command, self.mesh.dir()),
            admin,
        }
    }

    /// Makes a pod as its owner, the scheduler and the kubelet would, with the address that its sidecar has here. Its uid.
    pub(super) async fn pod(&self, name: &str, account: &str, labels: &str) -> String {
        let yaml = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop, labels: {{app: {account}, {labels}}}, \
             annotations: {{squire.mesh/transport: squire}}}}, spec: {{nodeName: node-1, serviceAccountName: {account}, containers: [{{name: \
             app, image: app}}]}}}}\n"
        );
        self.api.apply(&yaml).await;
        let status = format!(
            r#"{{"status":{{"phase":"Running","podIP":"{ip}","podIPs":[{{"ip":"{ip}"}}],"conditions":[{{"type":"Ready","status":"True"}}]}}}}"#,
            ip = self.mesh.address(name)
        );
        let patch = [
            "patch",
            "pod",
            name,
            "-n",
            "shop",
            "--subresource=status",
            "--type=merge",
            "-p",
            &status,
        ];
        self.api.kubectl_succeeds(&patch, "").await;
        self.uid(name).await
    }

    pub(super) async fn uid(&self, pod: &str) -> String {
        let arguments = ["get", "pod", pod, "-n", "shop", "-o", "jsonpath={.metadata.uid}"];
        self.api.kubectl_succeeds(&arguments, "").await
    }

    /// The token that a kubelet would put into a pod.
    pub(super) async fn token(&self, pod: &str, account: &str) -> String {
        let uid = self.uid(pod).await;
        self.api.token("shop", account, &[AUDIENCE], Some((pod, &uid))).await
    }

    /// The sidecar of a pod that is there, with a token of its own; it serves `app`, and reaches these targets.
    pub(super) async fn sidecar(&self, pod: &str, account: &str, app: Option<&apps::App>, reaches: &[&str]) -> Sidecar {
        let token = self.token(pod, account).await;
        let (_, bundle) = http::get(self.mesh.admin(), "/ca/bundle").await.unwrap();
        let mut sidecar = self.mesh.pod(pod).token(&token).trusts(&bundle);
        if let Some(app) = app {
            sidecar = sidecar.serves(5432, app.address());
        }
        for target in reaches {
            sidecar = sidecar.reaches(target);
        }
        sidecar.start().await
    }

    /// kubectl with all rights.
    pub(super) async fn kubectl(&self, arguments: &[&str]) -> String {
        self.api.kubectl_succeeds(arguments, "").await
    }
}

impl Replica {
    /// Waits until it is ready.
    pub(super) async fn ready(&self) {
        eventually("the control plane is ready", async || {
            let answer = http::get(self.admin, "/ready").await.ok()?;
            (answer.0 == 200).then_some(())
        })
        .await;
    }

    /// A page of its admin endpoint.
    pub(super) async fn page(&self, path: &str) -> String {
        http::get(self.admin, path).await.unwrap().1
    }

    /// The sum of a metric.
    pub(super) async fn figure(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        Figures::new(self.page("/metrics").await).sum(name, labels)
    }

    /// Waits until what is wrong is told with these words, or until nothing is with none.
    pub(super) async fn problems(&self, words: &[&str]) {
        eventually(&format!("/debug/problems says {words:?}"), async || {
            let page: serde_json::Value = serde_json::from_str(&self.page("/debug/problems").await).ok()?;
            let problems = page["problems"].as_array()?;
            let errors: Vec<_> = problems
                .iter()
                .filter(|problem| problem["severity"] == "error")
                .collect();
            let told = errors
                .iter()
                .any(|problem| words.iter().all(|word| problem.to_string().contains(word)));
            (if words.is_empty() { errors.is_empty() } else { told }).then_some(())
        })
        .await;
    }
}

/// Waits until the sidecar's application gets through to a target.
pub(super) async fn gets_through(sidecar: &Sidecar, target: &str) -> TcpStream {
    eventually("it gets through", async || apps::echoes(sidecar.to(target)).await.ok()).await
}

/// Waits until it does not.
pub(super) async fn is_kept_out(sidecar: &Sidecar, target: &str) {
    eventually("it is kept out", async || apps::echoes(sidecar.to(target)).await.err()).await;
}
