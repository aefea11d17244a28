//! The root is rotated under load: with the control plane killed in every phase and sidecars restarted, no connection fails
//! for a reason of trust. A gate holds for as long as one sidecar is silent and names it; going back works from every phase.

mod back;
mod by_itself;
mod fleet;
mod gates;
mod handed;
mod load;
mod supplied;

use std::time::{Duration, Instant};

use serde_json::Value;
use squire_tests::{Mesh, Sidecar, eventually, id};

/// Outcomes that say that somebody did not trust somebody. (A sidecar that has just been started refuses with `not_ready`,
/// as it has no policy yet: that is no matter of trust.)
const DISTRUST: [&str; 8] = [
    "peer_identity",
    "peer_refused_us",
    "no_certificate",
    "handshake_failed",
    "tls_broken",
    "cut_untrusted",
    "cut_expired",
    "cut_revoked",
];
/// A rotation has to wait for whoever is restarting.
const PATIENCE: Duration = Duration::from_secs(120);

async fn succeeds(mesh: &Mesh, arguments: &[&str]) -> String {
    let output = mesh.squire(arguments).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

async fn rotate(mesh: &Mesh) {
    succeeds(mesh, &["ca", "rotate", "--dir", "ca"]).await;
}

/// What `squire ca status` shows, with the progress of a rotation if there is one.
async fn status(mesh: &Mesh) -> Option<Value> {
    let output = mesh.squire(&["ca", "status", "--dir", "ca", "-o", "json"]).await;
    serde_json::from_slice(&output.stdout).ok()
}

/// Waits until the rotation has come to this phase.
async fn reaches(mesh: &Mesh, phase: &str) -> Value {
    let begun = Instant::now();
    loop {
        let status = status(mesh).await;
        match status {
            Some(status) if status["phase"]["name"] == phase => return status,
            _ => assert!(begun.elapsed() < PATIENCE, "not in phase {phase}: {status:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn root(status: &Value) -> String {
    let roots = status["roots"].as_array().unwrap();
    let active = roots.iter().find(|root| root["active"] == true).unwrap();
    active["key_id"].as_str().unwrap().to_owned()
}

/// How often connections of a sidecar ended because of trust.
fn distrust(sidecar: &Sidecar) -> Vec<Value> {
    let lines = sidecar.access_log().into_iter();
    lines
        .filter(|line| DISTRUST.iter().any(|outcome| line["outcome"] == *outcome))
        .collect()
}

/// Waits until one of these has cut a connection of web's for this reason: whoever hears of it first does.
async fn cut(sidecars: &[&Sidecar], outcome: &str) {
    let fits = |line: &Value| line["outcome"] == outcome && line["source"] == id("web");
    eventually(&format!("a connection ends with {outcome}"), async || {
        sidecars
            .iter()
            .any(|one| one.access_log().iter().any(fits))
            .then_some(())
    })
    .await;
}
