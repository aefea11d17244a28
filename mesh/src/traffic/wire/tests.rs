use proptest::prelude::*;
use prost::Message as _;

use std::{sync::Arc, time::Duration};

use super::super::*;
use crate::{wire::squire as wire, workload::ServiceName};

fn name() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9]{0,8}"
}

fn text_rule() -> impl Strategy<Value = TextRule> {
    prop_oneof![
        "[ -~]{0,12}".prop_map(|text| TextRule::Exact(text.into())),
        "[a-z]{1,5}(\\.\\*)?".prop_map(|text| TextRule::Pattern(Pattern::new(&text).unwrap())),
    ]
}

fn path() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        "/[a-z/]{0,9}".prop_map(|path| PathMatch::Exact(path.into())),
        "(/[a-z]{1,4}){0,3}".prop_map(|path| PathMatch::Prefix(path.into())),
        "/[a-z]{0,4}\\.\\*".prop_map(|path| PathMatch::Pattern(Pattern::new(&path).unwrap())),
        (prop::option::of(text_rule()), prop::option::of(text_rule()))
            .prop_map(|(service, method)| PathMatch::Grpc { service, method }),
    ]
}

fn fields() -> impl Strategy<Value = Box<[FieldMatch]>> {
    let one = (name(), text_rule()).prop_map(|(name, value)| FieldMatch {
        name: name.into(),
        value,
    });
    prop::collection::vec(one, 0..3).prop_map(Into::into)
}

fn a_match() -> impl Strategy<Value = Match> {
    (path(), prop::option::of("[A-Z]{3,7}"), fields(), fields()).prop_map(|(path, method, headers, query)| Match {
        path,
        method: method.map(Into::into),
        headers,
        query,
    })
}

fn edits() -> impl Strategy<Value = HeaderEdits> {
    let pairs = || prop::collection::vec((name(), "[!-~]{0,8}"), 0..3);
    (pairs(), pairs(), prop::collection::vec(name(), 0..3)).prop_map(|(set, add, remove)| {
        let pair = |(name, value): &(String, String)| (format!("x-{name}"), value.clone());
        let (set, add): (Vec<_>, Vec<_>) = (set.iter().map(pair).collect(), add.iter().map(pair).collect());
        HeaderEdits::new(
            set.iter().map(|(name, value)| (&**name, &**value)),
            add.iter().map(|(name, value)| (&**name, &**value)),
            remove
                .iter()
                .map(|name| &**name)
                .filter(|name| *name != "host" && *name != "te"),
        )
        .unwrap()
    })
}

fn change() -> impl Strategy<Value = PathChange> {
    prop_oneof![
        "/[a-z]{0,6}".prop_map(|full| PathChange::Full(full.into())),
        ("(/[a-z]{1,4}){0,2}", "(/[a-z]{0,4}){0,2}").prop_map(|(matched, replacement)| PathChange::Prefix {
            matched: matched.into(),
            replacement: replacement.into(),
        }),
    ]
}

fn filters() -> impl Strategy<Value = Filters> {
    let scheme = prop::option::of(prop_oneof![Just(Scheme::Http), Just(Scheme::Https)]);
    let status = prop_oneof![Just(301), Just(302), Just(303), Just(307), Just(308)];
    let host = || prop::option::of(name());
    let port = prop::option::of(1..=u16::MAX);
    let redirect =
        (scheme, host(), port, prop::option::of(change()), status).prop_map(|(scheme, host, port, path, status)| {
            Redirect {
                scheme,
                host: host.map(Into::into),
                port,
                path,
                status,
            }
        });
    let rewrite = (host(), prop::option::of(change())).prop_map(|(host, path)| Rewrite {
        host: host.map(Into::into),
        path,
    });
    (edits(), edits(), prop::option::of(redirect), prop::option::of(rewrite)).prop_map(
        |(request, response, redirect, rewrite)| Filters {
            request,
            response,
            redirect,
            rewrite,
        },
    )
}

fn backend() -> impl Strategy<Value = Backend> {
    (
        name(),
        name(),
        1..=u16::MAX,
        any::<u32>(),
        filters(),
        prop::option::of(name()),
    )
        .prop_map(|(namespace, name, port, weight, filters, refused)| Backend {
            service: ServiceName::new(&namespace, &name),
            port,
            weight,
            filters,
            refused: refused.map(Into::into),
        })
}

fn rule() -> impl Strategy<Value = Rule> {
    let time = || prop::option::of((1..100_000_u64).prop_map(Duration::from_millis));
    let retry =
        (prop::collection::vec(400..600_u16, 0..3), 0..9_u32, 0..999_u64).prop_map(|(codes, attempts, backoff)| {
            Retry {
                codes: codes.into(),
                attempts,
                backoff: Duration::from_millis(backoff),
            }
        });
    (
        prop::collection::vec(a_match(), 1..3),
        filters(),
        prop::collection::vec(backend(), 0..3),
        (time(), time()),
        prop::option::of(retry),
        prop::option::of(name()),
    )
        .prop_map(|(matches, filters, backends, times, retry, refused)| Rule {
            route: "".into(),
            matches: matches.into(),
            filters,
            backends: backends.into(),
            timeouts: Timeouts {
                request: times.0,
                backend_request: times.1,
            },
            retry,
            refused: refused.map(Into::into),
        })
}

fn a_route() -> impl Strategy<Value = Route> {
    let kind = prop_oneof![Just(RouteKind::Http), Just(RouteKind::Grpc)];
    let port = prop::option::of(1..=u16::MAX);
    let rules = prop::collection::vec(rule(), 0..3);
    (kind, name(), name(), any::<Option<i64>>(), port, rules).prop_map(
        |(kind, namespace, name, created, port, rules)| {
            let label: Arc<str> = format!("{kind} {namespace}/{name}").into();
            let rule = |rule: Rule| {
                Arc::new(Rule {
                    route: Arc::clone(&label),
                    ..rule
                })
            };
            Route {
                kind,
                created,
                port,
                rules: rules.into_iter().map(rule).collect(),
                namespace: namespace.into(),
                name: name.into(),
            }
        },
    )
}

fn any_settings() -> impl Strategy<Value = TrafficSettings> {
    let time = || (1..3_600_000_u64).prop_map(Duration::from_millis);
    (
        (1..1_000_000_u32, 1..1_000_000_u32, 1..1_000_000_u32),
        (any::<u32>(), time(), 0..=100_u8),
        any::<bool>(),
        prop::option::of(time()),
        (0..=100_u8, any::<u32>()),
    )
        .prop_map(|(limits, eject, prefer_zone, connect_timeout, retry)| TrafficSettings {
            max_active: limits.0,
            max_pending: limits.1,
            max_active_per_endpoint: limits.2,
            eject_after: eject.0,
            eject_for: eject.1,
            eject_share: eject.2,
            prefer_zone,
            connect_timeout,
            retry_percent: retry.0,
            retry_min_per_second: retry.1,
        })
}

proptest! {
    #[test]
    fn traffic_survives_the_wire(settings in any_settings(), routes in prop::collection::vec(a_route(), 0..3)) {
        let before = Traffic { settings, routes: ServiceRoutes::new("shop", routes) };
        let bytes = wire::Traffic::from(&before).encode_to_vec();
        let message = wire::Traffic::decode(&*bytes).unwrap();
        prop_assert_eq!(Traffic::from_wire(message, "shop"), Ok(before));
    }
}

#[test]
fn what_an_older_control_plane_does_not_say_has_its_default() {
    let message = wire::Traffic {
        settings: Some(wire::TrafficSettings::default()),
        routes: Vec::new(),
    };
    assert_eq!(Traffic::from_wire(message, "shop"), Ok(Traffic::default()));
}

#[test]
fn what_is_not_understood_is_refused() {
    type Spoil = fn(&mut wire::Route);
    let good = || wire::Route {
        kind: wire::RouteKind::Http.into(),
        namespace: "shop".to_owned(),
        name: "web".to_owned(),
        rules: vec![wire::RouteRule {
            matches: vec![(&Match::default()).into()],
            backends: vec![wire::RouteBackend {
                service: "shop/web".to_owned(),
                port: 80,
                ..wire::RouteBackend::default()
            }],
            ..wire::RouteRule::default()
        }],
        ..wire::Route::default()
    };
    let cases: [(&str, Spoil); 10] = [
        ("kind", |route| route.kind = 7),
        ("port", |route| route.port = 65_536),
        ("no path", |route| route.rules[0].matches[0].path = None),
        ("pattern", |route| {
            route.rules[0].matches[0].path = Some(wire::route_match::Path::Pattern("(".to_owned()));
        }),
        ("no value", |route| {
            route.rules[0].matches[0].headers.push(wire::FieldMatch::default())
        }),
        ("service", |route| route.rules[0].backends[0].service = "web".to_owned()),
        ("backend port", |route| route.rules[0].backends[0].port = 0),
        ("status", |route| {
            let redirect = wire::RouteRedirect {
                status: 200,
                ..wire::RouteRedirect::default()
            };
            route.rules[0].filters = Some(wire::RouteFilters {
                redirect: Some(redirect),
                ..wire::RouteFilters::default()
            });
        }),
        ("header", |route| {
            let edits = wire::HeaderEdits {
                remove: vec!["transfer-encoding".to_owned()],
                ..wire::HeaderEdits::default()
            };
            route.rules[0].filters = Some(wire::RouteFilters {
                request: Some(edits),
                ..wire::RouteFilters::default()
            });
        }),
        ("retry code", |route| {
            route.rules[0].retry = Some(wire::RouteRetry {
                codes: vec![200],
                ..wire::RouteRetry::default()
            });
        }),
    ];
    let read = |route: wire::Route| {
        let message = wire::Traffic {
            settings: None,
            routes: vec![route],
        };
        Traffic::from_wire(message, "shop")
    };
    read(good()).unwrap();
    for (what, spoil) in cases {
        let mut message = good();
        spoil(&mut message);
        let error = read(message).expect_err(what).to_string();
        assert!(error.len() > 15, "{what}: {error}");
    }
}
