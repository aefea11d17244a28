//! Whether a request is what a route's match describes. It looks at the normalised path, exactly as it will be forwarded,
//! and allocates only where a query is percent-encoded or a header field is repeated.

use std::borrow::Cow;

use super::Pattern;
use crate::policy::Headers;

/// What a route looks at.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    /// Exact bytes of the method.
    pub method: &'a str,
    /// The normalised path without its query; none: CONNECT or `OPTIONS *`.
    pub path: Option<&'a str>,
    /// The query, without `?`.
    pub query: Option<&'a str>,
    /// `:authority` or Host: what a match on the header `host` looks at.
    pub authority: &'a str,
    /// Its header fields.
    pub headers: &'a dyn Headers,
}

/// One description of a request: all of its parts have to agree.
#[derive(Clone, Debug, PartialEq)]
pub struct Match {
    /// The path.
    pub path: PathMatch,
    /// The method.
    pub method: Option<Box<str>>,
    /// Header fields; names in lower case, each once.
    pub headers: Box<[FieldMatch]>,
    /// Query parameters, each name once.
    pub query: Box<[FieldMatch]>,
}

impl Default for Match {
    /// Everything.
    fn default() -> Self {
        Self {
            path: PathMatch::Prefix("".into()),
            method: None,
            headers: [].into(),
            query: [].into(),
        }
    }
}

/// What a path has to be.
#[derive(Clone, Debug, PartialEq)]
pub enum PathMatch {
    /// Exactly this.
    Exact(Box<str>),
    /// These segments first; without a slash at the end, so that the empty one is every path.
    Prefix(Box<str>),
    /// All of it matches.
    Pattern(Pattern),
    /// `/service/method` of gRPC.
    Grpc {
        /// The service, with its package; none: any.
        service: Option<TextRule>,
        /// The method; none: any.
        method: Option<TextRule>,
    },
}

/// What a text has to be.
#[derive(Clone, Debug, PartialEq)]
pub enum TextRule {
    /// Exactly this.
    Exact(Box<str>),
    /// All of it matches.
    Pattern(Pattern),
}

/// What a header field or a query parameter has to be.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldMatch {
    /// Its name.
    pub name: Box<str>,
    /// Its value.
    pub value: TextRule,
}

impl Match {
    /// Whether the request is what is described.
    #[must_use]
    pub fn is_match(&self, head: &Head<'_>) -> bool {
        self.method.as_deref().is_none_or(|method| method == head.method)
            && self.path.is_match(head.path)
            && self.headers.iter().all(|field| field.in_headers(head))
            && self.query.iter().all(|field| field.in_query(head.query))
    }
}

impl PathMatch {
    fn is_match(&self, path: Option<&str>) -> bool {
        let Some(path) = path else {
            // Without a path only what asks for none can match.
            return matches!(self, Self::Prefix(all) if all.is_empty());
        };
        match self {
            Self::Exact(exact) => path == &**exact,
            Self::Prefix(prefix) => path
                .strip_prefix(&**prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            Self::Pattern(pattern) => pattern.is_match(path),
            Self::Grpc { service, method } => is_call(path, service.as_ref(), method.as_ref()),
        }
    }
}

fn is_call(path: &str, service: Option<&TextRule>, method: Option<&TextRule>) -> bool {
    let Some((of, called)) = path.strip_prefix('/').and_then(|call| call.split_once('/')) else {
        return service.is_none() && method.is_none();
    };
    service.is_none_or(|rule| rule.is_match(of)) && method.is_none_or(|rule| rule.is_match(called))
}

impl TextRule {
    /// Whether the text is what is asked for.
    #[must_use]
    pub fn is_match(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => text == &**exact,
            Self::Pattern(pattern) => pattern.is_match(text),
        }
    }

    fn is_match_bytes(&self, bytes: &[u8]) -> bool {
        std::str::from_utf8(bytes).is_ok_and(|text| self.is_match(text))
    }

    /// How much text it names, for precedence.
    pub(super) fn characters(&self) -> usize {
        match self {
            Self::Exact(exact) => exact.chars().count(),
            Self::Pattern(pattern) => pattern.as_str().chars().count(),
        }
    }
}

impl FieldMatch {
    /// A repeated field counts as one with its values joined by commas (RFC 9110 §5.3).
    fn in_headers(&self, head: &Head<'_>) -> bool {
        if &*self.name == "host" {
            return self.value.is_match(head.authority);
        }
        let (mut count, mut single) = (0, false);
        head.headers.visit(&self.name, &mut |value| {
            count += 1;
            single = self.value.is_match_bytes(value);
            count < 2
        });
        match count {
            0 => false,
            1 => single,
            _ => self.value.is_match_bytes(&joined(head.headers, &self.name)),
        }
    }

    /// The first parameter of the name counts.
    fn in_query(&self, query: Option<&str>) -> bool {
        let parameters = query.unwrap_or_default().split('&');
        let mut named = parameters
            .map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")))
            .filter(|(name, _)| *decoded(name) == *self.name.as_bytes());
        named
            .next()
            .is_some_and(|(_, value)| self.value.is_match_bytes(&decoded(value)))
    }
}

fn joined(headers: &dyn Headers, name: &str) -> Vec<u8> {
    let mut all = Vec::new();
    headers.visit(name, &mut |value| {
        if !all.is_empty() {
            all.push(b',');
        }
        all.extend_from_slice(value);
        true
    });
    all
}

/// A name or value of a query, without its percent-encoding.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        let escaped = (first == b'%').then(|| hex(after)).flatten();
        bytes.push(match escaped {
            Some(byte) => {
                rest = &after[2..];
                byte
            }
            None if first == b'+' => b' ',
            None => first,
        });
    }
    Cow::Owned(bytes)
}

fn hex(after: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(after.get(..2)?).ok()?;
    digits
        .bytes()
        .all(|digit| digit.is_ascii_hexdigit())
        .then(|| u8::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head<'a>(method: &'a str, target: &'a str, headers: &'a dyn Headers) -> Head<'a> {
        let (path, query) = target
            .split_once('?')
            .map_or((target, None), |(path, query)| (path, Some(query)));
        Head {
            method,
            path: (!path.is_empty()).then_some(path),
            query,
            authority: "web.shop:80",
            headers,
        }
    }

    fn exact(name: &str, value: &str) -> FieldMatch {
        FieldMatch {
            name: name.into(),
            value: TextRule::Exact(value.into()),
        }
    }

    const NONE: [(&str, &str); 0] = [];

    #[test]
    fn prefixes_are_compared_by_segment() {
        for (prefix, path, expected) in [
            ("", "/", true),
            ("", "/a/b", true),
            ("", "", true),
            ("/a", "/a", true),
            ("/a", "/a/", true),
            ("/a", "/a/b", true),
            ("/a", "/ab", false),
            ("/a", "/", false),
            ("/a", "", false),
            ("/a/b", "/a", false),
        ] {
            let rule = Match {
                path: PathMatch::Prefix(prefix.into()),
                ..Match::default()
            };
            assert_eq!(
                rule.is_match(&head("GET", path, &NONE)),
                expected,
                "{prefix:?} {path:?}"
            );
        }
    }

    #[test]
    fn exact_paths_and_patterns_take_all_of_the_path_and_nothing_of_the_query() {
        let matches = |path: PathMatch, target: &str| {
            Match {
                path,
                ..Match::default()
            }
            .is_match(&head("GET", target, &NONE))
        };
        assert!(matches(PathMatch::Exact("/a".into()), "/a?b"));
        assert!(!matches(PathMatch::Exact("/a".into()), "/a/"));
        assert!(!matches(PathMatch::Exact("/a".into()), "/A"));
        let pattern = |text: &str| PathMatch::Pattern(Pattern::new(text).unwrap());
        assert!(matches(pattern("/v[12]/.*"), "/v1/x?y"));
        assert!(!matches(pattern("/v[12]"), "/v1/x"));
    }

    #[test]
    fn grpc_calls_are_matched_by_service_and_method() {
        let exact = |text: &str| Some(TextRule::Exact(text.into()));
        for (service, method, path, expected) in [
            (exact("shop.Cart"), exact("Add"), "/shop.Cart/Add", true),
            (exact("shop.Cart"), exact("Add"), "/shop.Cart/Remove", false),
            (exact("shop.Cart"), None, "/shop.Cart/Add", true),
            (exact("shop.Cart"), None, "/shop.Carts/Add", false),
            (None, exact("Add"), "/x.Y/Add", true),
            (None, None, "/anything", true),
            (exact("shop.Cart"), None, "/shop.Cart", false),
        ] {
            let rule = Match {
                path: PathMatch::Grpc { service, method },
                ..Match::default()
            };
            assert_eq!(rule.is_match(&head("POST", path, &NONE)), expected, "{rule:?} {path}");
        }
    }

    #[test]
    fn header_fields_are_joined_where_repeated_and_host_is_the_authority() {
        let fields = [("x-a", "1"), ("x-b", "1"), ("x-b", "2"), ("host", "other")];
        for (name, value, expected) in [
            ("x-a", "1", true),
            ("x-a", "2", false),
            ("x-b", "1", false),
            ("x-b", "1,2", true),
            ("x-c", "", false),
            ("host", "web.shop:80", true),
            ("host", "other", false),
        ] {
            let rule = Match {
                headers: [exact(name, value)].into(),
                ..Match::default()
            };
            assert_eq!(rule.is_match(&head("GET", "/", &fields)), expected, "{name}: {value}");
        }
        let binary = [("x-a", &b"\xff"[..])];
        let rule = Match {
            headers: [FieldMatch {
                name: "x-a".into(),
                value: TextRule::Pattern(Pattern::new(".*").unwrap()),
            }]
            .into(),
            ..Match::default()
        };
        assert!(
            !rule.is_match(&head("GET", "/", &binary)),
            "what is not text matches nothing"
        );
    }

    #[test]
    fn the_first_query_parameter_of_a_name_counts_after_decoding() {
        for (target, expected) in [
            ("/?animal=whale", true),
            ("/?x=1&animal=whale&animal=dog", true),
            ("/?animal=dog&animal=whale", false),
            ("/?%61nimal=w%68ale", true),
            ("/?animal=w%hale", false),
            ("/?animal", false),
            ("/", false),
        ] {
            let rule = Match {
                query: [exact("animal", "whale")].into(),
                ..Match::default()
            };
            assert_eq!(rule.is_match(&head("GET", target, &NONE)), expected, "{target}");
        }
        assert_eq!(*decoded("a+b%20%"), *b"a b %");
    }

    #[test]
    fn every_part_has_to_agree() {
        let rule = Match {
            path: PathMatch::Prefix("/a".into()),
            method: Some("GET".into()),
            headers: [exact("x-a", "1")].into(),
            query: [exact("q", "")].into(),
        };
        let fields = [("x-a", "1")];
        assert!(rule.is_match(&head("GET", "/a?q", &fields)));
        for (method, target, fields) in [
            ("get", "/a?q", &fields[..]),
            ("GET", "/b?q", &fields[..]),
            ("GET", "/a", &fields[..]),
            ("GET", "/a?q", &[][..]),
        ] {
            let fields: Vec<_> = fields.to_vec();
            assert!(!rule.is_match(&head(method, target, &fields)), "{method} {target}");
        }
    }
}
