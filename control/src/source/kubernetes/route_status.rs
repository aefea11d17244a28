//! The status of routes, as the Gateway API has it: for each Service that a route names, whether it is in force there
//! (`Accepted`) and whether its backends are there (`ResolvedRefs`). Entries of other controllers are left as they are. One
//! control plane of several writes.

use std::{collections::HashMap, sync::Arc, time::Duration};

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, PostParams},
};
use serde_json::{Value, json};
use tokio::{sync::watch, time::sleep};

use super::mirror::Mirror;
use crate::{
    metrics::{Metrics, count},
    routes::{Verdict, Why},
};

/// Whose entries these are.
const CONTROLLER: &str = "squire.mesh/control";
const GROUP: &str = "gateway.networking.k8s.io";
/// Longest message of a condition.
const LONGEST: usize = 900;
/// After writing what was due; what changes meanwhile is written together.
const PAUSE: Duration = Duration::from_millis(100);
/// After a failure.
const RETRY: Duration = Duration::from_secs(5);

/// What a route was told last: of which generation, and what.
type Told = HashMap<(&'static str, String, String), (i64, Verdict)>;

/// Writes statuses as long as this control plane leads.
pub async fn publish(
    client: Client,
    mirror: Arc<Mirror>,
    mut verdicts: watch::Receiver<Arc<[Verdict]>>,
    mut leads: watch::Receiver<bool>,
    metrics: Metrics,
) {
    let mut changes = mirror.changes();
    let mut told = Told::new();
    loop {
        if !*leads.borrow() {
            // Another one writes meanwhile.
            told.clear();
        }
        if leads.wait_for(|leads| *leads).await.is_err() {
            return;
        }
        changes.borrow_and_update();
        let now = Arc::clone(&verdicts.borrow_and_update());
        let failed = write(&client, &mirror, &now, &mut told, &metrics).await;
        sleep(if failed { RETRY } else { PAUSE }).await;
        tokio::select! {
            changed = verdicts.changed(), if !failed => if changed.is_err() { return },
            changed = changes.changed(), if !failed => if changed.is_err() { return },
            () = std::future::ready(()), if failed => {}
        }
    }
}

/// Whether something is to be tried again.
async fn write(client: &Client, mirror: &Mirror, verdicts: &[Verdict], told: &mut Told, metrics: &Metrics) -> bool {
    let mut failed = false;
    for verdict in verdicts {
        let kind = verdict.kind.as_str();
        let Some((generation, wrong)) = mirror.latest(kind, &verdict.namespace, &verdict.name) else {
            continue;
        };
        let verdict = with(verdict, wrong);
        let key = (kind, verdict.namespace.clone(), verdict.name.clone());
        if told
            .get(&key)
            .is_some_and(|before| before.0 == generation && before.1 == verdict)
        {
            continue;
        }
        match tell(client, &verdict, generation).await {
            Ok(()) => {
                count(&metrics.remarks, "written").inc();
                told.insert(key, (generation, verdict));
            }
            // It is gone: there is nobody to tell.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => {
                count(&metrics.remarks, "failed").inc();
                let route = format!("{kind} {}/{}", verdict.namespace, verdict.name);
                tracing::warn!(%error, route, "what came of it could not be written to its status; trying again");
                failed = true;
            }
        }
    }
    let there = |key: &(&str, String, String)| {
        let same =
            |verdict: &Verdict| (verdict.kind.as_str(), &verdict.namespace, &verdict.name) == (key.0, &key.1, &key.2);
        verdicts.iter().any(same)
    };
    if told.len() > verdicts.len() {
        told.retain(|key, _| there(key));
    }
    failed
}

/// The verdict on the last good state; where the latest version is wrong, that is what has to be said.
fn with(verdict: &Verdict, wrong: Option<String>) -> Verdict {
    let mut verdict = verdict.clone();
    if let Some(message) = wrong {
        for parent in &mut verdict.parents {
            parent.accepted = Err(Why {
                reason: "UnsupportedValue",
                message: format!("{message}; the last good state stays in force"),
            });
        }
    }
    verdict
}

async fn tell(client: &Client, verdict: &Verdict, generation: i64) -> kube::Result<()> {
    let kind = GroupVersionKind::gvk(GROUP, &verdict.version, verdict.kind.as_str());
    let plural = format!("{}s", verdict.kind.as_str().to_lowercase());
    let resource = ApiResource::from_gvk_with_plural(&kind, &plural);
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &verdict.namespace, &resource);
    let mut route = api.get(&verdict.name).await?;
    let before = route.data["status"]["parents"].as_array().cloned().unwrap_or_default();
    let parents = parents(&before, verdict, generation, &now());
    if parents == before {
        return Ok(());
    }
    route.data["status"]["parents"] = Value::Array(parents);
    // With the version that was read: whoever else writes is not overwritten.
    api.replace_status(&verdict.name, &PostParams::default(), &route)
        .await
        .map(drop)
}

fn now() -> String {
    format!("{:.0}", k8s_openapi::jiff::Timestamp::now())
}

/// The list with our entries as they should be. A condition that holds on keeps the time of its last change.
fn parents(before: &[Value], verdict: &Verdict, generation: i64, now: &str) -> Vec<Value> {
    let (ours, others): (Vec<_>, Vec<_>) = before.iter().partition(|entry| entry["controllerName"] == CONTROLLER);
    let mut all: Vec<Value> = others.into_iter().cloned().collect();
    for parent in &verdict.parents {
        let earlier = ours.iter().find(|entry| entry["parentRef"] == parent.reference);
        let conditions: Vec<Value> = [("Accepted", &parent.accepted), ("ResolvedRefs", &parent.resolved)]
            .into_iter()
            .map(|(kind, found)| {
                let was = earlier
                    .and_then(|entry| entry["conditions"].as_array())
                    .and_then(|conditions| conditions.iter().find(|condition| condition["type"] == kind));
                condition(kind, found, generation, was, now)
            })
            .collect();
        all.push(json!({"parentRef": parent.reference, "controllerName": CONTROLLER, "conditions": conditions}));
    }
    all
}

/// What is good has its own name as its reason.
fn condition(kind: &str, found: &Result<(), Why>, generation: i64, was: Option<&Value>, now: &str) -> Value {
    let (status, reason, message) = match found {
        Ok(()) => ("True", kind, String::new()),
        Err(why) => ("False", why.reason, why.message.chars().take(LONGEST).collect()),
    };
    let since = was
        .filter(|was| was["status"] == status)
        .and_then(|was| was["lastTransitionTime"].as_str());
    json!({
        "type": kind, "status": status, "reason": reason, "message": message, "observedGeneration": generation,
        "lastTransitionTime": since.unwrap_or(now),
    })
}

#[cfg(test)]
mod tests {
    use squire_mesh::traffic::RouteKind;

    use super::*;
    use crate::routes::ParentVerdict;

    fn verdict(accepted: Result<(), Why>) -> Verdict {
        Verdict {
            kind: RouteKind::Http,
            version: "v1".into(),
            namespace: "shop".into(),
            name: "r".into(),
            parents: vec![ParentVerdict {
                reference: json!({"kind": "Service", "group": "", "name": "db"}),
                accepted,
                resolved: Ok(()),
            }],
        }
    }

    #[test]
    fn entries_of_others_stay_and_a_condition_that_holds_on_keeps_its_time() {
        let theirs = json!({"controllerName": "other.example/x", "parentRef": {"name": "gw"}, "conditions": []});
        let first = parents(std::slice::from_ref(&theirs), &verdict(Ok(())), 1, "t1");
        assert_eq!(first[0], theirs);
        assert_eq!(first[1]["controllerName"], CONTROLLER);
        assert_eq!(parents(&first, &verdict(Ok(())), 1, "t2"), first, "nothing has changed");
        let why = Why {
            reason: "NoMatchingParent",
            message: "there is no Service".into(),
        };
        let second = parents(&first, &verdict(Err(why)), 2, "t2");
        let condition = |at: usize| &second[1]["conditions"][at];
        assert_eq!(
            (&condition(0)["status"], &condition(0)["lastTransitionTime"]),
            (&json!("False"), &json!("t2"))
        );
        assert_eq!(
            (&condition(1)["status"], &condition(1)["lastTransitionTime"]),
            (&json!("True"), &json!("t1"))
        );
        assert_eq!(condition(1)["observedGeneration"], 2);
    }
}
