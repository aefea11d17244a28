//! Kubernetes objects from files: YAML with any number of documents, lists, JSON. What an object means is for others; this
//! says where each one stands (file, document, line) and reports what cannot be read as a [`Problem`] with the same
//! precision. One bad document does not hide the others. It never panics, and its work is bounded whatever the input.

mod files;
mod scalar;
mod tree;

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use tree::Tree;

/// Everything that was read.
#[derive(Debug, Clone, Default)]
pub struct Manifest {
    /// The objects, in the order of files, documents and list items.
    pub objects: Vec<Object>,
    /// What could not be read.
    pub problems: Vec<Problem>,
}

/// One object.
#[derive(Debug, Clone)]
pub struct Object {
    /// `apiVersion`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// `metadata.namespace`, if it is given.
    pub namespace: Option<String>,
    /// `metadata.name`; empty if it has none.
    pub name: String,
    /// The whole object.
    pub value: Value,
    /// Where it stands.
    pub place: Place,
    lines: Arc<Lines>,
}

/// Where an object stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, or another name for the source.
    pub file: Arc<str>,
    /// The document in it, from 1.
    pub document: usize,
    /// The line where the object begins, from 1.
    pub line: usize,
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The object works, but perhaps not as meant.
    Warning,
    /// The object is refused.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// Something wrong with an object or a document, for a person to mend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// The file.
    #[serde(serialize_with = "as_text")]
    pub file: Arc<str>,
    /// The document in it, from 1.
    pub document: usize,
    /// The line in the file, from 1; 0 if unknown.
    pub line: usize,
    /// `Kind namespace/name` of the object, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Where in the object, as in `spec.rules[0].from`; empty: all of it.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub fix: String,
}

fn as_text<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Objects of an API server have no file.
        if !self.file.is_empty() {
            write!(f, "{}:{}: ", self.file, self.line)?;
        }
        write!(f, "{}: ", self.severity)?;
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}", self.message)?;
        if self.fix.is_empty() {
            Ok(())
        } else {
            write!(f, " ({})", self.fix)
        }
    }
}

/// The line of every node of an object, in the object's shape.
#[derive(Debug, Clone)]
enum Lines {
    Leaf(usize),
    List(usize, Vec<Lines>),
    Map(usize, BTreeMap<Box<str>, Lines>),
}

impl Manifest {
    /// Reads the documents in a text. `file` names it in problems.
    #[must_use]
    pub fn parse(file: &str, text: &str) -> Self {
        let mut manifest = Self::default();
        manifest.add_text(file, text);
        manifest
    }

    /// Reads the documents in a text into this manifest.
    pub fn add_text(&mut self, file: &str, text: &str) {
        let file: Arc<str> = file.into();
        let mut number = 0;
        for (first_line, document) in documents(text) {
            let place = Place {
                file: Arc::clone(&file),
                document: number + 1,
                line: first_line + 1,
            };
            match tree::parse(document, first_line) {
                Ok(None) => {}
                Ok(Some(tree)) => {
                    number += 1;
                    self.add_tree(tree, place, None);
                }
                Err(error) => {
                    number += 1;
                    let place = Place {
                        line: error.line,
                        ..place
                    };
                    self.problems.push(place.problem(error.message, error.fix));
                }
            }
        }
    }

    /// Only errors, not warnings.
    pub fn errors(&self) -> impl Iterator<Item = &Problem> {
        self.problems
            .iter()
            .filter(|problem| problem.severity == Severity::Error)
    }

    /// Adds an object, or the items of a list. `list` gives apiVersion and kind to items of a typed list without them.
    fn add_tree(&mut self, tree: Tree, place: Place, list: Option<(&str, &str)>) {
        let place = Place {
            line: tree.line,
            ..place
        };
        let (value, lines) = tree.split();
        let Value::Object(mut map) = value else {
            let fix = "write a mapping with apiVersion, kind and metadata";
            self.problems
                .push(place.problem("not a Kubernetes object".to_owned(), fix));
            return;
        };
        if let Some((api_version, kind)) = list {
            map.entry("apiVersion").or_insert_with(|| api_version.into());
            map.entry("kind").or_insert_with(|| kind.into());
        }
        let text = |map: &Map<String, Value>, key: &str| map.get(key).and_then(Value::as_str).map(str::to_owned);
        let (Some(api_version), Some(kind)) = (text(&map, "apiVersion"), text(&map, "kind")) else {
            let missing = if text(&map, "kind").is_some() {
                "apiVersion"
            } else {
                "kind"
            };
            let fix = "every object needs apiVersion and kind, as text";
            self.problems
                .push(place.problem(format!("an object without {missing}"), fix));
            return;
        };
        if kind.ends_with("List") && map.get("items").is_some_and(Value::is_array) {
            self.add_items(
                map,
                &lines,
                &place,
                &api_version,
                kind.strip_suffix("List").unwrap_or_default(),
            );
            return;
        }
        let metadata = map.get("metadata").and_then(Value::as_object);
        let metadata = |key: &str| metadata.and_then(|metadata| metadata.get(key)).and_then(Value::as_str);
        self.objects.push(Object {
            namespace: metadata("namespace")
                .filter(|namespace| !namespace.is_empty())
                .map(str::to_owned),
            name: metadata("name").unwrap_or_default().to_owned(),
            api_version,
            kind,
            value: Value::Object(map),
            place,
            lines: Arc::new(lines),
        });
    }

    fn add_items(&mut self, mut map: Map<String, Value>, lines: &Lines, place: &Place, api_version: &str, kind: &str) {
        let items = match map.remove("items") {
            Some(Value::Array(items)) => items,
            _ => return,
        };
        let lines = lines.child("items");
        for (index, item) in items.into_iter().enumerate() {
            let lines = lines
                .and_then(|lines| lines.item(index))
                .cloned()
                .unwrap_or(Lines::Leaf(place.line));
            let tree = Tree::join(item, lines);
            self.add_tree(
                tree,
                place.clone(),
                Some((api_version, kind)).filter(|(_, kind)| !kind.is_empty()),
            );
        }
    }
}

impl Object {
    /// An object that was not read from a file (from an API server).
    #[must_use]
    pub fn from_value(source: &str, value: Value) -> Option<Self> {
        let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        let metadata = |key: &str| {
            value
                .get("metadata")
                .and_then(|metadata| metadata.get(key))
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        Some(Self {
            api_version: text("apiVersion")?,
            kind: text("kind")?,
            namespace: metadata("namespace"),
            name: metadata("name").unwrap_or_default(),
            place: Place {
                file: source.into(),
                document: 1,
                line: 0,
            },
            lines: Arc::new(Lines::Leaf(0)),
            value,
        })
    }

    /// The API group: what stands before the slash of `apiVersion`; empty for the core group.
    #[must_use]
    pub fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    /// Its namespace; `default` if none is given.
    #[must_use]
    pub fn namespace_or_default(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }

    /// A problem in this object at a path such as `spec.rules[0].from`.
    #[must_use]
    pub fn problem(
        &self,
        severity: Severity,
        path: &str,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) -> Problem {
        Problem {
            severity,
            file: Arc::clone(&self.place.file),
            document: self.place.document,
            line: self.line_of(path),
            object: Some(format!("{} {}/{}", self.kind, self.namespace_or_default(), self.name)),
            path: path.to_owned(),
            message: message.into(),
            fix: fix.into(),
        }
    }

    /// The line of the node at the path, or of the nearest one above it.
    #[must_use]
    pub fn line_of(&self, path: &str) -> usize {
        let mut lines = &*self.lines;
        for step in path.split(['.', '[']) {
            let next = match step.strip_suffix(']') {
                Some(index) => index.parse().ok().and_then(|index| lines.item(index)),
                None => lines.child(step),
            };
            match next {
                Some(next) => lines = next,
                None => break,
            }
        }
        lines.line()
    }
}

impl Place {
    fn problem(&self, message: String, fix: impl Into<String>) -> Problem {
        Problem {
            severity: Severity::Error,
            file: Arc::clone(&self.file),
            document: self.document,
            line: self.line,
            object: None,
            path: String::new(),
            message,
            fix: fix.into(),
        }
    }
}

impl Lines {
    fn line(&self) -> usize {
        match self {
            Self::Leaf(line) | Self::List(line, _) | Self::Map(line, _) => *line,
        }
    }

    fn child(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(_, children) => children.get(key),
            Self::Leaf(_) | Self::List(..) => None,
        }
    }

    fn item(&self, index: usize) -> Option<&Self> {
        match self {
            Self::List(_, items) => items.get(index),
            Self::Leaf(_) | Self::Map(..) => None,
        }
    }
}

/// Cuts a text at its document markers, as kubectl does; each part with the number of lines before it.
fn documents(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut starts = vec![(0, 0)];
    let mut offset = 0;
    for (line, content) in text.split_inclusive('\n').enumerate() {
        let marker = content
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if marker && offset > 0 {
            starts.push((line, offset));
        }
        offset += content.len();
    }
    let ends: Vec<usize> = starts
        .iter()
        .skip(1)
        .map(|(_, start)| *start)
        .chain([text.len()])
        .collect();
    starts
        .into_iter()
        .zip(ends)
        .map(move |((line, start), end)| (line, text.get(start..end).unwrap_or_default()))
}

#[cfg(test)]
mod tests;
