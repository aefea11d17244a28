//! The policy kinds, where nobody has defined them yet: full schemas, and rules (CEL) for what a schema cannot say, so that a
//! policy that could never hold is refused by the API server and not found out afterwards.

use serde_json::{Map, Value, json};

use crate::object::cluster;

/// Every CustomResourceDefinition.
pub(crate) fn all() -> Vec<Value> {
    let istio = ["v1", "v1beta1"];
    vec![
        definition(
            "security.istio.io",
            "AuthorizationPolicy",
            "authorizationpolicies",
            "ap",
            &istio,
            authorization(),
        ),
        definition(
            "security.istio.io",
            "PeerAuthentication",
            "peerauthentications",
            "pa",
            &istio,
            peer(),
        ),
        definition(
            "security.istio.io",
            "RequestAuthentication",
            "requestauthentications",
            "ra",
            &istio,
            request(),
        ),
        definition("squire.mesh", "MeshConfig", "meshconfigs", "mc", &["v1"], mesh()),
    ]
}

/// The first version is the one that is stored; all have one schema.
fn definition(group: &str, kind: &str, plural: &str, short: &str, versions: &[&str], spec: Value) -> Value {
    let status = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let schema = json!({"openAPIV3Schema": object(json!({"spec": spec, "status": status}))});
    let version = |(number, name): (usize, &&str)| {
        json!({
            "name": name,
            "served": true,
            "storage": number == 0,
            "schema": schema,
            "subresources": {"status": {}},
            "additionalPrinterColumns": [{
                "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
            }],
        })
    };
    let mut crd = cluster(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        &format!("{plural}.{group}"),
    );
    crd["metadata"]["labels"]["app.kubernetes.io/name"] = json!("crds");
    crd["spec"] = json!({
        "group": group,
        "names": {
            "kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": kind.to_lowercase(),
            "shortNames": [short],
        },
        "scope": "Namespaced",
        "versions": versions.iter().enumerate().map(version).collect::<Vec<_>>(),
    });
    crd
}

fn object(properties: Value) -> Value {
    json!({"type": "object", "properties": properties})
}

fn with(mut schema: Value, more: Value) -> Value {
    if let (Some(schema), Value::Object(more)) = (schema.as_object_mut(), more) {
        schema.extend(more);
    }
    schema
}

fn list(items: Value, most: u32) -> Value {
    json!({"type": "array", "items": items, "maxItems": most})
}

fn text(longest: u32) -> Value {
    json!({"type": "string", "maxLength": longest})
}

fn name() -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": 253})
}

fn choice(values: &[&str]) -> Value {
    json!({"type": "string", "enum": values})
}

/// What must hold, and what is said when it does not.
fn rules(rules: &[(&str, &str)]) -> Value {
    let rule = |(rule, message): &(&str, &str)| json!({"rule": rule, "message": message});
    json!({"x-kubernetes-validations": rules.iter().map(rule).collect::<Vec<_>>()})
}

fn selector() -> Value {
    let labels = with(
        json!({"type": "object", "additionalProperties": text(63), "maxProperties": 256}),
        rules(&[
            ("self.all(key, key.size() > 0)", "a label key must not be empty"),
            (
                "self.all(key, !key.contains('*'))",
                "a label key must not hold a wildcard",
            ),
            (
                "self.all(key, !self[key].contains('*'))",
                "a label value must not hold a wildcard",
            ),
        ]),
    );
    object(json!({"matchLabels": labels}))
}

fn target() -> Value {
    with(
        object(json!({"group": text(253), "kind": name(), "name": name(), "namespace": text(253)})),
        with(
            json!({"required": ["kind", "name"]}),
            rules(&[(
                "!has(self.namespace) || self.namespace.size() == 0",
                "a target is in the policy's own namespace",
            )]),
        ),
    )
}

/// Fields that choose the workloads of a policy, and the rule that only one of them is used.
fn choosing() -> (Map<String, Value>, (&'static str, &'static str)) {
    let fields = json!({"selector": selector(), "targetRef": target(), "targetRefs": list(target(), 16)});
    let Value::Object(fields) = fields else {
        return Default::default();
    };
    let rule = "(has(self.selector) ? 1 : 0) + (has(self.targetRef) ? 1 : 0) + (has(self.targetRefs) ? 1 : 0) <= 1";
    (
        fields,
        (rule, "only one of selector, targetRef and targetRefs can be set"),
    )
}

fn peer() -> Value {
    let mode = || object(json!({"mode": choice(&["UNSET", "DISABLE", "PERMISSIVE", "STRICT"])}));
    let ports = with(
        json!({"type": "object", "additionalProperties": mode(), "minProperties": 1, "maxProperties": 128}),
        rules(&[(
            "self.all(key, key.matches('^[0-9]{1,5}$') && int(key) > 0 && int(key) <= 65535)",
            "a port must be a number from 1 to 65535",
        )]),
    );
    with(
        object(json!({"selector": selector(), "mtls": mode(), "portLevelMtls": ports})),
        rules(&[(
            "!has(self.portLevelMtls) || (has(self.selector) && has(self.selector.matchLabels) && \
             self.selector.matchLabels.size() > 0)",
            "portLevelMtls needs a selector",
        )]),
    )
}

fn authorization() -> Value {
    let texts = || list(text(1024), 256);
    let fields = |names: &[&str]| {
        let both = names.iter().flat_map(|name| {
            let not = format!("not{}{}", name[..1].to_uppercase(), &name[1..]);
            [(*name).to_owned(), not]
        });
        object(Value::Object(both.map(|name| (name, texts())).collect()))
    };
    let source = with(
        fields(&[
            "principals",
            "requestPrincipals",
            "namespaces",
            "ipBlocks",
            "remoteIpBlocks",
            "serviceAccounts",
        ]),
        rules(&[(
            "!(has(self.serviceAccounts) || has(self.notServiceAccounts)) || !(has(self.principals) || \
             has(self.notPrincipals) || has(self.namespaces) || has(self.notNamespaces))",
            "serviceAccounts cannot be used together with principals or namespaces",
        )]),
    );
    let operation = fields(&["hosts", "ports", "methods", "paths"]);
    let condition = with(
        object(
            json!({"key": {"type": "string", "minLength": 1, "maxLength": 1024}, "values": texts(), "notValues": texts()}),
        ),
        with(
            json!({"required": ["key"]}),
            rules(&[(
                "has(self.values) || has(self.notValues)",
                "a condition needs values or notValues",
            )]),
        ),
    );
    let rule = object(json!({
        "from": list(object(json!({"source": source})), 64),
        "to": list(object(json!({"operation": operation})), 64),
        "when": list(condition, 64),
    }));
    let (mut properties, one_target) = choosing();
    properties.insert("action".to_owned(), choice(&["ALLOW", "DENY", "AUDIT", "CUSTOM"]));
    let provider = with(object(json!({"name": name()})), json!({"required": ["name"]}));
    properties.insert("provider".to_owned(), provider);
    properties.insert("rules".to_owned(), list(rule, 256));
    with(
        object(Value::Object(properties)),
        rules(&[
            one_target,
            (
                "(has(self.action) && self.action == 'CUSTOM') == has(self.provider)",
                "action CUSTOM needs a provider, and only CUSTOM has one",
            ),
        ]),
    )
}

fn request() -> Value {
    let uri = with(
        text(2048),
        rules(&[(
            "self.startsWith('http://') || self.startsWith('https://')",
            "a URI must begin with http:// or https://",
        )]),
    );
    let header = with(
        object(json!({"name": name(), "prefix": text(256)})),
        json!({"required": ["name"]}),
    );
    let claim = with(
        object(json!({"header": name(), "claim": name()})),
        json!({"required": ["header", "claim"]}),
    );
    let rule = with(
        object(json!({
            "issuer": {"type": "string", "minLength": 1, "maxLength": 2048},
            "audiences": list(text(2048), 64),
            "jwksUri": uri, "jwks_uri": uri, "jwks": text(262_144),
            "fromHeaders": list(header, 16), "fromParams": list(name(), 16), "fromCookies": list(name(), 16),
            "outputPayloadToHeader": text(253), "forwardOriginalToken": {"type": "boolean"},
            "outputClaimToHeaders": list(claim, 64), "spaceDelimitedClaims": list(name(), 64),
            "timeout": {"type": "string", "maxLength": 32},
        })),
        with(
            json!({"required": ["issuer"]}),
            rules(&[
                (
                    "(has(self.jwksUri) ? 1 : 0) + (has(self.jwks_uri) ? 1 : 0) + (has(self.jwks) ? 1 : 0) <= 1",
                    "only one of jwks and jwksUri can be set",
                ),
                (
                    "!has(self.timeout) || duration(self.timeout) >= duration('1ms')",
                    "the timeout must be 1ms or longer",
                ),
            ]),
        ),
    );
    let (mut properties, one_target) = choosing();
    properties.insert("jwtRules".to_owned(), list(rule, 64));
    with(object(Value::Object(properties)), rules(&[one_target]))
}

fn mesh() -> Value {
    object(json!({
        "rootNamespace": name(),
        "trustDomain": text(255),
        "trustDomainAliases": list(text(255), 64),
        "pathNormalization": text(64),
        "extensionProviders": {"type": "object", "maxProperties": 256, "additionalProperties": {
            "type": "object", "x-kubernetes-preserve-unknown-fields": true,
        }},
        "multipleCustomProviders": {"type": "boolean"},
    }))
}
