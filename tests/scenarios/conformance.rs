//! HTTP/2 as h2spec wants it, through a real pair of sidecars: what it sends is seen by the first sidecar, and answered by
//! an application behind the second. Cases that may fail are named here, each with its reason; any other is an error.

use std::{collections::BTreeMap, fs};

use squire_tests::{Mesh, PATIENCE, Pair, http2::Http2App, require};
use tokio::{process::Command, time::timeout};

/// What h2spec calls a failure and we do not, by section and case.
const EXPECTED: &[(&str, &str)] = &[
    // What does not begin as HTTP/2 does is no HTTP/2 to a sidecar: the port is not declared, so these are bytes, which are
    // carried to the application. It closes without having read all of them, which is a reset; h2spec wants an end in order.
    ("http2/3.5", "Sends invalid connection preface"),
];

/// The cases of a JUnit report that failed: section and case, and what was expected and seen.
fn failures(report: &str) -> BTreeMap<(String, String), String> {
    let attribute = |tag: &str, name: &str| {
        let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
        Some(rest.split('"').next()?.replace("&#34;", "\"").replace("&#39;", "'"))
    };
    let mut failures = BTreeMap::new();
    for case in report.split("<testcase ").skip(1) {
        let case = case.split("</testcase>").next().unwrap_or(case);
        let tag = format!(" {}", case.split('>').next().unwrap());
        if let Some((_, why)) = case.split_once("<failure>").or_else(|| case.split_once("<error>")) {
            let of = |name| attribute(&tag, name).unwrap_or_default();
            let why = why.split("</").next().unwrap_or(why).to_owned();
            failures.insert((of("package"), of("classname")), why);
        }
    }
    failures
}

#[tokio::test]
async fn h2spec_finds_nothing_that_is_not_explained_here() {
    let h2spec = require("h2spec");
    let mesh = Mesh::strict();
    let Pair {
        app: _app,
        db: _db,
        web,
    } = Pair::start(&mesh, Http2App::start("db").await).await;
    let to = web.to("db:8080");
    let report = mesh.dir().join("h2spec.xml");
    let mut command = Command::new(h2spec.path());
    command.args([
        "-S",
        "-h",
        &to.ip().to_string(),
        "-p",
        &to.port().to_string(),
        "-P",
        "/hello",
        "-o",
        "5",
    ]);
    command.arg("-j").arg(&report).kill_on_drop(true);
    // Its cases come one after the other, and some consist of waiting.
    let output = timeout(PATIENCE * 8, command.output()).await;
    let output = output.expect("h2spec comes to an end").unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let report = fs::read_to_string(report).unwrap_or_else(|error| panic!("no report: {error}\n{said}"));
    let cases = report.matches("<testcase ").count();
    assert!(cases >= 140, "{cases} cases are not all of them\n{said}");
    let failed = failures(&report);
    let unexpected: Vec<_> = failed
        .iter()
        .filter(|((section, case), _)| !EXPECTED.contains(&(&**section, &**case)))
        .collect();
    assert!(unexpected.is_empty(), "{unexpected:#?}");
}
