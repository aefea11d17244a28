//! The mesh of the scale figures: as many pods as there are proxies, in a directory of ordinary objects, and the changes that are made to it
//! while the proxies watch. Each file is replaced whole, as an editor or a syncing tool would.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

/// Pods of one file and namespace; a change of one pod rewrites that many.
const IN_A_NAMESPACE: usize = 250;
/// Service accounts of a namespace.
const ACCOUNTS: usize = 10;
/// Policies that each concern the pods of one account in one namespace.
const POLICIES: usize = 100;

/// A pod's name, account and namespace, by number.
pub(super) struct Pod(pub(super) usize);

impl Pod {
    fn namespace(&self) -> String {
        namespace_name(self.0 / IN_A_NAMESPACE)
    }

    fn account(&self) -> String {
        format!("app-{}", self.0 % ACCOUNTS)
    }

    fn name(&self) -> String {
        format!("p-{}", self.0)
    }

    /// `namespace/name`, as its sidecar is configured.
    pub(super) fn workload(&self) -> String {
        format!("{}/{}", self.namespace(), self.name())
    }

    /// `system:serviceaccount:namespace:name`, as the subject of a token.
    pub(super) fn subject(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace(), self.account())
    }

    fn address(&self) -> String {
        format!("10.{}.{}.{}", self.0 / 62_500, self.0 / 250 % 250, self.0 % 250 + 1)
    }

    fn object(&self, turn: usize) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": self.name(), "namespace": self.namespace(),
                "labels": {"app": self.account(), "turn": turn.to_string()},
                "annotations": {"squire.mesh/transport": "squire"},
            },
            "spec": {"serviceAccountName": self.account(), "containers": [{"name": "app", "image": "app"}]},
            "status": {"phase": "Running", "podIP": self.address()},
        })
    }
}

/// A directory of objects.
pub(super) struct Mesh {
    dir: PathBuf,
    pods: usize,
}

impl Mesh {
    /// Writes the objects of that many pods.
    pub(super) fn write(dir: &Path, pods: usize) -> Result<Self> {
        let mesh = Self {
            dir: dir.join("mesh"),
            pods,
        };
        fs::create_dir_all(&mesh.dir)?;
        for number in 0..pods.div_ceil(IN_A_NAMESPACE) {
            mesh.write_namespace(number, None, 0)?;
        }
        let policies: Vec<Value> = (0..POLICIES).map(|number| mesh.policy(number)).collect();
        mesh.replace("policies", &policies)?;
        mesh.change_policy_of_all(0)?;
        mesh.change_policy_of_one(0)?;
        Ok(mesh)
    }

    /// Where the objects are.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// One pod gets another label.
    pub(super) fn change_pod(&self, pod: usize, turn: usize) -> Result<()> {
        self.write_namespace(pod / IN_A_NAMESPACE, Some(pod), turn)
    }

    /// A policy that concerns every workload lets in somebody else than before.
    pub(super) fn change_policy_of_all(&self, turn: usize) -> Result<()> {
        let policy = json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": "everybody", "namespace": "istio-system"},
            "spec": {"rules": [{"from": [{"source": {"principals": [format!("cluster.local/ns/ops/sa/turn-{turn}")]}}]}]},
        });
        self.replace("everybody", &[policy])
    }

    /// A policy that concerns one account's pods of one namespace changes.
    pub(super) fn change_policy_of_one(&self, turn: usize) -> Result<()> {
        let policy = json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": "one", "namespace": namespace_name(0)},
            "spec": {
                "selector": {"matchLabels": {"app": "app-0"}},
                "rules": [{"from": [{"source": {"principals": [format!("cluster.local/ns/ops/sa/turn-{turn}")]}}]}],
            },
        });
        self.replace("one", &[policy])
    }

    /// How many proxies a change of [`Self::change_policy_of_one`] concerns.
    pub(super) fn concerned_by_one(&self) -> usize {
        self.pods.min(IN_A_NAMESPACE).div_ceil(ACCOUNTS)
    }

    fn write_namespace(&self, number: usize, changed: Option<usize>, turn: usize) -> Result<()> {
        let name = namespace_name(number);
        let mut items = vec![json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})];
        let first = number * IN_A_NAMESPACE;
        items.extend(
            (first..(first + IN_A_NAMESPACE).min(self.pods))
                .map(|pod| Pod(pod).object(if changed == Some(pod) { turn } else { 0 })),
        );
        self.replace(&name, &items)
    }

    fn policy(&self, number: usize) -> Value {
        let namespaces = self.pods.div_ceil(IN_A_NAMESPACE);
        let namespace = namespace_name(number % namespaces);
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": format!("policy-{number}"), "namespace": namespace},
            "spec": {
                "podSelector": {"matchLabels": {"app": format!("app-{}", number % ACCOUNTS)}},
                "policyTypes": ["Ingress"],
                "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": format!("app-{}", (number + 1) % ACCOUNTS)}}}]}],
            },
        })
    }

    fn replace(&self, name: &str, items: &[Value]) -> Result<()> {
        let text = serde_json::to_vec(&json!({"apiVersion": "v1", "kind": "List", "items": items}))?;
        let written = self.dir.join(format!(".{name}.part"));
        fs::write(&written, text)?;
        fs::rename(written, self.dir.join(format!("{name}.json")))?;
        Ok(())
    }
}

fn namespace_name(number: usize) -> String {
    format!("team-{number}")
}
