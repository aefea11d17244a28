//! Where requests go: routes, retries, timeouts, and the balancing of what is left among the endpoints, through real
//! sidecars.

use std::{collections::HashMap, time::Duration};

use http::StatusCode;
use squire_tests::{
    Mesh, Sidecar, Signal,
    backend::Backend,
    eventually,
    http::{Answer, Client},
    http2::{self, Http2App},
    in_time,
};

/// A Service of pods with this tier, reached on port 80.
fn service(mesh: &Mesh, name: &str, annotations: &str) {
    mesh.write(
        &format!("service-{name}.yaml"),
        &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop, annotations: \
             {{{annotations}}}}}\nspec:\n  clusterIP: None\n  selector: {{tier: {name}}}\n  ports: [{{name: http, port: 80, \
             targetPort: 8080}}]\n"
        ),
    );
}

/// An HTTPRoute of the Service `front` with these rules (YAML).
fn route(mesh: &Mesh, rules: &str) {
    mesh.write(
        "route.yaml",
        &format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: front, namespace: \
             shop}}\nspec:\n  parentRefs: [{{group: '', kind: Service, name: front, port: 80}}]\n  rules:\n{rules}"
        ),
    );
}

/// Makes a pod one of a Service's.
fn member(mesh: &Mesh, name: &str, tier: &str, ready: bool, zone: &str) {
    let (address, ready) = (mesh.address(name), if ready { "True" } else { "False" });
    mesh.write(
        &format!("workload-{name}.yaml"),
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{tier: {tier}, \
             topology.kubernetes.io/zone: {zone}}}, annotations: {{squire.mesh/transport: squire}}}}\nspec: \
             {{serviceAccountName: {name}, containers: [{{name: app}}]}}\nstatus: {{phase: Running, podIP: {address}, \
             conditions: [{{type: Ready, status: '{ready}'}}]}}\n"
        ),
    );
}

/// `web` and two instances of `front`, `one` in its own zone and `two` in another.
struct Shop {
    one: Backend,
    two: Backend,
    /// Their sidecars.
    sidecars: [Sidecar; 2],
    web: Sidecar,
}

impl Shop {
    async fn client(&self) -> Client {
        Client::connect(self.web.to("front.shop:80")).await.unwrap()
    }

    async fn counts(&self, metric: &str, label: (&str, &str)) {
        self.web.counts(metric, &[label], 1.0).await;
    }
}

/// With `front` annotated like this.
async fn shop(mesh: &Mesh, annotations: &str) -> Shop {
    service(mesh, "front", annotations);
    let (one, two) = tokio::join!(Backend::start("one"), Backend::start("two"));
    let (first, second) = (mesh.pod("one"), mesh.pod("two"));
    let web = mesh.pod("web").reaches("front.shop:80");
    member(mesh, "one", "front", true, "a");
    member(mesh, "two", "front", true, "b");
    member(mesh, "web", "web", true, "a");
    mesh.start().await;
    let (first, second, web) = tokio::join!(
        first.serves(8080, one.address()).start(),
        second.serves(8080, two.address()).start(),
        web.start()
    );
    Shop {
        one,
        two,
        sidecars: [first, second],
        web,
    }
}

async fn request(client: &mut Client, method: &str, path: &str, fields: &str) -> Answer {
    client
        .ask(&format!("{method} {path} HTTP/1.1\r\nHost: front\r\n{fields}\r\n"))
        .await
}

async fn get(client: &mut Client, path: &str) -> Answer {
    request(client, "GET", path, "").await
}

/// Who answered so many requests, how often each.
async fn spread(client: &mut Client, path: &str, times: usize) -> HashMap<String, usize> {
    let mut seen = HashMap::new();
    for _ in 0..times {
        let answer = get(client, path).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        *seen.entry(answer.field("x-backend").unwrap().to_owned()).or_default() += 1;
    }
    seen
}

const ANY_ZONE: &str = "squire.mesh/prefer-zone: 'false'";

#[tokio::test]
async fn a_route_splits_by_weight_and_matches_method_path_and_header() {
    let mesh = Mesh::strict();
    service(&mesh, "canary", "");
    route(
        &mesh,
        "  - matches: [{method: POST, path: {type: PathPrefix, value: /orders}, headers: [{name: X-Team, value: a}]}]
    filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Via, value: mesh}], remove: [x-debug]}}]
    backendRefs: [{name: canary, port: 80}]
  - matches: [{path: {type: Exact, value: /old}}]
    filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /new}, statusCode: 301}}]
  - matches: [{path: {type: PathPrefix, value: /split}}]
    filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Route, value: split}]}}]
    backendRefs: [{name: front, port: 80, weight: 3}, {name: canary, port: 80, weight: 1}]
  - matches: [{path: {type: PathPrefix, value: /never}}]
    backendRefs: [{name: front, port: 80, weight: 1}, {name: canary, port: 80, weight: 0}]
  - backendRefs: [{name: front, port: 80}]
",
    );
    let canary = Backend::start("canary").await;
    let pod = mesh.pod("canary").serves(8080, canary.address());
    member(&mesh, "canary", "canary", true, "a");
    let shop = shop(&mesh, ANY_ZONE).await;
    let _pod = pod.start().await;
    let mut client = shop.client().await;
    let seen = spread(&mut client, "/split", 200).await;
    let of_canary = seen["canary"];
    assert!((20..90).contains(&of_canary), "about a quarter: {seen:?}");
    assert!(seen["one"] > 0 && seen["two"] > 0, "{seen:?}");
    assert_eq!(get(&mut client, "/split").await.field("x-route"), Some("split"));
    assert!(!spread(&mut client, "/never", 50).await.contains_key("canary"));
    assert!(
        !spread(&mut client, "/splitted", 20).await.contains_key("canary"),
        "no whole element"
    );

    let fields = "X-Team: a\r\nX-Via: me\r\nX-Debug: 1\r\nContent-Length: 0\r\n";
    let answer = request(&mut client, "POST", "/orders/1", fields).await;
    assert_eq!(answer.field("x-backend"), Some("canary"));
    let text = answer.text().to_ascii_lowercase();
    assert!(
        text.contains("x-via: mesh\r\n") && !text.contains("x-via: me\r\n"),
        "{text}"
    );
    assert!(!text.contains("x-debug"), "{text}");
    for (method, path, fields) in [
        ("GET", "/orders/1", "X-Team: a\r\n"),
        ("POST", "/order", "X-Team: a\r\nContent-Length: 0\r\n"),
        ("POST", "/orders", "X-Team: b\r\nContent-Length: 0\r\n"),
    ] {
        let answer = request(&mut client, method, path, fields).await;
        assert_ne!(answer.field("x-backend"), Some("canary"), "{method} {path} {fields}");
    }
    let before = (shop.one.requests(), shop.two.requests());
    let answer = get(&mut client, "/old").await;
    assert_eq!(answer.status, 301);
    assert!(answer.field("location").unwrap().ends_with("/new"), "{}", answer.head);
    assert_eq!((shop.one.requests(), shop.two.requests()), before, "nobody was asked");
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_a_504_and_its_connection_goes_on() {
    let mesh = Mesh::strict();
    route(
        &mesh,
        "  - matches: [{path: {type: PathPrefix, value: /short}}]\n    timeouts: {request: 300ms}\n    backendRefs: \
         [{name: front, port: 80}]\n  - backendRefs: [{name: front, port: 80}]\n",
    );
    let shop = shop(&mesh, ANY_ZONE).await;
    let mut client = shop.client().await;
    assert_eq!(get(&mut client, "/short/quick").await.status, 200);
    assert_eq!(get(&mut client, "/short/held").await.status, 504);
    assert_eq!(get(&mut client, "/short/quick").await.status, 200);
    let late = [("direction", "outbound"), ("status", "504"), ("flag", "timeout")];
    shop.web.counts("squire_requests_total", &late, 1.0).await;
    assert_eq!(
        shop.one.requests() + shop.two.requests(),
        3,
        "nobody asked for another try"
    );
}

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

/// `web` and two instances of `front` that speak HTTP/2.
async fn shop2(mesh: &Mesh, annotations: &str) -> ([Http2App; 2], [Sidecar; 3]) {
    service(mesh, "front", annotations);
    let apps = [Http2App::start("one").await, Http2App::start("two").await];
    let (first, second) = (mesh.pod("one"), mesh.pod("two"));
    let web = mesh.pod("web").reaches("front.shop:80");
    member(mesh, "one", "front", true, "a");
    member(mesh, "two", "front", true, "b");
    member(mesh, "web", "web", true, "a");
    mesh.start().await;
    let (first, second, web) = tokio::join!(
        first.serves(8080, apps[0].address()).start(),
        second.serves(8080, apps[1].address()).start(),
        web.start()
    );
    (apps, [web, first, second])
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

#[tokio::test]
async fn a_grpc_route_leads_calls_by_service_and_method_and_no_others() {
    let mesh = Mesh::strict();
    mesh.write(
        "route.yaml",
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: front, namespace: shop}\nspec:\n  \
         parentRefs: [{group: '', kind: Service, name: front, port: 80}]\n  rules:\n  - matches:\n    - {method: {service: \
         shop.Orders, method: Place}, headers: [{name: x-team, value: a}]}\n    filters: [{type: RequestHeaderModifier, \
         requestHeaderModifier: {set: [{name: x-via, value: mesh}]}}]\n    backendRefs: [{name: canary, port: 80}]\n  - \
         backendRefs: [{name: front, port: 80}]\n",
    );
    service(&mesh, "canary", "");
    let app = Http2App::start("canary").await;
    let pod = mesh.pod("canary").serves(8080, app.address());
    member(&mesh, "canary", "canary", true, "a");
    let (_apps, [web, _first, _second]) = shop2(&mesh, "").await;
    let _pod = pod.start().await;
    let client = http2::client(web.to("front.shop:80")).await;
    let call = async |path: &str, team: &str| {
        let request = http::Request::post(format!("http://front{path}"))
            .header("content-type", "application/grpc")
            .header("x-team", team)
            .body(())
            .unwrap();
        let mut ready = client.clone().ready().await.unwrap();
        let (response, _) = ready.send_request(request, true).unwrap();
        let response = in_time("a response", response).await.unwrap();
        assert_eq!(response.status(), 200);
        response.headers()["x-backend"].to_str().unwrap().to_owned()
    };
    eventually("the canary is reached", async || {
        (call("/shop.Orders/Place", "a").await == "canary").then_some(())
    })
    .await;
    for (path, team) in [
        ("/shop.Orders/Place", "b"),
        ("/shop.Orders/Cancel", "a"),
        ("/shop.Order/Place", "a"),
        ("/shop.Orders/place", "a"),
    ] {
        assert_ne!(call(path, team).await, "canary", "{path} {team}");
    }
    let by_route = [
        ("direction", "outbound"),
        ("route", "GRPCRoute shop/front"),
        ("grpc_status", "0"),
    ];
    web.counts("squire_requests_total", &by_route, 1.0).await;
}
