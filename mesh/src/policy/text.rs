//! Matching text with at most one wildcard (spec §3.4), over bytes, without allocation.

/// One value of a string field.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TextMatch {
    /// `*`: present and not empty.
    Present,
    /// The same bytes.
    Exact(Box<str>),
    /// `text*`
    Prefix(Box<str>),
    /// `*text`
    Suffix(Box<str>),
}

impl TextMatch {
    /// Reads a value as users write it: `*`, else a leading star, else a trailing star, else exact.
    #[must_use]
    pub fn parse(value: &str) -> Self {
        if value == "*" {
            Self::Present
        } else if let Some(suffix) = value.strip_prefix('*') {
            Self::Suffix(suffix.into())
        } else if let Some(prefix) = value.strip_suffix('*') {
            Self::Prefix(prefix.into())
        } else {
            Self::Exact(value.into())
        }
    }

    /// Whether `text` matches, byte for byte.
    #[must_use]
    #[inline]
    pub fn matches(&self, text: &[u8]) -> bool {
        match self {
            Self::Present => !text.is_empty(),
            // Names often share their beginning: the last byte tells most of them apart without a call.
            Self::Exact(exact) => text.last() == exact.as_bytes().last() && text == exact.as_bytes(),
            Self::Prefix(prefix) => text.starts_with(prefix.as_bytes()),
            Self::Suffix(suffix) => text.ends_with(suffix.as_bytes()),
        }
    }

    /// Whether `text` matches when ASCII case does not count.
    #[must_use]
    pub fn matches_ignoring_case(&self, text: &[u8]) -> bool {
        match self {
            Self::Present => !text.is_empty(),
            Self::Exact(exact) => text.eq_ignore_ascii_case(exact.as_bytes()),
            Self::Prefix(prefix) => text
                .get(..prefix.len())
                .is_some_and(|head| head.eq_ignore_ascii_case(prefix.as_bytes())),
            Self::Suffix(suffix) => text
                .len()
                .checked_sub(suffix.len())
                .and_then(|start| text.get(start..))
                .is_some_and(|tail| tail.eq_ignore_ascii_case(suffix.as_bytes())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wildcard_at_either_end() {
        for (pattern, text, expected) in [
            ("*", "x", true),
            ("*", "", false),
            ("a", "a", true),
            ("a", "A", false),
            ("a*", "a", true),
            ("a*", "ab", true),
            ("a*", "ba", false),
            ("*a", "ba", true),
            ("*a", "ab", false),
            ("*/x*", "y/x*", true),
            ("*/x*", "y/xz", false),
            ("a.b*", "axb", false),
            ("", "", true),
        ] {
            assert_eq!(
                TextMatch::parse(pattern).matches(text.as_bytes()),
                expected,
                "{pattern} {text}"
            );
        }
    }

    #[test]
    fn case_is_ignored_where_asked() {
        for (pattern, text, expected) in [
            ("example.com", "EXAMPLE.com", true),
            ("example.com", "example.com:80", false),
            ("example.com:*", "Example.com:80", true),
            ("*.COM", "a.com", true),
            ("*.com", "m", false),
            ("*", "", false),
        ] {
            assert_eq!(
                TextMatch::parse(pattern).matches_ignoring_case(text.as_bytes()),
                expected,
                "{pattern} {text}"
            );
        }
    }
}
