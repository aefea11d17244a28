use super::*;
use crate::{
    traffic::{Backend, FieldMatch, Filters, Pattern, TextRule, Timeouts},
    workload::ServiceName,
};

const NONE: [(&str, &str); 0] = [];

fn rule(name: &str, matches: Vec<Match>) -> Arc<Rule> {
    let backend = Backend {
        service: ServiceName::new("shop", "web"),
        port: 80,
        weight: 1,
        filters: Filters::default(),
        refused: None,
    };
    Arc::new(Rule {
        route: name.into(),
        matches: matches.into(),
        filters: Filters::default(),
        backends: [backend].into(),
        timeouts: Timeouts::default(),
        retry: None,
        refused: None,
    })
}

fn route(kind: RouteKind, namespace: &str, name: &str, port: Option<u16>, matches: Vec<Match>) -> Route {
    Route {
        kind,
        namespace: namespace.into(),
        name: name.into(),
        created: None,
        port,
        rules: [rule(name, matches)].into(),
    }
}

fn http(name: &str, each: Match) -> Route {
    route(RouteKind::Http, "shop", name, None, vec![each])
}

fn path(path: PathMatch) -> Match {
    Match {
        path,
        ..Match::default()
    }
}

fn prefix(text: &str) -> Match {
    path(PathMatch::Prefix(text.into()))
}

fn field(name: &str) -> FieldMatch {
    FieldMatch {
        name: name.into(),
        value: TextRule::Exact("1".into()),
    }
}

fn chosen(routes: Vec<Route>, client: Option<&str>, port: u16, target: &str) -> String {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let fields = [("a", "1"), ("b", "1")];
    let head = Head {
        method: "GET",
        path: Some(path),
        query: Some(query),
        authority: "web",
        headers: &fields,
    };
    match ServiceRoutes::new("shop", routes).select(client, port, &head) {
        Selected::Unrouted => "unrouted".to_owned(),
        Selected::Nothing => "nothing".to_owned(),
        Selected::Rule(rule) => rule.route.to_string(),
    }
}

#[test]
fn the_more_specific_match_wins_whatever_the_order() {
    let get = |each: Match| Match {
        method: Some("GET".into()),
        ..each
    };
    let with = |headers: usize, query: usize, each: Match| Match {
        headers: ["a", "b"].into_iter().take(headers).map(field).collect(),
        query: ["q", "r"].into_iter().take(query).map(field).collect(),
        ..each
    };
    // Each is more specific than those after it.
    let order = vec![
        http("exact", path(PathMatch::Exact("/a/b".into()))),
        http("pattern", path(PathMatch::Pattern(Pattern::new("/a/.*").unwrap()))),
        http("longer", prefix("/a/b")),
        http("method", get(prefix("/a"))),
        http("headers-2", with(2, 0, prefix("/a"))),
        http("headers-1-query-2", with(1, 2, prefix("/a"))),
        http("headers-1-query-1", with(1, 1, prefix("/a"))),
        http("headers-1", with(1, 0, prefix("/a"))),
        http("query", with(0, 1, prefix("/a"))),
        http("shorter", prefix("/a")),
        http("everything", prefix("")),
    ];
    for first in 0..order.len() {
        let expected = order[first].name.to_string();
        let mut rest = order[first..].to_vec();
        assert_eq!(chosen(rest.clone(), None, 80, "/a/b?q=1&r=1"), expected);
        rest.reverse();
        assert_eq!(chosen(rest, None, 80, "/a/b?q=1&r=1"), expected, "reversed");
    }
}

#[test]
fn of_equals_the_oldest_then_the_first_by_name_then_the_first_rule_wins() {
    let aged = |name: &str, created: Option<i64>| Route {
        created,
        ..http(name, prefix("/a"))
    };
    assert_eq!(
        chosen(vec![aged("a", Some(2)), aged("b", Some(1))], None, 80, "/a"),
        "b"
    );
    assert_eq!(
        chosen(vec![aged("a", None), aged("b", Some(9))], None, 80, "/a"),
        "b",
        "unknown age last"
    );
    assert_eq!(
        chosen(vec![aged("b", Some(1)), aged("a", Some(1))], None, 80, "/a"),
        "a"
    );
    let two = Route {
        rules: [rule("first", vec![prefix("/a")]), rule("second", vec![prefix("/a")])].into(),
        ..http("two", prefix("/a"))
    };
    assert_eq!(chosen(vec![two], None, 80, "/a"), "first");
}

#[test]
fn grpc_routes_are_ordered_by_service_and_method_and_shadow_http_routes_of_their_port() {
    let exact = |text: &str| Some(TextRule::Exact(text.into()));
    let grpc = |name: &str, port, service, method| {
        let each = path(PathMatch::Grpc { service, method });
        route(RouteKind::Grpc, "shop", name, port, vec![each])
    };
    let routes = vec![
        grpc("any", Some(80), None, None),
        grpc("method", Some(80), None, exact("Add")),
        grpc("service", Some(80), exact("Cart"), None),
        grpc("both", Some(80), exact("Cart"), exact("Add")),
        http("http", path(PathMatch::Exact("/Cart/Add".into()))),
    ];
    assert_eq!(chosen(routes.clone(), None, 80, "/Cart/Add"), "both");
    assert_eq!(chosen(routes.clone(), None, 80, "/Cart/Remove"), "service");
    assert_eq!(chosen(routes.clone(), None, 80, "/Other/Add"), "method");
    assert_eq!(chosen(routes.clone(), None, 80, "/x"), "any");
    assert_eq!(chosen(routes.clone(), None, 81, "/Cart/Add"), "http", "another port");
    assert_eq!(
        chosen(routes[3..].to_vec(), None, 80, "/x"),
        "nothing",
        "HTTPRoutes do not fill in"
    );
}

#[test]
fn a_client_with_routes_of_its_own_namespace_uses_those_alone() {
    let own = |name: &str, namespace: &str, port, each| route(RouteKind::Http, namespace, name, port, vec![each]);
    let routes = vec![
        own("producer", "shop", None, prefix("")),
        own("consumer", "batch", Some(80), prefix("/a")),
    ];
    assert_eq!(chosen(routes.clone(), Some("batch"), 80, "/a"), "consumer");
    assert_eq!(
        chosen(routes.clone(), Some("batch"), 80, "/b"),
        "nothing",
        "no fallback to the producer's"
    );
    assert_eq!(
        chosen(routes.clone(), Some("batch"), 81, "/a"),
        "producer",
        "a port it says nothing about"
    );
    assert_eq!(chosen(routes.clone(), Some("shop"), 80, "/a"), "producer");
    assert_eq!(chosen(routes, None, 80, "/a"), "producer");
}

#[test]
fn without_a_route_for_the_port_nothing_is_routed() {
    assert_eq!(chosen(vec![], None, 80, "/"), "unrouted");
    let other = route(RouteKind::Http, "shop", "web", Some(81), vec![prefix("")]);
    assert_eq!(chosen(vec![other], None, 80, "/"), "unrouted");
    assert_eq!(chosen(vec![http("web", prefix("/a"))], None, 80, "/"), "nothing");
    let head = Head {
        method: "CONNECT",
        path: None,
        query: None,
        authority: "web",
        headers: &NONE,
    };
    let routes = ServiceRoutes::new("shop", vec![http("web", prefix("")), http("exact", prefix("/a"))]);
    assert!(matches!(routes.select(None, 80, &head), Selected::Rule(rule) if &*rule.route == "web"));
}
