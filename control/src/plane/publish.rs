//! What is pushed beside the objects whenever it changes: who is revoked, and the trust bundles.

use std::sync::Arc;

use squire_mesh::{bundle::TrustBundle, ports, svid::Revocations, wire::squire as wire};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::follow::Revoked;
use crate::{
    metrics::Metrics,
    pipeline::record,
    push::{Catalog, Kind, Resource},
};

/// What the CA has revoked, and what is revoked because of the objects.
pub(super) fn all_revoked(
    ca: Revoked,
    objects: Option<Revoked>,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> Revoked {
    let Some(objects) = objects else { return ca };
    let (sender, all) = watch::channel(Arc::new(merged(&ca, &objects)));
    let (mut ca, mut objects, stop) = (ca, objects, stop.clone());
    tasks.spawn(async move {
        loop {
            let changed = tokio::select! {
                () = stop.cancelled() => return,
                changed = ca.changed() => changed,
                changed = objects.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
            ca.mark_unchanged();
            objects.mark_unchanged();
            sender.send_replace(Arc::new(merged(&ca, &objects)));
        }
    });
    all
}

fn merged(ca: &Revoked, objects: &Revoked) -> Revocations {
    let mut all = (**objects.borrow()).clone();
    all.extend(&ca.borrow());
    all
}

/// Pushes what is revoked whenever it changes.
pub(super) async fn publish_revocations(
    mut revoked: watch::Receiver<Arc<Revocations>>,
    catalog: Arc<Catalog>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    loop {
        let message = wire::Revocation::from(&**revoked.borrow_and_update());
        let resource = Resource::new(Kind::Revocation, ports::REVOCATIONS.into(), &message);
        for (kind, published) in catalog.publish([(Kind::Revocation, vec![resource])], None) {
            record(&metrics, kind, published);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = revoked.changed() => if changed.is_err() { return },
        }
    }
}

/// Pushes our CA's bundle, and beside it those of other trust domains, whenever one of them changes.
pub(super) async fn publish_bundles(
    mut own: watch::Receiver<Arc<TrustBundle>>,
    mut federated: watch::Receiver<Arc<[TrustBundle]>>,
    catalog: Arc<Catalog>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    loop {
        let bundle = Arc::clone(&own.borrow_and_update());
        let others = Arc::clone(&federated.borrow_and_update());
        let resource = |bundle: &TrustBundle| {
            let name = bundle.trust_domain().as_str().into();
            Resource::new(Kind::TrustBundle, name, &wire::TrustBundle::from(bundle))
        };
        let strangers = others
            .iter()
            .filter(|other| other.trust_domain() != bundle.trust_domain());
        let resources = std::iter::once(&*bundle).chain(strangers).map(resource).collect();
        for (kind, published) in catalog.publish([(Kind::TrustBundle, resources)], None) {
            record(&metrics, kind, published);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = own.changed() => if changed.is_err() { return },
            changed = federated.changed() => if changed.is_err() { return },
        }
    }
}
