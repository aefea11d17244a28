//! `squire ca` as an admin runs it: real processes, a real directory, exit codes, and certificates that openssl accepts.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    process::{Command, Output},
};

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

fn squire(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_squire"));
    command
        .arg("ca")
        .args(args)
        .env("SQUIRE_CA_DIR", dir.join("ca"))
        .current_dir(dir);
    command.output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn out(output: &Output) -> String {
    assert_eq!(code(output), 0, "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn complaint(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_str(&out(output)).unwrap()
}

fn founded() -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    out(&squire(temp.path(), &["init"]));
    temp
}

#[test]
fn a_ca_is_made_once_and_tells_its_state_in_three_forms() {
    let temp = founded();
    let status = json(&squire(temp.path(), &["status", "-o", "json"]));
    assert_eq!(status["trust_domain"], "cluster.local");
    assert_eq!(status["log_entries"], 3);
    let yaml: serde_yaml_ng::Value =
        serde_yaml_ng::from_str(&out(&squire(temp.path(), &["status", "-o", "yaml"]))).unwrap();
    assert_eq!(yaml["bundle_digest"].as_str(), status["bundle_digest"].as_str());
    assert!(out(&squire(temp.path(), &["status"])).contains("root "));
    let again = squire(temp.path(), &["init"]);
    assert_eq!(code(&again), 78);
    assert!(
        complaint(&again).contains("a CA for trust domain cluster.local here already"),
        "{}",
        complaint(&again)
    );
}

#[test]
fn what_is_wrong_with_the_directory_is_said_with_the_remedy_and_exit_code_78() {
    let temp = tempfile::tempdir().unwrap();
    let missing = squire(temp.path(), &["status"]);
    assert_eq!(code(&missing), 78);
    assert!(
        complaint(&missing).contains("squire ca init --dir"),
        "{}",
        complaint(&missing)
    );
    let temp = founded();
    let state = temp.path().join("ca/state.json");
    let text = fs::read(&state).unwrap();
    fs::write(&state, &text[..text.len() / 2]).unwrap();
    let damaged = squire(temp.path(), &["status"]);
    assert_eq!(code(&damaged), 78);
    assert!(
        complaint(&damaged).contains("state.json: damaged"),
        "{}",
        complaint(&damaged)
    );
    fs::set_permissions(&state, fs::Permissions::from_mode(0o644)).unwrap();
    let open = squire(temp.path(), &["token", "--id", WEB]);
    assert_eq!(code(&open), 78);
    assert!(complaint(&open).contains("chmod 600"), "{}", complaint(&open));
}

#[test]
fn tokens_are_printed_or_written_for_their_owner_only() {
    let temp = founded();
    let token = out(&squire(temp.path(), &["token", "--id", WEB]));
    assert!(
        token.starts_with("squire-join-") && token.lines().count() == 1,
        "one line, to be piped"
    );
    out(&squire(temp.path(), &["token", "--id", WEB, "--out", "web.token"]));
    assert_eq!(
        fs::metadata(temp.path().join("web.token")).unwrap().mode() & 0o777,
        0o600
    );
    assert_eq!(fs::read_dir(temp.path().join("ca/tokens")).unwrap().count(), 2);
    for (id, words) in [
        (
            "spiffe://other.example/ns/a/sa/b",
            "begin the ID with spiffe://cluster.local/",
        ),
        ("spiffe://cluster.local", "has no path"),
        ("web", "the scheme must be `spiffe`"),
    ] {
        let refused = squire(temp.path(), &["token", "--id", id]);
        assert_eq!(code(&refused), 2, "{id}");
        assert!(complaint(&refused).contains(words), "{}", complaint(&refused));
    }
    assert_eq!(code(&squire(temp.path(), &["token", "--id", WEB, "--ttl", "2d"])), 2);
}

#[test]
fn an_issued_certificate_is_accepted_by_openssl_and_is_in_the_log() {
    let temp = founded();
    out(&squire(
        temp.path(),
        &["issue", "--id", WEB, "--ttl", "5m", "--out", "web"],
    ));
    let web = temp.path().join("web");
    assert_eq!(fs::metadata(web.join("key.pem")).unwrap().mode() & 0o777, 0o600);
    for purpose in ["sslclient", "sslserver"] {
        let verified = Command::new("openssl")
            .args([
                "verify",
                "-x509_strict",
                "-purpose",
                purpose,
                "-CAfile",
                "bundle.pem",
                "-untrusted",
                "cert.pem",
                "cert.pem",
            ])
            .current_dir(&web)
            .output()
            .unwrap();
        assert!(verified.status.success(), "{purpose}: {verified:?}");
    }
    let log = json(&squire(temp.path(), &["log", "--id", WEB, "-o", "json"]));
    assert_eq!(log.as_array().unwrap().len(), 1);
    assert_eq!(log[0]["event"]["attestor"], "admin");
    let bundle = out(&squire(temp.path(), &["bundle"]));
    assert_eq!(bundle, fs::read_to_string(web.join("bundle.pem")).unwrap());
    assert_eq!(
        code(&squire(
            temp.path(),
            &["issue", "--id", WEB, "--ttl", "1m", "--out", "web"]
        )),
        2
    );
}

#[test]
fn a_log_that_was_tampered_with_is_found_and_set_aside_only_on_purpose() {
    let temp = founded();
    out(&squire(temp.path(), &["log", "--verify"]));
    let path = temp.path().join("ca/log.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.lines().next().unwrap().to_owned() + "\n").unwrap();
    let found = squire(temp.path(), &["log", "--verify"]);
    assert_eq!(code(&found), 1);
    assert!(
        String::from_utf8_lossy(&found.stdout).contains("truncated"),
        "{found:?}"
    );
    let refused = squire(temp.path(), &["issue", "--id", WEB, "--out", "web"]);
    assert_eq!(code(&refused), 78);
    assert!(
        complaint(&refused).contains("squire ca log --restart"),
        "{}",
        complaint(&refused)
    );
    out(&squire(temp.path(), &["log", "--restart", "a test cut it"]));
    out(&squire(temp.path(), &["issue", "--id", WEB, "--out", "web"]));
    assert!(out(&squire(temp.path(), &["log"])).contains("a test cut it"));
}
