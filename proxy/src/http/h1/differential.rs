//! Our reading of requests against hyper's: whatever we accept, hyper accepts; and what we forward, hyper reads as exactly
//! one request, with the method, target, fields and body that were judged. Only for tests.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Bytes, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use squire_mesh::policy::PathNormalization;
use tokio::io::AsyncWriteExt as _;

use super::{body::Body, head::RequestHead};
use crate::http::{Edits, Forwarded};

/// A request as one parser read it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    method: String,
    target: String,
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

/// Everything hyper makes of these bytes.
async fn hyper_reads(bytes: &[u8]) -> Vec<Seen> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (mut near, far) = tokio::io::duplex(1 << 20);
    near.write_all(bytes).await.unwrap();
    near.shutdown().await.unwrap();
    let noting = Arc::clone(&seen);
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let seen = Arc::clone(&noting);
        async move {
            let (parts, body) = request.into_parts();
            if let Ok(body) = body.collect().await {
                let fields = parts.headers.iter();
                seen.lock().unwrap().push(Seen {
                    method: parts.method.to_string(),
                    target: parts.uri.to_string(),
                    fields: fields
                        .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
                        .collect(),
                    body: body.to_bytes().to_vec(),
                });
            }
            Ok::<_, Infallible>(hyper::Response::new(Empty::<Bytes>::new()))
        }
    });
    let _ = http1::Builder::new()
        .half_close(true)
        .serve_connection(TokioIo::new(far), service)
        .await;
    let seen = seen.lock().unwrap();
    seen.clone()
}

/// What we judge of the first request, and what we forward for it; none: refused, or not all there.
fn we_forward(bytes: &[u8]) -> Option<(Seen, Vec<u8>)> {
    let mut head = RequestHead::default();
    let length = head.read(bytes, PathNormalization::Base).ok()??;
    let mut body = Body::new(head.length());
    let taken = body.scan(&bytes[length..]).ok()?;
    if !body.is_done() {
        return None;
    }
    let view = head.view();
    let mut fields = Vec::new();
    view.fields
        .each(&mut |name, value| fields.push((name.to_owned(), value.to_vec())));
    let mut forwarded = Vec::new();
    head.write(&mut forwarded, &Edits::default(), &Forwarded::none());
    forwarded.extend_from_slice(&bytes[length..length + taken]);
    let seen = Seen {
        method: view.method.to_owned(),
        target: view.target.unwrap_or("*").to_owned(),
        fields,
        body: Vec::new(),
    };
    Some((seen, forwarded))
}

async fn compare(bytes: &[u8]) -> Result<bool, TestCaseError> {
    let Some((ours, forwarded)) = we_forward(bytes) else {
        return Ok(false);
    };
    let text = String::from_utf8_lossy(bytes).into_owned();
    let original = hyper_reads(bytes).await;
    prop_assert!(!original.is_empty(), "we accept what hyper refuses: {text:?}");
    let read = hyper_reads(&forwarded).await;
    prop_assert_eq!(read.len(), 1, "forwarded as {:?}", String::from_utf8_lossy(&forwarded));
    prop_assert_eq!(&read[0].method, &ours.method);
    prop_assert_eq!(&read[0].target, &ours.target);
    prop_assert_eq!(&read[0].body, &original[0].body, "{}", text);
    // Every field that was judged is there, in its order, and none that was not but what we write ourselves.
    let ours_alone = ["host", "connection", "upgrade"];
    for (name, value) in &ours.fields {
        prop_assert!(
            read[0].fields.contains(&(name.clone(), value.clone())),
            "{} of {:?}",
            name,
            text
        );
    }
    for (name, value) in &read[0].fields {
        let judged = ours.fields.contains(&(name.clone(), value.clone()));
        prop_assert!(judged || ours_alone.contains(&name.as_str()), "{} of {:?}", name, text);
    }
    Ok(true)
}

/// Pieces of requests: good ones, and those that parsers have been known to disagree about.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let method = prop::sample::select(vec![
        "GET", "POST", "PUT", "DELETE", "OPTIONS", "M-SEARCH", "get", "G\tT", "",
    ]);
    let target = prop::sample::select(vec![
        "/",
        "/a?b=c",
        "/a/../b",
        "/%2e%2e/a",
        "//a",
        "*",
        "http://h/a",
        "http://h",
        "http://x/a",
        "a",
        "/a b",
        "/\u{e9}",
        "/a#b",
    ]);
    let version = prop::sample::select(vec![
        " HTTP/1.1\r\n",
        " HTTP/1.0\r\n",
        " HTTP/1.1\n",
        " HTTP/1.2\r\n",
        "  HTTP/1.1\r\n",
        " http/1.1\r\n",
        "\r\n",
    ]);
    let field = prop::sample::select(vec![
        "Host: h\r\n",
        "host:h\r\n",
        "Host: H\r\n",
        "Host : h\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: 05\r\n",
        "Content-Length: 5 \r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: 6\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: Chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding:\x0bchunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Connection: close\r\n",
        "Connection: keep-alive, x-a\r\n",
        "Connection: content-length\r\n",
        "Connection: Upgrade\r\n",
        "Upgrade: websocket\r\n",
        "Upgrade: h2c\r\n",
        "Expect: 100-continue\r\n",
        "X-A: 1\r\n",
        "x-a: 2\r\n",
        "X-B: \u{ff}\r\n",
        "X-C:\r\n",
        "X-D: a\n",
        "X-E: a\r b\r\n",
        "X-F: a\0b\r\n",
        " folded: x\r\n",
        "X G: y\r\n",
        "X_H: z\r\n",
        ": nothing\r\n",
        "X-Forwarded-For: 1.1.1.1\r\n",
        "TE: trailers\r\n",
        "TE: gzip\r\n",
    ]);
    let end = prop::sample::select(vec!["\r\n", "\r\n", "\r\n", "\n", "\r\r\n", ""]);
    let body = prop::sample::select(vec![
        "",
        "12345",
        "123456",
        "5\r\nhello\r\n0\r\n\r\n",
        "5;x=\"y\"\r\nhello\r\n0\r\nX-T: 1\r\n\r\n",
        "5\nhello\n0\n\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "05\r\nhello\r\n00\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "fffffffffffffffff\r\n",
        "0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /hidden HTTP/1.1\r\nHost: h\r\n\r\n",
    ]);
    let usual = prop::sample::select(vec!["Host: h\r\n", "Host: h\r\n", "Host: h\r\n", ""]);
    (
        method,
        target,
        version,
        usual,
        prop::collection::vec(field, 0..4),
        end,
        body,
    )
        .prop_map(|(method, target, version, usual, fields, end, body)| {
            let head = format!("{method} {target}{version}{usual}{}{end}", fields.concat());
            [head.into_bytes(), body.as_bytes().to_vec()].concat()
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn what_we_forward_is_what_hyper_reads_and_nothing_else(bytes in request()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(compare(&bytes))?;
    }

    #[test]
    fn a_good_request_with_a_byte_changed_is_read_as_hyper_reads_it(
        at in 0usize..200,
        byte in prop::sample::select(vec![0u8, b'\t', b'\n', b'\r', b' ', b':', b',', b';', b'0', b'a', 0x7f, 0x80, 0xff]),
    ) {
        let mut bytes = b"POST /a/b?c=d HTTP/1.1\r\nHost: h\r\nX-A: b\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n\
            5;x=y\r\nhello\r\n0\r\nX-T: 1\r\n\r\n".to_vec();
        let at = at % bytes.len();
        bytes[at] = byte;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(compare(&bytes))?;
    }
}

#[tokio::test]
async fn the_comparison_compares() {
    let accepted = compare(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nX-A: 1\r\n\r\n12345").await;
    assert!(accepted.unwrap(), "a plain request is accepted and compared");
    let refused =
        compare(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    assert!(!refused.unwrap());
}
