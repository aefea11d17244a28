//! Installed into a real API server: what `squire install` renders is accepted, pods are injected by the webhook the API
//! server calls, and nothing is left after `squire uninstall`.

use std::{net::IpAddr, path::PathBuf, process::Output};

use serde_json::{Value, json};
use squire_tests::{ApiServer, Process, binary, eventually, http, in_time, namespace};
use tokio::process::Command;

/// A cluster with the mesh installed: its control plane and injector run as processes, with the rights that were installed.
struct Installed {
    server: ApiServer,
    host: Host,
    control: Process,
    injector: Option<Process>,
}

/// An address outside of loopback, which endpoints must have; gone when dropped.
struct Host(IpAddr);

impl Host {
    fn new(server: &ApiServer) -> Self {
        let IpAddr::V4(own) = server.address(1) else {
            panic!("loopback is IPv4 here")
        };
        let [_, a, b, _] = own.octets();
        let host = Self(IpAddr::from([198, 18 + (a & 1), a, b]));
        host.ip("add");
        host
    }

    fn ip(&self, verb: &str) {
        let address = format!("{}/32", self.0);
        let _ = std::process::Command::new("ip")
            .args(["addr", verb, &address, "dev", "lo"])
            .output();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.ip("del");
    }
}

async fn squire(arguments: &[&str], input: &str) -> Output {
    use tokio::io::AsyncWriteExt as _;
    let mut command = Command::new(binary("squire"));
    command.args(arguments).kill_on_drop(true);
    command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    tokio::spawn(async move { stdin.write_all(input.as_bytes()).await });
    in_time(&format!("squire {arguments:?}"), child.wait_with_output())
        .await
        .unwrap()
}

async fn printed(arguments: &[&str]) -> String {
    let output = squire(arguments, "").await;
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

impl Installed {
    /// Applies what `squire install` prints, twice and once more server-side, and starts what its Deployments would start.
    async fn new() -> Option<Self> {
        if !namespace::possible() {
            return None;
        }
        let server = ApiServer::start_with(&["--enable-aggregator-routing=true"]).await?;
        server.controllers().await;
        let manifests = printed(&["install"]).await;
        server.apply(&manifests).await;
        let again = server.apply(&manifests).await;
        // The selector of a PodDisruptionBudget is replaced as a whole, so that kubectl always has something to send.
        let same = |line: &&str| line.ends_with("unchanged") || line.starts_with("poddisruptionbudget");
        let changed: Vec<&str> = again.lines().filter(|line| !same(line)).collect();
        assert!(changed.is_empty(), "applied again, nothing changes: {changed:?}");
        server
            .kubectl_succeeds(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &manifests)
            .await;

        let host = Host::new(&server);
        let control = control(&server).await;
        let mut installed = Self {
            server,
            host,
            control,
            injector: None,
        };
        installed.endpoints().await;
        installed.start_injector().await;
        Some(installed)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.server.dir().join(name)
    }

    /// As the EndpointSlice controller does for the injector's ready pods.
    async fn endpoints(&self) {
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": "squire-injector-test", "namespace": "squire-system",
                "labels": {"kubernetes.io/service-name": "squire-injector"},
            },
            "endpoints": [{"addresses": [self.host.0.to_string()], "conditions": {"ready": true}}],
            "ports": [{"name": "webhook", "port": 15017, "protocol": "TCP"}],
        });
        self.server.apply(&slice.to_string()).await;
    }

    async fn start_injector(&mut self) {
        // The Deployment's own pods wait for a node that never comes: a token is bound to one of them, as a kubelet has it.
        let list = [
            "-n",
            "squire-system",
            "get",
            "pods",
            "-l",
            "app.kubernetes.io/name=squire-injector",
        ];
        let (pod, uid) = eventually("the injector has a pod", async || {
            let pods = self.json(&list).await;
            let metadata = pods["items"].as_array()?.first()?["metadata"].clone();
            Some((
                metadata["name"].as_str()?.to_owned(),
                metadata["uid"].as_str()?.to_owned(),
            ))
        })
        .await;
        let bound = Some((pod.as_str(), uid.as_str()));
        let token = self
            .server
            .token("squire-system", "squire-injector", &["squire-ca"], bound)
            .await;
        std::fs::write(self.file("injector-token"), token).unwrap();
        let kubeconfig = self.server.kubeconfig_of("squire-system", "squire-injector").await;
        let admin = format!("{}:15016", self.server.address(3));
        let mut command = Command::new(binary("squire"));
        command.args(["injector", "--token", self.file("injector-token").to_str().unwrap()]);
        command.args([
            "--control",
            &format!("{}:15012", self.server.address(2)),
            "--linger",
            "0",
        ]);
        command.args(["--listen", &format!("{}:15017", self.host.0), "--admin", &admin]);
        command.env("KUBECONFIG", kubeconfig);
        self.injector = Some(Process::start("injector", &mut command, self.server.dir()));
        let admin = admin.parse().unwrap();
        eventually("the injector is ready", async || {
            (http::get(admin, "/ready").await.ok()?.0 == 200).then_some(())
        })
        .await;
        eventually("the webhook has its caBundle", async || {
            let bundle = self.webhook().await["webhooks"][0]["clientConfig"]["caBundle"].clone();
            bundle.as_str().filter(|bundle| !bundle.is_empty()).map(|_| ())
        })
        .await;
    }

    async fn webhook(&self) -> Value {
        self.json(&["get", "mutatingwebhookconfiguration", "squire-injector"])
            .await
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        let arguments = [arguments, &["-o", "json"]].concat();
        serde_json::from_str(&self.server.kubectl_succeeds(&arguments, "").await).unwrap()
    }

    /// Namespaces with the service account that controllers make.
    async fn namespace(&self, name: &str, meshed: bool) {
        self.server
            .apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}).to_string())
            .await;
        if meshed {
            self.server
                .kubectl_succeeds(&["label", "namespace", name, "squire.mesh/inject=true"], "")
                .await;
        }
        eventually("a namespace has its service account", async || {
            let found = self
                .server
                .kubectl(&["-n", name, "get", "serviceaccount", "default"], "")
                .await;
            found.status.success().then_some(())
        })
        .await;
    }

    /// Creates a pod: standard output and error.
    async fn create(&self, namespace: &str, name: &str, annotations: Value, spec: Value) -> Result<String, String> {
        let metadata = json!({"name": name, "namespace": namespace, "annotations": annotations});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        let output = self.server.kubectl(&["create", "-f", "-"], &pod.to_string()).await;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            Ok(errors)
        } else {
            Err(errors)
        }
    }
}

/// The control plane, with the rights that were installed for it and no others.
async fn control(server: &ApiServer) -> Process {
    let (dir, address) = (server.dir(), server.address(2));
    let kubeconfig = server.kubeconfig_of("squire-system", "squire-control").await;
    let mut command = Command::new(binary("squire"));
    command.args([
        "control",
        "--kubernetes",
        "--replica",
        "control-0",
        "--lease-seconds",
        "2",
    ]);
    command.arg("--kubeconfig").arg(kubeconfig);
    command.args([
        "--grpc",
        &format!("{address}:15012"),
        "--admin",
        &format!("{address}:15014"),
    ]);
    let process = Process::start("control", &mut command, dir);
    let admin = format!("{address}:15014").parse().unwrap();
    eventually("the control plane is ready", async || {
        (http::get(admin, "/ready").await.ok()?.0 == 200).then_some(())
    })
    .await;
    process
}

fn web() -> Value {
    json!({"containers": [{
        "name": "web", "image": "web:1", "ports": [{"name": "http", "containerPort": 8080}],
        "livenessProbe": {"httpGet": {"path": "/live", "port": "http"}},
        "readinessProbe": {"grpc": {"port": 9090}},
    }]})
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::print_stderr, reason = "says that it is skipped")]
async fn installed_into_a_real_cluster_every_pod_of_a_meshed_namespace_is_injected_until_it_is_uninstalled() {
    if std::env::var_os("SQUIRE_TEST_INSTALL").is_none() {
        eprintln!("SKIPPED: set SQUIRE_TEST_INSTALL=1 to run a whole installation");
        return;
    }
    let Some(mut installed) = Installed::new().await else {
        return;
    };
    installed.namespace("shop", true).await;
    installed.namespace("plain", false).await;

    // A pod that the API server has taken, with everything it checks.
    installed.create("shop", "web", json!({}), web()).await.unwrap();
    let pod = installed.json(&["-n", "shop", "get", "pod", "web"]).await;
    let inits = pod["spec"]["initContainers"].as_array().unwrap();
    assert_eq!(
        (&inits[0]["name"], &inits[1]["name"]),
        (&json!("squire-redirect"), &json!("squire-proxy"))
    );
    assert_eq!(inits[1]["restartPolicy"], "Always");
    assert_eq!(pod["spec"]["containers"][0]["livenessProbe"]["httpGet"]["port"], 15020);
    assert_eq!(
        pod["spec"]["containers"][0]["readinessProbe"]["httpGet"]["path"],
        "/probe/web/readiness"
    );
    for container in inits {
        let mounts = container["volumeMounts"].as_array().unwrap();
        let token = mounts
            .iter()
            .find(|mount| mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount");
        assert_eq!(
            token.unwrap()["name"],
            "squire-no-api-token",
            "no token for the API server in our containers"
        );
    }
    eventually("the roots are in the meshed namespace", async || {
        let found = installed
            .server
            .kubectl(&["-n", "shop", "get", "configmap", "squire-trust-bundle"], "")
            .await;
        found.status.success().then_some(())
    })
    .await;

    // Who must not be injected, and who must not be created.
    installed.create("plain", "web", json!({}), web()).await.unwrap();
    let pod = installed.json(&["-n", "plain", "get", "pod", "web"]).await;
    assert_eq!(pod["spec"].get("initContainers"), None);
    let mut host = web();
    host["hostNetwork"] = json!(true);
    host["containers"][0]["ports"] = json!([]);
    host["containers"][0]["livenessProbe"] = json!(null);
    let warned = installed.create("shop", "host", json!({}), host).await.unwrap();
    assert!(warned.contains("hostNetwork"), "{warned}");
    let pod = installed.json(&["-n", "shop", "get", "pod", "host"]).await;
    assert_eq!(pod["metadata"]["annotations"]["squire.mesh/skipped"], "host-network");
    let refused = installed
        .create("shop", "loud", json!({"squire.mesh/log-level": "loud"}), web())
        .await
        .unwrap_err();
    assert!(
        refused.contains("squire.mesh/log-level") && refused.contains("loud"),
        "{refused}"
    );
    installed
        .create("shop", "out", json!({"squire.mesh/inject": "false"}), web())
        .await
        .unwrap();

    // Pods without a sidecar are known.
    let admin = format!("{}:15016", installed.server.address(3)).parse().unwrap();
    eventually("the gaps are listed", async || {
        let gaps = http::get(admin, "/gaps").await.ok()?.1;
        (gaps.contains("host-network") && gaps.contains("opted-out") && !gaps.contains("\"plain\"")).then_some(())
    })
    .await;
    eventually("the pod has an Event", async || {
        let events = installed
            .server
            .kubectl_succeeds(&["-n", "shop", "get", "events"], "")
            .await;
        events.contains("NoSidecar").then_some(())
    })
    .await;

    // `squire check` sees it stand, but for the Deployments, whose pods nobody runs here.
    let kubeconfig = installed.server.kubeconfig();
    let checked = squire(
        &["check", "--kubeconfig", kubeconfig.to_str().unwrap(), "-o", "json"],
        "",
    )
    .await;
    let findings: Value = serde_json::from_slice(&checked.stdout).unwrap();
    let mark = |what: &str| {
        let found = findings
            .as_array()
            .unwrap()
            .iter()
            .find(|finding| finding["what"] == what);
        found.unwrap_or_else(|| panic!("{what} in {findings}"))["mark"].clone()
    };
    for what in ["version", "clock", "certificates", "webhook", "injection"] {
        assert_eq!(mark(what), "ok", "{findings:#}");
    }
    assert_eq!(
        (mark("deployment squire-injector"), checked.status.code()),
        (json!("failed"), Some(1))
    );

    // Nobody answers: meshed namespaces are closed, the others and our own are not.
    installed.injector.take().unwrap().kill().await;
    let refused = installed.create("shop", "late", json!({}), web()).await.unwrap_err();
    assert!(refused.contains("pods.injector.squire.mesh"), "{refused}");
    installed.create("plain", "late", json!({}), web()).await.unwrap();
    let own = json!({
        "serviceAccountName": "squire-injector",
        "securityContext": {"runAsNonRoot": true, "runAsUser": 1, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "injector", "image": "squire", "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
        }}],
    });
    installed.create("squire-system", "own", json!({}), own).await.unwrap();
    installed.start_injector().await;
    installed.create("shop", "late", json!({}), web()).await.unwrap();

    // Applied once more, the caBundle is still there.
    installed.server.apply(&printed(&["install"]).await).await;
    assert!(installed.webhook().await["webhooks"][0]["clientConfig"]["caBundle"].is_string());

    uninstalled(&mut installed).await;
    drop(installed.control);
}

async fn uninstalled(installed: &mut Installed) {
    let removal = printed(&["uninstall"]).await;
    installed
        .server
        .kubectl_succeeds(&["delete", "--ignore-not-found", "--wait=false", "-f", "-"], &removal)
        .await;
    installed.injector.take().unwrap().kill().await;
    let copies = ["delete", "configmap", "-A", "-l", "app.kubernetes.io/managed-by=squire"];
    installed.server.kubectl_succeeds(&copies, "").await;
    let kinds = "namespaces,crds,clusterroles,clusterrolebindings,mutatingwebhookconfigurations,configmaps,deployments,\
                 serviceaccounts,secrets,leases,networkpolicies,services,poddisruptionbudgets";
    eventually("nothing of ours is left", async || {
        let left = installed
            .server
            .kubectl_succeeds(&["get", kinds, "-A", "-o", "name"], "")
            .await;
        (!left.contains("squire") && !left.contains("security.istio.io")).then_some(())
    })
    .await;
    installed.create("shop", "after", json!({}), web()).await.unwrap();
    let pod = installed.json(&["-n", "shop", "get", "pod", "after"]).await;
    assert_eq!(pod["spec"].get("initContainers"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_refuses_policies_that_could_never_hold() {
    let Some(server) = ApiServer::start().await else { return };
    server.apply(&printed(&["install"]).await).await;
    for plural in ["peerauthentications", "authorizationpolicies", "requestauthentications"] {
        let name = format!("crd/{plural}.security.istio.io");
        server
            .kubectl_succeeds(&["wait", "--for=condition=Established", &name], "")
            .await;
    }
    let object = |kind: &str, version: &str, spec: Value| {
        let metadata = json!({"name": "p", "namespace": "default"});
        json!({"apiVersion": format!("security.istio.io/{version}"), "kind": kind, "metadata": metadata, "spec": spec})
    };
    let selector = json!({"matchLabels": {"app": "web"}});
    for (kind, spec) in [
        (
            "PeerAuthentication",
            json!({"selector": selector, "mtls": {"mode": "STRICT"}, "portLevelMtls": {"8080": {"mode": "DISABLE"}}}),
        ),
        (
            "AuthorizationPolicy",
            json!({"selector": selector, "action": "DENY", "rules": [{
                "from": [{"source": {"notPrincipals": ["a"], "ipBlocks": ["10.0.0.0/8"]}}],
                "to": [{"operation": {"methods": ["GET"], "notPaths": ["/x"], "ports": ["80"]}}],
                "when": [{"key": "request.headers[x]", "values": ["1"]}],
            }]}),
        ),
        ("AuthorizationPolicy", json!({})),
        (
            "RequestAuthentication",
            json!({"jwtRules": [{"issuer": "i", "jwksUri": "https://i/keys", "fromHeaders": [{"name": "x"}], "timeout": "5s"}]}),
        ),
    ] {
        for version in ["v1", "v1beta1"] {
            let taken = server
                .kubectl(
                    &["apply", "--dry-run=server", "-f", "-"],
                    &object(kind, version, spec.clone()).to_string(),
                )
                .await;
            assert!(
                taken.status.success(),
                "{kind} {spec}: {}",
                String::from_utf8_lossy(&taken.stderr)
            );
        }
    }
    for (kind, spec, says) in [
        ("PeerAuthentication", json!({"mtls": {"mode": "STRICTER"}}), "STRICTER"),
        (
            "PeerAuthentication",
            json!({"portLevelMtls": {"80": {"mode": "STRICT"}}}),
            "needs a selector",
        ),
        (
            "PeerAuthentication",
            json!({"selector": selector, "portLevelMtls": {"0": {"mode": "STRICT"}}}),
            "1 to 65535",
        ),
        (
            "PeerAuthentication",
            json!({"mtsl": {"mode": "STRICT"}}),
            "unknown field",
        ),
        ("AuthorizationPolicy", json!({"action": "CUSTOM"}), "needs a provider"),
        (
            "AuthorizationPolicy",
            json!({"action": "ALLOW", "provider": {"name": "x"}}),
            "only CUSTOM",
        ),
        (
            "AuthorizationPolicy",
            json!({"rules": [{"when": [{"key": "source.ip"}]}]}),
            "values or notValues",
        ),
        (
            "AuthorizationPolicy",
            json!({"rules": [{"from": [{"source": {"serviceAccounts": ["a"], "principals": ["b"]}}]}]}),
            "together",
        ),
        (
            "AuthorizationPolicy",
            json!({"selector": selector, "targetRef": {"kind": "Service", "name": "x"}}),
            "only one of",
        ),
        (
            "AuthorizationPolicy",
            json!({"selector": {"matchLabels": {"app": "w*"}}}),
            "wildcard",
        ),
        ("RequestAuthentication", json!({"jwtRules": [{"jwks": "{}"}]}), "issuer"),
        (
            "RequestAuthentication",
            json!({"jwtRules": [{"issuer": "i", "jwks": "{}", "jwksUri": "https://x"}]}),
            "only one of",
        ),
        (
            "RequestAuthentication",
            json!({"jwtRules": [{"issuer": "i", "jwksUri": "file:///etc/passwd"}]}),
            "http",
        ),
    ] {
        let refused = server
            .kubectl(
                &["apply", "--dry-run=server", "-f", "-"],
                &object(kind, "v1", spec.clone()).to_string(),
            )
            .await;
        let why = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && why.contains(says), "{kind} {spec}: {why}");
    }
}
