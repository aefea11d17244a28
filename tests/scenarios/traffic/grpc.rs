//! GRPCRoutes, asked by a gRPC client: everything that they can match by.

use squire_tests::{Mesh, eventually, grpc};
use tonic::Code;

use super::shop2;

/// Each rule says in its response which it is.
fn route(mesh: &Mesh, rules: &[(&str, &str)]) {
    let rules: String = rules
        .iter()
        .map(|(name, rest)| {
            format!(
                "  - filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-rule, value: \
                 {name}}}]}}}}]\n    {rest}\n"
            )
        })
        .collect();
    mesh.write(
        "route.yaml",
        &format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {{name: front, namespace: \
             shop}}\nspec:\n  parentRefs: [{{group: '', kind: Service, name: front, port: 80}}]\n  rules:\n{rules}"
        ),
    );
}

const FRONT: &str = "\n    backendRefs: [{name: front, port: 80}]";

#[tokio::test]
async fn a_grpc_route_matches_service_method_and_headers_by_name_and_by_pattern_and_the_closest_match_counts() {
    let matches = |text: &str| format!("matches: {text}{FRONT}");
    let rules = [
        ("method", matches("[{method: {service: shop.Orders, method: Place}}]")),
        ("service", matches("[{method: {service: shop.Orders}}]")),
        ("any-service", matches("[{method: {method: Ping}}]")),
        (
            "pattern",
            matches("[{method: {type: RegularExpression, service: 'shop[.]v[0-9]+[.][A-Z].*', method: 'Get.*'}}]"),
        ),
        (
            "headers",
            matches(
                "[{headers: [{name: x-team, value: a}, {name: x-stage, type: RegularExpression, value: 'canary|beta'}]}]",
            ),
        ),
        (
            "either",
            matches("[{method: {service: shop.One}}, {method: {service: shop.Two, method: Count}}]"),
        ),
        (
            "gone",
            "matches: [{method: {service: shop.Gone}}]\n    backendRefs: [{name: front, port: 80, weight: 0}]"
                .to_owned(),
        ),
        ("rest", FRONT.trim().to_owned()),
    ];
    let mesh = Mesh::strict();
    route(&mesh, &rules.each_ref().map(|(name, rest)| (*name, &**rest)));
    let (apps, [web, _first, _second]) = shop2(&mesh, "").await;
    let channel = grpc::channel(web.to("front.shop:80")).await.unwrap();
    eventually("the route is in force", async || {
        let answer = grpc::call(&channel, "/shop.Any/Any", &[]).await.ok()?;
        answer.metadata().contains_key("x-rule").then_some(())
    })
    .await;
    let (team, canary) = (("x-team", "a"), ("x-stage", "canary"));
    for (path, fields, rule) in [
        ("/shop.Orders/Place", &[][..], "method"),
        ("/shop.Orders/Place", &[team, canary], "method"),
        ("/shop.Orders/Cancel", &[], "service"),
        ("/shop.Orders/place", &[], "service"),
        ("/shop.Order/Place", &[], "rest"),
        ("/shop.Orders.Old/Place", &[], "rest"),
        ("/bank.Accounts/Ping", &[], "any-service"),
        ("/bank.Accounts/PingAll", &[], "rest"),
        ("/shop.v2.Orders/GetAll", &[], "pattern"),
        ("/shop.v2.Orders/SetAll", &[], "rest"),
        ("/a.shop.v2.Orders/GetAll", &[], "rest"),
        ("/bank.Accounts/List", &[team, canary], "headers"),
        ("/bank.Accounts/List", &[team, ("x-stage", "beta")], "headers"),
        ("/bank.Accounts/List", &[team, ("x-stage", "beta2")], "rest"),
        ("/bank.Accounts/List", &[team], "rest"),
        ("/bank.Accounts/List", &[("x-team", "A"), canary], "rest"),
        ("/shop.One/Sum", &[], "either"),
        ("/shop.Two/Count", &[], "either"),
        ("/shop.Two/Sum", &[], "rest"),
    ] {
        let answer = grpc::call(&channel, path, fields).await.unwrap();
        assert_eq!(answer.metadata().get("x-rule").unwrap(), rule, "{path} {fields:?}");
        assert_eq!(
            answer.get_ref(),
            &grpc::report("shop/web"),
            "the message comes back whole"
        );
    }
    let before = apps.iter().map(squire_tests::http2::Http2App::requests).sum::<usize>();
    let refused = grpc::call(&channel, "/shop.Gone/Any", &[]).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    let after = apps.iter().map(squire_tests::http2::Http2App::requests).sum::<usize>();
    assert_eq!(before, after, "nobody was asked");
    let nowhere = [
        ("direction", "outbound"),
        ("grpc_status", "14"),
        ("flag", "route_reply"),
    ];
    web.counts("squire_requests_total", &nowhere, 1.0).await;
}
