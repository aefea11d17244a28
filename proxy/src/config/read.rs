//! Typed reading of a `Node`: every value that is missing or wrong becomes a problem, and reading goes on, so that all
//! problems show at once. What nobody asked for is an unknown key.

use std::{
    fmt::Display,
    net::{IpAddr, SocketAddr},
    num::{NonZeroU16, NonZeroUsize},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use squire_mesh::spiffe::{SpiffeId, TrustDomain};

use super::{
    problem::{Problem, Problems, nearest},
    tree::{Entry, Kind, Node, Place},
};

/// A type that one scalar can hold.
pub(super) trait Value: Sized {
    /// What a right value looks like, for the person who wrote a wrong one.
    const EXPECTED: &'static str;

    /// The value, or why the text is not one.
    fn read(text: &str) -> Result<Self, String>;
}

macro_rules! from_str_values {
    ($($type:ty: $expected:literal),* $(,)?) => {$(
        impl Value for $type {
            const EXPECTED: &'static str = $expected;

            fn read(text: &str) -> Result<Self, String> {
                parse(text)
            }
        }
    )*};
}

from_str_values! {
    u16: "write a port number from 0 to 65535",
    NonZeroU16: "write a port number from 1 to 65535",
    usize: "write a whole number",
    NonZeroUsize: "write a whole number above 0",
    bool: "write true or false",
    IpAddr: "write an IP address, such as 10.0.0.1 or fd00::1",
    SocketAddr: "write IP:port, such as 127.0.0.1:8080 or [::1]:8080",
    PathBuf: "write a path",
    TrustDomain: "write the trust domain alone, such as cluster.local",
    SpiffeId: "write spiffe://<trust domain>/ns/<namespace>/sa/<service account>",
}

fn parse<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

impl Value for Duration {
    const EXPECTED: &'static str = "write a duration such as 500ms, 5s, 10m or 1h30m";

    fn read(text: &str) -> Result<Self, String> {
        duration(text).ok_or_else(|| "not a duration".to_owned())
    }
}

/// `1h30m`, `10s`, `250ms`: whole numbers with units, largest first or not, added up.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let part = match &rest[..unit] {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "m" => Duration::from_secs(number.checked_mul(60)?),
            "h" => Duration::from_secs(number.checked_mul(3600)?),
            _ => return None,
        };
        total = total.checked_add(part)?;
        rest = &rest[unit..];
    }
    (!text.is_empty()).then_some(total)
}

/// One map being read: what is asked for is taken out, what is left over at the end is unknown.
pub(super) struct Section<'a> {
    path: String,
    place: Place,
    entries: Vec<Entry>,
    asked: Vec<&'static str>,
    problems: &'a mut Problems,
}

impl<'a> Section<'a> {
    /// The root of a configuration.
    pub(super) fn root(node: Node, problems: &'a mut Problems) -> Self {
        Section::new(String::new(), node, problems)
    }

    fn new(path: String, node: Node, problems: &'a mut Problems) -> Self {
        let entries = match node.kind {
            Kind::Map(entries) => entries,
            Kind::Empty => Vec::new(),
            Kind::Scalar(_) | Kind::List(_) => {
                let (place, path) = (node.place.clone(), path.clone());
                let (what, fix) = ("should be a map".to_owned(), "write `key: value` lines".to_owned());
                problems.push(Problem { place, path, what, fix });
                Vec::new()
            }
        };
        Section {
            path,
            place: node.place,
            entries,
            asked: Vec::new(),
            problems,
        }
    }

    /// The value of a key, if it is given and right.
    pub(super) fn optional<T: Value>(&mut self, key: &'static str) -> Option<T> {
        let node = self.take(key)?;
        let (what, place) = match &node.kind {
            Kind::Empty => return None,
            Kind::Scalar(text) => match T::read(text) {
                Ok(value) => return Some(value),
                Err(why) => (format!("{text:?}: {why}"), node.place),
            },
            Kind::List(_) | Kind::Map(_) => ("should be a single value".to_owned(), node.place),
        };
        self.problem(place, key, what, T::EXPECTED.to_owned());
        None
    }

    /// The value of a key, or the default when it is not given.
    pub(super) fn or<T: Value>(&mut self, key: &'static str, default: T) -> T {
        self.optional(key).unwrap_or(default)
    }

    /// The value of a key that has to be given; `None` after the problem is noted.
    pub(super) fn required<T: Value>(&mut self, key: &'static str) -> Option<T> {
        let given = self
            .entries
            .iter()
            .any(|e| e.key == key && !matches!(e.value.kind, Kind::Empty));
        if !given {
            let _ = self.take(key);
            self.problem(self.place.clone(), key, "is missing".to_owned(), T::EXPECTED.to_owned());
            return None;
        }
        self.optional(key)
    }

    /// A duration within bounds.
    pub(super) fn duration(&mut self, key: &'static str, default: Duration, min: Duration, max: Duration) -> Duration {
        let place = self.place_of(key);
        let value = self.or(key, default);
        if value < min || value > max {
            self.problem(
                place,
                key,
                format!("{value:?} is out of range"),
                format!("choose {min:?} to {max:?}"),
            );
            return default;
        }
        value
    }

    /// A nested map; an absent one is empty.
    pub(super) fn section<R>(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'_>) -> R) -> R {
        let node = self.take(key).unwrap_or_else(|| Node::empty_map(self.place.clone()));
        let mut section = Section::new(self.full(key), node, self.problems);
        let value = read(&mut section);
        section.finish();
        value
    }

    /// A list of maps; `None` when the key is not given. Items that read as `None` are left out.
    pub(super) fn list<R>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Section<'_>) -> Option<R>,
    ) -> Option<Vec<R>> {
        let node = self.take(key)?;
        let items = match node.kind {
            Kind::Empty => return None,
            Kind::List(items) => items,
            Kind::Scalar(_) | Kind::Map(_) => {
                self.problem(
                    node.place,
                    key,
                    "should be a list".to_owned(),
                    "write `- key: value` items".to_owned(),
                );
                return Some(Vec::new());
            }
        };
        let mut values = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let mut section = Section::new(format!("{}[{index}]", self.full(key)), item, self.problems);
            values.extend(read(&mut section));
            section.finish();
        }
        Some(values)
    }

    /// Notes a problem with a key of this section.
    pub(super) fn problem(&mut self, place: Place, key: &str, what: String, fix: String) {
        let path = self.full(key);
        self.problems.push(Problem { place, path, what, fix });
    }

    /// Where a key was written, or the section when it was not.
    pub(super) fn place_of(&self, key: &str) -> Place {
        self.entries
            .iter()
            .find(|e| e.key == key)
            .map_or_else(|| self.place.clone(), |e| e.value.place.clone())
    }

    /// Every key that was left over is unknown.
    pub(super) fn finish(self) {
        for entry in self.entries {
            let path = if self.path.is_empty() {
                entry.key.clone()
            } else {
                format!("{}.{}", self.path, entry.key)
            };
            let fix = match nearest(&entry.key, self.asked.iter().copied()) {
                Some(known) => format!("did you mean {known:?}?"),
                None => format!("known keys here: {}", self.asked.join(", ")),
            };
            self.problems.push(Problem {
                place: entry.place,
                path,
                what: "unknown key".to_owned(),
                fix,
            });
        }
    }

    fn take(&mut self, key: &'static str) -> Option<Node> {
        self.asked.push(key);
        let index = self.entries.iter().position(|e| e.key == key)?;
        Some(self.entries.remove(index).value)
    }

    fn full(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_units() {
        for (text, expected) in [
            ("500ms", Some(Duration::from_millis(500))),
            ("5s", Some(Duration::from_secs(5))),
            ("1h30m", Some(Duration::from_secs(5400))),
            ("0s", Some(Duration::ZERO)),
            ("5", None),
            ("", None),
            ("s", None),
            ("-5s", None),
            ("5 s", None),
            ("1d", None),
            ("99999999999999999999s", None),
            ("18446744073709551615h", None),
        ] {
            assert_eq!(duration(text), expected, "{text}");
        }
    }
}
