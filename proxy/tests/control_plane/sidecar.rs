//! The control side of one sidecar, put together as the process does it, without a data path.

use std::{fs, net::SocketAddr, sync::Arc, time::Duration};

use prometheus::Registry;
use prost::Message;
use prost_types::Any;
use squire_mesh::{
    policy::Table,
    wire::{
        discovery::{DeltaDiscoveryResponse, Resource},
        squire as wire,
    },
};
use squire_proxy::{
    config::{Config, Sources},
    identity::{self, Identity, Issued, Renewal},
    report::{Reporter, Standing},
    roots::Roots,
    state::{Kind, Snapshot, State, Store},
    vitals::Vitals,
    xds,
};
use tempfile::TempDir;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::timeout,
};

use crate::fake::{Ca, DOMAIN};

/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Identity, stream and reports of one sidecar; they end when it is dropped.
pub(crate) struct Sidecar {
    pub(crate) config: Arc<Config>,
    pub(crate) identity: identity::Receiver,
    pub(crate) state: State,
    pub(crate) registry: Registry,
    pub(crate) vitals: Arc<Vitals>,
    pub(crate) renew_now: Arc<Notify>,
    pub(crate) files: TempDir,
    /// Nobody tells anything here, but somebody could.
    _standing: watch::Sender<Standing>,
    _tasks: JoinSet<()>,
}

impl Sidecar {
    /// Starts with the CA's root in its bundle file, and extra settings.
    pub(crate) fn start(ca: &Ca, control: SocketAddr, settings: &[&str]) -> Self {
        let files = tempfile::tempdir().unwrap();
        let path = |name: &str| files.path().join(name).display().to_string();
        fs::write(path("root.pem"), ca.pem()).unwrap();
        fs::write(path("token"), "first-token\n").unwrap();
        let mut flags = vec![
            "workload=shop/web-0".to_owned(),
            format!("trustDomain={DOMAIN}"),
            format!("trustBundle={}", path("root.pem")),
            format!("token={}", path("token")),
            format!("control={control}"),
            "admin=127.0.0.1:0".to_owned(),
        ];
        flags.extend(settings.iter().map(|s| (*s).to_owned()));
        let config = Config::load(&Sources {
            flags,
            ..Sources::default()
        })
        .unwrap();
        Self::run(Arc::new(config), files)
    }

    fn run(config: Arc<Config>, files: TempDir) -> Self {
        let registry = Registry::new();
        let vitals = Arc::new(Vitals::register(&registry).unwrap());
        let roots = Roots::open(&config).unwrap();
        let (store, state) = Store::new(
            config.workload.clone(),
            config.trust_domain.clone(),
            Arc::clone(roots.at_start()),
        );
        let renew_now = Arc::new(Notify::new());
        let (renewal, identity) = Renewal::new(
            Arc::clone(&config),
            roots.clone(),
            state.clone(),
            Arc::clone(&vitals),
            Arc::clone(&renew_now),
        );
        let (client, channel) =
            xds::Client::new(Arc::clone(&config), roots, identity.clone(), store, Arc::clone(&vitals));
        let (standing, stands) = watch::channel(Standing::default());
        let reporter = Reporter {
            config: Arc::clone(&config),
            identity: identity.clone(),
            state: state.clone(),
            channel,
            admin: "0.0.0.0:15020".parse().unwrap(),
            standing: stands,
            vitals: Arc::clone(&vitals),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(renewal.run());
        tasks.spawn(client.run());
        tasks.spawn(reporter.run());
        Self {
            config,
            identity,
            state,
            registry,
            vitals,
            renew_now,
            files,
            _standing: standing,
            _tasks: tasks,
        }
    }

    /// Waits for an identity.
    pub(crate) async fn until_identity(&self, wanted: impl Fn(&Identity) -> bool) -> Identity {
        let mut identity = self.identity.clone();
        timeout(PATIENCE, identity.wait_for(|held| wanted(held)))
            .await
            .expect("in time")
            .unwrap()
            .clone()
    }

    /// Waits for an SVID of at least this generation.
    pub(crate) async fn issued(&self, generation: u64) -> Arc<Issued> {
        let wanted = |held: &Identity| held.valid().is_some_and(|issued| issued.generation >= generation);
        Arc::clone(self.until_identity(wanted).await.valid().unwrap())
    }

    /// Waits for a state.
    pub(crate) async fn until(&self, wanted: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let mut state = self.state.clone();
        timeout(PATIENCE, state.wait_for(|held| wanted(held)))
            .await
            .expect("in time")
            .unwrap()
            .clone()
    }

    /// Waits until a counter has reached a value.
    pub(crate) async fn until_counted(&self, name: &str, label: &str, at_least: f64) {
        let reached = async {
            while self.counted(name, label) < at_least {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, reached)
            .await
            .unwrap_or_else(|_| panic!("{name} {label} never reached {at_least}"));
    }

    /// The sum of a counter over the series that have a label value.
    pub(crate) fn counted(&self, name: &str, label: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).expect(name);
        let labelled = family
            .get_metric()
            .iter()
            .filter(|metric| metric.get_label().iter().any(|pair| pair.value() == label));
        labelled.map(|metric| metric.get_counter().get_value()).sum()
    }

    pub(crate) fn write(&self, file: &str, content: &str) {
        fs::write(self.files.path().join(file), content).unwrap();
    }
}

/// A response with these resources.
pub(crate) fn push(kind: Kind, nonce: &str, resources: Vec<Resource>, removed: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        system_version_info: format!("v-{nonce}"),
        resources,
        type_url: kind.type_url().to_owned(),
        nonce: nonce.to_owned(),
        removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
    }
}

/// A resource; its version is a digest of nothing but its bytes' length, which is all that tests look at.
pub(crate) fn resource<M: Message>(kind: Kind, name: &str, message: &M) -> Resource {
    Resource {
        version: message.encoded_len().to_string(),
        resource: Some(Any {
            type_url: kind.type_url().to_owned(),
            value: message.encode_to_vec(),
        }),
        name: name.to_owned(),
        ..Resource::default()
    }
}

/// A workload with one address.
pub(crate) fn workload(name: &str, account: &str, address: [u8; 4]) -> Resource {
    let message = wire::Workload {
        uid: format!("shop/{name}"),
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        service_account: account.to_owned(),
        trust_domain: DOMAIN.to_owned(),
        addresses: vec![address.to_vec().into()],
        transport: wire::Transport::Squire.into(),
        ..wire::Workload::default()
    };
    resource(Kind::Workload, &message.uid, &message)
}

/// A bundle of these CAs.
pub(crate) fn bundle(cas: &[&Ca], sequence: u64) -> Resource {
    let roots = cas.iter().map(|ca| ca.der().into()).collect();
    let message = wire::TrustBundle {
        trust_domain: DOMAIN.to_owned(),
        roots,
        sequence,
        ..Default::default()
    };
    resource(Kind::TrustBundle, DOMAIN, &message)
}

/// Our own policy: everything passes.
pub(crate) fn policy() -> Resource {
    resource(Kind::Policy, "shop/web-0", &wire::Policy::from(&Table::default()))
}

/// The first push of every kind.
pub(crate) fn everything(ca: &Ca) -> Vec<DeltaDiscoveryResponse> {
    vec![
        push(Kind::TrustBundle, "b1", vec![bundle(&[ca], 1)], &[]),
        push(Kind::Revocation, "r1", vec![], &["revocations"]),
        push(Kind::Workload, "w1", vec![workload("web-0", "web", [10, 0, 0, 1])], &[]),
        push(Kind::Service, "s1", vec![], &[]),
        push(Kind::Policy, "p1", vec![policy()], &[]),
    ]
}
