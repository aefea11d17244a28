//! What the sidecar asks of others for the sake of a request: keys that verify tokens, and external authorization. One
//! [`Callouts`] for the whole sidecar; it decides nothing itself.
//!
//! The data path, for each request that policy has to look at:
//! 1. `callouts.verify_token(&table, &view).await`: `Err(reply)` is written as it is (401); else the claims go to
//!    `policy::Http::with_claims`, and the edits into the request's head.
//! 2. `callouts.body_wanted(&table, &request)`: how much of the body providers want to see first, if any.
//! 3. `callouts.ask(&table, &request, Some(&view), body, &context).await`: for connections of bytes, `None` for the view.
//! 4. `policy::decide_inbound(&table, &request.with_answers(&answered))`; where it denies because of a provider,
//!    `answered.reply` is what the client gets. Allowed: `answered.edits` after those of the token, and
//!    `answered.response` for the head of the application's response.
//!
//! None of these futures borrows what it was made from: requests and views may go away before they are awaited.

pub(crate) mod client;
pub(crate) mod connect;
pub(crate) mod mesh;
pub(crate) mod metrics;
pub(crate) mod outside;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use prometheus::Registry;
use squire_mesh::policy::{Request, Table};

use self::{client::Client, connect::Connect, metrics::CalloutMetrics, outside::Tls};
use crate::{
    ext_authz::{Answered, Asker, Body, Context},
    http::RequestView,
    jwt::{Pace, Verification, Verifier},
};

/// Tokens and providers of one sidecar.
pub(crate) struct Callouts {
    verifier: Verifier,
    asker: Asker,
}

impl Callouts {
    /// Reaches providers and key servers by `connect` (usually [`mesh::Mesh`]); servers outside of the mesh that are asked
    /// by `https` must show a certificate of `roots`, a PEM file (none: the system's). Keys of tokens are fetched again after
    /// `keys_refresh`.
    ///
    /// # Errors
    /// When a metric is declared twice.
    pub(crate) fn new(
        connect: Arc<dyn Connect>,
        roots: Option<PathBuf>,
        keys_refresh: Duration,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        let metrics = Arc::new(CalloutMetrics::register(registry)?);
        let client = Arc::new(Client::new(connect, Tls::new(roots)));
        Ok(Self {
            verifier: Verifier::new(Arc::clone(&client), Arc::clone(&metrics), Pace::every(keys_refresh)),
            asker: Asker::new(client, metrics),
        })
    }

    /// Keeps what has been fetched from growing old; called every second.
    pub(crate) fn refresh(&self) {
        let _ = self.verifier.refresh_keys();
    }

    /// Verifies the tokens of a request. At once where the keys are there; `Err` is the reply that refuses it.
    pub(crate) fn verify_token(&self, table: &Table, view: &RequestView<'_>) -> Verification {
        self.verifier.verify(&table.issuers, view, SystemTime::now())
    }

    /// How many bytes of the request's body the providers that have to be asked want to see; 0: none.
    pub(crate) fn body_wanted(&self, table: &Table, request: &Request<'_>) -> usize {
        Asker::body_wanted(table, request)
    }

    /// Asks every provider that has to be asked about a request, or about a connection of bytes (no view), until one
    /// denies. At once where none has to be.
    pub(crate) fn ask(
        &self,
        table: &Table,
        request: &Request<'_>,
        view: Option<&RequestView<'_>>,
        body: Body<'_>,
        context: &Context<'_>,
    ) -> impl Future<Output = Answered> + Send + use<> {
        self.asker.ask(table, request, view, body, context)
    }
}
