//! Tries that fail: which are made again, where, and how often.

use std::time::Duration;

use http::StatusCode;
use squire_tests::{Mesh, Signal, eventually, http2, in_time};

use super::{ANY_ZONE, get, route, service, shop, shop2, spread};

#[tokio::test]
async fn a_failed_try_is_made_again_elsewhere_where_the_route_says_so_and_within_the_budget() {
    let mesh = Mesh::strict();
    route(
        &mesh,
        "  - matches: [{path: {type: PathPrefix, value: /again}}]\n    retry: {codes: [503], attempts: 2, backoff: \
         1ms}\n    backendRefs: [{name: front, port: 80}]\n  - backendRefs: [{name: front, port: 80}]\n",
    );
    let never = "squire.mesh/prefer-zone: 'false', squire.mesh/eject-after: never";
    let shop = shop(&mesh, never).await;
    let mut client = shop.client().await;
    shop.one.answers(503);
    let seen = spread(&mut client, "/again", 20).await;
    assert_eq!(seen["two"], 20, "each was answered by the one that can");
    assert!(shop.one.requests() > 0, "and the other was asked before");
    shop.counts("squire_retries_total", ("result", "sent")).await;

    let tries = shop.one.requests() + shop.two.requests();
    let mut failed = 0;
    for _ in 0..20 {
        failed += usize::from(get(&mut client, "/plain").await.status == 503);
    }
    assert!(failed > 0, "without a word of the route the status is the answer");
    assert_eq!(shop.one.requests() + shop.two.requests(), tries + 20);

    let tries = shop.one.requests() + shop.two.requests();
    shop.one.answers(200);
    client
        .send("GET /again/breaks HTTP/1.1\r\nHost: front\r\n\r\n")
        .await
        .unwrap();
    assert!(client.try_answer().await.is_err(), "what broke off never looks whole");
    let made = shop.one.requests() + shop.two.requests() - tries;
    assert_eq!(made, 1, "a response that had begun is not asked for again");

    service(
        &mesh,
        "front",
        &format!("{never}, squire.mesh/retry-budget: '0%', squire.mesh/retry-budget-floor: '0'"),
    );
    shop.one.answers(503);
    shop.two.answers(503);
    let mut client = shop.client().await;
    eventually("the budget is used up", async || {
        assert_eq!(get(&mut client, "/again").await.status, 503);
        let budget = [("result", "budget")];
        (shop.web.figure("squire_retries_total", &budget).await >= 1.0).then_some(())
    })
    .await;
    let tries = shop.one.requests() + shop.two.requests();
    assert_eq!(get(&mut client, "/again").await.status, 503);
    assert_eq!(shop.one.requests() + shop.two.requests(), tries + 1);
}

#[tokio::test]
async fn a_request_lost_with_its_peer_is_sent_again_only_if_that_can_do_no_harm() {
    for (method, fields, again) in [("GET", "", true), ("POST", "Content-Length: 0\r\n", false)] {
        let mesh = Mesh::strict();
        let shop = shop(&mesh, ANY_ZONE).await;
        let mut client = shop.client().await;
        client
            .send(&format!("{method} /held HTTP/1.1\r\nHost: front\r\n{fields}\r\n"))
            .await
            .unwrap();
        let first = eventually("somebody has the request", async || {
            match (shop.one.requests(), shop.two.requests()) {
                (1, 0) => Some(0),
                (0, 1) => Some(1),
                _ => None,
            }
        })
        .await;
        let other = if first == 0 { &shop.two } else { &shop.one };
        shop.sidecars[first].process.signal(Signal::KILL);
        if again {
            eventually("the other has it", async || (other.requests() == 1).then_some(())).await;
            other.release();
            let answer = client.answer().await;
            assert_eq!(answer.status, 200);
        } else {
            assert_eq!(client.answer().await.status, 502);
            assert_eq!(other.requests(), 0, "it may have been carried out");
        }
    }
}

#[tokio::test]
async fn one_try_that_takes_too_long_is_made_again_elsewhere_within_the_time_of_the_request() {
    let mesh = Mesh::strict();
    route(
        &mesh,
        "  - timeouts: {request: 20s, backendRequest: 500ms}\n    retry: {codes: [504], attempts: 1, backoff: 1ms}\n    \
         backendRefs: [{name: front, port: 80}]\n",
    );
    let shop = shop(
        &mesh,
        "squire.mesh/prefer-zone: 'false', squire.mesh/eject-after: never",
    )
    .await;
    shop.one.takes(Duration::from_secs(600));
    let mut client = shop.client().await;
    eventually("the slow one was tried first, and the other has answered", async || {
        let before = shop.one.requests();
        let answer = get(&mut client, "/").await;
        assert_eq!(
            (answer.status, answer.field("x-backend")),
            (200, Some("two")),
            "{}",
            answer.head
        );
        (shop.one.requests() > before).then_some(())
    })
    .await;
    shop.counts("squire_retries_total", ("result", "sent")).await;
    // With nobody left to answer in time it is the time of one try, not of the request, that ends it.
    shop.two.takes(Duration::from_secs(600));
    let mut client = shop.client().await;
    assert_eq!(get(&mut client, "/").await.status, 504);
    let late = [("direction", "outbound"), ("status", "504"), ("flag", "timeout")];
    shop.web.counts("squire_requests_total", &late, 1.0).await;
}

#[tokio::test]
async fn a_status_that_the_route_does_not_want_is_tried_again_elsewhere_over_http_2_too() {
    let mesh = Mesh::strict();
    route(
        &mesh,
        "  - matches: [{path: {type: PathPrefix, value: /again}}]\n    retry: {codes: [503], attempts: 2, backoff: \
         1ms}\n    backendRefs: [{name: front, port: 80}]\n  - backendRefs: [{name: front, port: 80}]\n",
    );
    let ([one, two], [web, _first, _second]) = shop2(
        &mesh,
        "squire.mesh/prefer-zone: 'false', squire.mesh/eject-after: never",
    )
    .await;
    let mut client = http2::client(web.to("front.shop:80")).await;
    one.answers(503);
    for _ in 0..20 {
        let answer = http2::get(&mut client, "/again").await;
        assert_eq!(
            (answer.status(), &answer.headers()["x-backend"]),
            (StatusCode::OK, &"two".parse().unwrap())
        );
    }
    assert!(one.requests() > 0, "and the other was asked before");
    web.counts("squire_retries_total", &[("result", "sent")], 1.0).await;
    let (before, mut failed) = (one.requests() + two.requests(), 0);
    for _ in 0..20 {
        failed += usize::from(http2::get(&mut client, "/plain").await.status() == 503);
    }
    assert!(failed > 0, "without a word of the route the status is the answer");
    assert_eq!(one.requests() + two.requests(), before + 20);
    // A body that has been sent cannot be sent again.
    two.answers(503);
    let before = one.requests() + two.requests();
    let post = http::Request::post("http://front/again").body(()).unwrap();
    let mut ready = client.clone().ready().await.unwrap();
    let (response, mut sink) = ready.send_request(post, false).unwrap();
    sink.send_data("body".into(), true).unwrap();
    assert_eq!(in_time("a response", response).await.unwrap().status(), 503);
    assert_eq!(one.requests() + two.requests(), before + 1);
}
