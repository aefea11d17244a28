//! Every kind of probe, asked by the node as it was admitted: with a sidecar, the pod is ready when its application is, unready
//! when its application is not, and started again when there is no life in it, as it is without one.

use serde_json::{Value, json};
use squire_tests::eventually;

use super::world::{Installed, PYTHON, inits, python};

const APP: &str = include_str!("app.py");
/// The containers, what each serves and where.
const CONTAINERS: [(&str, &str, u16); 3] = [("pages", "http", 8080), ("health", "grpc", 9090), ("line", "tcp", 9999)];

/// The same pod for a namespace with sidecars and for one without.
async fn pod() -> Value {
    let run = |serves: &str, port: u16| json!([&PYTHON[..], &[APP, serves, &port.to_string()]].concat());
    let often = |mut probe: Value| {
        probe["periodSeconds"] = json!(1);
        probe["failureThreshold"] = json!(1);
        probe
    };
    let probes = [
        json!({"httpGet": {
            "path": "/ready?full=1", "port": "web", "httpHeaders": [{"name": "X-Probe", "value": "as written"}],
        }}),
        json!({"grpc": {"port": 9090, "service": "shop.Db"}}),
        json!({"tcpSocket": {"port": 9999}}),
    ];
    let (app, volumes) = python().await;
    let mut containers: Vec<Value> = CONTAINERS
        .iter()
        .zip(probes)
        .map(|((name, serves, port), probe)| {
            let mut container = app.clone();
            container["name"] = json!(name);
            container["image"] = json!("debian");
            container["command"] = run(serves, *port);
            container["readinessProbe"] = often(probe);
            container
        })
        .collect();
    containers[0]["ports"] = json!([{"name": "web", "containerPort": 8080}]);
    containers[0]["livenessProbe"] = often(json!({"exec": {"command": ["sh", "-c", "test ! -e /tmp/dead"]}}));
    containers[1]["startupProbe"] = often(json!({"grpc": {"port": 9090, "service": "shop.Db"}}));
    let mut beside = app;
    beside["name"] = json!("beside");
    beside["image"] = json!("debian");
    beside["command"] = run("tcp", 7000);
    beside["restartPolicy"] = json!("Always");
    beside["ports"] = json!([{"name": "own", "containerPort": 7000}]);
    beside["startupProbe"] = often(json!({"tcpSocket": {"port": "own"}}));
    json!({"initContainers": [beside], "containers": containers, "volumes": volumes})
}

/// What the API server has been told of the pod's containers: ready (by name), and how often they were started again.
async fn seen(installed: &Installed, namespace: &str) -> (bool, Vec<(String, bool, u64)>) {
    let pod = installed.json(&["-n", namespace, "get", "pod", "probed"]).await;
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let ready = conditions
        .filter(|condition| condition["type"] == "Ready")
        .any(|condition| condition["status"] == "True");
    let statuses = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    let each = statuses.map(|status| {
        (
            status["name"].as_str().unwrap().to_owned(),
            status["ready"] == true,
            status["restartCount"].as_u64().unwrap(),
        )
    });
    (ready, each.collect())
}

async fn becomes(installed: &Installed, namespace: &str, unready: Option<&str>, restarts: u64) {
    let what = format!("in {namespace}, {unready:?} is unready and the first was started again {restarts} times");
    eventually(&what, async || {
        let (ready, each) = seen(installed, namespace).await;
        let right = each.iter().all(|(name, ready, again)| {
            *ready == (Some(name.as_str()) != unready) && *again == if name == "pages" { restarts } else { 0 }
        });
        (ready == unready.is_none() && each.len() == CONTAINERS.len() && right).then_some(())
    })
    .await;
}

pub(super) async fn of_every_kind_say_of_a_pod_what_they_say_without_a_sidecar(installed: &Installed) {
    installed.namespace("plain", false).await;
    let namespaces = ["shop", "plain"];
    for namespace in namespaces {
        installed
            .create(namespace, "probed", json!({}), pod().await)
            .await
            .unwrap();
    }
    let meshed = installed.json(&["-n", "shop", "get", "pod", "probed"]).await;
    assert_eq!(inits(&meshed), ["squire-redirect", "squire-proxy", "beside"]);
    assert!(!meshed["spec"].to_string().contains("grpc\":{"), "{meshed}");
    let exec = async |container: &str, words: &[&str]| {
        for namespace in namespaces {
            let pod = format!("{namespace}/probed");
            let output = installed.node.exec(&pod, container, words).await;
            assert!(output.status.success(), "{output:?}");
        }
    };
    let all = async |unready: Option<&str>, restarts: u64| {
        for namespace in namespaces {
            becomes(installed, namespace, unready, restarts).await;
        }
    };
    all(None, 0).await;
    for (container, ..) in CONTAINERS {
        exec(container, &["touch", "/tmp/sick"]).await;
        all(Some(container), 0).await;
        exec(container, &["rm", "/tmp/sick"]).await;
        all(None, 0).await;
    }
    // A probe by exec is the container's own affair, and ends it when it fails.
    exec("pages", &["touch", "/tmp/dead"]).await;
    all(None, 1).await;
    for namespace in namespaces {
        installed.remove(namespace, "probed").await;
    }
}
