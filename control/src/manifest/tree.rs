//! One YAML document as a tree that knows the line of every node. Duplicate keys, unknown tags, deep nesting and aliases
//! that multiply are refused; merge keys (`<<`) work. It knows nothing of Kubernetes.

use std::collections::{BTreeMap, HashMap};

use granit_parser::{Event, Options, Parser, ScalarStyle, Span, Tag};
use serde_json::{Map, Value};

use super::{Lines, scalar};

/// Nesting beyond this is refused (Kubernetes objects stay below 30).
const MAX_DEPTH: usize = 100;
/// Nodes of one document, aliases counted as often as they are used.
const MAX_NODES: usize = 4_000_000;

/// A node with its line.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    pub(super) line: usize,
    data: Data,
}

#[derive(Debug, Clone)]
enum Data {
    Scalar(Value),
    List(Vec<Tree>),
    Map(Vec<(String, Tree)>),
}

/// Why a document cannot be read.
#[derive(Debug)]
pub(super) struct TreeError {
    pub(super) line: usize,
    pub(super) message: String,
    pub(super) fix: &'static str,
}

impl Tree {
    /// The value, and the lines of its nodes beside it.
    pub(super) fn split(self) -> (Value, Lines) {
        match self.data {
            Data::Scalar(value) => (value, Lines::Leaf(self.line)),
            Data::List(items) => {
                let (values, lines) = items.into_iter().map(Self::split).unzip();
                (Value::Array(values), Lines::List(self.line, lines))
            }
            Data::Map(entries) => {
                let mut values = Map::new();
                let mut lines = BTreeMap::new();
                for (key, tree) in entries {
                    let (value, line) = tree.split();
                    lines.insert(key.as_str().into(), line);
                    values.insert(key, value);
                }
                (Value::Object(values), Lines::Map(self.line, lines))
            }
        }
    }

    /// The reverse of [`Tree::split`].
    pub(super) fn join(value: Value, lines: Lines) -> Self {
        let line = lines.line();
        let data = match value {
            Value::Array(items) => {
                let mut of_items = if let Lines::List(_, lines) = lines {
                    lines
                } else {
                    Vec::new()
                }
                .into_iter();
                let mut item = |value| Self::join(value, of_items.next().unwrap_or(Lines::Leaf(line)));
                Data::List(items.into_iter().map(&mut item).collect())
            }
            Value::Object(map) => {
                let mut of_keys = if let Lines::Map(_, lines) = lines {
                    lines
                } else {
                    BTreeMap::new()
                };
                let entry = |(key, value): (String, Value)| {
                    let lines = of_keys.remove(key.as_str()).unwrap_or(Lines::Leaf(line));
                    (key, Self::join(value, lines))
                };
                Data::Map(map.into_iter().map(entry).collect())
            }
            scalar => Data::Scalar(scalar),
        };
        Self { line, data }
    }

    fn size(&self) -> usize {
        1 + match &self.data {
            Data::Scalar(_) => 0,
            Data::List(items) => items.iter().map(Self::size).sum(),
            Data::Map(entries) => entries.iter().map(|(_, tree)| tree.size()).sum(),
        }
    }
}

/// Reads one document; `None` if it holds nothing but comments. `line_offset` lines stand before it in its file.
pub(super) fn parse(text: &str, line_offset: usize) -> Result<Option<Tree>, TreeError> {
    let mut options = Options::default();
    options.flow_nesting_limit = MAX_DEPTH;
    options.block_nesting_limit = MAX_DEPTH;
    // Another crate of the build may have switched comments on in the parser: here they say nothing.
    options.emit_comments = false;
    let parser = Parser::new_from_str_with_options(text, options);
    let mut reader = Reader {
        parser,
        line_offset,
        anchors: HashMap::new(),
        nodes: 0,
    };
    let mut document = None;
    while let Some((event, span)) = reader.next()? {
        match event {
            Event::StreamEnd => break,
            Event::DocumentStart(..) if document.is_some() => {
                return Err(reader.error(
                    span,
                    "a second document without --- before it".to_owned(),
                    "put --- between documents",
                ));
            }
            Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
            first => document = Some(reader.node(first, span, 0)?),
        }
    }
    let empty = |tree: &Tree| matches!(tree.data, Data::Scalar(Value::Null));
    Ok(document.filter(|tree| !empty(tree)))
}

struct Reader<'t> {
    parser: Parser<'t, granit_parser::StrInput<'t>>,
    line_offset: usize,
    anchors: HashMap<usize, (Tree, usize)>,
    nodes: usize,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<Option<(Event<'t>, Span)>, TreeError> {
        match self.parser.next() {
            None => Ok(None),
            Some(Ok(event)) => Ok(Some(event)),
            Some(Err(error)) => Err(TreeError {
                line: error.marker().line() + self.line_offset,
                message: format!("not valid YAML: {}", error.info()),
                fix: "check indentation, quotes and brackets near this line",
            }),
        }
    }

    fn must_next(&mut self) -> Result<(Event<'t>, Span), TreeError> {
        let end = TreeError {
            line: self.line_offset + 1,
            message: "the document ends too early".to_owned(),
            fix: "",
        };
        self.next()?.ok_or(end)
    }

    fn error(&self, span: Span, message: String, fix: &'static str) -> TreeError {
        TreeError {
            line: span.start.line() + self.line_offset,
            message,
            fix,
        }
    }

    /// The node that begins with `event`. The depth is bounded, so the recursion is.
    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Tree, TreeError> {
        if depth > MAX_DEPTH {
            return Err(self.error(span, format!("nested more than {MAX_DEPTH} levels deep"), "flatten it"));
        }
        self.count(1, span)?;
        let line = span.start.line() + self.line_offset;
        let (anchor, data) = match event {
            Event::Alias(id) => return self.alias(id, span),
            Event::Scalar(text, style, anchor, tag) => {
                (anchor, Data::Scalar(self.scalar(&text, style, tag.as_deref(), span)?))
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.check_collection_tag(tag.as_deref(), "seq", span)?;
                (anchor, Data::List(self.list(depth)?))
            }
            Event::MappingStart(_, anchor, tag) => {
                self.check_collection_tag(tag.as_deref(), "map", span)?;
                (anchor, Data::Map(self.map(depth)?))
            }
            _ => return Err(self.error(span, "not valid YAML here".to_owned(), "")),
        };
        let tree = Tree { line, data };
        if anchor > 0 {
            let size = tree.size();
            self.count(size, span)?;
            self.anchors.insert(anchor, (tree.clone(), size));
        }
        Ok(tree)
    }

    fn count(&mut self, nodes: usize, span: Span) -> Result<(), TreeError> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            return Err(self.error(
                span,
                format!("more than {MAX_NODES} nodes in one document"),
                "split it, or use fewer aliases",
            ));
        }
        Ok(())
    }

    fn alias(&mut self, id: usize, span: Span) -> Result<Tree, TreeError> {
        let Some((tree, size)) = self.anchors.get(&id).cloned() else {
            return Err(self.error(
                span,
                "an alias to an anchor that is not complete yet".to_owned(),
                "define the anchor first",
            ));
        };
        self.count(size, span)?;
        Ok(tree)
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Tree>, TreeError> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.must_next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(items);
            }
            items.push(self.node(event, span, depth + 1)?);
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<(String, Tree)>, TreeError> {
        let mut entries: Vec<(String, Tree)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        let mut merges = Vec::new();
        loop {
            let (event, span) = self.must_next()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<");
            let key = self.node(event, span, depth + 1)?;
            let (value_event, value_span) = self.must_next()?;
            let mut value = self.node(value_event, value_span, depth + 1)?;
            if merge {
                merges.push((value, span));
                continue;
            }
            let Some(key) = key_text(&key) else {
                return Err(self.error(span, "a key that is a list or a mapping".to_owned(), "use text as keys"));
            };
            if !seen.insert(key.clone()) {
                return Err(self.error(span, format!("key {key:?} appears twice"), "remove one of them"));
            }
            // People look for the key, not for the line its value begins on.
            value.line = span.start.line() + self.line_offset;
            entries.push((key, value));
        }
        for (source, span) in merges {
            self.merge(source, span, &mut entries, &mut seen)?;
        }
        Ok(entries)
    }

    /// `<<: *anchor` or `<<: [*one, *two]`: keys that are there already stay.
    fn merge(
        &mut self,
        source: Tree,
        span: Span,
        entries: &mut Vec<(String, Tree)>,
        seen: &mut std::collections::HashSet<String>,
    ) -> Result<(), TreeError> {
        let sources = match source.data {
            Data::Map(map) => vec![map],
            Data::List(items) if items.iter().all(|item| matches!(item.data, Data::Map(_))) => items
                .into_iter()
                .filter_map(|item| {
                    if let Data::Map(map) = item.data {
                        Some(map)
                    } else {
                        None
                    }
                })
                .collect(),
            _ => {
                return Err(self.error(
                    span,
                    "<< needs a mapping or a list of mappings".to_owned(),
                    "merge a mapping",
                ));
            }
        };
        for (key, value) in sources.into_iter().flatten() {
            if seen.insert(key.clone()) {
                entries.push((key, value));
            }
        }
        Ok(())
    }

    fn scalar(&self, text: &str, style: ScalarStyle, tag: Option<&Tag>, span: Span) -> Result<Value, TreeError> {
        let plain =
            |text| scalar::plain(text).map_err(|message| self.error(span, message, "quote it if it is meant as text"));
        let Some(tag) = tag else {
            return if style == ScalarStyle::Plain {
                plain(text)
            } else {
                Ok(Value::String(text.to_owned()))
            };
        };
        let value = match tag
            .to_string()
            .trim_start_matches('!')
            .rsplit(':')
            .next()
            .unwrap_or_default()
        {
            "str" | "" => Ok(Value::String(text.to_owned())),
            "int" | "float" | "bool" | "null" => plain(text),
            _ => Err(self.error(span, format!("unsupported tag {tag}"), "remove the tag")),
        }?;
        Ok(value)
    }

    fn check_collection_tag(&self, tag: Option<&Tag>, expected: &str, span: Span) -> Result<(), TreeError> {
        match tag {
            Some(tag) if !tag.to_string().ends_with(expected) => {
                Err(self.error(span, format!("unsupported tag {tag}"), "remove the tag"))
            }
            _ => Ok(()),
        }
    }
}

/// Keys are text in JSON: numbers, booleans and null are written as such.
fn key_text(key: &Tree) -> Option<String> {
    match &key.data {
        Data::Scalar(Value::String(text)) => Some(text.clone()),
        Data::Scalar(value) => Some(value.to_string()),
        Data::List(_) | Data::Map(_) => None,
    }
}
