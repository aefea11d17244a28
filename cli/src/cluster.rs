//! Reaching the parts of a running cluster as `kubectl port-forward` does: through its API server, with the rights of the
//! caller's kubeconfig. It finds pods and opens streams to their ports; what is asked there, others ask.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::ListParams};
use squire_control::source::kubernetes::Access;
use squire_mesh::ports;

use crate::fetch::Endpoint;

/// Which cluster, and where in it the control plane is.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ClusterArgs {
    /// Ask the control plane of a cluster, through its API server
    #[arg(long, help_heading = "Kubernetes")]
    kubernetes: bool,
    /// How to reach the cluster [default: KUBECONFIG, or ~/.kube/config]
    #[arg(long, value_name = "FILE", requires = "kubernetes", help_heading = "Kubernetes")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME", requires = "kubernetes", help_heading = "Kubernetes")]
    context: Option<String>,
    /// Namespace of the control plane
    #[arg(long, value_name = "NAME", default_value = ports::SYSTEM_NAMESPACE, help_heading = "Kubernetes")]
    control_namespace: String,
}

impl ClusterArgs {
    /// Whether a cluster is asked for.
    pub(crate) fn is_asked_for(&self) -> bool {
        self.kubernetes
    }

    /// A client of its API server, and the namespace of the control plane.
    pub(crate) async fn client(&self) -> anyhow::Result<(Client, &str)> {
        let access = Access {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
        };
        Ok((access.client().await?, &self.control_namespace))
    }

    /// The admin endpoint of a control plane that is ready; none where no cluster is asked for.
    pub(crate) async fn control(&self) -> anyhow::Result<Option<Endpoint>> {
        if !self.kubernetes {
            return Ok(None);
        }
        let (client, namespace) = self.client().await?;
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let selector = format!("app.kubernetes.io/name={}", ports::CONTROL_ACCOUNT);
        let listed = pods.list(&ListParams::default().labels(&selector)).await;
        let listed =
            listed.with_context(|| format!("the control plane's pods in namespace {namespace} cannot be listed"))?;
        let found = listed.items.len();
        let Some(pod) = listed.items.into_iter().find(is_ready) else {
            if found == 0 {
                bail!(
                    "no pod labelled {selector} in namespace {namespace}: is Squire installed there? See `squire check`, or name its namespace with --control-namespace"
                );
            }
            bail!(
                "none of the {found} control planes in namespace {namespace} is ready: see `kubectl -n {namespace} get pods`"
            );
        };
        let name = pod.metadata.name.ok_or_else(|| anyhow!("a pod without a name"))?;
        Ok(Some(Endpoint::pod(client, namespace, &name, ports::CONTROL_ADMIN)))
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref());
    let mut conditions = conditions.unwrap_or_default().iter();
    pod.metadata.deletion_timestamp.is_none()
        && conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// A port of a pod.
#[derive(Clone)]
pub(crate) struct PodPort {
    client: Client,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) port: u16,
}

impl PodPort {
    pub(crate) fn new(client: Client, namespace: &str, name: &str, port: u16) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            port,
        }
    }

    /// Another pod of the same cluster.
    pub(crate) fn beside(&self, namespace: &str, name: &str, port: u16) -> Self {
        Self::new(self.client.clone(), namespace, name, port)
    }

    /// Opens a stream to it, which lasts as long as the forwarder beside it.
    pub(crate) async fn open(
        &self,
    ) -> anyhow::Result<(
        impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + use<>,
        kube::api::Portforwarder,
    )> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut forwarder = pods.portforward(&self.name, &[self.port]).await?;
        let stream = forwarder.take_stream(self.port);
        let stream = stream.ok_or_else(|| anyhow!("the API server opened no stream"))?;
        Ok((stream, forwarder))
    }
}

impl PartialEq for PodPort {
    fn eq(&self, other: &Self) -> bool {
        (&self.namespace, &self.name, self.port) == (&other.namespace, &other.name, other.port)
    }
}

impl Eq for PodPort {}

impl std::fmt::Debug for PodPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::fmt::Display for PodPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "pod/{}/{}:{}", self.namespace, self.name, self.port)
    }
}
