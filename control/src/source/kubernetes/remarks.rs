//! What the API server is told about objects that are wrong: a condition in the status of a policy, written only where it
//! is different, and an Event beside it. One control plane of several writes them. It changes no object's meaning.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use serde_json::{Value, json};
use tokio::{sync::watch, time::sleep};

use super::{kinds::Kind, mirror::Mirror, raw::Raw};
use crate::{
    facts::Key,
    manifest::{Problem, Severity},
    metrics::{Metrics, count},
};

/// The condition that says whether a policy is in force as it is written.
pub(super) const CONDITION: &str = "squire.mesh/Accepted";
/// Whose fields in a status these are.
const MANAGER: &str = "squire-control";
/// Longest message, in characters.
const LONGEST: usize = 900;
/// After writing what was due; what changes meanwhile is written together.
const PAUSE: Duration = Duration::from_millis(100);
/// After a failure.
const RETRY: Duration = Duration::from_secs(5);
/// The Gateway API has a status of its own shape, and what is no policy of ours has none for us.
const WITH_CONDITIONS: [&str; 2] = ["security.istio.io", "squire.mesh"];

/// What the status of an object says of it, as far as that is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Judged {
    uid: String,
    version: String,
    generation: i64,
    /// Status and message of our condition, and the generation that it speaks of.
    condition: Option<(bool, String, i64)>,
}

/// A condition that an object should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    kind: &'static Kind,
    key: Key,
    uid: String,
    version: String,
    generation: i64,
    good: bool,
    message: String,
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Kind {}

impl Judged {
    /// The generation that was read.
    pub(super) fn generation(&self) -> i64 {
        self.generation
    }

    /// From an object as it was read.
    pub(super) fn read(raw: &Raw) -> Self {
        let conditions = raw
            .value
            .get("status")
            .and_then(|status| status.get("conditions")?.as_array());
        let ours = conditions
            .into_iter()
            .flatten()
            .find(|condition| condition["type"] == CONDITION);
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let api_version = raw.value["apiVersion"].as_str().unwrap_or_default();
        Self {
            uid: text(&raw.meta.uid),
            version: api_version.rsplit('/').next().unwrap_or_default().to_owned(),
            generation: raw.meta.generation.unwrap_or_default(),
            condition: ours.map(|condition| {
                (
                    condition["status"] == "True",
                    condition["message"].as_str().unwrap_or_default().to_owned(),
                    condition["observedGeneration"].as_i64().unwrap_or_default(),
                )
            }),
        }
    }
}

impl Condition {
    /// The condition that an object should have, unless it has it. Good objects need none; those that had a bad one do.
    pub(super) fn due(kind: &'static Kind, key: &Key, judged: &Judged, problems: &[Problem]) -> Option<Self> {
        let errors: Vec<String> = problems
            .iter()
            .filter(|problem| problem.severity == Severity::Error)
            .map(sentence)
            .collect();
        let good = errors.is_empty();
        let message: String = if good {
            "in force as it is written".to_owned()
        } else {
            errors.join("; ").chars().take(LONGEST).collect()
        };
        let has = match &judged.condition {
            Some((was_good, said, generation)) => {
                *was_good == good && *said == message && *generation == judged.generation
            }
            None => good,
        };
        (!has).then(|| Self {
            kind,
            key: key.clone(),
            uid: judged.uid.clone(),
            version: judged.version.clone(),
            generation: judged.generation,
            good,
            message,
        })
    }

    fn has_status(&self) -> bool {
        WITH_CONDITIONS.contains(&self.kind.group)
    }

    async fn write(&self, client: &Client, recorder: &Recorder) -> Result<(), kube::Error> {
        let resource = self.kind.resource(&self.version);
        if self.has_status() {
            let api: Api<DynamicObject> = if self.key.namespace.is_empty() {
                Api::all_with(client.clone(), &resource)
            } else {
                Api::namespaced_with(client.clone(), &self.key.namespace, &resource)
            };
            let status = self.status(&resource.api_version);
            let params = PatchParams::apply(MANAGER).force();
            api.patch_status(&self.key.name, &params, &Patch::Apply(status)).await?;
        }
        if self.good {
            return Ok(());
        }
        let reference = ObjectReference {
            api_version: Some(resource.api_version.clone()),
            kind: Some(resource.kind.clone()),
            namespace: Some(self.key.namespace.to_string()).filter(|namespace| !namespace.is_empty()),
            name: Some(self.key.name.to_string()),
            uid: Some(self.uid.clone()),
            ..ObjectReference::default()
        };
        let event = Event {
            type_: EventType::Warning,
            reason: "NotAccepted".into(),
            note: Some(self.message.clone()),
            action: "Validate".into(),
            secondary: None,
        };
        recorder.publish(&event, &reference).await
    }

    fn status(&self, api_version: &str) -> Value {
        let (status, reason) = if self.good {
            ("True", "Valid")
        } else {
            ("False", "Invalid")
        };
        let now = k8s_openapi::jiff::Timestamp::now();
        json!({
            "apiVersion": api_version,
            "kind": self.kind.kind,
            "metadata": {"name": &*self.key.name},
            "status": {"conditions": [{
                "type": CONDITION,
                "status": status,
                "reason": reason,
                "message": self.message,
                "observedGeneration": self.generation,
                "lastTransitionTime": format!("{now:.0}"),
            }]},
        })
    }
}

/// A problem without the name of its object, which the reader looks at already.
fn sentence(problem: &Problem) -> String {
    let path = if problem.path.is_empty() {
        String::new()
    } else {
        format!("{}: ", problem.path)
    };
    let fix = if problem.fix.is_empty() {
        String::new()
    } else {
        format!(" ({})", problem.fix)
    };
    format!("{path}{}{fix}", problem.message)
}

/// Writes conditions and Events as long as this control plane leads. `replica` is its name.
pub async fn publish(
    client: Client,
    mirror: Arc<Mirror>,
    mut leads: watch::Receiver<bool>,
    replica: String,
    metrics: Metrics,
) {
    let reporter = Reporter {
        controller: "squire.mesh/control".into(),
        instance: Some(replica),
    };
    let recorder = Recorder::new(client.clone(), reporter);
    let mut changes = mirror.changes();
    // What was written last for each object: until the watch shows it, it is not written again.
    let mut written: Vec<Condition> = Vec::new();
    loop {
        if leads.wait_for(|leads| *leads).await.is_err() {
            return;
        }
        changes.borrow_and_update();
        let due = mirror.conditions_due();
        written.retain(|condition| due.contains(condition));
        let mut failed = false;
        for condition in due
            .into_iter()
            .filter(|condition| condition.has_status() || !condition.good)
        {
            if written.contains(&condition) || !*leads.borrow() {
                continue;
            }
            match condition.write(&client, &recorder).await {
                Ok(()) => {
                    count(&metrics.remarks, "written").inc();
                    written.push(condition);
                }
                Err(error) => {
                    count(&metrics.remarks, "failed").inc();
                    let object = format!("{} {}", condition.kind.kind, condition.key);
                    // It may be gone, or its CRD may have no status: what it says is in /debug/problems in any case.
                    tracing::warn!(%error, object, "what is wrong with it could not be written to its status");
                    if matches!(&error, kube::Error::Api(status) if status.code == 404 || status.code == 422) {
                        written.push(condition);
                    } else {
                        failed = true;
                    }
                }
            }
        }
        sleep(if failed { RETRY } else { PAUSE }).await;
        if !failed && changes.changed().await.is_err() {
            return;
        }
    }
}
