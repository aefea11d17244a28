//! What a route changes in a request and its response, and where a redirect leads. Pure: it makes texts, and writes no
//! head. Names and values were checked on the way in, so that nothing here can end a header line.

use super::TrafficError;

/// Fields that decide where a message ends or begins, that hop by hop proxies own, or that only the sidecar may set.
const NOT_OURS: [&str; 12] = [
    "connection",
    "content-length",
    "forwarded",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-client-cert",
    "x-forwarded-for",
];

/// Everything a rule or a backend changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filters {
    /// Changes to the request's header fields.
    pub request: HeaderEdits,
    /// Changes to the response's header fields.
    pub response: HeaderEdits,
    /// The client is sent elsewhere; no backend is asked.
    pub redirect: Option<Redirect>,
    /// Another host or path.
    pub rewrite: Option<Rewrite>,
}

/// Changes to header fields: names in lower case. What is set replaces all of its name; what is added stands beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Replaced.
    pub set: Box<[(Box<str>, Box<str>)]>,
    /// Added.
    pub add: Box<[(Box<str>, Box<str>)]>,
    /// Left out.
    pub remove: Box<[Box<str>]>,
}

/// A redirect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The scheme; none: the request's.
    pub scheme: Option<Scheme>,
    /// The host; none: the request's.
    pub host: Option<Box<str>>,
    /// The port; none: the scheme's own where one is given, else the request's.
    pub port: Option<u16>,
    /// The path.
    pub path: Option<PathChange>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// Another host or path for the backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// What `Host` and `:authority` are to say.
    pub host: Option<Box<str>>,
    /// The path.
    pub path: Option<PathChange>,
}

/// How a path changes. The query stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// All of it.
    Full(Box<str>),
    /// The prefix that was matched (without a slash at the end).
    Prefix {
        /// What is taken away.
        matched: Box<str>,
        /// What comes instead.
        replacement: Box<str>,
    },
}

/// The scheme of a redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http`, port 80.
    Http,
    /// `https`, port 443.
    Https,
}

impl Scheme {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that need not be written.
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl Filters {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl HeaderEdits {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

impl PathChange {
    /// The new target for a target (path and query).
    #[must_use]
    pub fn apply(&self, target: &str) -> String {
        let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
        let mut changed = match self {
            Self::Full(full) => full.to_string(),
            Self::Prefix { matched, replacement } => {
                let rest = path.strip_prefix(&**matched).unwrap_or(path);
                format!("{}{rest}", replacement.trim_end_matches('/'))
            }
        };
        if !changed.starts_with('/') {
            changed.insert(0, '/');
        }
        changed.push_str(query);
        changed
    }
}

impl Redirect {
    /// The `location` for a request with this authority and target, which came to this port with this scheme.
    #[must_use]
    pub fn location(&self, came_by: Scheme, authority: &str, port: u16, target: &str) -> String {
        let scheme = self.scheme.unwrap_or(came_by);
        let port = self.port.unwrap_or_else(|| match self.scheme {
            Some(scheme) => scheme.port(),
            None => port,
        });
        let host = self.host.as_deref().unwrap_or_else(|| host_of(authority));
        let target = match &self.path {
            Some(change) => change.apply(target),
            None => target.to_owned(),
        };
        let scheme_text = scheme.as_str();
        if port == scheme.port() {
            format!("{scheme_text}://{host}{target}")
        } else {
            format!("{scheme_text}://{host}:{port}{target}")
        }
    }
}

/// The authority without its port.
fn host_of(authority: &str) -> &str {
    let bare = authority
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    bare.map_or(authority, |(host, _)| host)
}

/// A header field that a route may change, in lower case.
///
/// # Errors
/// When it is no name, or no route may touch it.
pub(super) fn editable(name: &str) -> Result<Box<str>, TrafficError> {
    if !is_token(name) {
        return Err(TrafficError::HeaderName(name.to_owned()));
    }
    let name = name.to_ascii_lowercase();
    if NOT_OURS.contains(&name.as_str()) {
        return Err(TrafficError::HeaderProtected(name));
    }
    Ok(name.into())
}

/// A field value that stays within its line.
pub(super) fn value(name: &str, value: &str) -> Result<Box<str>, TrafficError> {
    if value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
        return Err(TrafficError::HeaderValue(name.to_owned()));
    }
    Ok(value.trim().into())
}

/// RFC 9110 §5.6.2.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_replaced_as_the_gateway_api_tabulates_it() {
        for (path, matched, replacement, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo?a=/foo", "/foo", "/x", "/x?a=/foo"),
            ("/a", "", "/x", "/x/a"),
        ] {
            let change = PathChange::Prefix {
                matched: matched.into(),
                replacement: replacement.into(),
            };
            assert_eq!(change.apply(path), expected, "{path} {matched} {replacement}");
        }
        assert_eq!(PathChange::Full("/x".into()).apply("/a/b?c"), "/x?c");
    }

    #[test]
    fn a_location_names_the_port_only_where_it_is_not_the_schemes_own() {
        let plain = Redirect {
            scheme: None,
            host: None,
            port: None,
            path: None,
            status: 302,
        };
        let at = |redirect: Redirect, authority: &str, port| redirect.location(Scheme::Http, authority, port, "/a?b");
        let cases = [
            (plain.clone(), "web.shop:8080", 8080, "http://web.shop:8080/a?b"),
            (plain.clone(), "web.shop", 80, "http://web.shop/a?b"),
            (
                Redirect {
                    scheme: Some(Scheme::Https),
                    ..plain.clone()
                },
                "web.shop:8080",
                8080,
                "https://web.shop/a?b",
            ),
            (
                Redirect {
                    port: Some(8443),
                    scheme: Some(Scheme::Https),
                    ..plain.clone()
                },
                "web",
                80,
                "https://web:8443/a?b",
            ),
            (
                Redirect {
                    host: Some("other".into()),
                    path: Some(PathChange::Full("/x".into())),
                    ..plain.clone()
                },
                "web",
                80,
                "http://other/x?b",
            ),
            (plain, "[fd00::1]:80", 80, "http://[fd00::1]/a?b"),
        ];
        for (redirect, authority, port, expected) in cases {
            assert_eq!(at(redirect, authority, port), expected);
        }
    }

    #[test]
    fn fields_that_frame_a_message_or_name_a_peer_are_not_for_routes() {
        assert_eq!(editable("X-Team").as_deref(), Ok("x-team"));
        for name in [
            "",
            "a b",
            ":path",
            "Host",
            "Content-Length",
            "transfer-encoding",
            "X-Forwarded-Client-Cert",
        ] {
            assert!(editable(name).is_err(), "{name}");
        }
        assert!(value("x", "a\r\nb: c").is_err() && value("x", "a\0").is_err());
        assert_eq!(value("x", " a\tb ").as_deref(), Ok("a\tb"));
    }
}
