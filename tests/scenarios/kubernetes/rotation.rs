//! The root of a CA that three replicas share is rotated: sidecars report to whichever replica they reach, each of them signs,
//! and the one that leads is killed in every phase. Nobody is lost, and nobody who leads no more takes a step.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use squire_tests::{Figures, Sidecar, Signal, apps, eventually, http};

use super::{
    replicas::{balances, leader, log},
    world::{Replica, SYSTEM, World, gets_through},
};

/// Longer than a replica that is gone holds a gate.
const PATIENCE: Duration = Duration::from_secs(150);

/// What `squire ca …` prints about the CA of the cluster, as JSON.
async fn ca(world: &World, words: &[&str]) -> Value {
    let kubeconfig = world.api.kubeconfig().display().to_string();
    let cluster = [
        "--kubernetes",
        "--kubeconfig",
        &kubeconfig,
        "--control-namespace",
        SYSTEM,
    ];
    let output = world
        .mesh
        .squire(&[&["ca"], words, &cluster, &["-o", "json"]].concat())
        .await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "squire ca {words:?}: {said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The state of the CA as any replica shows it.
async fn status(replicas: &[Option<Replica>]) -> Option<Value> {
    for replica in replicas.iter().flatten() {
        if let Ok((200, page)) = http::get(replica.admin, "/ca/status").await {
            return serde_json::from_str(&page).ok();
        }
    }
    None
}

async fn reaches(replicas: &[Option<Replica>], phase: &str) -> Value {
    let begun = std::time::Instant::now();
    loop {
        let status = status(replicas).await;
        match status {
            Some(status) if status["phase"]["name"] == phase => return status,
            _ => assert!(begun.elapsed() < PATIENCE, "not in phase {phase}: {status:#?}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn distrust(sidecar: &Sidecar) -> Vec<Value> {
    let lines = sidecar.access_log().into_iter();
    let outcomes = [
        "peer_identity",
        "peer_refused_us",
        "handshake_failed",
        "cut_untrusted",
        "cut_expired",
    ];
    lines
        .filter(|line| outcomes.iter().any(|outcome| line["outcome"] == *outcome))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_shared_by_three_replicas_rotates_its_root_with_the_leader_killed_in_every_phase() {
    let Some(world) = World::new().await else { return };
    for (pod, account) in [("db", "db"), ("web", "web"), ("batch", "batch")] {
        world.pod(pod, account, "").await;
    }
    let addresses: Vec<SocketAddr> = (1..=3)
        .map(|number| SocketAddr::new(world.api.address(100 + number), 15012))
        .collect();
    let start = |number: usize| {
        let grpc = addresses[number];
        let admin = SocketAddr::new(grpc.ip(), 15014);
        world.replica(&format!("control-{number}"), grpc, admin, &world.api.kubeconfig())
    };
    let mut replicas: Vec<Option<Replica>> = (0..3).map(|number| Some(start(number))).collect();
    for replica in replicas.iter().flatten() {
        replica.ready().await;
    }
    let _grpc = balances(world.mesh.grpc(), addresses.clone()).await;
    let pages = addresses.iter().map(|grpc| SocketAddr::new(grpc.ip(), 15014));
    let _admin = balances(world.mesh.admin(), pages.collect()).await;
    let echo = apps::echo().await;
    // One after the other: each to the next replica.
    let db = world.sidecar("db", "db", Some(&echo), &[]).await;
    let web = world.sidecar("web", "web", None, &["db:5432"]).await;
    let batch = world.sidecar("batch", "batch", None, &["db:5432"]).await;
    let mut open = Some(gets_through(&web, "db:5432").await);
    let streams = async |replica: &Replica| {
        let page = replica.page("/metrics").await;
        Figures::new(page).sum("squire_control_reports_total", &[("outcome", "taken")])
    };
    let mut heard = 0;
    for replica in replicas.iter().flatten() {
        heard += usize::from(streams(replica).await > 0.0);
    }
    assert!(heard >= 2, "sidecars report to more than one replica");
    let before = status(&replicas).await.unwrap();
    let first = before["roots"][0]["key_id"].clone();

    assert_eq!(ca(&world, &["rotate"]).await["phase"], "distribute");
    for phase in ["distribute", "switch", "retire"] {
        reaches(&replicas, phase).await;
        // It comes back at once, as a Deployment brings it back; another one leads meanwhile.
        let leading = eventually("one leads", async || leader(&replicas).await).await;
        replicas[leading].take().unwrap().process.kill().await;
        if let Some(open) = &mut open {
            apps::round_trip(open, b"while the leader is dead").await.unwrap();
        }
        replicas[leading] = Some(start(leading));
        replicas[leading].as_ref().unwrap().ready().await;
        eventually("a sidecar gets through", async || {
            apps::echoes(batch.to("db:5432")).await.ok()
        })
        .await;
        if phase == "switch" {
            // It stands on the old root, and the gate waits until it has ended.
            drop(open.take());
        }
    }
    let stable = reaches(&replicas, "stable").await;
    assert_eq!(stable["roots"].as_array().unwrap().len(), 1, "{stable}");
    assert_ne!(stable["roots"][0]["key_id"], first);
    for sidecar in [&db, &web, &batch] {
        let generation = sidecar.figure("squire_svid_generation", &[]).await;
        sidecar.process.signal(Signal::USR1);
        sidecar.counts("squire_svid_generation", &[], generation + 1.0).await;
        assert!(distrust(sidecar).is_empty(), "{:#?}", distrust(sidecar));
    }
    gets_through(&web, "db:5432").await;

    // Revocation goes the same way.
    let batch_id = "spiffe://cluster.local/ns/shop/sa/batch";
    ca(&world, &["revoke", batch_id, "--reason", "lost"]).await;
    assert_eq!(ca(&world, &["revoked"]).await[0]["target"], batch_id);
    eventually("who is revoked is refused", async || {
        apps::echoes(batch.to("db:5432")).await.err()
    })
    .await;

    // One chain of entries, in which each step was taken once.
    let lines = log(&world).await;
    let entries: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let steps = entries.iter().filter(|entry| entry["event"]["kind"] == "rotation");
    let steps: Vec<_> = steps.map(|entry| entry["event"]["phase"].as_str().unwrap()).collect();
    assert_eq!(steps, ["distribute", "switch", "retire", "stable"]);
    for (number, entry) in entries.iter().enumerate() {
        assert_eq!(entry["seq"], number as u64 + 1);
    }
    let second = &stable["roots"][0]["key_id"];
    for (number, replica) in replicas.iter().enumerate() {
        let page: Value = serde_json::from_str(&replica.as_ref().unwrap().page("/ca/status").await).unwrap();
        assert_eq!(&page["roots"][0]["key_id"], second, "replica {number} has heard of it");
    }
}
