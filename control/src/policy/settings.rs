//! The mesh settings that policies depend on: from a `squire.mesh/v1 MeshConfig` document, from the `istio` ConfigMap that
//! Istio users have (its `data.mesh`), or from the `mesh` field of an evaluator line. It reads no file.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;
use squire_mesh::{
    policy::{PathNormalization, Provider},
    spiffe::TrustDomain,
};

use super::{
    providers,
    report::{Fields, Node, Report, is_label},
};
use crate::{
    federation,
    manifest::{Manifest, Object, Problem, Severity},
};

/// Settings of the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshConfig {
    /// The namespace whose policies hold for the whole mesh.
    pub root_namespace: String,
    /// The local trust domain.
    pub trust_domain: String,
    /// Other names of it.
    pub trust_domain_aliases: Vec<String>,
    /// How request paths are normalised.
    pub path_normalization: PathNormalization,
    /// External authorization providers, by name.
    pub extension_providers: BTreeMap<String, Arc<Provider>>,
    /// Whether several CUSTOM providers may apply to one workload.
    pub multiple_custom_providers: bool,
}

impl Default for MeshConfig {
    fn default() -> Self {
        Self {
            root_namespace: "istio-system".to_owned(),
            trust_domain: "cluster.local".to_owned(),
            trust_domain_aliases: Vec::new(),
            path_normalization: PathNormalization::default(),
            extension_providers: BTreeMap::new(),
            multiple_custom_providers: false,
        }
    }
}

impl MeshConfig {
    /// The fields of our own form.
    pub(crate) const FIELDS: [&str; 7] = [
        "rootNamespace",
        "trustDomain",
        "trustDomainAliases",
        "pathNormalization",
        "extensionProviders",
        "multipleCustomProviders",
        "federation",
    ];

    /// Every name of the local trust domain.
    pub fn trust_domains(&self) -> impl Iterator<Item = &str> {
        let aliases = self
            .trust_domain_aliases
            .iter()
            .filter(|alias| **alias != self.trust_domain);
        std::iter::once(&self.trust_domain).chain(aliases).map(String::as_str)
    }

    /// The settings among these objects: a `MeshConfig` document, else the `istio` ConfigMap, else the defaults.
    #[must_use]
    pub fn from_objects<'o>(objects: impl IntoIterator<Item = &'o Object> + Clone) -> (Self, Vec<Problem>) {
        let own = objects.clone().into_iter().find(|object| is_own(object));
        let istio = || objects.into_iter().find(|object| is_istio(object));
        match (own, own.is_none().then(istio).flatten()) {
            (Some(object), _) => Self::from_own(object),
            (None, Some(object)) => Self::from_config_map(object),
            (None, None) => (Self::default(), Vec::new()),
        }
    }

    /// From the `mesh` field of an evaluator line.
    ///
    /// # Errors
    /// With the first problem, as a sentence.
    pub fn from_value(mesh: &Value) -> Result<Self, String> {
        let document = serde_json::json!({
            "apiVersion": "squire.mesh/v1", "kind": "MeshConfig", "metadata": {"name": "mesh"}, "spec": mesh,
        });
        let Some(object) = Object::from_value("mesh", document) else {
            return Err("mesh is not a mapping".to_owned());
        };
        let (config, problems) = Self::from_own(&object);
        match problems.iter().find(|problem| problem.severity == Severity::Error) {
            Some(problem) => Err(format!("mesh: {}: {}", problem.path, problem.message)),
            None => Ok(config),
        }
    }

    /// Whether an object holds mesh settings in our own form.
    #[must_use]
    pub(crate) fn is_own(object: &Object) -> bool {
        is_own(object)
    }

    /// Whether an object holds mesh settings, ours or Istio's.
    #[must_use]
    pub fn is_settings(object: &Object) -> bool {
        is_own(object) || is_istio(object)
    }

    fn from_own(object: &Object) -> (Self, Vec<Problem>) {
        let mut report = Report::new(object);
        let spec = report.spec(&Self::FIELDS);
        let mut config = Self::default();
        config.read_common(&spec, &mut report);
        if let Some(mode) = spec.text("pathNormalization", &mut report) {
            config.read_normalization(mode, &format!("{}.pathNormalization", spec.path), &mut report);
        }
        for (name, node) in spec
            .get("extensionProviders")
            .map(|map| map.entries(&mut report))
            .unwrap_or_default()
        {
            if let Some(provider) = providers::own(name, &node, &mut report) {
                config.extension_providers.insert(name.to_owned(), Arc::new(provider));
            }
        }
        if let Some(node) = spec.get("multipleCustomProviders") {
            config.multiple_custom_providers = node.boolean(&mut report).unwrap_or(false);
        }
        if let Some(node) = spec.get("federation") {
            // Only checked here: whom to trust is no part of policy.
            federation::read(&node, &mut report);
        }
        (config, report.finish())
    }

    /// Istio's own settings: many fields, of which only some concern policy.
    fn from_config_map(object: &Object) -> (Self, Vec<Problem>) {
        let text = object
            .value
            .get("data")
            .and_then(|data| data.get("mesh"))
            .and_then(Value::as_str)
            .unwrap_or("{}");
        // The text becomes a document of its own, so that its fields are read with the same care.
        let indented: String = text.lines().map(|line| format!("  {line}\n")).collect();
        let wrapped = format!("apiVersion: v1\nkind: MeshConfig\nmetadata: {{name: mesh}}\nspec:\n{indented}");
        let inner = Manifest::parse(&object.place.file, &wrapped);
        let mut config = Self::default();
        let Some(mesh) = inner.objects.first() else {
            let message = inner
                .problems
                .first()
                .map_or("not readable", |problem| problem.message.as_str());
            return (
                config,
                vec![object.problem(
                    Severity::Error,
                    "data.mesh",
                    message,
                    "write Istio's MeshConfig as YAML",
                )],
            );
        };
        let mut report = Report::new(object);
        let spec = Node {
            value: mesh.value.get("spec").unwrap_or(&Value::Null),
            path: "data.mesh".to_owned(),
        };
        let spec = spec.open(&mut report);
        config.read_common(&spec, &mut report);
        if let Some(mode) = spec
            .get("pathNormalization")
            .and_then(|node| node.open(&mut report).text("normalization", &mut report))
        {
            let mode = if mode == "DEFAULT" { "BASE" } else { mode };
            config.read_normalization(mode, "data.mesh.pathNormalization.normalization", &mut report);
        }
        for node in spec
            .get("extensionProviders")
            .map(|list| list.list(&mut report))
            .unwrap_or_default()
        {
            if let Some(provider) = providers::istio(&node, &mut report) {
                config
                    .extension_providers
                    .insert(provider.name.to_string(), Arc::new(provider));
            }
        }
        (config, report.finish())
    }

    fn read_common(&mut self, spec: &Fields<'_>, report: &mut Report<'_>) {
        let text = |key: &str, report: &mut Report<'_>| spec.text(key, report).filter(|text| !text.is_empty());
        if let Some(namespace) = text("rootNamespace", report) {
            if !is_label(namespace) {
                let message = format!("{namespace:?} is not a namespace");
                report.error(&format!("{}.rootNamespace", spec.path), message, "name a namespace");
            }
            self.root_namespace = namespace.to_owned();
        }
        if let Some(domain) = text("trustDomain", report) {
            self.trust_domain = domain.to_ascii_lowercase();
            if let Err(error) = self.trust_domain.parse::<TrustDomain>() {
                let path = format!("{}.trustDomain", spec.path);
                report.error(&path, error.to_string(), "write a name such as cluster.local");
            }
        }
        let aliases = spec.texts("trustDomainAliases", report);
        self.trust_domain_aliases = aliases
            .into_iter()
            .map(|(_, alias)| alias.to_ascii_lowercase())
            .collect();
    }

    fn read_normalization(&mut self, mode: &str, path: &str, report: &mut Report<'_>) {
        match mode.parse() {
            Ok(mode) => self.path_normalization = mode,
            Err(error) => {
                let message = format!("{error}");
                report.error(
                    path,
                    message,
                    "use NONE, BASE, MERGE_SLASHES or DECODE_AND_MERGE_SLASHES",
                );
            }
        }
    }
}

fn is_own(object: &Object) -> bool {
    object.api_version == "squire.mesh/v1" && object.kind == "MeshConfig"
}

fn is_istio(object: &Object) -> bool {
    let has_mesh = object.value.get("data").is_some_and(|data| data.get("mesh").is_some());
    object.api_version == "v1" && object.kind == "ConfigMap" && object.name == "istio" && has_mesh
}
