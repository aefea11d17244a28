//! Heads that two readers may read differently are refused, and what passes is forwarded as it was judged.

use super::*;

fn list(fields: &[(&str, &str)]) -> FieldList {
    let mut list = FieldList::default();
    for (name, value) in fields {
        list.push(name.as_bytes(), value.as_bytes());
    }
    list
}

fn get<'a>(path: &'a str, more: &[(&'a str, &'a str)]) -> FieldList {
    let pseudo = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "db"),
        (":path", path),
    ];
    list(&[&pseudo[..], more].concat())
}

fn check(fields: FieldList) -> Result<Head, Malformed> {
    Head::read(fields, PathNormalization::Base)
}

fn value<'a>(fields: &'a FieldList, name: &str) -> Option<&'a str> {
    fields.get(name).map(|value| text(Some(value)))
}

#[test]
fn what_is_judged_is_what_is_forwarded() {
    let head = check(get("/a/%2e%2e/b%41?x=/../", &[])).unwrap();
    assert_eq!(head.view().target, Some("/bA?x=/../"));
    let forwarded = head.forward(&Edits::default(), None).unwrap();
    assert_eq!(value(&forwarded, ":path"), Some("/bA?x=/../"));
    assert_eq!(value(&forwarded, ":authority"), Some("db"));
    assert_eq!(value(&forwarded, ":method"), Some("GET"));
    assert!(forwarded.iter().take(4).all(|field| field.is_pseudo()));
}

#[test]
fn requests_that_two_readers_may_read_differently_are_refused() {
    let refused = |fields: FieldList| assert!(check(fields).is_err());
    let with = |name: &str, value: &str| {
        let mut fields = get("/", &[]);
        assert!(fields.replace(name, value.as_bytes()));
        fields
    };
    refused(with(":method", "get"));
    refused(get("/", &[("host", "web")]));
    refused(get("/", &[("host", "db"), ("host", "db")]));
    refused(with(":authority", "user@db"));
    refused(with(":authority", ""));
    refused(with(":authority", "d b"));
    refused(with(":authority", "db/x"));
    refused(list(&[(":method", "GET"), (":scheme", "http"), (":path", "/")]));
    refused(with(":scheme", "ftp"));
    for path in ["/%00", "", "x", "*", "/a b", "/<", "/\u{7f}", "http://db/"] {
        refused(get(path, &[]));
    }
    refused(get("/", &[("content-length", "1"), ("content-length", "1")]));
    refused(get("/", &[("x", "a ")]));
    refused(get("/", &[("x", "\ta")]));
    assert!(check(get("/", &[("host", "DB")])).is_ok());
    let by_host = list(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        ("host", "db:80"),
    ]);
    let head = check(by_host).unwrap();
    assert_eq!(head.view().authority, "db:80");
    let forwarded = head.forward(&Edits::default(), None).unwrap();
    assert_eq!((value(&forwarded, ":authority"), forwarded.len()), (Some("db:80"), 4));
    for authority in ["[::1]:80", "10.0.0.1", "db.shop.svc.cluster.local:8080"] {
        assert!(check(with(":authority", authority)).is_ok(), "{authority}");
    }
}

#[test]
fn connect_and_options_star_have_no_path() {
    let head = check(list(&[(":method", "CONNECT"), (":authority", "db:5432")])).unwrap();
    assert_eq!((head.view().target, head.view().authority), (None, "db:5432"));
    assert_eq!(head.forward(&Edits::default(), None).unwrap().len(), 2);
    let mut options = get("*", &[]);
    options.replace(":method", b"OPTIONS");
    assert_eq!(check(options).unwrap().view().target, None);
}

#[test]
fn a_websocket_is_judged_as_the_get_it_is_over_http_1_and_nothing_else_may_ride_on_connect() {
    let connect = |protocol: &str| {
        let mut fields = get("/chat/../socket?a=1", &[]);
        fields.replace(":method", b"CONNECT");
        fields.put_first(":protocol", protocol.as_bytes());
        fields
    };
    let head = check(connect("websocket")).unwrap();
    let view = head.view();
    assert_eq!((view.method, view.target), ("GET", Some("/socket?a=1")));
    let forwarded = head.forward(&Edits::default(), None).unwrap();
    assert_eq!(value(&forwarded, ":method"), Some("CONNECT"));
    assert_eq!(value(&forwarded, ":path"), Some("/socket?a=1"));
    assert_eq!(value(&forwarded, ":protocol"), Some("websocket"));
    for other in ["connect-udp", "webtransport", "WebSocket", ""] {
        assert!(check(connect(other)).is_err(), "{other}");
    }
}

#[test]
fn what_a_client_says_about_itself_is_replaced() {
    let fields = get(
        "/",
        &[
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("x_forwarded_client_cert", "URI=spiffe://td/ns/x/sa/admin"),
            ("x-forwarded-client-cert", "URI=spiffe://td/ns/x/sa/admin"),
            ("x-other", "1"),
        ],
    );
    let head = check(fields).unwrap();
    for name in ["x-forwarded-for", "x_forwarded_client_cert", "x-forwarded-client-cert"] {
        assert_eq!(head.field(name), None, "policy does not see it either");
    }
    let forwarded = head.forward(&Edits::default(), Some(&Forwarded::none())).unwrap();
    assert_eq!(forwarded.len(), 5);
    assert_eq!(value(&forwarded, "x-other"), Some("1"));
}

#[test]
fn every_spelling_an_application_may_take_for_ours_is_ours() {
    for name in ["x-forwarded-for", "x_forwarded-for", "x_forwarded_client_cert"] {
        assert!(is_ours(name.as_bytes()), "{name}");
    }
    for name in [
        "x-forwarded-fo",
        "x-forwarded-host",
        "y-forwarded-for",
        "xyforwarded-for",
    ] {
        assert!(!is_ours(name.as_bytes()), "{name}");
    }
}

#[test]
fn edits_are_carried_out() {
    let edits = Edits {
        remove: vec!["x-gone".into()],
        set: vec![("x-set".into(), (*b"2").into()), ("host".into(), (*b"other:81").into())],
        add: vec![("x-set".into(), (*b"3").into())],
        target: Some("/new?q".into()),
    };
    let fields = get("/old", &[("x-gone", "1"), ("x-set", "1"), ("x-set", "1")]);
    let forwarded = check(fields).unwrap().forward(&edits, None).unwrap();
    assert_eq!(value(&forwarded, ":authority"), Some("other:81"));
    assert_eq!(value(&forwarded, ":path"), Some("/new?q"));
    assert_eq!(value(&forwarded, "x-gone"), None);
    let set: Vec<_> = forwarded.all("x-set").collect();
    assert_eq!(set, [b"2", b"3"]);
}
