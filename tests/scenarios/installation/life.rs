//! A whole life: installed, a namespace meshed, an application deployed, reached under its identity, denied by a policy, and
//! everything taken away again.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use squire_tests::{eventually, id};

use super::{
    probes,
    world::{Installed, PYTHON, SYSTEM, checked, inits, printed, python},
};

/// Two Deployments and what they need, as an application's own manifests have it.
async fn shop() -> String {
    let (mut app, volumes) = python().await;
    app["name"] = json!("app");
    app["image"] = json!("debian");
    app["command"] = json!(["sleep", "infinity"]);
    format!("{SHOP}      containers: [{app}]\n      volumes: {volumes}\n")
}

/// All but the containers of the last.
const SHOP: &str = "
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: db, namespace: shop}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: web, namespace: shop}}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec:
  selector: {app: db}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: db, namespace: shop}
spec:
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      serviceAccountName: db
      containers:
      - name: app
        image: debian
        command: [python3, -m, http.server, '8080', --directory, /usr/share]
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}, annotations: {squire.mesh/workload-api: 'true', squire.mesh/subscription: on-demand}}
    spec:
      serviceAccountName: web
";

/// What an application does that has the `spiffe` package and no configuration: its own SVID, and what it shows others.
const OWN_IDENTITY: &str = "
import json
from spiffe import WorkloadApiClient
with WorkloadApiClient() as client:
    svid = client.fetch_x509_svid(timeout=20)
    token = client.fetch_jwt_svid(audience={'db'}, timeout=20)
    roots = client.fetch_x509_bundles(timeout=20).get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
print(json.dumps({
    'id': str(svid.spiffe_id), 'token': str(token.spiffe_id), 'roots': len(roots.x509_authorities),
    'issuer': svid.cert_chain[-1].issuer.rfc4514_string(),
    'signed': [root.subject.rfc4514_string() for root in roots.x509_authorities],
}))
";

const ONLY_BATCH: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-batch, namespace: shop}
spec:
  selector: {matchLabels: {app: db}}
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/batch]}}]}]
";

const CRON_JOB: &str = "
apiVersion: batch/v1
kind: CronJob
metadata: {name: often, namespace: shop}
spec:
  schedule: 0 0 1 1 *
  jobTemplate:
    spec:
      backoffLimit: 0
      template:
        spec:
          serviceAccountName: web
          restartPolicy: Never
          containers: [{name: app, image: debian, command: [curl, -sf, --max-time, '10', 'http://db.shop.svc/']}]
";

/// Everything of ours is named so.
const OURS: [&str; 2] = ["squire", "security.istio.io"];

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_is_installed_carries_an_application_under_its_policies_and_goes_without_residue() {
    let Some(installed) = Installed::new().await else {
        return;
    };
    eprintln!("install to ready: {:.1?}", installed.ready_in);
    assert!(
        installed.ready_in <= Duration::from_secs(30),
        "{:?}",
        installed.ready_in
    );
    applied_again_changes_nothing(&installed).await;

    installed.namespace("shop", true).await;
    installed.api.apply(&shop().await).await;
    let (db, web) = (runs(&installed, "db").await, runs(&installed, "web").await);
    let again = installed.api.apply(&shop().await).await;
    assert!(again.lines().all(|line| line.ends_with("unchanged")), "{again}");
    pods_are_as_the_injector_made_them(&installed, &web).await;
    redirection_is_proved_by_the_image_itself(&installed, &web).await;
    traffic_bears_identities(&installed, &db, &web).await;
    checked_all_is_well(&installed).await;
    the_application_has_an_identity_of_its_own(&installed, &web).await;
    probes::of_every_kind_say_of_a_pod_what_they_say_without_a_sidecar(&installed).await;
    a_policy_denies_and_its_removal_allows(&installed, &db, &web).await;
    a_job_ends(&installed).await;
    gone_without_residue(&installed, &web).await;
}

/// The name of the one pod of an application, once it is ready.
async fn runs(installed: &Installed, app: &str) -> String {
    let rollout = [
        "-n",
        "shop",
        "rollout",
        "status",
        &format!("deployment/{app}"),
        "--timeout=29s",
    ];
    installed.kubectl(&rollout).await;
    let pods = installed.pods("shop", &format!("app={app}")).await;
    assert_eq!(pods.len(), 1, "{pods:?}");
    format!("shop/{}", pods[0]["metadata"]["name"].as_str().unwrap())
}

async fn applied_again_changes_nothing(installed: &Installed) {
    let manifests = installed.manifests().await;
    let again = installed.api.apply(&manifests).await;
    // The selector of a PodDisruptionBudget is replaced as a whole, so that kubectl always has something to send.
    let same = |line: &&str| line.ends_with("unchanged") || line.starts_with("poddisruptionbudget");
    let changed: Vec<&str> = again.lines().filter(|line| !same(line)).collect();
    assert!(changed.is_empty(), "applied again, nothing changes: {changed:?}");
    let server_side = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    for _ in 0..2 {
        installed.api.kubectl_succeeds(&server_side, &manifests).await;
    }
    let bundle = installed.webhook().await["webhooks"][0]["clientConfig"]["caBundle"].clone();
    assert!(
        bundle.as_str().is_some_and(|bundle| !bundle.is_empty()),
        "the caBundle stays"
    );
}

async fn pods_are_as_the_injector_made_them(installed: &Installed, web: &str) {
    let (_, name) = web.split_once('/').unwrap();
    let pod = installed.json(&["-n", "shop", "get", "pod", name]).await;
    assert_eq!(inits(&pod), ["squire-redirect", "squire-proxy"]);
    assert_eq!(pod["metadata"]["labels"]["squire.mesh/owner-kind"], "Deployment");
    assert_eq!(pod["metadata"]["annotations"]["squire.mesh/injected"], "true");
    let env = &pod["spec"]["initContainers"][1]["env"];
    let on_demand = json!({"name": "SQUIRE_PROXY_SUBSCRIPTION_MODE", "value": "on-demand"});
    assert!(env.as_array().unwrap().contains(&on_demand), "{env}");
}

/// The image has no shell and no `nft`: its one program wrote the rules, and proves them.
async fn redirection_is_proved_by_the_image_itself(installed: &Installed, web: &str) {
    let check = |capabilities: Value| {
        json!({
            "name": "check", "image": "squire-proxy", "args": ["redirect", "--check"],
            "securityContext": {
                "runAsUser": 0, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"], "add": capabilities},
            },
        })
    };
    let proved = installed.node.run(web, &check(json!(["NET_ADMIN", "NET_RAW"]))).await;
    assert!(proved.status.success(), "{proved:?}");
    let unable = installed.node.run(web, &check(json!([]))).await;
    assert_eq!(unable.status.code(), Some(77), "{unable:?}");
}

/// What `curl` in the application says: the status, or its own exit code.
async fn asks(installed: &Installed, pod: &str, url: &str) -> Result<u16, String> {
    let words = [
        "curl",
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "--max-time",
        "5",
        url,
    ];
    let output = installed.node.exec(pod, "app", &words).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        Ok(text.parse().unwrap())
    } else {
        Err(format!("{}: {text}", output.status))
    }
}

/// Lines of a sidecar's access log.
fn access_log(installed: &Installed, pod: &str) -> Vec<Value> {
    let log = installed.node.log(pod, "squire-proxy");
    let lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
    lines.filter(|line: &Value| line["event"].is_string()).collect()
}

async fn traffic_bears_identities(installed: &Installed, db: &str, web: &str) {
    eventually("web reaches db", async || {
        (asks(installed, web, "http://db.shop.svc/").await == Ok(200)).then_some(())
    })
    .await;
    eventually("db's sidecar knows who asked", async || {
        let log = access_log(installed, db);
        log.iter().any(|line| line["source"] == id("web")).then_some(())
    })
    .await;
    // The token was reviewed by the API server, and the certificate came from the CA in the Secret.
    let issued = installed.figure("control", 15014, "squire_ca_issued_total", &[]).await;
    assert!(issued >= 3.0, "{issued}");
}

async fn checked_all_is_well(installed: &Installed) {
    let (code, findings) = checked(installed, &[]).await;
    for finding in findings.as_array().unwrap() {
        assert_eq!(finding["mark"], "ok", "{findings:#}");
    }
    assert_eq!(code, Some(0));
    let asked: Vec<_> = findings
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| finding["what"].clone())
        .collect();
    for what in ["version", "clock", "certificates", "webhook", "injection", "proxies"] {
        assert!(asked.contains(&json!(what)), "{asked:?}");
    }
}

/// Through the socket, whose address its container was told at admission.
async fn the_application_has_an_identity_of_its_own(installed: &Installed, web: &str) {
    let output = installed
        .node
        .exec(web, "app", &[&PYTHON[..], &[OWN_IDENTITY]].concat())
        .await;
    assert!(output.status.success(), "{output:?}");
    let got: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&got["id"], &got["token"]), (&json!(id("web")), &json!(id("web"))));
    assert_eq!(got["roots"], 1, "{got}");
    assert_eq!(
        got["issuer"], got["signed"][0],
        "the chain ends under the mesh's root: {got}"
    );
}

async fn a_policy_denies_and_its_removal_allows(installed: &Installed, db: &str, web: &str) {
    installed.api.apply(ONLY_BATCH).await;
    let begun = Instant::now();
    let refused = eventually("web is refused", async || {
        let answer = asks(installed, web, "http://db.shop.svc/").await;
        (answer != Ok(200)).then_some(answer)
    })
    .await;
    eprintln!("refused after {:.1?}: {refused:?}", begun.elapsed());
    assert!(refused == Ok(403) || refused.is_err(), "{refused:?}");
    let line = eventually("db's sidecar says which policy", async || {
        let log = access_log(installed, db);
        log.into_iter().find(|line| line.to_string().contains("only-batch"))
    })
    .await;
    assert_eq!(line["source"], id("web"), "{line}");
    installed
        .kubectl(&["-n", "shop", "delete", "authorizationpolicy", "only-batch"])
        .await;
    eventually("web is let in again", async || {
        (asks(installed, web, "http://db.shop.svc/").await == Ok(200)).then_some(())
    })
    .await;
}

async fn a_job_ends(installed: &Installed) {
    installed.api.apply(CRON_JOB).await;
    // As its controller does when the time has come.
    installed
        .kubectl(&["-n", "shop", "create", "job", "ask", "--from=cronjob/often"])
        .await;
    let ended = [
        "-n",
        "shop",
        "wait",
        "--for=condition=complete",
        "job/ask",
        "--timeout=29s",
    ];
    installed.kubectl(&ended).await;
    let pods = installed.pods("shop", "job-name=ask").await;
    assert_eq!(pods[0]["metadata"]["labels"]["squire.mesh/owner-kind"], "Job");
    assert_eq!(inits(&pods[0]), ["squire-redirect", "squire-proxy"]);
}

async fn gone_without_residue(installed: &Installed, web: &str) {
    let removal = printed(&["uninstall"]).await;
    let delete = ["delete", "--ignore-not-found", "--wait=false", "-f", "-"];
    installed.api.kubectl_succeeds(&delete, &removal).await;
    let copies = ["delete", "configmap", "-A", "-l", "app.kubernetes.io/managed-by=squire"];
    eventually("the namespace is gone", async || {
        let found = installed.api.kubectl(&["get", "namespace", SYSTEM], "").await;
        (!found.status.success()).then_some(())
    })
    .await;
    installed.kubectl(&copies).await;
    let kinds = installed
        .kubectl(&["api-resources", "--verbs=list", "-o", "name"])
        .await;
    // Events tell what was, and end by themselves.
    let kinds: Vec<&str> = kinds.lines().filter(|kind| !kind.starts_with("events")).collect();
    let left = eventually("nothing of ours is left", async || {
        let left = installed
            .kubectl(&["get", &kinds.join(","), "-A", "-o", "name", "--ignore-not-found"])
            .await;
        let ours = left.lines().filter(|line| OURS.iter().any(|word| line.contains(word)));
        (ours.count() == 0).then_some(left)
    })
    .await;
    assert!(left.contains("pod/web-"), "everything was listed: {left}");
    for label in [
        "app.kubernetes.io/part-of=squire",
        "app.kubernetes.io/managed-by=squire-install",
    ] {
        let left = installed
            .kubectl(&["get", &kinds.join(","), "-A", "-l", label, "-o", "name"])
            .await;
        assert_eq!(left, "", "{label}");
    }
    // Pods that run keep their sidecars; new ones are as the application wrote them.
    assert_eq!(asks(installed, web, "http://db.shop.svc/").await, Ok(200));
    let plain = json!({"metadata": {"name": "after"}, "spec": {"containers": [{"name": "app", "image": "debian"}]}});
    let after = installed.admitted("shop", plain).await.unwrap();
    assert_eq!(inits(&after), Vec::<&str>::new());
}
