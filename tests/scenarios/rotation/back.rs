//! Going back from the later phases, with real sidecars: the old root signs again, and what is open stays open.

use squire_tests::{Mesh, Signal, apps, eventually};

use super::*;

/// Stops the rotation in this phase by silencing db, goes back from there, and comes to rest at the first root.
async fn back_from(phase: &str) {
    let mesh = Mesh::strict();
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address());
    let web = mesh.pod("web").reaches("db:5432");
    mesh.start().await;
    let (db, web) = tokio::join!(db.start(), web.start());
    apps::echoes(web.to("db:5432")).await.unwrap();
    let first = root(&status(&mesh).await.unwrap());
    rotate(&mesh).await;
    // Each gate stays open for three seconds before it is passed: time to silence db in the phase before.
    let before = if phase == "switch" { "distribute" } else { "switch" };
    reaches(&mesh, before).await;
    let there = reaches(&mesh, phase).await;
    db.process.signal(Signal::STOP);
    assert_ne!(root(&there), first, "another root signs in both");
    succeeds(&mesh, &["ca", "abort", "--dir", "ca"]).await;
    let going = status(&mesh).await.unwrap();
    assert_eq!(going["rotation"]["aborting"], true, "{going}");
    let twice = mesh.squire(&["ca", "abort", "--dir", "ca"]).await;
    assert_eq!(twice.status.code(), Some(2), "{twice:?}");
    db.process.signal(Signal::CONT);
    let back = reaches(&mesh, "stable").await;
    assert_eq!((root(&back), back["roots"].as_array().unwrap().len()), (first, 1));
    eventually("they talk under the first root", async || {
        apps::echoes(web.to("db:5432")).await.ok()
    })
    .await;
    assert!(distrust(&web).is_empty() && distrust(&db).is_empty());
}

#[tokio::test]
async fn a_rotation_goes_back_from_the_phase_in_which_the_new_root_signs() {
    back_from("switch").await;
}

#[tokio::test]
async fn a_rotation_goes_back_from_the_phase_in_which_the_old_root_has_left_the_bundle() {
    back_from("retire").await;
}
