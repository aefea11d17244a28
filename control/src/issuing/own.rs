//! The control plane's own certificate: issued by the CA that it hosts, renewed in time and when another root signs, shown by
//! the listener, and reported as evidence like that of any other holder.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use squire_ca::{authority::CertificateAuthority, roster::Evidence};
use squire_mesh::{
    bundle::{TrustBundle, TrustBundles},
    ports,
    spiffe::SpiffeId,
    svid::{Role, identify},
    tls::{ClientAuth, Svid, open_server_config, server_config},
};
use tokio::sync::watch;

use super::RETRY;
use crate::{config::Config, error::ControlError, listener::Tls};

/// Our own identity, which proxies expect when they dial.
pub(super) fn own_id(config: &Config) -> Result<SpiffeId, ControlError> {
    SpiffeId::workload(&config.trust_domain, ports::SYSTEM_NAMESPACE, ports::CONTROL_ACCOUNT)
        .map_err(|error| ControlError::ca(&config.ca_dir, &error))
}

pub(super) fn settings(svid: &Arc<Svid>, bundle: &TrustBundle) -> Tls {
    let bundles = Arc::new(TrustBundles::new([bundle.clone()]));
    let config = server_config(Arc::clone(svid), Arc::clone(&bundles), ClientAuth::Optional, &[b"h2"]);
    let open = open_server_config(svid, &[b"http/1.1"]);
    Tls {
        config,
        open,
        svid: Arc::clone(svid),
        bundles,
    }
}

/// Renews our own certificate at half of its life and when another root signs, and shows it with the current bundle.
pub(super) async fn renew(
    ca: Arc<CertificateAuthority>,
    id: SpiffeId,
    svid: Svid,
    mut bundles: watch::Receiver<Arc<TrustBundle>>,
    tls: watch::Sender<Arc<Tls>>,
) {
    let mut svid = Arc::new(svid);
    let mut wait = half_life(&svid);
    loop {
        report_own(&ca, &svid, &bundles.borrow());
        tokio::select! {
            () = tokio::time::sleep(wait) => match ca.issue_own(id.clone(), None, SystemTime::now()).await {
                Ok(new) => {
                    tracing::info!(serial = %new.serial(), "our own certificate has been renewed");
                    svid = Arc::new(new);
                    wait = half_life(&svid);
                }
                Err(error) => {
                    tracing::error!(%error, "our own certificate could not be renewed; trying again");
                    wait = RETRY;
                    continue;
                }
            },
            changed = bundles.changed() => {
                if changed.is_err() {
                    return;
                }
                wait = if is_outdated(&svid, &bundles.borrow()) { Duration::ZERO } else { half_life(&svid) };
            }
        }
        let next = settings(&svid, &bundles.borrow_and_update());
        tls.send_replace(Arc::new(next));
    }
}

/// Half of what is left of a certificate's life; a minute at most when clocks are odd.
fn half_life(svid: &Svid) -> Duration {
    let left = svid.not_after().duration_since(SystemTime::now()).unwrap_or_default();
    (left / 2).max(RETRY)
}

/// What we show and trust ourselves, for the evidence that a rotation waits for.
fn report_own(ca: &CertificateAuthority, svid: &Svid, bundle: &TrustBundle) {
    let now = SystemTime::now();
    let bundles = TrustBundles::new([bundle.clone()]);
    match identify(svid.chain(), &bundles, now, Role::Server) {
        Ok(own) => {
            let evidence = Evidence {
                bundle_digest: bundle.digest(),
                bundle_sequence: bundle.sequence(),
                svid_root: own.root().to_string(),
                svid_serial: svid.serial().to_string(),
                svid_not_after: svid.not_after(),
                stands_on_old_root: false,
            };
            ca.roster().report(svid.id().clone(), ca.own_workload(), evidence, now);
        }
        Err(error) => tracing::error!(%error, "our own certificate is not good under our own roots"),
    }
}

/// Whether another root signs now than the one our certificate stands on.
fn is_outdated(svid: &Svid, bundle: &TrustBundle) -> bool {
    let bundles = TrustBundles::new([bundle.clone()]);
    let own = identify(svid.chain(), &bundles, SystemTime::now(), Role::Server);
    match (own, bundle.signing()) {
        (Ok(own), Some(signing)) => own.root() != signing.root,
        (Ok(_), None) => false,
        (Err(_), _) => true,
    }
}
