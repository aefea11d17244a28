//! What is rendered: typed, complete, bounded in what it may do, and always the same.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::{
        admissionregistration::v1::MutatingWebhookConfiguration,
        apps::v1::Deployment,
        core::v1::{ConfigMap, Namespace, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
        rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use serde::{Serialize, de::DeserializeOwned};

use super::*;

fn all() -> Vec<Value> {
    objects(&Values::default())
}

/// Through the type of its kind and back: a field that the type does not know would be lost.
fn typed<T: DeserializeOwned + Serialize>(object: &Value) -> Value {
    serde_json::to_value(serde_json::from_value::<T>(object.clone()).unwrap()).unwrap()
}

/// Whether everything of `wanted` is in `there`; quantities and defaults may be written otherwise.
fn within(there: &Value, wanted: &Value, path: &str) {
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => {
            for (key, value) in wanted {
                let found = there
                    .get(key)
                    .unwrap_or_else(|| panic!("{path}.{key} is no field of this kind"));
                within(found, value, &format!("{path}.{key}"));
            }
        }
        (Value::Array(there), Value::Array(wanted)) => {
            assert_eq!(there.len(), wanted.len(), "{path}");
            there
                .iter()
                .zip(wanted)
                .for_each(|(there, wanted)| within(there, wanted, path));
        }
        _ => assert_eq!(there, wanted, "{path}"),
    }
}

#[test]
fn every_field_of_every_object_is_one_that_its_kind_has() {
    for object in all() {
        let kind = object["kind"].as_str().unwrap();
        let back = match kind {
            "Namespace" => typed::<Namespace>(&object),
            "CustomResourceDefinition" => typed::<CustomResourceDefinition>(&object),
            "ServiceAccount" => typed::<ServiceAccount>(&object),
            "ClusterRole" => typed::<ClusterRole>(&object),
            "ClusterRoleBinding" => typed::<ClusterRoleBinding>(&object),
            "Role" => typed::<Role>(&object),
            "RoleBinding" => typed::<RoleBinding>(&object),
            "NetworkPolicy" => typed::<NetworkPolicy>(&object),
            "ConfigMap" => typed::<ConfigMap>(&object),
            "Service" => typed::<Service>(&object),
            "Deployment" => typed::<Deployment>(&object),
            "PodDisruptionBudget" => typed::<PodDisruptionBudget>(&object),
            "MutatingWebhookConfiguration" => typed::<MutatingWebhookConfiguration>(&object),
            other => panic!("{other} is not looked at here"),
        };
        within(&back, &object, kind);
    }
}

#[test]
fn the_same_values_give_the_same_text_and_no_object_comes_twice() {
    assert_eq!(yaml(&all()), yaml(&all()));
    let names: BTreeSet<String> = all()
        .iter()
        .map(|object| {
            format!(
                "{} {} {}",
                object["kind"], object["metadata"]["namespace"], object["metadata"]["name"]
            )
        })
        .collect();
    assert_eq!(names.len(), all().len());
}

#[test]
fn no_role_has_a_wildcard_or_reads_secrets_outside_its_own_namespace() {
    for role in all()
        .iter()
        .filter(|object| object["kind"].as_str().unwrap().ends_with("Role"))
    {
        for rule in role["rules"].as_array().unwrap() {
            assert!(!rule.to_string().contains('*'), "{rule}");
            let secrets = rule["resources"].as_array().unwrap().contains(&json!("secrets"));
            assert!(!secrets || role["kind"] == "Role", "{role}");
        }
        let injector = role["metadata"]["name"] == "squire-injector";
        assert!(
            !injector || !role.to_string().contains("secrets"),
            "the injector has no business with the CA's key"
        );
    }
}

#[test]
fn our_own_pods_may_nothing_and_are_never_all_away() {
    for deployment in all().iter().filter(|object| object["kind"] == "Deployment") {
        let spec = &deployment["spec"]["template"]["spec"];
        assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
        assert_eq!(spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        let container = &spec["containers"][0]["securityContext"];
        assert_eq!(container["capabilities"], json!({"drop": ["ALL"]}));
        assert_eq!(
            (
                &container["allowPrivilegeEscalation"],
                &container["readOnlyRootFilesystem"]
            ),
            (&json!(false), &json!(true))
        );
        assert!(deployment["spec"]["replicas"].as_u64().unwrap() >= 2);
        assert!(spec["affinity"]["podAntiAffinity"].is_object());
        let budget = all().into_iter().find(|object| {
            object["kind"] == "PodDisruptionBudget" && object["metadata"]["name"] == deployment["metadata"]["name"]
        });
        assert_eq!(budget.unwrap()["spec"]["selector"], deployment["spec"]["selector"]);
    }
}

#[test]
fn the_webhook_fails_closed_and_never_stands_in_its_own_way() {
    let all = all();
    let webhook = &all.last().unwrap()["webhooks"][0];
    assert_eq!(webhook["failurePolicy"], "Fail");
    assert_eq!(webhook["clientConfig"].get("caBundle"), None, "the injector's to write");
    let excluded = webhook["namespaceSelector"]["matchExpressions"][1]["values"]
        .as_array()
        .unwrap();
    for namespace in ["squire-system", "kube-system"] {
        assert!(excluded.contains(&json!(namespace)), "{namespace}");
    }
}

#[test]
fn what_is_removed_is_what_was_installed_with_the_webhook_first() {
    let values = Values::default();
    let removed = removal(&values, false);
    assert_eq!(removed.len(), all().len());
    assert_eq!(removed[0]["kind"], "MutatingWebhookConfiguration");
    assert_eq!(removed.last().unwrap()["kind"], "Namespace");
    assert!(removed.iter().all(|object| object.get("spec").is_none()));
    let kept = removal(&values, true);
    assert_eq!(
        kept.len(),
        removed.len() - 4,
        "definitions, and with them everybody's policies, stay"
    );
}

#[test]
fn values_are_read_strictly_and_every_mistake_is_shown() {
    assert_eq!(Values::from_yaml(""), Ok(Values::default()));
    let values = Values::from_yaml("controlReplicas: 3\nsidecar: {logLevel: debug}\npodMonitor: true").unwrap();
    assert_eq!(
        (values.control_replicas, values.sidecar.log_level.as_str()),
        (3, "debug")
    );
    assert_eq!(
        objects(&values)
            .iter()
            .filter(|object| object["kind"] == "PodMonitor")
            .count(),
        3
    );
    let wrong = Values::from_yaml("controlReplicas: 0\nimagePullPolicy: x\nsidecar: {logLevel: loud}").unwrap_err();
    assert_eq!(wrong.0.len(), 3, "{wrong}");
    assert!(
        Values::from_yaml("replicas: 3")
            .unwrap_err()
            .to_string()
            .contains("replicas")
    );
}

#[test]
fn callers_of_the_webhook_stand_under_the_roots_that_the_values_name() {
    let wrong = Values::from_yaml("webhookClientCa: 'no certificate'").unwrap_err();
    assert!(
        wrong.to_string().contains("webhookClientCa: holds no certificate"),
        "{wrong}"
    );
    let pem = include_str!("tests/ca.pem");
    let values = Values {
        webhook_client_ca: Some(pem.to_owned()),
        ..Values::default()
    };
    assert_eq!(values.check(), Ok(()));
    let of = |values: &Values, kind: &str, name: &str| {
        let all = objects(values);
        let found = all.iter().find(|o| o["kind"] == kind && o["metadata"]["name"] == name);
        found.unwrap().clone()
    };
    let config = of(&values, "ConfigMap", "squire-injector-config");
    assert_eq!(config["data"]["client-ca.pem"], pem);
    let template = |values: &Values| of(values, "Deployment", "squire-injector")["spec"]["template"].clone();
    let [with, without] = [template(&values), template(&Values::default())];
    let args = |template: &Value| template["spec"]["containers"][0]["args"].to_string();
    let flag = "--client-ca=/etc/squire/client-ca.pem";
    assert!(args(&with).contains(flag) && !args(&without).contains(flag));
    // Pods read the ConfigMap once: with another one they are others.
    let digest = |template: &Value| template["metadata"]["annotations"]["squire.mesh/config-digest"].clone();
    assert!(digest(&with).is_string());
    assert_ne!(digest(&with), digest(&without));
}

#[test]
fn the_readme_of_values_is_what_the_code_reads() {
    let shown = serde_yaml_ng::to_string(&Values::default()).unwrap();
    assert_eq!(Values::from_yaml(&shown), Ok(Values::default()));
}

/// The instructions of a stage of the Containerfile, continued lines joined.
fn stage(name: &str) -> Vec<String> {
    let text = include_str!("../Containerfile").replace("\\\n", " ");
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
        .collect();
    let ends = format!(" AS {name}");
    let begin = lines
        .iter()
        .position(|line| line.starts_with("FROM ") && line.ends_with(&ends))
        .unwrap();
    let rest = lines[begin..].iter().enumerate();
    rest.take_while(|(index, line)| *index == 0 || !line.starts_with("FROM "))
        .map(|(_, line)| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|line| !line.is_empty())
        .collect()
}

#[test]
fn images_hold_one_static_binary_each_that_the_build_makes_and_the_deployments_expect() {
    let build = stage("build").join("\n");
    let toolchain = include_str!("../../rust-toolchain.toml");
    let version = build.split("FROM rust:").nth(1).unwrap().split('-').next().unwrap();
    assert!(
        toolchain.contains(version),
        "built with {version}, developed with {toolchain}"
    );
    // With an explicit target the flag does not reach build scripts and procedural macros, which cannot be static.
    assert!(
        build.contains("+crt-static") && build.contains("--target x86_64-unknown-linux-gnu"),
        "{build}"
    );
    assert!(build.contains("--release --locked"), "{build}");
    let deployed = user_of("Deployment");
    for (binary, package, manifest, user) in [
        (
            "squire-proxy",
            "squire-proxy",
            include_str!("../../proxy/Cargo.toml"),
            i64::from(squire_mesh::ports::PROXY_UID),
        ),
        ("squire", "squire-cli", include_str!("../../cli/Cargo.toml"), deployed),
    ] {
        assert!(build.contains(&format!("-p {package}")), "{build}");
        assert!(
            manifest.contains(&format!("name = \"{binary}\"")),
            "{package} has no binary {binary}"
        );
        assert!(
            build.contains(&format!("target/x86_64-unknown-linux-gnu/release/{binary} ")),
            "{build}"
        );
        let image = stage(binary);
        let expected = [
            format!("FROM scratch AS {binary}"),
            format!("COPY --from=build /out/{binary} /{binary}"),
            format!("USER {user}:{user}"),
            format!("ENTRYPOINT [\"/{binary}\"]"),
        ];
        assert_eq!(image, expected, "nothing else is in it");
    }
    // Containers name arguments alone: the program is the image's.
    for deployment in all().iter().filter(|object| object["kind"] == "Deployment") {
        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        assert!(
            container.get("command").is_none() && container["args"].is_array(),
            "{container}"
        );
    }
}

/// The user that pods of a kind run as.
fn user_of(kind: &str) -> i64 {
    let all = all();
    let object = all.iter().find(|object| object["kind"] == kind).unwrap();
    object["spec"]["template"]["spec"]["securityContext"]["runAsUser"]
        .as_i64()
        .unwrap()
}
