//! How a sidecar follows the control plane.

use std::sync::Arc;

use squire_mesh::wire::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use squire_proxy::state::Kind;
use tokio::sync::mpsc;
use tonic::Status;

use crate::{
    fake::{Ca, Fake, WEB},
    sidecar::{Sidecar, bundle, everything, push, workload},
};

type Send = mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>;

async fn send(stream: &Send, responses: Vec<DeltaDiscoveryResponse>) {
    for response in responses {
        stream.send(Ok(response)).await.unwrap();
    }
}

async fn synced(ca: &Arc<Ca>, control: &mut Fake) -> (Sidecar, Send) {
    let sidecar = Sidecar::start(ca, control.address, &[]);
    let stream = control.stream().await;
    send(&stream, everything(ca)).await;
    sidecar.until(|state| state.tables.complete()).await;
    (sidecar, stream)
}

fn first_of(kind: Kind) -> impl Fn(&DeltaDiscoveryRequest) -> bool {
    move |request| request.type_url == kind.type_url() && request.response_nonce.is_empty()
}

fn answer_to(nonce: &str) -> impl Fn(&DeltaDiscoveryRequest) -> bool + '_ {
    move |request| request.response_nonce == nonce
}

#[tokio::test]
async fn the_first_push_is_asked_for_applied_and_acknowledged() {
    let ca = Ca::new("root");
    let mut control = Fake::start(&ca, None).await;
    let sidecar = Sidecar::start(&ca, control.address, &[]);
    let stream = control.stream().await;
    let first = control.request(first_of(Kind::TrustBundle)).await;
    assert_eq!(
        first.node.map(|node| node.id).as_deref(),
        Some("shop/web-0"),
        "who asks comes first"
    );
    assert!(
        control
            .request(first_of(Kind::Workload))
            .await
            .resource_names_subscribe
            .is_empty(),
        "everything"
    );
    assert_eq!(
        control.request(first_of(Kind::Policy)).await.resource_names_subscribe,
        ["shop/web-0"]
    );

    send(&stream, everything(&ca)).await;
    let state = sidecar.until(|state| state.tables.complete()).await;
    assert!(state.policy.is_some());
    assert_eq!(
        state
            .me
            .as_ref()
            .and_then(|me| me.identity.as_ref())
            .map(ToString::to_string)
            .as_deref(),
        Some(WEB)
    );
    for nonce in ["b1", "r1", "w1", "s1", "p1"] {
        assert_eq!(control.request(answer_to(nonce)).await.error_detail, None, "{nonce}");
    }
}

#[tokio::test]
async fn a_malformed_update_is_refused_with_the_reason_and_the_last_good_state_stays() {
    let ca = Ca::new("root");
    let mut control = Fake::start(&ca, None).await;
    let (sidecar, stream) = synced(&ca, &mut control).await;
    let mut bad = workload("db-0", "db", [10, 0, 0, 9]);
    bad.resource.as_mut().unwrap().value = vec![0xff, 0xff];
    let good = workload("api-0", "api", [10, 0, 0, 8]);
    send(
        &stream,
        vec![push(Kind::Workload, "w2", vec![good, bad], &["shop/web-0"])],
    )
    .await;
    let refusal = control.request(answer_to("w2")).await.error_detail.expect("a reason");
    assert!(
        refusal.message.contains("shop/db-0: cannot be decoded"),
        "{}",
        refusal.message
    );
    let state = sidecar.state.borrow().clone();
    assert_eq!(state.counts().0, 1, "neither the good part nor the removal was applied");
    assert!(state.me.is_some() && state.tables.of(Kind::Workload).refused.is_some());
    assert_eq!(sidecar.counted("squire_state_updates_total", "refused"), 1.0);

    let unknown = DeltaDiscoveryResponse {
        type_url: "type.googleapis.com/other".to_owned(),
        ..push(Kind::Workload, "x1", vec![], &[])
    };
    send(&stream, vec![unknown]).await;
    assert!(
        control.request(answer_to("x1")).await.error_detail.is_some(),
        "what was not asked for is refused"
    );

    send(
        &stream,
        vec![push(
            Kind::Workload,
            "w3",
            vec![workload("db-0", "db", [10, 0, 0, 9])],
            &[],
        )],
    )
    .await;
    assert_eq!(
        control.request(answer_to("w3")).await.error_detail,
        None,
        "the stream goes on"
    );
    assert_eq!(
        sidecar
            .until(|state| state.counts().0 == 2)
            .await
            .tables
            .of(Kind::Workload)
            .refused,
        None
    );
}

#[tokio::test]
async fn after_a_control_plane_restart_the_stream_resumes_with_what_is_held() {
    let ca = Ca::new("root");
    let mut control = Fake::start(&ca, None).await;
    let (sidecar, stream) = synced(&ca, &mut control).await;
    let before = sidecar.state.borrow().clone();
    drop(stream);
    let address = control.kill().await;
    sidecar
        .until_counted("squire_control_streams_total", "failure", 1.0)
        .await;
    let alone = sidecar.state.borrow().clone();
    assert!(
        alone.tables.complete() && alone.policy.is_some(),
        "the last good state stays"
    );

    let mut control = Fake::start(&ca, Some(address)).await;
    let stream = control.stream().await;
    let resumed = control.request(first_of(Kind::Workload)).await;
    assert_eq!(
        resumed.initial_resource_versions.keys().collect::<Vec<_>>(),
        ["shop/web-0"]
    );
    let resumed = control.request(first_of(Kind::Policy)).await;
    assert_eq!(
        resumed.initial_resource_versions.keys().collect::<Vec<_>>(),
        ["shop/web-0"]
    );
    send(
        &stream,
        vec![push(
            Kind::Workload,
            "w9",
            vec![workload("db-0", "db", [10, 0, 0, 9])],
            &[],
        )],
    )
    .await;
    let after = sidecar.until(|state| state.counts().0 == 2).await;
    let same = |a: &squire_proxy::state::Snapshot| a.policy.as_ref().map(Arc::as_ptr);
    assert_eq!(
        same(&before),
        same(&after),
        "what did not change was not sent, and not replaced"
    );
}

#[tokio::test]
async fn a_rotation_of_the_root_reaches_bundle_svid_and_reports() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let mut control = Fake::start(&old, None).await;
    let (sidecar, stream) = synced(&old, &mut control).await;
    let first = sidecar.issued(1).await;
    let report = control.report(|report| report.workload == "shop/web-0").await;
    assert_eq!(report.svid_serial, first.svid.serial().to_string());
    assert_eq!(report.svid_root, first.root.to_string());
    assert!(report.now > 0 && report.svid_not_after > report.now);

    send(
        &stream,
        vec![push(Kind::TrustBundle, "b2", vec![bundle(&[&old, &new], 2)], &[])],
    )
    .await;
    let both = sidecar
        .until(|state| state.bundles.iter().any(|b| b.roots().len() == 2))
        .await;
    let digest = both.bundles.digest().to_owned();
    control.report(|report| report.bundle_digest == digest).await;
    assert_eq!(
        sidecar.identity.borrow().last().map(|i| i.generation),
        Some(1),
        "no need to renew yet"
    );

    let signer = Arc::clone(&new);
    control.set(|b| b.ca = signer);
    sidecar.renew_now.notify_one();
    let second = sidecar.issued(2).await;
    assert_ne!(first.root, second.root);
    control
        .report(|report| report.svid_root == second.root.to_string())
        .await;
}

#[tokio::test]
async fn an_svid_whose_root_leaves_the_bundle_is_renewed_at_once() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let mut control = Fake::start(&old, None).await;
    let (sidecar, stream) = synced(&old, &mut control).await;
    sidecar.issued(1).await;
    send(
        &stream,
        vec![push(Kind::TrustBundle, "b2", vec![bundle(&[&new], 2)], &[])],
    )
    .await;
    control.request(answer_to("b2")).await;
    drop(stream);
    let address = control.kill().await;
    let _control = Fake::start(&new, Some(address)).await;
    let second = sidecar.issued(2).await;
    assert!(new.bundles().holds(second.svid.id().trust_domain(), second.root));
}

#[tokio::test]
async fn a_changed_bundle_file_helps_where_the_pushed_roots_no_longer_do() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let mut control = Fake::start(&old, None).await;
    let (sidecar, stream) = synced(&old, &mut control).await;
    drop(stream);
    let address = control.kill().await;
    // While it was cut off the root was replaced, and an admin has put the new one into the file.
    sidecar.write("root.pem", &new.pem());
    let mut control = Fake::start(&new, Some(address)).await;
    sidecar.renew_now.notify_one();
    sidecar.issued(2).await;
    control.stream().await;
}
