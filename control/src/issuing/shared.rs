//! A CA that the replicas of a control plane share: its state lies in the cluster. The replica that leads founds it and keeps
//! it in order; all of them sign, and follow what the leader makes of the state.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    runtime::watcher::{self, Event, watcher},
};
use squire_ca::{
    admin,
    authority::{CaError, CertificateAuthority},
    store::{Alarm, ClusterStore, STATE_SECRET, Store, StoreError, Watched},
};
use squire_mesh::spiffe::TrustDomain;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

/// Before the next look for a CA that another replica may be founding, or for an API server that does not answer.
pub(super) const PAUSE: Duration = Duration::from_millis(300);

/// How often replicas confer while a rotation is under way.
const CONFER: Duration = Duration::from_secs(1);
/// The state is read again after this time, whatever the watch says; a few times before a replica stops signing.
const REREAD: Duration = Duration::from_secs(5);

/// Where the replicas share a CA, and whether this one leads.
pub struct Shared {
    pub(super) client: Client,
    pub(super) namespace: String,
    /// The name of this replica.
    replica: String,
    pub(super) leads: watch::Receiver<bool>,
}

impl Shared {
    /// A CA in this namespace, and the name of this replica.
    #[must_use]
    pub fn new(client: Client, namespace: &str, replica: &str, leads: watch::Receiver<bool>) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            replica: replica.to_owned(),
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
        let store = ClusterStore::new(self.client.clone(), &self.namespace, &self.replica, self.leads.clone());
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

    /// Reads the state again, however long that takes.
    pub(super) async fn read_again(&self, ca: &Arc<CertificateAuthority>) {
        while !refresh(ca).await {
            sleep(PAUSE).await;
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

    /// Takes the steps of a rotation whenever this replica leads.
    pub(super) fn turn(
        &self,
        ca: Arc<CertificateAuthority>,
        automatic: Option<u32>,
    ) -> impl Future<Output = ()> + use<> {
        let mut leads = self.leads.clone();
        async move {
            while leads.wait_for(|leads| *leads).await.is_ok() {
                refresh(&ca).await;
                tokio::select! {
                    () = Arc::clone(&ca).turn(automatic) => return,
                    _ = leads.wait_for(|leads| !*leads) => {}
                }
            }
        }
    }

    /// Does what admins ask for whenever this replica leads.
    pub(super) fn obey(&self, ca: Arc<CertificateAuthority>) -> impl Future<Output = ()> + use<> {
        let (client, namespace, mut leads) = (self.client.clone(), self.namespace.clone(), self.leads.clone());
        async move {
            while leads.wait_for(|leads| *leads).await.is_ok() {
                refresh(&ca).await;
                tokio::select! {
                    () = admin::serve_cluster(client.clone(), &namespace, Arc::clone(&ca)) => return,
                    _ = leads.wait_for(|leads| !*leads) => {}
                }
            }
        }
    }

    /// While a rotation is under way, tells the other replicas what is reported to this one, and hears what is to them.
    pub(super) fn confer(&self, ca: Arc<CertificateAuthority>) -> impl Future<Output = ()> + use<> {
        let leads = self.leads.clone();
        let mut bundles = ca.watch_bundle();
        async move {
            loop {
                bundles.mark_unchanged();
                if !ca.is_rotating() {
                    match bundles.changed().await {
                        Ok(()) => continue,
                        Err(_) => return,
                    }
                }
                // The leader hears the others each time it looks at the gate.
                let follows = !*leads.borrow();
                confer_once(&ca, follows).await;
                sleep(CONFER).await;
            }
        }
    }

    /// Follows what the leader makes of the state, and sees to it that this replica knows that it does.
    pub(super) fn follow(&self, ca: Arc<CertificateAuthority>) -> impl Future<Output = ()> + use<> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        async move {
            let config = watcher::Config::default().fields(&format!("metadata.name={STATE_SECRET}"));
            let mut events = Box::pin(watcher(api, config));
            loop {
                // Whoever has not read the state for a while signs nothing: a watch that is silent says nothing either way.
                let Ok(event) = timeout(REREAD, events.next()).await else {
                    refresh(&ca).await;
                    continue;
                };
                let Some(event) = event else { return };
                match event {
                    Ok(Event::Init | Event::InitApply(_)) => {}
                    Ok(Event::InitDone | Event::Apply(_)) => {
                        refresh(&ca).await;
                    }
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

async fn confer_once(ca: &Arc<CertificateAuthority>, hear: bool) {
    let shared = Arc::clone(ca);
    let conferred = tokio::task::spawn_blocking(move || {
        let now = SystemTime::now();
        shared.testify(now)?;
        if hear { shared.gather(now) } else { Ok(()) }
    });
    match conferred.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "the other replicas cannot be told of the rotation, or heard: trying again")
        }
        Err(error) => tracing::error!(%error, "telling the other replicas of the rotation was interrupted"),
    }
}

/// Reads the state; says whether it could be read.
async fn refresh(ca: &Arc<CertificateAuthority>) -> bool {
    let shared = Arc::clone(ca);
    match tokio::task::spawn_blocking(move || shared.refresh()).await {
        Ok(Ok(true)) => tracing::info!("the CA's state has changed: taken over"),
        Ok(Ok(false)) => {}
        Ok(Err(error)) => {
            tracing::error!(%error, "the CA's state could not be read again: going on with the one before for a while");
            return false;
        }
        Err(error) => {
            tracing::error!(%error, "reading the CA's state was interrupted");
            return false;
        }
    }
    true
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
