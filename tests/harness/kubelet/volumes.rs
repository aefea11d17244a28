//! The volumes of a pod as directories: projected tokens, ConfigMaps, what the downward API tells, empty ones, and this
//! machine's own (`hostPath`).

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use serde_json::Value;
use tokio::time::sleep;

use crate::kubernetes;

/// Before the next look for a ConfigMap that is not there yet.
const PAUSE: Duration = Duration::from_millis(200);

/// Where a volume is on this machine.
pub(super) fn at(pod: &Value, dir: &Path, name: &str) -> PathBuf {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let volume = volumes.into_iter().find(|volume| volume["name"] == name);
    let host = volume.and_then(|volume| volume["hostPath"]["path"].as_str());
    host.map_or_else(|| dir.join("volumes").join(name), PathBuf::from)
}

/// Makes all of a pod's volumes; waits for what is not there yet, as a kubelet does.
pub(super) async fn mount(client: &Client, pod: &Value, dir: &Path) {
    for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
        let at = dir.join("volumes").join(volume["name"].as_str().unwrap());
        fs::create_dir_all(&at).unwrap();
        // An empty one is everybody's.
        fs::set_permissions(&at, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        if volume.get("emptyDir").is_some() || volume.get("hostPath").is_some() {
            continue;
        }
        while !fill(client, pod, volume, &at, true).await {
            sleep(PAUSE).await;
        }
    }
}

/// Brings ConfigMaps up to date; tokens last longer than any test.
pub(super) async fn refresh(client: &Client, pod: &Value, dir: &Path) {
    for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
        let at = dir.join("volumes").join(volume["name"].as_str().unwrap());
        fill(client, pod, volume, &at, false).await;
    }
}

/// Whether everything is there.
async fn fill(client: &Client, pod: &Value, volume: &Value, at: &Path, tokens: bool) -> bool {
    let own = [volume.clone()];
    let sources = match volume["projected"]["sources"].as_array() {
        Some(sources) => &sources[..],
        None => &own[..],
    };
    let mut whole = true;
    for source in sources {
        if let Some(map) = source.get("configMap") {
            whole &= config_map(client, pod, map, at).await;
        } else if let Some(wanted) = source.get("serviceAccountToken").filter(|_| tokens) {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let metadata = &pod["metadata"];
            let (namespace, name, uid) = (
                text(&metadata["namespace"]),
                text(&metadata["name"]),
                text(&metadata["uid"]),
            );
            let account = pod["spec"]["serviceAccountName"].as_str().unwrap_or("default");
            let audience = wanted["audience"].as_str();
            let bound = Some((name.as_str(), uid.as_str()));
            let made = kubernetes::token(client.clone(), &namespace, account, audience.as_slice(), bound).await;
            match made {
                Ok(made) => put(&at.join(text(&wanted["path"])), &made),
                // Its pod may just have been removed.
                Err(_) => whole = false,
            }
        } else if let Some(wanted) = source.get("downwardAPI") {
            for item in wanted["items"].as_array().into_iter().flatten() {
                assert_eq!(
                    item["fieldRef"]["fieldPath"], "metadata.namespace",
                    "others are not played"
                );
                let namespace = pod["metadata"]["namespace"].as_str().unwrap();
                put(&at.join(item["path"].as_str().unwrap()), namespace);
            }
        }
    }
    whole
}

async fn config_map(client: &Client, pod: &Value, wanted: &Value, at: &Path) -> bool {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), pod["metadata"]["namespace"].as_str().unwrap());
    let name = wanted["name"].as_str().unwrap();
    let Ok(Some(map)) = api.get_opt(name).await else {
        return false;
    };
    let data = map.data.unwrap_or_default();
    let Some(items) = wanted["items"].as_array() else {
        data.iter().for_each(|(key, text)| put(&at.join(key), text));
        return true;
    };
    items.iter().all(|item| {
        let text = data.get(item["key"].as_str().unwrap());
        text.is_some_and(|text| {
            put(&at.join(item["path"].as_str().unwrap()), text);
            true
        })
    })
}

/// Replaces a file in one step, unless it says so already.
fn put(path: &Path, text: &str) {
    if fs::read_to_string(path).is_ok_and(|there| there == text) {
        return;
    }
    let next = path.with_extension("next");
    fs::write(&next, text).unwrap();
    fs::rename(&next, path).unwrap();
}
