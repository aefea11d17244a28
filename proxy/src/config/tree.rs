//! One YAML document as a tree in which every value knows the file and line it came from. It gives values no meaning:
//! that is `read` and `raw`; anchors, aliases, tags and second documents are refused, a configuration needs none.

use std::{fmt, sync::Arc};

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};

use super::problem::Problem;

/// Deeper nesting than any configuration has; keeps the recursion bounded.
const MAX_DEPTH: usize = 16;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A file as a whole.
    File(Arc<str>),
    /// A file and its 1-based line.
    Line(Arc<str>, usize),
    /// An environment variable.
    Environment(String),
    /// `--set` on the command line.
    Flag(String),
    /// Nowhere: the value is missing from every source.
    Nowhere,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => write!(f, "{file}"),
            Self::Line(file, line) => write!(f, "{file}:{line}"),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
            Self::Nowhere => f.write_str("configuration"),
        }
    }
}

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// `key:` with nothing after it, or an explicit `null`.
    Empty,
    /// A number, word or string, as written.
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    /// Of the key.
    pub(super) place: Place,
    pub(super) value: Node,
}

impl Node {
    /// A map without entries.
    pub(super) fn empty_map(place: Place) -> Self {
        Self {
            place,
            kind: Kind::Map(Vec::new()),
        }
    }

    /// Reads one document.
    pub(super) fn parse(file: &str, text: &str) -> Result<Self, Problem> {
        Reader {
            file: file.into(),
            events: Parser::new_from_str(text),
        }
        .document()
    }

    /// Puts a scalar at a dotted path, making the maps on the way and replacing what was there.
    pub(super) fn overlay(&mut self, path: &str, text: &str, place: Place) {
        let mut node = self;
        for key in path.split('.') {
            if !matches!(node.kind, Kind::Map(_)) {
                node.kind = Kind::Map(Vec::new());
            }
            let Kind::Map(entries) = &mut node.kind else { return };
            let index = entries.iter().position(|e| e.key == key).unwrap_or_else(|| {
                let value = Self {
                    place: place.clone(),
                    kind: Kind::Empty,
                };
                entries.push(Entry {
                    key: key.to_owned(),
                    place: place.clone(),
                    value,
                });
                entries.len() - 1
            });
            node = &mut entries[index].value;
        }
        *node = Self {
            place,
            kind: Kind::Scalar(text.to_owned()),
        };
    }
}

struct Reader<'a> {
    file: Arc<str>,
    events: Parser<'a, saphyr_parser::StrInput<'a>>,
}

impl<'a> Reader<'a> {
    /// The only document of the stream; an empty one is an empty map.
    fn document(&mut self) -> Result<Node, Problem> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(root.unwrap_or_else(|| Node::empty_map(Place::File(self.file.clone())))),
                Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
                Event::DocumentStart(_) if root.is_some() => {
                    return Err(self.problem(span, "a second document", "keep one document; remove the `---`"));
                }
                Event::DocumentStart(_) => {
                    let (event, span) = self.next()?;
                    root = Some(Node {
                        place: Place::File(self.file.clone()),
                        ..self.node(event, span, 0)?
                    });
                }
                other => return Err(self.problem(span, &format!("unexpected {other:?}"), "check the indentation")),
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Problem> {
        if depth > MAX_DEPTH {
            return Err(self.problem(span, "nested too deeply", "see `squire-proxy run --help` for the shape"));
        }
        let place = self.place(span);
        let kind = match event {
            Event::Scalar(text, style, 0, None) => scalar(&text, style),
            Event::SequenceStart(0, None) => self.list(depth)?,
            Event::MappingStart(0, None) => self.map(depth)?,
            _ => {
                return Err(self.problem(
                    span,
                    "anchors, aliases and tags are not supported",
                    "write the value out",
                ));
            }
        };
        Ok(Node { place, kind })
    }

    fn list(&mut self, depth: usize) -> Result<Kind, Problem> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(Kind::List(items));
            }
            items.push(self.node(event, span, depth + 1)?);
        }
    }

    fn map(&mut self, depth: usize) -> Result<Kind, Problem> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let key = match event {
                Event::MappingEnd => return Ok(Kind::Map(entries)),
                Event::Scalar(key, _, 0, None) => key.into_owned(),
                _ => return Err(self.problem(span, "a key that is not a word", "write `key: value`")),
            };
            if entries.iter().any(|e| e.key == key) {
                return Err(self.problem(span, &format!("key {key:?} is given twice"), "remove one of them"));
            }
            let place = self.place(span);
            let (event, span) = self.next()?;
            entries.push(Entry {
                key,
                place,
                value: self.node(event, span, depth + 1)?,
            });
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Problem> {
        let end = || ScanError::new_str(saphyr_parser::Marker::new(0, 1, 0), "unexpected end of file");
        self.events
            .next_event()
            .unwrap_or_else(|| Err(end()))
            .map_err(|error| Problem {
                place: Place::Line(self.file.clone(), error.marker().line()),
                path: String::new(),
                what: format!("not valid YAML: {}", error.info()),
                fix: "check indentation, colons and quotes on this line and the one above".to_owned(),
            })
    }

    fn place(&self, span: Span) -> Place {
        Place::Line(self.file.clone(), span.start.line())
    }

    fn problem(&self, span: Span, what: &str, fix: &str) -> Problem {
        Problem {
            place: self.place(span),
            path: String::new(),
            what: what.to_owned(),
            fix: fix.to_owned(),
        }
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Kind {
    match (style, text) {
        (ScalarStyle::Plain, "" | "~" | "null") => Kind::Empty,
        _ => Kind::Scalar(text.to_owned()),
    }
}
