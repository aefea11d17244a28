//! Where connections go: services, endpoints that come and go, destinations that are not there.

use std::collections::HashSet;

use squire_tests::{Mesh, apps, eventually, id};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: db, namespace: shop}\nspec:\n  clusterIP: None\n  \
                       selector: {tier: data}\n  ports: [{name: tcp, port: 5432, targetPort: 6000}]\n";

fn backend(mesh: &Mesh, name: &str, ready: bool) {
    let address = mesh.address(name);
    let ready = if ready { "True" } else { "False" };
    mesh.write(
        &format!("workload-{name}.yaml"),
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{tier: data}}, \
             annotations: {{squire.mesh/transport: squire}}}}\nspec: {{serviceAccountName: {name}, containers: \
             [{{name: app}}]}}\nstatus: {{phase: Running, podIP: {address}, conditions: [{{type: Ready, status: \
             '{ready}'}}]}}\n"
        ),
    );
}

/// Who answers.
async fn greeting(address: std::net::SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let mut text = [0; 4];
    stream.read_exact(&mut text).await?;
    stream.shutdown().await?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test]
async fn a_service_leads_to_all_its_ready_endpoints_and_to_no_other() {
    let mesh = Mesh::strict();
    let (one, two) = (apps::greeter("db-1").await, apps::greeter("db-2").await);
    let (first, second) = (mesh.pod("db-1"), mesh.pod("db-2"));
    backend(&mesh, "db-1", true);
    backend(&mesh, "db-2", true);
    mesh.write("service.yaml", SERVICE);
    let web = mesh.pod("web").reaches("db.shop:5432");
    mesh.start().await;
    let (_one, _two, web) = tokio::join!(
        first.serves(6000, one.address()).start(),
        second.serves(6000, two.address()).start(),
        web.start()
    );
    let address = web.to("db.shop:5432");
    let mut seen = HashSet::new();
    eventually("both endpoints answer", async || {
        seen.insert(greeting(address).await.unwrap());
        (seen.len() == 2).then_some(())
    })
    .await;
    web.logged(&[("destination", &id("db-1")), ("outcome", "complete")])
        .await;
    web.logged(&[("destination", &id("db-2")), ("outcome", "complete")])
        .await;

    backend(&mesh, "db-1", false);
    eventually("the first one is left out", async || {
        for _ in 0..20 {
            if greeting(address).await.unwrap() == "db-1" {
                return None;
            }
        }
        Some(())
    })
    .await;
    backend(&mesh, "db-2", false);
    eventually("nobody is left", async || greeting(address).await.err()).await;
    web.logged(&[("outcome", "no_route")]).await;
}

#[tokio::test]
async fn an_application_that_is_not_there_is_told_apart_from_a_peer_that_is_not_there() {
    let mesh = Mesh::strict();
    // Taken and given back: nobody listens there.
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let db = mesh.pod("db").serves(5432, nobody);
    mesh.declare("gone", "squire");
    let web = mesh.pod("web").reaches("db:5432").reaches("gone:5432");
    mesh.start().await;
    let (db, web) = tokio::join!(db.start(), web.start());

    assert!(apps::echoes(web.to("db:5432")).await.is_err());
    db.logged(&[("outcome", "app_unreachable"), ("fault", "application")])
        .await;
    web.logged(&[("outcome", "peer_app_unreachable")]).await;
    assert!(apps::echoes(web.to("gone:5432")).await.is_err());
    let line = web.logged(&[("outcome", "unreachable"), ("fault", "peer")]).await;
    let gone = mesh.address("gone").to_string();
    assert!(line["detail"].as_str().unwrap().contains(&gone), "{line}");
}

#[tokio::test]
async fn plaintext_is_taken_in_permissive_mode_but_a_rule_for_identities_does_not_let_it_in() {
    let mesh = Mesh::new();
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address());
    mesh.declare("plain", "plaintext");
    let web = mesh.pod("web").reaches("db:5432").reaches("plain:5432");
    mesh.start().await;
    let (db, web) = tokio::join!(db.start(), web.start());
    apps::echoes(db.inbound(5432))
        .await
        .expect("plaintext, without a policy");
    apps::echoes(web.to("db:5432"))
        .await
        .expect("mutual TLS on the same port");

    mesh.allow("only-web", "db", &["web"]);
    eventually("plaintext is refused", async || {
        apps::echoes(db.inbound(5432)).await.err()
    })
    .await;
    let line = db.logged(&[("outcome", "denied")]).await;
    assert_eq!(
        (&line["source"], &line["protocol"]),
        (&serde_json::Value::Null, &"plaintext".into())
    );
    apps::echoes(web.to("db:5432"))
        .await
        .expect("who has the identity is let in");

    // And the other way: a workload without a sidecar is reached as it is.
    let listener = tokio::net::TcpListener::bind((mesh.address("plain"), 5432))
        .await
        .unwrap();
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut text = [0; 5];
        stream.read_exact(&mut text).await.unwrap();
        stream.write_all(&text).await.unwrap();
        text
    });
    apps::echoes(web.to("plain:5432")).await.unwrap();
    assert_eq!(&serving.await.unwrap(), b"hello");
}
