//! What each fuzz target does with its bytes, and what must hold. Shared by the fuzz targets (nightly) and by the smoke test
//! in `control/tests/fuzz_smoke.rs` (stable), so that what is fuzzed is what is tested.

use prost::Message as _;
use squire_control::{
    manifest::Manifest,
    policy::{MeshConfig, PolicySet, Subject, check::check, eval::Evaluator, why::World},
};
use squire_mesh::{
    policy::{
        Cidr, Connection, Destination, Http, Request, RequestPrincipalMatch, Source, Table, Template, TextMatch,
        decide_inbound,
        path::{PathNormalization, normalize},
    },
    spiffe::SpiffeId,
    wire::squire as wire,
    workload::{Service, Workload},
};
use std::{net::IpAddr, sync::LazyLock};

/// Any text is read or refused with problems; whatever was read can be checked, and refers to lines that exist.
pub fn manifest(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let manifest = Manifest::parse("fuzz", &text);
    // In YAML a carriage return by itself ends a line too.
    let lines = text.matches(['\n', '\r']).count() + 1;
    for problem in check(&manifest).problems {
        assert!(problem.line <= lines, "{problem}: there are {lines} lines");
        assert!(!problem.message.is_empty());
    }
}

/// An ID that parses reads the same again, and is what it says.
pub fn spiffe_id(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(id) = text.parse::<SpiffeId>() else { return };
    assert_eq!(id.as_str().parse::<SpiffeId>().as_ref(), Ok(&id));
    assert_eq!(id.as_str(), format!("spiffe://{}{}", id.trust_domain(), id.path()));
    assert!(id.as_str().len() <= 2048);
}

/// A normalised path has no dot segments, no fragment, and begins with a slash.
pub fn path(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for mode in [
        PathNormalization::None,
        PathNormalization::Base,
        PathNormalization::MergeSlashes,
        PathNormalization::DecodeAndMergeSlashes,
    ] {
        let Ok(target) = normalize(mode, &text) else { continue };
        assert!(!target.contains('#'));
        if mode == PathNormalization::None {
            continue;
        }
        let path = target.split('?').next().unwrap_or_default();
        assert!(path.starts_with('/'));
        assert!(
            !path.split('/').any(|segment| segment == "." || segment == ".."),
            "{text:?} became {path:?}"
        );
        assert!(mode == PathNormalization::Base || !path.contains("//"));
    }
}

/// A message is a table or refused; a table survives the wire.
pub fn wire_policy(bytes: &[u8]) {
    let Ok(message) = wire::Policy::decode(bytes) else {
        return;
    };
    let Ok(table) = Table::try_from(message) else { return };
    let again = Table::try_from(wire::Policy::from(&table));
    assert_eq!(again.as_ref(), Ok(&table));
}

/// A line is answered, whatever it is, and the answer is JSON.
pub fn eval_line(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let answer = Evaluator::per_line().line(&text);
    assert!(serde_json::to_string(&answer).is_ok());
}

/// A message is a workload or refused; a workload survives the wire.
pub fn wire_workload(bytes: &[u8]) {
    let Ok(message) = wire::Workload::decode(bytes) else {
        return;
    };
    let Ok(workload) = Workload::try_from(message) else {
        return;
    };
    assert_eq!(
        Workload::try_from(wire::Workload::from(&workload)).as_ref(),
        Ok(&workload)
    );
}

/// A message is a Service, with its routes, or refused; a Service survives the wire.
pub fn wire_service(bytes: &[u8]) {
    let Ok(message) = wire::Service::decode(bytes) else {
        return;
    };
    let Ok(service) = Service::try_from(message) else {
        return;
    };
    assert_eq!(Service::try_from(wire::Service::from(&service)).as_ref(), Ok(&service));
}

/// Values of policies: blocks, templates, patterns. The first line is the value, the second what it is held against.
pub fn values(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (value, against) = text.split_once('\n').unwrap_or((&text, ""));
    if let Ok(block) = value.parse::<Cidr>() {
        assert_eq!(block.to_string().parse::<Cidr>().as_ref(), Ok(&block));
        assert!(block.contains(block.address()) && block.covers(&block));
        if let Ok(address) = against.parse::<IpAddr>() {
            let families = block.address().is_ipv4() == address.to_canonical().is_ipv4();
            assert!(families || !block.contains(address));
        }
    }
    if let Ok(template) = Template::parse(value) {
        assert_eq!(template.to_string(), value);
        assert_eq!(Template::parse(&template.to_string()).as_ref(), Ok(&template));
        // A star is no character of a segment that an operator stands for.
        assert!(!Template::is_template(value) || !template.matches(against) || !against.contains(['*', '?', '#']));
    }
    let pattern = TextMatch::parse(value);
    let same = pattern.matches(against.as_bytes());
    assert!(!same || pattern.matches_ignoring_case(against.as_bytes()));
    let principal = RequestPrincipalMatch::parse(value);
    let _ = (
        principal.issuer.matches(against.as_bytes()),
        principal.subject.matches(against.as_bytes()),
    );
}

/// Rules that look at claims in every way there is.
static CLAIMS: LazyLock<Table> = LazyLock::new(|| {
    let policy = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: n}
spec:
  rules:
  - from: [{source: {requestPrincipals: ["*", "a/*", "*/b"], notRequestPrincipals: [x/y]}}]
    when:
    - {key: "request.auth.claims[a]", values: ["*"], notValues: [no]}
    - {key: "request.auth.claims[a][b][c]", notValues: ["x*", "*y"]}
  - when: [{key: request.auth.audiences, values: [one, "t*"]}]
  - when: [{key: request.auth.presenter, notValues: [one]}]
  - when: [{key: "request.auth.claims[scope]", values: [read]}]
"#;
    let (set, _) = PolicySet::from_objects(&Manifest::parse("p", policy).objects, MeshConfig::default());
    set.compile(&Subject {
        namespace: "n",
        labels: Vec::new(),
        selectable: true,
    })
});

/// Whatever a token claims, there is a decision; and of what cannot be read as claims there is none.
pub fn claims(bytes: &[u8]) {
    let Ok(serde_json::Value::Object(claims)) = serde_json::from_slice(bytes) else {
        return;
    };
    let headers: [(&str, &str); 0] = [];
    let (source, destination) = (Source::external([10, 0, 0, 1].into()), [10, 0, 0, 2].into());
    let destination = Destination {
        ip: destination,
        port: 80,
        workload: None,
    };
    let request = Request::connection(source, destination, Connection::default());
    let with = Http::new("GET", Some("/"), "h", &headers).with_claims(&claims);
    let decision = decide_inbound(&CLAIMS, &request.with_http(with));
    assert!(!decision.to_string().is_empty());
}

/// What claims to be the page of a control plane is read or refused.
pub fn objects_page(bytes: &[u8]) {
    if let Ok(world) = World::from_control_plane(&String::from_utf8_lossy(bytes)) {
        assert!(world.problems.iter().all(|problem| !problem.message.is_empty()));
    }
}
