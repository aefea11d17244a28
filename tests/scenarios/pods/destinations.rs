//! Where redirected connections may lead: the pod's own Service, Services, headless ones and plain pod addresses, outside
//! the mesh, pods without a sidecar, the node.

use squire_tests::{Cluster, Mesh, Process, cluster::NODE, eventually, id, namespace};

use super::{ECHO, echo, endpoint, talk, talks};

#[tokio::test]
async fn a_pod_reaches_its_own_service_its_own_address_and_loopback_as_without_a_mesh() {
    if !namespace::possible() {
        return;
    }
    let mesh = Mesh::strict();
    // Nobody is let in: what a pod says to itself is not for policy.
    mesh.allow("nobody", "web", &[]);
    let cluster = Cluster::new(mesh);
    let web = cluster.pod("web", "squire");
    cluster.service("web", &["10.96.0.1", "fd96::1"], 80, 8080);
    cluster.start().await;
    let _server = echo(&web, 8080).await;
    let of_web = web.sidecar(&[]).await;
    for (vip, own) in ["10.96.0.1", "fd96::1"].iter().zip(&web.addresses()) {
        assert_eq!(
            talks(&web, vip, 80).await,
            format!("{own} {own}"),
            "through its Service"
        );
        assert_eq!(talk(&web, own, 8080, "hello", 1).await.unwrap(), format!("{own} {own}"));
    }
    assert_eq!(
        talk(&web, "127.0.0.1", 8080, "hello", 1).await.unwrap(),
        "127.0.0.1 127.0.0.1"
    );
    assert_eq!(talk(&web, "::1", 8080, "hello", 1).await.unwrap(), "::1 ::1");
    let line = of_web.logged(&[
        ("direction", "outbound"),
        ("address", "10.96.0.1:80"),
        ("outcome", "complete"),
    ]);
    assert_eq!(line.await["protocol"], "plaintext");
    let inbound = of_web
        .access_log()
        .into_iter()
        .filter(|line| line["direction"] == "inbound");
    assert_eq!(inbound.count(), 0, "none of them came in from outside");
}

#[tokio::test]
async fn services_headless_services_and_pod_addresses_lead_to_the_pods_behind_them_by_mutual_tls() {
    if !namespace::possible() {
        return;
    }
    let cluster = Cluster::new(Mesh::strict());
    let (web, db) = (cluster.pod("web", "squire"), cluster.pod("db", "squire"));
    let replica = cluster.pod("db-0", "squire");
    cluster.service("db", &["10.96.0.2", "fd96::2"], 80, 5432);
    cluster.service("db-0", &[], 5432, 5432);
    cluster.start().await;
    let _servers = (echo(&db, 5432).await, echo(&replica, 5432).await);
    let (of_web, of_db, _of_replica) = tokio::join!(web.sidecar(&[]), db.sidecar(&[]), replica.sidecar(&[]));
    for (vip, real) in ["10.96.0.2", "fd96::2"].iter().zip(&db.addresses()) {
        assert_eq!(talks(&web, vip, 80).await, format!("{real} {real}"));
        let line = of_web
            .logged(&[("address", &endpoint(vip, 80)), ("outcome", "complete")])
            .await;
        assert_eq!(
            (&line["protocol"], &line["destination"]),
            (&"squire/1".into(), &id("db").into())
        );
        of_db
            .logged(&[("address", &endpoint(real, 5432)), ("source", &id("web"))])
            .await;
    }
    // What the DNS says of a headless Service and of a StatefulSet's pod are the addresses of pods.
    for address in replica.addresses() {
        talks(&web, &address, 5432).await;
        let line = of_web
            .logged(&[("address", &endpoint(&address, 5432)), ("outcome", "complete")])
            .await;
        assert_eq!(
            (&line["protocol"], &line["destination"]),
            (&"squire/1".into(), &id("db-0").into())
        );
    }
    // A port the Service does not have, and one that nobody listens on.
    assert!(talk(&web, "10.96.0.2", 81, "hello", 1).await.is_err());
    of_web
        .logged(&[("address", "10.96.0.2:81"), ("outcome", "no_route")])
        .await;
    assert!(talk(&web, &db.v4(), 5433, "hello", 1).await.is_err());
    of_web
        .logged(&[
            ("address", &endpoint(&db.v4(), 5433)),
            ("outcome", "peer_app_unreachable"),
        ])
        .await;
}

#[tokio::test]
async fn outside_the_mesh_is_reached_as_it_is_unless_the_mesh_is_to_be_all_there_is() {
    if !namespace::possible() {
        return;
    }
    let cluster = Cluster::new(Mesh::strict());
    let (web, strict) = (cluster.pod("web", "squire"), cluster.pod("strict", "squire"));
    let outside = cluster.stranger("outside");
    cluster.start().await;
    let _server = echo(&outside, 443).await;
    let _app = echo(&web, 8080).await;
    let (of_web, of_strict) = tokio::join!(web.sidecar(&[]), strict.sidecar(&["unknownDestinations=refuse"]));
    for (address, own) in outside.addresses().iter().zip(&web.addresses()) {
        assert_eq!(talks(&web, address, 443).await, format!("{address} {own}"));
        let line = of_web
            .logged(&[("address", &endpoint(address, 443)), ("outcome", "complete")])
            .await;
        assert_eq!(line["protocol"], "plaintext");
        assert!(talk(&strict, address, 443, "hello", 1).await.is_err());
        let line = of_strict
            .logged(&[("address", &endpoint(address, 443)), ("outcome", "no_route")])
            .await;
        assert!(
            line["detail"].as_str().unwrap().contains("unknownDestinations"),
            "{line}"
        );
        // What the mesh knows is reached all the same.
        talks(&strict, own, 8080).await;
    }
}

#[tokio::test]
async fn pods_without_a_sidecar_are_spoken_to_in_plaintext_and_policy_sees_them() {
    if !namespace::possible() {
        return;
    }
    let mesh = Mesh::new();
    mesh.allow("web-alone", "guarded", &["web"]);
    let cluster = Cluster::new(mesh);
    let (web, plain) = (cluster.pod("web", "squire"), cluster.pod("plain", "plaintext"));
    let guarded = cluster.pod("guarded", "squire");
    cluster.start().await;
    let _servers = (
        echo(&plain, 8080).await,
        echo(&web, 8080).await,
        echo(&guarded, 8080).await,
    );
    let (of_web, of_guarded) = tokio::join!(web.sidecar(&[]), guarded.sidecar(&[]));
    for (theirs, ours) in plain.addresses().iter().zip(&web.addresses()) {
        talks(&web, theirs, 8080).await;
        let line = of_web
            .logged(&[("direction", "outbound"), ("address", &endpoint(theirs, 8080))])
            .await;
        assert_eq!(
            (&line["protocol"], &line["outcome"]),
            (&"plaintext".into(), &"complete".into()),
            "{line}"
        );
        // PERMISSIVE lets it in, without an identity.
        assert_eq!(
            talk(&plain, ours, 8080, "hello", 1).await.unwrap(),
            format!("{ours} {ours}")
        );
        let line = of_web
            .logged(&[("direction", "inbound"), ("address", &endpoint(ours, 8080))])
            .await;
        assert_eq!(line["protocol"], "plaintext", "{line}");
        assert!(line["source"].is_null(), "{line}");
    }
    // A rule for identities does not let it in.
    talks(&web, &guarded.v4(), 8080).await;
    const SPEAK: &str = "import socket, sys\nc = socket.create_connection((sys.argv[1], 8080), timeout=20)\n\
                         c.sendall(bytes(9))\nassert c.recv(1), 'closed without a word'";
    let asked = plain.tries("python3", &["-c", SPEAK, &guarded.v4()]).await;
    assert!(asked.is_err(), "{asked:?}");
    let line = of_guarded.logged(&[("outcome", "denied")]).await;
    assert!(line["source"].is_null(), "{line}");
}

#[tokio::test]
async fn pods_in_the_nodes_network_are_reached_and_reach_as_the_node_does() {
    if !namespace::possible() {
        return;
    }
    let cluster = Cluster::new(Mesh::new());
    let web = cluster.pod("web", "squire");
    let strict = cluster.pod("strict", "squire");
    cluster.declare("agent", "plaintext", "hostNetwork: true,", &NODE);
    cluster.start().await;
    let mut command = cluster.node().command_as(1000, "python3");
    let _agent = Process::start("agent", command.args(["-c", ECHO, "9100"]), cluster.mesh.dir());
    let _server = echo(&web, 8080).await;
    let (of_web, of_strict) = tokio::join!(web.sidecar(&[]), strict.sidecar(&["unknownDestinations=refuse"]));
    for (node, own) in NODE.iter().zip(&web.addresses()) {
        assert_eq!(talks(&web, node, 9100).await, format!("{node} {own}"));
        let line = of_web
            .logged(&[("address", &endpoint(node, 9100)), ("outcome", "complete")])
            .await;
        assert_eq!(line["protocol"], "plaintext");
        // Known to the mesh, though it is nobody's own address.
        talks(&strict, node, 9100).await;
        of_strict
            .logged(&[("address", &endpoint(node, 9100)), ("outcome", "complete")])
            .await;
        let mut client = cluster.node().command_as(1000, "python3");
        let output = client
            .args(["-c", super::TALK, own, "8080", "hello", "1"])
            .output()
            .await
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let line = of_web
            .logged(&[("direction", "inbound"), ("address", &endpoint(own, 8080))])
            .await;
        assert!(line["source"].is_null(), "{line}");
    }
}

#[tokio::test]
async fn an_application_that_listens_on_loopback_alone_is_out_of_reach_as_without_a_mesh() {
    if !namespace::possible() {
        return;
    }
    let cluster = Cluster::new(Mesh::strict());
    let (web, db) = (cluster.pod("web", "squire"), cluster.pod("db", "squire"));
    cluster.start().await;
    let _server = db.serves(5432, "python3", &["-c", ECHO, "5432", "127.0.0.1"]).await;
    let (_of_web, of_db) = tokio::join!(web.sidecar(&[]), db.sidecar(&[]));
    eventually("it is out of reach", async || {
        assert!(talk(&web, &db.v4(), 5432, "hello", 1).await.is_err());
        of_db
            .access_log()
            .iter()
            .any(|line| line["outcome"] == "app_unreachable")
            .then_some(())
    })
    .await;
    assert_eq!(
        talk(&db, "127.0.0.1", 5432, "hello", 1).await.unwrap(),
        "127.0.0.1 127.0.0.1"
    );
}
