use std::{collections::BTreeMap, time::Duration};

use squire_mesh::{
    traffic::{Head, PathMatch, Selected},
    workload::{Service, ServiceName, ServicePort},
};

use super::*;
use crate::manifest::Manifest;

const SPLIT: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: web, port: 80}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /api/}, method: GET, headers: [{name: X-Team, value: a}]}]
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Via, value: mesh}], remove: [x-debug]}}
    - {type: URLRewrite, urlRewrite: {hostname: web.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /v2}}}
    backendRefs: [{name: web, port: 80, weight: 9}, {name: web-v2, port: 8080}]
    timeouts: {request: 2s, backendRequest: 500ms}
    retry: {codes: [503], attempts: 3, backoff: 10ms}
  - backendRefs: [{name: web, port: 80}]
";

fn service(namespace: &str, name: &str, ports: &[(u16, &str)]) -> (ServiceName, Service) {
    let name = ServiceName::new(namespace, name);
    let port = |(port, name): &(u16, &str)| ServicePort {
        port: *port,
        name: (*name).into(),
        app_protocol: None,
    };
    let service = Service {
        name: name.clone(),
        hostnames: [].into(),
        vips: [].into(),
        ports: ports.iter().map(port).collect(),
        traffic: None,
    };
    (name, service)
}

fn attached(text: &str) -> (BTreeMap<ServiceName, Service>, Vec<String>) {
    let manifest = Manifest::parse("routes.yaml", text);
    assert_eq!(manifest.problems, []);
    let mut services = BTreeMap::from([
        service("shop", "web", &[(80, "http"), (81, "admin")]),
        service("shop", "web-v2", &[(8080, "http")]),
        service("other", "api", &[(80, "http")]),
    ]);
    let objects: Vec<_> = manifest.objects.into_iter().map(std::sync::Arc::new).collect();
    let mut routes = Routes::default();
    let problems = routes.attach(&objects, &mut services);
    let again = routes.attach(&objects, &mut services);
    assert_eq!(problems, again, "what is kept says the same again");
    (services, problems.iter().map(ToString::to_string).collect())
}

fn problems_of(text: &str) -> Vec<String> {
    let manifest = Manifest::parse("routes.yaml", text);
    let problems = manifest.objects.iter().flat_map(check);
    problems.map(|problem| problem.to_string()).collect()
}

/// The rule that a request to `shop/web` falls under.
fn selected<'s>(services: &'s BTreeMap<ServiceName, Service>, port: u16, method: &str, path: &str) -> Option<&'s Rule> {
    let web = &services[&ServiceName::new("shop", "web")];
    let fields = [("x-team", "a")];
    let head = Head {
        method,
        path: Some(path),
        query: None,
        authority: "web",
        headers: &fields,
    };
    match web.traffic.as_ref()?.routes.select(Some("shop"), port, &head) {
        Selected::Rule(rule) => Some(rule),
        Selected::Unrouted | Selected::Nothing => None,
    }
}

#[test]
fn a_route_is_read_whole_and_attached_to_its_port() {
    let (services, problems) = attached(SPLIT);
    assert_eq!(problems, Vec::<String>::new());
    let rule = selected(&services, 80, "GET", "/api/x").unwrap();
    assert_eq!(&*rule.route, "HTTPRoute shop/web");
    let weights: Vec<_> = rule
        .backends
        .iter()
        .map(|backend| (backend.service.as_str(), backend.weight))
        .collect();
    assert_eq!(weights, [("shop/web", 9), ("shop/web-v2", 1)]);
    assert_eq!(rule.timeouts.request, Some(Duration::from_secs(2)));
    assert_eq!(rule.timeouts.backend_request, Some(Duration::from_millis(500)));
    let retry = rule.retry.as_ref().unwrap();
    assert_eq!(
        (&*retry.codes, retry.attempts, retry.backoff),
        (&[503][..], 3, Duration::from_millis(10))
    );
    assert_eq!(*rule.filters.request.set, [("x-via".into(), "mesh".into())]);
    let rewrite = rule.filters.rewrite.as_ref().unwrap();
    assert_eq!(rewrite.host.as_deref(), Some("web.example"));
    assert_eq!(rewrite.path.as_ref().unwrap().apply("/api/x?y"), "/v2/x?y");

    let fallback = selected(&services, 80, "POST", "/api/x").unwrap();
    assert_eq!(fallback.backends.len(), 1);
    assert!(
        selected(&services, 81, "GET", "/api/x").is_none(),
        "another port has no route"
    );
}

#[test]
fn a_section_name_is_the_name_of_a_port_and_none_is_every_port() {
    let (services, problems) = attached(&SPLIT.replace("port: 80}]\n  rules", "sectionName: admin}]\n  rules"));
    assert_eq!(problems, Vec::<String>::new());
    assert!(selected(&services, 81, "GET", "/").is_some() && selected(&services, 80, "GET", "/").is_none());
    let (services, _) = attached(&SPLIT.replace(", port: 80}]\n  rules", "}]\n  rules"));
    assert!(selected(&services, 81, "GET", "/").is_some() && selected(&services, 80, "GET", "/").is_some());
}

#[test]
fn grpc_calls_are_read() {
    let (services, problems) = attached(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: cart, namespace: shop, creationTimestamp: '2026-01-31T12:00:00Z'}
spec:
  parentRefs: [{group: '', kind: Service, name: web}]
  rules:
  - matches: [{method: {service: shop.Cart, method: Add}}]
    backendRefs: [{name: web-v2, port: 8080}]
",
    );
    assert_eq!(problems, Vec::<String>::new());
    let rule = selected(&services, 80, "POST", "/shop.Cart/Add").unwrap();
    assert_eq!(rule.backends[0].service.as_str(), "shop/web-v2");
    assert!(selected(&services, 80, "POST", "/shop.Cart/Remove").is_none());
    let web = &services[&ServiceName::new("shop", "web")];
    assert_eq!(
        web.traffic.as_ref().unwrap().routes.routes()[0].created,
        Some(1_769_860_800)
    );
}

#[test]
fn a_backend_in_another_namespace_needs_a_grant_there() {
    let route = SPLIT.replace("{name: web-v2, port: 8080}", "{name: api, namespace: other, port: 80}");
    let (services, problems) = attached(&route);
    let refused = |services: &BTreeMap<_, _>| {
        let rule = selected(services, 80, "GET", "/api/x").unwrap().clone();
        rule.backends[1].refused.clone()
    };
    assert!(refused(&services).is_some());
    assert!(problems[0].contains("no ReferenceGrant in other"), "{problems:?}");
    for (from, to, granted) in [
        ("shop", "{group: '', kind: Service}", true),
        ("shop", "{group: '', kind: Service, name: api}", true),
        ("shop", "{group: '', kind: Service, name: db}", false),
        ("shop", "{group: '', kind: Secret}", false),
        ("elsewhere", "{group: '', kind: Service}", false),
    ] {
        let grant = format!(
            "{route}---\napiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\n\
             metadata: {{name: g, namespace: other}}\n\
             spec: {{from: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: {from}}}], to: [{to}]}}\n"
        );
        let (services, _) = attached(&grant);
        assert_eq!(refused(&services).is_none(), granted, "{from} {to}");
    }
}

#[test]
fn references_to_nothing_are_remarked_on() {
    for (from, to, expected) in [
        (
            "name: web, port: 80}]",
            "name: nobody, port: 80}]",
            "there is no Service shop/nobody",
        ),
        (
            "name: web, port: 80}]",
            "name: web, port: 7}]",
            "the Service shop/web has no port 7",
        ),
        (
            "{name: web-v2, port: 8080}",
            "{name: gone, port: 8080}",
            "there is no Service shop/gone",
        ),
        (
            "{name: web-v2, port: 8080}",
            "{name: web-v2, port: 1}",
            "the Service shop/web-v2 has no port 1",
        ),
    ] {
        let (_, problems) = attached(&SPLIT.replacen(from, to, 1));
        assert!(
            problems.iter().any(|problem| problem.contains(expected)),
            "{expected}: {problems:?}"
        );
    }
}

#[test]
fn a_route_of_a_gateway_is_noted_and_left_alone() {
    let (services, problems) =
        attached(&SPLIT.replace("{group: '', kind: Service, name: web, port: 80}", "{name: gw}"));
    assert!(
        problems[0].contains("warning") && problems[0].contains("no Service among them"),
        "{problems:?}"
    );
    assert!(services.values().all(|service| service.traffic.is_none()));
}

#[test]
fn what_the_crds_refuse_is_an_error_with_its_place() {
    let cases = [
        ("value: /api/", "value: api", "spec.rules[0].matches[0].path.value"),
        ("value: /api/", "value: /a//b", "spec.rules[0].matches[0].path.value"),
        ("value: /api/", "value: /a/../b", "spec.rules[0].matches[0].path.value"),
        (
            "type: PathPrefix, value: /api/",
            "type: Glob, value: /api",
            "spec.rules[0].matches[0].path.type",
        ),
        (
            "type: PathPrefix, value: /api/",
            "type: RegularExpression, value: '('",
            "spec.rules[0].matches[0].path.value",
        ),
        ("method: GET", "method: get", "spec.rules[0].matches[0].method"),
        (
            "name: X-Team",
            "name: 'X Team'",
            "spec.rules[0].matches[0].headers[0].name",
        ),
        (
            "name: X-Via",
            "name: Content-Length",
            "spec.rules[0].filters[0].requestHeaderModifier.set[0]",
        ),
        (
            "name: X-Via, value: mesh",
            "name: X-Via, value: \"a\\nb\"",
            "spec.rules[0].filters[0].requestHeaderModifier.set[0]",
        ),
        (
            "type: URLRewrite, urlRewrite",
            "type: RequestMirror, urlRewrite",
            "spec.rules[0].filters[1].type",
        ),
        (
            "web.example",
            "web.example:80",
            "spec.rules[0].filters[1].urlRewrite.hostname",
        ),
        (
            "replacePrefixMatch: /v2",
            "replacePrefixMatch: v2",
            "spec.rules[0].filters[1].urlRewrite.path.replacePrefixMatch",
        ),
        (
            "{name: web-v2, port: 8080}",
            "{name: web-v2}",
            "spec.rules[0].backendRefs[1].port",
        ),
        ("weight: 9", "weight: -1", "spec.rules[0].backendRefs[0].weight"),
        ("request: 2s", "request: 2", "spec.rules[0].timeouts.request"),
        (
            "backendRequest: 500ms",
            "backendRequest: 5s",
            "spec.rules[0].timeouts.backendRequest",
        ),
        ("codes: [503]", "codes: [200]", "spec.rules[0].retry.codes[0]"),
        ("retry: {", "retries: {", "spec.rules[0].retries"),
        (
            "gateway.networking.k8s.io/v1",
            "gateway.networking.k8s.io/v1alpha1",
            "apiVersion",
        ),
    ];
    for (from, to, path) in cases {
        let problems = problems_of(&SPLIT.replacen(from, to, 1));
        let expected = format!("error: HTTPRoute shop/web: {path}: ");
        assert!(
            problems.iter().any(|problem| problem.contains(&expected)),
            "{to}: {problems:?}"
        );
    }
    assert_eq!(problems_of(SPLIT), Vec::<String>::new());
}

#[test]
fn a_rule_with_an_error_fails_closed_for_what_it_matches_and_no_more() {
    let (services, _) = attached(&SPLIT.replace("type: URLRewrite, urlRewrite", "type: RequestMirror, urlRewrite"));
    let rule = selected(&services, 80, "GET", "/api/x").unwrap();
    assert!(
        rule.refused.as_deref().is_some_and(|why| why.contains("RequestMirror")),
        "{:?}",
        rule.refused
    );
    assert_eq!(selected(&services, 80, "POST", "/").unwrap().refused, None);

    let unreadable = SPLIT.replace(
        "type: PathPrefix, value: /api/}, method: GET",
        "type: Glob, value: /x}, method: GET",
    );
    let (services, _) = attached(&unreadable);
    let rule = selected(&services, 80, "GET", "/anything").unwrap();
    assert!(rule.refused.is_some(), "a path that cannot be read is every path");
    assert_eq!(rule.matches[0].path, PathMatch::Prefix("".into()));
}

#[test]
fn settings_of_a_service_are_checked() {
    let service = |value: &str| {
        problems_of(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, annotations: {{squire.mesh/eject-for: {value}}}}}\n"
        ))
    };
    assert_eq!(service("10s"), Vec::<String>::new());
    let problems = service("soon");
    assert!(
        problems[0].starts_with("routes.yaml:3: error: Service default/web: "),
        "{problems:?}"
    );
}

#[test]
fn a_redirect_has_no_backend_and_needs_no_backend() {
    let redirect = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: web}]
  rules:
  - filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}]
";
    assert_eq!(problems_of(redirect), Vec::<String>::new());
    let with_backend = format!("{redirect}    backendRefs: [{{name: web, port: 80}}]\n");
    assert!(problems_of(&with_backend)[0].contains("spec.rules[0].backendRefs"));
}
