//! `squire policy` and `squire id` as people and CI jobs run them: real processes, standard streams, exit codes.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
};

const REQUEST: &str = r#"{"id":1,"request":{"source":{"kind":"pod","ip":"10.0.0.1","namespace":"a"},"destination":{"kind":"pod","ip":"10.0.0.2","namespace":"shop","labels":{"app":"db"},"port":5432},"connection":{"tls":"none","protocol":"tcp"}}}"#;

fn squire(dir: &Path, args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_squire"))
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that ends early does not read it all.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// What `policy eval -f` makes of these policies: exit code, standard output, standard error.
fn evaluated(policies: &str) -> (i32, String, String) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("p.yaml"), policies).unwrap();
    let output = squire(dir.path(), &["policy", "eval", "-f", "p.yaml"], REQUEST);
    let code = output.status.code().unwrap();
    (code, text(&output.stdout).to_owned(), text(&output.stderr).to_owned())
}

fn policy(spec: &str) -> String {
    format!(
        "# the first document is a comment\n---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: p, namespace: shop}}\nspec: {spec}\n"
    )
}

#[test]
fn policies_without_a_fault_are_evaluated_in_silence() {
    let (code, out, err) = evaluated(&policy(
        "{action: DENY, rules: [{from: [{source: {namespaces: [b]}}]}]}",
    ));
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains(r#""decision":"ALLOW""#), "{out}");
}

#[test]
fn a_policy_with_an_error_is_named_on_standard_error_and_fails_closed() {
    let (code, out, err) = evaluated(&policy("{action: PERMIT, rules: [{}]}"));
    assert_eq!(code, 1, "{err}");
    assert!(out.contains(r#""decision":"DENY""#), "{out}");
    for part in [
        "document 1 of p.yaml:",
        "error: AuthorizationPolicy shop/p: spec.action: ",
        "PERMIT",
        "(use ",
    ] {
        assert!(err.contains(part), "{part:?} is missing: {err}");
    }
    assert_eq!(err.lines().count(), 1, "each problem once: {err}");
}

#[test]
fn a_warning_is_named_and_changes_no_exit_code() {
    let (code, _, err) = evaluated(&policy(
        "{action: DENY, rules: [{to: [{operation: {methods: [POST]}}]}]}",
    ));
    assert_eq!(code, 0, "{err}");
    assert!(err.contains(": warning: AuthorizationPolicy shop/p: "), "{err}");
}

#[test]
fn a_file_that_is_no_yaml_ends_the_run_before_any_answer() {
    let (code, out, err) = evaluated("a: [\n");
    assert_eq!((code, out.as_str()), (78, ""));
    assert!(err.contains("p.yaml:"), "{err}");
}

#[test]
fn a_line_that_cannot_be_read_counts_more_than_a_policy_with_an_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("p.yaml"), policy("{action: PERMIT}")).unwrap();
    let output = squire(dir.path(), &["policy", "eval", "-f", "p.yaml"], "no JSON\n");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stdout).contains("error"));
}

#[test]
fn a_ca_certificate_is_called_what_it_is_and_no_leaf() {
    let dir = tempfile::tempdir().unwrap();
    assert!(squire(dir.path(), &["ca", "init", "--dir", "ca"], "").status.success());
    let bundle = squire(dir.path(), &["ca", "bundle", "--dir", "ca", "--out", "root.pem"], "");
    assert!(bundle.status.success(), "{}", text(&bundle.stderr));
    let output = squire(dir.path(), &["id", "inspect", "root.pem", "-o", "json"], "");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["valid"], true);
    assert!(
        found["kind"].as_str() == Some("signing certificate of a CA (root)"),
        "{found}"
    );
    assert_eq!(found["trustDomain"], "cluster.local");
    let as_leaf = squire(dir.path(), &["id", "inspect", "--leaf", "root.pem"], "");
    assert_eq!(as_leaf.status.code(), Some(1));
}
