//! A slow, obvious evaluator of policies, for comparison only. It reads the raw JSON objects again for every question, keeps
//! no state, and shares no code with the product: addresses are compared bit by bit, templates by trying every
//! split, selectors by looking at every field. Written from the specification, section by section.

use std::{borrow::Cow, net::IpAddr};

use serde_json::{Value, json};

/// The verdicts the evaluator line has, for these objects, settings and request.
pub(crate) fn evaluate(objects: &[Value], mesh: &Value, request: &Value) -> Value {
    let target = target(mesh, request);
    let world = World {
        objects,
        mesh,
        request,
        target,
    };
    let egress = world.network("Egress", "egress", "to", &request["source"], &request["destination"]);
    let ingress = world.network(
        "Ingress",
        "ingress",
        "from",
        &request["destination"],
        &request["source"],
    );
    let inside = request["destination"]["kind"] == "pod";
    let mode = if inside { world.mode() } else { "PERMISSIVE".to_owned() };
    let mtls = request["connection"]["tls"] == "mtls";
    let identified = !request["source"]["identity"].is_null();
    let transport = !inside
        || match mode.as_str() {
            "STRICT" => mtls && identified,
            "DISABLE" => !mtls,
            _ => !mtls || identified,
        };
    let (authz, audited, shadow) = if inside {
        world.authorize()
    } else {
        (true, false, json!({}))
    };
    let word = |allowed: bool| if allowed { "ALLOW" } else { "DENY" };
    json!({
        "decision": word(egress && ingress && transport && authz),
        "ingress": word(ingress), "egress": word(egress), "mtlsMode": mode, "authz": word(authz),
        "audited": audited, "shadow": shadow,
    })
}

struct World<'w> {
    objects: &'w [Value],
    mesh: &'w Value,
    request: &'w Value,
    /// The normalised path with its query, where there is one and it is not answered with 400.
    target: Option<String>,
}

/// §3.8.
fn target(mesh: &Value, request: &Value) -> Option<String> {
    let http = &request["http"];
    let raw = http["path"]
        .as_str()
        .filter(|raw| *raw != "*" && http["method"] != "CONNECT")?;
    normalized(mesh["pathNormalization"].as_str().unwrap_or("BASE"), raw)
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], |items| items)
}

fn texts(value: &Value) -> Vec<&str> {
    items(value).iter().map(|item| item.as_str().unwrap()).collect()
}

fn namespace(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or("default")
}

fn action(policy: &Value) -> &str {
    policy["spec"]["action"].as_str().unwrap_or("ALLOW")
}

fn provider(policy: &Value) -> &str {
    policy["spec"]["provider"]["name"].as_str().unwrap()
}

/// §1.3, both forms.
fn labels_match(selector: &Value, labels: &Value) -> bool {
    for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
        if labels.get(key) != Some(value) {
            return false;
        }
    }
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let value = labels.get(expression["key"].as_str().unwrap());
        let listed = value.is_some_and(|value| expression["values"].as_array().is_some_and(|all| all.contains(value)));
        let holds = match expression["operator"].as_str().unwrap() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            other => panic!("{other}"),
        };
        if !holds {
            return false;
        }
    }
    true
}

fn bits(address: &str) -> Vec<bool> {
    let of = |octets: &[u8]| {
        octets
            .iter()
            .flat_map(|octet| (0..8).map(move |bit| octet << bit & 128 != 0))
            .collect()
    };
    match address.parse::<IpAddr>().unwrap() {
        IpAddr::V4(v4) => of(&v4.octets()),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => of(&v4.octets()),
            None => of(&v6.octets()),
        },
    }
}

fn in_block(block: &str, address: &str) -> bool {
    let (network, length) = block.split_once('/').unwrap_or((block, "128"));
    let (network, address) = (bits(network), bits(address));
    let length = length.parse::<usize>().unwrap().min(network.len());
    network.len() == address.len() && network[..length] == address[..length]
}

/// §3.4.
fn text_matches(pattern: &str, text: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(""), _) => !text.is_empty(),
        (Some(end), _) => text.ends_with(end),
        (None, Some(start)) => text.starts_with(start),
        (None, None) => text == pattern,
    }
}

fn pchar(character: char, slash: bool) -> bool {
    character.is_ascii_alphanumeric() || "-._~%!$&'()+,;:@=".contains(character) || (slash && character == '/')
}

/// §3.7.26, by trying every length for every operator.
fn template_matches(template: &str, path: &str) -> bool {
    if template.is_empty() {
        return path.is_empty();
    }
    for (operator, minimum, slash) in [("{**}", 0, true), ("{*}", 1, false)] {
        if let Some(rest) = template.strip_prefix(operator) {
            return (minimum..=path.len()).any(|length| {
                let taken = &path[..length];
                taken.chars().all(|character| pchar(character, slash)) && template_matches(rest, &path[length..])
            });
        }
    }
    !path.is_empty() && template.as_bytes()[0] == path.as_bytes()[0] && template_matches(&template[1..], &path[1..])
}

/// §3.8, segment by segment; none: 400.
pub(crate) fn normalized(mode: &str, raw: &str) -> Option<String> {
    let before_fragment = raw.split('#').next().unwrap();
    let (path, query) = match before_fragment.find('?') {
        Some(at) => (&before_fragment[..at], &before_fragment[at..]),
        None => (before_fragment, ""),
    };
    if !(path.starts_with('/') || path.starts_with('\\')) || path.contains("%00") || path.contains('\0') {
        return None;
    }
    let mut path = path.to_owned();
    if mode == "DECODE_AND_MERGE_SLASHES" {
        for (escape, plain) in [("%2f", "/"), ("%2F", "/"), ("%5c", "\\"), ("%5C", "\\")] {
            path = path.replace(escape, plain);
        }
    }
    if mode != "NONE" {
        path = path.replace('\\', "/");
        // From the highest code down would be the same: no unreserved character takes part in an escape of another.
        let mut decoded = String::new();
        let mut rest = path.as_str();
        while let Some(at) = rest.find('%') {
            decoded.push_str(&rest[..at]);
            let code = rest
                .get(at + 1..at + 3)
                .filter(|code| code.chars().all(|digit| digit.is_ascii_hexdigit()));
            let character = code.map(|code| char::from(u8::from_str_radix(code, 16).unwrap()));
            match character.filter(|one| one.is_ascii_alphanumeric() || "-._~".contains(*one)) {
                Some(character) => {
                    decoded.push(character);
                    rest = &rest[at + 3..];
                }
                None => {
                    decoded.push('%');
                    rest = &rest[at + 1..];
                }
            }
        }
        decoded.push_str(rest);
        let mut kept: Vec<&str> = Vec::new();
        let segments: Vec<&str> = decoded.split('/').skip(1).collect();
        for (index, segment) in segments.iter().enumerate() {
            match *segment {
                "." => {}
                ".." => {
                    kept.pop();
                }
                other => kept.push(other),
            }
            if index + 1 == segments.len() && (*segment == "." || *segment == "..") {
                kept.push("");
            }
        }
        path = format!("/{}", kept.join("/"));
    }
    if mode == "MERGE_SLASHES" || mode == "DECODE_AND_MERGE_SLASHES" {
        while path.contains("//") {
            path = path.replace("//", "/");
        }
    }
    Some(format!("{path}{query}"))
}

impl World<'_> {
    fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }

    fn root(&self) -> &str {
        self.mesh["rootNamespace"].as_str().unwrap_or("istio-system")
    }

    // ---- §1 ----

    fn network(&self, direction: &str, section: &str, peers: &str, here: &Value, there: &Value) -> bool {
        if here["kind"] != "pod" {
            return true;
        }
        let isolating: Vec<&Value> = self
            .of_kind("NetworkPolicy")
            .filter(|policy| namespace(policy) == here["namespace"].as_str().unwrap())
            .filter(|policy| labels_match(&policy["spec"]["podSelector"], &here["labels"]))
            .filter(|policy| {
                let types = texts(&policy["spec"]["policyTypes"]);
                if types.is_empty() {
                    let has_egress = policy["spec"]["egress"]
                        .as_array()
                        .is_some_and(|rules| !rules.is_empty());
                    direction == "Ingress" || has_egress
                } else {
                    types.contains(&direction)
                }
            })
            .collect();
        let ip = |end: &str| bits(self.request[end]["ip"].as_str().unwrap());
        let itself = ip("source") == ip("destination");
        isolating.is_empty()
            || itself
            || isolating.iter().any(|policy| {
                let rules = items(&policy["spec"][section]);
                rules.iter().any(|rule| self.network_rule(policy, rule, peers, there))
            })
    }

    fn network_rule(&self, policy: &Value, rule: &Value, peers: &str, there: &Value) -> bool {
        let any = |value: &Value, matches: &dyn Fn(&Value) -> bool| match value.as_array() {
            Some(items) if !items.is_empty() => items.iter().any(matches),
            _ => true,
        };
        any(&rule[peers], &|peer| Self::network_peer(policy, peer, there))
            && any(&rule["ports"], &|port| self.network_port(port))
    }

    fn network_peer(policy: &Value, peer: &Value, there: &Value) -> bool {
        if let Some(block) = peer.get("ipBlock") {
            let ip = there["ip"].as_str().unwrap();
            return in_block(block["cidr"].as_str().unwrap(), ip)
                && !texts(&block["except"]).iter().any(|except| in_block(except, ip));
        }
        if there["kind"] != "pod" {
            return false;
        }
        let in_namespace = match peer.get("namespaceSelector") {
            Some(selector) => labels_match(selector, &there["namespaceLabels"]),
            None => there["namespace"].as_str() == Some(namespace(policy)),
        };
        in_namespace
            && peer
                .get("podSelector")
                .is_none_or(|selector| labels_match(selector, &there["labels"]))
    }

    fn network_port(&self, port: &Value) -> bool {
        let destination = &self.request["destination"];
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        if self.request["connection"]["l4"].as_str().unwrap() != protocol {
            return false;
        }
        let actual = destination["port"].as_u64().unwrap();
        match &port["port"] {
            Value::Null => true,
            Value::Number(first) => {
                let last = port["endPort"].as_u64().unwrap_or(first.as_u64().unwrap());
                first.as_u64().unwrap() <= actual && actual <= last
            }
            Value::String(name) => {
                let named = &destination["namedPorts"][name];
                destination["kind"] == "pod" && named["protocol"] == protocol && named["port"].as_u64() == Some(actual)
            }
            other => panic!("{other}"),
        }
    }

    // ---- §2 ----

    fn mode(&self) -> String {
        let destination = &self.request["destination"];
        let (root, own) = (self.root(), destination["namespace"].as_str().unwrap());
        let has_selector = |policy: &Value| {
            policy["spec"]["selector"]["matchLabels"]
                .as_object()
                .is_some_and(|labels| !labels.is_empty())
        };
        let oldest = |wanted: &dyn Fn(&Value) -> bool| {
            let mut found: Vec<&Value> = self
                .of_kind("PeerAuthentication")
                .filter(|policy| wanted(policy))
                .collect();
            found.sort_by_key(|policy| {
                let created = policy["metadata"]["creationTimestamp"].as_str().unwrap_or("");
                (created, policy["metadata"]["name"].as_str().unwrap())
            });
            found.first().copied()
        };
        let mesh = oldest(&|policy| namespace(policy) == root && !has_selector(policy));
        let whole = oldest(&|policy| namespace(policy) == own && !has_selector(policy));
        let workload = oldest(&|policy| {
            namespace(policy) == own
                && own != root
                && has_selector(policy)
                && labels_match(&policy["spec"]["selector"], &destination["labels"])
        });
        let set = |value: &Value| {
            value["mode"]
                .as_str()
                .filter(|mode| *mode != "UNSET")
                .map(str::to_owned)
        };
        let mut mode = "PERMISSIVE".to_owned();
        for policy in [&mesh, &whole, &workload].into_iter().flatten() {
            mode = set(&policy["spec"]["mtls"]).unwrap_or(mode);
        }
        let port = destination["port"].to_string();
        let of_port = workload.and_then(|policy| set(&policy["spec"]["portLevelMtls"][port]));
        of_port.unwrap_or(mode)
    }

    // ---- §3 ----

    fn authorize(&self) -> (bool, bool, Value) {
        let destination = &self.request["destination"];
        let own = destination["namespace"].as_str().unwrap();
        let applicable: Vec<&Value> = self
            .of_kind("AuthorizationPolicy")
            .filter(|policy| namespace(policy) == own || namespace(policy) == self.root())
            .filter(|policy| policy["spec"].get("targetRefs").is_none())
            .filter(|policy| labels_match(&policy["spec"]["selector"], &destination["labels"]))
            .collect();
        let dry = |policy: &Value| policy["metadata"]["annotations"]["istio.io/dry-run"] == "true";
        let with = |wanted: &str, dry_run: bool| -> Vec<&Value> {
            applicable
                .iter()
                .copied()
                .filter(|policy| action(policy) == wanted && dry(policy) == dry_run)
                .collect()
        };
        let any = |policies: &[&Value]| policies.iter().any(|policy| self.policy_matches(policy));
        if self.bad_path() {
            return (false, false, json!({}));
        }
        let mut shadow = json!({});
        for wanted in ["ALLOW", "DENY"] {
            let policies = with(wanted, true);
            if !policies.is_empty() {
                shadow[wanted] = any(&policies).into();
            }
        }
        let allow = with("ALLOW", false);
        let allowed = self.custom_passes(&with("CUSTOM", false))
            && !any(&with("DENY", false))
            && (allow.is_empty() || any(&allow));
        (allowed, any(&with("AUDIT", false)), shadow)
    }

    /// §3.11.40.
    fn custom_passes(&self, policies: &[&Value]) -> bool {
        let mut names: Vec<&str> = policies.iter().map(|policy| provider(policy)).collect();
        names.sort_unstable();
        names.dedup();
        let conflict = names.len() > 1 && self.mesh["multipleCustomProviders"] != true;
        policies
            .iter()
            .filter(|policy| self.policy_matches(policy))
            .all(|policy| {
                let known = &self.mesh["extensionProviders"][provider(policy)];
                if known.is_null() || conflict {
                    return false;
                }
                if known["type"] == "http" && !self.is_http() {
                    return true;
                }
                match self.request["extAuthz"][provider(policy)].as_str() {
                    Some("allow") => true,
                    Some("deny") => false,
                    _ => known["failOpen"] == true,
                }
            })
    }

    fn is_http(&self) -> bool {
        self.request["connection"]["protocol"] == "http"
    }

    fn bad_path(&self) -> bool {
        let http = &self.request["http"];
        let has_path = http["path"].as_str().is_some_and(|raw| raw != "*") && http["method"] != "CONNECT";
        self.is_http() && has_path && self.target.is_none()
    }

    fn policy_matches(&self, policy: &Value) -> bool {
        let mut rules = items(&policy["spec"]["rules"]).iter();
        rules.any(|rule| self.rule_matches(policy, rule))
    }

    fn rule_matches(&self, policy: &Value, rule: &Value) -> bool {
        let allow = action(policy) == "ALLOW";
        if allow && !self.is_http() && uses_http(rule) {
            return false;
        }
        let parts = |key: &str, inner: &str| match rule[key].as_array() {
            None => true,
            Some(items) => items.iter().any(|item| self.item_matches(policy, &item[inner])),
        };
        parts("from", "source")
            && parts("to", "operation")
            && items(&rule["when"]).iter().all(|item| {
                let key = item["key"].as_str().unwrap();
                let values = texts(&item["values"]);
                let not_values = texts(&item["notValues"]);
                (values.is_empty() || self.holds(policy, key, &values, false))
                    && (not_values.is_empty() || self.holds(policy, key, &not_values, true))
            })
    }

    fn item_matches(&self, policy: &Value, item: &Value) -> bool {
        item.as_object().unwrap().iter().all(|(field, values)| {
            let values = texts(values);
            let (name, negated) = match field.strip_prefix("not") {
                Some(rest) => (Cow::from(format!("{}{}", rest[..1].to_lowercase(), &rest[1..])), true),
                None => (Cow::from(field), false),
            };
            let key = match &*name {
                "principals" => "source.principal",
                "namespaces" => "source.namespace",
                "serviceAccounts" => "source.serviceAccount",
                "trustDomains" => "source.trustDomain",
                "requestPrincipals" => "request.auth.principal",
                "ipBlocks" => "source.ip",
                "remoteIpBlocks" => "remote.ip",
                "ports" => "destination.port",
                other => other,
            };
            values.is_empty() || self.holds(policy, key, &values, negated)
        })
    }

    /// One attribute against values; `negated` for the not… forms.
    fn holds(&self, policy: &Value, key: &str, values: &[&str], negated: bool) -> bool {
        if !self.is_http() && is_http_only(key) {
            return true;
        }
        let allow = action(policy) == "ALLOW";
        let matched = self.attribute_matches(policy, key, values, allow && !negated);
        matched != negated
    }

    fn attribute_matches(&self, policy: &Value, key: &str, values: &[&str], all_of_header: bool) -> bool {
        let (source, destination, http) = (
            &self.request["source"],
            &self.request["destination"],
            &self.request["http"],
        );
        let any = |text: &str| values.iter().any(|pattern| text_matches(pattern, text));
        let mtls = self.request["connection"]["tls"] == "mtls";
        let identity = source["identity"]
            .as_str()
            .filter(|_| mtls)
            .map(|id| id.trim_start_matches("spiffe://"));
        let parts: Vec<&str> = identity.unwrap_or("").split('/').collect();
        let standard = parts.len() == 5 && parts[1] == "ns" && parts[3] == "sa";
        let in_any = |ip: &str| values.iter().any(|block| in_block(block, ip));
        match key {
            "source.principal" => identity.is_some_and(|id| {
                values
                    .iter()
                    .flat_map(|value| self.aliases_of(value))
                    .any(|pattern| text_matches(&pattern, id))
            }),
            "source.namespace" => standard && any(parts[2]),
            "source.serviceAccount" => {
                standard
                    && values.iter().any(|value| match value.split_once('/') {
                        Some((ns, sa)) => ns == parts[2] && sa == parts[4],
                        None => namespace(policy) == parts[2] && *value == parts[4],
                    })
            }
            "source.trustDomain" => {
                let known = self.trust_domains();
                identity.is_some()
                    && values.iter().any(|value| {
                        let expanded = if known.contains(value) {
                            known.clone()
                        } else {
                            vec![*value]
                        };
                        expanded.iter().any(|pattern| text_matches(pattern, parts[0]))
                    })
            }
            "source.ip" => in_any(source["ip"].as_str().unwrap()),
            "remote.ip" => {
                let remote = if self.is_http() {
                    http["remoteIp"].as_str()
                } else {
                    None
                };
                in_any(remote.unwrap_or(source["ip"].as_str().unwrap()))
            }
            "destination.ip" => in_any(destination["ip"].as_str().unwrap()),
            "destination.port" => values.contains(&&*destination["port"].to_string()),
            "connection.sni" => any(self.request["connection"]["sni"].as_str().unwrap_or("")),
            "methods" => any(http["method"].as_str().unwrap()),
            "hosts" => {
                let host = http["authority"].as_str().unwrap().to_lowercase();
                values.iter().any(|value| text_matches(&value.to_lowercase(), &host))
            }
            "paths" => self.target.as_deref().is_some_and(|target| {
                let path = target.split('?').next().unwrap();
                values.iter().any(|value| {
                    if value.contains('{') {
                        template_matches(value, path)
                    } else {
                        text_matches(value, path)
                    }
                })
            }),
            "request.auth.principal" => {
                let claims = &http["jwt"]["claims"];
                match (claims["iss"].as_str(), claims["sub"].as_str()) {
                    (Some(iss), Some(sub)) => values.iter().any(|value| request_principal(value, iss, sub)),
                    _ => false,
                }
            }
            "request.auth.audiences" => self.claim(&["aud"], values),
            "request.auth.presenter" => self.claim(&["azp"], values),
            _ if key.starts_with("request.auth.claims") => {
                let path: Vec<&str> = key.split(['[', ']']).skip(1).filter(|part| !part.is_empty()).collect();
                self.claim(&path, values)
            }
            _ => {
                let name = key
                    .trim_start_matches("request.headers[")
                    .trim_end_matches(']')
                    .to_lowercase();
                let mut found: Vec<String> = Vec::new();
                for header in http["headers"].as_array().into_iter().flatten() {
                    if header[0].as_str().unwrap().to_lowercase() == name {
                        found.push(header[1].as_str().unwrap().to_owned());
                    }
                }
                match name.as_str() {
                    ":method" => found = vec![http["method"].as_str().unwrap().to_owned()],
                    ":authority" => found = vec![http["authority"].as_str().unwrap().to_owned()],
                    ":path" => found = self.target.clone().into_iter().collect(),
                    _ => {}
                }
                let matching = found.iter().filter(|value| any(value)).count();
                if all_of_header {
                    matching > 0 && matching == found.len()
                } else {
                    matching > 0
                }
            }
        }
    }

    fn trust_domains(&self) -> Vec<&str> {
        let mut all = vec![self.mesh["trustDomain"].as_str().unwrap_or("cluster.local")];
        all.extend(texts(&self.mesh["trustDomainAliases"]));
        all
    }

    /// §3.6.21.
    fn aliases_of(&self, principal: &str) -> Vec<String> {
        let parts: Vec<&str> = principal.split('/').collect();
        let known = self.trust_domains();
        let is_known = parts[0] == "cluster.local" || known.iter().any(|name| text_matches(parts[0], name));
        if parts.len() != 5 || parts[0] == "*" || !is_known {
            return vec![principal.to_owned()];
        }
        let mut all: Vec<String> = known
            .iter()
            .map(|name| format!("{name}/{}", parts[1..].join("/")))
            .collect();
        if parts[0].starts_with('*') {
            all.push(principal.to_owned());
        }
        all
    }

    /// §3.9.34.
    fn claim(&self, path: &[&str], values: &[&str]) -> bool {
        let claims = &self.request["http"]["jwt"]["claims"];
        let mut found = claims;
        for part in path {
            found = &found[*part];
        }
        let mut words: Vec<&str> = match found {
            Value::String(text) => vec![text],
            Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        if path.len() == 1 && found.is_string() && self.is_spaced(path[0]) {
            words = words[0].split(' ').collect();
        }
        words
            .iter()
            .any(|word| values.iter().any(|pattern| text_matches(pattern, word)))
    }

    fn is_spaced(&self, claim: &str) -> bool {
        let destination = &self.request["destination"];
        let listed = self
            .of_kind("RequestAuthentication")
            .filter(|object| {
                let here = namespace(object) == destination["namespace"].as_str().unwrap();
                here || namespace(object) == self.root()
            })
            .filter(|object| labels_match(&object["spec"]["selector"], &destination["labels"]))
            .flat_map(|object| object["spec"]["jwtRules"].as_array().into_iter().flatten())
            .filter(|rule| rule["issuer"] == self.request["http"]["jwt"]["claims"]["iss"])
            .any(|rule| texts(&rule["spaceDelimitedClaims"]).contains(&claim));
        claim == "scope" || claim == "permission" || listed
    }
}

/// §3.5.20.
fn request_principal(value: &str, iss: &str, sub: &str) -> bool {
    if value == "*" {
        return !iss.is_empty() && !sub.is_empty();
    }
    match value.rfind('/') {
        None if value.starts_with('*') => !iss.is_empty() && sub.ends_with(&value[1..]),
        None if value.ends_with('*') => iss.starts_with(&value[..value.len() - 1]) && !sub.is_empty(),
        None => iss == value && sub.is_empty(),
        Some(at) => {
            let (left, right) = (&value[..at], &value[at + 1..]);
            if left == "*" {
                !iss.is_empty() && sub == right
            } else if let Some(end) = left.strip_prefix('*') {
                iss.ends_with(end) && sub == right
            } else if right == "*" {
                iss == left && !sub.is_empty()
            } else if let Some(start) = right.strip_suffix('*') {
                iss == left && sub.starts_with(start)
            } else {
                iss == left && sub == right
            }
        }
    }
}

fn is_http_only(key: &str) -> bool {
    key.starts_with("request.") || ["methods", "hosts", "paths"].contains(&key)
}

/// §3.10.36, anywhere in the rule.
fn uses_http(rule: &Value) -> bool {
    let fields = [
        "methods",
        "hosts",
        "paths",
        "requestPrincipals",
        "notMethods",
        "notHosts",
        "notPaths",
        "notRequestPrincipals",
    ];
    let with =
        |part: &str, inner: &str, field: &str| items(&rule[part]).iter().any(|item| item[inner].get(field).is_some());
    fields
        .iter()
        .any(|field| with("from", "source", field) || with("to", "operation", field))
        || items(&rule["when"])
            .iter()
            .any(|item| item["key"].as_str().unwrap().starts_with("request."))
}
