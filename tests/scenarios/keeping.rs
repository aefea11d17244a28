//! Keeping a CA: its keys encrypted at rest, a backup that brings a mesh back, and how much one identity may ask for.

use std::{fs, os::unix::fs::PermissionsExt as _};

use rcgen::{CertificateParams, KeyPair};
use squire_tests::{
    Mesh, apps,
    authority::{self, Proof},
    eventually,
};

/// What a private key looks like in a file.
const KEY: &str = "PRIVATE KEY";

async fn succeeds(mesh: &Mesh, arguments: &[&str]) -> String {
    let output = mesh.squire(arguments).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Everything in the CA's directory, as text.
fn at_rest(mesh: &Mesh) -> String {
    let files = fs::read_dir(mesh.ca_dir()).unwrap().filter_map(Result::ok);
    let files = files.filter(|file| file.file_type().unwrap().is_file());
    files
        .map(|file| String::from_utf8_lossy(&fs::read(file.path()).unwrap()).into_owned())
        .collect()
}

/// Lets the control plane run with these arguments, killed once, and two sidecars talk under it.
async fn serves_with(mesh: &Mesh, arguments: &[&str]) {
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address());
    let web = mesh.pod("web").reaches("db:5432");
    let roots = mesh.dir().join("roots.pem");
    let with_roots = [arguments, &["--trust-bundle-file", roots.to_str().unwrap()]].concat();
    mesh.start_with(&with_roots).await;
    let bundle = eventually("the roots are in their file", async || fs::read_to_string(&roots).ok()).await;
    let tokens = [token(mesh, "db", arguments).await, token(mesh, "web", arguments).await];
    let (db, web) = tokio::join!(
        db.token(&tokens[0]).trusts(&bundle).start(),
        web.token(&tokens[1]).trusts(&bundle).start()
    );
    apps::echoes(web.to("db:5432")).await.unwrap();
    mesh.kill_control().await;
    mesh.start_with(&with_roots).await;
    for sidecar in [&db, &web] {
        let generation = sidecar.figure("squire_svid_generation", &[]).await;
        sidecar.process.signal(squire_tests::Signal::USR1);
        sidecar.counts("squire_svid_generation", &[], generation + 1.0).await;
    }
    apps::echoes(web.to("db:5432")).await.unwrap();
    assert!(!at_rest(mesh).contains(KEY));
}

async fn token(mesh: &Mesh, account: &str, key: &[&str]) -> String {
    let id = mesh.id(account);
    let arguments = [&["ca", "token", "--dir", "ca", "--id", &id], key].concat();
    succeeds(mesh, &arguments).await.trim().to_owned()
}

#[tokio::test]
async fn keys_are_encrypted_at_rest_by_a_passphrase_and_nothing_opens_them_without_it() {
    let mesh = Mesh::strict();
    // A CA from before: in plain text until a control plane is given a passphrase.
    succeeds(&mesh, &["ca", "init", "--dir", "ca", "--trust-domain", "cluster.local"]).await;
    assert!(at_rest(&mesh).contains(KEY));
    let file = mesh.dir().join("passphrase");
    fs::write(&file, "correct horse battery staple\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let with = ["--ca-passphrase-file", file.to_str().unwrap()];
    serves_with(&mesh, &with).await;
    mesh.kill_control().await;

    let without = mesh.squire(&["ca", "status", "--dir", "ca"]).await;
    let said = String::from_utf8_lossy(&without.stderr).into_owned();
    assert_eq!(without.status.code(), Some(78), "{said}");
    assert!(
        said.contains("encrypted") && said.contains("SQUIRE_CA_PASSPHRASE_FILE"),
        "{said}"
    );
    let wrong = mesh.dir().join("wrong");
    fs::write(&wrong, "incorrect horse\n").unwrap();
    fs::set_permissions(&wrong, fs::Permissions::from_mode(0o600)).unwrap();
    let refused = mesh
        .squire(&[
            "ca",
            "status",
            "--dir",
            "ca",
            "--ca-passphrase-file",
            wrong.to_str().unwrap(),
        ])
        .await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("passphrase"), "{said}");
    succeeds(&mesh, &[&["ca", "status", "--dir", "ca"][..], &with].concat()).await;
}

#[tokio::test]
async fn keys_are_encrypted_at_rest_by_a_command_that_wraps_a_key_and_a_command_that_fails_opens_nothing() {
    let mesh = Mesh::strict();
    // As a client of a key-management service: the key that wraps is with the service alone.
    let (hook, master) = (mesh.dir().join("kms"), mesh.dir().join("master"));
    fs::write(&master, "known to the service alone").unwrap();
    let script = format!(
        "#!/bin/sh\nset -e\ncase $1 in wrap) way= ;; unwrap) way=-d ;; *) exit 2 ;; esac\nif [ -e '{closed}' ]; then echo 'access \
         denied' >&2; exit 1; fi\nopenssl enc -aes-256-cbc -pbkdf2 -A -a -pass 'file:{master}' $way\n",
        closed = mesh.dir().join("closed").display(),
        master = master.display(),
    );
    fs::write(&hook, script).unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o700)).unwrap();
    let with = ["--ca-key-command", hook.to_str().unwrap()];
    serves_with(&mesh, &with).await;
    mesh.kill_control().await;
    fs::write(mesh.dir().join("closed"), "").unwrap();
    let refused = mesh
        .squire(&[&["ca", "status", "--dir", "ca"][..], &with].concat())
        .await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("access denied"), "{said}");
}

#[tokio::test]
async fn a_backup_restored_into_an_empty_place_lets_the_mesh_go_on_under_the_same_root() {
    let mesh = Mesh::strict();
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address());
    let web = mesh.pod("web").reaches("db:5432");
    mesh.start().await;
    let (db, web) = tokio::join!(db.start(), web.start());
    let mut open = apps::echoes(web.to("db:5432")).await.unwrap();
    succeeds(
        &mesh,
        &["ca", "revoke", &mesh.id("stranger"), "--dir", "ca", "--reason", "left"],
    )
    .await;
    // Beside the running control plane.
    succeeds(&mesh, &["ca", "backup", "--dir", "ca", "--out", "ca.backup"]).await;
    let mode = fs::metadata(mesh.dir().join("ca.backup")).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "the keys are in it");
    let roots = mesh.bundle().await;
    let there = mesh.squire(&["ca", "restore", "ca.backup", "--dir", "ca"]).await;
    assert!(!there.status.success(), "there is a CA already: {there:?}");
    mesh.kill_control().await;
    fs::remove_dir_all(mesh.ca_dir()).unwrap();

    // What was cut off is not restored from.
    let whole = fs::read(mesh.dir().join("ca.backup")).unwrap();
    fs::write(mesh.dir().join("half"), &whole[..whole.len() / 2]).unwrap();
    let half = mesh.squire(&["ca", "restore", "half", "--dir", "ca"]).await;
    assert!(
        !half.status.success() && !mesh.ca_dir().join("state.json").exists(),
        "{half:?}"
    );
    succeeds(&mesh, &["ca", "restore", "ca.backup", "--dir", "ca"]).await;
    assert_eq!(mesh.bundle().await, roots);
    mesh.start().await;
    apps::round_trip(&mut open, b"kept").await.unwrap();
    for sidecar in [&db, &web] {
        sidecar.counts("squire_control_connected", &[], 1.0).await;
        let generation = sidecar.figure("squire_svid_generation", &[]).await;
        sidecar.process.signal(squire_tests::Signal::USR1);
        sidecar.counts("squire_svid_generation", &[], generation + 1.0).await;
    }
    eventually("new connections under new certificates", async || {
        apps::echoes(web.to("db:5432")).await.ok()
    })
    .await;
    let revoked = succeeds(&mesh, &["ca", "revoked", "--dir", "ca"]).await;
    assert!(revoked.contains("stranger"), "{revoked}");
    succeeds(&mesh, &["ca", "log", "--dir", "ca", "--verify"]).await;
    let log = succeeds(&mesh, &["ca", "log", "--dir", "ca", "-o", "json"]).await;
    assert!(log.contains("restored"), "{log}");
}

#[tokio::test]
async fn an_identity_that_asks_too_often_is_told_so_over_grpc_and_others_are_served() {
    let mesh = Mesh::new();
    // One a second, after a burst of twenty.
    mesh.start_with(&["--issue-rate", "1"]).await;
    let ask = async |account: &str| {
        let token = mesh.token(account).await;
        let key = KeyPair::generate().unwrap();
        let request = CertificateParams::new(Vec::new())
            .unwrap()
            .serialize_request(&key)
            .unwrap();
        let proof = Proof {
            token: Some(&token),
            svid: None,
        };
        authority::ask(&mesh, &request.pem().unwrap(), proof).await
    };
    let mut issued = 0;
    let refused = loop {
        match ask("web").await {
            Ok(_) => issued += 1,
            Err(status) => break status,
        }
        assert!(issued < 200, "nobody is stopped");
    };
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}");
    assert!(issued >= 20, "a burst is let through: {issued}");
    assert!(refused.message().contains(&mesh.id("web")), "{refused}");
    ask("db").await.unwrap();
    let counted = mesh.figures().await;
    assert!(counted.sum("squire_ca_refused_total", &[("reason", "rate_limited")]) >= 1.0);
    // Later it may ask again.
    eventually("web is served again", async || ask("web").await.ok()).await;
}
