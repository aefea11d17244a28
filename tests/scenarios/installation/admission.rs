//! Admission under everything that can happen to it, by an API server that shows the webhook who it is: pods of every shape,
//! callers who have no business there, certificates
//! that change under a stream of creations, nobody who answers, rights that are taken away.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use squire_tests::eventually;

use super::{
    callers, cases, certificates,
    world::{Installed, SYSTEM, checked, inits, printed},
};

/// Creations whose time is taken; with `SQUIRE_BENCH`, on a quiet machine and with release builds (`SQUIRE_TEST_BINARIES`),
/// enough for a figure that is asserted.
fn timed_creations() -> usize {
    if std::env::var_os("SQUIRE_BENCH").is_some() {
        1000
    } else {
        80
    }
}

pub(super) fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{
        "name": "web", "image": "web:1", "ports": [{"name": "http", "containerPort": 8080}],
        "livenessProbe": {"httpGet": {"path": "/live", "port": "http"}}, "readinessProbe": {"grpc": {"port": 9090}},
    }]}})
}

pub(super) fn is_injected(pod: &Value) -> bool {
    inits(pod).starts_with(&["squire-redirect", "squire-proxy"])
}

#[tokio::test(flavor = "multi_thread")]
async fn admission_holds_whatever_is_created_whoever_calls_and_whatever_happens_to_the_injector() {
    let Some(installed) = Installed::with(callers::only_the_api_server).await else {
        return;
    };
    installed.namespace("shop", true).await;
    installed.namespace("plain", false).await;
    cases::every_shape_of_pod_is_injected_or_says_why_not(&installed).await;
    applied_twice_and_server_side_a_pod_stays_as_it_is(&installed).await;
    a_file_gets_what_the_webhook_gives(&installed).await;
    who_is_skipped_is_told_and_listed(&installed).await;
    callers::are_answered_only_with_the_certificate_of_the_api_server(&installed).await;
    callers::whose_request_is_no_review_are_refused_and_the_next_review_is_answered(&installed).await;
    admission_takes_little_time(&installed).await;
    certificates::change_under_a_stream_of_creations(&installed).await;
    certificates::of_a_new_root_are_believed_without_anybody_noticing(&installed).await;
    nobody_has_more_rights_than_it_needs(&installed).await;
    a_namespace_is_meshed_as_long_as_its_label_says_so(&installed).await;
    without_rights_the_injector_goes_on_and_catches_up(&installed).await;
    while_nobody_answers_only_meshed_namespaces_are_closed(&installed).await;
}

async fn applied_twice_and_server_side_a_pod_stays_as_it_is(installed: &Installed) {
    // Without probes: those of a pod that stands are immutable, and they are the sidecar's now (injector/README.md).
    let container = json!({"name": "web", "image": "web:1", "env": [{"name": "A", "value": "b"}]});
    let pod =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "twice"}, "spec": {"containers": [container]}});
    let pod = pod.to_string();
    let apply = async |more: &[&str]| {
        let arguments = [&["apply", "-n", "shop", "-f", "-"], more].concat();
        installed.api.kubectl_succeeds(&arguments, &pod).await
    };
    assert!(apply(&[]).await.contains("created"));
    assert!(apply(&[]).await.contains("unchanged"));
    for _ in 0..2 {
        apply(&["--server-side", "--force-conflicts"]).await;
    }
    let there = installed.json(&["-n", "shop", "get", "pod", "twice"]).await;
    assert!(is_injected(&there) && inits(&there).len() == 2, "{there}");
    installed.remove("shop", "twice").await;
}

/// `squire inject -f` in a namespace without sidecars, and the webhook in one with them.
async fn a_file_gets_what_the_webhook_gives(installed: &Installed) {
    let mut object = pod("file");
    object["apiVersion"] = json!("v1");
    object["kind"] = json!("Pod");
    let file = installed.api.dir().join("pod.json");
    std::fs::write(&file, object.to_string()).unwrap();
    let text = printed(&["inject", "-f", file.to_str().unwrap()]).await;
    let dry = ["-n", "plain", "create", "--dry-run=server", "-o", "json", "-f", "-"];
    let by_hand: Value = serde_json::from_str(&installed.api.kubectl_succeeds(&dry, &text).await).unwrap();
    let admitted = installed.admitted("shop", pod("file")).await.unwrap();
    for field in ["initContainers", "containers"] {
        // The API server mounts a token of its own, of another name in each.
        let without_tokens = |pod: &Value| {
            let mut containers = pod["spec"][field].clone();
            for container in containers.as_array_mut().unwrap() {
                let mounts = container["volumeMounts"].as_array_mut().unwrap();
                mounts.retain(|mount| !mount["name"].as_str().unwrap().starts_with("kube-api-access-"));
            }
            containers
        };
        assert_eq!(without_tokens(&by_hand), without_tokens(&admitted), "{field}");
    }
    assert!(is_injected(&by_hand));
    // Whoever is injected already stays as it is, also where the webhook looks on.
    let dry = ["-n", "shop", "create", "--dry-run=server", "-o", "json", "-f", "-"];
    let twice: Value = serde_json::from_str(&installed.api.kubectl_succeeds(&dry, &text).await).unwrap();
    assert_eq!(inits(&twice), inits(&admitted));
}

async fn who_is_skipped_is_told_and_listed(installed: &Installed) {
    let host = json!({"hostNetwork": true, "containers": [{"name": "web", "image": "debian", "command": ["sleep", "infinity"]}]});
    let warned = installed.create("shop", "host", json!({}), host).await.unwrap();
    assert!(warned.contains("hostNetwork"), "{warned}");
    let out = json!({"containers": [{"name": "web", "image": "debian", "command": ["sleep", "infinity"]}]});
    let opted_out = json!({"squire.mesh/inject": "false"});
    installed.create("shop", "out", opted_out, out).await.unwrap();
    eventually("the gaps are counted", async || {
        let gap = async |reason| {
            installed
                .figure("injector", 15016, "squire_injector_gap_pods", &[("reason", reason)])
                .await
        };
        // Each of both replicas counts.
        (gap("host-network").await >= 2.0 && gap("opted-out").await >= 2.0).then_some(())
    })
    .await;
    eventually("the pod has an Event", async || {
        installed
            .kubectl(&["-n", "shop", "get", "events"])
            .await
            .contains("NoSidecar")
            .then_some(())
    })
    .await;
    installed.remove("shop", "host").await;
    installed.remove("shop", "out").await;
}

/// Times of creations, sorted.
async fn timed(installed: &Installed, namespace: &str) -> Vec<Duration> {
    let mut times = Vec::new();
    for number in 0..timed_creations() {
        let begun = Instant::now();
        installed
            .admitted(namespace, pod(&format!("timed-{number}")))
            .await
            .unwrap();
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    times
}

async fn admission_takes_little_time(installed: &Installed) {
    let (meshed, plain) = (timed(installed, "shop").await, timed(installed, "plain").await);
    let at = |times: &[Duration], percent: usize| times[times.len() * percent / 100];
    let count = async |le: &str| {
        installed
            .figure(
                "injector",
                15016,
                "squire_injector_admission_seconds_bucket",
                &[("le", le)],
            )
            .await
    };
    let (all, within) = (count("+Inf").await, count("0.016").await);
    eprintln!(
        "{} creations of a pod: p50 {:.1?}, p99 {:.1?} with the webhook; p50 {:.1?}, p99 {:.1?} without; in the injector {:.2} % of {all} \
         within 16 ms",
        meshed.len(),
        at(&meshed, 50),
        at(&meshed, 99),
        at(&plain, 50),
        at(&plain, 99),
        100.0 * within / all
    );
    // On a busy machine everything takes longer: half of them decide here, by the injector's own clock.
    assert!(within >= all / 2.0, "{within} of {all} within 16 ms");
    if std::env::var_os("SQUIRE_BENCH").is_some() {
        assert!(at(&meshed, 99) <= Duration::from_millis(20), "{:?}", at(&meshed, 99));
    }
}

async fn nobody_has_more_rights_than_it_needs(installed: &Installed) {
    let may = async |account: &str, verb: &str, resource: &str, namespace: &str| {
        let who = format!("--as=system:serviceaccount:{account}");
        let output = installed
            .api
            .kubectl(&["auth", "can-i", verb, resource, "-n", namespace, &who], "")
            .await;
        output.status.success()
    };
    let (control, injector, other) = (
        "squire-system:squire-control",
        "squire-system:squire-injector",
        "shop:default",
    );
    for (account, verb, resource, namespace, right) in [
        (control, "create", "tokenreviews", "default", true),
        (control, "get", "secrets/squire-ca", SYSTEM, true),
        (control, "get", "secrets", "shop", false),
        (control, "create", "pods", "shop", false),
        (control, "patch", "pods", "shop", false),
        (control, "patch", "mutatingwebhookconfigurations", "default", false),
        (
            injector,
            "patch",
            "mutatingwebhookconfigurations/squire-injector",
            "default",
            true,
        ),
        (
            injector,
            "patch",
            "mutatingwebhookconfigurations/other",
            "default",
            false,
        ),
        (injector, "patch", "configmaps/squire-trust-bundle", "shop", true),
        (injector, "patch", "configmaps/other", "shop", false),
        (injector, "get", "secrets", SYSTEM, false),
        (injector, "create", "tokenreviews", "default", false),
        (other, "get", "secrets", SYSTEM, false),
        (other, "create", "tokenreviews", "default", false),
    ] {
        assert_eq!(
            may(account, verb, resource, namespace).await,
            right,
            "{account} {verb} {resource} in {namespace}"
        );
    }
}

async fn a_namespace_is_meshed_as_long_as_its_label_says_so(installed: &Installed) {
    installed
        .kubectl(&["label", "namespace", "shop", "squire.mesh/inject-"])
        .await;
    eventually("its pods stay as they are", async || {
        inits(&installed.admitted("shop", pod("x")).await.ok()?)
            .is_empty()
            .then_some(())
    })
    .await;
    installed
        .kubectl(&["label", "namespace", "shop", "plain", "squire.mesh/inject=true"])
        .await;
    for namespace in ["shop", "plain"] {
        eventually("its pods are injected", async || {
            is_injected(&installed.admitted(namespace, pod("x")).await.ok()?).then_some(())
        })
        .await;
        eventually("the roots are there", async || {
            let found = ["-n", namespace, "get", "configmap", "squire-trust-bundle"];
            installed.api.kubectl(&found, "").await.status.success().then_some(())
        })
        .await;
    }
    installed
        .kubectl(&["label", "namespace", "plain", "squire.mesh/inject-"])
        .await;
    // Namespaces of the cluster itself are never meshed, whatever is written on them.
    installed
        .kubectl(&["label", "namespace", "kube-system", SYSTEM, "squire.mesh/inject=true"])
        .await;
    let system = installed.admitted("kube-system", pod("x")).await.unwrap();
    assert_eq!(inits(&system), Vec::<&str>::new());
    installed
        .kubectl(&["label", "namespace", "kube-system", SYSTEM, "squire.mesh/inject-"])
        .await;
}

async fn without_rights_the_injector_goes_on_and_catches_up(installed: &Installed) {
    installed
        .kubectl(&["delete", "clusterrolebinding", "squire-injector"])
        .await;
    for _ in 0..4 {
        assert!(is_injected(&installed.admitted("shop", pod("x")).await.unwrap()));
    }
    installed.namespace("late", true).await;
    assert!(
        is_injected(&installed.admitted("late", pod("x")).await.unwrap()),
        "the webhook needs no rights"
    );
    installed.api.apply(&installed.manifests().await).await;
    eventually(
        "the roots come to the namespace that was meshed meanwhile",
        async || {
            let found = ["-n", "late", "get", "configmap", "squire-trust-bundle"];
            installed.api.kubectl(&found, "").await.status.success().then_some(())
        },
    )
    .await;
}

async fn while_nobody_answers_only_meshed_namespaces_are_closed(installed: &Installed) {
    let scale = async |replicas: &str| {
        installed
            .kubectl(&[
                "-n",
                SYSTEM,
                "scale",
                "deployment/squire-injector",
                &format!("--replicas={replicas}"),
            ])
            .await;
    };
    scale("0").await;
    installed.available("squire-injector", 0).await;
    eventually("nobody runs any more", async || {
        installed.node.processes("injector").is_empty().then_some(())
    })
    .await;
    let (code, findings) = checked(installed, &[]).await;
    assert_eq!(code, Some(1), "{findings:#}");
    for (what, fix) in [
        ("deployment squire-injector", "kubectl -n squire-system describe"),
        ("injection", "may the API server reach it?"),
    ] {
        let finding = findings
            .as_array()
            .unwrap()
            .iter()
            .find(|finding| finding["what"] == what);
        let finding = finding.unwrap_or_else(|| panic!("{what} is not asked about: {findings:#}"));
        assert_eq!(finding["mark"], "failed", "{finding}");
        assert!(finding["fix"].as_str().unwrap().contains(fix), "{finding}");
    }
    let refused = installed.admitted("shop", pod("late")).await.unwrap_err();
    assert!(refused.contains("pods.injector.squire.mesh"), "{refused}");
    assert!(inits(&installed.admitted("plain", pod("late")).await.unwrap()).is_empty());
    assert!(inits(&installed.admitted("kube-system", pod("late")).await.unwrap()).is_empty());
    let mut out = pod("out");
    out["metadata"]["labels"] = json!({"squire.mesh/inject": "false"});
    assert!(
        inits(&installed.admitted("shop", out).await.unwrap()).is_empty(),
        "who opts out by label is not asked about"
    );
    // Our own pods are not in the way of themselves.
    scale("2").await;
    installed.available("squire-injector", 2).await;
    eventually("pods are injected again", async || {
        is_injected(&installed.admitted("shop", pod("late")).await.ok()?).then_some(())
    })
    .await;
}
