//! The schemas and CEL rules of the policy kinds, on the API server that enforces them: what could never hold is refused when
//! it is applied.

use serde_json::{Value, json};
use squire_tests::{ApiServer, binary, in_time};
use tokio::process::Command;

async fn rendered() -> String {
    let mut command = Command::new(binary("squire"));
    let output = in_time("squire install", command.arg("install").kill_on_drop(true).output()).await;
    String::from_utf8(output.unwrap().stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_refuses_policies_that_could_never_hold() {
    let Some(server) = ApiServer::start().await else { return };
    server.apply(&rendered().await).await;
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
