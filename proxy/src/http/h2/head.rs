//! The head of a request: checked beyond what the protocol library checks, normalised once, judged as it will be
//! forwarded, and written again for the next hop. It decides nothing and keeps no body.

use std::borrow::Cow;

use http::uri::{Authority, PathAndQuery};
use squire_mesh::policy::{
    self,
    path::{PathNormalization, normalize},
};

use super::wire::FieldList;
use crate::http::{Edits, Fields, Forwarded, RequestView, Version};

/// Why a request is answered with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(pub(super) &'static str);

/// Fields that are added to a request, usually.
const FEW: usize = 4;
/// The one protocol that an extended CONNECT may ask for.
const WEBSOCKET: &[u8] = b"websocket";

/// A request head that passed every check: with one authority, and its path normalised.
pub(super) struct Head(FieldList);

impl policy::Headers for Head {
    fn visit(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) {
        for value in self.0.all(name) {
            if !visit(value) {
                return;
            }
        }
    }
}

impl Fields for Head {
    fn each(&self, visit: &mut dyn FnMut(&str, &[u8])) {
        for field in self.0.iter().filter(|field| !field.is_pseudo()) {
            visit(text(Some(field.name)), field.value);
        }
    }
}

impl Head {
    /// Checks a request (RFC 9113 §8.2, §8.3) and normalises its path.
    pub(super) fn read(mut fields: FieldList, mode: PathNormalization) -> Result<Self, Malformed> {
        let method = text(fields.get(":method"));
        if method.is_empty() || method.bytes().any(|byte| byte.is_ascii_lowercase()) {
            return Err(Malformed("the method is not in upper case"));
        }
        // Another spelling of the same number is nobody's need, and somebody's trick.
        if fields.all("content-length").count() > 1 {
            return Err(Malformed("more than one content-length"));
        }
        if fields.iter().any(|field| has_outer_space(field.value)) {
            return Err(Malformed("a field value begins or ends with white space"));
        }
        let protocol = fields.get(":protocol");
        if protocol.is_some_and(|protocol| protocol != WEBSOCKET) {
            return Err(Malformed("an extended CONNECT for anything but websocket"));
        }
        let connect = method == "CONNECT" && protocol.is_none();
        if !connect && !matches!(text(fields.get(":scheme")), "http" | "https") {
            return Err(Malformed("the scheme is neither http nor https"));
        }
        if check_authority(&fields)? {
            let host = fields.get("host").unwrap_or_default().to_vec();
            fields.put_first(":authority", &host);
        }
        // What a client claims to be is seen by nobody, policy included.
        remove_ours(&mut fields);
        if !connect {
            let path = fields.get(":path").unwrap_or_default();
            if !(path == b"*" && text(fields.get(":method")) == "OPTIONS")
                && let Some(changed) = normalised(path, mode)?
            {
                fields.replace(":path", changed.as_bytes());
            }
        }
        Ok(Self(fields))
    }

    /// As everything that judges the request sees it. A WebSocket is the GET it is over HTTP/1 (RFC 8441 §5), so that one
    /// rule holds for both.
    pub(super) fn view(&self) -> RequestView<'_> {
        RequestView {
            method: match self.is_extended_connect() {
                true => "GET",
                false => text(self.0.get(":method")),
            },
            target: self
                .0
                .get(":path")
                .map(|path| text(Some(path)))
                .filter(|target| *target != "*"),
            authority: text(self.0.get(":authority")),
            version: Version::Http2,
            fields: self,
        }
    }

    /// Whether it asks to go on with another protocol (RFC 8441).
    pub(super) fn is_extended_connect(&self) -> bool {
        self.0.get(":protocol").is_some()
    }

    /// Whether the client waits for leave to send the body.
    pub(super) fn expects_continue(&self) -> bool {
        self.field("expect")
            .is_some_and(|expected| expected.eq_ignore_ascii_case("100-continue"))
    }

    pub(super) fn is_head(&self) -> bool {
        self.0.get(":method") == Some(b"HEAD")
    }

    /// The first value of a field, if it is text.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The request for the next hop: what was judged, with what was asked to be changed.
    pub(super) fn forward(&self, edits: &Edits, forwarded: Option<&Forwarded>) -> Result<FieldList, Malformed> {
        let told = forwarded.map_or(0, Forwarded::len);
        let mut fields = self.0.clone_with_room(told, FEW);
        // The authority says it, and only one may.
        fields.remove("host");
        if let Some(forwarded) = forwarded {
            tell(&mut fields, forwarded);
        }
        if !edits.is_empty() {
            edit(&mut fields, edits)?;
        }
        Ok(fields)
    }
}

/// Carries out what a route wants changed in a response's head.
pub(super) fn edit_response(fields: &mut FieldList, edits: &Edits) {
    for name in &edits.remove {
        fields.remove(name);
    }
    for (name, value) in edits.set.iter().filter(|(name, value)| is_field(name, value)) {
        fields.set(name, value);
    }
    for (name, value) in edits.add.iter().filter(|(name, value)| is_field(name, value)) {
        fields.push(name.as_bytes(), value);
    }
}

/// Takes identity fields out of trailers: an application may merge them into the request's fields.
pub(super) fn clean_trailers(trailers: &mut FieldList) {
    remove_ours(trailers);
}

/// `:authority`, or Host in its place; both must say the same (RFC 9113 §8.3.1). True: Host has to take its place.
fn check_authority(fields: &FieldList) -> Result<bool, Malformed> {
    let mut hosts = fields.all("host");
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Malformed("more than one host"));
    }
    let said = fields.get(":authority");
    let authority = match (said, host) {
        (Some(authority), Some(host)) if !host.eq_ignore_ascii_case(authority) => {
            return Err(Malformed("host is not what :authority says"));
        }
        (Some(authority), _) | (None, Some(authority)) => authority,
        (None, None) => return Err(Malformed("neither :authority nor host")),
    };
    if !is_plain_authority(authority) {
        let parsed = Authority::try_from(authority).map_err(|_| Malformed("the authority is none"))?;
        if parsed.as_str().contains('@') || parsed.host().is_empty() {
            return Err(Malformed("the authority has user information or no host"));
        }
    }
    Ok(said.is_none())
}

/// A name or an IPv4 address, and perhaps a port: what most authorities are.
fn is_plain_authority(authority: &[u8]) -> bool {
    let colon = authority.iter().position(|byte| *byte == b':');
    let (host, port) = authority.split_at(colon.unwrap_or(authority.len()));
    let is_host = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let digits = port.get(1..).unwrap_or_default();
    !host.is_empty()
        && host.iter().all(is_host)
        && (colon.is_none() || (1..=5).contains(&digits.len()))
        && digits.iter().all(u8::is_ascii_digit)
}

/// The path as it is forwarded; none: as it came.
fn normalised(path: &[u8], mode: PathNormalization) -> Result<Option<String>, Malformed> {
    const BAD: Malformed = Malformed("the path cannot be normalised");
    let target = std::str::from_utf8(path).map_err(|_| BAD)?;
    if !is_plain_target(path) {
        PathAndQuery::try_from(path).map_err(|_| BAD)?;
    }
    match normalize(mode, target) {
        Ok(Cow::Borrowed(same)) if same.len() == target.len() => Ok(None),
        Ok(changed) => Ok(Some(changed.into_owned())),
        Err(_) => Err(BAD),
    }
}

/// Only characters that nobody doubts: what most targets are.
fn is_plain_target(path: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/-._~?=&%+,:;@!$'()*".contains(byte);
    path.first() == Some(&b'/') && path.iter().all(plain)
}

/// Names, methods and targets have been found to be text.
fn text(bytes: Option<&[u8]>) -> &str {
    bytes
        .and_then(|bytes| std::str::from_utf8(bytes).ok())
        .unwrap_or_default()
}

fn is_field(name: &str, value: &[u8]) -> bool {
    http::HeaderName::from_bytes(name.as_bytes()).is_ok() && http::HeaderValue::from_bytes(value).is_ok()
}

fn has_outer_space(value: &[u8]) -> bool {
    let space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    space(value.first()) || space(value.last())
}

/// Says what we know of the client.
fn tell(fields: &mut FieldList, forwarded: &Forwarded) {
    for (name, value) in forwarded.iter() {
        fields.push(name.as_bytes(), value);
    }
}

fn remove_ours(fields: &mut FieldList) {
    fields.retain(|field| !is_ours(field.name));
}

/// Whether a field of this name is ours alone. `_` counts as `-`: many an application framework takes both for one.
fn is_ours(name: &[u8]) -> bool {
    ["x-forwarded-client-cert", "x-forwarded-for"].iter().any(|ours| {
        let same = |(byte, ours): (&u8, u8)| *byte == ours || (*byte == b'_' && ours == b'-');
        name.len() == ours.len() && name.iter().zip(ours.bytes()).all(same)
    })
}

fn edit(fields: &mut FieldList, edits: &Edits) -> Result<(), Malformed> {
    const BAD: Malformed = Malformed("a field that the route sets");
    if let Some(target) = &edits.target
        && fields.get(":path").is_some()
    {
        PathAndQuery::try_from(&**target).map_err(|_| Malformed("the route's target"))?;
        fields.replace(":path", target.as_bytes());
    }
    for name in &edits.remove {
        fields.remove(name);
    }
    for (name, value) in &edits.set {
        if &**name == "host" || &**name == ":authority" {
            Authority::try_from(&**value).map_err(|_| BAD)?;
            fields.replace(":authority", value);
            continue;
        }
        if !is_field(name, value) {
            return Err(BAD);
        }
        fields.set(name, value);
    }
    for (name, value) in &edits.add {
        if !is_field(name, value) {
            return Err(BAD);
        }
        fields.push(name.as_bytes(), value);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
