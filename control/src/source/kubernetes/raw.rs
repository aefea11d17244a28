//! An object as the API server sends it, without what the mesh has no use for.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, api::ApiResource, core::DynamicResourceScope};
use serde::{Deserialize, Deserializer, de::Error};
use serde_json::Value;

/// An object of any kind.
#[derive(Clone, Debug)]
pub(super) struct Raw {
    /// What tells objects and their versions apart; nothing else of the metadata.
    pub(super) meta: ObjectMeta,
    /// All of it but `metadata.managedFields`.
    pub(super) value: Value,
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
        let metadata = metadata.ok_or_else(|| D::Error::missing_field("metadata"))?;
        metadata.remove("managedFields");
        let text = |key: &str| metadata.get(key).and_then(Value::as_str).map(str::to_owned);
        let meta = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            uid: text("uid"),
            resource_version: text("resourceVersion"),
            generation: metadata.get("generation").and_then(Value::as_i64),
            ..ObjectMeta::default()
        };
        Ok(Self { meta, value })
    }
}

impl Raw {
    /// Says what it is: items of a list do not say it themselves.
    pub(super) fn typed(mut self, resource: &ApiResource) -> Self {
        if let Some(map) = self.value.as_object_mut() {
            map.entry("apiVersion")
                .or_insert_with(|| resource.api_version.clone().into());
            map.entry("kind").or_insert_with(|| resource.kind.clone().into());
        }
        self
    }
}

impl Resource for Raw {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn api_version(resource: &ApiResource) -> Cow<'_, str> {
        resource.api_version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}
