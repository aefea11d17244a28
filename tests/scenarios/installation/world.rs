//! A cluster with the mesh in it.

use std::{
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};
use squire_tests::{ApiServer, Figures, Kubelet, binary, eventually, http, in_time, namespace};
use tokio::{io::AsyncWriteExt as _, process::Command};

/// The namespace of the mesh's own parts.
pub(super) const SYSTEM: &str = "squire-system";

/// A cluster with one node, and the mesh installed.
pub(super) struct Installed {
    pub(super) node: Kubelet,
    pub(super) api: ApiServer,
    pub(super) client: Client,
    values: std::path::PathBuf,
    /// From the first object applied until every replica was available.
    pub(super) ready_in: Duration,
}

/// Runs `squire` to its end.
pub(super) async fn squire(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(binary("squire"));
    command.args(arguments).kill_on_drop(true);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    tokio::spawn(async move { stdin.write_all(input.as_bytes()).await });
    in_time(&format!("squire {arguments:?}"), child.wait_with_output())
        .await
        .unwrap()
}

/// What `squire` prints, if it succeeds.
pub(super) async fn printed(arguments: &[&str]) -> String {
    let output = squire(arguments, "").await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

impl Installed {
    /// `squire install | kubectl apply -f -` in a new cluster; none where there cannot be one.
    pub(super) async fn new() -> Option<Self> {
        Self::with(|_| String::new()).await
    }

    /// As [`Self::new`], with the values that this makes of the cluster.
    pub(super) async fn with(values: impl FnOnce(&ApiServer) -> String) -> Option<Self> {
        if !namespace::possible() {
            return None;
        }
        // There is no kube-proxy for the API server itself: it looks up a Service's endpoints.
        let api = ApiServer::start_with(&["--enable-aggregator-routing=true"]).await?;
        api.controllers().await;
        api.scheduler();
        let node = Kubelet::start(&api, "node-1", &[("squire-control", SYSTEM, 15012)]).await;
        let client = api.client().await;
        let mut installed = Self {
            values: api.dir().join("values.yaml"),
            node,
            api,
            client,
            ready_in: Duration::ZERO,
        };
        std::fs::write(&installed.values, values(&installed.api)).unwrap();
        let manifests = installed.manifests().await;
        let begun = Instant::now();
        installed.api.apply(&manifests).await;
        installed.available("squire-control", 2).await;
        installed.available("squire-injector", 2).await;
        eventually("the webhook has its caBundle", async || {
            let bundle = installed.webhook().await["webhooks"][0]["clientConfig"]["caBundle"].clone();
            bundle.as_str().filter(|bundle| !bundle.is_empty()).map(|_| ())
        })
        .await;
        installed.ready_in = begun.elapsed();
        Some(installed)
    }

    /// What `squire install` prints for these values.
    pub(super) async fn manifests(&self) -> String {
        printed(&["install", "--values", self.values.to_str().unwrap()]).await
    }

    /// Waits until so many replicas of a Deployment of ours are available.
    pub(super) async fn available(&self, name: &str, replicas: i32) {
        let api: Api<k8s_openapi::api::apps::v1::Deployment> = Api::namespaced(self.client.clone(), SYSTEM);
        eventually(&format!("{replicas} of {name} are available"), async || {
            let status = api.get(name).await.ok()?.status?;
            let counted = (status.available_replicas.unwrap_or(0), status.replicas.unwrap_or(0));
            (counted == (replicas, replicas)).then_some(())
        })
        .await;
    }

    pub(super) async fn webhook(&self) -> Value {
        self.json(&["get", "mutatingwebhookconfiguration", "squire-injector"])
            .await
    }

    /// kubectl with all rights.
    pub(super) async fn kubectl(&self, arguments: &[&str]) -> String {
        self.api.kubectl_succeeds(arguments, "").await
    }

    pub(super) async fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.kubectl(&[arguments, &["-o", "json"]].concat()).await).unwrap()
    }

    /// A namespace with the service account that controllers make; meshed by its label.
    pub(super) async fn namespace(&self, name: &str, meshed: bool) {
        self.kubectl(&["create", "namespace", name]).await;
        if meshed {
            self.kubectl(&["label", "namespace", name, "squire.mesh/inject=true"])
                .await;
        }
        let api: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::namespaced(self.client.clone(), name);
        eventually("the namespace has its service account", async || {
            api.get_opt("default").await.ok().flatten().map(|_| ())
        })
        .await;
    }

    /// What a pod would become: through every admission plugin and the webhook, and nothing is made of it.
    pub(super) async fn admitted(&self, namespace: &str, pod: Value) -> Result<Value, String> {
        admitted(&self.client, namespace, pod).await
    }

    /// Makes a pod by kubectl; what kubectl says of it.
    pub(super) async fn create(
        &self,
        namespace: &str,
        name: &str,
        annotations: Value,
        spec: Value,
    ) -> Result<String, String> {
        let metadata = json!({"name": name, "namespace": namespace, "annotations": annotations});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        let output = self.api.kubectl(&["create", "-f", "-"], &pod.to_string()).await;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            Ok(errors)
        } else {
            Err(errors)
        }
    }

    /// Removes a pod without waiting for anybody.
    pub(super) async fn remove(&self, namespace: &str, name: &str) {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        api.delete(name, &DeleteParams::default().grace_period(0))
            .await
            .unwrap();
    }

    /// Pods with this label, by name.
    pub(super) async fn pods(&self, namespace: &str, label: &str) -> Vec<Value> {
        let list = self.json(&["-n", namespace, "get", "pods", "-l", label]).await;
        list["items"].as_array().unwrap().clone()
    }

    /// A figure, summed over the replicas of a component.
    pub(super) async fn figure(&self, container: &str, port: u16, name: &str, labels: &[(&str, &str)]) -> f64 {
        let mut sum = 0.0;
        for (pod, _) in self.node.processes(container) {
            let Some(address) = self.node.address(&pod) else {
                continue;
            };
            if let Ok((200, page)) = http::get((address, port).into(), "/metrics").await {
                sum += Figures::new(page).sum(name, labels);
            }
        }
        sum
    }
}

/// Exit code and findings of `squire check`.
pub(super) async fn checked(installed: &Installed, more: &[&str]) -> (Option<i32>, Value) {
    let kubeconfig = installed.api.kubeconfig().display().to_string();
    let arguments = [&["check", "--kubeconfig", &kubeconfig, "-o", "json"], more].concat();
    let output = squire(&arguments, "").await;
    let findings = serde_json::from_slice(&output.stdout);
    (
        output.status.code(),
        findings.unwrap_or_else(|error| panic!("{error}: {output:?}")),
    )
}

/// As [`Installed::admitted`], for tasks of their own.
pub(super) async fn admitted(client: &Client, namespace: &str, pod: Value) -> Result<Value, String> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let made = api.create(&params, &pod).await.map_err(|error| error.to_string())?;
    Ok(serde_json::to_value(made).unwrap())
}

/// What begins the command of an application in Python, in a container that has [`python`]: nothing of this machine's own
/// packages gets in its way.
pub(super) const PYTHON: [&str; 3] = ["/interpreter/bin/python3", "-S", "-c"];

/// Interpreter and packages of an application in Python, as an image would bring them, as fields of a pod's container
/// (`env`, `volumeMounts`) and the pod's volumes.
pub(super) async fn python() -> (Value, Value) {
    let packages = std::env::var("SQUIRE_TEST_PYTHONPATH").expect("SQUIRE_TEST_PYTHONPATH is not set: use tests/run");
    let mut command = Command::new("python3");
    command.args(["-c", "import sys; print(sys.base_prefix, end='')"]);
    let output = in_time("python3", command.output()).await.unwrap();
    let prefix = String::from_utf8(output.stdout).unwrap();
    let container = json!({
        "env": [
            {"name": "PYTHONPATH", "value": "/packages"}, {"name": "PYTHONHOME", "value": "/interpreter"},
            {"name": "LD_LIBRARY_PATH", "value": "/interpreter/lib"},
        ],
        "volumeMounts": [
            {"name": "packages", "mountPath": "/packages", "readOnly": true},
            {"name": "interpreter", "mountPath": "/interpreter", "readOnly": true},
        ],
    });
    let volumes = json!([
        {"name": "packages", "hostPath": {"path": packages}},
        {"name": "interpreter", "hostPath": {"path": prefix}},
    ]);
    (container, volumes)
}

/// Names of a pod's init containers.
pub(super) fn inits(pod: &Value) -> Vec<&str> {
    let list = pod["spec"]["initContainers"].as_array().into_iter().flatten();
    list.map(|container| container["name"].as_str().unwrap()).collect()
}
