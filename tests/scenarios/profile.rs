//! Every line of the certificate profile (X.509-SVID 2 to 4, and what we promise besides), on certificates that the CA has
//! issued, as parsers read them that we did not write: openssl, Python's `cryptography`, and webpki.

use std::{fs, sync::Arc};

use rcgen::{CertificateParams, KeyPair};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, UnixTime, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use serde_json::{Value, json};
use squire_tests::{
    Mesh,
    authority::{self, Proof},
    id, in_time, require,
    workload_api::python,
};
use tokio::process::Command;

const PYTHON: &str = include_str!("profile.py");
const HOUR: f64 = 3600.0;
const DAY: f64 = 24.0 * HOUR;
/// What every certificate is backdated by.
const BACKDATED: f64 = 300.0;

/// Certificates as the CA answers with them, in files: leaf, intermediate, root.
async fn issued(mesh: &Mesh) -> [String; 3] {
    let token = mesh.token("web").await;
    let key = KeyPair::generate().unwrap();
    // The request asks for much: another name, a CA, another subject. None of it is taken over.
    let mut wishes = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    wishes.distinguished_name.push(rcgen::DnType::CommonName, "evil");
    let request = wishes.serialize_request(&key).unwrap().pem().unwrap();
    let proof = Proof {
        token: Some(&token),
        svid: None,
    };
    let chain = authority::ask(mesh, &request, proof).await.unwrap();
    let mut number = 0;
    let files = chain.iter().map(|pem| {
        number += 1;
        let path = mesh.dir().join(format!("profile-{number}.pem"));
        fs::write(&path, pem).unwrap();
        path.display().to_string()
    });
    files.collect::<Vec<_>>().try_into().unwrap()
}

async fn openssl(arguments: &[&str]) -> String {
    let mut command = Command::new(require("openssl").path());
    let output = in_time("openssl ends", command.args(arguments).output()).await.unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{arguments:?}: {text}");
    text
}

/// The lines that follow this one, indented deeper: an extension's content.
fn below(text: &str, line: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    let at = lines.iter().position(|one| one.trim() == line);
    let at = at.unwrap_or_else(|| panic!("no line {line:?} in {text}"));
    lines[at + 1].trim().to_owned()
}

#[tokio::test]
async fn openssl_reads_every_line_of_the_profile_and_verifies_the_chain_strictly_for_both_roles() {
    let mesh = Mesh::new();
    mesh.start().await;
    let [leaf, intermediate, root] = issued(&mesh).await;
    let text = async |file: &str| openssl(&["x509", "-in", file, "-noout", "-text"]).await;
    let read = text(&leaf).await;
    for line in [
        "Version: 3 (0x2)",
        "Signature Algorithm: ecdsa-with-SHA256",
        "Subject:",
        "NIST CURVE: P-256",
    ] {
        assert!(read.lines().any(|one| one.trim() == line), "{line}: {read}");
    }
    assert_eq!(
        below(&read, "X509v3 Subject Alternative Name: critical"),
        format!("URI:{}", id("web"))
    );
    assert_eq!(below(&read, "X509v3 Key Usage: critical"), "Digital Signature");
    assert_eq!(
        below(&read, "X509v3 Extended Key Usage:"),
        "TLS Web Server Authentication, TLS Web Client Authentication"
    );
    assert_eq!(below(&read, "X509v3 Basic Constraints: critical"), "CA:FALSE");
    let serial = below(&read, "Serial Number:");
    assert_eq!(serial.split(':').count(), 16, "{serial}");

    let above = text(&intermediate).await;
    assert_eq!(
        below(&above, "X509v3 Subject Alternative Name:"),
        "URI:spiffe://cluster.local"
    );
    assert_eq!(
        below(&above, "X509v3 Key Usage: critical"),
        "Certificate Sign, CRL Sign"
    );
    assert_eq!(
        below(&above, "X509v3 Basic Constraints: critical"),
        "CA:TRUE, pathlen:0"
    );
    assert!(!above.contains("Extended Key Usage") && !above.contains("Name Constraints"));
    assert_eq!(
        below(&read, "X509v3 Authority Key Identifier:"),
        below(&above, "X509v3 Subject Key Identifier:")
    );
    let top = text(&root).await;
    assert_eq!(below(&top, "X509v3 Key Usage: critical"), "Certificate Sign, CRL Sign");
    assert!(below(&top, "X509v3 Basic Constraints: critical").starts_with("CA:TRUE"));
    for purpose in ["sslserver", "sslclient"] {
        let verify = [
            "verify",
            "-x509_strict",
            "-purpose",
            purpose,
            "-CAfile",
            &root,
            "-untrusted",
            &intermediate,
            &leaf,
        ];
        let said = openssl(&verify).await;
        assert!(said.ends_with(": OK\n"), "{said}");
    }
}

#[tokio::test]
async fn pythons_cryptography_reads_the_same_and_every_certificate_has_a_serial_number_of_its_own() {
    let mesh = Mesh::new();
    mesh.start().await;
    let files = issued(&mesh).await;
    let arguments = files.each_ref().map(String::as_str);
    let read = python(PYTHON, &arguments).await;
    let (leaf, intermediate, root) = (&read[0], &read[1], &read[2]);
    let signer = json!(["key_cert_sign", "crl_sign"]);
    let expected: [(&Value, &str, Value); 27] = [
        (leaf, "version", json!("v3")),
        (leaf, "hash", json!("sha256")),
        (leaf, "curve", json!("secp256r1")),
        (leaf, "subject", json!("")),
        (leaf, "seconds", json!(HOUR + BACKDATED)),
        (leaf, "uris", json!([id("web")])),
        (leaf, "names", json!(1)),
        (leaf, "names_critical", json!(true)),
        (leaf, "usage", json!(["digital_signature"])),
        (leaf, "usage_critical", json!(true)),
        (leaf, "extended", json!(["client", "server"])),
        (leaf, "ca", json!(false)),
        (leaf, "authority_key", intermediate["own_key"].clone()),
        (leaf, "name_constraints", json!(false)),
        (leaf, "extensions", json!(6)),
        (intermediate, "uris", json!(["spiffe://cluster.local"])),
        (intermediate, "usage", signer.clone()),
        (intermediate, "usage_critical", json!(true)),
        (intermediate, "ca", json!(true)),
        (intermediate, "constraints_critical", json!(true)),
        (intermediate, "path_length", json!(0)),
        (intermediate, "seconds", json!(30.0 * DAY + BACKDATED)),
        (intermediate, "authority_key", root["own_key"].clone()),
        (root, "curve", json!("secp256r1")),
        (root, "usage", signer),
        (root, "ca", json!(true)),
        (root, "seconds", json!(3650.0 * DAY + BACKDATED)),
    ];
    for (certificate, field, value) in expected {
        assert_eq!(certificate[field], value, "{field} of {certificate}");
    }
    // 16 random bytes, positive.
    for certificate in [leaf, intermediate, root] {
        assert_eq!(certificate["serial_bits"], 127, "{certificate}");
    }
    let another = issued(&mesh).await;
    let again = python(PYTHON, &another.each_ref().map(String::as_str)).await;
    assert_ne!(again[0]["serial"], leaf["serial"]);
    assert_ne!(again[0]["own_key"], leaf["own_key"]);
}

#[tokio::test]
async fn webpki_builds_the_path_from_leaf_to_root_and_from_no_other_root() {
    let mesh = Mesh::new();
    mesh.start().await;
    let files = issued(&mesh).await;
    let [leaf, intermediate, root] = files.map(|file| CertificateDer::from_pem_file(file).unwrap());
    let verifier = |trusted: CertificateDer<'static>| {
        let mut roots = RootCertStore::empty();
        roots.add(trusted).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .unwrap()
    };
    let verify = |trusted, at| verifier(trusted).verify_client_cert(&leaf, std::slice::from_ref(&intermediate), at);
    verify(root.clone(), UnixTime::now()).unwrap();
    // A second before it was valid, and after its end.
    let now = UnixTime::now().as_secs();
    for at in [now - 400, now + 3700] {
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at));
        assert!(verify(root.clone(), at).is_err());
    }
    let other = Mesh::new();
    other.start().await;
    let stranger = CertificateDer::from_pem_slice(other.bundle().await.as_bytes()).unwrap();
    assert!(verify(stranger, UnixTime::now()).is_err());
}
