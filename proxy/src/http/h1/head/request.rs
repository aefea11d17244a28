//! The head of a request: its target normalised, its authority stated once.

use std::mem::MaybeUninit;

use squire_mesh::policy::{Headers, PathNormalization, path};

use super::{
    super::body::Length,
    Bad, MAX_FIELDS, MAX_HEAD, MAX_TARGET, bad, check_lines,
    fields::{Section, Span, write_field},
};
use crate::http::{Edits, Fields, Forwarded, RequestView, Version};

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
    pub(in super::super) fn capacity(&self) -> usize {
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
