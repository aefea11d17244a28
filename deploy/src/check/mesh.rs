//! Questions about an installation: its replicas, roots and webhook, what becomes of a pod, and every proxy's state.

use std::time::{Duration, SystemTime};

use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration,
    apps::v1::Deployment,
    core::v1::{ConfigMap, Pod},
};
use kube::{Api, Client, api::PostParams};
use serde_json::{Value, json};
use squire_mesh::{
    bundle::TrustBundle,
    ports::{self, BUNDLE_CONFIG_MAP, BUNDLE_KEY, CONTROL_ACCOUNT, INJECTOR_ACCOUNT, SYSTEM_NAMESPACE},
};

use super::{Finding, Mark};
use crate::Values;

/// Roots that end sooner than this are to be rotated.
const ROOT_SOON: Duration = Duration::from_secs(90 * 86_400);

pub(super) async fn available(client: &Client, name: &str) -> Finding {
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
pub(super) async fn roots(client: &Client, values: &Values, now: SystemTime) -> Result<(String, Finding), Finding> {
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

pub(super) async fn webhook(client: &Client, pem: Option<&str>) -> Finding {
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
pub(super) async fn injection(client: &Client, namespace: Option<String>) -> Finding {
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
pub(super) async fn sync(client: &Client) -> Finding {
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
}
