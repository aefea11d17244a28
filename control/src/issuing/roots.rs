//! Where the CA's roots are put for whoever has to trust them before it can ask: a file, and a ConfigMap of the cluster. Both are
//! replaced as a whole with every change.

use std::{path::PathBuf, sync::Arc};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use squire_ca::authority::CertificateAuthority;
use squire_mesh::{bundle::TrustBundle, ports};
use tokio::{sync::watch, time::sleep};

use super::{RETRY, Shared, shared::PAUSE};

/// Keeps a file with the roots current, for whoever has to trust them before it can ask: replaced as a whole.
pub(super) async fn publish_bundle(file: PathBuf, mut bundles: watch::Receiver<Arc<TrustBundle>>) {
    loop {
        let pem = bundles.borrow_and_update().to_pem();
        let aside = file.with_extension("new");
        let written = async {
            tokio::fs::write(&aside, pem).await?;
            tokio::fs::File::open(&aside).await?.sync_all().await?;
            tokio::fs::rename(&aside, &file).await
        };
        if let Err(error) = written.await {
            tracing::error!(%error, file = %file.display(), "the roots cannot be written; trying again");
            tokio::time::sleep(RETRY).await;
            continue;
        }
        if bundles.changed().await.is_err() {
            return;
        }
    }
}

impl Shared {
    /// Whenever this replica leads, keeps the roots where everybody in the cluster finds them: in a ConfigMap beside the CA.
    pub(super) fn publish_roots(&self, ca: &CertificateAuthority) -> impl Future<Output = ()> + use<> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let (mut leads, mut bundles) = (self.leads.clone(), ca.watch_bundle());
        async move {
            while leads.wait_for(|leads| *leads).await.is_ok() {
                let pem = bundles.borrow_and_update().to_pem();
                let map = serde_json::json!({
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {
                        "name": ports::BUNDLE_CONFIG_MAP,
                        "labels": {"app.kubernetes.io/part-of": "squire"},
                    },
                    "data": {ports::BUNDLE_KEY: pem},
                });
                let params = PatchParams::apply("squire-control").force();
                if let Err(error) = api.patch(ports::BUNDLE_CONFIG_MAP, &params, &Patch::Apply(&map)).await {
                    tracing::warn!(%error, "the roots could not be written to the ConfigMap {}: trying again", ports::BUNDLE_CONFIG_MAP);
                    sleep(PAUSE * 4).await;
                    continue;
                }
                tokio::select! {
                    changed = bundles.changed() => if changed.is_err() { return },
                    _ = leads.wait_for(|leads| !*leads) => {}
                }
            }
        }
    }
}
