//! The same patch without a cluster: objects as YAML or JSON in, the same objects with sidecars out. What is not a workload
//! passes as it is.

use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::{
    inject::{Cluster, Verdict, decide},
    owner::Owner,
    settings::Settings,
};

/// Objects with sidecars, and what to tell about each.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// A stream of YAML documents.
    pub yaml: String,
    /// One line for each object that something is to be said about.
    pub remarks: Vec<String>,
}

/// Why a stream of objects cannot be injected.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfflineError {
    /// Not YAML.
    #[error("document {0}: {1}")]
    Yaml(usize, String),
    /// An object that must not be created so; every one of them.
    #[error("{}", .0.join("\n"))]
    Denied(Vec<String>),
}

/// Injects into every Pod and every workload's template.
///
/// # Errors
/// When the text is not YAML, or an object cannot have a sidecar.
pub fn inject(text: &str, settings: &Settings) -> Result<Output, OfflineError> {
    let (mut output, mut denied) = (Output::default(), Vec::new());
    for (index, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
        let wrong = |error: &dyn std::fmt::Display| OfflineError::Yaml(index + 1, error.to_string());
        let mut object = Value::deserialize(document).map_err(|error| wrong(&error))?;
        if object.is_null() {
            continue;
        }
        let list = object["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
        match object.get_mut("items").and_then(Value::as_array_mut).filter(|_| list) {
            Some(items) => items
                .iter_mut()
                .for_each(|item| one(item, settings, &mut output.remarks, &mut denied)),
            None => one(&mut object, settings, &mut output.remarks, &mut denied),
        }
        let yaml = serde_yaml_ng::to_string(&object).map_err(|error| wrong(&error))?;
        output.yaml += &format!("---\n{yaml}");
    }
    if denied.is_empty() {
        Ok(output)
    } else {
        Err(OfflineError::Denied(denied))
    }
}

/// Where the pod of a workload stands in it.
fn template(kind: &str) -> Option<&'static str> {
    match kind {
        "Pod" => Some(""),
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job" => Some("/spec/template"),
        "CronJob" => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

fn one(object: &mut Value, settings: &Settings, remarks: &mut Vec<String>, denied: &mut Vec<String>) {
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    let name = format!(
        "{kind} {}",
        object["metadata"]["name"].as_str().unwrap_or("without a name")
    );
    let Some(pod) = template(&kind).and_then(|pointer| object.pointer_mut(pointer)) else {
        return;
    };
    if let Some(pod) = pod.as_object_mut() {
        let metadata = pod.entry("metadata").or_insert_with(|| json!({}));
        if metadata.is_null() {
            *metadata = json!({});
        }
    }
    let fields = json!({"metadata": pod["metadata"], "spec": pod["spec"]});
    let typed: Pod = match serde_json::from_value(fields) {
        Ok(typed) => typed,
        Err(error) => return denied.push(format!("{name}: {error}")),
    };
    // Offline, any cluster is new enough: the webhook and `squire check` look at the real one.
    match decide(&typed, Owner::named(&kind), &Cluster { minor: u32::MAX }, settings) {
        Err(denial) => denied.push(format!("{name}: {denial}")),
        Ok(decision) => {
            remarks.extend(decision.warnings.iter().map(|warning| format!("{name}: {warning}")));
            if let Err(error) = json_patch::patch(pod, &decision.patch) {
                return denied.push(format!("{name}: {error}"));
            }
            remarks.push(match decision.verdict {
                Verdict::Injected => format!("{name}: has a sidecar now"),
                Verdict::Unchanged => format!("{name}: has its sidecar already"),
                Verdict::Skipped(skip) => format!("{name}: left as it is: {skip}"),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: None}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: web:1}]}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly}
spec: {jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: run}]}}}}}
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Pod, metadata: {name: bare}, spec: {containers: [{name: bare}]}}
";

    fn objects(yaml: &str) -> Vec<Value> {
        serde_yaml_ng::Deserializer::from_str(yaml)
            .map(|document| Value::deserialize(document).unwrap())
            .collect()
    }

    #[test]
    fn every_workload_of_a_stream_gets_a_sidecar_and_everything_else_passes() {
        let output = inject(STREAM, &Settings::default()).unwrap();
        let objects = objects(&output.yaml);
        assert_eq!(objects[0]["spec"], json!({"clusterIP": "None"}));
        for pod in [
            &objects[1]["spec"]["template"],
            &objects[2]["spec"]["jobTemplate"]["spec"]["template"],
            &objects[3]["items"][0],
        ] {
            assert_eq!(pod["spec"]["initContainers"][1]["name"], "squire-proxy", "{pod}");
        }
        assert_eq!(
            objects[2]["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]["squire.mesh/owner-kind"],
            "CronJob"
        );
        assert_eq!(output.remarks.len(), 3, "{:?}", output.remarks);
        let again = inject(&output.yaml, &Settings::default()).unwrap();
        assert_eq!(again.yaml, output.yaml, "again changes nothing");
        assert!(
            again.remarks.iter().all(|remark| remark.contains("already")),
            "{:?}",
            again.remarks
        );
    }

    #[test]
    fn all_that_cannot_have_a_sidecar_is_named() {
        let pod = |name: &str| {
            format!(
                "kind: Pod\nmetadata: {{name: {name}, annotations: {{squire.mesh/log-level: x}}}}\nspec: {{containers: []}}\n---\n"
            )
        };
        let OfflineError::Denied(denied) = inject(&(pod("a") + &pod("b")), &Settings::default()).unwrap_err() else {
            panic!()
        };
        assert_eq!(denied.len(), 2);
        assert!(
            denied[1].starts_with("Pod b: squire: annotation squire.mesh/log-level"),
            "{denied:?}"
        );
        let wrong = inject("kind: Pod\n---\n{", &Settings::default());
        assert!(
            matches!(wrong, Err(OfflineError::Denied(_) | OfflineError::Yaml(2, _))),
            "{wrong:?}"
        );
    }
}
