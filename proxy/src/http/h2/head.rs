//! The head of a request: checked beyond what the protocol library checks, normalised once, judged as it will be
//! forwarded, and written again for the next hop. It decides nothing and keeps no body.

use std::borrow::Cow;

use bytes::Bytes;
use h2::{RecvStream, ext::Protocol};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri,
    header::{CONTENT_LENGTH, HOST},
    uri::{Authority, Parts, PathAndQuery, Scheme},
};
use squire_mesh::policy::{
    self,
    path::{PathNormalization, normalize},
};

use crate::http::{Edits, Fields, Forwarded, RequestView, Version};

/// Why a request is answered with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(pub(super) &'static str);

/// A request head that passed every check.
pub(super) struct Head {
    method: Method,
    scheme: Scheme,
    authority: Authority,
    /// The normalised path with its query; none: CONNECT.
    target: Option<PathAndQuery>,
    /// What an extended CONNECT (RFC 8441) goes on with.
    protocol: Option<Protocol>,
    fields: FieldMap,
}

/// The one protocol that an extended CONNECT may ask for.
const WEBSOCKET: &str = "websocket";

/// A header map as policy looks at it.
struct FieldMap(HeaderMap);

impl policy::Headers for FieldMap {
    fn visit(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) {
        for value in self.0.get_all(name) {
            if !visit(value.as_bytes()) {
                return;
            }
        }
    }
}

impl Fields for FieldMap {
    fn each(&self, visit: &mut dyn FnMut(&str, &[u8])) {
        for (name, value) in &self.0 {
            visit(name.as_str(), value.as_bytes());
        }
    }
}

impl Head {
    /// Checks a request (RFC 9113 §8.2, §8.3) and normalises its path.
    pub(super) fn read(request: Request<RecvStream>, mode: PathNormalization) -> Result<(Self, RecvStream), Malformed> {
        let (parts, body) = request.into_parts();
        Self::check(parts, mode).map(|head| (head, body))
    }

    fn check(parts: http::request::Parts, mode: PathNormalization) -> Result<Self, Malformed> {
        let http::request::Parts {
            method,
            uri,
            mut headers,
            mut extensions,
            ..
        } = parts;
        let protocol = extensions.remove::<Protocol>();
        if protocol.as_ref().is_some_and(|protocol| protocol.as_str() != WEBSOCKET) {
            return Err(Malformed("an extended CONNECT for anything but websocket"));
        }
        if method.as_str().bytes().any(|byte| byte.is_ascii_lowercase()) {
            return Err(Malformed("the method is not in upper case"));
        }
        // Another spelling of the same number is nobody's need, and somebody's trick.
        if headers.get_all(CONTENT_LENGTH).iter().count() > 1 {
            return Err(Malformed("more than one content-length"));
        }
        if headers.values().any(|value| has_outer_space(value.as_bytes())) {
            return Err(Malformed("a field value begins or ends with white space"));
        }
        let Parts {
            scheme,
            authority,
            path_and_query,
            ..
        } = uri.into_parts();
        let scheme = scheme.unwrap_or(Scheme::HTTP);
        if scheme != Scheme::HTTP && scheme != Scheme::HTTPS {
            return Err(Malformed("the scheme is neither http nor https"));
        }
        let authority = authority_of(authority, &headers)?;
        // What a client claims to be is seen by nobody, policy included.
        remove_ours(&mut headers);
        let target = match path_and_query {
            _ if method == Method::CONNECT && protocol.is_none() => None,
            Some(target) if target == "*" && method == Method::OPTIONS => Some(target),
            Some(target) => Some(normalised(target, mode)?),
            None => return Err(Malformed("no path")),
        };
        Ok(Self {
            method,
            scheme,
            authority,
            target,
            protocol,
            fields: FieldMap(headers),
        })
    }

    /// As everything that judges the request sees it. A WebSocket is the GET it is over HTTP/1 (RFC 8441 §5), so that one
    /// rule holds for both.
    pub(super) fn view(&self) -> RequestView<'_> {
        RequestView {
            method: match self.protocol {
                Some(_) => Method::GET.as_str(),
                None => self.method.as_str(),
            },
            target: self
                .target
                .as_ref()
                .map(PathAndQuery::as_str)
                .filter(|target| *target != "*"),
            authority: self.authority.as_str(),
            version: Version::Http2,
            fields: &self.fields,
        }
    }

    /// Whether it asks to go on with another protocol (RFC 8441).
    pub(super) fn is_extended_connect(&self) -> bool {
        self.protocol.is_some()
    }

    pub(super) fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// Whether the client waits for leave to send the body.
    pub(super) fn expects_continue(&self) -> bool {
        self.field("expect")
            .is_some_and(|expected| expected.eq_ignore_ascii_case("100-continue"))
    }

    /// The first value of a field, if it is text.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.0.get(name).and_then(|value| value.to_str().ok())
    }

    /// The request for the next hop: what was judged, with what was asked to be changed.
    pub(super) fn forward(&self, edits: &Edits, forwarded: Option<&Forwarded>) -> Result<Request<()>, Malformed> {
        let mut headers = self.fields.0.clone();
        // The authority says it, and only one may.
        headers.remove(HOST);
        if let Some(forwarded) = forwarded {
            tell(&mut headers, forwarded)?;
        }
        let mut authority = self.authority.clone();
        if !edits.is_empty() {
            edit(&mut headers, &mut authority, edits)?;
        }
        let mut request = Request::new(());
        *request.method_mut() = self.method.clone();
        *request.version_mut() = http::Version::HTTP_2;
        *request.headers_mut() = headers;
        *request.uri_mut() = self.uri(authority, edits)?;
        if let Some(protocol) = &self.protocol {
            request.extensions_mut().insert(protocol.clone());
        }
        Ok(request)
    }

    fn uri(&self, authority: Authority, edits: &Edits) -> Result<Uri, Malformed> {
        let mut parts = Parts::default();
        parts.authority = Some(authority);
        if let Some(target) = &self.target {
            parts.scheme = Some(self.scheme.clone());
            parts.path_and_query = Some(match &edits.target {
                Some(target) => PathAndQuery::try_from(&**target).map_err(|_| Malformed("the route's target"))?,
                None => target.clone(),
            });
        }
        Uri::from_parts(parts).map_err(|_| Malformed("the target"))
    }
}

/// Carries out what a route wants changed in a response's head.
pub(super) fn edit_response(headers: &mut HeaderMap, edits: &Edits) {
    for name in &edits.remove {
        headers.remove(&**name);
    }
    let field = |name: &str, value: &[u8]| {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        HeaderValue::from_bytes(value).ok().map(|value| (name, value))
    };
    for (name, value) in edits.set.iter().filter_map(|(name, value)| field(name, value)) {
        headers.insert(name, value);
    }
    for (name, value) in edits.add.iter().filter_map(|(name, value)| field(name, value)) {
        headers.append(name, value);
    }
}

/// Takes identity fields out of trailers: an application may merge them into the request's fields.
pub(super) fn clean_trailers(trailers: &mut HeaderMap) {
    remove_ours(trailers);
}

/// `:authority`, or Host in its place; both must say the same (RFC 9113 §8.3.1).
fn authority_of(authority: Option<Authority>, headers: &HeaderMap) -> Result<Authority, Malformed> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Malformed("more than one host"));
    }
    let authority = match (authority, host) {
        (Some(authority), Some(host)) if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
            return Err(Malformed("host is not what :authority says"));
        }
        (Some(authority), _) => authority,
        (None, Some(host)) => Authority::from_maybe_shared(Bytes::copy_from_slice(host.as_bytes()))
            .map_err(|_| Malformed("host is no authority"))?,
        (None, None) => return Err(Malformed("neither :authority nor host")),
    };
    if authority.as_str().contains('@') || authority.host().is_empty() {
        return Err(Malformed("the authority has user information or no host"));
    }
    Ok(authority)
}

fn normalised(target: PathAndQuery, mode: PathNormalization) -> Result<PathAndQuery, Malformed> {
    let text = match normalize(mode, target.as_str()) {
        Ok(Cow::Borrowed(same)) if same.len() == target.as_str().len() => None,
        Ok(changed) => Some(changed.into_owned()),
        Err(_) => return Err(Malformed("the path cannot be normalised")),
    };
    match text {
        None => Ok(target),
        Some(text) => PathAndQuery::try_from(text).map_err(|_| Malformed("the path cannot be normalised")),
    }
}

fn has_outer_space(value: &[u8]) -> bool {
    let space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    space(value.first()) || space(value.last())
}

/// Says what we know of the client.
fn tell(headers: &mut HeaderMap, forwarded: &Forwarded) -> Result<(), Malformed> {
    for (name, value) in forwarded.iter() {
        let value = HeaderValue::from_bytes(value).map_err(|_| Malformed("the peer's name"))?;
        headers.insert(HeaderName::from_static(name), value);
    }
    Ok(())
}

fn remove_ours(headers: &mut HeaderMap) {
    while let Some(name) = headers.keys().find(|name| is_ours(name.as_str())).cloned() {
        headers.remove(name);
    }
}

/// Whether a field of this name is ours alone. `_` counts as `-`: many an application framework takes both for one.
fn is_ours(name: &str) -> bool {
    ["x-forwarded-client-cert", "x-forwarded-for"].iter().any(|ours| {
        let same = |(byte, ours): (u8, u8)| byte == ours || (byte == b'_' && ours == b'-');
        name.len() == ours.len() && name.bytes().zip(ours.bytes()).all(same)
    })
}

fn edit(headers: &mut HeaderMap, authority: &mut Authority, edits: &Edits) -> Result<(), Malformed> {
    const BAD: Malformed = Malformed("a field that the route sets");
    let field = |name: &str, value: &[u8]| {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| BAD)?;
        HeaderValue::from_bytes(value)
            .map(|value| (name, value))
            .map_err(|_| BAD)
    };
    for name in &edits.remove {
        headers.remove(&**name);
    }
    for (name, value) in &edits.set {
        if &**name == "host" || &**name == ":authority" {
            *authority = Authority::try_from(&**value).map_err(|_| BAD)?;
            continue;
        }
        let (name, value) = field(name, value)?;
        headers.insert(name, value);
    }
    for (name, value) in &edits.add {
        let (name, value) = field(name, value)?;
        headers.append(name, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(request: http::request::Builder) -> http::request::Parts {
        request.body(()).unwrap().into_parts().0
    }

    fn get(uri: &str) -> http::request::Builder {
        Request::builder().uri(uri)
    }

    fn check(request: http::request::Builder) -> Result<Head, Malformed> {
        Head::check(parts(request), PathNormalization::Base)
    }

    #[test]
    fn what_is_judged_is_what_is_forwarded() {
        let head = check(get("http://db/a/%2e%2e/b%41?x=/../")).unwrap();
        assert_eq!(head.view().target, Some("/bA?x=/../"));
        let forwarded = head.forward(&Edits::default(), None).unwrap();
        assert_eq!(forwarded.uri(), "http://db/bA?x=/../");
        assert_eq!(forwarded.method(), Method::GET);
    }

    #[test]
    fn requests_that_two_readers_may_read_differently_are_refused() {
        let refused = |request: http::request::Builder| assert!(check(request).is_err());
        refused(get("http://db/").method("get"));
        refused(get("http://db/").header("host", "web"));
        refused(get("http://db/").header("host", "db").header("host", "db"));
        refused(get("http://user@db/"));
        refused(get("/"));
        refused(get("ftp://db/"));
        refused(get("http://db/%00"));
        refused(
            get("http://db/")
                .header("content-length", "1")
                .header("content-length", "1"),
        );
        refused(get("http://db/").header("x", HeaderValue::from_bytes(b"a ").unwrap()));
        refused(get("http://db/").header("x", HeaderValue::from_bytes(b"\ta").unwrap()));
        assert!(check(get("http://db/").header("host", "DB")).is_ok());
        assert!(check(get("/").header("host", "db:80")).is_ok_and(|head| head.view().authority == "db:80"));
    }

    #[test]
    fn connect_and_options_star_have_no_path() {
        let head = check(get("db:5432").method(Method::CONNECT)).unwrap();
        assert_eq!((head.view().target, head.view().authority), (None, "db:5432"));
        assert_eq!(head.forward(&Edits::default(), None).unwrap().uri(), "db:5432");
        let head = check(get("*").method(Method::OPTIONS).header("host", "db")).unwrap();
        assert_eq!(head.view().target, None);
        assert!(check(get("*").header("host", "db")).is_err());
    }

    #[test]
    fn a_websocket_is_judged_as_the_get_it_is_over_http_1_and_nothing_else_may_ride_on_connect() {
        let connect = |protocol: &'static str| {
            get("http://db/chat/../socket?a=1")
                .method(Method::CONNECT)
                .extension(Protocol::from_static(protocol))
        };
        let head = check(connect("websocket")).unwrap();
        let view = head.view();
        assert_eq!((view.method, view.target), ("GET", Some("/socket?a=1")));
        let forwarded = head.forward(&Edits::default(), None).unwrap();
        assert_eq!(forwarded.method(), Method::CONNECT);
        assert_eq!(forwarded.uri(), "http://db/socket?a=1");
        assert_eq!(forwarded.extensions().get(), Some(&Protocol::from_static("websocket")));
        for other in ["connect-udp", "webtransport", "WebSocket", ""] {
            assert!(check(connect(other)).is_err(), "{other}");
        }
    }

    #[test]
    fn what_a_client_says_about_itself_is_replaced() {
        let request = get("http://db/")
            .header("x-forwarded-for", "1.1.1.1")
            .header("x-forwarded-for", "2.2.2.2")
            .header("x_forwarded_client_cert", "URI=spiffe://td/ns/x/sa/admin")
            .header("x-forwarded-client-cert", "URI=spiffe://td/ns/x/sa/admin")
            .header("x-other", "1");
        let head = check(request).unwrap();
        for name in ["x-forwarded-for", "x_forwarded_client_cert", "x-forwarded-client-cert"] {
            assert_eq!(head.field(name), None, "policy does not see it either");
        }
        let forwarded = head.forward(&Edits::default(), Some(&Forwarded::none())).unwrap();
        let fields: Vec<_> = forwarded
            .headers()
            .iter()
            .map(|(name, value)| (name.as_str(), value))
            .collect();
        assert_eq!(fields.len(), 1, "{fields:?}");
        assert_eq!(forwarded.headers()["x-other"], "1");
    }

    #[test]
    fn every_spelling_an_application_may_take_for_ours_is_ours() {
        for name in ["x-forwarded-for", "x_forwarded-for", "x_forwarded_client_cert"] {
            assert!(is_ours(name), "{name}");
        }
        for name in [
            "x-forwarded-fo",
            "x-forwarded-host",
            "y-forwarded-for",
            "xyforwarded-for",
        ] {
            assert!(!is_ours(name), "{name}");
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
        let request = get("http://db/old")
            .header("x-gone", "1")
            .header("x-set", "1")
            .header("x-set", "1");
        let forwarded = check(request).unwrap().forward(&edits, None).unwrap();
        assert_eq!(forwarded.uri(), "http://other:81/new?q");
        assert!(!forwarded.headers().contains_key("x-gone"));
        let set: Vec<_> = forwarded.headers().get_all("x-set").iter().collect();
        assert_eq!(set, ["2", "3"]);
    }
}
