//! Limits of a Service: how many requests may be under way, at one endpoint, and waiting for a connection; and how long a
//! connection may take to come about.

use squire_tests::{Mesh, eventually, http2, in_time};
use tokio::net::TcpListener;

use super::{get, member, service, shop, shop2};

#[tokio::test]
async fn requests_beyond_the_limits_are_a_503_at_once_and_counted_by_limit() {
    for (annotation, limit) in [
        ("squire.mesh/max-requests: '2'", "max_requests"),
        (
            "squire.mesh/max-requests-per-endpoint: '1'",
            "max_requests_per_endpoint",
        ),
    ] {
        let mesh = Mesh::strict();
        let shop = shop(&mesh, &format!("squire.mesh/prefer-zone: 'false', {annotation}")).await;
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut client = shop.client().await;
            client.send("GET /held HTTP/1.1\r\nHost: front\r\n\r\n").await.unwrap();
            held.push(client);
            eventually("it is under way", async || {
                (shop.one.requests() + shop.two.requests() == held.len()).then_some(())
            })
            .await;
        }
        let mut other = shop.client().await;
        let refused = get(&mut other, "/").await;
        assert_eq!(
            (refused.status, shop.one.requests() + shop.two.requests()),
            (503, 2),
            "{limit}"
        );
        shop.counts("squire_overflows_total", ("limit", limit)).await;
        let overflow = [("direction", "outbound"), ("status", "503"), ("flag", "overflow")];
        shop.web.counts("squire_requests_total", &overflow, 1.0).await;
        shop.one.release();
        shop.two.release();
        for client in &mut held {
            assert_eq!(client.answer().await.status, 200);
        }
        assert_eq!(get(&mut other, "/").await.status, 200, "there is room again");
    }
}

#[tokio::test]
async fn streams_beyond_the_limit_are_a_503_while_those_before_them_go_on() {
    let mesh = Mesh::strict();
    let ([one, two], [web, _first, _second]) = shop2(&mesh, "squire.mesh/max-requests: '2'").await;
    let mut client = http2::client(web.to("front.shop:80")).await;
    let mut held = Vec::new();
    for nth in 1..=2 {
        let (response, mut there) = client.send_request(http2::request("/echo"), false).unwrap();
        there.send_data("waits".into(), false).unwrap();
        let mut back = in_time("a head", response).await.unwrap().into_body();
        assert_eq!(in_time("an echo", back.data()).await.unwrap().unwrap(), "waits");
        assert_eq!(one.requests() + two.requests(), nth);
        held.push((there, back));
    }
    assert_eq!(http2::get(&mut client, "/").await.status(), 503);
    web.counts("squire_overflows_total", &[("limit", "max_requests")], 1.0)
        .await;
    for (there, back) in &mut held {
        there.send_data("goes on".into(), true).unwrap();
        assert_eq!(in_time("an echo", back.data()).await.unwrap().unwrap(), "goes on");
        assert!(in_time("the end", back.trailers()).await.is_ok());
    }
    eventually("there is room again", async || {
        (http2::get(&mut client, "/").await.status() == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_does_not_come_about_in_time_is_a_503_and_few_may_wait_for_one() {
    let mesh = Mesh::strict();
    let annotations =
        "squire.mesh/connect-timeout: 500ms, squire.mesh/max-pending-requests: '1', squire.mesh/eject-after: never";
    service(&mesh, "front", annotations);
    // Takes connections, and never says a word on them.
    let _silent = TcpListener::bind((mesh.address("one"), 8080)).await.unwrap();
    let web = mesh
        .pod("web")
        .reaches("front.shop:80")
        .set("limits.handshakeTimeout=25s");
    member(&mesh, "one", "front", true, "a");
    mesh.start().await;
    let web = web.start().await;
    let client = async || {
        squire_tests::http::Client::connect(web.to("front.shop:80"))
            .await
            .unwrap()
    };
    let (mut first, mut second) = (client().await, client().await);
    let answers = tokio::join!(get(&mut first, "/"), get(&mut second, "/"));
    assert_eq!((answers.0.status, answers.1.status), (503, 503));
    web.counts("squire_overflows_total", &[("limit", "max_pending_requests")], 1.0)
        .await;
    let of = |flag: &'static str| [("direction", "outbound"), ("status", "503"), ("flag", flag)];
    web.counts("squire_requests_total", &of("overflow"), 1.0).await;
    web.counts("squire_requests_total", &of("unreachable"), 1.0).await;
    let mut streams = http2::client(web.to("front.shop:80")).await;
    assert_eq!(http2::get(&mut streams, "/").await.status(), 503, "over HTTP/2 too");
}

#[tokio::test]
async fn there_are_never_more_series_for_a_pair_than_the_cap_and_every_request_is_counted() {
    let mesh = Mesh::strict();
    let shop = shop(&mesh, "squire.mesh/eject-after: never").await;
    let mut client = shop.client().await;
    let statuses = || (200..599).filter(|status| ![204, 304].contains(status));
    for status in statuses() {
        shop.one.answers(status);
        shop.two.answers(status);
        assert_eq!(get(&mut client, "/").await.status, status);
    }
    let outbound = [("direction", "outbound")];
    let figures = shop.web.figures().await;
    assert_eq!(
        figures.sum("squire_requests_total", &outbound),
        statuses().count() as f64
    );
    let series = figures
        .text()
        .lines()
        .filter(|line| line.starts_with("squire_requests_total{"));
    assert!(series.count() <= 257);
    let others = figures.sum(
        "squire_requests_total",
        &[("direction", "outbound"), ("status", "other")],
    );
    assert_eq!(others, (statuses().count() - 256) as f64);
}
