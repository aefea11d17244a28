//! Path normalisation before authorization (spec §3.8). The result is what policies see, what routes are chosen by and
//! what must be forwarded: never match one form and forward another. Works on the path only; the query is kept as it is.

use std::{borrow::Cow, fmt, str::FromStr};

/// How far a path is normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PathNormalization {
    /// As it came (a fragment is cut, `%00` is refused).
    None,
    /// `\` to `/`, unreserved characters decoded, dot segments resolved.
    #[default]
    Base,
    /// `Base`, then runs of slashes merged.
    MergeSlashes,
    /// `%2f` and `%5c` decoded first, then `MergeSlashes`.
    DecodeAndMergeSlashes,
}

impl PathNormalization {
    /// The mode as users write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Base => "BASE",
            Self::MergeSlashes => "MERGE_SLASHES",
            Self::DecodeAndMergeSlashes => "DECODE_AND_MERGE_SLASHES",
        }
    }
}

impl fmt::Display for PathNormalization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Not the name of a mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown path normalization {0:?}: use NONE, BASE, MERGE_SLASHES or DECODE_AND_MERGE_SLASHES")]
pub struct UnknownMode(String);

impl FromStr for PathNormalization {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        [Self::None, Self::Base, Self::MergeSlashes, Self::DecodeAndMergeSlashes]
            .into_iter()
            .find(|mode| mode.as_str() == text)
            .ok_or_else(|| UnknownMode(text.to_owned()))
    }
}

/// The path must be answered with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// It holds an encoded NUL.
    #[error("the path contains %00")]
    Nul,
    /// It does not begin with a slash.
    #[error("the path does not begin with a slash")]
    NotAbsolute,
}

/// Normalises a request target in origin form (path, and query if any). The fragment is cut; the query stays as it is.
/// Borrows where nothing changes.
///
/// # Errors
/// When the request must be refused with 400.
pub fn normalize(mode: PathNormalization, target: &str) -> Result<Cow<'_, str>, BadPath> {
    let target = target.split_once('#').map_or(target, |(before, _)| before);
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    if !path.starts_with(['/', '\\']) {
        return Err(BadPath::NotAbsolute);
    }
    if path.contains("%00") || path.contains('\0') {
        return Err(BadPath::Nul);
    }
    if is_normal(mode, path) {
        return Ok(Cow::Borrowed(target));
    }
    let mut bytes = decode(mode, path.as_bytes());
    bytes = remove_dot_segments(&bytes);
    if matches!(
        mode,
        PathNormalization::MergeSlashes | PathNormalization::DecodeAndMergeSlashes
    ) {
        bytes.dedup_by(|a, b| *a == b'/' && *b == b'/');
    }
    // Only ASCII bytes were replaced or removed, always whole, so this never changes anything.
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    text.push_str(query);
    Ok(Cow::Owned(text))
}

/// A quick look that never says yes wrongly: nothing in the path could change.
fn is_normal(mode: PathNormalization, path: &str) -> bool {
    if mode == PathNormalization::None {
        return true;
    }
    let merge = mode != PathNormalization::Base;
    let bytes = path.as_bytes();
    let dot_segment = bytes.windows(2).any(|pair| pair == b"/.");
    let doubled = merge && bytes.windows(2).any(|pair| pair == b"//");
    !dot_segment && !doubled && !bytes.contains(&b'%') && !bytes.contains(&b'\\')
}

fn decode(mode: PathNormalization, path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, after)) = rest.split_first() {
        let (byte, length) = match first {
            b'\\' => (b'/', 1),
            b'%' => match escaped(after) {
                Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => (byte, 3),
                Some(b'/' | b'\\') if mode == PathNormalization::DecodeAndMergeSlashes => (b'/', 3),
                _ => (b'%', 1),
            },
            other => (other, 1),
        };
        out.push(byte);
        rest = rest.get(length..).unwrap_or_default();
    }
    out
}

fn escaped(after: &[u8]) -> Option<u8> {
    let high = char::from(*after.first()?).to_digit(16)?;
    let low = char::from(*after.get(1)?).to_digit(16)?;
    u8::try_from(high * 16 + low).ok()
}

/// RFC 3986 §5.2.4 over an absolute path: `..` removes the segment before it even if that is empty, never above the root.
fn remove_dot_segments(path: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::with_capacity(path.len());
    let mut segments = path.split(|byte| *byte == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            b"." => {}
            b".." => out.truncate(out.iter().rposition(|byte| *byte == b'/').unwrap_or(0)),
            _ => {
                out.push(b'/');
                out.extend_from_slice(segment);
                continue;
            }
        }
        if last {
            out.push(b'/');
        }
    }
    if out.is_empty() {
        out.push(b'/');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use PathNormalization::{Base, DecodeAndMergeSlashes as Decode, MergeSlashes as Merge, None as Raw};

    fn check(mode: PathNormalization, path: &str, expected: &str) {
        let result = normalize(mode, path).map_or_else(|_| "400".to_owned(), Cow::into_owned);
        assert_eq!(result, expected, "{mode} {path}");
    }

    #[test]
    fn each_mode_does_what_it_says_and_no_more() {
        check(Raw, "/a/../b%41", "/a/../b%41");
        check(Base, "/a/../b%41", "/bA");
        check(Base, "/a/./b/.", "/a/b/");
        check(Base, "/a/b/..", "/a/");
        check(Base, "/..", "/");
        check(Base, "/../../x", "/x");
        check(Base, "\\a\\b", "/a/b");
        check(Base, "//a", "//a");
        check(Base, "/a%2fb%5Cc", "/a%2fb%5Cc");
        check(Base, "/%25%c0%ae;%252e", "/%25%c0%ae;%252e");
        check(Base, "/app//../admin", "/app/admin");
        check(Base, "/..a/.b/c..", "/..a/.b/c..");
        check(Base, "/%2e%2E/x", "/x");
        check(Merge, "/app//../admin", "/app/admin");
        check(Merge, "//a///b/", "/a/b/");
        check(Decode, "/a%2Fb%5cc\\d", "/a/b/c/d");
        check(Decode, "/x%5c..%5cadmin", "/admin");
        check(Decode, "/%252fadmin", "/%252fadmin");
    }

    #[test]
    fn fragments_are_cut_queries_are_kept_and_nul_is_refused_in_every_mode() {
        for mode in [Raw, Base, Merge, Decode] {
            check(mode, "/a#b?c", "/a");
            check(mode, "/a?b=/../%41//#x", "/a?b=/../%41//");
            check(mode, "/a%00", "400");
            check(mode, "/a?%00", "/a?%00");
            check(mode, "a", "400");
        }
        check(Base, "/a/..?x=..", "/?x=..");
    }

    proptest! {
        #[test]
        fn normal_paths_stay_as_they_are(path in "/[ab/.%2fF5cCe\\\\]{0,24}") {
            for mode in [Base, Merge, Decode] {
                if let Ok(once) = normalize(mode, &path) {
                    prop_assert!(once.starts_with('/'));
                    let dots = once.split('/').any(|segment| segment == "." || segment == "..");
                    prop_assert!(!dots, "{}", once);
                    if mode != Base {
                        prop_assert!(!once.contains("//"));
                    }
                }
            }
        }

        #[test]
        fn any_text_is_answered(path in "\\PC{0,40}") {
            for mode in [Raw, Base, Merge, Decode] {
                let _ = normalize(mode, &path);
            }
        }
    }
}
