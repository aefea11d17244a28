//! Endpoints: which of them is taken, which is set aside, and what happens where there is none.

use std::time::Duration;

use squire_tests::{Mesh, eventually};

use super::{ANY_ZONE, get, member, shop, spread};

#[tokio::test]
async fn an_endpoint_that_keeps_failing_is_set_aside_and_comes_back_once_it_is_well() {
    let mesh = Mesh::strict();
    let settings = "squire.mesh/prefer-zone: 'false', squire.mesh/eject-after: '3', squire.mesh/eject-for: 500ms";
    let shop = shop(&mesh, settings).await;
    let mut client = shop.client().await;
    shop.one.answers(503);
    let of = |event: &'static str| [("event", event)];
    let metric = "squire_endpoint_ejections_total";
    eventually("it is set aside", async || {
        get(&mut client, "/").await;
        (shop.web.figure(metric, &of("ejected")).await >= 1.0).then_some(())
    })
    .await;
    assert_eq!(shop.web.figure("squire_endpoints", &[("state", "ejected")]).await, 1.0);
    eventually("it is tried again with single requests", async || {
        get(&mut client, "/").await;
        (shop.web.figure(metric, &of("probed")).await >= 1.0).then_some(())
    })
    .await;
    shop.one.answers(200);
    eventually("it is back", async || {
        let mut client = shop.client().await;
        get(&mut client, "/").await;
        (shop.web.figure(metric, &of("returned")).await >= 1.0).then_some(())
    })
    .await;
    eventually("it is used as before", async || {
        let answer = get(&mut client, "/").await;
        (answer.field("x-backend") == Some("one")).then_some(())
    })
    .await;
    assert_eq!(shop.web.figure("squire_endpoints", &[("state", "ejected")]).await, 0.0);
}

#[tokio::test]
async fn a_slow_endpoint_gets_less() {
    let mesh = Mesh::strict();
    let shop = shop(&mesh, ANY_ZONE).await;
    shop.one.takes(Duration::from_millis(500));
    let mut client = shop.client().await;
    let seen = spread(&mut client, "/", 80).await;
    let slow = seen.get("one").copied().unwrap_or_default();
    assert!(slow < 20, "far from half: {seen:?}");
}

#[tokio::test]
async fn only_ready_endpoints_are_used_and_without_any_it_is_a_503() {
    let mesh = Mesh::strict();
    let shop = shop(&mesh, ANY_ZONE).await;
    let mut client = shop.client().await;
    let seen = spread(&mut client, "/", 40).await;
    assert_eq!(seen.len(), 2, "{seen:?}");
    member(&mesh, "one", "front", false, "a");
    eventually("the first is left out, also on a connection that is open", async || {
        let seen = spread(&mut client, "/", 20).await;
        (!seen.contains_key("one")).then_some(())
    })
    .await;
    member(&mesh, "two", "front", false, "b");
    eventually("nobody is left", async || {
        (get(&mut client, "/").await.status == 503).then_some(())
    })
    .await;
    shop.counts("squire_overflows_total", ("limit", "no_endpoint")).await;
    let nobody = [("direction", "outbound"), ("status", "503"), ("flag", "no_route")];
    shop.web.counts("squire_requests_total", &nobody, 1.0).await;
    member(&mesh, "one", "front", true, "a");
    eventually("one is back", async || {
        (get(&mut client, "/").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn endpoints_of_the_own_zone_are_used_while_there_are_any() {
    let mesh = Mesh::strict();
    let shop = shop(&mesh, "").await;
    let mut client = shop.client().await;
    let seen = spread(&mut client, "/", 40).await;
    assert_eq!(seen.get("one"), Some(&40), "{seen:?}");
    member(&mesh, "one", "front", false, "a");
    eventually("the other zone helps out", async || {
        let answer = get(&mut client, "/").await;
        (answer.field("x-backend") == Some("two")).then_some(())
    })
    .await;
}
