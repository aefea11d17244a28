//! Pods of every shape, and what real admission makes of each.

use serde_json::{Value, json};

use super::world::{Installed, inits};

/// What becomes of a pod.
enum Becomes {
    /// It gets redirection and sidecar first; then these init containers.
    Injected(&'static [&'static str]),
    /// It stays as it is, for this reason.
    Skipped(&'static str),
    /// It is not created, with these words.
    Refused(&'static [&'static str]),
}

use Becomes::{Injected, Refused, Skipped};

fn app() -> Value {
    json!({"name": "app", "image": "app"})
}

fn with(key: &str, value: Value) -> Value {
    let mut container = app();
    container[key] = value;
    json!({"containers": [container]})
}

/// Every kind of probe, on containers, sidecars and hooks.
fn probes() -> Value {
    let http = |port: Value| json!({"httpGet": {"path": "/x?y=1", "port": port, "scheme": "HTTPS", "httpHeaders": [{"name": "A", "value": "b"}]}});
    json!({
        "initContainers": [{
            "name": "beside", "image": "app", "restartPolicy": "Always",
            "ports": [{"name": "own", "containerPort": 7000}],
            "startupProbe": {"tcpSocket": {"port": "own"}}, "livenessProbe": {"grpc": {"port": 7000, "service": "s"}},
        }],
        "containers": [{
            "name": "app", "image": "app", "ports": [{"name": "web", "containerPort": 8080}],
            "startupProbe": http(json!("web")), "livenessProbe": {"exec": {"command": ["true"]}},
            "readinessProbe": {"grpc": {"port": 9090}},
            "lifecycle": {"preStop": {"httpGet": {"path": "/bye", "port": 8080}}},
        }, {
            "name": "other", "image": "app", "livenessProbe": {"tcpSocket": {"port": 9999}},
        }],
    })
}

fn shapes() -> Vec<(&'static str, Value, Value, Becomes)> {
    let none = json!({});
    let many: Vec<Value> = (0..60)
        .map(|number| {
            json!({
                "name": format!("c{number}"), "image": "app", "ports": [{"name": format!("p{number}"), "containerPort": 2000 + number}],
                "livenessProbe": {"httpGet": {"path": "/", "port": format!("p{number}")}},
            })
        })
        .collect();
    // Close to what etcd takes, 1.5 MiB, and all of it crosses to the webhook and back.
    let huge: Vec<Value> = (0..100)
        .map(|number| json!({"name": format!("c{number}"), "image": "app", "env": [{"name": "X", "value": "x".repeat(13_000)}]}))
        .collect();
    let note = json!({"squire.mesh/log-level": "loud", "squire.mesh/proxy-cpu-request": "much", "squire.mesh/subscription": "some"});
    vec![
        ("no ports", none.clone(), json!({"containers": [app()]}), Injected(&[])),
        ("every probe", none.clone(), probes(), Injected(&["beside"])),
        (
            "many containers",
            none.clone(),
            json!({"containers": many}),
            Injected(&[]),
        ),
        (
            "near the limits",
            none.clone(),
            json!({"containers": huge}),
            Injected(&[]),
        ),
        (
            "init containers and sidecars of its own",
            none.clone(),
            json!({
                "initContainers": [
                    {"name": "migrate", "image": "app"},
                    {"name": "logs", "image": "app", "restartPolicy": "Always"},
                ],
                "containers": [app()],
            }),
            Injected(&["migrate", "logs"]),
        ),
        (
            "no token of the API server",
            none.clone(),
            json!({"automountServiceAccountToken": false, "containers": [app()]}),
            Injected(&[]),
        ),
        (
            "another user, and nothing but an empty volume",
            none.clone(),
            json!({
                "securityContext": {"runAsUser": 65534, "runAsNonRoot": true, "fsGroup": 65534},
                "volumes": [{"name": "tmp", "emptyDir": {}}],
                "containers": [{
                    "name": "app", "image": "app", "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
                    "securityContext": {"readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
                }],
            }),
            Injected(&[]),
        ),
        (
            "a job's",
            none.clone(),
            json!({"restartPolicy": "Never", "containers": [app()]}),
            Injected(&[]),
        ),
        (
            "the Workload API",
            json!({"squire.mesh/workload-api": "true"}),
            json!({"containers": [app()]}),
            Injected(&[]),
        ),
        (
            "Windows, by its selector",
            none.clone(),
            json!({"nodeSelector": {"kubernetes.io/os": "windows"}, "containers": [app()]}),
            Skipped("windows"),
        ),
        (
            "Windows, by its field",
            none.clone(),
            json!({"os": {"name": "windows"}, "containers": [app()]}),
            Skipped("windows"),
        ),
        (
            "its node's network",
            none.clone(),
            json!({"hostNetwork": true, "containers": [app()]}),
            Skipped("host-network"),
        ),
        (
            "another squire-proxy",
            none.clone(),
            json!({"containers": [{"name": "squire-proxy", "image": "theirs"}]}),
            Skipped("other-sidecar"),
        ),
        (
            "wrong annotations, all of them named",
            note,
            json!({"containers": [app()]}),
            Refused(&[
                "squire.mesh/log-level",
                "loud",
                "squire.mesh/proxy-",
                "much",
                "write all or on-demand",
            ]),
        ),
        (
            "the sidecar's user",
            none.clone(),
            with("securityContext", json!({"runAsUser": 2102})),
            Refused(&["container app", "2102"]),
        ),
        (
            "the sidecar's port",
            none,
            with("ports", json!([{"containerPort": 15006}])),
            Refused(&["container app", "15006"]),
        ),
    ]
}

/// Every shape through every admission plugin: what was injected is accepted by the API server's own validation.
pub(super) async fn every_shape_of_pod_is_injected_or_says_why_not(installed: &Installed) {
    for (what, annotations, spec, becomes) in shapes() {
        let pod = json!({"metadata": {"generateName": "shape-", "annotations": annotations}, "spec": spec});
        let admitted = installed.admitted("shop", pod).await;
        match (becomes, admitted) {
            (Injected(others), Ok(pod)) => {
                let expected = [&["squire-redirect", "squire-proxy"], others].concat();
                assert_eq!(inits(&pod), expected, "{what}");
                for container in &pod["spec"]["initContainers"].as_array().unwrap()[..2] {
                    let mounts = container["volumeMounts"].as_array().unwrap();
                    let at = |mount: &&Value| mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount";
                    let token = mounts.iter().find(at).unwrap();
                    assert_eq!(
                        token["name"], "squire-no-api-token",
                        "{what}: ours need no token of the API server"
                    );
                }
            }
            (Skipped(why), Ok(pod)) => {
                assert!(!inits(&pod).contains(&"squire-redirect"), "{what}");
                assert_eq!(pod["metadata"]["annotations"]["squire.mesh/skipped"], why, "{what}");
            }
            (Refused(words), Err(error)) => {
                for word in words {
                    assert!(error.contains(word), "{what}: {error}");
                }
            }
            (_, other) => panic!("{what}: {other:?}"),
        }
    }
    let pod = json!({"metadata": {"name": "probed"}, "spec": probes()});
    let pod = installed.admitted("shop", pod).await.unwrap();
    let (beside, app) = (&pod["spec"]["initContainers"][2], &pod["spec"]["containers"][0]);
    for (container, kind, path) in [
        (beside, "startupProbe", "/probe/beside/startup"),
        (beside, "livenessProbe", "/probe/beside/liveness"),
        (app, "startupProbe", "/probe/app/startup"),
        (app, "readinessProbe", "/probe/app/readiness"),
        (&pod["spec"]["containers"][1], "livenessProbe", "/probe/other/liveness"),
    ] {
        let action = &container[kind]["httpGet"];
        assert_eq!(
            (&action["path"], &action["port"]),
            (&json!(path), &json!(15020)),
            "{container}"
        );
    }
    assert_eq!(app["livenessProbe"]["exec"]["command"][0], "true", "exec is left alone");
    assert_eq!(app["lifecycle"]["preStop"]["httpGet"]["port"], 15020);
}
