//! What the admin decides for every sidecar: image, addresses, resources. Read from one YAML document, the same for the
//! webhook and for `squire inject`; every mistake in it is shown at once.

use serde::{Deserialize, Serialize};
use squire_mesh::spiffe::TrustDomain;

use crate::{annotations::SUBSCRIPTIONS, quantity::Quantity};

/// Settings of every sidecar, unless a pod's annotations say otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Image with `squire-proxy`.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`; none: what Kubernetes makes of the image's tag.
    pub image_pull_policy: Option<String>,
    /// The SPIFFE trust domain.
    pub trust_domain: String,
    /// host:port of the control plane.
    pub control: String,
    /// How long the token for the CA is valid, in seconds; the kubelet renews it at 80 %.
    pub token_expiration_seconds: i64,
    /// How long a sidecar may take to become ready before the kubelet starts it again, in seconds.
    pub startup_seconds: i32,
    /// What a sidecar may use.
    pub resources: Resources,
    /// Level or filter of its log.
    pub log_level: String,
    /// `text` or `json`.
    pub log_format: String,
    /// `stdout` or `off`.
    pub access_log: String,
    /// `passthrough` or `refuse`: connections to addresses the mesh does not know.
    pub unknown_destinations: String,
    /// `all` or `on-demand`: whether a sidecar is told of every workload, or of those that its connections need.
    pub subscription: String,
}

/// CPU and memory, as Kubernetes quantities; none: no request, no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Resources {
    /// CPU asked for.
    pub cpu_request: Option<String>,
    /// CPU at most.
    pub cpu_limit: Option<String>,
    /// Memory asked for.
    pub memory_request: Option<String>,
    /// Memory at most.
    pub memory_limit: Option<String>,
}

/// Everything that is wrong with settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct SettingsError(pub Vec<String>);

impl Default for Settings {
    fn default() -> Self {
        Self {
            image: concat!("squire-proxy:", env!("CARGO_PKG_VERSION")).to_owned(),
            image_pull_policy: None,
            trust_domain: "cluster.local".to_owned(),
            control: "squire-control.squire-system.svc:15012".to_owned(),
            token_expiration_seconds: 3600,
            startup_seconds: 300,
            resources: Resources {
                cpu_request: Some("10m".to_owned()),
                cpu_limit: None,
                memory_request: Some("32Mi".to_owned()),
                memory_limit: Some("256Mi".to_owned()),
            },
            log_level: "info".to_owned(),
            log_format: "json".to_owned(),
            access_log: "stdout".to_owned(),
            unknown_destinations: "passthrough".to_owned(),
            subscription: "all".to_owned(),
        }
    }
}

impl Settings {
    /// Everything that is wrong.
    ///
    /// # Errors
    /// One line for each mistake, with the key it is about.
    pub fn check(&self) -> Result<(), SettingsError> {
        let mut wrong = Vec::new();
        let mut must = |right: bool, what: String| {
            if !right {
                wrong.push(what);
            }
        };
        must(
            !self.image.trim().is_empty(),
            "image: is empty; name the image with squire-proxy".to_owned(),
        );
        let policy = self.image_pull_policy.as_deref();
        must(
            matches!(policy, None | Some("Always" | "IfNotPresent" | "Never")),
            format!("imagePullPolicy: {policy:?}; write Always, IfNotPresent or Never"),
        );
        if let Err(error) = self.trust_domain.parse::<TrustDomain>() {
            must(false, format!("trustDomain: {error}"));
        }
        let port = self
            .control
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse::<u16>().ok());
        must(
            port.is_some_and(|port| port > 0),
            format!("control: {:?}; write host:port", self.control),
        );
        must(
            (600..=86_400).contains(&self.token_expiration_seconds),
            "tokenExpirationSeconds: write 600 to 86400".to_owned(),
        );
        must(
            (10..=3600).contains(&self.startup_seconds),
            "startupSeconds: write 10 to 3600".to_owned(),
        );
        let one_of = |key: &str, value: &str, known: &[&str]| match known.contains(&value) {
            true => None,
            false => Some(format!("{key}: {value:?}; write {}", known.join(" or "))),
        };
        let choices = [
            one_of("logFormat", &self.log_format, &["text", "json"]),
            one_of("accessLog", &self.access_log, &["stdout", "off"]),
            one_of(
                "unknownDestinations",
                &self.unknown_destinations,
                &["passthrough", "refuse"],
            ),
            one_of("subscription", &self.subscription, SUBSCRIPTIONS),
        ];
        wrong.extend(choices.into_iter().flatten());
        wrong.extend(
            crate::annotations::log_level(&self.log_level)
                .err()
                .map(|why| format!("logLevel: {why}")),
        );
        wrong.extend(self.resources.check("resources."));
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(SettingsError(wrong))
        }
    }
}

impl Resources {
    /// Quantities that are none, and requests above their limits; each named with what comes before it.
    pub(crate) fn check(&self, prefix: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut read = |key: &str, text: &Option<String>| {
            let parsed = text.as_deref().map(str::parse::<Quantity>);
            match parsed {
                Some(Err(error)) => {
                    wrong.push(format!("{prefix}{key}: {error}"));
                    None
                }
                Some(Ok(quantity)) => Some(quantity),
                None => None,
            }
        };
        let cpu = (read("cpuRequest", &self.cpu_request), read("cpuLimit", &self.cpu_limit));
        let memory = (
            read("memoryRequest", &self.memory_request),
            read("memoryLimit", &self.memory_limit),
        );
        for (what, pair) in [("cpu", cpu), ("memory", memory)] {
            if let (Some(request), Some(limit)) = pair
                && request > limit
            {
                wrong.push(format!("{prefix}{what}: the request is above the limit"));
            }
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_right_and_every_mistake_is_shown_at_once() {
        assert_eq!(Settings::default().check(), Ok(()));
        let settings = Settings {
            image: String::new(),
            image_pull_policy: Some("always".into()),
            trust_domain: "Not A Domain".into(),
            control: "squire-control".into(),
            token_expiration_seconds: 60,
            startup_seconds: 1,
            log_level: "loud".into(),
            log_format: "xml".into(),
            access_log: "/dev/null".into(),
            unknown_destinations: "drop".into(),
            subscription: "some".into(),
            resources: Resources {
                cpu_request: Some("2".into()),
                cpu_limit: Some("500m".into()),
                memory_request: Some("lots".into()),
                memory_limit: None,
            },
        };
        let wrong = settings.check().unwrap_err();
        assert_eq!(wrong.0.len(), 13, "{wrong}");
    }
}
