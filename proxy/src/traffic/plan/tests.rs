use std::collections::BTreeMap;

use proptest::prelude::*;
use squire_mesh::traffic::{
    FieldMatch, Match, PathChange, Retry, Rewrite, Route, RouteKind, ServiceRoutes, TextRule, Timeouts, Traffic,
};

use super::*;
use crate::{
    http::{Fields, Version},
    traffic::fixture::Fixture,
};

/// Header fields as a list.
struct List(Vec<(&'static str, &'static str)>);

impl squire_mesh::policy::Headers for List {
    fn visit(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) {
        self.0.visit(name, visit);
    }
}

impl Fields for List {
    fn each(&self, visit: &mut dyn FnMut(&str, &[u8])) {
        for (name, value) in &self.0 {
            visit(name, value.as_bytes());
        }
    }
}

fn request<'a>(target: &'a str, fields: &'a List) -> RequestView<'a> {
    RequestView {
        method: "GET",
        target: Some(target),
        authority: "web.shop:80",
        version: Version::Http11,
        fields,
    }
}

fn backend(name: &str, weight: u32) -> Backend {
    Backend {
        service: ServiceName::new("shop", name),
        port: 80,
        weight,
        filters: Filters::default(),
        refused: None,
    }
}

fn rule() -> Rule {
    Rule {
        route: "HTTPRoute shop/web".into(),
        matches: [Match::default()].into(),
        filters: Filters::default(),
        backends: [backend("web", 1)].into(),
        timeouts: Timeouts::default(),
        retry: None,
        refused: None,
    }
}

fn edits(set: (&str, &str), remove: &str) -> HeaderEdits {
    HeaderEdits::new([set], [], [remove]).unwrap()
}

/// The plan for a request to `shop/web` with these rules.
fn planned(rules: Vec<Rule>, target: &str, fields: Vec<(&'static str, &'static str)>, point: u64) -> Plan {
    let mut fixture = Fixture::new("");
    let route = Route {
        kind: RouteKind::Http,
        namespace: "shop".into(),
        name: "web".into(),
        created: None,
        port: Some(80),
        rules: rules.into_iter().map(Arc::new).collect(),
    };
    let traffic = Traffic {
        routes: ServiceRoutes::new("shop", vec![route]),
        ..Traffic::default()
    };
    fixture.service("web", Some(&traffic));
    fixture.service("web-v2", None);
    let snapshot = fixture.snapshot();
    let service = snapshot.service("shop/web").unwrap();
    plan(&snapshot, service, 80, &request(target, &List(fields)), point)
}

fn forward(plan: Plan) -> Forward {
    match plan {
        Plan::Forward(forward) => forward,
        Plan::Reply { why, .. } => panic!("a reply: {why}"),
    }
}

fn reply(plan: Plan) -> (u16, &'static str) {
    match plan {
        Plan::Forward(forward) => panic!("forwarded to {}", forward.service),
        Plan::Reply { reply, why, .. } => (reply.status, why),
    }
}

#[test]
fn a_service_without_routes_serves_itself() {
    let mut fixture = Fixture::new("");
    fixture.service("web", None);
    let snapshot = fixture.snapshot();
    let service = snapshot.service("shop/web").unwrap();
    let fields = List(vec![]);
    let forward = forward(plan(&snapshot, service, 80, &request("/", &fields), 7));
    assert_eq!(
        (forward.service.as_str(), forward.port, forward.route),
        ("shop/web", 80, None)
    );
    assert!(forward.edits.is_empty() && forward.response_edits.is_empty());
}

#[test]
fn a_rule_says_where_to_go_and_what_to_change_and_how_long_to_wait() {
    let mut backend = backend("web-v2", 1);
    backend.filters.request = edits(("x-a", "backend"), "x-c");
    backend.filters.rewrite = Some(Rewrite {
        host: Some("v2.example".into()),
        path: None,
    });
    let rule = Rule {
        filters: Filters {
            request: edits(("x-a", "rule"), "x-b"),
            response: edits(("x-r", "1"), "x-s"),
            redirect: None,
            rewrite: Some(Rewrite {
                host: None,
                path: Some(PathChange::Prefix {
                    matched: "/a".into(),
                    replacement: "/b".into(),
                }),
            }),
        },
        backends: [backend].into(),
        timeouts: Timeouts {
            request: Some(Duration::from_secs(2)),
            backend_request: Some(Duration::from_secs(1)),
        },
        retry: Some(Retry {
            codes: [503].into(),
            attempts: 1,
            backoff: Duration::ZERO,
        }),
        ..rule()
    };
    let forward = forward(planned(vec![rule], "/a/x?y", vec![], 0));
    assert_eq!(forward.service.as_str(), "shop/web-v2");
    assert_eq!(forward.edits.target.as_deref(), Some("/b/x?y"));
    let set: Vec<_> = forward
        .edits
        .set
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    assert_eq!(set, [("x-a", &b"backend"[..]), ("host", b"v2.example")]);
    assert_eq!(forward.edits.remove, ["x-b".into(), "x-c".into()]);
    assert_eq!(forward.response_edits.remove, ["x-s".into()]);
    assert_eq!(forward.request_timeout, Some(Duration::from_secs(2)));
    assert_eq!(forward.try_timeout, Some(Duration::from_secs(1)));
    assert!(forward.retry.wants(503));
    assert_eq!(forward.route.as_deref(), Some("HTTPRoute shop/web"));
}

#[test]
fn what_no_rule_matches_is_404_and_what_a_rule_cannot_serve_is_500() {
    let only = Rule {
        matches: [Match {
            headers: [FieldMatch {
                name: "x-a".into(),
                value: TextRule::Exact("1".into()),
            }]
            .into(),
            ..Match::default()
        }]
        .into(),
        ..rule()
    };
    assert_eq!(
        reply(planned(vec![only.clone()], "/", vec![], 0)),
        (404, "no_route_matches")
    );
    assert_eq!(
        forward(planned(vec![only], "/", vec![("x-a", "1")], 0))
            .service
            .as_str(),
        "shop/web"
    );
    let with = |backends: Vec<Backend>| Rule {
        backends: backends.into(),
        ..rule()
    };
    let refused = Backend {
        refused: Some("no grant".into()),
        ..backend("web", 1)
    };
    let other_port = Backend {
        port: 99,
        ..backend("web", 1)
    };
    let cases = [
        (
            Rule {
                refused: Some("what?".into()),
                ..rule()
            },
            "route_refused",
        ),
        (with(vec![]), "no_backend"),
        (with(vec![backend("web", 0)]), "no_backend"),
        (with(vec![refused]), "backend_refused"),
        (with(vec![backend("gone", 1)]), "backend_unknown"),
        (with(vec![other_port]), "backend_unknown"),
    ];
    for (rule, why) in cases {
        assert_eq!(reply(planned(vec![rule.clone()], "/", vec![], 0)), (500, why));
        let grpc = vec![("content-type", "application/grpc")];
        assert_eq!(reply(planned(vec![rule], "/", grpc, 0)), (503, why), "UNAVAILABLE");
    }
}

#[test]
fn only_the_share_of_a_bad_backend_fails() {
    let backends = [backend("web", 3), backend("gone", 1)];
    let rule = Rule {
        backends: backends.into(),
        ..rule()
    };
    let failed = (0..4).filter(|point| matches!(planned(vec![rule.clone()], "/", vec![], *point), Plan::Reply { .. }));
    assert_eq!(failed.count(), 1);
}

#[test]
fn a_redirect_is_answered_here() {
    let redirect = Redirect {
        scheme: Some(Scheme::Https),
        host: None,
        port: None,
        path: None,
        status: 301,
    };
    let filters = Filters {
        redirect: Some(redirect),
        ..Filters::default()
    };
    let rule = Rule {
        filters,
        backends: [].into(),
        ..rule()
    };
    let Plan::Reply { reply, .. } = planned(vec![rule], "/a?b", vec![], 0) else {
        panic!("a reply")
    };
    assert_eq!(reply.status, 301);
    assert_eq!(reply.fields, [("location".into(), (*b"https://web.shop/a?b").into())]);
}

proptest! {
    #[test]
    fn each_backend_gets_exactly_its_share_of_all_points(weights in prop::collection::vec(0..20_u32, 0..6)) {
        let backends: Vec<_> = weights.iter().enumerate().map(|(at, weight)| backend(&format!("b{at}"), *weight)).collect();
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let mut drawn: BTreeMap<String, u32> = BTreeMap::new();
        for point in 0..total {
            let backend = draw(&backends, point).unwrap();
            *drawn.entry(backend.service.to_string()).or_default() += 1;
        }
        for (at, weight) in weights.iter().enumerate() {
            prop_assert_eq!(drawn.get(&format!("shop/b{at}")).copied().unwrap_or_default(), *weight);
        }
        prop_assert!(total != 0 || draw(&backends, 7).is_none());
    }
}
