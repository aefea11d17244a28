//! What people get wrong: every mistake ends, or is reported, with what is wrong, where, and what to do.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use serde_json::Value;
use squire_tests::{Mesh, Process, apps, binary, eventually, http, id, in_time};
use tokio::{net::TcpListener, process::Command};

/// Runs the control plane of a mesh to its end: exit code and everything it said.
async fn control(mesh: &Mesh, command: &mut Command) -> (i32, String) {
    let mut process = Process::start("control", command, mesh.dir());
    let ended = process.ended().await;
    (ended.code().expect("it was not killed"), process.log())
}

fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

/// A mesh whose CA has been founded.
async fn founded() -> Mesh {
    let mesh = Mesh::new();
    assert!(mesh.squire(&["ca", "init", "--dir", "ca"]).await.status.success());
    mesh
}

#[tokio::test]
async fn a_ca_directory_of_another_trust_domain_is_refused_with_both_names() {
    let mesh = founded().await;
    let (code, said) = control(&mesh, mesh.control_command().args(["--trust-domain", "other.example"])).await;
    assert_eq!(code, 78, "{said}");
    says(
        &said,
        &[
            &mesh.ca_dir().display().to_string(),
            "cluster.local",
            "other.example",
            "--trust-domain",
        ],
    );
}

#[tokio::test]
async fn a_truncated_ca_is_refused_with_the_file_and_never_replaced_by_a_new_one() {
    let mesh = founded().await;
    let state = mesh.ca_dir().join("state.json");
    let whole = fs::read(&state).unwrap();
    for length in [0, 1, whole.len() / 2, whole.len() - 2] {
        fs::write(&state, &whole[..length]).unwrap();
        let (code, said) = control(&mesh, &mut mesh.control_command()).await;
        assert_eq!(code, 78, "{said}");
        says(
            &said,
            &[&state.display().to_string(), "damaged", "restore it from a backup"],
        );
        assert_eq!(fs::read(&state).unwrap(), &whole[..length], "it is left as it is");
    }
    fs::write(&state, &whole).unwrap();
    mesh.start().await;
}

/// `command` without the privilege to write where permissions say no; only root has it.
fn without_privilege(command: &Command) -> Command {
    let command = command.as_std();
    let mut plain = Command::new(command.get_program());
    if rustix::process::geteuid().is_root() {
        plain = Command::new("setpriv");
        plain.args(["--bounding-set", "-dac_override,-dac_read_search", "--"]);
        plain.arg(command.get_program());
    }
    plain.args(command.get_args());
    plain
}

#[tokio::test]
async fn a_read_only_ca_directory_is_refused_with_its_name() {
    let mesh = founded().await;
    let mode = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for entry in fs::read_dir(mesh.ca_dir()).unwrap() {
        let path = entry.unwrap().path();
        mode(&path, if path.is_dir() { 0o500 } else { 0o400 });
    }
    mode(&mesh.ca_dir(), 0o500);
    let (code, said) = control(&mesh, &mut without_privilege(&mesh.control_command())).await;
    assert!(code == 78 || code == 69, "{code}: {said}");
    says(&said, &[&mesh.ca_dir().display().to_string(), "ermission denied"]);
    for entry in fs::read_dir(mesh.ca_dir()).unwrap() {
        let path = entry.unwrap().path();
        mode(&path, if path.is_dir() { 0o700 } else { 0o600 });
    }
    mode(&mesh.ca_dir(), 0o700);
    mesh.start().await;
}

#[tokio::test]
async fn a_ca_directory_that_others_can_read_is_refused_with_the_command_that_mends_it() {
    let mesh = founded().await;
    let state = mesh.ca_dir().join("state.json");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o644)).unwrap();
    let (code, said) = control(&mesh, &mut mesh.control_command()).await;
    assert_eq!(code, 78, "{said}");
    says(&said, &["chmod", &state.display().to_string()]);
}

#[tokio::test]
async fn a_port_in_use_ends_control_plane_and_sidecar_with_69_and_the_address() {
    let mesh = founded().await;
    let taken = TcpListener::bind(mesh.grpc()).await.unwrap();
    let (code, said) = control(&mesh, &mut mesh.control_command()).await;
    assert_eq!(code, 69, "{said}");
    says(
        &said,
        &[&mesh.grpc().to_string(), "--grpc", "stop it or choose another"],
    );
    drop(taken);

    let echo = apps::echo().await;
    let pod = mesh.pod("db").serves(5432, echo.address());
    let taken = TcpListener::bind((mesh.address("db"), 5432)).await.unwrap();
    let mut db = pod.launch().await;
    assert_eq!(db.process.ended().await.code(), Some(69));
    says(&db.process.log(), &[&taken.local_addr().unwrap().to_string(), "in use"]);
}

#[tokio::test]
async fn everything_wrong_with_a_configuration_is_told_at_once_with_file_and_line() {
    let mesh = founded().await;
    let file = mesh.dir().join("proxy.yaml");
    fs::write(
        &file,
        "workload: web\ntrustDomain: cluster.local\ntrustBundel: /x\ntoken: /y\ncontrol: nowhere\nlimits:\n  \
         handshakeTimeout: 5 parsecs\n",
    )
    .unwrap();
    let output = Command::new(binary("squire-proxy"))
        .args(["run", "--check", "--config"])
        .arg(&file)
        .output();
    let output = in_time("squire-proxy", output).await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{said}");
    let at = |line: u32| format!("{}:{line}", file.display());
    says(
        &said,
        &[
            &at(1),
            "\"web\"",
            &at(3),
            "trustBundel",
            &at(5),
            "nowhere",
            &at(7),
            "5 parsecs",
        ],
    );
    says(&said, &["trustBundle: is missing"]);
}

#[tokio::test]
async fn a_missing_directory_and_a_wrong_argument_are_told_before_anything_starts() {
    let mesh = Mesh::new();
    let output = mesh.squire(&["control", "--dir", "nothing-here"]).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{said}");
    says(&said, &["nothing-here", "create it, or name another"]);
    let output = mesh.squire(&["control", "--dir", "mesh", "--grpc", "here"]).await;
    assert_eq!(output.status.code(), Some(2));
    let output = mesh.squire(&["ca", "status", "--dir", "nothing-here"]).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{said}");
    says(&said, &["nothing-here", "squire ca init"]);
}

#[tokio::test]
async fn a_file_that_does_not_parse_is_reported_with_its_line_and_the_last_good_state_stays_in_force() {
    let mesh = Mesh::strict();
    mesh.allow("only-web", "db", &["web"]);
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address());
    let web = mesh.pod("web").reaches("db:5432");
    let batch = mesh.pod("batch").reaches("db:5432");
    mesh.start().await;
    let (db, web, batch) = tokio::join!(db.start(), web.start(), batch.start());
    let mut open = apps::echoes(web.to("db:5432")).await.unwrap();

    let problem = async |line: u64, words: &str| {
        eventually(&format!("{words:?} is reported at line {line}"), async || {
            let page = mesh.page("/debug/problems").await;
            let at = |problem: &Value| {
                problem["file"].as_str()?.ends_with("only-web.yaml").then_some(())?;
                (problem["line"] == line && problem["message"].as_str()?.contains(words)).then_some(())
            };
            page["problems"].as_array()?.iter().find_map(at)
        })
        .await;
    };
    // Not YAML.
    mesh.write(
        "only-web.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: x\nspec: [\n",
    );
    problem(4, "not valid YAML").await;
    let still = async |mut open: tokio::net::TcpStream| {
        apps::round_trip(&mut open, b"still allowed").await.unwrap();
        apps::echoes(web.to("db:5432")).await.unwrap();
        assert!(
            apps::echoes(batch.to("db:5432")).await.is_err(),
            "the intruder is still denied"
        );
        open
    };
    open = still(open).await;
    assert_eq!(http::get(mesh.admin(), "/ready").await.unwrap().0, 200);

    // YAML, but no policy: an action that does not exist, in line 5.
    mesh.write(
        "only-web.yaml",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: only-web, namespace: shop}\n\
         spec:\n  action: PERHAPS\n",
    );
    problem(5, "PERHAPS").await;
    open = still(open).await;

    // Mended: the new state is in force.
    mesh.allow("only-web", "db", &["batch"]);
    eventually("batch is let in", async || apps::echoes(batch.to("db:5432")).await.ok()).await;
    assert!(apps::round_trip(&mut open, b"no longer").await.is_err());
    db.logged(&[("outcome", "cut_policy"), ("source", &id("web"))]).await;
}

#[tokio::test]
async fn a_control_plane_that_starts_on_a_bad_file_is_not_ready_and_names_it() {
    let mesh = Mesh::new();
    mesh.write("broken.yaml", "kind: Pod\napiVersion: v1\nmetadata:\n  name: [\n");
    let _process = Process::start("control", &mut mesh.control_command(), mesh.dir());
    let page = eventually("it says why it is not ready", async || {
        let (status, page) = http::get(mesh.admin(), "/ready").await.ok()?;
        (status == 503 && page.contains("broken.yaml")).then_some(page)
    })
    .await;
    assert!(page.contains("broken.yaml:"), "file and line: {page}");
    mesh.remove("broken.yaml");
    eventually("it becomes ready", async || {
        (http::get(mesh.admin(), "/ready").await.ok()?.0 == 200).then_some(())
    })
    .await;
}
