//! What a gate waits for, whom it names, and what ends connections that it does not wait for.

use squire_tests::{Mesh, Signal, apps, eventually};

use super::*;

#[tokio::test]
async fn the_gate_holds_for_a_silent_sidecar_and_names_it_and_going_back_works() {
    let mesh = Mesh::strict();
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address());
    let web = mesh.pod("web").reaches("db:5432");
    mesh.start().await;
    let (db, web) = tokio::join!(db.start(), web.start());
    apps::echoes(web.to("db:5432")).await.unwrap();
    let first = root(&status(&mesh).await.unwrap());

    db.process.signal(Signal::STOP);
    rotate(&mesh).await;
    let waiting = eventually("everybody but db has shown it", async || {
        let status = status(&mesh).await?;
        let rotation = &status["rotation"];
        let missing = rotation["missing"].as_array()?;
        (missing.len() == 1 && rotation["shown"].as_u64()? + 1 == rotation["holders"].as_u64()?).then(|| status.clone())
    })
    .await;
    let missing = &waiting["rotation"]["missing"][0];
    assert_eq!(
        (&waiting["phase"]["name"], &missing["workload"]),
        (&"distribute".into(), &"shop/db".into())
    );
    assert!(missing["since"].is_string() && missing["ends"].is_string(), "{missing}");
    assert_eq!(root(&waiting), first, "the old root goes on signing");
    let table = succeeds(&mesh, &["ca", "status", "--dir", "ca"]).await;
    assert!(table.contains("waits for") && table.contains("shop/db"), "{table}");
    // The control plane is killed, and knows nobody when it is back: still the gate holds.
    mesh.kill_control().await;
    mesh.start().await;
    let again = eventually("web has reported again", async || {
        let status = status(&mesh).await?;
        let missing = status["rotation"]["missing"].as_array()?;
        (missing.len() == 1 && missing[0]["workload"] == "shop/db").then(|| status.clone())
    })
    .await;
    assert_eq!(again["phase"]["name"], "distribute");
    let why = again["rotation"]["missing"][0]["why"].as_str().unwrap().to_owned();
    assert!(why.contains("has not reported"), "{why}");
    // Whoever forces it is told whom that breaks, and is asked.
    let asked = mesh.squire(&["ca", "rotate", "--force", "--dir", "ca"]).await;
    assert_eq!(asked.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&asked.stdout).contains("shop/db"), "{asked:?}");

    succeeds(&mesh, &["ca", "abort", "--dir", "ca"]).await;
    let back = reaches(&mesh, "stable").await;
    assert_eq!(root(&back), first);
    db.process.signal(Signal::CONT);
    eventually("db is reached as before", async || {
        apps::echoes(web.to("db:5432")).await.ok()
    })
    .await;
    // And from where nobody is missing, it goes all the way.
    succeeds(&mesh, &["ca", "rotate", "--watch", "--dir", "ca"]).await;
    assert_ne!(root(&status(&mesh).await.unwrap()), first);
    apps::echoes(web.to("db:5432")).await.unwrap();
    assert!(distrust(&web).is_empty() && distrust(&db).is_empty());
}

#[tokio::test]
async fn a_connection_is_cut_when_its_root_is_forced_out_of_the_bundle_and_when_its_workload_is_gone() {
    let mesh = Mesh::strict();
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address());
    let web = mesh.pod("web").reaches("db:5432");
    mesh.start().await;
    let (db, web) = tokio::join!(db.start(), web.start());
    let mut old = apps::echoes(web.to("db:5432")).await.unwrap();
    rotate(&mesh).await;
    reaches(&mesh, "switch").await;
    // Both hold an SVID under the new root soon; the connection still stands on the old one, and keeps it.
    eventually("only connections are missing", async || {
        let status = status(&mesh).await?;
        let missing = status["rotation"]["missing"].as_array()?.clone();
        let connections = |one: &Value| one["why"].as_str().is_some_and(|why| why.contains("has connections"));
        (!missing.is_empty() && missing.iter().all(connections)).then_some(())
    })
    .await;
    apps::round_trip(&mut old, b"kept").await.unwrap();
    succeeds(&mesh, &["ca", "rotate", "--force", "--yes", "--dir", "ca"]).await;
    eventually("the connection is cut", async || {
        apps::round_trip(&mut old, b"cut").await.err()
    })
    .await;
    cut(&[&web, &db], "cut_untrusted").await;
    reaches(&mesh, "stable").await;

    let _open = eventually("a new connection stands on the new root", async || {
        apps::echoes(web.to("db:5432")).await.ok()
    })
    .await;
    // Its own sidecar would end the connection too, as it has no policy any more: it is for db to notice.
    web.process.signal(Signal::STOP);
    mesh.remove("workload-web.yaml");
    cut(&[&db], "cut_gone").await;
}
