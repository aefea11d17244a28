//! Asking over HTTP: the request's head (and as much of its body as wanted) under the provider's path prefix. 200 allows;
//! a server error is no answer; everything else denies with that very response.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use http_body_util::Full;
use squire_mesh::policy::{Provider, TextMatch};

use super::{Body, Context, Failure, Said, edits};
use crate::{
    callouts::client::{Client, Origin, Response},
    http::{Edits, LocalReply, RequestView},
};

/// Of a provider's answer.
const MAX_ANSWER: usize = 1 << 20;
/// Fields of a denial that the client gets whatever is listed (as in Istio).
const ALWAYS_DOWNSTREAM: [&str; 2] = ["www-authenticate", "location"];

/// A check that is ready to be sent.
pub(super) struct Check(http::Request<Full<Bytes>>);

/// Writes the check.
pub(super) fn check(
    provider: &Provider,
    view: &RequestView<'_>,
    body: Body<'_>,
    context: &Context<'_>,
) -> Result<Check, &'static str> {
    if view.method == "CONNECT" {
        return Err("CONNECT cannot be shown over HTTP");
    }
    let target = context.edits.target.as_deref().or(view.target).unwrap_or("/");
    let mut request = http::Request::builder()
        .method(Method::from_bytes(view.method.as_bytes()).map_err(|_| "the method cannot be shown over HTTP")?)
        .uri(format!("{}{target}", provider.http.path_prefix))
        .header(http::header::HOST, view.authority);
    if body.bytes.is_empty() {
        request = request.header(http::header::CONTENT_LENGTH, 0);
    }
    if provider.body.is_some() {
        request = request.header(
            "x-envoy-auth-partial-body",
            if body.complete { "false" } else { "true" },
        );
    }
    let mut request = request
        .body(Full::new(Bytes::copy_from_slice(body.bytes)))
        .map_err(|_| "the request cannot be shown over HTTP")?;
    let headers = request.headers_mut();
    let shown = |name: &str| name == "authorization" || lists(&provider.http.request_headers, name);
    edits::each_forwarded(view, context.edits, &mut |name, value| {
        if edits::is_free(name) && shown(name) {
            append(headers, name, value);
        }
    });
    for (name, value) in &provider.http.additional_headers {
        if edits::is_free(name) {
            headers.remove(&**name);
            append(headers, name, value.as_bytes());
        }
    }
    Ok(Check(request))
}

fn append(headers: &mut http::HeaderMap, name: &str, value: &[u8]) {
    if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value)) {
        headers.append(name, value);
    }
}

fn lists(names: &[TextMatch], name: &str) -> bool {
    names
        .iter()
        .any(|pattern| pattern.matches_ignoring_case(name.as_bytes()))
}

/// Sends the check and reads the answer.
pub(super) async fn ask(client: &Client, provider: &Provider, Check(request): Check) -> Result<Said, Failure> {
    let Some(address) = &provider.address else {
        return Err(Failure::NoAnswer("the provider has no address".to_owned()));
    };
    let origin = Origin {
        tls: false,
        host: address.host.clone(),
        port: address.port,
    };
    let response = client.send(&origin, request, MAX_ANSWER).await;
    let response = response.map_err(|error| Failure::NoAnswer(error.to_string()))?;
    match response.status().as_u16() {
        200 => Ok(allow(provider, &response)),
        status @ 500.. => Err(Failure::NoAnswer(format!("the provider answered {status}"))),
        _ => Ok(Said::Deny(deny(provider, response))),
    }
}

fn allow(provider: &Provider, response: &Response) -> Said {
    let listed = |names: &[TextMatch]| {
        let mut edits = Edits::default();
        for (name, value) in response.headers() {
            if edits::is_free(name.as_str()) && lists(names, name.as_str()) {
                let again = edits.set.iter().any(|(known, _)| **known == *name.as_str());
                let fields = if again { &mut edits.add } else { &mut edits.set };
                fields.push((name.as_str().into(), value.as_bytes().into()));
            }
        }
        edits
    };
    Said::Allow {
        edits: listed(&provider.http.upstream_on_allow),
        response: listed(&provider.http.downstream_on_allow),
    }
}

fn deny(provider: &Provider, response: Response) -> LocalReply {
    let wanted = &provider.http.downstream_on_deny;
    let passes = |name: &str| wanted.is_empty() || ALWAYS_DOWNSTREAM.contains(&name) || lists(wanted, name);
    let fields = response.headers().iter();
    let fields = fields.filter(|(name, _)| edits::is_free(name.as_str()) && passes(name.as_str()));
    LocalReply {
        status: response.status().as_u16(),
        fields: fields
            .map(|(name, value)| (name.as_str().into(), value.as_bytes().into()))
            .collect(),
        body: response.into_body().as_ref().into(),
    }
}
