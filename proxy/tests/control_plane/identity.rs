//! How a sidecar becomes and stays somebody.

use std::time::{Duration, SystemTime};

use squire_proxy::identity::Identity;

use crate::{
    fake::{Ca, Event, Fake, WEB},
    sidecar::Sidecar,
};

const LABEL: &str = "squire_svid_renewals_total";

#[tokio::test]
async fn a_token_becomes_an_svid_and_the_svid_renews_itself_with_another_key() {
    let ca = Ca::new("root");
    let mut control = Fake::start(&ca, None).await;
    control.set(|b| b.lifetime = Duration::from_secs(6));
    let sidecar = Sidecar::start(&ca, control.address, &["svid.lifetime=10m"]);

    let first = sidecar.issued(1).await;
    assert_eq!(first.svid.id().to_string(), WEB);
    assert_eq!(first.svid.chain().len(), 1, "peers hold the root themselves");
    let (token, client, csr) = control
        .expect("the first request", |event| match event {
            Event::Issue {
                token,
                client,
                seconds: 600,
                csr,
            } => Some((token, client, csr)),
            _ => None,
        })
        .await;
    assert_eq!((token.as_deref(), client), (Some("Bearer first-token"), None));

    let second = sidecar.issued(2).await;
    let (token, client, renewed) = control.issue().await;
    assert_eq!(
        (token, client.map(|id| id.to_string()).as_deref()),
        (None, Some(WEB)),
        "by itself, not by token"
    );
    assert_ne!(csr, renewed, "a new key");
    assert_ne!(first.svid.serial(), second.svid.serial());
    let early = first
        .not_after
        .duration_since(SystemTime::now())
        .expect("renewed before the first one ended");
    assert!(early > Duration::from_secs(1), "{early:?} before the end");
    assert_eq!(sidecar.counted(LABEL, "failure"), 0.0);
}

#[tokio::test]
async fn a_sidecar_that_starts_before_the_control_plane_waits_for_it() {
    let ca = Ca::new("root");
    let reserved = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let sidecar = Sidecar::start(&ca, address, &[]);
    sidecar.until_counted(LABEL, "failure", 2.0).await;
    assert!(sidecar.identity.borrow().last().is_none());

    let _control = Fake::start(&ca, Some(address)).await;
    sidecar.issued(1).await;
}

#[tokio::test]
async fn a_server_that_is_not_the_control_plane_never_sees_the_token() {
    let ca = Ca::new("root");
    let mut impostor = Fake::start_as(&ca, ca.svid("spiffe://cluster.local/ns/shop/sa/batch"), None).await;
    let sidecar = Sidecar::start(&ca, impostor.address, &[]);
    sidecar.until_counted(LABEL, "failure", 2.0).await;
    assert!(impostor.events.try_recv().is_err(), "nothing was asked of it");

    let stranger = Ca::new("stranger");
    let mut impostor = Fake::start(&stranger, None).await;
    let sidecar = Sidecar::start(&ca, impostor.address, &[]);
    sidecar.until_counted(LABEL, "failure", 2.0).await;
    assert!(impostor.events.try_recv().is_err());
}

#[tokio::test]
async fn a_refused_token_is_read_again_and_helps_once_it_is_a_good_one() {
    let ca = Ca::new("root");
    let mut control = Fake::start(&ca, None).await;
    control.set(|b| b.refuse_token = true);
    let sidecar = Sidecar::start(&ca, control.address, &[]);
    control.issue().await;
    sidecar.write("token", "second-token");
    control.set(|b| b.refuse_token = false);
    sidecar.issued(1).await;
    let token = control
        .expect("the new token", |event| match event {
            Event::Issue { token, .. } if token.as_deref() == Some("Bearer second-token") => token,
            _ => None,
        })
        .await;
    assert!(token.contains("second"));
}

#[tokio::test]
async fn a_renewal_that_the_svid_does_not_get_is_tried_with_the_token() {
    let ca = Ca::new("root");
    let mut control = Fake::start(&ca, None).await;
    let sidecar = Sidecar::start(&ca, control.address, &[]);
    sidecar.issued(1).await;
    control.issue().await;
    control.set(|b| b.refuse_svid = true);
    sidecar.renew_now.notify_one();
    let (token, client, _) = control.issue().await;
    assert!(token.is_none() && client.is_some(), "the SVID first");
    let (token, client, _) = control.issue().await;
    assert!(token.is_some() && client.is_none(), "then the token");
    sidecar.issued(2).await;
}

#[tokio::test]
async fn an_svid_that_cannot_be_renewed_stays_until_it_ends_and_then_says_so() {
    let ca = Ca::new("root");
    let control = Fake::start(&ca, None).await;
    control.set(|b| b.lifetime = Duration::from_secs(5));
    let sidecar = Sidecar::start(&ca, control.address, &[]);
    let issued = sidecar.issued(1).await;
    control.set(|b| (b.refuse_svid, b.refuse_token) = (true, true));
    sidecar.until_counted(LABEL, "failure", 1.0).await;
    assert!(
        sidecar.identity.borrow().valid().is_some(),
        "a failure takes nothing away"
    );
    let expired = sidecar
        .until_identity(|held| matches!(held, Identity::Expired(_)))
        .await;
    assert_eq!(expired.last().map(|last| last.generation), Some(issued.generation));
    assert!(SystemTime::now() >= issued.not_after);
    assert_eq!(sidecar.counted(LABEL, "expired"), 1.0);

    control.set(|b| (b.refuse_token, b.lifetime) = (false, Duration::from_secs(3600)));
    assert_eq!(sidecar.issued(2).await.generation, 2, "the token brings it back");
}

#[tokio::test]
async fn an_answer_that_peers_would_not_accept_is_not_used() {
    let ca = Ca::new("root");
    let stranger = Ca::new("stranger");
    let control = Fake::start(&ca, None).await;
    control.set(|b| b.ca = stranger);
    let sidecar = Sidecar::start(&ca, control.address, &[]);
    sidecar.until_counted(LABEL, "failure", 1.0).await;
    assert!(
        sidecar.identity.borrow().last().is_none(),
        "signed by a CA that nobody here trusts"
    );
    let good = std::sync::Arc::clone(&ca);
    control.set(|b| (b.ca, b.identity) = (good, "spiffe://cluster.local/ns/shop/sa/other"));
    sidecar.issued(1).await;

    let strict = Sidecar::start(&ca, control.address, &[&format!("identity={WEB}")]);
    strict.until_counted(LABEL, "failure", 1.0).await;
    assert!(
        strict.identity.borrow().last().is_none(),
        "another identity than the configuration demands"
    );
}
