//! Reading an object's fields strictly, as an API server with the object's schema would: unknown fields, wrong types and
//! nulls in lists are errors with their path. It knows no policy.

use serde_json::{Map, Value};

use crate::manifest::{Object, Problem, Severity};

/// Problems of one object, gathered while it is read.
pub(crate) struct Report<'o> {
    object: &'o Object,
    problems: Vec<Problem>,
}

impl<'o> Report<'o> {
    pub(crate) fn new(object: &'o Object) -> Self {
        Self {
            object,
            problems: Vec::new(),
        }
    }

    pub(crate) fn error(&mut self, path: &str, message: impl Into<String>, fix: impl Into<String>) {
        self.problems
            .push(self.object.problem(Severity::Error, path, message, fix));
    }

    pub(crate) fn warn(&mut self, path: &str, message: impl Into<String>, fix: impl Into<String>) {
        self.problems
            .push(self.object.problem(Severity::Warning, path, message, fix));
    }

    /// The first error, as `path: message`.
    pub(crate) fn first_error(&self) -> Option<String> {
        let error = self
            .problems
            .iter()
            .find(|problem| problem.severity == Severity::Error)?;
        Some(if error.path.is_empty() {
            error.message.clone()
        } else {
            format!("{}: {}", error.path, error.message)
        })
    }

    /// How many errors there are by now.
    pub(crate) fn errors(&self) -> usize {
        self.of_severity_error().count()
    }

    /// The error with this number, as `path: message`.
    pub(crate) fn error_at(&self, index: usize) -> Option<String> {
        let error = self.of_severity_error().nth(index)?;
        Some(format!("{}: {}", error.path, error.message))
    }

    fn of_severity_error(&self) -> impl Iterator<Item = &Problem> {
        self.problems
            .iter()
            .filter(|problem| problem.severity == Severity::Error)
    }

    pub(crate) fn finish(self) -> Vec<Problem> {
        self.problems
    }

    /// `metadata` checked, and `spec`, if there is one, with only these fields.
    pub(crate) fn spec(&mut self, known: &[&str]) -> Fields<'o> {
        let object = self.object;
        let root = Node {
            value: &object.value,
            path: String::new(),
        };
        let root = root.fields(self, &["apiVersion", "kind", "metadata", "spec", "status"]);
        self.metadata(&root);
        match root.get("spec") {
            Some(spec) => spec.fields(self, known),
            None => Fields {
                map: None,
                path: "spec".to_owned(),
            },
        }
    }

    fn metadata(&mut self, root: &Fields<'o>) {
        const KNOWN: [&str; 15] = [
            "name",
            "namespace",
            "labels",
            "annotations",
            "creationTimestamp",
            "deletionTimestamp",
            "uid",
            "resourceVersion",
            "generation",
            "managedFields",
            "ownerReferences",
            "finalizers",
            "generateName",
            "selfLink",
            "deletionGracePeriodSeconds",
        ];
        let Some(metadata) = root.get("metadata") else {
            return self.error("metadata", "missing", "give the object a name");
        };
        let metadata = metadata.fields(self, &KNOWN);
        match metadata.get("name") {
            Some(name) => match name.text(self) {
                Some("") => self.error("metadata.name", "empty", "give the object a name"),
                Some(name) if !is_subdomain(name) => self.error(
                    "metadata.name",
                    format!("{name:?} is not a name"),
                    "lower-case letters, digits, '-' and '.', at most 253, a letter or digit at both ends",
                ),
                _ => {}
            },
            None => self.error("metadata.name", "missing", "give the object a name"),
        }
        let namespace = metadata.get("namespace").and_then(|namespace| namespace.text(self));
        if let Some(namespace) = namespace.filter(|text| !text.is_empty() && !is_label(text)) {
            self.error(
                "metadata.namespace",
                format!("{namespace:?} is not a namespace"),
                "lower-case letters, digits and '-', at most 63, a letter or digit at both ends",
            );
        }
        if let Some(created) = metadata.get("creationTimestamp") {
            created.text(self);
        }
        for key in ["labels", "annotations"] {
            for (_, value) in metadata.get(key).map(|map| map.entries(self)).unwrap_or_default() {
                value.text(self);
            }
        }
    }

    /// An annotation of the object.
    pub(crate) fn annotation(&self, key: &str) -> Option<&'o str> {
        self.object
            .value
            .get("metadata")?
            .get("annotations")?
            .get(key)?
            .as_str()
    }

    /// A text of the object's metadata.
    pub(crate) fn metadata_text(&self, key: &str) -> Option<&'o str> {
        self.object.value.get("metadata")?.get(key)?.as_str()
    }
}

/// A value with the path that leads to it.
#[derive(Clone)]
pub(crate) struct Node<'v> {
    pub(crate) value: &'v Value,
    pub(crate) path: String,
}

impl<'v> Node<'v> {
    /// The fields of a mapping; anything else is an error, and so is a field that is not known.
    pub(crate) fn fields(&self, report: &mut Report<'_>, known: &[&str]) -> Fields<'v> {
        let fields = self.open(report);
        for key in fields
            .map
            .into_iter()
            .flat_map(Map::keys)
            .filter(|key| !known.contains(&key.as_str()))
        {
            let path = join(&self.path, key);
            let fix = match nearest(key, known) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("known fields: {}", known.join(", ")),
            };
            report.error(&path, format!("unknown field {key:?}"), fix);
        }
        fields
    }

    /// The fields of a mapping, whatever they are called.
    pub(crate) fn open(&self, report: &mut Report<'_>) -> Fields<'v> {
        let map = self.value.as_object();
        if map.is_none() && !self.value.is_null() {
            report.error(
                &self.path,
                format!("must be a mapping, not {}", type_of(self.value)),
                "write field: value pairs",
            );
        }
        Fields {
            map,
            path: self.path.clone(),
        }
    }

    /// Key and value pairs of a mapping whose keys are free.
    pub(crate) fn entries(&self, report: &mut Report<'_>) -> Vec<(&'v str, Node<'v>)> {
        let fields = self.open(report);
        let entry = |(key, value): (&'v String, &'v Value)| {
            (
                key.as_str(),
                Node {
                    value,
                    path: join(&self.path, key),
                },
            )
        };
        fields.map.into_iter().flatten().map(entry).collect()
    }

    /// The elements of a list; anything else is an error, and so is a null element.
    pub(crate) fn list(&self, report: &mut Report<'_>) -> Vec<Node<'v>> {
        let Some(items) = self.value.as_array() else {
            if !self.value.is_null() {
                report.error(
                    &self.path,
                    format!("must be a list, not {}", type_of(self.value)),
                    "write - before each element",
                );
            }
            return Vec::new();
        };
        let mut nodes = Vec::with_capacity(items.len());
        for (index, value) in items.iter().enumerate() {
            let path = format!("{}[{index}]", self.path);
            if value.is_null() {
                report.error(
                    &path,
                    "must not be empty",
                    "remove it, or write {} for a rule that matches everything",
                );
            } else {
                nodes.push(Node { value, path });
            }
        }
        nodes
    }

    /// Text; anything else is an error.
    pub(crate) fn text(&self, report: &mut Report<'_>) -> Option<&'v str> {
        let text = self.value.as_str();
        if text.is_none() {
            report.error(
                &self.path,
                format!("must be text, not {}", type_of(self.value)),
                format!("quote it: \"{}\"", self.value),
            );
        }
        text
    }

    /// True or false; anything else is an error.
    pub(crate) fn boolean(&self, report: &mut Report<'_>) -> Option<bool> {
        let value = self.value.as_bool();
        if value.is_none() {
            report.error(
                &self.path,
                format!("must be true or false, not {}", type_of(self.value)),
                "write true or false",
            );
        }
        value
    }
}

/// The fields of a mapping that were checked to be known.
#[derive(Clone)]
pub(crate) struct Fields<'v> {
    map: Option<&'v Map<String, Value>>,
    pub(crate) path: String,
}

impl<'v> Fields<'v> {
    /// The field, unless it is missing or null.
    pub(crate) fn get(&self, key: &str) -> Option<Node<'v>> {
        let value = self.map?.get(key).filter(|value| !value.is_null())?;
        Some(Node {
            value,
            path: join(&self.path, key),
        })
    }

    /// Whether no field has a value (an empty list or mapping counts as none).
    pub(crate) fn is_empty(&self) -> bool {
        self.map.is_none_or(|map| map.values().all(is_empty))
    }

    /// The texts of a list field; empty ones are errors.
    pub(crate) fn texts(&self, key: &str, report: &mut Report<'_>) -> Vec<(Node<'v>, &'v str)> {
        let Some(list) = self.get(key) else { return Vec::new() };
        let mut texts = Vec::new();
        for node in list.list(report) {
            match node.text(report) {
                Some("") => report.error(&node.path, "must not be empty", "remove it, or write *"),
                Some(text) => texts.push((node, text)),
                None => {}
            }
        }
        texts
    }

    /// A text field.
    pub(crate) fn text(&self, key: &str, report: &mut Report<'_>) -> Option<&'v str> {
        self.get(key)?.text(report)
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// A DNS subdomain (RFC 1123), which Kubernetes takes for the name of an object.
fn is_subdomain(text: &str) -> bool {
    let part = |part: &str| {
        let bytes = part.as_bytes();
        let end = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
        end(bytes.first()) && end(bytes.last()) && bytes.iter().all(inner)
    };
    text.len() <= 253 && text.split('.').all(part)
}

/// A DNS label (RFC 1123), which Kubernetes takes for the name of a namespace.
pub(crate) fn is_label(text: &str) -> bool {
    text.len() <= 63 && !text.contains('.') && is_subdomain(text)
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

/// The known name that is most like this one, if any is like it at all.
fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let simple = |text: &str| text.to_ascii_lowercase().trim_end_matches('s').replace(['_', '-'], "");
    known
        .iter()
        .copied()
        .find(|name| simple(name) == simple(key))
        .or_else(|| {
            known.iter().copied().find(|name| {
                let (a, b) = (simple(name), simple(key));
                a.len() > 3 && b.len() > 3 && (a.starts_with(&b) || b.starts_with(&a))
            })
        })
}
