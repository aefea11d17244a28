//! What `squire install` renders and `squire uninstall` takes away: every object of an installation, from one set of values.
//! The same values always give the same text. It applies nothing by itself.

pub mod check;
mod control;
mod crds;
mod injector;
mod network;
mod object;
mod rbac;
pub mod values;

use serde_json::{Value, json};
use squire_mesh::ports;

pub use values::{Values, ValuesError};

/// Every object, in the order in which it can be created.
#[must_use]
pub fn objects(values: &Values) -> Vec<Value> {
    let mut all = vec![namespace()];
    if values.crds {
        all.extend(crds::all());
    }
    all.extend(rbac::all());
    all.extend(network::all(values));
    all.extend(control::all(values));
    all.extend(injector::all(values));
    // Last: from then on pods of meshed namespaces need the injector.
    all.push(injector::webhook());
    all
}

/// The same, the other way round: first the webhook, so that nothing waits for an injector that is gone. Objects of kinds that
/// users made are left alone with `keep_crds`.
#[must_use]
pub fn removal(values: &Values, keep_crds: bool) -> Vec<Value> {
    let reduced = |object: Value| {
        let mut metadata = json!({"name": object["metadata"]["name"]});
        if let Some(namespace) = object["metadata"].get("namespace") {
            metadata["namespace"] = namespace.clone();
        }
        json!({"apiVersion": object["apiVersion"], "kind": object["kind"], "metadata": metadata})
    };
    let kept = |object: &Value| keep_crds && object["kind"] == "CustomResourceDefinition";
    objects(values)
        .into_iter()
        .rev()
        .filter(|object| !kept(object))
        .map(reduced)
        .collect()
}

/// A stream of YAML documents.
#[must_use]
pub fn yaml(objects: &[Value]) -> String {
    objects.iter().fold(String::new(), |mut text, object| {
        text.push_str("---\n");
        // A JSON value can always be written as YAML.
        text.push_str(&serde_yaml_ng::to_string(object).unwrap_or_default());
        text
    })
}

/// Ours is the Pod Security Standard `restricted`, and pods here are nobody's to inject.
fn namespace() -> Value {
    let mut namespace = object::cluster("v1", "Namespace", ports::SYSTEM_NAMESPACE);
    for key in ["enforce", "warn", "audit"] {
        namespace["metadata"]["labels"][format!("pod-security.kubernetes.io/{key}")] = json!("restricted");
    }
    namespace
}

#[cfg(test)]
mod tests;
