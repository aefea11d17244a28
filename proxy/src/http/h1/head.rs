//! The head of an HTTP/1 message: read strictly (RFC 9112; anything two parsers could read differently is refused),
//! looked at by everybody through [`RequestView`](crate::http::RequestView), and written anew, so that what is forwarded
//! is what was judged.

mod fields;
mod request;
mod response;

pub(super) use self::fields::is_barred_from_trailers;
use self::fields::write_field;
pub(crate) use self::{
    request::RequestHead,
    response::{Answers, ResponseHead},
};
use crate::http::LocalReply;

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
