//! The issuance log of a CA that lies in a cluster does not grow for ever, and what is left of it can still be checked to its
//! beginning. The CA is used as a library here, so that time can pass.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use squire_ca::{
    authority::CertificateAuthority,
    log::{LogError, LogFault, Verified, verify_store},
    store::{ClusterStore, Store},
};
use squire_tests::{ApiServer, in_time};
use tokio::{
    sync::watch,
    task::{JoinSet, spawn_blocking},
};

use super::world::SYSTEM;

/// Certificates: some hundred lines fill a part of the log.
const ISSUED: usize = 400;
/// How many at once.
const AT_ONCE: usize = 40;
/// Of the log, bytes that stay in any case.
const KEPT: u64 = 60_000;

async fn issue(ca: &Arc<CertificateAuthority>, number: usize) {
    let mut tasks = JoinSet::new();
    for nth in 0..number {
        let (ca, id) = (Arc::clone(ca), format!("spiffe://cluster.local/ns/shop/sa/a{nth}"));
        tasks.spawn(async move {
            let issued = ca.issue_own(id.parse().unwrap(), None, SystemTime::now()).await;
            issued.unwrap();
        });
    }
    while let Some(done) = in_time("certificates are issued", tasks.join_next()).await {
        done.unwrap();
    }
}

async fn verified(store: &Arc<dyn Store>) -> Result<Verified, LogError> {
    let store = Arc::clone(store);
    spawn_blocking(move || verify_store(&*store, |_| {})).await.unwrap()
}

async fn pruned(ca: &Arc<CertificateAuthority>, later: Duration) -> u64 {
    let ca = Arc::clone(ca);
    let pruned = spawn_blocking(move || ca.prune_log(KEPT, SystemTime::now() + later));
    pruned.await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_issuance_log_in_a_cluster_is_bounded_and_its_chain_can_still_be_checked() {
    let Some(api) = ApiServer::start().await else { return };
    api.kubectl_succeeds(&["create", "namespace", SYSTEM], "").await;
    let (_leads, leads) = watch::channel(true);
    let replica = async |name: &str| {
        let store: Arc<dyn Store> = Arc::new(ClusterStore::new(api.client().await, SYSTEM, name, leads.clone()));
        store
    };
    let open = async |store: &Arc<dyn Store>| {
        let store = Arc::clone(store);
        let opened = spawn_blocking(move || CertificateAuthority::open(store, None, SystemTime::now()));
        opened.await.unwrap().unwrap()
    };
    let store = replica("one").await;
    let founded = Arc::clone(&store);
    spawn_blocking(move || CertificateAuthority::init(&founded, &"cluster.local".parse().unwrap(), SystemTime::now()))
        .await
        .unwrap()
        .unwrap();
    let ca = open(&store).await;
    // What waits together is written together, into one part.
    for _ in 0..ISSUED / AT_ONCE {
        issue(&ca, AT_ONCE).await;
    }
    let whole = verified(&store).await.unwrap().head;
    assert!(whole.bytes > 2 * KEPT, "{whole:?}");

    // While certificates are valid, nothing goes.
    assert_eq!(pruned(&ca, Duration::ZERO).await, 0);
    let gone = pruned(&ca, Duration::from_secs(25 * 3600)).await;
    assert!(gone > 0);
    let left = verified(&store).await.unwrap().head;
    assert!(left.count > whole.count, "that it was let go is an entry");
    let read = Arc::clone(&store);
    let base = spawn_blocking(move || read.log_base()).await.unwrap().unwrap();
    assert_eq!(base.count, gone, "what is left begins there");
    assert!(left.bytes - base.bytes < 3 * KEPT, "{left:?} {base:?}");
    let maps = [
        "get",
        "configmaps",
        "-n",
        SYSTEM,
        "-l",
        "squire.mesh/ca=log",
        "-o",
        "name",
    ];
    let maps = async || {
        api.kubectl_succeeds(&maps, "")
            .await
            .lines()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert!(maps().await.len() <= 3, "{:?}", maps().await);

    // It goes on from there, for whoever opens it, and the root's entry is carried along.
    let other = replica("other").await;
    let second = open(&other).await;
    issue(&second, 20).await;
    issue(&ca, 20).await;
    assert_eq!(verified(&other).await.unwrap().head.count, left.count + 40);
    let mut roots = 0;
    let carried = spawn_blocking(move || {
        verify_store(&*other, |entry| {
            roots += usize::from(serde_json::to_string(&entry).unwrap().contains("\"kind\":\"root\""));
        })
        .map(|_| roots)
    });
    assert!(carried.await.unwrap().unwrap() >= 1);

    // Whoever takes away more than the log says is found out.
    let oldest = maps().await[0].clone();
    api.kubectl_succeeds(&["delete", "-n", SYSTEM, &oldest], "").await;
    let fault = verified(&store).await.unwrap_err();
    assert!(matches!(fault, LogError::Fault(LogFault::Beginning { .. })), "{fault}");
}
