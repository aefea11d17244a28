//! `squire check`: whether a cluster can take the mesh, and whether the mesh stands. It looks, and asks the API server to
//! create a pod for the sake of asking (`dryRun`); it changes nothing. Each failure says what to do.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use k8s_openapi::{
    api::{
        admissionregistration::v1::MutatingWebhookConfiguration,
        apps::v1::Deployment,
        authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
        core::v1::{ConfigMap, Namespace, Pod},
    },
    apimachinery::pkg::version::Info,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, PostParams},
    client::Body,
};
use serde::Serialize;
use serde_json::{Value, json};
use squire_mesh::{
    bundle::TrustBundle,
    ports::{self, BUNDLE_CONFIG_MAP, BUNDLE_KEY, CONTROL_ACCOUNT, INJECTOR_ACCOUNT, SYSTEM_NAMESPACE},
};

use crate::Values;

/// Clocks further apart than this break what certificates and tokens say about time.
const MAX_SKEW: Duration = Duration::from_secs(60);
/// Roots that end sooner than this are to be rotated.
const ROOT_SOON: Duration = Duration::from_secs(90 * 86_400);

/// Which questions are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Before an installation.
    Before,
    /// After it.
    After,
}

/// How one question was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    /// As it should be.
    Ok,
    /// It works, and something is to be known.
    Warning,
    /// It does not work.
    Failed,
}

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub what: String,
    /// How it is.
    pub mark: Mark,
    /// What was seen.
    pub seen: String,
    /// What to do about it; empty when nothing.
    pub fix: String,
}

impl Finding {
    fn ok(what: &str, seen: impl Into<String>) -> Self {
        Self {
            what: what.to_owned(),
            mark: Mark::Ok,
            seen: seen.into(),
            fix: String::new(),
        }
    }

    fn bad(what: &str, mark: Mark, seen: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            what: what.to_owned(),
            mark,
            seen: seen.into(),
            fix: fix.into(),
        }
    }

    fn failed(what: &str, seen: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::bad(what, Mark::Failed, seen, fix)
    }
}

/// Whether there is an installation to look at.
///
/// # Errors
/// When the API server cannot be asked.
pub async fn stage(client: &Client) -> kube::Result<Stage> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    Ok(if api.get_opt(CONTROL_ACCOUNT).await?.is_some() {
        Stage::After
    } else {
        Stage::Before
    })
}

/// Asks everything of a stage.
///
/// # Errors
/// When the API server cannot be reached at all.
pub async fn run(client: &Client, values: &Values, stage: Stage, now: SystemTime) -> kube::Result<Vec<Finding>> {
    let mut findings = vec![version(&client.apiserver_version().await?), clock(client, now).await?];
    let namespaces = Api::<Namespace>::all(client.clone());
    let meshed = namespaces
        .list(&ListParams::default().labels(&format!("{}=true", ports::INJECT)))
        .await;
    let meshed = meshed.map(|list| list.items).unwrap_or_default();
    findings.extend(meshed.iter().filter_map(pod_security));
    match stage {
        Stage::Before => findings.push(permissions(client, values).await?),
        Stage::After => {
            let control = available(client, CONTROL_ACCOUNT).await;
            let nobody = control.mark == Mark::Failed;
            findings.push(control);
            findings.push(available(client, INJECTOR_ACCOUNT).await);
            let roots = roots(client, values, now).await;
            findings.push(webhook(client, roots.as_ref().ok().map(|(pem, _)| pem.as_str())).await);
            findings.push(roots.map_or_else(|finding| finding, |(_, finding)| finding));
            findings.push(injection(client, meshed.first().map(ResourceExt::name_any)).await);
            // The API server waits long for a Service that nobody stands behind.
            if !nobody {
                findings.push(sync(client).await);
            }
        }
    }
    Ok(findings)
}

fn version(info: &Info) -> Finding {
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
async fn clock(client: &Client, now: SystemTime) -> kube::Result<Finding> {
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
fn pod_security(namespace: &Namespace) -> Option<Finding> {
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
async fn permissions(client: &Client, values: &Values) -> kube::Result<Finding> {
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

async fn available(client: &Client, name: &str) -> Finding {
    let what = format!("deployment {name}");
    let api: Api<Deployment> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let fix = format!("kubectl -n {SYSTEM_NAMESPACE} describe deployment {name}, and the log of its pods, say why");
    match api.get(name).await {
        Err(error) => Finding::failed(&what, error.to_string(), "squire install | kubectl apply -f -"),
        Ok(deployment) => {
            let wanted = deployment.spec.replicas.unwrap_or(1);
            let there = deployment
                .status
                .and_then(|status| status.available_replicas)
                .unwrap_or(0);
            let seen = format!("{there} of {wanted} replicas are available");
            match there {
                0 => Finding::failed(&what, seen, fix),
                some if some < wanted => Finding::bad(&what, Mark::Warning, seen, fix),
                _ => Finding::ok(&what, seen),
            }
        }
    }
}

/// The roots as text, and what is to be said of them.
async fn roots(client: &Client, values: &Values, now: SystemTime) -> Result<(String, Finding), Finding> {
    let what = "certificates";
    let fix = format!("the log of {CONTROL_ACCOUNT} says why the CA has not published its roots");
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let map = api
        .get(BUNDLE_CONFIG_MAP)
        .await
        .map_err(|error| Finding::failed(what, error.to_string(), &fix))?;
    let pem = map.data.unwrap_or_default().remove(BUNDLE_KEY).unwrap_or_default();
    let domain = values.sidecar.trust_domain.parse();
    let domain = domain.map_err(|error| Finding::failed(what, format!("trustDomain: {error}"), "correct --values"))?;
    let bundle = TrustBundle::from_pem(&domain, pem.as_bytes());
    let bundle = bundle.map_err(|error| Finding::failed(what, error.to_string(), &fix))?;
    let first = bundle.roots().iter().map(|root| root.not_after()).min().unwrap_or(now);
    let left = first.duration_since(now).unwrap_or_default();
    let seen = format!(
        "{} root(s) of {domain}, the first ends in {} days",
        bundle.roots().len(),
        left.as_secs() / 86_400
    );
    let finding = match left {
        left if left.is_zero() => Finding::failed(what, seen, "squire ca rotate"),
        left if left < ROOT_SOON => Finding::bad(what, Mark::Warning, seen, "squire ca rotate"),
        _ => Finding::ok(what, seen),
    };
    Ok((pem, finding))
}

async fn webhook(client: &Client, pem: Option<&str>) -> Finding {
    let what = "webhook";
    let api: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let configuration = match api.get(INJECTOR_ACCOUNT).await {
        Ok(configuration) => configuration,
        Err(error) => return Finding::failed(what, error.to_string(), "squire install | kubectl apply -f -"),
    };
    let fix = format!("the log of {INJECTOR_ACCOUNT} says why it does not write the caBundle");
    let mut bundles = configuration
        .webhooks
        .iter()
        .flatten()
        .map(|webhook| webhook.client_config.ca_bundle.as_ref());
    match pem {
        _ if bundles.clone().any(|bundle| bundle.is_none()) => {
            Finding::failed(what, "has no caBundle: pods of meshed namespaces are refused", fix)
        }
        Some(pem) if bundles.any(|bundle| bundle.is_some_and(|bundle| bundle.0 != pem.as_bytes())) => {
            Finding::failed(what, "its caBundle is not the CA's roots", fix)
        }
        _ => Finding::ok(what, "configured, with the CA's roots"),
    }
}

/// Creates a pod for the sake of asking.
async fn injection(client: &Client, namespace: Option<String>) -> Finding {
    let what = "injection";
    let Some(namespace) = namespace else {
        let fix = format!("kubectl label namespace NAME {}=true", ports::INJECT);
        return Finding::bad(what, Mark::Warning, "no namespace is meshed yet", fix);
    };
    let pod = json!({
        "metadata": {"name": "squire-check", "namespace": namespace},
        "spec": {"containers": [{"name": "check", "image": "none"}]},
    });
    let pod: Pod = match serde_json::from_value(pod) {
        Ok(pod) => pod,
        Err(error) => return Finding::failed(what, error.to_string(), "this is a bug, please report it"),
    };
    let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let parameters = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    match api.create(&parameters, &pod).await {
        Err(error) => Finding::failed(
            what,
            format!("a pod in {namespace} would be refused: {error}"),
            format!("if the webhook cannot be reached: is {INJECTOR_ACCOUNT} ready, and may the API server reach it?"),
        ),
        Ok(pod) => {
            let init = pod.spec.and_then(|spec| spec.init_containers).unwrap_or_default();
            match init.iter().any(|container| container.name == ports::PROXY_CONTAINER) {
                true => Finding::ok(what, format!("a pod in {namespace} would get a sidecar")),
                false => Finding::failed(
                    what,
                    format!("a pod in {namespace} would get no sidecar"),
                    format!("is MutatingWebhookConfiguration {INJECTOR_ACCOUNT} as `squire install` writes it?"),
                ),
            }
        }
    }
}

/// Every proxy's state, as the control plane knows it.
async fn sync(client: &Client) -> Finding {
    let what = "proxies";
    let path = format!("/api/v1/namespaces/{SYSTEM_NAMESPACE}/services/{CONTROL_ACCOUNT}:admin/proxy/debug/sync");
    let fix = "kubectl port-forward to the control plane and look at /debug/sync";
    let request = http::Request::get(path).body(Vec::new());
    let request = match request {
        Ok(request) => request,
        Err(error) => return Finding::failed(what, error.to_string(), "this is a bug, please report it"),
    };
    match client.request::<Value>(request).await {
        Err(error) => Finding::bad(
            what,
            Mark::Warning,
            format!("the control plane cannot be asked: {error}"),
            fix,
        ),
        Ok(page) => {
            let proxies = page["proxies"].as_array().cloned().unwrap_or_default();
            let refusing: Vec<String> = proxies.iter().filter_map(|entry| refusal(&entry["proxy"])).collect();
            match refusing.is_empty() {
                true => Finding::ok(
                    what,
                    format!("{} connected, none refuses what it is sent", proxies.len()),
                ),
                false => Finding::failed(
                    what,
                    refusing.join("; "),
                    "their logs, and that of the control plane, say more",
                ),
            }
        }
    }
}

/// What a proxy has refused last, if it has not accepted a later message since.
fn refusal(proxy: &Value) -> Option<String> {
    let kinds = proxy["kinds"].as_object()?;
    let (kind, why) = kinds
        .iter()
        .find_map(|(kind, view)| Some((kind, view["nack"].as_str()?)))?;
    Some(format!(
        "{} refuses its {kind}: {why}",
        proxy["node"].as_str().unwrap_or("a proxy")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_that_refuses_what_it_is_sent_is_named_with_its_reason() {
        let proxy = |nack: Value| json!({"node": "shop/web-0", "kinds": {"policy": {"nack": nack}, "workload": {"nack": null}}});
        assert_eq!(refusal(&proxy(json!(null))), None);
        assert_eq!(
            refusal(&proxy(json!("too new"))).unwrap(),
            "shop/web-0 refuses its policy: too new"
        );
    }

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
