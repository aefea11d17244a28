//! Routes: who gets a request, what is changed in it, how long it may take.

use squire_tests::{
    Mesh,
    backend::Backend,
    eventually,
    http2::{self, Http2App},
    in_time,
};

use super::{ANY_ZONE, get, member, request, route, service, shop, shop2, spread};

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

#[tokio::test]
async fn both_kinds_of_routes_split_streams_by_weight_and_edit_heads_over_http_2() {
    for kind in ["HTTPRoute", "GRPCRoute"] {
        let mesh = Mesh::strict();
        mesh.write(
            "route.yaml",
            &format!(
                "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: front, namespace: shop}}\nspec:\n  \
                 parentRefs: [{{group: '', kind: Service, name: front, port: 80}}]\n  rules:\n  - filters: [{{type: \
                 RequestHeaderModifier, requestHeaderModifier: {{add: [{{name: x-via, value: mesh}}], remove: [x-debug]}}}}, \
                 {{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-route, value: split}}]}}}}]\n    \
                 backendRefs: [{{name: front, port: 80, weight: 3}}, {{name: canary, port: 80, weight: 1}}]\n"
            ),
        );
        service(&mesh, "canary", "");
        let app = Http2App::start("canary").await;
        let pod = mesh.pod("canary").serves(8080, app.address());
        member(&mesh, "canary", "canary", true, "a");
        let (_apps, [web, _first, _second]) = shop2(&mesh, ANY_ZONE).await;
        let _pod = pod.start().await;
        let client = http2::client(web.to("front.shop:80")).await;
        let call = async || {
            let request = http::Request::post("http://front/told")
                .header("content-type", "application/grpc")
                .header("x-debug", "1");
            let mut ready = client.clone().ready().await.unwrap();
            let (response, _) = ready.send_request(request.body(()).unwrap(), true).unwrap();
            let response = in_time("a response", response).await.unwrap();
            let fields = response.headers();
            assert_eq!(
                (response.status().as_u16(), &fields["x-route"]),
                (200, &"split".parse().unwrap())
            );
            assert_eq!(fields["told-x-via"], "mesh", "{kind}");
            assert!(fields.get("told-x-debug").is_none(), "{kind}");
            fields["x-backend"].to_str().unwrap().to_owned()
        };
        let mut of_canary = 0;
        for _ in 0..200 {
            of_canary += usize::from(call().await == "canary");
        }
        assert!((20..90).contains(&of_canary), "about a quarter, {kind}: {of_canary}");
    }
}
