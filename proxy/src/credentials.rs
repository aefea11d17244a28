//! What a TLS handshake needs of us: SVID, trust bundles and the rustls configurations made of them. Replaced as a whole
//! whenever either changes; its generation tells old mesh connections from new ones.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{ClientConfig, ServerConfig};
use squire_mesh::{
    bundle::TrustBundles,
    ports,
    spiffe::SpiffeId,
    tls::{ClientAuth, Expect, Svid, client_config, server_config},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    link::Framing,
    state::State,
    tls::{records::Engine, schedule::Catch},
};

/// Peers whose configuration is kept at most; then they are made anew.
const PEERS: usize = 1024;

/// Follows the credentials; `None` until the first SVID is there.
pub(crate) type CredentialsWatch = watch::Receiver<Option<Arc<Credentials>>>;

/// One SVID with the bundles of its time.
pub(crate) struct Credentials {
    /// Grows with every change of SVID or bundles.
    pub(crate) generation: u64,
    pub(crate) svid: Arc<Svid>,
    pub(crate) bundles: Arc<TrustBundles>,
    /// Which code protects records.
    pub(crate) engine: Engine,
    server: Arc<ServerConfig>,
    /// For dialling, by peer: all links to one share it.
    clients: Mutex<HashMap<(SpiffeId, Framing), Arc<ClientConfig>>>,
}

impl Credentials {
    fn new(generation: u64, svid: Arc<Svid>, bundles: Arc<TrustBundles>, engine: Engine) -> Self {
        let alpn = [ports::ALPN_SQUIRE, ports::ALPN_SPIFFE_TLS];
        let config = server_config(Arc::clone(&svid), Arc::clone(&bundles), ClientAuth::Required, &alpn);
        let mut server = Arc::unwrap_or_clone(config);
        if engine == Engine::Squire {
            server.enable_secret_extraction = true;
            server.key_log = Arc::new(Catch);
        }
        Self {
            generation,
            svid,
            bundles,
            engine,
            server: Arc::new(server),
            clients: Mutex::default(),
        }
    }

    /// For accepting peers.
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// For dialling exactly `expected`.
    pub(crate) fn client(&self, expected: &SpiffeId, framing: Framing) -> Arc<ClientConfig> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= PEERS {
            clients.clear();
        }
        let client = clients
            .entry((expected.clone(), framing))
            .or_insert_with(|| Arc::new(self.new_client(expected, framing)));
        Arc::clone(client)
    }

    fn new_client(&self, expected: &SpiffeId, framing: Framing) -> ClientConfig {
        let alpn = match framing {
            Framing::Squire => ports::ALPN_SQUIRE,
            Framing::Plain => ports::ALPN_SPIFFE_TLS,
        };
        let expected = Expect::Exact(expected.clone());
        let config = client_config(&self.svid, Arc::clone(&self.bundles), expected, &[alpn]);
        let mut client = Arc::unwrap_or_clone(config);
        if self.engine == Engine::Squire {
            client.enable_secret_extraction = true;
            client.key_log = Arc::new(Catch);
        }
        client
    }
}

/// Keeps the credentials current until `stop`.
pub(crate) async fn follow(
    mut identity: watch::Receiver<Option<Arc<Svid>>>,
    mut state: State,
    engine: Engine,
    publish: watch::Sender<Option<Arc<Credentials>>>,
    stop: CancellationToken,
) {
    let mut generation = 0;
    loop {
        let svid = identity.borrow_and_update().clone();
        let bundles = Arc::clone(&state.borrow_and_update().bundles);
        publish.send_if_modified(|current| {
            let unchanged = match (&*current, &svid) {
                (Some(current), Some(svid)) => {
                    Arc::ptr_eq(&current.svid, svid) && current.bundles.digest() == bundles.digest()
                }
                (None, None) => true,
                (None, Some(_)) | (Some(_), None) => false,
            };
            if !unchanged {
                generation += 1;
                *current = svid.map(|svid| Arc::new(Credentials::new(generation, svid, bundles, engine)));
            }
            !unchanged
        });
        tokio::select! {
            changed = identity.changed() => if changed.is_err() { return },
            changed = state.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}
