//! Sidecars that subscribe on demand: they hold what their connections need and nothing else, and know as much about it
//! as if they held everything.

mod revoked;

use std::fmt::Write as _;

use squire_tests::{
    Mesh, Sidecar, apps,
    backend::Backend,
    eventually,
    http::Client,
    http2::{self, Http2App},
    id, in_time,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ON_DEMAND: &str = "subscription.mode=on-demand";

/// A Service of the pods labelled `app: <name>`.
fn service(mesh: &Mesh, name: &str, vip: &str, port: u16) {
    mesh.write(
        &format!("service-{name}.yaml"),
        &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{clusterIP: {vip}, selector: \
             {{app: {name}}}, ports: [{{name: any, port: {port}, targetPort: {port}}}]}}\n"
        ),
    );
}

/// Only pods with this label reach `db`.
fn only(mesh: &Mesh, app: &str) {
    mesh.write(
        "only.yaml",
        &format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: only, namespace: shop}}\nspec: \
             {{podSelector: {{matchLabels: {{app: db}}}}, ingress: [{{from: [{{podSelector: {{matchLabels: {{app: \
             {app}}}}}}}]}}]}}\n"
        ),
    );
}

/// A thousand pods that nobody here talks to.
fn crowd(mesh: &Mesh) {
    let mut pods = String::new();
    for at in 0..1_000 {
        let _ = write!(
            pods,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: other-{at}, namespace: shop, labels: {{app: others}}, \
             annotations: {{squire.mesh/transport: squire}}}}\nspec: {{serviceAccountName: other, containers: [{{name: \
             app}}]}}\nstatus: {{phase: Running, podIP: 10.9.{}.{}}}\n",
            at / 250,
            at % 250
        );
    }
    mesh.write("crowd.yaml", &pods);
}

async fn workloads(sidecar: &Sidecar) -> f64 {
    sidecar.figure("squire_state_workloads", &[]).await
}

async fn questions(sidecar: &Sidecar) -> f64 {
    sidecar.figure("squire_subscription_questions_total", &[]).await
}

#[tokio::test]
async fn of_a_thousand_pods_a_sidecar_holds_its_own_and_those_it_talks_to_and_knows_them_by_name_label_and_address() {
    let mesh = Mesh::strict();
    crowd(&mesh);
    only(&mesh, "web");
    let (echo, pages) = (apps::echo().await, Backend::start("pages").await);
    let db = mesh.pod("db").set(ON_DEMAND).serves(5432, echo.address());
    let web = mesh.pod("web").set(ON_DEMAND).serves(8080, pages.address());
    let batch = mesh.pod("batch").set(ON_DEMAND).reaches("db:5432");
    service(&mesh, "db", "10.96.0.1", 5432);
    service(&mesh, "web", "10.96.0.2", 8080);
    mesh.start().await;
    let to = [
        "db:5432",
        "10.96.0.1:5432",
        "db.shop.svc.cluster.local:5432",
        "db.shop:5432",
    ];
    let web = to.iter().fold(web, |web, to| web.reaches(to));
    let db = db
        .reaches("web:8080")
        .reaches("10.96.0.2:8080")
        .reaches("web.shop:8080");
    let (db, web, batch) = tokio::join!(db.start(), web.start(), batch.start());
    for sidecar in [&db, &web, &batch] {
        assert_eq!(workloads(sidecar).await, 1.0, "its own");
        assert_eq!(
            sidecar.figure("squire_state_services", &[]).await,
            2.0,
            "services are whole"
        );
    }

    for to in to {
        apps::echoes(web.to(to)).await.unwrap();
    }
    web.counts("squire_connections_closed_total", &[("destination", &id("db"))], 4.0)
        .await;
    for to in ["web:8080", "10.96.0.2:8080", "web.shop:8080"] {
        let answer = Client::connect(db.to(to)).await.unwrap().get("/").await;
        assert_eq!((answer.status, answer.field("x-backend")), (200, Some("pages")));
    }
    // The label of its pod lets web in at db; batch is known there by its own.
    assert!(apps::echoes(batch.to("db:5432")).await.is_err());
    let line = db.logged(&[("direction", "inbound"), ("outcome", "denied")]).await;
    assert_eq!(
        (&line["source"], &line["workload"]),
        (&id("batch").into(), &"shop/batch".into())
    );
    let line = db
        .logged(&[
            ("direction", "inbound"),
            ("outcome", "complete"),
            ("source", &id("web")),
        ])
        .await;
    assert!(
        line["rule"].as_str().unwrap().contains("NetworkPolicy shop/only"),
        "{line}"
    );

    for (sidecar, held) in [(&db, 3.0), (&web, 2.0), (&batch, 2.0)] {
        assert_eq!(workloads(sidecar).await, held);
        assert_eq!(sidecar.figure("squire_subscription_refused_total", &[]).await, 0.0);
    }
    // db's address and its Service, for all that web did.
    assert_eq!(questions(&web).await, 2.0);
    // A label that changes while the sidecars run is a label that policy sees.
    only(&mesh, "batch");
    eventually("batch is let in", async || apps::echoes(batch.to("db:5432")).await.ok()).await;
    eventually("web is not", async || apps::echoes(web.to("db:5432")).await.err()).await;
}

#[tokio::test]
async fn endpoints_that_come_go_and_move_are_followed_by_who_uses_their_service() {
    let mesh = Mesh::strict();
    let declare = |pod: &str| {
        let address = mesh.address(pod);
        mesh.write(
            &format!("workload-{pod}.yaml"),
            &format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}, namespace: shop, labels: {{app: db}}, annotations: \
                 {{squire.mesh/transport: squire}}}}\nspec: {{serviceAccountName: {pod}, containers: [{{name: app}}]}}\n\
                 status: {{phase: Running, podIP: {address}}}\n"
            ),
        );
    };
    let (one, two) = (apps::greeter("db-1").await, apps::greeter("db-2").await);
    let (first, second) = (mesh.pod("db-1"), mesh.pod("db-2"));
    service(&mesh, "db", "10.96.0.1", 5432);
    let web = mesh.pod("web").set(ON_DEMAND).reaches("10.96.0.1:5432");
    mesh.remove("workload-db-1.yaml");
    mesh.remove("workload-db-2.yaml");
    mesh.start().await;
    let web = web.start().await;
    let greeting = async || {
        let mut stream = tokio::net::TcpStream::connect(web.to("10.96.0.1:5432")).await?;
        let mut text = [0; 4];
        stream.read_exact(&mut text).await?;
        stream.shutdown().await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&text).into_owned())
    };
    assert!(greeting().await.is_err());
    web.logged(&[("outcome", "no_route")]).await;

    declare("db-1");
    let _one = first.set(ON_DEMAND).serves(5432, one.address()).start().await;
    let named = async |name: &str| eventually(name, async || (greeting().await.ok()? == name).then_some(())).await;
    named("db-1").await;
    declare("db-2");
    let _two = second.set(ON_DEMAND).serves(5432, two.address()).start().await;
    named("db-2").await;
    mesh.remove("workload-db-1.yaml");
    eventually("db-1 is left alone", async || {
        for _ in 0..10 {
            if greeting().await.ok()? != "db-2" {
                return None;
            }
        }
        Some(())
    })
    .await;
    assert_eq!(workloads(&web).await, 2.0, "what is gone is not held");
    assert_eq!(questions(&web).await, 1.0, "the service was asked for once");
}

#[tokio::test]
async fn while_the_control_plane_is_away_known_peers_are_reached_and_others_are_refused_with_that_reason() {
    let mesh = Mesh::strict();
    let echo = apps::echo().await;
    let db = mesh.pod("db").set(ON_DEMAND).serves(5432, echo.address());
    let new = mesh.pod("new").set(ON_DEMAND).serves(5432, echo.address());
    let outside = apps::echo().await;
    let stranger = outside.address().to_string();
    let web = mesh.pod("web").set(ON_DEMAND);
    let web = web.reaches("db:5432").reaches("new:5432").reaches(&stranger);
    let late = mesh.pod("late").reaches("db:5432");
    mesh.start().await;
    let (db, new, web, late) = tokio::join!(db.start(), new.start(), web.start(), late.start());
    let mut open = apps::echoes(web.to("db:5432")).await.unwrap();

    mesh.kill_control().await;
    eventually("web has noticed", async || {
        (web.figure("squire_control_connected", &[]).await == 0.0).then_some(())
    })
    .await;
    apps::round_trip(&mut open, b"what is open goes on").await.unwrap();
    apps::echoes(web.to("db:5432"))
        .await
        .expect("and who is known is reached");
    // Nobody has said what these addresses are: the second might be a workload as well as the first.
    for to in ["new:5432", &stranger] {
        assert!(apps::echoes(web.to(to)).await.is_err());
    }
    let line = web.logged(&[("outcome", "unanswered"), ("fault", "squire")]).await;
    assert!(
        line["detail"].as_str().unwrap().contains("the control plane is away"),
        "{line}"
    );
    web.counts("squire_subscription_refused_total", &[("reason", "away")], 2.0)
        .await;
    // The same for who comes.
    eventually("db has noticed", async || {
        (db.figure("squire_control_connected", &[]).await == 0.0).then_some(())
    })
    .await;
    assert!(apps::echoes(late.to("db:5432")).await.is_err());
    db.logged(&[
        ("direction", "inbound"),
        ("outcome", "unanswered"),
        ("source", &id("late")),
    ])
    .await;

    mesh.start().await;
    for (sidecar, to) in [(&web, "new:5432"), (&web, &*stranger), (&late, "db:5432")] {
        eventually(to, async || apps::echoes(sidecar.to(to)).await.ok()).await;
    }
    apps::round_trip(&mut open, b"and what was open still is")
        .await
        .unwrap();
    assert_eq!(workloads(&web).await, 3.0);
    drop(new);
}

#[tokio::test]
async fn an_address_outside_the_mesh_is_asked_for_once_and_passes_until_a_workload_has_it() {
    let mesh = Mesh::new();
    let outside = apps::echo().await;
    let to = outside.address().to_string();
    let web = mesh.pod("web").set(ON_DEMAND).reaches(&to);
    mesh.start().await;
    let web = web.start().await;
    let many: Vec<_> = (0..20).map(|_| apps::echoes(web.to(&to))).collect();
    for one in many {
        one.await.unwrap();
    }
    assert_eq!(questions(&web).await, 1.0);
    assert_eq!(workloads(&web).await, 1.0);
    let line = web.logged(&[("outcome", "complete")]).await;
    assert_eq!(line["protocol"], "plaintext");

    // A pod with a sidecar comes to be there: from now on it is reached by mutual TLS, or not at all.
    mesh.write(
        "pod-taken.yaml",
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: taken, namespace: shop, annotations: {{squire.mesh/transport: \
             squire}}}}\nspec: {{serviceAccountName: taken, containers: [{{name: app}}]}}\nstatus: {{phase: Running, \
             podIP: {}}}\n",
            outside.address().ip()
        ),
    );
    eventually("no more plaintext", async || apps::echoes(web.to(&to)).await.err()).await;
    assert_eq!(questions(&web).await, 1.0);
    assert_eq!(workloads(&web).await, 2.0);
}

#[tokio::test]
async fn what_no_connection_uses_is_given_up_what_one_stands_on_is_not_and_the_first_is_asked_for_again() {
    let mesh = Mesh::strict();
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address());
    let other = mesh.pod("other").serves(5432, echo.address());
    let web = mesh.pod("web").set(ON_DEMAND).set("subscription.keep=1s");
    let web = web.reaches("db:5432").reaches("10.96.0.3:5432");
    service(&mesh, "other", "10.96.0.3", 5432);
    mesh.start().await;
    let (db, other, web) = tokio::join!(db.start(), other.start(), web.start());
    let mut open = apps::echoes(web.to("db:5432")).await.unwrap();
    drop(apps::echoes(web.to("10.96.0.3:5432")).await.unwrap());
    web.counts("squire_subscription_given_up_total", &[], 1.0).await;
    eventually("only db is held beside web", async || {
        (workloads(&web).await == 2.0).then_some(())
    })
    .await;
    apps::round_trip(&mut open, b"its connection lives").await.unwrap();
    apps::echoes(web.to("10.96.0.3:5432")).await.expect("asked for again");
    web.logged(&[("destination", &id("other")), ("outcome", "complete")])
        .await;
    assert_eq!(web.figure("squire_connections_cut_total", &[]).await, 0.0);
    drop(open);
    eventually("nothing is held but web", async || {
        (workloads(&web).await == 1.0).then_some(())
    })
    .await;
    drop((db, other));
}

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: front, namespace: \
                     shop}\nspec:\n  parentRefs: [{group: '', kind: Service, name: front, port: 80}]\n  rules: \
                     [{backendRefs: [{name: back, port: 8080}]}]\n";

#[tokio::test]
async fn requests_wait_for_the_endpoints_of_the_service_that_their_route_leads_to() {
    let mesh = Mesh::strict();
    let (one, two) = (Backend::start("h1").await, Http2App::start("h2").await);
    let back = mesh.pod("back").serves(8080, one.address());
    let grpc = mesh.pod("grpc").serves(9090, two.address());
    let web = mesh
        .pod("web")
        .set(ON_DEMAND)
        .reaches("10.96.0.5:80")
        .reaches("10.96.0.7:9090");
    service(&mesh, "front", "10.96.0.5", 80);
    service(&mesh, "back", "10.96.0.6", 8080);
    service(&mesh, "grpc", "10.96.0.7", 9090);
    mesh.write("route.yaml", ROUTE);
    mesh.start().await;
    let (_back, _grpc, web) = tokio::join!(back.start(), grpc.start(), web.start());
    let mut client = Client::connect(web.to("10.96.0.5:80")).await.unwrap();
    for _ in 0..3 {
        let answer = client.get("/").await;
        assert_eq!((answer.status, answer.field("x-backend")), (200, Some("h1")));
    }
    let mut client = in_time("HTTP/2", http2::client(web.to("10.96.0.7:9090"))).await;
    assert_eq!(http2::get(&mut client, "/").await.status(), 200);
    // Front, back, and the one for HTTP/2.
    assert_eq!(questions(&web).await, 3.0);
    assert_eq!(workloads(&web).await, 3.0);

    mesh.kill_control().await;
    eventually("web has noticed", async || {
        (web.figure("squire_control_connected", &[]).await == 0.0).then_some(())
    })
    .await;
    assert_eq!(
        http2::get(&mut client, "/").await.status(),
        200,
        "what is known goes on"
    );
}
