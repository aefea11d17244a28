//! A cluster is asked through its API server, with the rights of whoever asks: the port-forward of a kubelet, whose part the
//! tests' node plays with kubelet's own streaming library.

use std::{path::Path, process::Output};

use serde_json::Value;
use squire_tests::{apps, id};

use super::world::{SYSTEM, World, gets_through};

#[tokio::test(flavor = "multi_thread")]
async fn connections_policy_why_and_ca_status_reach_a_cluster_with_the_rights_of_whoever_asks() {
    let Some(world) = World::new().await else { return };
    world.api.node("node-1").await;
    for (pod, account) in [("db", "db"), ("web", "web")] {
        world.pod(pod, account, "").await;
        world.api.place(&format!("shop/{pod}"), world.mesh.address(pod));
    }
    // The control plane's own pod.
    let labels = "{app.kubernetes.io/name: squire-control}";
    let pod = format!(
        "---\n{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: squire-control, namespace: {SYSTEM}}}}}\n---\n\
         {{apiVersion: v1, kind: Pod, metadata: {{name: control-0, namespace: {SYSTEM}, labels: {labels}}}, spec: {{nodeName: \
         node-1, serviceAccountName: squire-control, containers: [{{name: control, image: squire}}]}}}}\n"
    );
    world.api.apply(&pod).await;
    let status = r#"{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}"#;
    let patch = [
        "patch",
        "pod",
        "control-0",
        "-n",
        SYSTEM,
        "--subresource=status",
        "--type=merge",
        "-p",
        status,
    ];
    world.kubectl(&patch).await;
    world.api.place(&format!("{SYSTEM}/control-0"), world.mesh.admin().ip());
    let _control = world.control().await;
    let echo = apps::echo().await;
    let _db = world.sidecar("db", "db", Some(&echo), &[]).await;
    let web = world.sidecar("web", "web", None, &["db:5432"]).await;
    let _open = gets_through(&web, "db:5432").await;

    let admin = world.api.kubeconfig();
    let shown = ask(&world, &admin, &["connections", "shop/db", "-o", "json"]).await;
    let connections: Value = serde_json::from_str(&succeeded(&shown)).unwrap();
    assert_eq!(connections[0]["source"], id("web"), "{connections}");
    let shown = ask(
        &world,
        &admin,
        &["policy", "why", "--from", "shop/web", "--to", "shop/db:5432"],
    )
    .await;
    assert!(succeeded(&shown).starts_with("ALLOW"), "{shown:?}");
    let shown = ask(&world, &admin, &["ca", "status", "-o", "json"]).await;
    let status: Value = serde_json::from_str(&succeeded(&shown)).unwrap();
    assert_eq!(status["trust_domain"], "cluster.local", "{status}");

    let stranger = world.api.kubeconfig_of("shop", "web").await;
    let refused = ask(&world, &stranger, &["ca", "status"]).await;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(69), "{why}");
    assert!(why.contains("cannot be listed") && why.contains("forbidden"), "{why}");
}

async fn ask(world: &World, kubeconfig: &Path, arguments: &[&str]) -> Output {
    let kubeconfig = kubeconfig.display().to_string();
    let cluster = ["--kubernetes", "--kubeconfig", &kubeconfig];
    world.mesh.squire(&[arguments, &cluster].concat()).await
}

fn succeeded(output: &Output) -> String {
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {why}", output.status);
    String::from_utf8(output.stdout.clone()).unwrap()
}
