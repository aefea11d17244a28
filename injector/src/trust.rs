//! Keeps the mesh's roots where they are needed: read from the ConfigMap that the control plane writes, put into the webhook
//! configuration's `caBundle`, and copied into every meshed namespace for its pods. Several replicas do the same work and
//! come to the same result.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::{StreamExt as _, stream::BoxStream};
use k8s_openapi::{
    api::{
        admissionregistration::v1::MutatingWebhookConfiguration,
        core::v1::{ConfigMap, Namespace},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::{Value, json};
use squire_mesh::{bundle::TrustBundle, ports, spiffe::TrustDomain};
use tokio::{sync::watch, time::sleep};

use crate::metrics::Metrics;

/// Who writes, for the API server's record of who owns which field.
const FIELD_MANAGER: &str = "squire-injector";
/// After an API call that failed.
const RETRY: Duration = Duration::from_secs(2);
/// How often every copy is written anew, in case somebody changed or deleted it.
const REPEAT: Duration = Duration::from_secs(60);

/// Roots, read and as text.
#[derive(Debug, Clone, Default)]
pub(crate) struct Roots {
    /// PEM.
    pub(crate) pem: String,
    /// The same, read.
    pub(crate) bundle: Option<Arc<TrustBundle>>,
}

/// Namespaces that are meshed, by name.
pub(crate) type Meshed = BTreeSet<String>;

/// Events of a watch; it begins anew after every error, later each time.
pub(crate) fn events<K>(api: Api<K>, config: watcher::Config) -> BoxStream<'static, watcher::Event<K>>
where
    K: Resource + Clone + std::fmt::Debug + Send + serde::de::DeserializeOwned + 'static,
{
    watcher(api, config)
        .default_backoff()
        .filter_map(|event| async {
            event
                .inspect_err(|error| tracing::warn!(%error, "a watch was interrupted; it begins anew"))
                .ok()
        })
        .boxed()
}

/// Follows the control plane's ConfigMap. One that goes away or cannot be read leaves the last good roots in force.
pub(crate) async fn follow_roots(client: Client, domain: TrustDomain, roots: watch::Sender<Roots>) {
    let api: Api<ConfigMap> = Api::namespaced(client, ports::SYSTEM_NAMESPACE);
    let only = watcher::Config::default().fields(&format!("metadata.name={}", ports::BUNDLE_CONFIG_MAP));
    let mut events = events(api, only);
    while let Some(event) = events.next().await {
        let (watcher::Event::Apply(map) | watcher::Event::InitApply(map)) = event else {
            continue;
        };
        let pem = map
            .data
            .as_ref()
            .and_then(|data| data.get(ports::BUNDLE_KEY))
            .cloned()
            .unwrap_or_default();
        match TrustBundle::from_pem(&domain, pem.as_bytes()) {
            Ok(bundle) => {
                let next = Roots {
                    pem,
                    bundle: Some(Arc::new(bundle)),
                };
                roots.send_if_modified(|roots| {
                    let changed = roots.pem != next.pem;
                    if changed {
                        *roots = next;
                    }
                    changed
                });
            }
            Err(error) => tracing::error!(
                %error,
                "the ConfigMap {}/{} holds no roots of {domain}; the last good ones stay in force",
                ports::SYSTEM_NAMESPACE,
                ports::BUNDLE_CONFIG_MAP
            ),
        }
    }
}

/// Follows which namespaces are meshed.
pub(crate) async fn follow_namespaces(client: Client, meshed: watch::Sender<Meshed>) {
    let only = watcher::Config::default().labels(&format!("{}=true", ports::INJECT));
    let mut events = events(Api::<Namespace>::all(client), only);
    let mut listed = Meshed::new();
    while let Some(event) = events.next().await {
        match event {
            watcher::Event::Init => listed.clear(),
            watcher::Event::InitApply(namespace) => drop(listed.insert(namespace.name_any())),
            watcher::Event::InitDone => drop(meshed.send_replace(std::mem::take(&mut listed))),
            watcher::Event::Apply(namespace) => {
                meshed.send_if_modified(|meshed| meshed.insert(namespace.name_any()));
            }
            watcher::Event::Delete(namespace) => {
                meshed.send_if_modified(|meshed| meshed.remove(&namespace.name_any()));
            }
        }
    }
}

/// Brings the webhook configuration's `caBundle` up to date, whenever the roots change or somebody changes it.
pub(crate) async fn keep_ca_bundle(client: Client, mut roots: watch::Receiver<Roots>, metrics: Metrics) {
    let api: Api<MutatingWebhookConfiguration> = Api::all(client);
    let only = watcher::Config::default().fields(&format!("metadata.name={}", ports::INJECTOR_ACCOUNT));
    let mut events = events(api.clone(), only);
    let mut current: Option<MutatingWebhookConfiguration> = None;
    loop {
        let pem = roots.borrow_and_update().pem.clone();
        let patch = current
            .as_ref()
            .filter(|_| !pem.is_empty())
            .map(|there| bundle_patch(there, &pem));
        let mut again = false;
        if let Some(operations) = patch.filter(|operations| !operations.is_empty()) {
            match patched(&api, operations).await {
                Ok(next) => {
                    metrics.bundle_patched();
                    tracing::info!("the webhook configuration's caBundle is up to date");
                    current = Some(next);
                }
                Err(error) => {
                    tracing::warn!(%error, "the webhook configuration's caBundle could not be written; trying again");
                    again = true;
                }
            }
        }
        tokio::select! {
            event = events.next() => match event {
                Some(watcher::Event::Apply(there) | watcher::Event::InitApply(there)) => current = Some(there),
                Some(watcher::Event::Delete(_) | watcher::Event::Init) => current = None,
                Some(watcher::Event::InitDone) => {}
                None => return,
            },
            changed = roots.changed() => if changed.is_err() { return },
            () = sleep(RETRY), if again => {}
        }
    }
}

/// Operations that test what they change, so that they change no other webhook and make no configuration anew.
fn bundle_patch(there: &MutatingWebhookConfiguration, pem: &str) -> Vec<Value> {
    let mut operations = Vec::new();
    for (index, webhook) in there.webhooks.iter().flatten().enumerate() {
        if webhook
            .client_config
            .ca_bundle
            .as_ref()
            .is_some_and(|bundle| bundle.0 == pem.as_bytes())
        {
            continue;
        }
        operations.push(json!({"op": "test", "path": format!("/webhooks/{index}/name"), "value": webhook.name}));
        operations.push(json!({
            "op": "add", "path": format!("/webhooks/{index}/clientConfig/caBundle"), "value": STANDARD.encode(pem),
        }));
    }
    operations
}

async fn patched(
    api: &Api<MutatingWebhookConfiguration>,
    operations: Vec<Value>,
) -> Result<MutatingWebhookConfiguration, Box<dyn std::error::Error + Send + Sync>> {
    let patch: json_patch::Patch = serde_json::from_value(Value::Array(operations))?;
    let parameters = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    Ok(api
        .patch(ports::INJECTOR_ACCOUNT, &parameters, &Patch::<()>::Json(patch))
        .await?)
}

/// Copies the roots into every meshed namespace. A namespace that is meshed no more keeps its copy, for its pods still run.
pub(crate) async fn distribute(
    client: Client,
    mut roots: watch::Receiver<Roots>,
    mut meshed: watch::Receiver<Meshed>,
    metrics: Metrics,
) {
    let mut written: BTreeSet<(String, String)> = BTreeSet::new();
    loop {
        let pem = roots.borrow_and_update().pem.clone();
        let namespaces = meshed.borrow_and_update().clone();
        let mut failed = false;
        for namespace in namespaces.iter().filter(|_| !pem.is_empty()) {
            let done = (namespace.clone(), pem.clone());
            if written.contains(&done) {
                continue;
            }
            match copy(&client, namespace, &pem).await {
                Ok(()) => {
                    written.retain(|(other, _)| other != namespace);
                    written.insert(done);
                }
                Err(kube::Error::Api(status)) if is_going(&status) => {
                    tracing::warn!(namespace, error = %status.message, "the roots could not be copied");
                }
                Err(error) => {
                    failed = true;
                    tracing::warn!(namespace, %error, "the roots could not be copied; trying again");
                }
            }
        }
        written.retain(|(namespace, _)| namespaces.contains(namespace));
        metrics.bundle_maps(written.len());
        tokio::select! {
            changed = roots.changed() => if changed.is_err() { return },
            changed = meshed.changed() => if changed.is_err() { return },
            () = sleep(RETRY), if failed => {}
            () = sleep(REPEAT) => written.clear(),
        }
    }
}

/// The namespace is not there any more, or takes nothing in any more. (Without rights it is another 403, and worth another
/// try: they may be given back.)
fn is_going(status: &kube::core::Status) -> bool {
    let terminating = |cause: &kube::core::response::StatusCause| cause.reason == "NamespaceTerminating";
    let causes = status.details.as_ref().map(|details| details.causes.as_slice());
    status.code == 404 || causes.unwrap_or_default().iter().any(terminating)
}

async fn copy(client: &Client, namespace: &str, pem: &str) -> kube::Result<()> {
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(ports::BUNDLE_CONFIG_MAP.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some([("app.kubernetes.io/managed-by".to_owned(), "squire".to_owned())].into()),
            ..ObjectMeta::default()
        },
        data: Some([(ports::BUNDLE_KEY.to_owned(), pem.to_owned())].into()),
        ..ConfigMap::default()
    };
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(ports::BUNDLE_CONFIG_MAP, &parameters, &Patch::Apply(&map))
        .await
        .map(drop)
}
