//! The head of a response: read as strictly as a request's, and framed by what it answers.

use std::mem::MaybeUninit;

use super::{
    super::body::Length,
    Bad, MAX_FIELDS, MAX_HEAD, bad, check_lines,
    fields::{Section, Span, write_field},
};
use crate::http::{Edits, Version};

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
    /// It asks for another protocol.
    pub(crate) upgrade: bool,
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
        if matches!(self.status, 100..=199 | 204) {
            // A client that believed them would wait for a body (RFC 9110 §8.6).
            self.section.drop_framing(&self.bytes);
        }
        Ok(Some(length))
    }

    /// Bytes of memory it holds for the next head.
    pub(in super::super) fn capacity(&self) -> usize {
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

    /// Whether it switches to another protocol (status 101).
    ///
    /// # Errors
    /// When nobody asked for one: what followed would pass unjudged.
    pub(crate) fn switches(&self, to: Answers) -> Result<bool, Bad> {
        match (self.status, self.section.upgrade) {
            (101, Some(_)) if to.upgrade => Ok(true),
            (101, _) => Err(Bad::Malformed("it switches to a protocol that was not asked for")),
            _ => Ok(false),
        }
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
