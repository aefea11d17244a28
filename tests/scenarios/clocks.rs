//! Clocks that disagree, in real processes: a few minutes make no difference, an hour is refused, and whoever looks at why is
//! told that it is the clock.

use squire_tests::{Mesh, apps, clock, eventually, in_time};

#[tokio::test]
async fn sidecars_four_minutes_behind_and_ahead_get_certificates_renew_them_and_talk_to_each_other() {
    let mesh = Mesh::strict();
    let echo = apps::echo().await;
    // Eight minutes lie between the two.
    let db = mesh.pod("db").serves(5432, echo.address()).clock("-4m");
    let web = mesh.pod("web").reaches("db:5432").clock("+4m");
    mesh.start().await;
    let (db, web) = tokio::join!(db.start(), web.start());
    apps::echoes(web.to("db:5432")).await.unwrap();
    for sidecar in [&db, &web] {
        let generation = sidecar.figure("squire_svid_generation", &[]).await;
        sidecar.process.signal(squire_tests::Signal::USR1);
        sidecar.counts("squire_svid_generation", &[], generation + 1.0).await;
    }
    apps::echoes(web.to("db:5432")).await.unwrap();
    // It is known on both sides that a clock is wrong, whose, and by how much.
    for (name, sidecar, ahead) in [("db", &db, -240.0), ("web", &web, 240.0)] {
        let measured = sidecar.figure("squire_clock_skew_seconds", &[]).await;
        assert!((measured - ahead).abs() <= 5.0, "{name}: {measured}");
        let told = mesh.with_control(|control| control.log());
        let line = told
            .lines()
            .find(|line| line.contains("clock of a proxy") && line.contains(&format!("shop/{name}")));
        assert!(line.is_some(), "{name}: {told}");
    }
}

#[tokio::test]
async fn a_sidecar_whose_clock_is_an_hour_off_is_refused_with_words_about_the_clock_and_gets_in_when_it_is_right() {
    let mesh = Mesh::strict();
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address());
    mesh.start().await;
    let db = db.start().await;
    for (by, words) in [("-1h", "valid only from"), ("+1h", "expired at")] {
        let web = mesh.pod("web").reaches("db:5432").clock(by);
        let mut web = web.launch().await;
        let line = web.process.said(&[words, "correct the clock that is wrong"]).await;
        assert!(line.contains("this machine's clock says"), "{line}");
        let (status, _) = web.page("/ready").await;
        assert_eq!(status, 503, "{by}: it has no identity");
        assert!(apps::echoes(web.to("db:5432")).await.is_err(), "{by}");
        web.process.kill().await;
    }
    let web = mesh.pod("web").reaches("db:5432").start().await;
    apps::echoes(web.to("db:5432")).await.unwrap();
    drop(db);
}

#[tokio::test]
async fn a_control_plane_whose_clock_is_an_hour_off_is_refused_by_sidecars_that_say_so_and_keep_what_they_have() {
    let mesh = Mesh::strict();
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address());
    let web = mesh.pod("web").reaches("db:5432");
    mesh.start().await;
    let (_db, web) = tokio::join!(db.start(), web.start());
    mesh.kill_control().await;
    // An hour behind, it finds that its own certificates are not valid yet, and does not start.
    let mut command = mesh.control_command();
    clock::shift(&mut command, "-1h");
    let output = in_time("it ends", command.kill_on_drop(true).output()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("check this machine's clock"),
        "{said}"
    );
    // An hour ahead, nobody believes its certificate.
    mesh.start_at("+1h").await;
    let line = web
        .process
        .said(&["valid only from", "correct the clock that is wrong"])
        .await;
    assert!(line.contains("squire-control"), "{line}");
    apps::echoes(web.to("db:5432")).await.unwrap();
    mesh.kill_control().await;
    mesh.start().await;
    eventually("it is connected again", async || {
        (web.figure("squire_control_connected", &[]).await == 1.0).then_some(())
    })
    .await;
}
