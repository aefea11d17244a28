//! `admission.k8s.io/v1` AdmissionReview: a request's bytes in, an answer's bytes out. It knows no sockets; what it cannot
//! read it says so, and the API server then refuses the pod.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    inject::{Cluster, Decision, Verdict, decide},
    owner::Owner,
    settings::Settings,
};

const API_VERSION: &str = "admission.k8s.io/v1";
/// As many warnings, and as long, as the API server passes on.
const MAX_WARNINGS: usize = 20;
const MAX_WARNING: usize = 250;

/// Why bytes are no request that can be answered.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// Not JSON, or not of the shape.
    #[error("not an AdmissionReview: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Another version or kind.
    #[error("{api_version} {kind} is not answered here, only {API_VERSION} AdmissionReview")]
    Version {
        /// As it says.
        api_version: String,
        /// As it says.
        kind: String,
    },
    /// Not about the creation of a pod.
    #[error("{operation} of {resource} is not answered here, only CREATE of pods: check the webhook's rules")]
    NotOurs {
        /// As it says.
        operation: String,
        /// As it says.
        resource: String,
    },
}

/// An answer, and what it was.
#[derive(Debug)]
pub struct Answer {
    /// JSON.
    pub body: Vec<u8>,
    /// For metrics.
    pub result: Result,
    /// Who made the pod.
    pub owner: Owner,
    /// For the log: `namespace/name`, or what the name begins with.
    pub pod: String,
    /// Why it was denied or skipped.
    pub why: Option<String>,
    /// Nothing is to come of it.
    pub dry_run: bool,
}

/// What came of a review: a closed set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Result {
    /// A sidecar was put in.
    Injected,
    /// There was nothing to change.
    Unchanged,
    /// The pod stays as it is.
    Skipped,
    /// The pod must not be created.
    Denied,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    request: Request,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    resource: Resource,
    #[serde(default)]
    sub_resource: String,
    #[serde(default)]
    namespace: String,
    operation: String,
    object: Value,
    #[serde(default)]
    dry_run: Option<bool>,
}

#[derive(Deserialize)]
struct Resource {
    #[serde(default)]
    group: String,
    resource: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// Answers one review.
///
/// # Errors
/// When it is none, or not about a pod's creation.
pub fn answer(body: &[u8], cluster: &Cluster, settings: &Settings) -> std::result::Result<Answer, ReviewError> {
    let Review {
        api_version,
        kind,
        request,
    } = serde_json::from_slice(body)?;
    if api_version != API_VERSION || kind != "AdmissionReview" {
        return Err(ReviewError::Version { api_version, kind });
    }
    let core_pods = request.resource.group.is_empty() && request.resource.resource == "pods";
    if request.operation != "CREATE" || !core_pods || !request.sub_resource.is_empty() {
        return Err(ReviewError::NotOurs {
            operation: request.operation,
            resource: format!("{}/{}", request.resource.resource, request.sub_resource),
        });
    }
    let Request {
        uid,
        namespace,
        object,
        dry_run,
        ..
    } = request;
    let pod: Pod = serde_json::from_value(object)?;
    let owner = Owner::of(&pod.metadata);
    let decided = decide(&pod, owner, cluster, settings);
    let (response, result, why) = match decided {
        Ok(decision) => allowed(&uid, decision)?,
        Err(denial) => (
            denied(&uid, &denial.to_string()),
            Result::Denied,
            Some(denial.to_string()),
        ),
    };
    let name = pod.metadata.name.or(pod.metadata.generate_name).unwrap_or_default();
    let review = json!({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response});
    Ok(Answer {
        body: serde_json::to_vec(&review)?,
        result,
        owner,
        pod: format!("{namespace}/{name}"),
        why,
        dry_run: dry_run == Some(true),
    })
}

type Said<'a> = (Response<'a>, Result, Option<String>);

fn allowed(uid: &str, decision: Decision) -> serde_json::Result<Said<'_>> {
    let patch = match decision.patch.0.is_empty() {
        true => None,
        false => Some(STANDARD.encode(serde_json::to_vec(&decision.patch)?)),
    };
    let (result, why) = match decision.verdict {
        Verdict::Injected => (Result::Injected, None),
        Verdict::Unchanged => (Result::Unchanged, None),
        Verdict::Skipped(skip) => (Result::Skipped, Some(skip.to_string())),
    };
    let warnings = decision
        .warnings
        .into_iter()
        .take(MAX_WARNINGS)
        .map(shortened)
        .collect();
    let response = Response {
        uid,
        allowed: true,
        status: None,
        patch_type: patch.as_ref().map(|_| "JSONPatch"),
        patch,
        warnings,
    };
    Ok((response, result, why))
}

fn denied<'a>(uid: &'a str, why: &str) -> Response<'a> {
    Response {
        uid,
        allowed: false,
        status: Some(json!({"code": 400, "reason": "BadRequest", "message": why})),
        patch_type: None,
        patch: None,
        warnings: Vec::new(),
    }
}

fn shortened(mut warning: String) -> String {
    if warning.len() > MAX_WARNING {
        let end = (0..=MAX_WARNING - 3)
            .rev()
            .find(|end| warning.is_char_boundary(*end))
            .unwrap_or(0);
        warning.truncate(end);
        warning.push('…');
    }
    warning
}

impl Result {
    /// For metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::Unchanged => "unchanged",
            Self::Skipped => "skipped",
            Self::Denied => "denied",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn review(object: Value) -> Value {
        json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "u-1", "operation": "CREATE", "namespace": "shop", "dryRun": true,
                "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "resource": {"group": "", "version": "v1", "resource": "pods"},
                "object": object,
            },
        })
    }

    fn asked(review: &Value) -> std::result::Result<(Answer, Value), ReviewError> {
        let answer = answer(
            review.to_string().as_bytes(),
            &Cluster { minor: 34 },
            &Settings::default(),
        )?;
        let body = serde_json::from_slice(&answer.body).unwrap();
        Ok((answer, body))
    }

    #[test]
    fn a_pod_is_answered_with_a_patch_for_the_request_that_asked() {
        let pod = json!({"metadata": {"generateName": "web-"}, "spec": {"containers": [{"name": "web"}]}});
        let (answer, body) = asked(&review(pod.clone())).unwrap();
        assert_eq!(
            (answer.result, answer.pod.as_str(), answer.dry_run),
            (Result::Injected, "shop/web-", true)
        );
        let response = &body["response"];
        assert_eq!((&response["uid"], &response["allowed"]), (&json!("u-1"), &json!(true)));
        assert_eq!(response["patchType"], "JSONPatch");
        let patch = STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
        let mut patched = pod;
        let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
        json_patch::patch(&mut patched, &patch).unwrap();
        assert_eq!(patched["spec"]["initContainers"][1]["name"], "squire-proxy");
    }

    #[test]
    fn a_denial_says_why_and_a_skip_warns() {
        let pod =
            |annotations: Value, spec: Value| review(json!({"metadata": {"annotations": annotations}, "spec": spec}));
        let containers = json!([{"name": "web"}]);
        let (answer, body) = asked(&pod(
            json!({"squire.mesh/log-level": "loud"}),
            json!({"containers": containers}),
        ))
        .unwrap();
        assert_eq!(
            (answer.result, &body["response"]["allowed"]),
            (Result::Denied, &json!(false))
        );
        let message = body["response"]["status"]["message"].as_str().unwrap();
        assert!(
            message.contains("squire.mesh/log-level") && message.contains("loud"),
            "{message}"
        );
        let spec = json!({"containers": containers, "hostNetwork": true});
        let (answer, body) = asked(&pod(json!({}), spec)).unwrap();
        assert_eq!(answer.result, Result::Skipped);
        assert!(
            body["response"]["warnings"][0]
                .as_str()
                .unwrap()
                .contains("hostNetwork"),
            "{body}"
        );
    }

    #[test]
    fn what_is_no_review_of_a_pods_creation_is_refused() {
        let with = |pointer: &str, value: Value| {
            let mut review = review(json!({"spec": {"containers": []}}));
            *review.pointer_mut(pointer).unwrap() = value;
            review
        };
        for (review, says) in [
            (json!([1, 2]), "not an AdmissionReview"),
            (json!({"apiVersion": "v1", "kind": "Pod"}), "not an AdmissionReview"),
            (
                with("/apiVersion", json!("admission.k8s.io/v1beta1")),
                "only admission.k8s.io/v1",
            ),
            (with("/request/operation", json!("UPDATE")), "only CREATE of pods"),
            (
                with("/request/resource/resource", json!("deployments")),
                "only CREATE of pods",
            ),
            (with("/request/object", json!("a pod")), "not an AdmissionReview"),
            (
                with("/request/object", json!({"spec": {"containers": 7}})),
                "not an AdmissionReview",
            ),
        ] {
            let error = asked(&review).unwrap_err().to_string();
            assert!(error.contains(says), "{review}: {error}");
        }
    }
}
