//! What the CA signs and what it refuses, asked over `istio.v1.auth` as any client would.

use std::{
    fs,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use squire_mesh::{
    bundle::TrustBundles,
    svid::{Role, identify},
};
use squire_tests::{
    DOMAIN, Mesh, Process,
    authority::{Proof, ask},
    binary, eventually,
    forge::{Shown, uri},
    http, id, in_time,
    issuer::{Issuer, base64},
};
use tokio::process::Command;
use tonic::Code;

/// A request (PEM) and its key, after `change`.
fn request(change: impl FnOnce(&mut CertificateParams)) -> (String, KeyPair) {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::default();
    change(&mut params);
    (params.serialize_request(&key).unwrap().pem().unwrap(), key)
}

fn by(token: &str) -> Proof<'_> {
    Proof {
        token: Some(token),
        svid: None,
    }
}

/// Refused with this code, in these words, and counted under this reason.
async fn refused(mesh: &Mesh, csr: &str, proof: Proof<'_>, code: Code, words: &str, reason: &str) {
    let counted = async || {
        mesh.figures()
            .await
            .sum("squire_ca_refused_total", &[("reason", reason)])
    };
    let before = counted().await;
    let status = ask(mesh, csr, proof).await.expect_err(words);
    assert_eq!(status.code(), code, "{status}");
    assert!(
        status.message().contains(words),
        "{words:?} not in {:?}",
        status.message()
    );
    if let Some(token) = proof.token {
        assert!(!status.message().contains(token), "a token is never repeated");
    }
    assert_eq!(counted().await, before + 1.0, "{reason}");
}

#[tokio::test]
async fn names_in_a_request_are_ignored_and_the_attested_identity_is_signed() {
    let mesh = Mesh::new();
    mesh.start().await;
    let token = mesh.token("web").await;
    let (csr, key) = request(|c| c.subject_alt_names = vec![uri(&id("db")), uri(&id("admin"))]);
    let chain = ask(&mesh, &csr, by(&token)).await.unwrap();

    let der: Vec<_> = chain
        .iter()
        .map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
        .collect();
    let bundle = mesh.bundle().await;
    assert_eq!(
        chain.last().map(|pem| pem.trim()),
        Some(bundle.trim()),
        "the reply ends with the root"
    );
    let bundles = TrustBundles::from_pem(&DOMAIN.parse().unwrap(), bundle.as_bytes()).unwrap();
    let peer = identify(&der[..der.len() - 1], &bundles, SystemTime::now(), Role::Client).unwrap();
    assert_eq!(peer.id().to_string(), id("web"));
    for foreign in ["sa/db", "sa/admin"] {
        let inside = der[0].windows(foreign.len()).any(|bytes| bytes == foreign.as_bytes());
        assert!(!inside, "{foreign} is in the certificate");
    }

    // And that certificate renews itself, for the same identity only.
    let shown = Shown {
        chain: der[..der.len() - 1].to_vec(),
        key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
    };
    let proof = Proof {
        token: None,
        svid: Some(&shown),
    };
    let (csr, _) = request(|c| c.subject_alt_names = vec![uri(&id("db"))]);
    let renewed = ask(&mesh, &csr, proof).await.unwrap();
    let der = CertificateDer::from_pem_slice(renewed[0].as_bytes()).unwrap();
    let text = String::from_utf8_lossy(&der).into_owned();
    assert!(text.contains(&id("web")) && !text.contains("sa/db"));
    let log = mesh.squire(&["ca", "log", "--dir", "ca"]).await;
    assert!(log.status.success(), "the log's chain is whole");
}

#[tokio::test]
async fn a_bad_request_is_refused_before_it_costs_its_sender_the_token() {
    let mesh = Mesh::new();
    mesh.start().await;
    let token = mesh.token("web").await;
    let weak = Command::new("openssl")
        .args([
            "req",
            "-new",
            "-newkey",
            "rsa:1024",
            "-nodes",
            "-keyout",
            "/dev/null",
            "-subj",
            "/CN=web",
        ])
        .output();
    let weak = String::from_utf8(in_time("openssl", weak).await.unwrap().stdout).unwrap();
    assert!(weak.contains("BEGIN CERTIFICATE REQUEST"));
    refused(&mesh, &weak, by(&token), Code::InvalidArgument, "too weak", "weak_key").await;
    refused(
        &mesh,
        "please",
        by(&token),
        Code::InvalidArgument,
        "not a certificate request",
        "not_a_csr",
    )
    .await;

    let (good, _) = request(|_| {});
    let mut forged = pem::parse(&good).unwrap().into_contents();
    *forged.last_mut().unwrap() ^= 1;
    let forged = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", forged));
    refused(
        &mesh,
        &forged,
        by(&token),
        Code::InvalidArgument,
        "signature",
        "no_proof_of_possession",
    )
    .await;

    ask(&mesh, &good, by(&token)).await.expect("the token is still good");
}

#[tokio::test]
async fn a_join_token_works_once_and_in_time_and_only_where_it_was_made() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    tokio::join!(mesh.start(), other.start());
    let (csr, _) = request(|_| {});
    refused(
        &mesh,
        &csr,
        Proof::default(),
        Code::Unauthenticated,
        "no credential",
        "no_credential",
    )
    .await;

    let token = mesh.token("web").await;
    refused(
        &other,
        &csr,
        by(&token),
        Code::Unauthenticated,
        "another CA",
        "unknown_token",
    )
    .await;
    ask(&mesh, &csr, by(&token)).await.unwrap();
    refused(
        &mesh,
        &csr,
        by(&token),
        Code::Unauthenticated,
        "used before",
        "replayed_token",
    )
    .await;

    let short = mesh
        .squire(&["ca", "token", "--dir", "ca", "--id", &id("web"), "--ttl", "1s"])
        .await;
    let short = String::from_utf8(short.stdout).unwrap().trim().to_owned();
    // Time itself is what is waited for.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    refused(
        &mesh,
        &csr,
        by(&short),
        Code::Unauthenticated,
        "expired",
        "expired_token",
    )
    .await;
}

#[tokio::test]
async fn a_service_account_token_is_good_only_for_our_audience_from_our_issuer_and_in_time() {
    let mesh = Mesh::new();
    let (issuer, stranger) = (Issuer::new("https://issuer.test"), Issuer::new("https://issuer.test"));
    let jwks = mesh.dir().join("jwks.json");
    fs::write(&jwks, issuer.jwks().to_string()).unwrap();
    let jwks = jwks.display().to_string();
    mesh.start_with(&["--jwks", &jwks, "--jwt-issuer", "https://issuer.test"])
        .await;
    let (csr, _) = request(|_| {});

    let good = issuer.token(&json!({}));
    let chain = ask(&mesh, &csr, by(&good)).await.unwrap();
    let leaf = CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap();
    assert!(String::from_utf8_lossy(&leaf).contains(&id("web")));

    let denied = Code::Unauthenticated;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    for (change, words, reason) in [
        (json!({"aud": ["vault"]}), "audience \"squire-ca\"", "wrong_audience"),
        (json!({"aud": []}), "audience", "wrong_audience"),
        (
            json!({"iss": "https://elsewhere.test"}),
            "https://issuer.test",
            "wrong_issuer",
        ),
        (json!({"exp": now - 3600}), "expired", "expired_token"),
        (json!({"nbf": now + 3600}), "valid only from", "not_yet_valid"),
    ] {
        refused(&mesh, &csr, by(&issuer.token(&change)), denied, words, reason).await;
    }
    let forged = stranger.token(&json!({}));
    refused(&mesh, &csr, by(&forged), denied, "signature", "bad_signature").await;
    let unsigned = format!("{}.{}.", base64(br#"{"alg":"none"}"#), base64(br#"{"sub":"x"}"#));
    let status = ask(&mesh, &csr, by(&unsigned)).await.expect_err("alg none");
    assert_eq!(status.code(), denied, "{status}");
    let nobody = issuer.token(&json!({"sub": "somebody"}));
    refused(
        &mesh,
        &csr,
        by(&nobody),
        Code::PermissionDenied,
        "service account",
        "no_service_account",
    )
    .await;
}

/// The control plane is killed while tokens are made and certificates issued; what it left always loads and verifies,
/// and holds every certificate that was handed out.
#[tokio::test]
async fn a_ca_killed_at_any_moment_of_issuing_leaves_a_state_that_loads_and_forgets_nothing() {
    let mesh = Mesh::new();
    let mut handed_out = 0;
    for round in 0..6 {
        mesh.start().await;
        let (csr, _) = request(|_| {});
        let issuing = async {
            let mut issued = 0;
            loop {
                let token = mesh.token("web").await;
                match ask(&mesh, &csr, by(&token)).await {
                    Ok(_) => issued += 1,
                    Err(status) if status.code() == Code::InvalidArgument => panic!("{status}"),
                    Err(_) => return issued,
                }
            }
        };
        // After another number of certificates each time, in the midst of making the next.
        let killing = async {
            let issued = || mesh.with_control(|control| control.log().matches(": issued id=").count());
            let before = issued();
            eventually("so many are issued", async || (issued() > before + round).then_some(())).await;
            mesh.kill_control().await;
        };
        handed_out += in_time("the CA is gone", async { tokio::join!(issuing, killing) })
            .await
            .0;
        for check in [
            &["ca", "status", "--dir", "ca"][..],
            &["ca", "log", "--dir", "ca", "--verify"],
        ] {
            let output = mesh.squire(check).await;
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "after round {round}: {check:?}: {errors}");
        }
    }
    assert!(handed_out > 0, "something was issued at all");
    let status = mesh.squire(&["ca", "status", "--dir", "ca", "-o", "json"]).await;
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert!(
        status["log_entries"].as_u64().unwrap() >= handed_out,
        "{status}, {handed_out} handed out"
    );
    // And it serves again.
    mesh.start().await;
    let token = mesh.token("web").await;
    ask(&mesh, &request(|_| {}).0, by(&token)).await.unwrap();
}

#[tokio::test]
async fn only_one_control_plane_runs_a_ca() {
    let mesh = Mesh::new();
    mesh.start().await;
    let mut command = Command::new(binary("squire"));
    command
        .arg("control")
        .arg("--dir")
        .arg(mesh.objects())
        .arg("--ca-dir")
        .arg(mesh.ca_dir());
    command.args(["--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let mut second = Process::start("second", &mut command, mesh.dir());
    let ended = second.ended().await;
    let pid = mesh.with_control(Process::pid).to_string();
    assert_eq!(ended.code(), Some(78));
    assert!(
        second.log().contains(&format!("in use by process {pid}")),
        "{}",
        second.log()
    );
    assert_eq!(
        http::get(mesh.admin(), "/ready").await.unwrap().0,
        200,
        "the first one does not notice"
    );
}
