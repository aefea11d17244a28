//! What `deploy/` ships for Prometheus and Grafana: the rules are valid and fire when they should (`promtool`), and every
//! metric that a rule or a panel names is one that real processes show.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use squire_tests::{Mesh, eventually, http, in_time, require};
use tokio::process::Command;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

async fn promtool(arguments: &[&str]) {
    let mut command = Command::new(require("promtool").path());
    command.args(arguments).current_dir(deploy().join("prometheus"));
    let output = in_time("promtool ends", command.output()).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !text.contains("FAILED"), "{text}");
}

/// The names of our metrics in a text; those of a histogram's parts are the histogram's.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let ours = words.filter(|word| word.starts_with("squire_") && *word != "squire_mesh");
    let whole = |name: &str| {
        let part = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix));
        part.unwrap_or(name).to_owned()
    };
    ours.map(whole).collect()
}

/// Every expression of a dashboard.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value
                    .as_str()
                    .filter(|_| matches!(key.as_str(), "expr" | "query" | "definition"))
                {
                    Some(text) => found.push(text.to_owned()),
                    None => expressions(value, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

#[tokio::test]
async fn the_rules_are_valid_and_fire_when_they_should() {
    promtool(&["check", "rules", "squire.rules.yaml"]).await;
    promtool(&["test", "rules", "squire.rules.test.yaml"]).await;
}

#[tokio::test]
async fn every_metric_of_a_rule_or_a_panel_is_one_that_real_processes_show() {
    let mesh = Mesh::new();
    let settings = json!({"apiVersion": "squire.mesh/v1", "kind": "MeshConfig", "metadata": {"name": "mesh"}, "spec": {"federation": [
        {"trustDomain": "partner.example", "url": format!("https://{}/", mesh.endpoint(1)), "profile": "https_spiffe",
         "endpointSpiffeId": "spiffe://partner.example/ns/squire-system/sa/squire-control", "bundle": {"keys": []}}]}});
    mesh.write("mesh.yaml", &settings.to_string());
    let mirror = squire_tests::mirror::Mirror::start().await;
    let web = mesh.pod("web").reaches("db:80").workload_api();
    let db = mesh.pod("db").serves(80, mirror.address());
    mesh.start().await;
    let (web, db) = tokio::join!(web.start(), db.start());
    eventually("a request is answered", async || {
        let answer = http::get(web.to("db:80"), "/").await.ok()?;
        (answer.0 == 200).then_some(())
    })
    .await;
    // A stranger without a certificate.
    squire_tests::tls::echoes(db.inbound(80), None).await.ok();
    let shown = eventually("everything is shown", async || {
        let mut text = String::new();
        for address in [mesh.admin(), web.admin(), db.admin()] {
            text += &http::get(address, "/metrics").await.ok()?.1;
        }
        let events = ["squire_requests_total", "squire_handshake_failures_total"];
        events.iter().all(|name| text.contains(name)).then_some(text)
    })
    .await;
    let shown: BTreeSet<String> = shown
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .map(str::to_owned)
        .collect();

    let rules = std::fs::read_to_string(deploy().join("prometheus/squire.rules.yaml")).unwrap();
    let exprs: Vec<&str> = rules
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("expr: "))
        .collect();
    assert!(exprs.len() > 20, "rules are where they are looked for");
    let dashboard = std::fs::read_to_string(deploy().join("grafana/squire.json")).unwrap();
    let mut panels = Vec::new();
    expressions(&serde_json::from_str(&dashboard).unwrap(), &mut panels);
    assert!(panels.len() > 10, "panels are where they are looked for");
    let wanted = names(&exprs.join("\n")).into_iter().chain(names(&panels.join("\n")));
    let missing: BTreeSet<String> = wanted.filter(|name| !shown.contains(name)).collect();
    assert!(missing.is_empty(), "no process shows {missing:?}; shown: {shown:?}");
}
