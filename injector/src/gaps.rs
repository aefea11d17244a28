//! Pods of meshed namespaces that run without a sidecar: listed, counted, and said once in an Event of the pod, so that nobody
//! believes a workload protected that is not.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt as _;
use k8s_openapi::{
    api::core::v1::{Event as PodEvent, ObjectReference, Pod},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::{Api, Client, ResourceExt as _, api::PostParams, runtime::watcher};
use serde::Serialize;
use squire_mesh::ports;
use tokio::sync::watch;

use crate::{
    inject::Skip,
    metrics::Metrics,
    owner::Owner,
    trust::{Meshed, events},
};

/// Why a pod has no sidecar: a closed set. The pod was there before its namespace was meshed, or got by while the webhook
/// was not asked.
const NOT_INJECTED: &str = "not-injected";

/// One pod without a sidecar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Gap {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: &'static str,
    /// Who made it.
    pub owner: &'static str,
    #[serde(skip)]
    uid: String,
}

/// All of them, by namespace and name.
pub type Gaps = BTreeMap<(String, String), Gap>;

/// Why this pod is without a sidecar, or nothing when it has one or has ended.
fn gap(pod: &Pod) -> Option<Gap> {
    let spec = pod.spec.as_ref()?;
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let init = spec.init_containers.iter().flatten();
    let has_sidecar = init
        .chain(&spec.containers)
        .any(|container| container.name == ports::PROXY_CONTAINER);
    if has_sidecar || matches!(phase, Some("Succeeded" | "Failed")) {
        return None;
    }
    let annotation = |key: &str| pod.metadata.annotations.as_ref()?.get(key).map(String::as_str);
    let label = |key: &str| pod.metadata.labels.as_ref()?.get(key).map(String::as_str);
    let opted_out = annotation(ports::INJECT) == Some("false") || label(ports::INJECT) == Some("false");
    let skips = [Skip::HostNetwork, Skip::Windows, Skip::Mirror, Skip::OtherSidecar];
    let skipped = annotation(ports::SKIPPED).and_then(|said| skips.into_iter().find(|skip| skip.as_str() == said));
    let reason = match skipped {
        _ if opted_out => Skip::OptedOut.as_str(),
        Some(skip) => skip.as_str(),
        None => NOT_INJECTED,
    };
    Some(Gap {
        namespace: pod.namespace().unwrap_or_default(),
        name: pod.name_any(),
        reason,
        owner: Owner::of(&pod.metadata).as_str(),
        uid: pod.uid().unwrap_or_default(),
    })
}

/// Follows pods and namespaces, and publishes the gaps.
pub(crate) async fn follow(
    client: Client,
    mut meshed: watch::Receiver<Meshed>,
    gaps: watch::Sender<Gaps>,
    metrics: Metrics,
) {
    let mut events = events(Api::<Pod>::all(client.clone()), watcher::Config::default());
    // Every pod without a sidecar, in whatever namespace: which ones are meshed changes.
    let (mut without, mut listed, mut complete) = (Gaps::new(), Gaps::new(), false);
    let mut told: BTreeSet<String> = BTreeSet::new();
    loop {
        if complete {
            let namespaces = meshed.borrow_and_update().clone();
            let current: Gaps = without
                .iter()
                .filter(|((namespace, _), _)| namespaces.contains(namespace))
                .map(|(key, gap)| (key.clone(), gap.clone()))
                .collect();
            count(&current, &metrics);
            told.retain(|uid| current.values().any(|gap| gap.uid == *uid));
            for gap in current.values().filter(|gap| gap.reason != Skip::OptedOut.as_str()) {
                if told.insert(gap.uid.clone()) {
                    say(&client, gap).await;
                }
            }
            gaps.send_if_modified(|gaps| std::mem::replace(gaps, current.clone()) != current);
        }
        tokio::select! {
            event = events.next() => match event {
                None => return,
                Some(watcher::Event::Init) => listed.clear(),
                Some(watcher::Event::InitApply(pod)) => apply(&mut listed, &pod),
                Some(watcher::Event::InitDone) => {
                    without = std::mem::take(&mut listed);
                    complete = true;
                }
                Some(watcher::Event::Apply(pod)) => apply(&mut without, &pod),
                Some(watcher::Event::Delete(pod)) => drop(without.remove(&key(&pod))),
            },
            changed = meshed.changed() => if changed.is_err() { return },
        }
    }
}

fn key(pod: &Pod) -> (String, String) {
    (pod.namespace().unwrap_or_default(), pod.name_any())
}

fn apply(all: &mut Gaps, pod: &Pod) {
    match gap(pod) {
        Some(gap) => drop(all.insert(key(pod), gap)),
        None => drop(all.remove(&key(pod))),
    }
}

fn count(gaps: &Gaps, metrics: &Metrics) {
    let skips = [
        Skip::OptedOut,
        Skip::HostNetwork,
        Skip::Windows,
        Skip::Mirror,
        Skip::OtherSidecar,
    ];
    for reason in skips.map(Skip::as_str).into_iter().chain([NOT_INJECTED]) {
        metrics.gap(reason, gaps.values().filter(|gap| gap.reason == reason).count());
    }
}

/// One Event for each pod: its name is made of the pod's, so that other replicas and later starts say it no second time.
async fn say(client: &Client, gap: &Gap) {
    let now = Time(Timestamp::now());
    let event = PodEvent {
        metadata: ObjectMeta {
            name: Some(format!("{}.squire-{}", gap.name, gap.uid)),
            namespace: Some(gap.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(gap.name.clone()),
            namespace: Some(gap.namespace.clone()),
            uid: Some(gap.uid.clone()),
            ..ObjectReference::default()
        },
        type_: Some("Warning".to_owned()),
        reason: Some("NoSidecar".to_owned()),
        message: Some(match gap.reason {
            NOT_INJECTED => "this pod runs without a squire: it was created before its namespace was meshed, or while \
                             the webhook was not asked; restart it (kubectl rollout restart) to protect it"
                .to_owned(),
            reason => format!("this pod runs without a squire ({reason}): its connections are not protected"),
        }),
        source: Some(k8s_openapi::api::core::v1::EventSource {
            component: Some(ports::INJECTOR_ACCOUNT.to_owned()),
            ..Default::default()
        }),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        count: Some(1),
        ..PodEvent::default()
    };
    let api: Api<PodEvent> = Api::namespaced(client.clone(), &gap.namespace);
    match api.create(&PostParams::default(), &event).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => tracing::warn!(%error, pod = gap.name, "an Event could not be written"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_running_pod_without_a_sidecar_is_a_gap_with_its_reason() {
        let reason = |pod: serde_json::Value| gap(&serde_json::from_value(pod).unwrap()).map(|gap| gap.reason);
        let bare = json!([{"name": "web"}]);
        let squire = json!([{"name": "squire-proxy"}]);
        for (pod, expected) in [
            (json!({"spec": {"containers": bare}}), Some("not-injected")),
            (json!({"spec": {"containers": bare, "initContainers": squire}}), None),
            (json!({"spec": {"containers": squire}}), None),
            (
                json!({"spec": {"containers": bare}, "status": {"phase": "Succeeded"}}),
                None,
            ),
            (
                json!({"spec": {"containers": bare}, "status": {"phase": "Running"}}),
                Some("not-injected"),
            ),
            (
                json!({"metadata": {"annotations": {"squire.mesh/inject": "false"}}, "spec": {"containers": bare}}),
                Some("opted-out"),
            ),
            (
                json!({"metadata": {"annotations": {"squire.mesh/skipped": "host-network"}}, "spec": {"containers": bare}}),
                Some("host-network"),
            ),
            (
                json!({"metadata": {"annotations": {"squire.mesh/skipped": "made-up"}}, "spec": {"containers": bare}}),
                Some("not-injected"),
            ),
        ] {
            assert_eq!(reason(pod.clone()), expected, "{pod}");
        }
    }
}
