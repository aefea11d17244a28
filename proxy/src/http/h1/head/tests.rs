//! What is read, what is refused, and what is written.

use squire_mesh::policy::PathNormalization;

use super::{super::body::Length, *};
use crate::http::{Edits, Forwarded};

fn read(text: &str) -> Result<(RequestHead, usize), Bad> {
    let mut head = RequestHead::default();
    let length = head.read(text.as_bytes(), PathNormalization::Base)?;
    Ok((head, length.unwrap_or(0)))
}

fn written(head: &RequestHead) -> String {
    let mut out = Vec::new();
    head.write(&mut out, &Edits::default(), &Forwarded::none());
    String::from_utf8(out).unwrap()
}

#[test]
fn a_request_is_forwarded_as_it_was_judged() {
    let (head, length) = read("GET /a/../b?q=1#f HTTP/1.1\r\nhost: web\r\nX-Case: Kept\r\n\r\nrest").unwrap();
    assert_eq!(
        length,
        "GET /a/../b?q=1#f HTTP/1.1\r\nhost: web\r\nX-Case: Kept\r\n\r\n".len()
    );
    let view = head.view();
    assert_eq!(
        (view.method, view.target, view.authority),
        ("GET", Some("/b?q=1"), "web")
    );
    assert_eq!(
        written(&head),
        "GET /b?q=1 HTTP/1.1\r\nHost: web\r\nX-Case: Kept\r\n\r\n"
    );
}

#[test]
fn fields_for_the_next_hop_and_those_only_squires_set_are_dropped_and_not_judged_by() {
    let (head, _) = read(
        "GET / HTTP/1.1\r\nHost: web\r\nConnection: keep-alive, X-Own, content-length\r\nKeep-Alive: 5\r\nX-Own: 1\r\n\
         Proxy-Connection: x\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Client-Cert: URI=spiffe://a/b\r\nTE: gzip\r\n\
         Upgrade: h2c\r\nHTTP2-Settings: AAA\r\ncontent-length: 0\r\ntraceparent: 00-1\r\n\r\n",
    )
    .unwrap();
    assert_eq!(
        written(&head),
        "GET / HTTP/1.1\r\nHost: web\r\ncontent-length: 0\r\ntraceparent: 00-1\r\n\r\n"
    );
    for name in ["x-own", "x-forwarded-for", "x-forwarded-client-cert", "upgrade"] {
        assert_eq!(head.view().field(name), None, "{name}");
    }
    assert_eq!(head.view().field("traceparent").as_deref(), Some("00-1"));
}

#[test]
fn an_upgrade_is_passed_on_unless_it_is_h2c() {
    let ask =
        |protocol: &str| format!("GET / HTTP/1.1\r\nHost: w\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n");
    let (head, _) = read(&ask("websocket")).unwrap();
    assert_eq!(written(&head), ask("websocket"));
    let (head, _) = read(&ask("websocket, h2c")).unwrap();
    assert_eq!(head.upgrade(), None);
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    let fields = |fields: &str| format!("POST / HTTP/1.1\r\nHost: w\r\n{fields}\r\n\r\n");
    for (text, what) in [
        (fields("Content-Length: 3\r\nTransfer-Encoding: chunked"), "CL and TE"),
        (
            fields("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
            "TE twice",
        ),
        (
            fields("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"),
            "TE.TE",
        ),
        (fields("Transfer-Encoding: xchunked"), "unknown coding"),
        (fields("Transfer-Encoding: gzip, chunked"), "two codings"),
        (fields("Transfer-Encoding:\x0bchunked"), "vertical tab"),
        (fields("Content-Length: 3\r\nContent-Length: 3"), "CL twice"),
        (fields("Content-Length: 3, 3"), "CL list"),
        (fields("Content-Length: +3"), "CL sign"),
        (fields("Content-Length: 0x3"), "CL hex"),
        (fields("Content-Length: 99999999999999999999"), "CL overflow"),
        (fields("Content-Length:"), "CL empty"),
        (fields("X: a\r\n folded"), "obs-fold"),
        (fields("X : a"), "space before colon"),
        (fields("X y: a"), "space in a name"),
        (fields(": a"), "no name"),
        (fields("X: a\rb"), "bare CR"),
        (fields("X: a\nY: b"), "bare LF"),
        (fields("X: a\0b"), "NUL"),
        ("GET / HTTP/1.1\nHost: w\n\n".into(), "LF lines"),
        ("GET / HTTP/1.1\r\n\r\n".into(), "no Host"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".into(), "two Hosts"),
        (
            "GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n".into(),
            "absolute form and Host differ",
        ),
        ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n".into(), "user in Host"),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n".into(), "space in Host"),
        ("GET  / HTTP/1.1\r\nHost: w\r\n\r\n".into(), "two spaces"),
        ("GET /a b HTTP/1.1\r\nHost: w\r\n\r\n".into(), "space in the target"),
        ("get / HTTP/1.1\r\nHost: w\r\n\r\n".into(), "lower-case method"),
        ("GET * HTTP/1.1\r\nHost: w\r\n\r\n".into(), "asterisk"),
        ("GET a HTTP/1.1\r\nHost: w\r\n\r\n".into(), "relative target"),
        ("GET /%00 HTTP/1.1\r\nHost: w\r\n\r\n".into(), "encoded NUL"),
        ("GET / HTTP/1.2\r\nHost: w\r\n\r\n".into(), "version"),
        ("GET / HTTP/2.0\r\nHost: w\r\n\r\n".into(), "version 2"),
        (
            "POST / HTTP/1.0\r\nHost: w\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
            "TE in 1.0",
        ),
        ("\n\nGET / HTTP/1.1\r\nHost: w\r\n\r\n".into(), "empty lines first"),
        ("hello\r\n\r\n".into(), "no HTTP"),
    ] {
        assert!(
            read(&text).is_err(),
            "{what}: {:?}",
            read(&text).map(|(head, _)| written(&head))
        );
    }
}

#[test]
fn what_is_too_large_is_refused_with_its_own_status() {
    let long = format!("GET /{} HTTP/1.1\r\nHost: w\r\n\r\n", "a".repeat(MAX_TARGET));
    assert_eq!(read(&long).unwrap_err().reply().status, 414);
    let unfinished = format!("GET /{}", "a".repeat(MAX_TARGET + 100));
    assert_eq!(read(&unfinished).unwrap_err().reply().status, 414);
    let wide = format!("GET / HTTP/1.1\r\nHost: w\r\nX: {}\r\n\r\n", "a".repeat(MAX_HEAD));
    assert_eq!(read(&wide).unwrap_err().reply().status, 431);
    let many = format!("GET / HTTP/1.1\r\nHost: w\r\n{}\r\n", "X: a\r\n".repeat(MAX_FIELDS));
    assert_eq!(read(&many).unwrap_err().reply().status, 431);
}

#[test]
fn targets_have_four_forms() {
    let target = |text: &str| {
        let (head, _) = read(text).unwrap();
        let view = head.view();
        (
            view.target.map(str::to_owned),
            view.authority.to_owned(),
            written(&head).lines().next().unwrap().to_owned(),
        )
    };
    let (path, authority, line) = target("GET http://Web:8080/a/./b?c HTTP/1.1\r\nHost: web:8080\r\n\r\n");
    assert_eq!(
        (path.as_deref(), &*authority, &*line),
        (Some("/a/b?c"), "Web:8080", "GET /a/b?c HTTP/1.1")
    );
    let (path, _, line) = target("GET http://web?c HTTP/1.1\r\nHost: web\r\n\r\n");
    assert_eq!((path.as_deref(), &*line), (Some("/?c"), "GET /?c HTTP/1.1"));
    let (path, _, line) = target("OPTIONS * HTTP/1.1\r\nHost: web\r\n\r\n");
    assert_eq!((path, &*line), (None, "OPTIONS * HTTP/1.1"));
    let (path, authority, line) = target("CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n");
    assert_eq!(
        (path, &*authority, &*line),
        (None, "db:5432", "CONNECT db:5432 HTTP/1.1")
    );
    assert!(read("CONNECT db:5432 HTTP/1.1\r\nHost: other\r\n\r\n").is_err());
}

#[test]
fn a_head_in_pieces_is_not_read_before_it_is_whole() {
    let text = "POST /x HTTP/1.1\r\nHost: web\r\nContent-Length: 3\r\n\r\n";
    for end in 0..text.len() {
        let (_, length) = read(&text[..end]).unwrap();
        assert_eq!(length, 0, "{end}");
    }
    assert_eq!(read(text).unwrap().1, text.len());
}

#[test]
fn edits_are_carried_out() {
    let (head, _) = read("GET /a HTTP/1.1\r\nHost: web\r\nA: 1\r\nB: 2\r\nC: 3\r\n\r\n").unwrap();
    let edits = Edits {
        remove: vec!["a".into()],
        set: vec![("b".into(), (*b"two").into()), ("host".into(), (*b"other").into())],
        add: vec![("c".into(), (*b"more").into())],
        target: Some("/z?q".into()),
    };
    let mut out = Vec::new();
    head.write(&mut out, &edits, &Forwarded::none());
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "GET /z?q HTTP/1.1\r\nHost: other\r\nC: 3\r\nb: two\r\nc: more\r\n\r\n"
    );
}

fn response(text: &str) -> Result<ResponseHead, Bad> {
    let mut head = ResponseHead::default();
    assert_eq!(head.read(text.as_bytes())?, Some(text.len()));
    Ok(head)
}

const GET: Answers = Answers {
    head: false,
    connect: false,
    upgrade: false,
};

#[test]
fn the_length_of_a_response_depends_on_what_it_answers() {
    let with = |status: u16| response(&format!("HTTP/1.1 {status} X\r\nContent-Length: 5\r\n\r\n")).unwrap();
    assert_eq!(with(200).length(GET), Length::Exact(5));
    assert_eq!(with(200).length(Answers { head: true, ..GET }), Length::None);
    assert_eq!(with(200).length(Answers { connect: true, ..GET }), Length::None);
    for status in [204, 304, 100, 103] {
        assert_eq!(with(status).length(GET), Length::None, "{status}");
    }
    assert_eq!(
        response("HTTP/1.1 200 OK\r\n\r\n").unwrap().length(GET),
        Length::UntilClose
    );
    let chunked = response("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    assert_eq!(chunked.length(GET), Length::Chunked);
    assert!(response("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n").is_err());
    assert!(response("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n").is_err());
}

#[test]
fn a_protocol_is_switched_to_only_if_it_was_asked_for_and_what_has_no_body_has_no_length() {
    let asked = Answers { upgrade: true, ..GET };
    let switching = response("HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").unwrap();
    assert_eq!(switching.switches(asked), Ok(true));
    assert!(switching.switches(GET).is_err());
    let nowhere = response("HTTP/1.1 101 X\r\n\r\n").unwrap();
    assert!(nowhere.switches(asked).is_err());
    assert_eq!(response("HTTP/1.1 200 X\r\n\r\n").unwrap().switches(asked), Ok(false));
    for framing in ["Content-Length: 4", "Transfer-Encoding: chunked"] {
        for status in [103, 204] {
            let mut out = Vec::new();
            let head = response(&format!("HTTP/1.1 {status} X\r\n{framing}\r\n\r\n")).unwrap();
            head.write(&mut out, &Edits::default(), None);
            assert_eq!(out, format!("HTTP/1.1 {status} X\r\n\r\n").into_bytes());
        }
    }
}

#[test]
fn a_response_is_passed_on_without_what_was_for_this_hop() {
    let head = response("HTTP/1.1 404 Not  There\r\nConnection: close, X-A\r\nX-A: 1\r\nETag: \"x\"\r\n\r\n").unwrap();
    assert!(!head.keeps_alive());
    let mut out = Vec::new();
    head.write(&mut out, &Edits::default(), Some("close"));
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "HTTP/1.1 404 Not  There\r\nETag: \"x\"\r\nConnection: close\r\n\r\n"
    );
}

#[test]
fn a_reply_of_ours_is_whole() {
    let mut out = Vec::new();
    write_reply(&mut out, &LocalReply::text(403, "no"), true, false);
    let text = String::from_utf8(out).unwrap();
    assert_eq!(
        text,
        "HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno"
    );
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        let mut head = RequestHead::default();
        let _ = head.read(&bytes, PathNormalization::DecodeAndMergeSlashes);
        let _ = ResponseHead::default().read(&bytes);
    }
}
