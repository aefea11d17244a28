//! What is rotated without anybody asking: the root when so much of its life is over, an intermediate when half of its is.

use squire_tests::{Mesh, apps, eventually, id};

use super::*;

#[tokio::test]
async fn a_root_is_rotated_by_itself_when_the_share_of_its_life_that_was_set_is_over() {
    let mesh = Mesh::strict();
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address());
    let web = mesh.pod("web").reaches("db:5432");
    // Five of ten years: nothing is due at the usual 80 %.
    mesh.found_at("-5y").await;
    mesh.start().await;
    let (db, web) = tokio::join!(db.start(), web.start());
    let first = root(&status(&mesh).await.unwrap());
    apps::echoes(web.to("db:5432")).await.unwrap();
    assert_eq!(status(&mesh).await.unwrap()["phase"]["name"], "stable");
    mesh.kill_control().await;
    mesh.start_with(&["--rotate-root-at", "45"]).await;
    eventually("another root is on its way", async || {
        let status = status(&mesh).await?;
        (status["phase"]["name"] != "stable").then_some(())
    })
    .await;
    let stable = reaches(&mesh, "stable").await;
    assert_ne!(root(&stable), first);
    apps::echoes(web.to("db:5432")).await.unwrap();
    let log = succeeds(&mesh, &["ca", "log", "--dir", "ca", "-o", "json"]).await;
    assert!(log.contains("45 % of the root's life are over"), "{log}");
    assert!(distrust(&web).is_empty() && distrust(&db).is_empty());
}

#[tokio::test]
async fn an_intermediate_is_replaced_by_itself_under_a_running_mesh_when_half_of_its_life_is_over() {
    let mesh = Mesh::strict();
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address());
    let web = mesh.pod("web").reaches("db:5432");
    // Thirty days, backdated by five minutes: half of them are over a little after the control plane has started.
    mesh.found_at("-1295820").await;
    mesh.start().await;
    let first = status(&mesh).await.unwrap()["intermediate"]["key_id"].clone();
    let (db, web) = tokio::join!(db.start(), web.start());
    let mut open = apps::echoes(web.to("db:5432")).await.unwrap();
    let renewed = eventually("it is replaced", async || {
        let status = status(&mesh).await?;
        let now = status["intermediate"]["key_id"].clone();
        (now != first).then_some(now)
    })
    .await;
    apps::round_trip(&mut open, b"kept").await.unwrap();
    // One stands on the old intermediate, the other one on the new one, under one root.
    let generation = web.figure("squire_svid_generation", &[]).await;
    web.process.signal(squire_tests::Signal::USR1);
    web.counts("squire_svid_generation", &[], generation + 1.0).await;
    apps::echoes(web.to("db:5432")).await.unwrap();
    let log = succeeds(&mesh, &["ca", "log", "--dir", "ca", "-o", "json"]).await;
    let log: Value = serde_json::from_str(&log).unwrap();
    let issued = log.as_array().unwrap().iter().map(|entry| &entry["event"]);
    let of_web: Vec<_> = issued.filter(|event| event["id"] == id("web")).collect();
    assert_eq!(of_web.last().unwrap()["issuer"], renewed, "{of_web:#?}");
    assert_ne!(of_web[0]["issuer"], renewed, "{of_web:#?}");
    assert!(distrust(&web).is_empty() && distrust(&db).is_empty());
}
