//! Objects in which, taken together, every field of every kind is set. Each is valid.

use serde_json::{Value, json};

fn object(version: &str, kind: &str, spec: Value) -> Value {
    json!({
        "apiVersion": version, "kind": kind,
        "metadata": {
            "name": "p", "namespace": "shop", "labels": {"team": "a"}, "annotations": {"note": "x"},
            "creationTimestamp": "2024-01-31T12:00:00Z",
        },
        "spec": spec,
    })
}

pub(crate) fn network_policy() -> Value {
    let selector = json!({
        "matchLabels": {"app": "db"},
        "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["a", "b"]}, {"key": "old", "operator": "DoesNotExist"},
        ],
    });
    let rule = |peers: &str| {
        json!({
            peers: [
                {"podSelector": selector}, {"namespaceSelector": selector},
                {"podSelector": {}, "namespaceSelector": selector},
                {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
            ],
            "ports": [{"protocol": "TCP", "port": 80, "endPort": 90}, {"protocol": "UDP", "port": "dns"}],
        })
    };
    let spec = json!({
        "podSelector": selector, "policyTypes": ["Ingress", "Egress"], "ingress": [rule("from")], "egress": [rule("to")],
    });
    object("networking.k8s.io/v1", "NetworkPolicy", spec)
}

pub(crate) fn peer_authentication() -> Value {
    let spec = json!({
        "selector": {"matchLabels": {"app": "db"}}, "mtls": {"mode": "STRICT"},
        "portLevelMtls": {"8080": {"mode": "DISABLE"}},
    });
    object("security.istio.io/v1", "PeerAuthentication", spec)
}

pub(crate) fn authorization_policy() -> Value {
    let source = json!({
        "principals": ["a/ns/b/sa/c"], "notPrincipals": ["*/sa/d"], "requestPrincipals": ["i/*"], "notRequestPrincipals": ["j/*"],
        "namespaces": ["a"], "notNamespaces": ["b"], "trustDomains": ["a"], "notTrustDomains": ["b"],
        "ipBlocks": ["10.0.0.0/8"], "notIpBlocks": ["10.0.0.1"], "remoteIpBlocks": ["::/0"], "notRemoteIpBlocks": ["1.2.3.4"],
    });
    let accounts = json!({"serviceAccounts": ["a/b"], "notServiceAccounts": ["c"]});
    let operation = json!({
        "hosts": ["a"], "notHosts": ["b"], "ports": ["80"], "notPorts": ["81"], "methods": ["GET"], "notMethods": ["PUT"],
        "paths": ["/a/{*}"], "notPaths": ["/b*"],
    });
    let spec = json!({
        "selector": {"matchLabels": {"app": "db"}}, "action": "ALLOW",
        "rules": [{
            "from": [{"source": source}, {"source": accounts}], "to": [{"operation": operation}],
            "when": [{"key": "source.ip", "values": ["10.0.0.0/8"], "notValues": ["10.0.0.1"]}],
        }],
    });
    object("security.istio.io/v1", "AuthorizationPolicy", spec)
}

pub(crate) fn custom_policy() -> Value {
    let spec = json!({"action": "CUSTOM", "provider": {"name": "judge"}, "rules": [{"to": [{"operation": {"ports": ["80"]}}]}]});
    object("security.istio.io/v1beta1", "AuthorizationPolicy", spec)
}

pub(crate) fn targeted(kind: &str) -> Value {
    let spec = json!({
        "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "g", "namespace": "", "sectionName": "s"}],
    });
    object("security.istio.io/v1", kind, spec)
}

pub(crate) fn request_authentication() -> Value {
    let rule = json!({
        "issuer": "https://i", "audiences": ["a"], "jwksUri": "https://i/keys", "forwardOriginalToken": true,
        "fromHeaders": [{"name": "x-token", "prefix": "Bearer "}], "fromParams": ["t"], "fromCookies": ["c"],
        "outputPayloadToHeader": "x-payload", "outputClaimToHeaders": [{"header": "x-sub", "claim": "sub"}],
        "timeout": "5s", "spaceDelimitedClaims": ["roles"],
    });
    let inline = json!({"issuer": "i", "jwks": "{\"keys\": []}"});
    let spec = json!({"selector": {"matchLabels": {"app": "db"}}, "jwtRules": [rule, inline]});
    object("security.istio.io/v1", "RequestAuthentication", spec)
}

pub(crate) fn mesh_config() -> Value {
    let grpc = json!({
        "type": "grpc", "service": "judge.auth.svc.cluster.local", "port": 9000, "timeout": "1s", "failOpen": true,
        "statusOnError": 503, "clearRouteCache": false,
        "includeRequestBodyInCheck": {"maxRequestBytes": 4096, "allowPartialMessage": true, "packAsBytes": true},
    });
    let http = json!({
        "type": "http", "service": "judge.auth", "port": 80, "pathPrefix": "/check",
        "includeRequestHeadersInCheck": ["a"], "includeHeadersInCheck": ["b"],
        "includeAdditionalHeadersInCheck": {"x-fixed": "yes"}, "headersToUpstreamOnAllow": ["c"],
        "headersToDownstreamOnDeny": ["d"], "headersToDownstreamOnAllow": ["e"],
    });
    json!({
        "apiVersion": "squire.mesh/v1", "kind": "MeshConfig", "metadata": {"name": "mesh"},
        "spec": {
            "rootNamespace": "istio-system", "trustDomain": "td", "trustDomainAliases": ["old"], "pathNormalization": "BASE",
            "multipleCustomProviders": true, "extensionProviders": {"g": grpc, "h": http},
        },
    })
}

/// All of them.
pub(crate) fn all() -> Vec<Value> {
    vec![
        network_policy(),
        peer_authentication(),
        authorization_policy(),
        custom_policy(),
        targeted("AuthorizationPolicy"),
        targeted("RequestAuthentication"),
        request_authentication(),
        mesh_config(),
    ]
}
