//! The files of the demo, in a directory of its own: the Kubernetes objects that describe the mesh, and what each sidecar
//! is given at its start. A live edit replaces a file as a whole. It starts nothing.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::{
    place::Place,
    workload::{NAMESPACE, TRUST_DOMAIN, Workload},
};

/// The directory of one demo; removed with the value, unless kept.
#[derive(Debug)]
pub(super) struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    /// An empty directory below the system's one for temporary files.
    pub(super) fn create() -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("squire-demo-").tempdir();
        let files = Self {
            dir: dir.context("no temporary directory could be made; check TMPDIR")?,
        };
        for path in [files.mesh(), files.logs()] {
            fs::create_dir(&path).with_context(|| path.display().to_string())?;
        }
        Ok(files)
    }

    /// The objects that the control plane reads.
    pub(super) fn mesh(&self) -> PathBuf {
        self.dir.path().join("mesh")
    }

    /// The CA's keys and state.
    pub(super) fn ca(&self) -> PathBuf {
        self.dir.path().join("ca")
    }

    /// What every process writes.
    pub(super) fn logs(&self) -> PathBuf {
        self.dir.path().join("logs")
    }

    /// The log of a process.
    pub(super) fn log(&self, process: &str) -> PathBuf {
        self.logs().join(format!("{process}.log"))
    }

    /// The access log of a sidecar.
    pub(super) fn access_log(&self, workload: Workload) -> PathBuf {
        self.logs().join(format!("{workload}-access.jsonl"))
    }

    /// The roots that sidecars start with.
    pub(super) fn trust_bundle(&self) -> PathBuf {
        self.dir.path().join("root.pem")
    }

    /// The join token of a workload.
    pub(super) fn token(&self, workload: Workload) -> PathBuf {
        self.dir.path().join(format!("{workload}.token"))
    }

    /// The configuration of a sidecar.
    pub(super) fn sidecar(&self, workload: Workload) -> PathBuf {
        self.dir.path().join(format!("{workload}-proxy.yaml"))
    }

    /// The policy that is edited live.
    pub(super) fn policy(&self) -> PathBuf {
        self.mesh().join("db-allow-services.yaml")
    }

    /// Writes the objects: who exists, and who may do what.
    pub(super) fn write_mesh(&self, place: &Place) -> anyhow::Result<()> {
        write(&self.mesh().join("workloads.yaml"), &workloads(place))?;
        write(&self.mesh().join("default-deny.yaml"), DEFAULT_DENY)?;
        self.write_policy(place, &[Workload::Web, Workload::Api])
    }

    /// Says who may reach `db`; each in a rule of its own.
    pub(super) fn write_policy(&self, place: &Place, allowed: &[Workload]) -> anyhow::Result<()> {
        write(&self.policy(), &policy(place, allowed))
    }

    /// Writes the configuration of a sidecar.
    pub(super) fn write_sidecar(&self, place: &Place, workload: Workload) -> anyhow::Result<()> {
        write(&self.sidecar(workload), &self.sidecar_config(place, workload))
    }

    fn sidecar_config(&self, place: &Place, workload: Workload) -> String {
        let mut config = format!(
            "workload: {uid}\n\
             trustDomain: {TRUST_DOMAIN}\n\
             trustBundle: {bundle}\n\
             token: {token}\n\
             control: {control}\n\
             admin: {admin}\n\
             accessLog: {access_log}\n\
             drain:\n  grace: 200ms\n\
             inbound:\n- listen: {pod}\n  app: {app}\n",
            uid = workload.uid(),
            bundle = quoted(&self.trust_bundle()),
            token = quoted(&self.token(workload)),
            control = place.control(),
            admin = place.admin(workload),
            access_log = quoted(&self.access_log(workload)),
            pod = place.pod(workload),
            app = place.app(workload),
        );
        if workload != Workload::Db {
            config.push_str(&format!(
                "outbound:\n- listen: {}\n  to: db.{NAMESPACE}:{}\n",
                place.outbound(workload),
                place.db_port()
            ));
        }
        config
    }

    /// Writes a file that only its owner can read.
    pub(super) fn write_secret(path: &Path, text: &str) -> anyhow::Result<()> {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .with_context(|| path.display().to_string())?;
        file.write_all(text.as_bytes())
            .with_context(|| path.display().to_string())
    }

    /// Leaves the logs where they are, without the CA's keys. Where they are.
    pub(super) fn keep_logs(self) -> PathBuf {
        let logs = self.logs();
        let ca = self.ca();
        let dir = self.dir.keep();
        let _ = fs::remove_dir_all(ca);
        debug_assert!(logs.starts_with(dir));
        logs
    }
}

/// Replaces a file as a whole: whoever reads it sees the old or the new text.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    // No reader of objects looks at a name that ends so.
    let aside = path.with_extension("new");
    fs::write(&aside, text)
        .and_then(|()| fs::rename(&aside, path))
        .with_context(|| format!("{}: cannot be written", path.display()))
}

/// A path as a YAML scalar: JSON strings are one.
fn quoted(path: &Path) -> String {
    serde_json::Value::from(path.display().to_string()).to_string()
}

const DEFAULT_DENY: &str = "\
# Mutual TLS only, and nobody may do anything, until a policy says otherwise.
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec:
  mtls: {mode: STRICT}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow-nothing, namespace: shop}
spec: {}
";

fn policy(place: &Place, allowed: &[Workload]) -> String {
    let rules: String = allowed
        .iter()
        .map(|workload| {
            format!(
                "  - from:\n    - source:\n        principals: [{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/{workload}]\n    \
                 to:\n    - operation:\n        ports: [\"{}\"]\n",
                place.db_port()
            )
        })
        .collect();
    format!(
        "# Who may reach db. Edit it while traffic flows.\n\
         apiVersion: security.istio.io/v1\n\
         kind: AuthorizationPolicy\n\
         metadata: {{name: db-allow-services, namespace: {NAMESPACE}}}\n\
         spec:\n  selector:\n    matchLabels: {{app: db}}\n  action: ALLOW\n  rules:\n{rules}"
    )
}

fn workloads(place: &Place) -> String {
    let mut text = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n");
    for workload in Workload::ALL {
        text.push_str(&format!(
            "---\n\
             apiVersion: v1\n\
             kind: Pod\n\
             metadata:\n  name: {workload}\n  namespace: {NAMESPACE}\n  labels: {{app: {workload}}}\n  \
             annotations: {{squire.mesh/injected: \"true\"}}\n\
             spec:\n  serviceAccountName: {workload}\n  containers:\n  - name: {workload}\n    image: squire-demo\n    \
             ports: [{{name: tcp-app, containerPort: {port}}}]\n\
             status:\n  phase: Running\n  podIP: {ip}\n",
            port = place.pod(workload).port(),
            ip = place.pod_ip(workload),
        ));
    }
    text.push_str(&format!(
        "---\n\
         apiVersion: v1\n\
         kind: Service\n\
         metadata: {{name: db, namespace: {NAMESPACE}}}\n\
         spec:\n  clusterIP: None\n  selector: {{app: db}}\n  ports: [{{name: tcp-db, port: {port}, targetPort: {port}}}]\n",
        port = place.db_port(),
    ));
    text
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn documents(text: &str) -> Vec<Value> {
        text.split("---\n")
            .map(|document| serde_yaml_ng::from_str(document).unwrap())
            .collect()
    }

    #[test]
    fn the_objects_are_yaml_and_name_every_workload() {
        let place = Place::claim().unwrap();
        let objects = documents(&workloads(&place));
        assert_eq!(objects.len(), 2 + Workload::ALL.len());
        for workload in Workload::ALL {
            let pod = objects
                .iter()
                .find(|o| o["kind"] == "Pod" && o["metadata"]["name"] == workload.name());
            assert_eq!(pod.unwrap()["status"]["podIP"], place.pod_ip(workload).to_string());
        }
        assert_eq!(documents(DEFAULT_DENY).len(), 2);
    }

    #[test]
    fn the_policy_has_one_rule_for_each_who_is_allowed() {
        let place = Place::claim().unwrap();
        let object = &documents(&policy(&place, &[Workload::Web]))[0];
        let rules = object["spec"]["rules"].as_array().unwrap();
        assert_eq!(rules.len(), 1);
        assert_eq!(
            rules[0]["from"][0]["source"]["principals"][0],
            "cluster.local/ns/shop/sa/web"
        );
        assert_eq!(rules[0]["to"][0]["operation"]["ports"][0], place.db_port().to_string());
    }

    #[test]
    fn sidecars_of_clients_have_a_way_out_and_db_has_none() {
        let (place, files) = (Place::claim().unwrap(), Files::create().unwrap());
        let read = |workload| documents(&files.sidecar_config(&place, workload)).remove(0);
        assert_eq!(
            read(Workload::Web)["outbound"][0]["to"],
            format!("db.shop:{}", place.db_port())
        );
        assert!(read(Workload::Db)["outbound"].is_null());
        assert_eq!(
            read(Workload::Db)["inbound"][0]["listen"],
            place.pod(Workload::Db).to_string()
        );
    }

    #[test]
    fn logs_can_outlive_the_demo_but_keys_cannot() {
        let files = Files::create().unwrap();
        fs::create_dir(files.ca()).unwrap();
        fs::write(files.log("db"), "line").unwrap();
        let ca = files.ca();
        let logs = files.keep_logs();
        assert!(logs.join("db.log").exists() && !ca.exists());
        fs::remove_dir_all(logs.parent().unwrap()).unwrap();
    }
}
