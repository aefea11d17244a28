//! The fields of a head, and what they say about the connection: which are for the next hop only, how the body is framed.

use super::{super::body::Length, Bad};
use crate::http::{Edits, Version};

/// Bytes of the head, by where they lie in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Span {
    /// Where `part`, which was cut from `whole`, lies in it.
    pub(super) fn of(whole: &[u8], part: &[u8]) -> Self {
        let start = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize) as u32;
        Self {
            start,
            end: start + part.len() as u32,
        }
    }

    pub(super) fn bytes(self, whole: &[u8]) -> &[u8] {
        whole.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// Of text: the parser has checked that it is.
    pub(super) fn text(self, whole: &[u8]) -> &str {
        std::str::from_utf8(self.bytes(whole)).unwrap_or_default()
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub(super) name: Span,
    pub(super) value: Span,
    /// Only for the next hop, or ours to set: neither seen by policy nor forwarded.
    pub(super) dropped: bool,
}

/// The fields of a head, and what they say about the connection.
#[derive(Debug, Default)]
pub(super) struct Section {
    pub(super) fields: Vec<Field>,
    pub(super) length: Option<u64>,
    pub(super) chunked: bool,
    pub(super) host: Option<Span>,
    pub(super) upgrade: Option<Span>,
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrades: bool,
    pub(super) expects_continue: bool,
}

impl Section {
    pub(super) fn read(&mut self, head: &[u8], fields: &[httparse::Header<'_>]) -> Result<(), Bad> {
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

    /// Drops the fields that frame a body, where there cannot be one.
    pub(super) fn drop_framing(&mut self, head: &[u8]) {
        for field in &mut self.fields {
            let special = Special::of(field.name.bytes(head));
            field.dropped |= matches!(special, Some(Special::ContentLength | Special::TransferEncoding));
        }
    }

    pub(super) fn check_request(&self, version: Version) -> Result<(), Bad> {
        if self.chunked && self.length.is_some() {
            return Err(Bad::Ambiguous("both content-length and transfer-encoding"));
        }
        match version {
            Version::Http10 if self.chunked => Err(Bad::Ambiguous("transfer-encoding in HTTP/1.0")),
            Version::Http11 if self.host.is_none() => Err(Bad::Malformed("no Host")),
            Version::Http10 | Version::Http11 | Version::Http2 => Ok(()),
        }
    }

    pub(super) fn framing(&self) -> Option<Length> {
        if self.chunked {
            return Some(Length::Chunked);
        }
        self.length.map(Length::Exact)
    }

    pub(super) fn keeps_alive(&self, version: Version) -> bool {
        !self.close && (version != Version::Http10 || self.keep_alive)
    }

    pub(super) fn write(&self, out: &mut Vec<u8>, head: &[u8], edits: &Edits) {
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
        let same = |(byte, of): (&u8, &u8)| {
            // Many an application framework takes `_` for `-`: what is ours alone is ours in every spelling.
            byte.eq_ignore_ascii_case(of) || (special == Self::Ours && *byte == b'_' && *of == b'-')
        };
        name.iter().zip(text).all(same).then_some(special)
    }
}

/// Whether a field of this name may not stand in a request's trailers: it frames the message, is for the next hop only, or is
/// ours to set (RFC 9110 §6.5.1), and an application may merge it into the request's fields.
pub(in super::super) fn is_barred_from_trailers(name: &[u8]) -> bool {
    Special::of(name).is_some()
}

fn names_h2c(value: &[u8]) -> bool {
    value
        .split(|&byte| byte == b',')
        .any(|protocol| protocol.trim_ascii().eq_ignore_ascii_case(b"h2c"))
}

fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

/// Writes one line.
pub(super) fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}
