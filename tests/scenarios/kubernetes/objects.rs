//! What is applied with kubectl is in force, what is wrong says so, and what comes later is picked up.

use std::net::{IpAddr, SocketAddr};

use squire_tests::{apps, eventually, id, kubernetes};
use tokio::{io::AsyncReadExt as _, net::TcpSocket};

use super::world::{World, gets_through, is_kept_out};

fn only(account: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: only, namespace: shop}}\nspec:\n  \
         selector: {{matchLabels: {{app: db}}}}\n  rules: [{{from: [{{source: {{principals: \
         [cluster.local/ns/shop/sa/{account}]}}}}]}}]\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_applied_with_kubectl_is_enforced_and_one_that_is_wrong_says_so_in_its_status_and_an_event() {
    let Some(world) = World::new().await else { return };
    world.pod("db", "db", "").await;
    world.pod("web", "web", "").await;
    let control = world.control().await;
    let echo = apps::echo().await;
    let db = world.sidecar("db", "db", Some(&echo), &[]).await;
    let web = world.sidecar("web", "web", None, &["db:5432"]).await;
    let mut open = gets_through(&web, "db:5432").await;
    assert_eq!(db.connections().await[0]["source"], id("web"));

    world.api.apply(&only("batch")).await;
    is_kept_out(&web, "db:5432").await;
    assert!(open.read(&mut [0; 1]).await.is_err(), "the open connection is cut");
    world.api.apply(&only("web")).await;
    gets_through(&web, "db:5432").await;

    // A field that does not exist: the last good state stays in force, and the policy says so.
    let wrong = only("batch").replace("rules:", "rulez:");
    world.api.apply(&wrong).await;
    let status = eventually("the status says what is wrong", async || {
        let arguments = [
            "get",
            "authorizationpolicy",
            "only",
            "-n",
            "shop",
            "-o",
            "jsonpath={.status.conditions[0]}",
        ];
        let status = world.kubectl(&arguments).await;
        status.contains("rulez").then_some(status)
    })
    .await;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(
        (&status["type"], &status["status"]),
        (&"squire.mesh/Accepted".into(), &"False".into()),
        "{status}"
    );
    eventually("an Event says it too", async || {
        let events = world.kubectl(&["get", "events", "-n", "shop", "-o", "wide"]).await;
        (events.contains("NotAccepted") && events.contains("rulez")).then_some(())
    })
    .await;
    control.problems(&["rulez", "only"]).await;
    gets_through(&web, "db:5432").await;
    assert!(control.figure("squire_control_stale_seconds", &[]).await >= 0.0);

    // Mended: the condition says so, once.
    world.api.apply(&only("web")).await;
    eventually("the status says that it is in force", async || {
        let arguments = [
            "get",
            "authorizationpolicy",
            "only",
            "-n",
            "shop",
            "-o",
            "jsonpath={.status.conditions[0].status}",
        ];
        (world.kubectl(&arguments).await == "True").then_some(())
    })
    .await;
    control.problems(&[]).await;
    world
        .kubectl(&["delete", "authorizationpolicy", "only", "-n", "shop"])
        .await;
    gets_through(&web, "db:5432").await;
    assert_eq!(
        control
            .figure("squire_control_remarks_total", &[("outcome", "failed")])
            .await,
        0.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn crds_that_appear_later_are_picked_up_and_only_what_a_change_concerns_is_compiled() {
    let Some(world) = World::with("").await else { return };
    world.pod("db", "db", "").await;
    world.pod("web", "web", "").await;
    let control = world.control().await;
    let echo = apps::echo().await;
    let _db = world.sidecar("db", "db", Some(&echo), &[]).await;
    let web = world.sidecar("web", "web", None, &["db:5432"]).await;
    gets_through(&web, "db:5432").await;
    let up = [("kind", "authorizationpolicies")];
    assert_eq!(control.figure("squire_control_watch_up", &up).await, 0.0);

    world.api.apply(&kubernetes::crd("AuthorizationPolicy")).await;
    eventually("the kind is followed", async || {
        (control.figure("squire_control_watch_up", &up).await == 1.0).then_some(())
    })
    .await;
    let before = control.figure("squire_control_tables_compiled_total", &[]).await;
    world.api.apply(&only("batch")).await;
    is_kept_out(&web, "db:5432").await;
    let after = control.figure("squire_control_tables_compiled_total", &[]).await;
    assert_eq!(after - before, 1.0, "one workload is selected");

    // The kind is gone, and its objects with it.
    world
        .kubectl(&["delete", "crd", "authorizationpolicies.security.istio.io"])
        .await;
    gets_through(&web, "db:5432").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pods_with_one_account_and_different_labels_are_told_apart_by_a_network_policy() {
    let Some(world) = World::new().await else { return };
    world.pod("db", "db", "").await;
    world.pod("front", "web", "role: front").await;
    world.pod("back", "web", "role: back").await;
    let _control = world.control().await;
    let echo = apps::echo().await;
    let _db = world.sidecar("db", "db", Some(&echo), &[]).await;
    let front = world.sidecar("front", "web", None, &["db:5432"]).await;
    let back = world.sidecar("back", "web", None, &["db:5432"]).await;
    gets_through(&front, "db:5432").await;
    gets_through(&back, "db:5432").await;
    world
        .api
        .apply(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: front, namespace: shop}\nspec:\n  \
             podSelector: {matchLabels: {app: db}}\n  ingress: [{from: [{podSelector: {matchLabels: {role: front}}}]}]\n",
        )
        .await;
    is_kept_out(&back, "db:5432").await;
    gets_through(&front, "db:5432").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_own_node_is_never_blocked_by_a_network_policy_and_other_machines_are() {
    let Some(world) = World::new().await else { return };
    world.pod("db", "db", "").await;
    let node = world.mesh.address("node-1");
    world
        .api
        .apply("{apiVersion: v1, kind: Node, metadata: {name: node-1}}\n")
        .await;
    let status = format!(r#"{{"status":{{"addresses":[{{"type":"InternalIP","address":"{node}"}}]}}}}"#);
    let patch = [
        "patch",
        "node",
        "node-1",
        "--subresource=status",
        "--type=merge",
        "-p",
        &status,
    ];
    world.kubectl(&patch).await;
    let _control = world.control().await;
    let echo = apps::echo().await;
    let db = world.sidecar("db", "db", Some(&echo), &[]).await;
    world
        .api
        .apply(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: nobody, namespace: shop}\nspec: \
             {podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress]}\n",
        )
        .await;
    let from = async |address: IpAddr| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(address, 0)).unwrap();
        let mut stream = socket.connect(db.inbound(5432)).await?;
        apps::round_trip(&mut stream, b"probe").await
    };
    let stranger = world.mesh.address("stranger");
    eventually("another machine is kept out", async || from(stranger).await.err()).await;
    from(node).await.expect("a probe of the kubelet gets through");
}

/// A condition of a route at its first parent.
async fn condition(world: &World, kind: &str) -> serde_json::Value {
    let route = world
        .kubectl(&["get", "httproute", "split", "-n", "shop", "-o", "json"])
        .await;
    let route: serde_json::Value = serde_json::from_str(&route).unwrap();
    let parents = route["status"]["parents"].as_array().cloned().unwrap_or_default();
    let ours = parents
        .iter()
        .find(|entry| entry["controllerName"] == "squire.mesh/control");
    let conditions = ours.and_then(|entry| entry["conditions"].as_array()).cloned();
    let conditions = conditions.unwrap_or_default();
    let found = conditions.into_iter().find(|condition| condition["type"] == kind);
    found.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_says_in_its_status_whether_it_is_in_force_and_its_backends_are_there() {
    let Some(world) = World::new().await else { return };
    let _control = world.control().await;
    let route = |backend: &str, port: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: split, namespace: shop}}\nspec:\n  parentRefs: \
             [{{group: '', kind: Service, name: db, port: {port}}}]\n  rules: [{{backendRefs: [{{name: {backend}, port: 80}}]}}]\n"
        )
    };
    let becomes = async |kind: &str, status: &str, reason: &str| {
        eventually(&format!("{kind} is {status}: {reason}"), async || {
            let condition = condition(&world, kind).await;
            (condition["status"] == status && condition["reason"] == reason).then_some(())
        })
        .await;
    };
    world.api.apply(&route("db", "80")).await;
    becomes("Accepted", "False", "NoMatchingParent").await;
    world
        .api
        .apply("{apiVersion: v1, kind: Service, metadata: {name: db, namespace: shop}, spec: {selector: {app: db}, ports: [{name: http, port: 80}]}}\n")
        .await;
    becomes("Accepted", "True", "Accepted").await;
    becomes("ResolvedRefs", "True", "ResolvedRefs").await;

    // Another controller's entry stays.
    let other = r#"{"status":{"parents":[{"controllerName":"other.example/gateway","parentRef":{"name":"gw"},"conditions":[]}]}}"#;
    world
        .kubectl(&[
            "patch",
            "httproute",
            "split",
            "-n",
            "shop",
            "--subresource=status",
            "--type=merge",
            "-p",
            other,
        ])
        .await;
    world.api.apply(&route("cache", "80")).await;
    becomes("ResolvedRefs", "False", "BackendNotFound").await;
    becomes("Accepted", "True", "Accepted").await;
    let parents = [
        "get",
        "httproute",
        "split",
        "-n",
        "shop",
        "-o",
        "jsonpath={.status.parents[*].controllerName}",
    ];
    assert_eq!(
        world.kubectl(&parents).await,
        "other.example/gateway squire.mesh/control"
    );
    world.api.apply(&route("db", "99999")).await;
    becomes("Accepted", "False", "UnsupportedValue").await;
}
