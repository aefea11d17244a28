//! Regular expressions of routes. Matching takes linear time whatever the pattern; a pattern that would compile to too much
//! is refused. A pattern always has to match the whole text, as other meshes do it.

use std::fmt;

use regex_lite::{Regex, RegexBuilder};

/// Bytes a pattern may have (the longest the Gateway API allows for a header).
const MAX_BYTES: usize = 4_096;
/// Bytes a compiled pattern may take.
const MAX_SIZE: usize = 256 * 1024;
/// Groups in groups.
const MAX_NESTING: u32 = 50;

/// A regular expression that has to match the whole text.
#[derive(Clone)]
pub struct Pattern {
    source: Box<str>,
    whole: Regex,
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{source_text:?} is not a regular expression that can be used: {why}")]
pub struct BadPattern {
    source_text: String,
    why: String,
}

impl Pattern {
    /// Compiles a pattern. The syntax is that of Rust's `regex-lite`: no look-around, no back-references; `\d`, `\w`,
    /// `\s` and `(?i)` know ASCII only.
    ///
    /// # Errors
    /// When it does not parse, or would take too much.
    pub fn new(source: &str) -> Result<Self, BadPattern> {
        let bad = |why: String| BadPattern {
            source_text: source.chars().take(80).collect(),
            why,
        };
        if source.len() > MAX_BYTES {
            return Err(bad(format!("longer than {MAX_BYTES} bytes")));
        }
        let build = |text: &str| {
            RegexBuilder::new(text)
                .size_limit(MAX_SIZE)
                .nest_limit(MAX_NESTING)
                .build()
                .map_err(|error| bad(error.to_string()))
        };
        // On its own first: a pattern such as `a)|(b` must not get sense from the group around it.
        build(source)?;
        let whole = build(&format!("\\A(?:{source})\\z"))?;
        Ok(Self {
            source: source.into(),
            whole,
        })
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// Whether it matches all of the text.
    #[must_use]
    pub fn is_match(&self, text: &str) -> bool {
        self.whole.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_the_whole_text() {
        let pattern = Pattern::new("/v[0-9]+/x|/y").unwrap();
        assert!(pattern.is_match("/v12/x") && pattern.is_match("/y"));
        assert!(!pattern.is_match("/v12/x/") && !pattern.is_match("a/y") && !pattern.is_match("/y\n"));
        assert!(!Pattern::new("(?m)^a$").unwrap().is_match("a\nb"));
        assert!(Pattern::new("(?i)jane").unwrap().is_match("JANE"));
    }

    #[test]
    fn what_would_take_too_much_or_makes_no_sense_is_refused() {
        for bad in [
            "(",
            "a)|(b",
            "(?x)a # b",
            r"(a)\1",
            "(?=a)",
            "((a{1000}){1000}){1000}",
            &"a".repeat(5_000),
        ] {
            let error = Pattern::new(bad).expect_err(bad).to_string();
            assert!(error.len() > 30, "{error}");
        }
    }
}
