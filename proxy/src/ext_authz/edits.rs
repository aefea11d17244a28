//! From a provider's answer to edits: which fields a provider may set, and how queries are rewritten. A provider never
//! touches how a message is framed.

use crate::http::{Edits, RequestView};

/// Fields that say how a message is read or where it goes.
const FRAMING: [&str; 12] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// Whether a provider may set, remove or see-to this field (lower case).
pub(super) fn is_free(name: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(token) && !FRAMING.contains(&name)
}

/// Whether bytes can stand in a field.
pub(super) fn is_value(value: &[u8]) -> bool {
    value
        .iter()
        .all(|&byte| byte == b'\t' || (byte >= 0x20 && byte != 0x7f))
}

/// Calls `visit` with each field of the request as it will be forwarded, once `edits` are made.
pub(super) fn each_forwarded(view: &RequestView<'_>, edits: &Edits, visit: &mut dyn FnMut(&str, &[u8])) {
    view.fields.each(&mut |name, value| {
        if !edits.drops(name) {
            visit(name, value);
        }
    });
    for (name, value) in edits.set.iter().chain(&edits.add) {
        visit(name, value);
    }
}

/// A target with query parameters removed and set.
pub(super) fn target(target: &str, remove: &[String], set: &[(String, String)]) -> String {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let gone = |pair: &str| {
        let key = pair.split_once('=').map_or(pair, |(key, _)| key);
        remove.iter().any(|name| name == key) || set.iter().any(|(name, _)| name == key)
    };
    let kept = query
        .split('&')
        .filter(|pair| !pair.is_empty() && !gone(pair))
        .map(str::to_owned);
    let added = set
        .iter()
        .map(|(key, value)| format!("{}={}", escaped(key), escaped(value)));
    let query: Vec<_> = kept.chain(added).collect();
    if query.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{}", query.join("&"))
    }
}

/// Percent-encodes all but unreserved characters (RFC 3986 §2.3).
fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte.into());
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_parameters_are_removed_and_set_and_the_path_stays() {
        let set = [("a b".to_owned(), "1&2".to_owned()), ("k".to_owned(), "v".to_owned())];
        let remove = ["x".to_owned()];
        assert_eq!(target("/p?x=1&y=2&k=old&x", &remove, &set), "/p?y=2&a%20b=1%262&k=v");
        assert_eq!(target("/p?x=1", &remove, &[]), "/p");
        assert_eq!(target("/p", &[], &[]), "/p");
    }

    #[test]
    fn framing_is_nobodys_to_set() {
        for (name, free) in [
            ("x-user", true),
            ("authorization", true),
            ("content-length", false),
            ("transfer-encoding", false),
            ("host", false),
            (":path", false),
            ("a b", false),
            ("", false),
        ] {
            assert_eq!(is_free(name), free, "{name}");
        }
        assert!(is_value(b"a\tb\xff") && !is_value(b"a\r\nb") && !is_value(b"\0"));
    }
}
