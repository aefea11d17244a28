//! A CA that the replicas of a control plane share: its state lies in the cluster. The replica that leads founds it and keeps
//! it in order; all of them sign, and follow what the leader makes of the state.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    runtime::watcher::{self, Event, watcher},
};
use squire_ca::{
    authority::{CaError, CertificateAuthority},
    store::{Alarm, ClusterStore, STATE_SECRET, Store, StoreError, Watched},
};
use squire_mesh::{ports, spiffe::TrustDomain};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

/// Before the next look for a CA that another replica may be founding, or for an API server that does not answer.
const PAUSE: Duration = Duration::from_millis(300);

/// Where the replicas share a CA, and whether this one leads.
pub struct Shared {
    client: Client,
    namespace: String,
    leads: watch::Receiver<bool>,
}

impl Shared {
    /// A CA in this namespace.
    #[must_use]
    pub fn new(client: Client, namespace: &str, leads: watch::Receiver<bool>) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            leads,
        }
    }

    /// Where the CA is, for messages.
    pub(super) fn place(&self) -> PathBuf {
        PathBuf::from(format!("secret/{}/{STATE_SECRET}", self.namespace))
    }

    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Opens the CA once there is one; founds it if this replica leads. Waits as long as the API server does not answer.
    pub(super) async fn open(
        &self,
        domain: &TrustDomain,
        alarm: Alarm,
    ) -> Result<(Arc<CertificateAuthority>, Arc<dyn Store>), CaError> {
        let store = ClusterStore::new(self.client.clone(), &self.namespace, self.leads.clone());
        let store: Arc<dyn Store> = Arc::new(Watched::new(Arc::new(store), alarm));
        let mut leads = self.leads.clone();
        loop {
            let (shared, domain) = (Arc::clone(&store), domain.clone());
            let opened = tokio::task::spawn_blocking(move || open_or_found(&shared, &domain)).await;
            match opened {
                Ok(Ok(Some(ca))) => return Ok((ca, store)),
                Ok(Ok(None)) => tracing::info!("there is no CA yet: waiting for the replica that leads to found it"),
                Ok(Err(error)) if may_pass(&error) => {
                    tracing::warn!(%error, "the CA cannot be opened yet: trying again")
                }
                Ok(Err(error)) => return Err(error),
                Err(error) => tracing::error!(%error, "opening the CA was interrupted: trying again"),
            }
            // Whichever comes first; the next look tells.
            let _ = timeout(PAUSE, leads.changed()).await;
        }
    }

    /// Keeps the CA in order whenever this replica leads.
    pub(super) fn maintain(&self, ca: Arc<CertificateAuthority>) -> impl Future<Output = ()> + use<> {
        let mut leads = self.leads.clone();
        async move {
            while leads.wait_for(|leads| *leads).await.is_ok() {
                // What the leader before has done last.
                refresh(&ca).await;
                tokio::select! {
                    () = Arc::clone(&ca).maintain() => return,
                    _ = leads.wait_for(|leads| !*leads) => {}
                }
            }
        }
    }

    /// Follows what the leader makes of the state.
    pub(super) fn follow(&self, ca: Arc<CertificateAuthority>) -> impl Future<Output = ()> + use<> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        async move {
            let config = watcher::Config::default().fields(&format!("metadata.name={STATE_SECRET}"));
            let mut events = Box::pin(watcher(api, config));
            while let Some(event) = events.next().await {
                match event {
                    Ok(Event::Init | Event::InitApply(_)) => {}
                    Ok(Event::InitDone | Event::Apply(_)) => refresh(&ca).await,
                    Ok(Event::Delete(_)) => tracing::error!(
                        "the Secret with the CA's state was deleted: this process signs on with what it holds; restore it from a backup"
                    ),
                    Err(error) => {
                        tracing::warn!(%error, "the CA's state cannot be watched: trying again");
                        sleep(PAUSE * 4).await;
                    }
                }
            }
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

async fn refresh(ca: &Arc<CertificateAuthority>) {
    let shared = Arc::clone(ca);
    match tokio::task::spawn_blocking(move || shared.refresh()).await {
        Ok(Ok(true)) => tracing::info!("the CA's state has changed: taken over"),
        Ok(Ok(false)) => {}
        Ok(Err(error)) => {
            tracing::error!(%error, "the CA's state could not be read again: going on with the one before")
        }
        Err(error) => tracing::error!(%error, "reading the CA's state was interrupted"),
    }
}

fn open_or_found(store: &Arc<dyn Store>, domain: &TrustDomain) -> Result<Option<Arc<CertificateAuthority>>, CaError> {
    let now = SystemTime::now();
    if store.load()?.is_none() {
        if !store.leads() {
            return Ok(None);
        }
        CertificateAuthority::init(store, domain, now)?;
        tracing::info!(place = %store.place().display(), %domain, "there was no CA here: a new one has been founded");
    }
    CertificateAuthority::open(Arc::clone(store), Some(domain), now).map(Some)
}

/// The API server may answer later, another replica may have been first: neither is a reason to give up.
fn may_pass(error: &CaError) -> bool {
    let store = match error {
        CaError::Store(error) => error,
        CaError::Log(squire_ca::log::LogError::Store(error)) => error,
        _ => return false,
    };
    matches!(
        store,
        StoreError::Api { .. } | StoreError::Silent { .. } | StoreError::Changed { .. } | StoreError::Follower(_)
    )
}
