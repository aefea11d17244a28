//! A JSON patch, written operation by operation, so that nothing is touched that need not be: fields that this program does
//! not know stay as they are.

use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation, jsonptr::PointerBuf};
use serde_json::Value;

/// Operations in the order in which they are applied.
#[derive(Debug, Default)]
pub(crate) struct Edits(Vec<PatchOperation>);

impl Edits {
    /// Adds a value, or inserts it into a list before this index.
    pub(crate) fn add(&mut self, path: &[&str], value: Value) {
        let path = pointer(path);
        self.0.push(PatchOperation::Add(AddOperation { path, value }));
    }

    /// Puts a value in the place of another.
    pub(crate) fn replace(&mut self, path: &[&str], value: Value) {
        let path = pointer(path);
        self.0.push(PatchOperation::Replace(ReplaceOperation { path, value }));
    }

    /// Takes a value away.
    pub(crate) fn remove(&mut self, path: &[&str]) {
        let path = pointer(path);
        self.0.push(PatchOperation::Remove(RemoveOperation { path }));
    }

    /// The patch.
    pub(crate) fn into_patch(self) -> Patch {
        Patch(self.0)
    }
}

fn pointer(path: &[&str]) -> PointerBuf {
    PointerBuf::from_tokens(path.iter().copied())
}

/// Whether everything that is wanted is there; what is there beside it (defaults that the API server has filled in, mounts
/// that it has added) does not matter.
pub(crate) fn covers(there: &Value, wanted: &Value) -> bool {
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, wanted)| there.get(key).is_some_and(|there| covers(there, wanted))),
        (Value::Array(there), Value::Array(wanted)) => {
            there.len() >= wanted.len() && there.iter().zip(wanted).all(|(there, wanted)| covers(there, wanted))
        }
        _ => there == wanted,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_api_server_adds_does_not_matter_and_what_it_lacks_does() {
        let wanted = json!({"name": "a", "env": [{"name": "X", "value": "1"}]});
        for (there, expected) in [
            (
                json!({"name": "a", "env": [{"name": "X", "value": "1"}], "policy": "Always"}),
                true,
            ),
            (
                json!({"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y"}]}),
                true,
            ),
            (json!({"name": "a", "env": [{"name": "X", "value": "2"}]}), false),
            (json!({"name": "a", "env": []}), false),
            (json!({"name": "a"}), false),
        ] {
            assert_eq!(covers(&there, &wanted), expected, "{there}");
        }
    }

    #[test]
    fn keys_with_slashes_are_one_key() {
        let mut edits = Edits::default();
        edits.add(&["metadata", "annotations", "squire.mesh/x~y"], json!("1"));
        let mut document = json!({"metadata": {"annotations": {}}});
        json_patch::patch(&mut document, &edits.into_patch()).unwrap();
        assert_eq!(document, json!({"metadata": {"annotations": {"squire.mesh/x~y": "1"}}}));
    }
}
