//! What policy costs a proxy in memory, counted by the allocator itself, in a process of its own. A decision takes none: not
//! for a connection, not for a request, whatever the policies look at and whichever way it goes. (`table_memory.rs` counts
//! the blocks of a table by hand; here is what a decoded one holds.)

#![allow(clippy::unwrap_used, reason = "a test may fail")]
#![allow(unsafe_code, reason = "an allocator that counts can only be written with unsafe")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    hint::black_box,
};

use prost::Message as _;
use serde_json::{Map, Value, json};
use squire_control::{
    manifest::Manifest,
    policy::{MeshConfig, PolicySet, Subject},
};
use squire_mesh::policy::{
    Answer, Answers, Connection, Destination, Endpoint, Http, LabelBits, Principal, Protocol, Request, Source, Table,
    authorize, decide, decide_connection, decide_inbound, decide_outbound, egress, gates, ingress, peer_authentication,
};
use squire_mesh::wire::squire as wire;

thread_local! {
    /// How often this thread has asked for memory.
    static TAKEN: Cell<usize> = const { Cell::new(0) };
    /// The bytes it has taken and not given back.
    static HELD: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

fn count(taken: usize, bytes: isize) {
    TAKEN.with(|count| count.set(count.get() + taken));
    HELD.with(|held| held.set(held.get().wrapping_add(bytes)));
}

fn signed(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}

// SAFETY: every call is passed on to the system's allocator unchanged; counting touches a constant-initialised
// thread-local without a destructor, which takes no memory itself.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, signed(layout.size()));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, -signed(layout.size()));
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, signed(size) - signed(layout.size()));
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often `work` asked for memory, and what came of it.
fn taken<R>(work: impl FnOnce() -> R) -> (usize, R) {
    let before = TAKEN.with(Cell::get);
    let result = black_box(work());
    (TAKEN.with(Cell::get) - before, result)
}

/// The bytes that what `work` made holds.
fn held<R>(work: impl FnOnce() -> R) -> (isize, R) {
    let before = HELD.with(Cell::get);
    let result = black_box(work());
    (HELD.with(Cell::get) - before, result)
}

const POLICIES: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: in, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.7/32]}}]
  - from:
    - namespaceSelector: {matchExpressions: [{key: team, operator: In, values: [a, front]}]}
      podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [bad]}, {key: app, operator: Exists}]}
    ports: [{port: 5432}, {port: http}, {port: 8000, endPort: 9000}]
  egress:
  - to: [{podSelector: {matchLabels: {app: none}}}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: shop}
spec: {selector: {matchLabels: {app: db}}, mtls: {mode: STRICT}, portLevelMtls: {9090: {mode: PERMISSIVE}}}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: shop}
spec: {jwtRules: [{issuer: https://issuer.example, spaceDelimitedClaims: [groups]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny, namespace: shop}
spec:
  selector: {matchLabels: {speaks: http}}
  action: DENY
  rules:
  - to: [{operation: {paths: ["/admin/{**}", "/x/{*}/y", "*.bak", "/secret*"], notMethods: [GET]}}]
  - when:
    - {key: "request.headers[x-role]", values: [intruder, "evil-*"]}
    - {key: connection.sni, notValues: [db.shop]}
  - from: [{source: {notPrincipals: ["*/ns/front/sa/*"], notNamespaces: [front], notTrustDomains: ["cluster.*"]}}]
  - from: [{source: {notIpBlocks: [10.0.0.0/8], remoteIpBlocks: [203.0.113.0/24]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask, namespace: shop}
spec: {selector: {matchLabels: {speaks: http}}, action: CUSTOM, provider: {name: judge}, rules: [{to: [{operation: {hosts: ["DB.*", "x.example"]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: mark, namespace: shop}
spec: {action: AUDIT, rules: [{to: [{operation: {methods: [GET, POST]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: try, namespace: shop, annotations: {istio.io/dry-run: "true"}}
spec: {action: DENY, rules: [{from: [{source: {serviceAccounts: [front/web]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow-requests, namespace: shop}
spec:
  rules:
  - from: [{source: {requestPrincipals: ["*"]}}]
    to: [{operation: {ports: ["8080"], paths: ["/orders/{*}/items"]}}]
    when:
    - {key: "request.auth.claims[groups]", values: [buyers]}
    - {key: "request.auth.claims[realm][roles]", values: ["cust*"]}
    - {key: request.auth.audiences, values: [shop]}
    - {key: "request.headers[x-tenant]", values: [acme, "tenant-*"], notValues: [tenant-0]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow-connections, namespace: shop}
spec: {rules: [{from: [{source: {principals: [cluster.local/ns/front/sa/web]}}], to: [{operation: {ports: ["5432"]}}]}]}
---
apiVersion: squire.mesh/v1
kind: MeshConfig
metadata: {name: mesh}
spec: {extensionProviders: {judge: {type: grpc, service: judge.auth.svc.cluster.local, port: 9000}}}
"#;

struct Pod(&'static str, &'static str);

impl Endpoint for Pod {
    fn namespace(&self) -> &str {
        self.0
    }

    fn label(&self, key: &str) -> Option<&str> {
        (key == "app").then_some(self.1)
    }

    fn namespace_label(&self, key: &str) -> Option<&str> {
        (key == "team").then_some(self.0)
    }

    fn named_port(&self, name: &str, _protocol: Protocol) -> Option<u16> {
        (name == "http").then_some(8080)
    }

    fn label_bits(&self) -> LabelBits {
        LabelBits::of(self.0, [("app", self.1)], [("team", self.0)])
    }
}

struct Says(Answer);

impl Answers for Says {
    fn answer(&self, _provider: &str) -> Answer {
        self.0
    }
}

/// The table of a workload. On bytes, HTTP-only conditions of the DENY policy count as met: one that speaks HTTP denies them.
fn table(app: &str, namespace: &str, speaks: &str) -> Table {
    let manifest = Manifest::parse("test", POLICIES);
    let (config, problems) = MeshConfig::from_objects(&manifest.objects);
    assert!(problems.is_empty(), "{problems:?}");
    let (set, problems) = PolicySet::from_objects(&manifest.objects, config);
    assert!(
        problems
            .iter()
            .all(|problem| problem.severity != squire_control::manifest::Severity::Error),
        "{problems:?}"
    );
    set.compile(&Subject {
        namespace,
        labels: vec![("app", app), ("speaks", speaks)],
        selectable: true,
    })
}

fn to(port: u16, from: &'static Pod, id: Option<&'static str>) -> Request<'static> {
    let source = Source::workload("10.0.0.1".parse().unwrap(), from);
    let source = id.map_or(source, |id| source.with_principal(Principal::new(id)));
    let destination = Destination {
        ip: "10.0.0.2".parse().unwrap(),
        port,
        workload: Some(&Pod("shop", "db")),
    };
    let connection = Connection {
        mutual_tls: id.is_some(),
        sni: Some("db.shop"),
        ..Connection::default()
    };
    Request::connection(source, destination, connection)
}

const WEB: &Pod = &Pod("front", "web");
const BAD: &Pod = &Pod("front", "bad");
const WEB_ID: Option<&str> = Some("spiffe://cluster.local/ns/front/sa/web");
const OTHER_ID: Option<&str> = Some("spiffe://elsewhere/ns/back/sa/batch");

fn claims() -> Map<String, Value> {
    let claims = json!({"iss": "https://issuer.example", "sub": "42", "aud": ["x", "shop"], "groups": "sellers buyers",
        "realm": {"roles": ["customer"]}});
    claims.as_object().unwrap().clone()
}

#[test]
fn the_counter_counts() {
    assert_eq!(taken(|| Box::new(7)).0, 1);
    assert_eq!(taken(|| 7).0, 0);
    let (bytes, kept) = held(|| {
        drop(vec![1_u8; 3000]);
        vec![1_u8; 1000]
    });
    assert_eq!((bytes, kept.len()), (1000, 1000));
}

#[test]
fn a_decoded_table_of_ten_policies_with_ten_rules_each_holds_at_most_64_kib() {
    let rule = |p: usize, n: usize| {
        format!(
            "  - from: [{{source: {{principals: [cluster.local/ns/shop/sa/account-{p}-{n}]}}}}]\n\
             \x20   to: [{{operation: {{methods: [GET, POST], paths: [\"/service-{n}/{{*}}/items\"]}}}}]\n\
             \x20   when: [{{key: \"request.headers[x-tenant]\", values: [acme, tenant-{n}]}}]\n"
        )
    };
    let policy = |p: usize| {
        let rules: String = (0..10).map(|n| rule(p, n)).collect();
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p{p}, namespace: shop}}\n\
             spec:\n  rules:\n{rules}---\n"
        )
    };
    let (held, bytes) = held_by_policies(&(0..10).map(policy).collect::<String>());
    assert!(
        (10_000..=64 * 1024).contains(&held),
        "{held} bytes, {bytes} on the wire"
    );
}

/// The bytes that the decoded table of a workload of `shop` under these ten policies holds, and those of the message.
fn held_by_policies(text: &str) -> (isize, usize) {
    let manifest = Manifest::parse("test", text);
    let (set, problems) = PolicySet::from_objects(&manifest.objects, MeshConfig::default());
    assert_eq!((problems.len(), set.len()), (0, 10));
    let table = set.compile(&Subject {
        namespace: "shop",
        labels: Vec::new(),
        selectable: true,
    });
    let bytes = wire::Policy::from(&table).encode_to_vec();
    let (held, decoded) = held(|| Table::try_from(wire::Policy::decode(&*bytes).unwrap()).unwrap());
    assert_eq!(decoded, table);
    (held, bytes.len())
}

#[test]
fn a_decoded_table_of_ten_network_policies_with_ten_rules_each_holds_at_most_64_kib() {
    let rule = |n: usize| {
        format!(
            "  - from: [{{namespaceSelector: {{matchLabels: {{team: front}}}}, podSelector: {{matchLabels: {{app: web-{n}}}}}}}]\n\
             \x20   ports: [{{port: 8080}}]\n"
        )
    };
    let rules: String = (0..10).map(rule).collect();
    let policy = |p: usize| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p{p}, namespace: shop}}\n\
             spec:\n  podSelector: {{}}\n  ingress:\n{rules}---\n"
        )
    };
    let (held, bytes) = held_by_policies(&(0..10).map(policy).collect::<String>());
    assert!(
        (10_000..=64 * 1024).contains(&held),
        "{held} bytes, {bytes} on the wire"
    );
}

/// What every way to ask says of a request, and how often that took memory.
fn asked_in_every_way(source: &Table, destination: &Table, request: &Request<'_>) -> usize {
    type Ask<'a> = &'a dyn Fn() -> bool;
    let ways: [(&str, Ask<'_>); 11] = [
        ("decide", &|| {
            decide(Some(source), Some(destination), request).is_allowed()
        }),
        ("decide_inbound", &|| decide_inbound(destination, request).is_allowed()),
        ("decide_outbound", &|| decide_outbound(source, request).is_allowed()),
        ("decide_connection", &|| {
            matches!(
                decide_connection(destination, request),
                squire_mesh::policy::OnConnection::PerRequest
            )
        }),
        ("gates", &|| {
            gates(Some(source), Some(destination), request)
                .into_decision()
                .is_allowed()
        }),
        ("egress", &|| egress(source, request).is_allowed()),
        ("ingress", &|| ingress(destination, request).is_allowed()),
        ("peer_authentication", &|| {
            peer_authentication(destination, request).is_allowed()
        }),
        ("authorize", &|| authorize(destination, request).is_allowed()),
        ("providers_to_ask", &|| {
            destination.providers_to_ask(request).count() > 0
        }),
        ("needs_http", &|| destination.needs_http(request.destination.port)),
    ];
    for (way, ask) in ways {
        let (memory, _) = taken(ask);
        assert_eq!(memory, 0, "{way}");
    }
    ways.len()
}

#[test]
fn no_way_to_ask_takes_memory() {
    let (web, db) = (table("web", "front", "bytes"), table("db", "shop", "http"));
    let claims = claims();
    let tenant = [("X-Tenant", "tenant-7")];
    let mut asked = 0;
    for port in [5432, 8080, 9090, 80] {
        for (pod, id) in [(WEB, WEB_ID), (WEB, OTHER_ID), (WEB, None), (BAD, WEB_ID)] {
            let bytes = to(port, pod, id).with_answers(&Says(Answer::Allow));
            asked += asked_in_every_way(&web, &db, &bytes);
            let http = Http::new("GET", Some("/orders/42/items?page=1"), "shop", &tenant).with_claims(&claims);
            asked += asked_in_every_way(&db, &db, &bytes.with_http(http));
        }
    }
    assert_eq!(asked, 4 * 4 * 2 * 11);
}

#[test]
fn deciding_about_a_connection_takes_no_memory() {
    let web = table("web", "front", "bytes");
    let (bytes, http) = (table("db", "shop", "bytes"), table("db", "shop", "http"));
    let mut verdicts = Vec::new();
    for (db, port) in [&bytes, &http]
        .into_iter()
        .flat_map(|db| [5432, 8080, 8500, 9090, 80].map(|port| (db, port)))
    {
        for (pod, id) in [(WEB, WEB_ID), (WEB, OTHER_ID), (WEB, None), (BAD, WEB_ID)] {
            let request = to(port, pod, id).with_answers(&Says(Answer::Allow));
            let (memory, decision) = taken(|| decide_inbound(db, &request));
            assert_eq!(memory, 0, "inbound: {decision}");
            verdicts.push(decision.why.label());
            let (memory, decision) = taken(|| decide(Some(&web), Some(db), &request));
            assert_eq!(memory, 0, "at both ends: {decision}");
            let (memory, decision) = taken(|| decide_outbound(db, &request));
            assert_eq!(memory, 0, "outbound: {decision}");
            verdicts.push(decision.why.label());
            let (memory, decided) = taken(|| decide_connection(db, &request));
            assert_eq!(memory, 0, "before the first request: {decided:?}");
        }
    }
    let refusing = Table::deny_all("no table yet");
    let (memory, decision) = taken(|| decide_inbound(&refusing, &to(80, WEB, WEB_ID)));
    assert_eq!(memory, 0, "{decision}");
    for expected in [
        "allow_rule",
        "ingress_not_allowed",
        "deny_rule",
        "plaintext_refused",
        "egress_not_allowed",
    ] {
        assert!(
            verdicts.contains(&expected),
            "{expected} must be among what was measured: {verdicts:?}"
        );
    }
}

#[test]
fn deciding_about_a_request_takes_no_memory() {
    let db = table("db", "shop", "http");
    let claims = claims();
    let tenant = [("X-Tenant", "tenant-7"), ("accept", "*/*")];
    let twice = [("x-tenant", "acme"), ("x-tenant", "nobody"), ("x-role", "evil-one")];
    let mut verdicts = Vec::new();
    for (method, path) in [
        ("GET", Some("/orders/42/items?page=1")),
        ("POST", Some("/admin/a/b")),
        ("GET", Some("/nothing")),
        ("CONNECT", None),
    ] {
        for host in ["shop", "db.shop:8080"] {
            for said in [Answer::Allow, Answer::Deny, Answer::Error] {
                let answers = Says(said);
                for http in [
                    Http::new(method, path, host, &tenant).with_claims(&claims),
                    Http::new(method, path, host, &twice).with_remote_ip("203.0.113.9".parse().unwrap()),
                ] {
                    let request = to(8080, WEB, WEB_ID).with_http(http).with_answers(&answers);
                    let (memory, decision) = taken(|| decide_inbound(&db, &request));
                    assert_eq!(memory, 0, "{method} {path:?}: {decision}");
                    verdicts.push(decision.why.label());
                    let (memory, providers) = taken(|| db.providers_to_ask(&request).count());
                    assert_eq!(memory, 0, "{providers} providers");
                }
            }
        }
    }
    for expected in [
        "allow_rule",
        "no_allow_rule",
        "deny_rule",
        "provider_denied",
        "provider_failed",
    ] {
        assert!(
            verdicts.contains(&expected),
            "{expected} must be among what was measured: {verdicts:?}"
        );
    }
}
