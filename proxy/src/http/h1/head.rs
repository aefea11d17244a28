//! The head of an HTTP/1 message: read strictly (RFC 9112; anything two parsers could read differently is refused),
//! looked at by everybody through [`RequestView`], and written anew, so that what is forwarded is what was judged.

use std::mem::MaybeUninit;

use squire_mesh::policy::{Headers, PathNormalization, path};

use super::body::Length;
use crate::http::{Edits, Fields, Forwarded, LocalReply, RequestView, Version};

/// Longest head of a request or response.
pub(crate) const MAX_HEAD: usize = 64 * 1024;
/// Longest request target.
const MAX_TARGET: usize = 16 * 1024;
/// Most fields.
const MAX_FIELDS: usize = 128;

/// A message that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Bad {
    /// Not HTTP/1, or not to the letter.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// It could be framed in more than one way.
    #[error("ambiguous: {0}")]
    Ambiguous(&'static str),
    /// The target is too long.
    #[error("the request target is longer than {MAX_TARGET} bytes")]
    TargetTooLong,
    /// The head is too long, or has too many fields.
    #[error("the head has more than {MAX_HEAD} bytes or {MAX_FIELDS} fields")]
    TooLarge,
    /// A transfer coding other than chunked.
    #[error("a transfer coding other than chunked")]
    Coding,
    /// Another version than 1.0 and 1.1.
    #[error("neither HTTP/1.0 nor HTTP/1.1")]
    Version,
}

impl Bad {
    /// What the client is told.
    pub(crate) fn reply(self) -> LocalReply {
        let (status, text) = match self {
            Self::Malformed(_) | Self::Ambiguous(_) => (400, "bad request"),
            Self::TargetTooLong => (414, "URI too long"),
            Self::TooLarge => (431, "request header fields too large"),
            Self::Coding => (501, "transfer coding not implemented"),
            Self::Version => (505, "HTTP version not supported"),
        };
        LocalReply::text(status, text)
    }

    /// The closed label for metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::Ambiguous(_) => "ambiguous",
            Self::TargetTooLong => "target_too_long",
            Self::TooLarge => "head_too_large",
            Self::Coding => "transfer_coding",
            Self::Version => "version",
        }
    }

    /// All labels.
    pub(crate) const LABELS: [&str; 6] = [
        "malformed",
        "ambiguous",
        "target_too_long",
        "head_too_large",
        "transfer_coding",
        "version",
    ];
}

/// Bytes of the head, by where they lie in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// Where `part`, which was cut from `whole`, lies in it.
    fn of(whole: &[u8], part: &[u8]) -> Self {
        let start = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize) as u32;
        Self {
            start,
            end: start + part.len() as u32,
        }
    }

    fn bytes(self, whole: &[u8]) -> &[u8] {
        whole.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// Of text: the parser has checked that it is.
    fn text(self, whole: &[u8]) -> &str {
        std::str::from_utf8(self.bytes(whole)).unwrap_or_default()
    }
}

#[derive(Debug, Clone, Copy)]
struct Field {
    name: Span,
    value: Span,
    /// Only for the next hop, or ours to set: neither seen by policy nor forwarded.
    dropped: bool,
}

/// The fields of a head, and what they say about the connection.
#[derive(Debug, Default)]
struct Section {
    fields: Vec<Field>,
    length: Option<u64>,
    chunked: bool,
    host: Option<Span>,
    upgrade: Option<Span>,
    close: bool,
    keep_alive: bool,
    upgrades: bool,
    expects_continue: bool,
}

/// The head of a request.
#[derive(Debug)]
pub(crate) struct RequestHead {
    bytes: Vec<u8>,
    method: Span,
    target: Target,
    authority: Span,
    version: Version,
    section: Section,
}

/// What is requested.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// A path with its query, as it came.
    AsIs(Span),
    /// The same, normalised.
    Normalised(String),
    /// `OPTIONS *`.
    Asterisk,
    /// CONNECT: the authority is all there is.
    Authority,
}

impl Default for RequestHead {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            method: Span::default(),
            target: Target::Asterisk,
            authority: Span::default(),
            version: Version::Http11,
            section: Section::default(),
        }
    }
}

impl RequestHead {
    /// Reads a head from the front of `input`. The number of bytes it takes; none: it is not all there yet.
    ///
    /// # Errors
    /// When the request must be refused and the connection closed.
    pub(crate) fn read(&mut self, input: &[u8], mode: PathNormalization) -> Result<Option<usize>, Bad> {
        let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut request = httparse::Request::new(&mut []);
        let length = match request.parse_with_uninit_headers(input, &mut fields) {
            Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => length,
            Ok(httparse::Status::Partial) if input.len() < MAX_HEAD => {
                return match request.path {
                    Some(target) if target.len() > MAX_TARGET => Err(Bad::TargetTooLong),
                    None if input.len() > MAX_TARGET + 64 => Err(Bad::TargetTooLong),
                    _ => Ok(None),
                };
            }
            Ok(_) => return Err(Bad::TooLarge),
            Err(error) => return Err(bad(error, input)),
        };
        let head = &input[..length];
        check_lines(head)?;
        self.bytes.clear();
        self.bytes.extend_from_slice(head);
        self.version = match request.version {
            Some(0) => Version::Http10,
            Some(1) => Version::Http11,
            _ => return Err(Bad::Version),
        };
        let method = request.method.unwrap_or_default();
        if method.bytes().any(|byte| byte.is_ascii_lowercase()) {
            return Err(Bad::Malformed("a method that is not upper case"));
        }
        self.method = Span::of(head, method.as_bytes());
        self.section.read(head, request.headers)?;
        self.section.check_request(self.version)?;
        let target = request.path.unwrap_or_default();
        if target.len() > MAX_TARGET {
            return Err(Bad::TargetTooLong);
        }
        self.read_target(method, target, Span::of(head, target.as_bytes()), mode)?;
        check_authority(self.authority.bytes(&self.bytes))?;
        Ok(Some(length))
    }

    fn read_target(&mut self, method: &str, target: &str, span: Span, mode: PathNormalization) -> Result<(), Bad> {
        let host = self.section.host;
        self.authority = host.unwrap_or_default();
        if method == "CONNECT" {
            self.target = Target::Authority;
            self.authority = span;
        } else if target == "*" {
            if method != "OPTIONS" {
                return Err(Bad::Malformed("* is a target for OPTIONS only"));
            }
            self.target = Target::Asterisk;
            return Ok(());
        } else if target.starts_with('/') {
            self.target = normal(target, span, mode)?;
            return Ok(());
        } else {
            let scheme = ["http://", "https://"]
                .into_iter()
                .find(|scheme| {
                    target.len() > scheme.len()
                        && target.as_bytes()[..scheme.len()].eq_ignore_ascii_case(scheme.as_bytes())
                })
                .ok_or(Bad::Malformed("the target is neither a path nor an http URI"))?;
            let rest = &target[scheme.len()..];
            let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
            let start = span.start + scheme.len() as u32;
            self.authority = Span {
                start,
                end: start + end as u32,
            };
            let path = &rest[end..];
            self.target = if path.starts_with(['/', '\\']) {
                normal(
                    path,
                    Span {
                        start: start + end as u32,
                        end: span.end,
                    },
                    mode,
                )?
            } else {
                Target::Normalised(normalise(&format!("/{path}"), mode)?)
            };
        }
        // Two statements of where the request goes must be one (spec §3.13.45).
        let same = host.is_none_or(|host| {
            host.bytes(&self.bytes)
                .eq_ignore_ascii_case(self.authority.bytes(&self.bytes))
        });
        if same {
            Ok(())
        } else {
            Err(Bad::Ambiguous("Host is not the authority of the target"))
        }
    }

    /// As everybody sees it.
    pub(crate) fn view(&self) -> RequestView<'_> {
        RequestView {
            method: self.method.text(&self.bytes),
            target: self.target(),
            authority: self.authority.text(&self.bytes),
            version: self.version,
            fields: self,
        }
    }

    fn target(&self) -> Option<&str> {
        match &self.target {
            Target::AsIs(span) => Some(span.text(&self.bytes)),
            Target::Normalised(target) => Some(target),
            Target::Asterisk | Target::Authority => None,
        }
    }

    /// Bytes of memory it holds for the next head.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    pub(crate) fn version(&self) -> Version {
        self.version
    }

    pub(crate) fn is_head(&self) -> bool {
        self.method.bytes(&self.bytes) == b"HEAD"
    }

    pub(crate) fn is_connect(&self) -> bool {
        self.target == Target::Authority
    }

    /// Whether repeating it does no harm (RFC 9110 §9.2.2).
    pub(crate) fn is_idempotent(&self) -> bool {
        matches!(
            self.method.bytes(&self.bytes),
            b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE"
        )
    }

    /// The protocol it asks to go on with, if it does.
    #[cfg(test)]
    pub(crate) fn upgrade(&self) -> Option<&str> {
        self.section.upgrade.map(|upgrade| upgrade.text(&self.bytes))
    }

    /// How its body is framed.
    pub(crate) fn length(&self) -> Length {
        if self.is_connect() {
            return Length::None;
        }
        self.section.framing().unwrap_or(Length::None)
    }

    /// Whether the client waits for leave to send the body.
    pub(crate) fn expects_continue(&self) -> bool {
        self.section.expects_continue && self.version == Version::Http11
    }

    /// Whether the client will use the connection again.
    pub(crate) fn keeps_alive(&self) -> bool {
        self.section.keeps_alive(self.version)
    }

    /// Writes it as it is forwarded, with what the application is told of its client.
    pub(crate) fn write(&self, out: &mut Vec<u8>, edits: &Edits, forwarded: &Forwarded) {
        let bytes = &self.bytes;
        out.extend_from_slice(self.method.bytes(bytes));
        out.push(b' ');
        match (&edits.target, &self.target) {
            (Some(target), Target::AsIs(_) | Target::Normalised(_)) => out.extend_from_slice(target.as_bytes()),
            (_, Target::AsIs(span)) => out.extend_from_slice(span.bytes(bytes)),
            (_, Target::Normalised(target)) => out.extend_from_slice(target.as_bytes()),
            (_, Target::Asterisk) => out.push(b'*'),
            (_, Target::Authority) => out.extend_from_slice(self.authority.bytes(bytes)),
        }
        out.extend_from_slice(match self.version {
            Version::Http10 => b" HTTP/1.0\r\n",
            Version::Http11 | Version::Http2 => b" HTTP/1.1\r\n",
        });
        let host = edits.set.iter().find(|(name, _)| **name == *"host");
        match host {
            Some((_, host)) => write_field(out, b"Host", host),
            None if self.section.host.is_some() || !self.authority.bytes(bytes).is_empty() => {
                write_field(out, b"Host", self.authority.bytes(bytes));
            }
            None => {}
        }
        self.section.write(out, bytes, edits);
        for (name, value) in forwarded.iter() {
            write_field(out, name.as_bytes(), value);
        }
        if self.version == Version::Http10 && self.section.keep_alive && !self.section.close {
            write_field(out, b"Connection", b"keep-alive");
        }
        out.extend_from_slice(b"\r\n");
    }
}

impl Headers for RequestHead {
    fn visit(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) {
        if name == "host" {
            visit(self.authority.bytes(&self.bytes));
            return;
        }
        for field in self.section.fields.iter().filter(|field| !field.dropped) {
            if field.name.bytes(&self.bytes).eq_ignore_ascii_case(name.as_bytes())
                && !visit(field.value.bytes(&self.bytes))
            {
                return;
            }
        }
    }
}

impl Fields for RequestHead {
    fn each(&self, visit: &mut dyn FnMut(&str, &[u8])) {
        for field in self.section.fields.iter().filter(|field| !field.dropped) {
            let name = field.name.text(&self.bytes).to_ascii_lowercase();
            visit(&name, field.value.bytes(&self.bytes));
        }
    }
}

/// The head of a response.
#[derive(Debug, Default)]
pub(crate) struct ResponseHead {
    bytes: Vec<u8>,
    pub(crate) status: u16,
    old: bool,
    reason: Span,
    section: Section,
}

/// What a response answers, as far as its framing depends on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answers {
    pub(crate) head: bool,
    pub(crate) connect: bool,
}

impl ResponseHead {
    /// Reads a head from the front of `input`. The number of bytes it takes; none: it is not all there yet.
    ///
    /// # Errors
    /// When the response cannot be passed on safely.
    pub(crate) fn read(&mut self, input: &[u8]) -> Result<Option<usize>, Bad> {
        let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let length = match config.parse_response_with_uninit_headers(&mut response, input, &mut fields) {
            Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => length,
            Ok(httparse::Status::Partial) if input.len() < MAX_HEAD => return Ok(None),
            Ok(_) => return Err(Bad::TooLarge),
            Err(error) => return Err(bad(error, &[])),
        };
        let head = &input[..length];
        check_lines(head)?;
        self.bytes.clear();
        self.bytes.extend_from_slice(head);
        self.old = response.version == Some(0);
        self.status = response.code.unwrap_or(0);
        self.reason = response.reason.map_or(Span::default(), |reason| {
            if reason.is_empty() {
                Span::default()
            } else {
                Span::of(head, reason.as_bytes())
            }
        });
        self.section.read(head, response.headers)?;
        if self.section.chunked && self.section.length.is_some() {
            return Err(Bad::Ambiguous("both content-length and transfer-encoding"));
        }
        if !(100..1000).contains(&self.status) {
            return Err(Bad::Malformed("a status that is not one"));
        }
        Ok(Some(length))
    }

    /// Bytes of memory it holds for the next head.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// How its body is framed (RFC 9112 §6.3).
    pub(crate) fn length(&self, to: Answers) -> Length {
        match self.status {
            100..=199 | 204 | 304 => Length::None,
            200..=299 if to.connect => Length::None,
            _ if to.head => Length::None,
            _ => self.section.framing().unwrap_or(Length::UntilClose),
        }
    }

    /// Whether the upstream will take another request.
    pub(crate) fn keeps_alive(&self) -> bool {
        self.section
            .keeps_alive(if self.old { Version::Http10 } else { Version::Http11 })
    }

    /// The protocol it switches to (status 101).
    pub(crate) fn switches(&self) -> bool {
        self.status == 101 && self.section.upgrade.is_some()
    }

    /// The value of a field.
    pub(crate) fn field(&self, name: &str) -> Option<&[u8]> {
        self.section
            .fields
            .iter()
            .find(|field| field.name.bytes(&self.bytes).eq_ignore_ascii_case(name.as_bytes()))
            .map(|field| field.value.bytes(&self.bytes))
    }

    /// Writes it as it is passed on. `connection`: what the client is told about the connection.
    pub(crate) fn write(&self, out: &mut Vec<u8>, edits: &Edits, connection: Option<&str>) {
        let bytes = &self.bytes;
        out.extend_from_slice(if self.old { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
        let digit = |place: u16| b'0' + (self.status / place % 10) as u8;
        out.extend_from_slice(&[digit(100), digit(10), digit(1), b' ']);
        out.extend_from_slice(self.reason.bytes(bytes));
        out.extend_from_slice(b"\r\n");
        self.section.write(out, bytes, edits);
        if let Some(connection) = connection {
            write_field(out, b"Connection", connection.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }
}

impl Section {
    fn read(&mut self, head: &[u8], fields: &[httparse::Header<'_>]) -> Result<(), Bad> {
        self.fields.clear();
        *self = Self {
            fields: std::mem::take(&mut self.fields),
            ..Self::default()
        };
        let (mut codings, mut listed) = (0, false);
        for header in fields {
            let name = header.name.as_bytes();
            let value = header.value;
            let mut field = Field {
                name: Span::of(head, name),
                value: Span::of(head, value),
                dropped: false,
            };
            if value.is_empty() {
                field.value = Span::default();
            }
            match Special::of(name) {
                None => {}
                Some(Special::Host) => {
                    if self.host.replace(field.value).is_some() {
                        return Err(Bad::Ambiguous("several Host fields"));
                    }
                    field.dropped = true;
                }
                Some(Special::ContentLength) => {
                    let length = decimal(value).ok_or(Bad::Ambiguous("a content-length that is not one number"))?;
                    if self.length.replace(length).is_some() {
                        return Err(Bad::Ambiguous("several content-length fields"));
                    }
                }
                Some(Special::TransferEncoding) => {
                    codings += 1;
                    if codings > 1 {
                        return Err(Bad::Ambiguous("several transfer-encoding fields"));
                    }
                    if !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(Bad::Coding);
                    }
                    self.chunked = true;
                }
                Some(Special::Connection) => {
                    field.dropped = true;
                    listed |= self.connection(value);
                }
                Some(Special::Upgrade) => {
                    field.dropped = true;
                    // h2c would hide later requests from us (spec §3.13.49).
                    if self.upgrade.is_some() || names_h2c(value) {
                        self.upgrade = None;
                    } else {
                        self.upgrade = Some(field.value);
                    }
                }
                Some(Special::Te) => field.dropped = !value.eq_ignore_ascii_case(b"trailers"),
                Some(Special::Expect) => self.expects_continue = value.eq_ignore_ascii_case(b"100-continue"),
                Some(Special::NextHopOnly | Special::Ours) => field.dropped = true,
            }
            self.fields.push(field);
        }
        if !self.upgrades {
            self.upgrade = None;
        }
        if listed {
            self.drop_listed(head, fields);
        }
        Ok(())
    }

    /// Reads a Connection field; true: it names other fields.
    fn connection(&mut self, value: &[u8]) -> bool {
        let mut listed = false;
        for option in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrades = true;
            } else if !option.is_empty() {
                listed = true;
            }
        }
        listed
    }

    /// Drops the fields that a Connection field names as meant for the next hop only, but never those that say what the
    /// message is.
    fn drop_listed(&mut self, head: &[u8], headers: &[httparse::Header<'_>]) {
        for header in headers
            .iter()
            .filter(|header| Special::of(header.name.as_bytes()) == Some(Special::Connection))
        {
            for option in header.value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                for field in &mut self.fields {
                    let name = field.name.bytes(head);
                    let framing = matches!(
                        Special::of(name),
                        Some(Special::Host | Special::ContentLength | Special::TransferEncoding)
                    );
                    if name.eq_ignore_ascii_case(option) && !framing {
                        field.dropped = true;
                    }
                }
            }
        }
    }

    fn check_request(&self, version: Version) -> Result<(), Bad> {
        if self.chunked && self.length.is_some() {
            return Err(Bad::Ambiguous("both content-length and transfer-encoding"));
        }
        match version {
            Version::Http10 if self.chunked => Err(Bad::Ambiguous("transfer-encoding in HTTP/1.0")),
            Version::Http11 if self.host.is_none() => Err(Bad::Malformed("no Host")),
            Version::Http10 | Version::Http11 | Version::Http2 => Ok(()),
        }
    }

    fn framing(&self) -> Option<Length> {
        if self.chunked {
            return Some(Length::Chunked);
        }
        self.length.map(Length::Exact)
    }

    fn keeps_alive(&self, version: Version) -> bool {
        !self.close && (version != Version::Http10 || self.keep_alive)
    }

    fn write(&self, out: &mut Vec<u8>, head: &[u8], edits: &Edits) {
        let plain = edits.remove.is_empty() && edits.set.is_empty();
        for field in self.fields.iter().filter(|field| !field.dropped) {
            let name = field.name.bytes(head);
            let edited = !plain && {
                let name = String::from_utf8_lossy(name).to_ascii_lowercase();
                edits.drops(&name)
            };
            if !edited {
                write_field(out, name, field.value.bytes(head));
            }
        }
        for (name, value) in edits.set.iter().filter(|(name, _)| **name != *"host").chain(&edits.add) {
            write_field(out, name.as_bytes(), value);
        }
        if let Some(upgrade) = self.upgrade {
            write_field(out, b"Connection", b"Upgrade");
            write_field(out, b"Upgrade", upgrade.bytes(head));
        }
    }
}

/// Fields that mean something to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Special {
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Upgrade,
    Te,
    Expect,
    /// Of no use behind the next hop (RFC 9110 §7.6.1).
    NextHopOnly,
    /// Set by squires alone (spec §3.13.51).
    Ours,
}

impl Special {
    fn of(name: &[u8]) -> Option<Self> {
        let (special, text): (Self, &[u8]) = match name.len() {
            2 => (Self::Te, b"te"),
            4 => (Self::Host, b"host"),
            6 => (Self::Expect, b"expect"),
            7 => (Self::Upgrade, b"upgrade"),
            10 if name[0].eq_ignore_ascii_case(&b'k') => (Self::NextHopOnly, b"keep-alive"),
            10 => (Self::Connection, b"connection"),
            14 if name[0].eq_ignore_ascii_case(&b'h') => (Self::NextHopOnly, b"http2-settings"),
            14 => (Self::ContentLength, b"content-length"),
            15 => (Self::Ours, b"x-forwarded-for"),
            16 => (Self::NextHopOnly, b"proxy-connection"),
            17 => (Self::TransferEncoding, b"transfer-encoding"),
            23 => (Self::Ours, b"x-forwarded-client-cert"),
            _ => return None,
        };
        name.eq_ignore_ascii_case(text).then_some(special)
    }
}

fn names_h2c(value: &[u8]) -> bool {
    value
        .split(|&byte| byte == b',')
        .any(|protocol| protocol.trim_ascii().eq_ignore_ascii_case(b"h2c"))
}

/// Every line ends with CR LF, and neither stands anywhere else.
fn check_lines(head: &[u8]) -> Result<(), Bad> {
    for at in memchr::memchr_iter(b'\n', head) {
        if at == 0 || head[at - 1] != b'\r' {
            return Err(Bad::Malformed("a line that ends with LF alone"));
        }
    }
    if head.first() == Some(&b'\r') {
        return Err(Bad::Malformed("an empty line before the message"));
    }
    Ok(())
}

fn check_authority(authority: &[u8]) -> Result<(), Bad> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(&byte);
    if authority.iter().all(|&byte| fits(byte)) {
        Ok(())
    } else {
        Err(Bad::Malformed("an authority with characters that cannot stand in it"))
    }
}

fn normal(target: &str, span: Span, mode: PathNormalization) -> Result<Target, Bad> {
    let normalised = path::normalize(mode, target).map_err(|_| Bad::Malformed("the path"))?;
    Ok(if *normalised == *target {
        Target::AsIs(span)
    } else {
        Target::Normalised(normalised.into_owned())
    })
}

fn normalise(target: &str, mode: PathNormalization) -> Result<String, Bad> {
    path::normalize(mode, target)
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| Bad::Malformed("the path"))
}

fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

fn bad(error: httparse::Error, input: &[u8]) -> Bad {
    match error {
        httparse::Error::TooManyHeaders => Bad::TooLarge,
        httparse::Error::Version
            if memchr::memmem::find(&input[..input.len().min(MAX_TARGET)], b" HTTP/").is_some() =>
        {
            Bad::Version
        }
        httparse::Error::Version => Bad::Malformed("the version"),
        httparse::Error::HeaderName => Bad::Malformed("a field name"),
        httparse::Error::HeaderValue => Bad::Malformed("a field value"),
        httparse::Error::NewLine => Bad::Malformed("the end of a line"),
        httparse::Error::Status => Bad::Malformed("the status"),
        httparse::Error::Token => Bad::Malformed("the first line"),
    }
}

fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes a reply of our own. `close`: the connection ends behind it. `to_head`: without its body.
pub(crate) fn write_reply(out: &mut Vec<u8>, reply: &LocalReply, close: bool, to_head: bool) {
    let reason = http::StatusCode::from_u16(reply.status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or_default();
    out.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", reply.status).as_bytes());
    for (name, value) in &reply.fields {
        write_field(out, name.as_bytes(), value);
    }
    write_field(out, b"content-length", reply.body.len().to_string().as_bytes());
    if close {
        write_field(out, b"connection", b"close");
    }
    out.extend_from_slice(b"\r\n");
    if !to_head {
        out.extend_from_slice(&reply.body);
    }
}

#[cfg(test)]
mod tests;
