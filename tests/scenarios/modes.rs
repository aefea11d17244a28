//! PeerAuthentication modes at both ends: what a client starts follows what the other end's port takes.

use squire_tests::{Mesh, apps, eventually};

/// What 9090 of `db` takes; its other ports stay STRICT.
fn metrics_port(mesh: &Mesh, mode: &str) {
    mesh.write(
        "db-modes.yaml",
        &format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: db, namespace: shop}}\nspec: \
             {{selector: {{matchLabels: {{app: db}}}}, portLevelMtls: {{9090: {{mode: {mode}}}}}}}\n"
        ),
    );
}

/// What carries the next connection to a port, as the client's sidecar sees it.
async fn carrier(web: &squire_tests::Sidecar, target: &str) -> Option<String> {
    let open = apps::echoes(web.to(target)).await.ok()?;
    let port: u16 = target.rsplit_once(':').unwrap().1.parse().unwrap();
    let connections = web.connections().await;
    let seen = connections.iter().find(|seen| seen["port"] == port)?;
    drop(open);
    Some(seen["protocol"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_port_in_mode_disable_is_reached_in_plain_bytes_and_the_others_by_mutual_tls() {
    let mesh = Mesh::strict();
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address()).serves(9090, echo.address());
    let web = mesh.pod("web").reaches("db:5432").reaches("db:9090");
    mesh.start().await;
    let (db, web) = tokio::join!(db.start(), web.start());
    assert_eq!(carrier(&web, "db:9090").await.as_deref(), Some("squire/1"));
    let pushed = [("kind", "workload"), ("change", "changed")];
    let before = mesh
        .figures()
        .await
        .sum("squire_control_resource_changes_total", &pushed);

    metrics_port(&mesh, "DISABLE");
    eventually("the client starts no mutual TLS there any more", async || {
        (carrier(&web, "db:9090").await? == "plaintext").then_some(())
    })
    .await;
    let line = db.logged(&[("protocol", "plaintext"), ("outcome", "complete")]).await;
    assert_eq!(
        (&line["port"], &line["source"]),
        (&9090.into(), &serde_json::Value::Null)
    );
    assert_eq!(
        carrier(&web, "db:5432").await.as_deref(),
        Some("squire/1"),
        "STRICT still"
    );
    let after = mesh
        .figures()
        .await
        .sum("squire_control_resource_changes_total", &pushed);
    assert_eq!(
        after - before,
        1.0,
        "only the workload whose port changed its mode is pushed again"
    );

    metrics_port(&mesh, "STRICT");
    eventually("and starts it again when the port takes it", async || {
        (carrier(&web, "db:9090").await? == "squire/1").then_some(())
    })
    .await;
}
