//! Questions about the cluster: its version, its clock, what it forbids, what this user may do.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use k8s_openapi::{
    api::{
        authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
        core::v1::Namespace,
    },
    apimachinery::pkg::version::Info,
};
use kube::{Api, Client, ResourceExt, api::PostParams, client::Body};
use squire_mesh::ports::SYSTEM_NAMESPACE;

use super::{Finding, Mark};
use crate::Values;

/// Clocks further apart than this break what certificates and tokens say about time.
const MAX_SKEW: Duration = Duration::from_secs(60);

pub(super) fn version(info: &Info) -> Finding {
    let minor: String = info.minor.chars().take_while(char::is_ascii_digit).collect();
    let minor: u32 = minor.parse().unwrap_or(0);
    let seen = format!("Kubernetes {}.{}", info.major, info.minor);
    match minor {
        29.. => Finding::ok("version", seen),
        _ => Finding::failed(
            "version",
            seen,
            "native sidecars need Kubernetes 1.29: upgrade the cluster",
        ),
    }
}

/// The difference between our clock and the API server's, from the `Date` of an answer.
pub(super) async fn clock(client: &Client, now: SystemTime) -> kube::Result<Finding> {
    let request = http_get("/version");
    let response = client.send(request).await?;
    let date = response.headers().get("date").and_then(|date| date.to_str().ok());
    let Some(theirs) = date.and_then(http_date) else {
        return Ok(Finding::bad(
            "clock",
            Mark::Warning,
            "the API server does not say its time",
            "compare clocks by hand",
        ));
    };
    let skew = now
        .duration_since(theirs)
        .or_else(|_| theirs.duration_since(now))
        .unwrap_or_default();
    let seen = format!("{} s apart from the API server", skew.as_secs());
    Ok(if skew <= MAX_SKEW {
        Finding::ok("clock", seen)
    } else {
        Finding::failed(
            "clock",
            seen,
            "set both clocks by NTP: certificates are backdated by five minutes only",
        )
    })
}

fn http_get(path: &str) -> http::Request<Body> {
    let mut request = http::Request::new(Body::empty());
    *request.uri_mut() = path.parse().unwrap_or_default();
    request
}

/// `Fri, 27 Nov 2026 23:00:00 GMT` (RFC 9110, 5.6.7).
fn http_date(text: &str) -> Option<SystemTime> {
    let fields: Vec<&str> = text.split([' ', ':']).collect();
    let [_, day, month, year, hour, minute, second, "GMT"] = fields[..] else {
        return None;
    };
    let months = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let month = u64::try_from(months.iter().position(|name| *name == month)?).ok()? + 1;
    let number = |text: &str| text.parse::<u64>().ok();
    let (year, day) = (number(year)?, number(day)?);
    // Days since 1970-01-01 in the proleptic Gregorian calendar, counted from March.
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year.checked_sub(1)?, month + 9)
    };
    let days = (y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day).checked_sub(719_469)?;
    let seconds = days * 86_400 + number(hour)? * 3600 + number(minute)? * 60 + number(second)?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// The redirection needs NET_ADMIN, which the stricter Pod Security Standards forbid.
pub(super) fn pod_security(namespace: &Namespace) -> Option<Finding> {
    let enforced = namespace.labels().get("pod-security.kubernetes.io/enforce")?;
    matches!(enforced.as_str(), "baseline" | "restricted").then(|| {
        let name = namespace.name_any();
        Finding::failed(
            &format!("namespace {name}"),
            format!("enforces the Pod Security Standard {enforced}, under which no pod may have NET_ADMIN"),
            format!(
                "the container that redirects connections needs it: kubectl label namespace {name} --overwrite \
                 pod-security.kubernetes.io/enforce=privileged pod-security.kubernetes.io/warn={enforced}"
            ),
        )
    })
}

/// Whether this user may create every kind that is installed.
pub(super) async fn permissions(client: &Client, values: &Values) -> kube::Result<Finding> {
    let kinds: BTreeSet<(String, String, bool)> = crate::objects(values)
        .iter()
        .map(|object| {
            let api_version = object["apiVersion"].as_str().unwrap_or_default();
            let group = api_version.split_once('/').map_or("", |(group, _)| group);
            let kind = object["kind"].as_str().unwrap_or_default().to_lowercase();
            let plural = match kind.strip_suffix('y') {
                Some(stem) => format!("{stem}ies"),
                None => format!("{kind}s"),
            };
            (group.to_owned(), plural, object["metadata"].get("namespace").is_some())
        })
        .collect();
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let mut missing = Vec::new();
    for (group, resource, namespaced) in kinds {
        for verb in ["create", "patch"] {
            let review = SelfSubjectAccessReview {
                spec: SelfSubjectAccessReviewSpec {
                    resource_attributes: Some(ResourceAttributes {
                        group: Some(group.clone()),
                        resource: Some(resource.clone()),
                        verb: Some(verb.to_owned()),
                        namespace: namespaced.then(|| SYSTEM_NAMESPACE.to_owned()),
                        ..ResourceAttributes::default()
                    }),
                    ..SelfSubjectAccessReviewSpec::default()
                },
                ..SelfSubjectAccessReview::default()
            };
            let answer = api.create(&PostParams::default(), &review).await?;
            if !answer.status.is_some_and(|status| status.allowed) {
                missing.push(format!("{verb} {resource}"));
            }
        }
    }
    Ok(match missing.is_empty() {
        true => Finding::ok("permissions", "this user may install everything"),
        false => Finding::failed(
            "permissions",
            format!("this user may not {}", missing.join(", ")),
            "install as a cluster admin, or have one apply the output of `squire install`",
        ),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn dates_of_http_are_read() {
        let seconds = |text: &str| {
            Some(
                http_date(text)?
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap()
                    .as_secs(),
            )
        };
        assert_eq!(seconds("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(seconds("Thu, 29 Feb 2024 12:00:00 GMT"), Some(1_709_208_000));
        assert_eq!(seconds("yesterday"), None);
    }

    #[test]
    fn an_old_cluster_fails_with_what_to_do() {
        let info = |minor: &str| Info {
            major: "1".into(),
            minor: minor.into(),
            ..Info::default()
        };
        assert_eq!(version(&info("29+")).mark, Mark::Ok);
        let old = version(&info("28"));
        assert!(old.mark == Mark::Failed && old.fix.contains("1.29"), "{old:?}");
    }

    #[test]
    fn a_namespace_that_forbids_the_redirection_is_named_with_the_command_that_helps() {
        let namespace = |level: &str| {
            serde_json::from_value(
                json!({"metadata": {"name": "shop", "labels": {"pod-security.kubernetes.io/enforce": level}}}),
            )
        };
        let found = pod_security(&namespace("restricted").unwrap()).unwrap();
        assert!(
            found.seen.contains("NET_ADMIN") && found.fix.contains("kubectl label namespace shop"),
            "{found:?}"
        );
        assert_eq!(pod_security(&namespace("privileged").unwrap()), None);
    }
}
