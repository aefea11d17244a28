//! What an admin may choose about an installation: one YAML document, every mistake of which is shown at once.

use serde::{Deserialize, Serialize};
use squire_injector::{
    settings::{Resources, Settings},
    webhook::client_roots,
};

/// The values of one installation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Values {
    /// Image with `squire`, for control plane and injector.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`.
    pub image_pull_policy: String,
    /// Replicas of the control plane.
    pub control_replicas: u32,
    /// Replicas of the injector.
    pub injector_replicas: u32,
    /// What one replica of the control plane may use.
    pub control_resources: Resources,
    /// What one replica of the injector may use.
    pub injector_resources: Resources,
    /// Level of both logs.
    pub log_level: String,
    /// DNS suffix of Services.
    pub cluster_domain: String,
    /// Whether the policy kinds are defined: not where Istio has defined them already.
    pub crds: bool,
    /// Whether PodMonitors are written: where the Prometheus operator is.
    pub pod_monitor: bool,
    /// Roots (PEM) under which the webhook's callers have to stand, where API servers show a certificate; none: whoever the
    /// NetworkPolicies let reach it may ask.
    pub webhook_client_ca: Option<String>,
    /// What sidecars are like.
    pub sidecar: Settings,
}

/// Why values cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct ValuesError(pub Vec<String>);

impl Default for Values {
    fn default() -> Self {
        let resources = |cpu: &str, request: &str, limit: &str| Resources {
            cpu_request: Some(cpu.to_owned()),
            cpu_limit: None,
            memory_request: Some(request.to_owned()),
            memory_limit: Some(limit.to_owned()),
        };
        Self {
            image: concat!("squire:", env!("CARGO_PKG_VERSION")).to_owned(),
            image_pull_policy: "IfNotPresent".to_owned(),
            control_replicas: 2,
            injector_replicas: 2,
            control_resources: resources("100m", "128Mi", "1Gi"),
            injector_resources: resources("50m", "64Mi", "512Mi"),
            log_level: "info".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            crds: true,
            pod_monitor: false,
            webhook_client_ca: None,
            sidecar: Settings::default(),
        }
    }
}

impl Values {
    /// Reads values; what they do not say is as by default.
    ///
    /// # Errors
    /// When the text is no such document, or a value cannot be.
    pub fn from_yaml(text: &str) -> Result<Self, ValuesError> {
        let read: Option<Self> = serde_yaml_ng::from_str(text).map_err(|error| ValuesError(vec![error.to_string()]))?;
        let values = read.unwrap_or_default();
        values.check()?;
        Ok(values)
    }

    /// Everything that is wrong.
    ///
    /// # Errors
    /// One line for each mistake.
    pub fn check(&self) -> Result<(), ValuesError> {
        let mut wrong = Vec::new();
        if self.image.trim().is_empty() {
            wrong.push("image: is empty; name the image with squire".to_owned());
        }
        if !matches!(self.image_pull_policy.as_str(), "Always" | "IfNotPresent" | "Never") {
            wrong.push(format!(
                "imagePullPolicy: {:?}; write Always, IfNotPresent or Never",
                self.image_pull_policy
            ));
        }
        for (key, replicas) in [
            ("controlReplicas", self.control_replicas),
            ("injectorReplicas", self.injector_replicas),
        ] {
            if !(1..=50).contains(&replicas) {
                wrong.push(format!(
                    "{key}: {replicas}; write 1 to 50 (2 or more survive the loss of a node)"
                ));
            }
        }
        if let Some(pem) = &self.webhook_client_ca
            && let Err(error) = client_roots(pem.as_bytes())
        {
            wrong.push(format!(
                "webhookClientCa: {error}; write the PEM certificate of the CA that signed the API servers' certificates"
            ));
        }
        if let Err(error) = self.sidecar.check() {
            wrong.extend(error.0.into_iter().map(|what| format!("sidecar.{what}")));
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(ValuesError(wrong))
        }
    }
}

/// As Kubernetes writes it.
pub(crate) fn resources(resources: &Resources) -> serde_json::Value {
    let pair = |cpu: &Option<String>, memory: &Option<String>| {
        let both = [("cpu", cpu), ("memory", memory)];
        let given = both
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value.clone()?.into())));
        serde_json::Value::Object(given.collect())
    };
    serde_json::json!({
        "limits": pair(&resources.cpu_limit, &resources.memory_limit),
        "requests": pair(&resources.cpu_request, &resources.memory_request),
    })
}
