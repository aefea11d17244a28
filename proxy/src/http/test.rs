//! A request head for tests, as owned text.

use squire_mesh::policy;

use super::{Fields, RequestView, Version};

/// A request head.
pub(crate) struct Head {
    method: String,
    target: String,
    fields: Vec<(String, String)>,
}

impl Head {
    /// GET, without fields.
    pub(crate) fn get(target: &str) -> Self {
        Self {
            method: "GET".into(),
            target: target.into(),
            fields: Vec::new(),
        }
    }

    /// With another method.
    pub(crate) fn method(mut self, method: &str) -> Self {
        self.method = method.into();
        self
    }

    /// With one more field.
    pub(crate) fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.into(), value.into()));
        self
    }
}

impl policy::Headers for Head {
    fn visit(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) {
        self.fields.visit(name, visit);
    }
}

impl Fields for Head {
    fn each(&self, visit: &mut dyn FnMut(&str, &[u8])) {
        for (name, value) in &self.fields {
            visit(name, value.as_bytes());
        }
    }
}

/// Its view.
pub(crate) fn view(head: &Head) -> RequestView<'_> {
    RequestView {
        method: &head.method,
        target: Some(&head.target),
        authority: "app.shop",
        version: Version::Http11,
        fields: head,
    }
}
