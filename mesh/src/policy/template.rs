//! Path templates with `{*}` and `{**}` (spec §3.7.26), matched in one pass over the path: no regular expression, no
//! backtracking. `{**}` is always the last operator, so everything after it is one literal that must end the path.

use std::fmt;

/// A parsed template.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Template {
    /// Literal text and `{*}` from the left, up to `{**}` or the end.
    head: Box<[Piece]>,
    /// What must follow `{**}`; none: there is no `{**}` and `head` must reach the end.
    tail: Option<Box<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Piece {
    Literal(Box<str>),
    Segment,
}

/// Why a value with braces is not a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTemplate {
    /// Braces that are neither `{*}` nor `{**}` as a whole segment.
    #[error("braces other than {{*}} or {{**}} as a whole segment, in segment {0:?}")]
    Braces(String),
    /// An operator after `{**}`.
    #[error("{{**}} must be the last operator")]
    NotLast,
    /// A literal segment with characters that a path segment cannot have (`*` and `?` among them), or an empty one.
    #[error("segment {0:?} is not a valid literal beside {{*}} or {{**}}")]
    Literal(String),
}

impl Template {
    /// Whether a value is meant to be a template: it contains `{*}` or `{**}`.
    #[must_use]
    pub fn is_template(value: &str) -> bool {
        value.contains("{*}") || value.contains("{**}")
    }

    /// Reads a template.
    ///
    /// # Errors
    /// When an operator is not a whole segment, `{**}` is not last, or a literal segment is not one.
    pub fn parse(value: &str) -> Result<Self, InvalidTemplate> {
        check_segments(value)?;
        let (head, tail) = match value.split_once("{**}") {
            Some((head, tail)) => (head, Some(tail.into())),
            None => (value, None),
        };
        let mut pieces = Vec::new();
        for (index, literal) in head.split("{*}").enumerate() {
            if index > 0 {
                pieces.push(Piece::Segment);
            }
            if !literal.is_empty() {
                pieces.push(Piece::Literal(literal.into()));
            }
        }
        Ok(Self {
            head: pieces.into(),
            tail,
        })
    }

    /// How every path that matches begins.
    pub(super) fn literal_head(&self) -> &str {
        match &*self.head {
            [Piece::Literal(literal), ..] => literal,
            _ => "",
        }
    }

    /// Whether the whole path matches.
    #[must_use]
    #[inline]
    pub fn matches(&self, path: &str) -> bool {
        let mut rest = path.as_bytes();
        for piece in &self.head {
            let taken = match piece {
                Piece::Literal(literal) if begins_with(rest, literal.as_bytes()) => literal.len(),
                Piece::Literal(_) => return false,
                Piece::Segment => match rest.iter().take_while(|byte| is_pchar(**byte)).count() {
                    0 => return false,
                    length => length,
                },
            };
            rest = rest.get(taken..).unwrap_or_default();
        }
        match &self.tail {
            None => rest.is_empty(),
            Some(tail) => rest
                .strip_suffix(tail.as_bytes())
                .is_some_and(|middle| middle.iter().all(|byte| is_pchar(*byte) || *byte == b'/')),
        }
    }
}

/// `starts_with`, after a look at one byte that tells most literals apart without a call.
#[inline]
fn begins_with(rest: &[u8], literal: &[u8]) -> bool {
    let last = literal.len().checked_sub(1);
    last.is_none_or(|last| rest.get(last) == literal.get(last)) && rest.starts_with(literal)
}

fn check_segments(value: &str) -> Result<(), InvalidTemplate> {
    let mut last = false;
    for segment in value.trim_matches('/').split('/') {
        match segment {
            "{*}" | "{**}" if last => return Err(InvalidTemplate::NotLast),
            "{*}" => {}
            "{**}" => last = true,
            _ if segment.contains(['{', '}']) => return Err(InvalidTemplate::Braces(segment.to_owned())),
            _ if segment.is_empty() || !segment.bytes().all(is_pchar) => {
                return Err(InvalidTemplate::Literal(segment.to_owned()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// RFC 3986 pchar without `*`, with `%` taken as a character.
fn is_pchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&byte)
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for piece in &self.head {
            f.write_str(match piece {
                Piece::Literal(literal) => literal,
                Piece::Segment => "{*}",
            })?;
        }
        match &self.tail {
            Some(tail) => write!(f, "{{**}}{tail}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_match_segments_and_the_slashes_around_them_are_literal() {
        for (template, path, expected) in [
            ("/foo/{*}", "/foo/bar", true),
            ("/foo/{*}", "/foo/", false),
            ("/foo/{*}", "/foo/bar/baz", false),
            ("/foo/{*}", "/foo/a*b", false),
            ("/a/{**}", "/a/", true),
            ("/a/{**}", "/a", false),
            ("/a/{**}", "/a/b/c", true),
            ("/s/{**}/c", "/s//c", true),
            ("/s/{**}/c", "/s/c", false),
            ("/s/{**}/c", "/s/x/y/c", true),
            ("/s/{**}/c", "/s/x/c/", false),
            ("/{*}/foo/{**}/bar", "/a/foo/b/c/bar", true),
            ("/{*}/foo/{**}/bar", "/foo/b/bar", false),
            ("/foo/{**}/", "/foo//", true),
            ("/foo/{**}/", "/foo/", false),
            ("/{**}", "/", true),
            ("/{**}", "/a b", false),
            ("{*}", "abc", true),
        ] {
            let parsed = Template::parse(template).unwrap();
            assert_eq!(parsed.matches(path), expected, "{template} {path}");
            assert_eq!(parsed.to_string(), template);
        }
    }

    #[test]
    fn everything_else_with_braces_is_refused() {
        for value in [
            "/{buzz}/{*}",
            "/{**}/a/{*}",
            "/{**}/{**}",
            "/{*}/foo/temp}/x",
            "/{*}/*",
            "/{*}/foo/?abc",
            "/a{*}",
            "/{*}b",
            "/{*}//a",
            "/{*}/{}",
            "/{***}",
        ] {
            assert!(Template::parse(value).is_err(), "{value}");
        }
    }

    #[test]
    fn a_long_path_takes_one_pass() {
        let template = Template::parse("/{*}/{*}/{*}/{**}/end").unwrap();
        assert!(!template.matches(&"/a".repeat(500_000)));
    }
}
