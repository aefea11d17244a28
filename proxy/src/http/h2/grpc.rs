//! What this sidecar understands of gRPC over HTTP/2: its status, its deadline, and how it wants to be told an error.

use std::{fmt::Write, time::Duration};

use super::wire::{Error, FieldList, Responding, Sending};
use crate::http::LocalReply;

/// `grpc-status` of a head or of trailers.
pub(super) fn status(fields: &FieldList) -> Option<u8> {
    std::str::from_utf8(fields.get("grpc-status")?).ok()?.parse().ok()
}

/// `grpc-timeout`: at most eight digits and a unit.
pub(super) fn timeout(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.is_empty() || number.len() > 8 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// The same, written.
pub(super) fn write_timeout(timeout: Duration) -> String {
    let micros = timeout.as_micros();
    match micros {
        0..100_000_000 => format!("{micros}u"),
        100_000_000..100_000_000_000 => format!("{}m", micros / 1000),
        _ => format!("{}S", (micros / 1_000_000).min(99_999_999)),
    }
}

/// Sends a reply of our own: to a gRPC client as trailers-only, to any other as a head, whose body is still to be sent.
pub(super) fn reply(
    respond: &mut Responding,
    reply: &LocalReply,
    grpc: bool,
    without_body: bool,
) -> Result<Option<Sending>, Error> {
    let mut head = FieldList::default();
    if grpc {
        head.push(b":status", b"200");
        head.push(b"content-type", b"application/grpc");
        for field in trailers(reply.grpc_status(), &reply.body).iter() {
            head.push_field(field);
        }
        return respond.send_response(&head, true).map(|_| None);
    }
    let status = if (200..1000).contains(&reply.status) {
        reply.status
    } else {
        500
    };
    head.push(b":status", status.to_string().as_bytes());
    for (name, value) in &reply.fields {
        head.push(name.to_ascii_lowercase().as_bytes(), value);
    }
    head.set("content-length", reply.body.len().to_string().as_bytes());
    let bare = without_body || reply.body.is_empty();
    let sending = respond.send_response(&head, bare)?;
    Ok((!bare).then_some(sending))
}

/// `grpc-status` and `grpc-message`.
pub(super) fn trailers(status: u8, message: &[u8]) -> FieldList {
    let mut fields = FieldList::default();
    fields.push(b"grpc-status", status.to_string().as_bytes());
    fields.push(b"grpc-message", percent_encoded(message).as_bytes());
    fields
}

fn percent_encoded(message: &[u8]) -> String {
    let mut text = String::with_capacity(message.len());
    for &byte in message {
        match byte {
            b' '..=b'~' if byte != b'%' => text.push(char::from(byte)),
            _ => {
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read_as_the_protocol_writes_them() {
        assert_eq!(timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(timeout("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(timeout("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for bad in ["", "m", "1", "123456789m", "-1S", "1x", " 1S", "1é"] {
            assert_eq!(timeout(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_written_deadline_reads_as_the_same_within_its_unit() {
        for micros in [0, 1, 99_999_999, 100_000_000, 123_456_789_000, u64::MAX / 1_000_000] {
            let deadline = Duration::from_micros(micros);
            let read = timeout(&write_timeout(deadline)).unwrap();
            assert!(
                read <= deadline && read >= deadline.mul_f64(0.98),
                "{deadline:?} {read:?}"
            );
        }
    }

    #[test]
    fn messages_stay_one_line_of_printable_ascii() {
        assert_eq!(percent_encoded("a b%\n\u{e9}".as_bytes()), "a b%25%0A%C3%A9");
    }
}
