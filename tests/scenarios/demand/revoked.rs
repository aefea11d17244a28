//! Revocation reaches a sidecar that subscribes on demand as it reaches any other: what stands on it is cut at once.

use squire_tests::{Mesh, Signal, apps, id, in_time};
use tokio::io::AsyncReadExt;

use super::ON_DEMAND;
use crate::revocation::{revoke, serial};

#[tokio::test]
async fn what_stands_on_a_revoked_peer_is_cut_on_either_side_and_nothing_else_is() {
    let mesh = Mesh::strict();
    let echo = apps::echo().await;
    let db = mesh.pod("db").set(ON_DEMAND).serves(5432, echo.address());
    let other = mesh.pod("other").serves(5432, echo.address());
    let web = mesh.pod("web").set(ON_DEMAND).reaches("db:5432").reaches("other:5432");
    let batch = mesh.pod("batch").reaches("db:5432");
    mesh.start().await;
    let (db, other, web, batch) = tokio::join!(db.start(), other.start(), web.start(), batch.start());
    let mut to_db = apps::echoes(web.to("db:5432")).await.unwrap();
    let mut to_other = apps::echoes(web.to("other:5432")).await.unwrap();
    let mut from_batch = apps::echoes(batch.to("db:5432")).await.unwrap();

    // An identity, by the side that was dialled; the other side is not there to do it.
    batch.process.signal(Signal::STOP);
    revoke(&mesh, &id("batch")).await;
    db.logged(&[
        ("direction", "inbound"),
        ("source", &id("batch")),
        ("outcome", "cut_revoked"),
    ])
    .await;
    batch.process.signal(Signal::CONT);
    let end = in_time("its application hears of it", from_batch.read(&mut [0; 1])).await;
    assert!(end.is_err(), "not an orderly end: {end:?}");
    apps::round_trip(&mut to_db, b"web's goes on").await.unwrap();

    // One certificate, by the side that dialled.
    db.process.signal(Signal::STOP);
    revoke(&mesh, &serial(&mesh, "db").await).await;
    let end = in_time("it is cut", to_db.read(&mut [0; 1])).await;
    assert!(end.is_err(), "not an orderly end: {end:?}");
    web.logged(&[
        ("direction", "outbound"),
        ("destination", &id("db")),
        ("outcome", "cut_revoked"),
    ])
    .await;
    db.process.signal(Signal::CONT);
    apps::round_trip(&mut to_other, b"nobody else is cut").await.unwrap();
    drop(other);
}
