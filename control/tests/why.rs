//! `squire policy why` over a small shop: what it says for allowed and denied connections and requests.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use squire_control::{
    manifest::Manifest,
    policy::why::{Explanation, HttpQuestion, Question, WhyError, World},
};

const SHOP: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {role: web}, annotations: {squire.mesh/injected: "true"}}
spec: {serviceAccountName: web, containers: [{name: c}]}
status: {podIP: 127.10.0.1, phase: Running}
---
apiVersion: v1
kind: Pod
metadata: {name: batch-1, namespace: shop, labels: {role: batch}, annotations: {squire.mesh/injected: "true"}}
spec: {serviceAccountName: batch, containers: [{name: c}]}
status: {podIP: 127.10.0.3, phase: Running}
---
apiVersion: v1
kind: Pod
metadata: {name: db-1, namespace: shop, labels: {role: db}, annotations: {squire.mesh/injected: "true"}}
spec: {serviceAccountName: db, containers: [{name: c, ports: [{name: pg, containerPort: 5432}]}]}
status: {podIP: 127.10.0.2, phase: Running}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db-allow-services, namespace: shop}
spec:
  podSelector: {matchLabels: {role: db}}
  ingress: [{from: [{podSelector: {matchLabels: {role: web}}}], ports: [{port: pg}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: db-allow, namespace: shop}
spec:
  selector: {matchLabels: {role: db}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]
    to: [{operation: {ports: ["5432"], notPaths: [/admin]}}]
  - from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]
    to: [{operation: {ports: ["5432"]}}]
    when: [{key: source.ip, values: [127.0.0.0/8]}]
"#;

fn ask(question: Question) -> Result<Explanation, WhyError> {
    World::from_manifest(&Manifest::parse("shop.yaml", SHOP))
        .unwrap()
        .why(&question)
}

fn connection(from: &str, to: &str) -> Question {
    Question {
        from: from.to_owned(),
        to: to.to_owned(),
        ..Question::default()
    }
}

#[test]
fn an_allowed_connection_names_the_rule_of_every_gate() {
    for from in ["shop/web-1", "spiffe://cluster.local/ns/shop/sa/web", "127.10.0.1"] {
        let answer = ask(connection(from, "shop/db-1:pg")).unwrap();
        assert_eq!(answer.verdict, "ALLOW", "{from}: {answer:?}");
        assert_eq!(answer.by.as_deref(), Some("AuthorizationPolicy shop/db-allow rule 1"));
        assert_eq!(
            answer.gates[1].by.as_deref(),
            Some("NetworkPolicy shop/db-allow-services rule 0")
        );
        assert!(answer.nearest.is_empty());
    }
}

#[test]
fn a_denied_connection_names_the_nearest_rule_of_every_gate_that_denies() {
    let answer = ask(connection("shop/batch-1", "shop/db-1:5432")).unwrap();
    assert_eq!(answer.verdict, "DENY");
    assert_eq!(answer.by.as_deref(), Some("NetworkPolicy shop/db-allow-services"));
    let nearest: Vec<_> = answer
        .nearest
        .iter()
        .map(|nearest| (&*nearest.rule, nearest.failed.join("; ")))
        .collect();
    assert_eq!(nearest[0].0, "NetworkPolicy shop/db-allow-services rule 0");
    assert!(nearest[0].1.contains("role=web"), "{nearest:?}");
    assert_eq!(nearest[1].0, "AuthorizationPolicy shop/db-allow rule 1");
    assert!(
        nearest[1].1.contains("the peer is cluster.local/ns/shop/sa/batch"),
        "{nearest:?}"
    );
}

#[test]
fn an_http_request_is_normalised_first() {
    let path = |path: &str| {
        let http = HttpQuestion {
            method: "GET".to_owned(),
            path: path.to_owned(),
            host: "db".to_owned(),
            headers: Vec::new(),
        };
        ask(Question {
            http: Some(http),
            ..connection("shop/web-1", "shop/db-1:5432")
        })
        .unwrap()
    };
    assert_eq!(
        path("/x").by.as_deref(),
        Some("AuthorizationPolicy shop/db-allow rule 0")
    );
    let admin = path("/y/../admin");
    assert_eq!(admin.by.as_deref(), Some("AuthorizationPolicy shop/db-allow rule 1"));
    assert!(admin.notes.iter().any(|note| note.contains("/admin")));
    assert_eq!(path("/a%00").verdict, "DENY");
}

#[test]
fn who_is_not_there_cannot_be_asked_about() {
    assert!(matches!(
        ask(connection("shop/nobody", "shop/db-1:1")),
        Err(WhyError::NotFound { what: "from", .. })
    ));
    assert!(matches!(
        ask(connection("shop/web-1", "shop/db-1")),
        Err(WhyError::Port(_))
    ));
    assert!(matches!(
        ask(connection("shop/web-1", "shop/db-1:nope")),
        Err(WhyError::Port(_))
    ));
    let stranger = ask(connection("203.0.113.9", "shop/db-1:5432")).unwrap();
    assert_eq!(stranger.verdict, "DENY");
    assert!(stranger.notes.iter().any(|note| note.contains("plaintext")));
}

#[test]
fn a_port_in_mode_disable_is_asked_about_as_its_clients_reach_it() {
    let disabled = format!(
        "{SHOP}---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: db, namespace: shop}}\n\
         spec: {{selector: {{matchLabels: {{role: db}}}}, portLevelMtls: {{5432: {{mode: DISABLE}}}}}}\n"
    );
    let world = World::from_manifest(&Manifest::parse("shop.yaml", &disabled)).unwrap();
    let explanation = world.why(&connection("shop/web-1", "shop/db-1:5432")).unwrap();
    // Plain bytes pass the mode; a rule that wants an identity then has none to see.
    assert_eq!(explanation.gates[2].verdict, "ALLOW", "{explanation:?}");
    assert_eq!(explanation.gates[3].verdict, "DENY", "{explanation:?}");
    assert!(
        explanation.notes.iter().any(|note| note.contains("DISABLE")),
        "{explanation:?}"
    );
}

#[test]
fn a_denial_by_labels_shows_the_labels_that_were_asked_for() {
    let denied = ask(connection("shop/batch-1", "shop/db-1:5432")).unwrap();
    assert_eq!(denied.verdict, "DENY");
    let failed = &denied.nearest[0].failed[0];
    assert!(failed.contains("role=web"), "{failed}");
    assert!(failed.contains("with role=batch in namespace shop"), "{failed}");
}

#[test]
fn a_missing_or_different_header_is_shown_as_it_is() {
    let policy = r#"
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: tenants, namespace: shop}
spec:
  selector: {matchLabels: {role: batch}}
  rules: [{when: [{key: "request.headers[x-tenant]", values: [acme]}]}]
"#;
    let world = World::from_manifest(&Manifest::parse("shop.yaml", &format!("{SHOP}{policy}"))).unwrap();
    let asked = |headers: &[(&str, &str)]| {
        let headers = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let http = HttpQuestion {
            method: "GET".to_owned(),
            path: "/".to_owned(),
            host: "batch".to_owned(),
            headers: headers.collect(),
        };
        let question = Question {
            http: Some(http),
            ..connection("shop/web-1", "shop/batch-1:80")
        };
        world.why(&question).unwrap().nearest[0].failed.join("; ")
    };
    assert!(
        asked(&[]).contains("header x-tenant acme, but there is none"),
        "{}",
        asked(&[])
    );
    let other = asked(&[("x-tenant", "a"), ("x-tenant", "b")]);
    assert!(other.contains(r#"but it is "a", "b""#), "{other}");
}

#[test]
fn a_provider_that_has_a_say_is_noted_and_not_asked() {
    let policy = r#"
---
apiVersion: squire.mesh/v1
kind: MeshConfig
metadata: {name: mesh}
spec: {extensionProviders: {judge: {type: grpc, service: judge.auth, port: 9000}}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask, namespace: shop}
spec: {selector: {matchLabels: {role: batch}}, action: CUSTOM, provider: {name: judge}, rules: [{}]}
"#;
    let world = World::from_manifest(&Manifest::parse("shop.yaml", &format!("{SHOP}{policy}"))).unwrap();
    let answer = world.why(&connection("shop/web-1", "shop/batch-1:80")).unwrap();
    assert_eq!(answer.verdict, "ALLOW");
    assert_eq!(answer.by.as_deref(), Some("AuthorizationPolicy shop/ask rule 0"));
    assert!(
        answer.notes.iter().any(|note| note.contains("judge")),
        "{:?}",
        answer.notes
    );
}

#[test]
fn what_comes_from_the_node_of_a_pod_passes_its_network_policies_and_what_comes_from_another_does_not() {
    let node = |name: &str, address: &str| {
        format!(
            "---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n\
             status: {{addresses: [{{type: InternalIP, address: {address}}}]}}\n"
        )
    };
    let shop = SHOP.replace("serviceAccountName: db,", "serviceAccountName: db, nodeName: n1,");
    let shop = format!("{shop}{}{}", node("n1", "127.10.9.1"), node("n2", "127.10.9.2"));
    let world = World::from_manifest(&Manifest::parse("shop.yaml", &shop)).unwrap();
    let ingress = |from: &str| {
        let explanation = world.why(&connection(from, "shop/db-1:5432")).unwrap();
        let mut gates = explanation.gates.into_iter();
        gates.find(|gate| gate.gate == "NetworkPolicy ingress").unwrap().verdict
    };
    assert_eq!(ingress("127.10.9.1"), "ALLOW");
    assert_eq!(ingress("127.10.9.2"), "DENY");
    assert_eq!(ingress("127.10.0.3"), "DENY");
}
