//! Which kind of object made a pod: a closed set, fit for a label and for metrics.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Put on the pods of a Deployment by its ReplicaSets.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// The kind of a pod's owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// A Deployment, through a ReplicaSet.
    Deployment,
    /// A ReplicaSet of its own.
    ReplicaSet,
    /// A StatefulSet.
    StatefulSet,
    /// A DaemonSet.
    DaemonSet,
    /// A Job, also one of a CronJob.
    Job,
    /// A CronJob, of whose template this is.
    CronJob,
    /// Another controller.
    Other,
    /// Nobody: a bare pod.
    Pod,
}

impl Owner {
    /// Whoever controls this pod.
    #[must_use]
    pub fn of(metadata: &ObjectMeta) -> Self {
        let owners = metadata.owner_references.iter().flatten();
        let Some(controller) = owners.into_iter().find(|owner| owner.controller == Some(true)) else {
            return Self::Pod;
        };
        let hashed = metadata
            .labels
            .as_ref()
            .is_some_and(|labels| labels.contains_key(TEMPLATE_HASH));
        match controller.kind.as_str() {
            "ReplicaSet" if hashed => Self::Deployment,
            kind => Self::named(kind),
        }
    }

    /// The owner of this kind.
    #[must_use]
    pub fn named(kind: &str) -> Self {
        match kind {
            "Deployment" => Self::Deployment,
            "ReplicaSet" => Self::ReplicaSet,
            "StatefulSet" => Self::StatefulSet,
            "DaemonSet" => Self::DaemonSet,
            "Job" => Self::Job,
            "CronJob" => Self::CronJob,
            "Pod" => Self::Pod,
            _ => Self::Other,
        }
    }

    /// Its name, as Kubernetes writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::ReplicaSet => "ReplicaSet",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
            Self::Job => "Job",
            Self::CronJob => "CronJob",
            Self::Other => "Other",
            Self::Pod => "Pod",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_owner_is_the_controller_and_a_deployment_is_known_by_its_hash() {
        let owned = |kind: &str, controller: bool, labels: serde_json::Value| {
            let owner = json!({"apiVersion": "v1", "kind": kind, "name": "x", "uid": "y", "controller": controller});
            let metadata = serde_json::from_value(json!({"ownerReferences": [owner], "labels": labels}));
            Owner::of(&metadata.unwrap())
        };
        assert_eq!(
            owned("ReplicaSet", true, json!({"pod-template-hash": "abc"})),
            Owner::Deployment
        );
        assert_eq!(owned("ReplicaSet", true, json!({})), Owner::ReplicaSet);
        assert_eq!(owned("Job", true, json!({})), Owner::Job);
        assert_eq!(owned("Workflow", true, json!({})), Owner::Other);
        assert_eq!(owned("StatefulSet", false, json!({})), Owner::Pod);
        assert_eq!(Owner::of(&ObjectMeta::default()), Owner::Pod);
    }
}
