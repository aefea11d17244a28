//! What the mesh needs to know of each Kubernetes object, and nothing more: a Pod of several kilobytes becomes a few
//! hundred bytes. Parsing happens once, when the object is read; whatever cannot be understood is an error that names
//! the field. No file, no API server, no policy semantics here.

mod endpoints;
mod entry;
mod names;
mod node;
mod pod;
mod service;

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use mesh::workload::Interner;
use serde::de::DeserializeOwned;
use serde_json::Value;
use squire_mesh as mesh;

pub use endpoints::{EndpointFact, SliceFact, SlicePort};
pub use entry::EntryFact;
pub use node::NodeFact;
pub use pod::PodFact;
pub use service::{ServiceFact, ServicePortFact, Target};

/// Namespace and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its namespace; empty for cluster-scoped objects.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// Labels of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceFact {
    /// Its name.
    pub name: Arc<str>,
    /// Its labels, `kubernetes.io/metadata.name` included.
    pub labels: mesh::workload::LabelSet,
}

/// One object, reduced to what the mesh needs.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// A Namespace.
    Namespace(NamespaceFact),
    /// A Pod.
    Pod(PodFact),
    /// A Service.
    Service(ServiceFact),
    /// An EndpointSlice.
    Slice(SliceFact),
    /// An Istio WorkloadEntry.
    Entry(EntryFact),
    /// A Node.
    Node(NodeFact),
}

impl Fact {
    /// Namespace and name of the object; the namespace is empty for a Namespace and a Node.
    pub fn key(&self) -> Key {
        match self {
            Self::Namespace(fact) => Key {
                namespace: "".into(),
                name: Arc::clone(&fact.name),
            },
            Self::Pod(fact) => fact.key.clone(),
            Self::Service(fact) => fact.key.clone(),
            Self::Slice(fact) => fact.key.clone(),
            Self::Entry(fact) => fact.key.clone(),
            Self::Node(fact) => Key {
                namespace: "".into(),
                name: Arc::clone(&fact.name),
            },
        }
    }
}

/// Why an object gives no fact.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FactError {
    /// The object has not the shape of its kind.
    #[error("not a valid {kind}: {why}")]
    Shape {
        /// The kind.
        kind: &'static str,
        /// What the parser said.
        why: String,
    },
    /// One field is wrong.
    #[error("{path}: {why}")]
    Field {
        /// Where in the object, such as `spec.ports[0].port`.
        path: String,
        /// What is wrong, and what to do.
        why: String,
    },
}

impl FactError {
    fn field(path: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Field {
            path: path.into(),
            why: why.into(),
        }
    }

    /// What is wrong, without the path.
    pub fn why(&self) -> String {
        match self {
            Self::Shape { .. } => self.to_string(),
            Self::Field { why, .. } => why.clone(),
        }
    }

    /// The path of the field at fault, where one is known.
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::Shape { .. } => None,
            Self::Field { path, .. } => Some(path),
        }
    }
}

/// Whether objects of this kind say something about workloads.
pub fn is_fact(api_version: &str, kind: &str) -> bool {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    matches!(
        (group, kind),
        ("", "Namespace" | "Pod" | "Service" | "Node")
            | ("discovery.k8s.io", "EndpointSlice")
            | ("networking.istio.io", "WorkloadEntry")
    )
}

/// Turns an object into a fact; `None` for kinds that say nothing about workloads (policies, ConfigMaps, …).
pub fn read(api_version: &str, kind: &str, value: Value, interner: &mut Interner) -> Result<Option<Fact>, FactError> {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    Ok(Some(match (group, kind) {
        ("", "Namespace") => Fact::Namespace(namespace(typed("Namespace", value)?, interner)?),
        ("", "Node") => Fact::Node(NodeFact::read(typed("Node", value)?, interner)?),
        ("", "Pod") => Fact::Pod(PodFact::read(typed("Pod", value)?, interner)?),
        ("", "Service") => Fact::Service(ServiceFact::read(typed("Service", value)?, interner)?),
        ("discovery.k8s.io", "EndpointSlice") => {
            Fact::Slice(SliceFact::read(typed("EndpointSlice", value)?, interner)?)
        }
        ("networking.istio.io", "WorkloadEntry") => {
            Fact::Entry(EntryFact::read(typed("WorkloadEntry", value)?, interner)?)
        }
        _ => return Ok(None),
    }))
}

fn typed<T: DeserializeOwned>(kind: &'static str, value: Value) -> Result<T, FactError> {
    serde_json::from_value(value).map_err(|error| FactError::Shape {
        kind,
        why: error.to_string(),
    })
}

fn namespace(
    namespace: k8s_openapi::api::core::v1::Namespace,
    interner: &mut Interner,
) -> Result<NamespaceFact, FactError> {
    let name = names::required("metadata.name", namespace.metadata.name.as_deref())?;
    Ok(namespace_with(
        name,
        namespace.metadata.labels.unwrap_or_default(),
        interner,
    ))
}

/// A namespace with these labels and the one that the API server adds to all.
pub fn namespace_with(name: &str, labels: BTreeMap<String, String>, interner: &mut Interner) -> NamespaceFact {
    let name = interner.text(name);
    let automatic = ("kubernetes.io/metadata.name".to_owned(), name.to_string());
    NamespaceFact {
        labels: interner.labels(labels.into_iter().chain([automatic])),
        name,
    }
}

/// Namespace and name of a namespaced object; the namespace is `default` where it is not given.
fn key(metadata: &ObjectMeta, interner: &mut Interner) -> Result<Key, FactError> {
    let name = names::required("metadata.name", metadata.name.as_deref())?;
    let namespace = metadata
        .namespace
        .as_deref()
        .filter(|text| !text.is_empty())
        .unwrap_or("default");
    names::label("metadata.namespace", namespace)?;
    Ok(Key {
        namespace: interner.text(namespace),
        name: interner.text(name),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_one(value: Value) -> Result<Option<Fact>, FactError> {
        let (api_version, kind) = (value["apiVersion"].to_string(), value["kind"].to_string());
        read(
            api_version.trim_matches('"'),
            kind.trim_matches('"'),
            value,
            &mut Interner::default(),
        )
    }

    #[test]
    fn a_namespace_always_carries_its_name_as_a_label() {
        let spoofed = json!({"kubernetes.io/metadata.name": "prod", "team": "a"});
        let value = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": spoofed}});
        let Ok(Some(Fact::Namespace(namespace))) = read_one(value) else {
            panic!("a namespace")
        };
        assert_eq!(namespace.labels.get("kubernetes.io/metadata.name"), Some("shop"));
        assert_eq!(namespace.labels.get("team"), Some("a"));
    }

    #[test]
    fn other_kinds_are_not_ours() {
        assert!(is_fact("v1", "Pod") && !is_fact("v1", "ConfigMap") && !is_fact("serving.knative.dev/v1", "Service"));
        let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}});
        assert_eq!(read_one(value), Ok(None));
        let knative = json!({"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": "x"}});
        assert_eq!(read_one(knative), Ok(None));
    }

    #[test]
    fn names_that_kubernetes_would_refuse_are_refused() {
        for name in ["", "Web", "a/b", "-web", "web_1"] {
            let value = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}});
            let error = read_one(value).expect_err(name);
            assert_eq!(error.path(), Some("metadata.name"), "{name:?}: {error}");
        }
    }
}
