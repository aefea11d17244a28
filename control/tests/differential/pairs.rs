//! Many pairs at the price of few: policies and requests are drawn in batches, and each set of policies is asked about
//! each request of its batch, by the proxy's decision function and by the reference. What has been read, compiled or
//! normalised once is not read again for each pair; nothing is left out of what is compared. One request of each set
//! also goes through `squire policy eval`, line and all.

use std::{cell::OnceCell, collections::BTreeMap};

use serde_json::{Value, json};
use squire_control::policy::eval::Evaluator;
use squire_mesh::policy::{Decision, Gates, PathNormalization, Table, gates};

use super::{
    ask,
    connections::{Drawn, Provided, table, with_connection},
    generate::{self, Family, Random},
    reference, set,
};

/// Sets of policies in a batch.
const SETS: usize = 10;
/// Requests in a batch.
const REQUESTS: usize = 32;

/// Compares at least so many pairs.
pub(crate) fn compare(family: Family, first_seed: u64, pairs: usize) {
    for seed in (first_seed..).take(pairs.div_ceil(SETS * REQUESTS)) {
        let r = &mut Random::new(seed);
        let mesh = generate::mesh(r);
        let batch = Batch::new(&mesh, (0..REQUESTS).map(|_| generate::request(r, family)).collect());
        for at in 0..SETS {
            let objects = generate::objects(r, family);
            batch.compare(&objects, at, &|| format!("{family:?} seed {seed}"));
        }
    }
}

/// Requests, and what both ends of them are.
struct Batch<'m> {
    mesh: &'m Value,
    asked: Vec<Asked>,
    /// One end of each kind that policies can tell apart.
    ends: Vec<Value>,
}

struct Asked {
    request: Value,
    http: Option<Drawn>,
    /// The path is answered with 400.
    bad_path: bool,
    source: Option<usize>,
    destination: Option<usize>,
}

impl<'m> Batch<'m> {
    fn new(mesh: &'m Value, requests: Vec<Value>) -> Self {
        let mode = mesh["pathNormalization"]
            .as_str()
            .map_or(PathNormalization::default(), |mode| mode.parse().unwrap());
        let mut ends = Vec::new();
        let mut known = BTreeMap::new();
        let mut place = |end: &Value| {
            let key = (end["namespace"].as_str()?.to_owned(), end["labels"].to_string());
            Some(*known.entry(key).or_insert_with(|| {
                ends.push(end.clone());
                ends.len() - 1
            }))
        };
        let asked = requests.into_iter().map(|request| {
            let http = request.get("http").map(|http| Drawn::new(http, mode));
            Asked {
                source: place(&request["source"]),
                destination: place(&request["destination"]),
                bad_path: matches!(http, Some(None)),
                http: http.flatten(),
                request,
            }
        });
        Self {
            asked: asked.collect(),
            mesh,
            ends,
        }
    }

    fn compare(&self, objects: &[Value], at: usize, which: &dyn Fn() -> String) {
        let set = set(objects, self.mesh);
        let tables: Vec<OnceCell<Table>> = self.ends.iter().map(|_| OnceCell::new()).collect();
        let table_of = |place: Option<usize>| {
            place.map(|place| tables[place].get_or_init(|| table(&set, &self.ends[place]).unwrap()))
        };
        for asked in &self.asked {
            let expected = reference::evaluate(objects, self.mesh, &asked.request);
            let actual = answer(asked, table_of(asked.source), table_of(asked.destination));
            self.agree(objects, asked, &expected, &actual, which);
        }
        let asked = &self.asked[at];
        let line = ask(&Evaluator::with_policies(set), &asked.request);
        let expected = reference::evaluate(objects, self.mesh, &asked.request);
        self.agree(objects, asked, &expected, &line, which);
    }

    fn agree(&self, objects: &[Value], asked: &Asked, expected: &Value, actual: &Value, which: &dyn Fn() -> String) {
        for (field, expected) in expected.as_object().unwrap() {
            assert_eq!(
                actual[field],
                *expected,
                "{}: {field}\n{actual}\nmesh {}\nobjects {objects:#?}\nrequest {:#}",
                which(),
                self.mesh,
                asked.request
            );
        }
    }
}

/// What the proxies at both ends say.
fn answer(asked: &Asked, source: Option<&Table>, destination: Option<&Table>) -> Value {
    let provided = Provided::new(&asked.request["extAuthz"]);
    let (gates, mode) = with_connection(&asked.request, |connection| {
        let connection = connection.with_answers(&provided);
        let request = match &asked.http {
            Some(http) => connection.with_http(http.view()),
            None => connection,
        };
        let mode = destination.map(|table| table.mtls_mode(request.destination.port));
        (gates(source, destination, &request), mode.unwrap_or_default())
    });
    let authorization = if asked.bad_path && destination.is_some() {
        Decision::bad_path()
    } else {
        gates.authorization.clone()
    };
    let gates = Gates { authorization, ..gates };
    let mut shadow = json!({});
    for (action, said) in [
        ("ALLOW", gates.authorization.shadow.allow),
        ("DENY", gates.authorization.shadow.deny),
    ] {
        if let Some(matched) = said {
            shadow[action] = matched.into();
        }
    }
    json!({
        "ingress": gates.ingress.verdict.as_str(), "egress": gates.egress.verdict.as_str(), "mtlsMode": mode.as_str(),
        "authz": gates.authorization.verdict.as_str(), "audited": gates.authorization.audited.is_some(), "shadow": shadow,
        "decision": gates.into_decision().verdict.as_str(),
    })
}
