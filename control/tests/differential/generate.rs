//! Random policies and requests over a small world, so that they meet often. Only valid objects: what invalid ones do is
//! tested on its own.

use serde_json::{Value, json};

/// A small deterministic generator (splitmix64), so that a seed is all a failure needs.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    /// True once in `n` times.
    pub(crate) fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    /// One to `most` different elements.
    fn some(&mut self, from: &[&str], most: usize) -> Value {
        let count = 1 + self.below(most);
        let mut picked: Vec<&str> = (0..count).map(|_| self.pick(from)).collect();
        picked.sort_unstable();
        picked.dedup();
        json!(picked)
    }
}

const NAMESPACES: [&str; 3] = ["a", "b", "istio-system"];
const KEYS: [&str; 2] = ["x", "y"];
const VALUES: [&str; 3] = ["1", "2", ""];
const ADDRESSES: [&str; 7] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.0.1.1",
    "192.168.7.9",
    "2001:db8::1",
    "2001:db8:1::1",
    "::ffff:10.0.0.2",
];
const BLOCKS: [&str; 7] = [
    "10.0.0.0/24",
    "10.0.0.0/8",
    "0.0.0.0/0",
    "2001:db8::/32",
    "::/0",
    "10.0.0.2/32",
    "192.168.0.0/16",
];
const PORTS: [u16; 4] = [80, 81, 8080, 53];
const DOMAINS: [&str; 4] = ["cluster.local", "td-1", "td-2", "other"];

/// The family of objects to generate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Family {
    Network,
    Peer,
    Authorization,
    All,
}

pub(crate) fn mesh(r: &mut Random) -> Value {
    let mut mesh = json!({});
    if r.once_in(3) {
        mesh["trustDomain"] = json!(r.pick(&["td-1", "td-2"]));
    }
    if r.once_in(3) {
        mesh["trustDomainAliases"] = r.some(&["td-2", "other"], 2);
    }
    if r.once_in(2) {
        mesh["pathNormalization"] = json!(r.pick(&["NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"]));
    }
    let kind = r.pick(&["grpc", "http"]);
    mesh["extensionProviders"] = json!({ "p1": {"type": kind, "failOpen": r.once_in(2)}, "p2": {"type": "grpc"} });
    mesh["multipleCustomProviders"] = json!(r.once_in(2));
    mesh
}

pub(crate) fn objects(r: &mut Random, family: Family) -> Vec<Value> {
    let count = r.below(5);
    (0..count)
        .map(|index| {
            let family = match family {
                Family::All => [Family::Network, Family::Peer, Family::Authorization][r.below(3)],
                one => one,
            };
            match family {
                Family::Network => network_policy(r, index),
                Family::Peer => peer_authentication(r, index),
                _ if r.once_in(8) => request_authentication(r, index),
                _ => authorization_policy(r, index),
            }
        })
        .collect()
}

fn metadata(r: &mut Random, index: usize) -> Value {
    json!({ "name": format!("p{index}"), "namespace": r.pick(&NAMESPACES) })
}

fn match_labels(r: &mut Random) -> Value {
    let mut labels = json!({});
    for key in KEYS {
        if r.once_in(3) {
            labels[key] = json!(r.pick(&VALUES));
        }
    }
    labels
}

fn selector(r: &mut Random) -> Value {
    let mut selector = json!({});
    if r.once_in(2) {
        selector["matchLabels"] = match_labels(r);
    }
    if r.once_in(2) {
        let operator = r.pick(&["In", "NotIn", "Exists", "DoesNotExist"]);
        let mut expression = json!({ "key": r.pick(&KEYS), "operator": operator });
        if operator.ends_with("In") {
            expression["values"] = r.some(&VALUES, 2);
        }
        selector["matchExpressions"] = json!([expression]);
    }
    selector
}

fn network_policy(r: &mut Random, index: usize) -> Value {
    let mut spec = json!({});
    if !r.once_in(3) {
        spec["podSelector"] = selector(r);
    }
    if r.once_in(2) {
        spec["policyTypes"] = r.some(&["Ingress", "Egress"], 2);
    }
    for (section, peers) in [("ingress", "from"), ("egress", "to")] {
        if r.once_in(2) {
            let count = r.below(3);
            spec[section] = (0..count).map(|_| network_rule(r, peers)).collect();
        }
    }
    json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata(r, index), "spec": spec })
}

fn network_rule(r: &mut Random, peers: &str) -> Value {
    let mut rule = json!({});
    if r.once_in(2) {
        let count = r.below(3);
        rule[peers] = (0..count).map(|_| network_peer(r)).collect();
    }
    if r.once_in(2) {
        let count = r.below(3);
        rule["ports"] = (0..count).map(|_| network_port(r)).collect();
    }
    rule
}

fn network_peer(r: &mut Random) -> Value {
    match r.below(4) {
        0 => json!({ "podSelector": selector(r) }),
        1 => json!({ "namespaceSelector": namespace_selector(r) }),
        2 => json!({ "podSelector": selector(r), "namespaceSelector": namespace_selector(r) }),
        _ => match r.below(3) {
            0 => json!({ "ipBlock": { "cidr": "10.0.0.0/16", "except": ["10.0.0.0/31", "10.0.1.0/24"] } }),
            1 => json!({ "ipBlock": { "cidr": "2001:db8::/32", "except": ["2001:db8:1::/48"] } }),
            _ => json!({ "ipBlock": { "cidr": r.pick(&BLOCKS) } }),
        },
    }
}

fn namespace_selector(r: &mut Random) -> Value {
    if r.once_in(2) {
        json!({ "matchLabels": { "kubernetes.io/metadata.name": r.pick(&NAMESPACES) } })
    } else {
        selector(r)
    }
}

fn network_port(r: &mut Random) -> Value {
    let mut port = json!({});
    if r.once_in(2) {
        port["protocol"] = json!(r.pick(&["TCP", "UDP", "SCTP"]));
    }
    match r.below(4) {
        0 => {}
        1 => port["port"] = json!(r.pick(&["web", "dns"])),
        2 => port["port"] = json!(PORTS[r.below(4)]),
        _ => {
            port["port"] = json!(79 + r.below(3));
            port["endPort"] = json!(81 + r.below(8000));
        }
    }
    port
}

fn peer_authentication(r: &mut Random, index: usize) -> Value {
    let modes = ["UNSET", "DISABLE", "PERMISSIVE", "STRICT"];
    let mut metadata = metadata(r, index);
    if r.once_in(2) {
        metadata["creationTimestamp"] = json!(format!("2024-01-0{}T00:00:00Z", 1 + r.below(4)));
    }
    let mut spec = json!({});
    if !r.once_in(4) {
        spec["mtls"] = json!({ "mode": r.pick(&modes) });
    }
    if r.once_in(2) {
        let labels = json!({ r.pick(&KEYS): r.pick(&VALUES) });
        spec["selector"] = json!({ "matchLabels": labels });
        if r.once_in(2) {
            let one = if r.once_in(4) {
                json!({})
            } else {
                json!({ "mode": r.pick(&modes) })
            };
            spec["portLevelMtls"] = json!({ PORTS[r.below(4)].to_string(): one });
        }
    }
    json!({ "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": metadata, "spec": spec })
}

fn request_authentication(r: &mut Random, index: usize) -> Value {
    let mut rule = json!({ "issuer": r.pick(&["i", "https://i/x"]) });
    if r.once_in(2) {
        rule["spaceDelimitedClaims"] = json!(["groups"]);
    }
    let spec = json!({ "selector": { "matchLabels": match_labels(r) }, "jwtRules": [rule] });
    json!({ "apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication", "metadata": metadata(r, index), "spec": spec })
}

fn authorization_policy(r: &mut Random, index: usize) -> Value {
    let action = r.pick(&["ALLOW", "ALLOW", "DENY", "DENY", "AUDIT", "CUSTOM"]);
    let mut metadata = metadata(r, index);
    if (action == "ALLOW" || action == "DENY") && r.once_in(4) {
        metadata["annotations"] = json!({ "istio.io/dry-run": r.pick(&["true", "false"]) });
    }
    let needed = usize::from(action == "DENY" || action == "CUSTOM");
    let count = needed + r.below(3);
    let rules: Vec<Value> = (0..count).map(|_| rule(r, action == "CUSTOM")).collect();
    let mut spec = json!({ "rules": rules });
    if action != "ALLOW" || r.once_in(2) {
        spec["action"] = json!(action);
    }
    if action == "CUSTOM" {
        spec["provider"] = json!({ "name": r.pick(&["p1", "p1", "p2", "nobody"]) });
    }
    if r.once_in(2) {
        spec["selector"] = json!({ "matchLabels": match_labels(r) });
    } else if r.once_in(12) {
        spec["targetRefs"] = json!([{ "kind": "Service", "group": "", "name": "s" }]);
    }
    let version = r.pick(&["security.istio.io/v1", "security.istio.io/v1beta1"]);
    json!({ "apiVersion": version, "kind": "AuthorizationPolicy", "metadata": metadata, "spec": spec })
}

fn rule(r: &mut Random, custom: bool) -> Value {
    let mut rule = json!({});
    if r.once_in(2) {
        let count = 1 + r.below(2);
        rule["from"] = (0..count)
            .map(|_| json!({ "source": fields(r, &sources(custom)) }))
            .collect();
    }
    if r.once_in(2) {
        let count = 1 + r.below(2);
        rule["to"] = (0..count)
            .map(|_| json!({ "operation": fields(r, &OPERATIONS) }))
            .collect();
    }
    if r.once_in(2) {
        let count = 1 + r.below(2);
        rule["when"] = (0..count).map(|_| when(r, custom)).collect();
    }
    rule
}

type Field = (&'static str, &'static str, &'static [&'static str]);

const PRINCIPALS: [&str; 10] = [
    "*",
    "cluster.local/ns/a/sa/s",
    "td-1/ns/a/sa/s",
    "*/ns/a/sa/s",
    "td-*/ns/b/sa/s",
    "*-1/ns/a/sa/t",
    "*/sa/t",
    "td-1/*",
    "other/ns/b/sa/*",
    "cluster.local/*",
];
const OPERATIONS: [Field; 4] = [
    ("hosts", "notHosts", &["h", "H.example", "*.example", "h*", "*", "h:80"]),
    ("ports", "notPorts", &["80", "81", "8080", "53"]),
    ("methods", "notMethods", &["GET", "POST", "*", "G*", "*T"]),
    (
        "paths",
        "notPaths",
        &[
            "/a",
            "/a*",
            "*/b",
            "*",
            "/a/{*}",
            "/a/{**}",
            "/{*}/b",
            "/a/{**}/b",
            "/a/{*}/{**}",
        ],
    ),
];

fn sources(custom: bool) -> Vec<Field> {
    let mut fields: Vec<Field> = vec![
        ("ipBlocks", "notIpBlocks", &BLOCKS),
        ("remoteIpBlocks", "notRemoteIpBlocks", &BLOCKS),
    ];
    if !custom {
        fields.extend::<[Field; 4]>([
            ("principals", "notPrincipals", &PRINCIPALS),
            ("namespaces", "notNamespaces", &["a", "b", "*", "a*", "*b"]),
            (
                "trustDomains",
                "notTrustDomains",
                &["cluster.local", "td-1", "td-*", "*-2", "*"],
            ),
            ("requestPrincipals", "notRequestPrincipals", &REQUEST_PRINCIPALS),
        ]);
    }
    fields
}

const REQUEST_PRINCIPALS: [&str; 9] = [
    "*",
    "i/s",
    "https://i/x/s",
    "*/s",
    "*x/s",
    "i/*",
    "i/s*",
    "*s",
    "https*",
];

fn fields(r: &mut Random, all: &[Field]) -> Value {
    let mut item = json!({});
    let count = 1 + r.below(2);
    for _ in 0..count {
        let (positive, negative, values) = all[r.below(all.len())];
        let name = if r.once_in(3) { negative } else { positive };
        item[name] = r.some(values, 2);
    }
    let accounts = all.len() > 4
        && ["principals", "notPrincipals", "namespaces", "notNamespaces"]
            .iter()
            .all(|key| item.get(key).is_none());
    if accounts && r.once_in(3) {
        let name = if r.once_in(3) {
            "notServiceAccounts"
        } else {
            "serviceAccounts"
        };
        item[name] = r.some(&["s", "a/s", "b/t"], 2);
    }
    item
}

fn when(r: &mut Random, custom: bool) -> Value {
    const TEXTS: &[&str] = &["v", "w", "v*", "*w", "*"];
    let open: [(&str, &[&str]); 8] = [
        ("request.headers[x-role]", TEXTS),
        ("request.headers[X-Other]", TEXTS),
        ("request.headers[:method]", &["GET", "P*"]),
        ("request.headers[:path]", &["/a", "/a*", "*y"]),
        ("source.ip", &BLOCKS),
        ("remote.ip", &ADDRESSES),
        ("destination.port", &["80", "8080"]),
        ("connection.sni", &["s.example", "*.example", "*"]),
    ];
    let identity: [(&str, &[&str]); 9] = [
        ("source.namespace", &["a", "b", "*"]),
        ("source.principal", &PRINCIPALS),
        ("source.serviceAccount", &["s", "a/s", "b/t"]),
        ("source.trustDomain", &["cluster.local", "td-1", "*"]),
        ("request.auth.principal", &REQUEST_PRINCIPALS),
        ("request.auth.audiences", TEXTS),
        ("request.auth.claims[scope]", TEXTS),
        ("request.auth.claims[groups]", TEXTS),
        ("request.auth.claims[nested][deep]", TEXTS),
    ];
    let (key, values) = if custom || r.once_in(2) {
        open[r.below(open.len())]
    } else {
        identity[r.below(identity.len())]
    };
    let mut item = json!({ "key": key });
    let both = r.once_in(4);
    let negative = r.once_in(2);
    if both || !negative {
        item["values"] = r.some(values, 2);
    }
    if both || negative {
        item["notValues"] = r.some(values, 2);
    }
    item
}

pub(crate) fn request(r: &mut Random, family: Family) -> Value {
    let network = family == Family::Network;
    let http = !network && !r.once_in(3);
    let mtls = r.once_in(2);
    let mut source = end(r);
    if mtls && !r.once_in(10) {
        let id = match r.below(6) {
            0 => format!("spiffe://{}/other/form", r.pick(&DOMAINS)),
            _ => format!(
                "spiffe://{}/ns/{}/sa/{}",
                r.pick(&DOMAINS),
                r.pick(&NAMESPACES),
                r.pick(&["s", "t"])
            ),
        };
        source["identity"] = json!(id);
    }
    let mut destination = end(r);
    destination["port"] = json!(PORTS[r.below(4)]);
    if r.once_in(2) {
        destination["namedPorts"] = json!({ "web": {"port": 80 + r.below(2), "protocol": "TCP"}, "dns": {"port": 53, "protocol": r.pick(&["UDP", "TCP"])} });
    }
    let l4 = if network {
        r.pick(&["TCP", "TCP", "UDP", "SCTP"])
    } else {
        "TCP"
    };
    let sni = if r.once_in(2) {
        json!(r.pick(&["s.example", "x"]))
    } else {
        Value::Null
    };
    let connection = json!({
        "l4": l4, "tls": if mtls { "mtls" } else { "none" }, "sni": sni, "protocol": if http { "http" } else { "tcp" },
    });
    let mut request = json!({ "source": source, "destination": destination, "connection": connection });
    if http {
        request["http"] = http_of(r);
    }
    request["extAuthz"] = answers(r);
    request
}

/// What external providers would say; one that is missing cannot be asked.
pub(crate) fn answers(r: &mut Random) -> Value {
    let mut answers = json!({});
    for provider in ["p1", "p2"] {
        if !r.once_in(4) {
            answers[provider] = json!(r.pick(&["allow", "deny", "error"]));
        }
    }
    answers
}

fn end(r: &mut Random) -> Value {
    let ip = r.pick(&ADDRESSES);
    if r.once_in(6) {
        return json!({ "kind": "external", "ip": ip });
    }
    let namespace = r.pick(&NAMESPACES);
    let mut labels = match_labels(r);
    labels["kubernetes.io/metadata.name"] = json!(namespace);
    json!({ "kind": "pod", "ip": ip, "namespace": namespace, "labels": match_labels(r), "namespaceLabels": labels })
}

pub(crate) fn http_of(r: &mut Random) -> Value {
    let paths = [
        "/a",
        "/b",
        "/a/b",
        "/a/",
        "/a/x/b",
        "/a//b",
        "/a/../b",
        "/%61/b",
        "/a%2fb",
        "/a?x=/b",
        "/a#b",
        "/a%00",
        "/a\\b",
        "/a/b/c?y",
        "//a",
        "/a/./b/..",
    ];
    let mut headers: Vec<Value> = Vec::new();
    for name in ["x-role", "X-Role", "x-other"] {
        if r.once_in(3) {
            headers.push(json!([name, r.pick(&["v", "w", "vw", "v,w", ""])]));
        }
    }
    let mut http = json!({
        "method": r.pick(&["GET", "POST", "get", "CONNECT"]), "path": r.pick(&paths),
        "authority": r.pick(&["h", "H", "h.EXAMPLE", "h:80", ""]), "headers": headers,
    });
    if r.once_in(3) {
        http["remoteIp"] = json!(r.pick(&ADDRESSES));
    }
    if r.once_in(2) {
        let mut claims = json!({});
        if !r.once_in(5) {
            claims["iss"] = json!(r.pick(&["i", "https://i/x", ""]));
        }
        if !r.once_in(5) {
            claims["sub"] = json!(r.pick(&["s", "ss", ""]));
        }
        for (claim, values) in [("scope", ["v w", "w"]), ("groups", ["v w", "v"]), ("aud", ["v", "x"])] {
            match r.below(4) {
                0 => claims[claim] = json!(r.pick(&values)),
                1 => claims[claim] = json!([r.pick(&values), "z"]),
                2 => claims[claim] = json!(7),
                _ => {}
            }
        }
        if r.once_in(2) {
            claims["nested"] = json!({ "deep": [r.pick(&["v", "w"])] });
        }
        http["jwt"] = json!({ "claims": claims });
    }
    http
}
