//! How a sidecar becomes somebody, and what keeps it from becoming somebody else.

use squire_tests::{Mesh, Sidecar, apps, forge::Forge, http, id};

/// It lives, is not ready, and says why in a line with these texts.
async fn stays_out(sidecar: &mut Sidecar, texts: &[&str]) {
    sidecar.process.said(texts).await;
    assert_eq!(http::get(sidecar.admin(), "/ready").await.unwrap().0, 503);
    assert!(sidecar.process.lives());
}

#[tokio::test]
async fn a_token_that_was_used_is_refused_and_a_new_one_in_the_file_is_taken_without_a_restart() {
    let mesh = Mesh::new();
    let echo = apps::echo().await;
    mesh.start().await;
    let token = mesh.token("web").await;
    let web = mesh.pod("web").token(&token).start().await;
    drop(web);

    let db = mesh.pod("db").serves(5432, echo.address()).token(&token);
    let mut db = db.launch().await;
    stays_out(
        &mut db,
        &["no SVID yet, so not ready", "used before", "squire ca token"],
    )
    .await;
    std::fs::write(db.token_file(), mesh.token("db").await).unwrap();
    db.ready().await;
}

/// A token of `batch` in the pod of `db`: the identity is real, but it is not this workload's.
#[tokio::test]
async fn a_sidecar_is_told_nothing_about_a_workload_whose_identity_it_does_not_have() {
    let mesh = Mesh::new();
    mesh.allow("only-web", "db", &["web"]);
    mesh.start().await;
    let token = mesh.token("batch").await;
    let mut db = mesh.pod("db").token(&token).launch().await;
    db.process.said(&["SVID issued", &id("batch")]).await;
    stays_out(&mut db, &["shop/db", "check node.id"]).await;
    let (_, page) = db.page("/config").await;
    assert!(!page.to_string().contains("only-web"), "{page}");
}

#[tokio::test]
async fn a_control_plane_of_another_root_never_sees_the_token() {
    let mesh = Mesh::new();
    mesh.start().await;
    let token = mesh.token("db").await;
    let stranger = Forge::stranger().root();
    let mut db = mesh.pod("db").token(&token).trusts(&stranger).launch().await;
    stays_out(&mut db, &["no SVID yet, so not ready", "another CA", "retry_in_ms"]).await;
    drop(db);
    // It is still unused.
    mesh.pod("db").token(&token).start().await;
}

#[tokio::test]
async fn an_address_of_one_workload_with_the_identity_of_another_is_denied() {
    let mesh = Mesh::strict();
    mesh.allow("both", "db", &["web", "batch"]);
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address());
    mesh.declare("web", "squire");
    mesh.declare("batch", "squire");
    mesh.start().await;
    let db = db.start().await;
    let batch = Forge::of(&mesh).sign(&id("batch"), |_| {});
    let from =
        async |name: &str| squire_tests::tls::echoes_from(mesh.address(name), db.inbound(5432), Some(&batch)).await;
    from("batch").await.expect("its own address");
    assert!(from("web").await.is_err(), "the address of web");
    let line = db.logged(&[("outcome", "denied")]).await;
    assert_eq!(line["source"], id("batch"));
    assert_eq!(line["workload"], "shop/web");
    assert!(line["why"].as_str().unwrap().contains("identity"), "{line}");
}
