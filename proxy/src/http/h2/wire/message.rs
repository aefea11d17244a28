//! Whether a decoded block is a message (RFC 9113 §8.1–§8.3). What can be read in two ways is malformed; what it means is
//! for others.

use super::{fields::Field, fit, hpack::Decoded};

/// RFC 9113 §8.1.1: it costs the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// What a response's head says of what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    /// 1xx: another head follows.
    pub(super) interim: bool,
    /// There is no body, whatever `content-length` says.
    pub(super) bodiless: bool,
    pub(super) length: Option<u64>,
}

/// A request's head; how long its body says it is.
pub(super) fn check_request(decoded: &Decoded) -> Result<Option<u64>, Malformed> {
    let [mut method, mut scheme, mut authority, mut path, mut protocol] = [None; 5];
    let length = check(decoded, |field| {
        let place = match field.name {
            b":method" => &mut method,
            b":scheme" => &mut scheme,
            b":authority" => &mut authority,
            b":path" => &mut path,
            b":protocol" => &mut protocol,
            _ => return false,
        };
        place.replace(field.value).is_none()
    })?;
    let method = method.filter(|method| fit::is_method(method)).ok_or(Malformed)?;
    let targeted = scheme.is_some() && path.is_some_and(|path| !path.is_empty());
    let whole = match (method, protocol) {
        // RFC 9113 §8.5, and RFC 8441 §4.
        (b"CONNECT", None) => scheme.is_none() && path.is_none() && authority.is_some(),
        (b"CONNECT", Some(_)) => targeted && authority.is_some(),
        (_, Some(_)) => false,
        (_, None) => targeted,
    };
    if whole { Ok(length) } else { Err(Malformed) }
}

/// A response's head.
pub(super) fn check_response(decoded: &Decoded) -> Result<Answer, Malformed> {
    let mut status = None;
    let length = check(decoded, |field| {
        field.name == b":status" && status.replace(status_of(field.value)).is_none()
    })?;
    let status = status.flatten().ok_or(Malformed)?;
    Ok(Answer {
        interim: status < 200,
        bodiless: matches!(status, 204 | 304),
        length,
    })
}

/// Trailers: no pseudo-header fields.
pub(super) fn check_trailers(decoded: &Decoded) -> Result<(), Malformed> {
    check(decoded, |_| false).map(drop)
}

/// Three digits.
pub(in super::super) fn status_of(value: &[u8]) -> Option<u16> {
    match value {
        [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] => {
            Some(u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0'))
        }
        _ => None,
    }
}

/// What is the same for all. `pseudo` says whether a pseudo-header field may be there.
fn check<'a>(decoded: &'a Decoded, mut pseudo: impl FnMut(Field<'a>) -> bool) -> Result<Option<u64>, Malformed> {
    if decoded.unfit {
        return Err(Malformed);
    }
    let (mut regular, mut length) = (false, None);
    for field in decoded.fields.iter() {
        if field.is_pseudo() {
            if regular || !pseudo(field) {
                return Err(Malformed);
            }
            continue;
        }
        regular = true;
        if is_of_connection(field) {
            return Err(Malformed);
        }
        if field.name == b"content-length" {
            let said = decimal(field.value).ok_or(Malformed)?;
            if length.replace(said).is_some_and(|before| before != said) {
                return Err(Malformed);
            }
        }
    }
    Ok(length)
}

/// Fields of HTTP/1 connections have no place here (RFC 9113 §8.2.2).
fn is_of_connection(field: Field<'_>) -> bool {
    match field.name {
        b"te" => !field.value.eq_ignore_ascii_case(b"trailers"),
        b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => true,
        _ => false,
    }
}

fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 {
        return None;
    }
    value.iter().try_fold(0, |sum, byte| match byte {
        b'0'..=b'9' => Some(sum * 10 + u64::from(byte - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(fields: &[(&str, &str)]) -> Decoded {
        let mut decoded = Decoded::default();
        for (name, value) in fields {
            decoded.fields.push(name.as_bytes(), value.as_bytes());
            decoded.unfit |= !fit::is_name(name.as_bytes()) || !fit::is_value(value.as_bytes());
        }
        decoded
    }

    const GET: [(&str, &str); 4] = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "db"),
        (":path", "/"),
    ];

    fn with(more: &[(&str, &str)]) -> Decoded {
        decoded(&[&GET[..], more].concat())
    }

    #[test]
    fn requests_are_whole_and_unambiguous() {
        assert_eq!(check_request(&with(&[])), Ok(None));
        assert_eq!(
            check_request(&with(&[("te", "trailers"), ("content-length", "7")])),
            Ok(Some(7))
        );
        assert_eq!(
            check_request(&decoded(&[(":method", "CONNECT"), (":authority", "db:1")])),
            Ok(None)
        );
        for missing in [0, 1, 3] {
            let mut fields = GET.to_vec();
            fields.remove(missing);
            assert_eq!(check_request(&decoded(&fields)), Err(Malformed), "{missing}");
        }
        for bad in [
            &[(":method", "GET")][..],
            &[(":path", "/two")],
            &[(":status", "200")],
            &[(":protocol", "websocket")],
            &[(":unknown", "x")],
            &[("x", "1"), (":authority", "db")],
            &[("connection", "close")],
            &[("transfer-encoding", "chunked")],
            &[("upgrade", "h2c")],
            &[("te", "gzip")],
            &[("content-length", "1"), ("content-length", "2")],
            &[("content-length", "+1")],
            &[("X-Upper", "1")],
            &[("x", "a\r\nb: c")],
        ] {
            assert_eq!(check_request(&with(bad)), Err(Malformed), "{bad:?}");
        }
        assert_eq!(
            check_request(&decoded(&[
                (":method", "CONNECT"),
                (":authority", "db"),
                (":path", "/")
            ])),
            Err(Malformed)
        );
        assert_eq!(
            check_request(&decoded(&[(":method", "G T"), (":scheme", "http"), (":path", "/")])),
            Err(Malformed)
        );
        assert_eq!(
            check_request(&decoded(&[(":method", "GET"), (":scheme", "http"), (":path", "")])),
            Err(Malformed)
        );
    }

    #[test]
    fn responses_have_a_status_and_nothing_else_in_front() {
        let answer = check_response(&decoded(&[(":status", "204"), ("content-length", "3")])).unwrap();
        assert!(answer.bodiless && !answer.interim);
        assert!(check_response(&decoded(&[(":status", "103")])).unwrap().interim);
        for bad in [
            &[("x", "1")][..],
            &[(":status", "20")],
            &[(":status", "099")],
            &[(":status", "200"), (":path", "/")],
        ] {
            assert_eq!(check_response(&decoded(bad)), Err(Malformed), "{bad:?}");
        }
        assert_eq!(check_trailers(&decoded(&[("grpc-status", "0")])), Ok(()));
        assert_eq!(check_trailers(&decoded(&[(":status", "200")])), Err(Malformed));
    }
}
