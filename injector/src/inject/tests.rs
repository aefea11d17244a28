//! Pods of every shape, and what becomes of each.

use proptest::prelude::*;

use squire_mesh::probe::Action;

use super::*;
use crate::probes::to_variable;

const CLUSTER: Cluster = Cluster { minor: 34 };

fn decided(pod: &Value) -> Result<Decision, Denial> {
    let typed: Pod = serde_json::from_value(pod.clone()).unwrap();
    decide(&typed, Owner::of(&typed.metadata), &CLUSTER, &Settings::default())
}

/// The pod after its patch, and what was warned of.
fn injected(pod: &Value) -> (Value, Vec<String>) {
    let decision = decided(pod).unwrap();
    assert_eq!(decision.verdict, Verdict::Injected, "{pod}");
    let mut patched = pod.clone();
    json_patch::patch(&mut patched, &decision.patch).unwrap();
    (patched, decision.warnings)
}

fn denied(pod: &Value) -> Vec<String> {
    decided(pod).unwrap_err().0
}

fn pod(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "shop"}, "spec": spec})
}

fn names(pod: &Value) -> Vec<&str> {
    let inits = pod["spec"]["initContainers"].as_array().unwrap();
    inits
        .iter()
        .map(|container| container["name"].as_str().unwrap())
        .collect()
}

fn told(pod: &Value) -> Probes {
    let proxy = pod["spec"]["initContainers"].as_array().unwrap();
    let proxy = proxy
        .iter()
        .find(|container| container["name"] == "squire-proxy")
        .unwrap();
    let variable = proxy["env"]
        .as_array()
        .unwrap()
        .iter()
        .find(|variable| variable["name"] == PROBES_VARIABLE);
    variable
        .map(|variable| from_variable(variable["value"].as_str().unwrap()))
        .unwrap_or_default()
}

#[test]
fn a_bare_pod_gets_redirection_and_sidecar_in_this_order_with_volumes_and_marks() {
    let (patched, warnings) = injected(&pod(json!({"containers": [{"name": "web"}]})));
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(names(&patched), ["squire-redirect", "squire-proxy"]);
    assert_eq!(patched["spec"]["initContainers"][0].get("restartPolicy"), None);
    let proxy = &patched["spec"]["initContainers"][1];
    assert_eq!(proxy["restartPolicy"], "Always", "a native sidecar");
    assert_eq!(
        proxy["startupProbe"]["httpGet"],
        json!({"path": "/ready", "port": 15020, "scheme": "HTTP"})
    );
    assert_eq!(patched["metadata"]["annotations"]["squire.mesh/injected"], "true");
    assert_eq!(patched["metadata"]["labels"]["squire.mesh/owner-kind"], "Pod");
    let volumes = patched["spec"]["volumes"].as_array().unwrap();
    assert_eq!(volumes.len(), 2);
    let sources = &volumes[0]["projected"]["sources"];
    assert_eq!(sources[0]["serviceAccountToken"]["audience"], "squire-ca");
    assert_eq!(sources[0]["serviceAccountToken"]["expirationSeconds"], 3600);
    assert_eq!(sources[1]["configMap"]["name"], "squire-trust-bundle");
}

#[test]
fn nothing_is_privileged_but_the_redirection_and_that_only_to_write_rules() {
    let (patched, _) = injected(&pod(
        json!({"containers": [{"name": "web"}], "securityContext": {"runAsNonRoot": true, "runAsUser": 1000}}),
    ));
    let security = |index: usize| patched["spec"]["initContainers"][index]["securityContext"].clone();
    for index in [0, 1] {
        let context = security(index);
        for (key, value) in [
            ("allowPrivilegeEscalation", json!(false)),
            ("privileged", json!(false)),
            ("readOnlyRootFilesystem", json!(true)),
            ("seccompProfile", json!({"type": "RuntimeDefault"})),
        ] {
            assert_eq!(context[key], value, "{index} {key}");
        }
        assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
    }
    assert_eq!(security(0)["capabilities"]["add"], json!(["NET_ADMIN"]));
    assert_eq!(
        (&security(0)["runAsUser"], &security(0)["runAsNonRoot"]),
        (&json!(0), &json!(false))
    );
    assert_eq!(security(1)["capabilities"].get("add"), None);
    assert_eq!(
        (&security(1)["runAsUser"], &security(1)["runAsNonRoot"]),
        (&json!(2102), &json!(true))
    );
}

#[test]
fn the_api_servers_own_token_has_no_place_in_our_containers() {
    let (patched, _) = injected(&pod(json!({"containers": [{"name": "web"}]})));
    for container in patched["spec"]["initContainers"].as_array().unwrap() {
        let taken = container["volumeMounts"].as_array().unwrap().iter().any(|mount| {
            mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount"
                && mount["name"] == crate::sidecar::NO_API_TOKEN_VOLUME
        });
        assert!(taken, "{container}");
    }
}

#[test]
fn every_probe_goes_through_the_sidecar_and_stays_what_it_was() {
    let (patched, warnings) = injected(&pod(json!({
        "initContainers": [
            {"name": "migrate", "image": "m"},
            {"name": "logs", "restartPolicy": "Always", "startupProbe": {"tcpSocket": {"port": 24224}}},
        ],
        "containers": [
            {
                "name": "web",
                "ports": [{"name": "http", "containerPort": 8080}, {"name": "tls", "containerPort": 8443}],
                "livenessProbe": {"httpGet": {"path": "/live", "port": "http"}, "timeoutSeconds": 3, "periodSeconds": 7},
                "readinessProbe": {"httpGet": {
                    "port": "tls", "scheme": "HTTPS", "httpHeaders": [{"name": "Host", "value": "a.b"}, {"name": "X", "value": "$(HOME)"}],
                }},
                "startupProbe": {"exec": {"command": ["true"]}},
                "lifecycle": {"preStop": {"httpGet": {"path": "/bye", "port": 8080}}, "postStart": {"exec": {"command": ["true"]}}},
            },
            {"name": "rpc", "livenessProbe": {"grpc": {"port": 50051, "service": "shop.Cart"}}, "readinessProbe": {"tcpSocket": {"port": "50051"}}},
        ],
    })));
    assert_eq!(warnings, Vec::<String>::new());
    let at = |pointer: &str| patched.pointer(pointer).cloned().unwrap_or_default();
    let through = |path: &str| json!({"path": path, "port": 15020, "scheme": "HTTP"});
    for (probe, path) in [
        ("/spec/containers/0/livenessProbe", "/probe/web/liveness"),
        ("/spec/containers/0/readinessProbe", "/probe/web/readiness"),
        ("/spec/containers/0/lifecycle/preStop", "/probe/web/pre-stop"),
        ("/spec/containers/1/livenessProbe", "/probe/rpc/liveness"),
        ("/spec/containers/1/readinessProbe", "/probe/rpc/readiness"),
        ("/spec/initContainers/3/startupProbe", "/probe/logs/startup"),
    ] {
        assert_eq!(at(&format!("{probe}/httpGet")), through(path), "{probe}");
    }
    assert_eq!(
        at("/spec/containers/0/livenessProbe/periodSeconds"),
        7,
        "the rest of a probe stays"
    );
    assert_eq!(
        at("/spec/containers/0/startupProbe"),
        json!({"exec": {"command": ["true"]}}),
        "exec is left alone"
    );
    assert_eq!(at("/spec/containers/1/livenessProbe/grpc"), Value::Null);
    assert_eq!(at("/spec/containers/1/readinessProbe/tcpSocket"), Value::Null);

    let told = told(&patched);
    let action = |path: &str| told.at(path).unwrap().action.clone();
    assert_eq!(told.at("/probe/web/liveness").unwrap().timeout.as_secs(), 3);
    let Action::Http {
        tls,
        port,
        path,
        headers,
    } = action("/probe/web/readiness")
    else {
        panic!()
    };
    assert_eq!((tls, port, path.as_str()), (true, 8443, "/"));
    assert_eq!(
        headers[1],
        ("X".to_owned(), "$(HOME)".to_owned()),
        "nothing is expanded on the way"
    );
    assert_eq!(
        action("/probe/rpc/liveness"),
        Action::Grpc {
            port: 50051,
            service: "shop.Cart".into()
        }
    );
    assert_eq!(action("/probe/rpc/readiness"), Action::Tcp { port: 50051 });
    assert_eq!(action("/probe/logs/startup"), Action::Tcp { port: 24224 });
    assert_eq!(told.iter().count(), 6);
}

#[test]
fn a_probe_that_does_not_go_to_the_pod_or_names_no_port_is_left_with_a_warning() {
    let (patched, warnings) = injected(&pod(json!({"containers": [{
        "name": "web",
        "livenessProbe": {"httpGet": {"host": "10.0.0.1", "port": 80}},
        "readinessProbe": {"httpGet": {"port": "nameless"}},
        "startupProbe": {"tcpSocket": {"port": 0}},
    }]})));
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert_eq!(patched["spec"]["containers"][0]["livenessProbe"]["httpGet"]["port"], 80);
    assert!(told(&patched).is_empty());
}

#[test]
fn pods_that_cannot_be_in_the_mesh_are_skipped_with_the_reason() {
    for (spec, annotations, skip, says) in [
        (
            json!({"hostNetwork": true}),
            json!({}),
            Skip::HostNetwork,
            "host-network",
        ),
        (
            json!({"nodeSelector": {"kubernetes.io/os": "windows"}}),
            json!({}),
            Skip::Windows,
            "windows",
        ),
        (json!({"os": {"name": "windows"}}), json!({}), Skip::Windows, "windows"),
        (
            json!({"containers": [{"name": "squire-proxy"}]}),
            json!({}),
            Skip::OtherSidecar,
            "other-sidecar",
        ),
        (
            json!({"initContainers": [{"name": "squire-proxy"}]}),
            json!({}),
            Skip::OtherSidecar,
            "other-sidecar",
        ),
    ] {
        let mut pod = pod(json!({"containers": [{"name": "web"}]}));
        pod["spec"]
            .as_object_mut()
            .unwrap()
            .extend(spec.as_object().unwrap().clone());
        pod["metadata"]["annotations"] = annotations;
        let decision = decided(&pod).unwrap();
        assert_eq!(decision.verdict, Verdict::Skipped(skip));
        assert_eq!(decision.warnings.len(), 1);
        json_patch::patch(&mut pod, &decision.patch).unwrap();
        assert_eq!(pod["metadata"]["annotations"]["squire.mesh/skipped"], says);
        assert!(decided(&pod).unwrap().patch.0.is_empty(), "again changes nothing");
    }
    for metadata in [
        json!({"annotations": {"squire.mesh/inject": "false"}}),
        json!({"labels": {"squire.mesh/inject": "false"}}),
        json!({"annotations": {"kubernetes.io/config.mirror": "abc"}}),
    ] {
        let pod = json!({"metadata": metadata, "spec": {"containers": []}});
        let decision = decided(&pod).unwrap();
        assert!(
            matches!(decision.verdict, Verdict::Skipped(_)) && decision.patch.0.is_empty(),
            "{pod}"
        );
    }
}

#[test]
fn what_cannot_be_beside_a_sidecar_is_denied_with_every_reason() {
    for (spec, says) in [
        (
            json!({"containers": [{"name": "web", "securityContext": {"runAsUser": 2102}}]}),
            "container web: runAsUser 2102",
        ),
        (
            json!({"securityContext": {"runAsUser": 2102}, "containers": [{"name": "web"}]}),
            "runAsUser 2102",
        ),
        (
            json!({"containers": [{"name": "web", "ports": [{"containerPort": 15006}]}]}),
            "port 15006",
        ),
        (
            json!({"containers": [{"name": "web", "livenessProbe": {"httpGet": {"port": 15020}}}]}),
            "livenessProbe: port 15020",
        ),
        (
            json!({"containers": [{"name": "web"}], "volumes": [{"name": "squire-identity", "emptyDir": {}}]}),
            "volume squire-identity",
        ),
    ] {
        let problems = denied(&pod(spec));
        assert!(problems.len() == 1 && problems[0].contains(says), "{problems:?}");
    }
    let spec = json!({"containers": [{"name": "web", "securityContext": {"runAsUser": 2102}, "ports": [{"containerPort": 15001}]}]});
    assert_eq!(denied(&pod(spec)).len(), 2);
    let mut wrong = pod(json!({"containers": []}));
    wrong["metadata"]["annotations"] = json!({"squire.mesh/inject": "maybe"});
    assert!(denied(&wrong)[0].contains("\"true\" or \"false\""));
}

#[test]
fn a_container_may_choose_another_user_than_the_pods_2102() {
    let spec = json!({"securityContext": {"runAsUser": 2102}, "containers": [{"name": "web", "securityContext": {"runAsUser": 1}}]});
    injected(&pod(spec));
}

#[test]
fn a_cluster_without_native_sidecars_is_refused_with_the_version_it_needs() {
    let typed: Pod = serde_json::from_value(pod(json!({"containers": [{"name": "web"}]}))).unwrap();
    let refused = decide(&typed, Owner::Pod, &Cluster { minor: 28 }, &Settings::default()).unwrap_err();
    assert!(
        refused.to_string().contains("1.28") && refused.to_string().contains("1.29"),
        "{refused}"
    );
    assert!(decide(&typed, Owner::Pod, &Cluster { minor: 29 }, &Settings::default()).is_ok());
}

#[test]
fn annotations_shape_the_sidecar_and_the_redirection() {
    let mut pod = pod(json!({"containers": [{"name": "web"}]}));
    pod["metadata"]["annotations"] = json!({
        "squire.mesh/exclude-inbound-ports": "9100, 22",
        "squire.mesh/exclude-outbound-cidrs": "169.254.169.254",
        "squire.mesh/proxy-cpu-limit": "2",
        "squire.mesh/proxy-memory-request": "64Mi",
        "squire.mesh/log-level": "debug",
        "squire.mesh/subscription": "on-demand",
        "prometheus.io/scrape": "true", "prometheus.io/port": "8080",
    });
    let (patched, _) = injected(&pod);
    let [redirect, proxy] = [0, 1].map(|index| &patched["spec"]["initContainers"][index]);
    assert_eq!(
        redirect["env"],
        json!([
            {"name": "SQUIRE_REDIRECT_EXCLUDE_INBOUND_PORTS", "value": "22,9100"},
            {"name": "SQUIRE_REDIRECT_EXCLUDE_OUTBOUND_CIDRS", "value": "169.254.169.254/32"},
        ])
    );
    assert_eq!(
        proxy["resources"],
        json!({
            "limits": {"cpu": "2", "memory": "256Mi"}, "requests": {"cpu": "10m", "memory": "64Mi"},
        })
    );
    let env = proxy["env"].as_array().unwrap();
    for (name, value) in [
        ("SQUIRE_PROXY_LOG_LEVEL", "debug"),
        ("SQUIRE_PROXY_SUBSCRIPTION_MODE", "on-demand"),
    ] {
        assert!(env.contains(&json!({"name": name, "value": value})), "{env:?}");
    }
    assert_eq!(
        patched["metadata"]["annotations"]["prometheus.io/port"], "8080",
        "an application's own scraping stays"
    );
}

#[test]
fn what_another_webhook_adds_afterwards_is_dealt_with_at_the_next_call() {
    let (mut patched, _) = injected(&pod(json!({
        "initContainers": [{"name": "migrate"}],
        "containers": [{"name": "web", "livenessProbe": {"tcpSocket": {"port": 80}}}],
    })));
    // The API server's own defaults and mounts, an init container in front, another container with a probe.
    let inits = patched["spec"]["initContainers"].as_array_mut().unwrap();
    inits[1]["terminationMessagePath"] = json!("/dev/termination-log");
    inits[1]["startupProbe"]["successThreshold"] = json!(1);
    inits.insert(0, json!({"name": "vault-init"}));
    let containers = patched["spec"]["containers"].as_array_mut().unwrap();
    containers.push(json!({"name": "vault", "readinessProbe": {"httpGet": {"port": 8200, "path": "/v1/sys/health"}}}));
    let (again, _) = injected(&patched);
    assert_eq!(
        names(&again),
        ["squire-redirect", "squire-proxy", "vault-init", "migrate"]
    );
    let paths: Vec<String> = told(&again).iter().map(|(path, _)| path.to_owned()).collect();
    assert_eq!(paths, ["/probe/vault/readiness", "/probe/web/liveness"]);
    assert_eq!(decided(&again).unwrap().verdict, Verdict::Unchanged);
}

#[test]
fn what_the_api_server_adds_to_our_own_containers_is_no_reason_to_change_them() {
    let (mut patched, _) = injected(&pod(json!({"containers": [{"name": "web"}]})));
    patched["spec"]["initContainers"][1]["imagePullPolicy"] = json!("IfNotPresent");
    patched["spec"]["volumes"][0]["projected"]["defaultMode"] = json!(420);
    assert_eq!(decided(&patched).unwrap().verdict, Verdict::Unchanged);
}

#[test]
fn probes_that_would_not_fit_into_a_variable_are_denied_and_not_found_out_by_the_kubelet() {
    let headers: Vec<Value> = (0..100)
        .map(|n| json!({"name": format!("X-{n}"), "value": "v".repeat(1000)}))
        .collect();
    let probe = json!({"httpGet": {"port": 80, "httpHeaders": headers}});
    let one = |name: &str| json!({"name": name, "livenessProbe": probe});
    injected(&pod(json!({"containers": [one("a")]})));
    let problems = denied(&pod(json!({"containers": [one("a"), one("b")]})));
    assert!(
        problems[0].contains("bytes") && problems[0].contains("headers"),
        "{problems:?}"
    );
}

#[test]
fn a_pod_of_a_thousand_containers_is_patched_one_operation_at_a_time() {
    let containers: Vec<Value> = (0..1000)
        .map(|n| json!({"name": format!("c{n}"), "env": [{"name": "BIG", "value": "x".repeat(1000)}], "livenessProbe": {"tcpSocket": {"port": 80}}}))
        .collect();
    let decision = decided(&pod(json!({"containers": containers}))).unwrap();
    let size = serde_json::to_vec(&decision.patch).unwrap().len();
    assert!(size < 500_000, "{size}: what a container holds is not in the patch");
}

#[test]
fn fields_that_this_program_does_not_know_stay() {
    let (patched, _) = injected(&pod(
        json!({"newField": {"a": 1}, "containers": [{"name": "web", "newer": true, "livenessProbe": {"newest": 1, "tcpSocket": {"port": 1}}}]}),
    ));
    assert_eq!(patched["spec"]["newField"], json!({"a": 1}));
    assert_eq!(patched["spec"]["containers"][0]["newer"], true);
    assert_eq!(patched["spec"]["containers"][0]["livenessProbe"]["newest"], 1);
}

fn any_handler() -> impl Strategy<Value = Value> {
    let port = prop_oneof![
        (1..=65535_u32).prop_map(|port| json!(port)),
        Just(json!("http")),
        Just(json!("gone"))
    ];
    let text = "[ -~]{0,12}";
    prop_oneof![
        (port.clone(), text, any::<bool>(), text).prop_map(|(port, path, tls, header)| {
            let scheme = if tls { "HTTPS" } else { "HTTP" };
            json!({"httpGet": {"port": port, "path": path, "scheme": scheme, "httpHeaders": [{"name": "X", "value": header}]}})
        }),
        port.prop_map(|port| json!({"tcpSocket": {"port": port}})),
        (1..=65535_i32).prop_map(|port| json!({"grpc": {"port": port}})),
        Just(json!({"exec": {"command": ["true"]}})),
    ]
}

fn any_container(prefix: &'static str) -> impl Strategy<Value = Value> {
    let probes = proptest::collection::btree_map(
        prop_oneof![Just("livenessProbe"), Just("readinessProbe"), Just("startupProbe")],
        any_handler(),
        0..3,
    );
    let ports = proptest::option::of(Just(json!([{"name": "http", "containerPort": 8080}])));
    (1..1000_u32, probes, ports).prop_map(move |(number, probes, ports)| {
        let mut container = json!({"name": format!("{prefix}{number}")});
        for (field, handler) in probes {
            container[field] = handler;
        }
        if let Some(ports) = ports {
            container["ports"] = ports;
        }
        container
    })
}

fn any_pod() -> impl Strategy<Value = Value> {
    let inits = proptest::option::of(proptest::collection::vec(any_container("i"), 0..4));
    let volumes = proptest::option::of(Just(json!([{"name": "data", "emptyDir": {}}])));
    let annotations = proptest::option::of(prop_oneof![
        Just(json!({})),
        Just(json!({"squire.mesh/log-level": "warn", "a/b": "c"})),
        Just(json!({"squire.mesh/inject": "false"})),
    ]);
    let containers = proptest::collection::vec(any_container("c"), 1..4);
    (inits, volumes, annotations, containers, any::<bool>()).prop_map(
        |(inits, volumes, annotations, containers, host)| {
            let mut pod = pod(json!({"containers": containers}));
            let spec = pod["spec"].as_object_mut().unwrap();
            spec.extend(inits.map(|inits| ("initContainers".to_owned(), json!(inits))));
            spec.extend(volumes.map(|volumes| ("volumes".to_owned(), volumes)));
            if host {
                spec.insert("hostNetwork".to_owned(), json!(true));
            }
            if let Some(annotations) = annotations {
                pod["metadata"]["annotations"] = annotations;
            }
            pod
        },
    )
}

proptest! {
    #[test]
    fn patching_twice_is_patching_once(pod in any_pod()) {
        let decision = decided(&pod).unwrap();
        let mut once = pod.clone();
        json_patch::patch(&mut once, &decision.patch).unwrap();
        let again = decided(&once).unwrap();
        prop_assert!(again.patch.0.is_empty(), "{:?}", again.patch);
        if decision.verdict == Verdict::Injected {
            prop_assert_eq!(names(&once)[..2].to_vec(), ["squire-redirect", "squire-proxy"]);
            prop_assert_eq!(again.verdict, Verdict::Unchanged);
        }
    }

    #[test]
    fn what_a_variable_is_told_survives_kubernetes_expansion(header in "[ -~]{0,40}") {
        let spec = json!({"containers": [{"name": "a", "livenessProbe": {"httpGet": {"port": 1, "httpHeaders": [{"name": "X", "value": header}]}}}]});
        let (patched, _) = injected(&pod(spec));
        let told = told(&patched);
        // What a kubelet makes of `$$`, and `$(` alone would be a reference.
        let expanded = to_variable(&told).replace("$$", "$");
        prop_assert_eq!(expanded.parse::<Probes>().unwrap(), told);
        prop_assert!(!to_variable(&patched_probes(&patched)).replace("$$", "").contains('$'));
    }
}

fn patched_probes(pod: &Value) -> Probes {
    told(pod)
}

#[test]
fn the_workload_api_is_for_pods_that_ask_for_it_and_every_container_finds_it() {
    let containers = json!({
        "initContainers": [{"name": "migrate", "env": [{"name": "A", "value": "b"}]}],
        "containers": [
            {"name": "web", "volumeMounts": [{"name": "data", "mountPath": "/data"}]},
            {"name": "own", "env": [{"name": "SPIFFE_ENDPOINT_SOCKET", "value": "unix:///spire"}]},
        ],
    });
    let (silent, _) = injected(&pod(containers.clone()));
    assert!(!silent.to_string().contains("workload-api"), "nobody has asked");
    let mut wished = pod(containers);
    wished["metadata"]["annotations"] = json!({"squire.mesh/workload-api": "true"});
    let (patched, warnings) = injected(&wished);
    let volume = json!({"name": "squire-workload-api", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}});
    assert!(
        patched["spec"]["volumes"].as_array().unwrap().contains(&volume),
        "{patched}"
    );
    let socket = "/run/squire/workload-api/agent.sock";
    let proxy = &patched["spec"]["initContainers"][1];
    let variables = proxy["env"].as_array().unwrap();
    assert!(variables.contains(&json!({"name": "SQUIRE_PROXY_WORKLOAD_API_SOCKET", "value": socket})));
    assert!(variables.contains(&json!({"name": "SQUIRE_PROXY_WORKLOAD_API_USERS", "value": "any"})));
    let written = json!({"name": "squire-workload-api", "mountPath": "/run/squire/workload-api"});
    assert!(proxy["volumeMounts"].as_array().unwrap().contains(&written), "{proxy}");
    let mut read = written;
    read["readOnly"] = json!(true);
    let found = json!({"name": "SPIFFE_ENDPOINT_SOCKET", "value": format!("unix://{socket}")});
    let others = [
        &patched["spec"]["initContainers"][2],
        &patched["spec"]["containers"][0],
        &patched["spec"]["containers"][1],
    ];
    for container in others {
        assert!(
            container["volumeMounts"].as_array().unwrap().contains(&read),
            "{container}"
        );
    }
    assert!(others[0]["env"].as_array().unwrap().contains(&found), "{}", others[0]);
    assert!(others[1]["env"].as_array().unwrap().contains(&found), "{}", others[1]);
    assert!(!others[2]["env"].as_array().unwrap().contains(&found), "its own stays");
    assert!(
        warnings.len() == 1 && warnings[0].contains("container own"),
        "{warnings:?}"
    );
    let again = decided(&patched).unwrap();
    assert_eq!(again.verdict, Verdict::Unchanged, "{:?}", again.patch);
}

#[test]
fn what_is_mounted_where_the_workload_api_goes_is_named() {
    let mut taken = pod(json!({"containers": [
        {"name": "web", "volumeMounts": [{"name": "data", "mountPath": "/run/squire/workload-api/"}]},
    ]}));
    taken["metadata"]["annotations"] = json!({"squire.mesh/workload-api": "true"});
    let why = denied(&taken);
    assert!(why.len() == 1 && why[0].contains("container web"), "{why:?}");
}
