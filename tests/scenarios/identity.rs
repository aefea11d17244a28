//! Clients and servers whose certificates are not what they must be: each is refused with its own reason, which can be
//! read in metric and log, and nobody else is disturbed.

use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use squire_tests::{
    Mesh, Sidecar, apps, eventually,
    forge::{Forge, Shown, uri},
    id, in_time, tls,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
};

const FAILURES: &str = "squire_handshake_failures_total";

/// A STRICT server with an open connection of an honest peer, which has to live through everything.
struct Scene {
    mesh: Mesh,
    db: Sidecar,
    _web: Sidecar,
    _echo: apps::App,
    honest: TcpStream,
}

impl Scene {
    async fn new() -> Self {
        let mesh = Mesh::strict();
        let echo = apps::echo().await;
        let db = mesh
            .pod("db")
            .serves(5432, echo.address())
            .set("limits.handshakeTimeout=2s");
        let web = mesh.pod("web").reaches("db:5432");
        mesh.start().await;
        let (db, web) = tokio::join!(db.start(), web.start());
        let honest = apps::echoes(web.to("db:5432")).await.unwrap();
        Self {
            mesh,
            db,
            _web: web,
            _echo: echo,
            honest,
        }
    }

    /// What is refused has to be counted under this reason, once, and told in the access log in these words.
    async fn refuses(&self, shown: Option<&Shown>, reason: &str, words: &str) {
        let attempt = in_time("an answer", tls::echoes(self.db.inbound(5432), shown)).await;
        let error = attempt.expect_err(reason);
        self.counted(reason, words).await;
        assert_ne!(error.kind(), std::io::ErrorKind::ConnectionRefused, "it listens");
    }

    async fn counted(&self, reason: &str, words: &str) {
        let labels = [("role", "server"), ("reason", reason)];
        let refused = eventually(&format!("{FAILURES} counts {reason}"), async || {
            let figures = self.db.figures().await;
            (figures.sum(FAILURES, &labels) >= 1.0).then_some(figures)
        })
        .await;
        assert_eq!(refused.sum(FAILURES, &labels), 1.0, "{reason}");
        let logged = |line: &serde_json::Value| line["detail"].as_str().is_some_and(|detail| detail.contains(words));
        eventually(&format!("the access log says {words:?}"), async || {
            self.db.access_log().into_iter().find(logged)
        })
        .await;
    }

    async fn ends_undisturbed(mut self) {
        apps::round_trip(&mut self.honest, b"still here").await.unwrap();
    }
}

#[tokio::test]
async fn a_peer_without_a_good_certificate_is_refused_with_the_reason_and_nobody_else_is_disturbed() {
    let scene = Scene::new().await;
    let forge = Forge::of(&scene.mesh);
    let (web, hour) = (id("web"), Duration::from_secs(3600));
    let now = SystemTime::now();

    // What is forged is good but for the one thing that each of the cases below changes.
    let good = forge.sign(&web, |_| {});
    tls::echoes(scene.db.inbound(5432), Some(&good)).await.unwrap();

    scene.refuses(None, "no_certificate", "certificate").await;
    let foreign = Forge::stranger().sign(&web, |_| {});
    scene.refuses(Some(&foreign), "unknown_issuer", "another CA").await;
    let expired = forge.sign(&web, |c| {
        c.not_before = (now - hour).into();
        c.not_after = (now - Duration::from_secs(60)).into();
    });
    scene.refuses(Some(&expired), "expired", "expired at").await;
    let early = forge.sign(&web, |c| c.not_before = (now + hour / 2).into());
    scene.refuses(Some(&early), "not_yet_valid", "valid only from").await;
    let two = forge.sign(&web, |c| c.subject_alt_names.push(uri(&id("db"))));
    scene.refuses(Some(&two), "many_uri_sans", "URI").await;
    let authority = forge.sign(&web, |c| c.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    scene.refuses(Some(&authority), "ca_leaf", "CA").await;
    let nameless = forge.sign(&web, |c| c.subject_alt_names.clear());
    scene.refuses(Some(&nameless), "no_uri_san", "URI").await;
    let other_domain = forge.sign("spiffe://elsewhere/ns/shop/sa/web", |_| {});
    scene
        .refuses(Some(&other_domain), "unknown_trust_domain", "elsewhere")
        .await;
    let signer = forge.sign(&web, |c| c.key_usages.push(KeyUsagePurpose::KeyCertSign));
    scene.refuses(Some(&signer), "bad_key_usage", "key").await;
    let server_only = forge.sign(&web, |c| {
        c.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]
    });
    scene
        .refuses(Some(&server_only), "bad_extended_key_usage", "usage")
        .await;
    let pathless = forge.sign("spiffe://cluster.local", |_| {});
    scene.refuses(Some(&pathless), "no_path", "path").await;
    let http = forge.sign("https://cluster.local/ns/shop/sa/web", |_| {});
    scene.refuses(Some(&http), "bad_spiffe_id", "https").await;
    scene.ends_undisturbed().await;
}

#[tokio::test]
async fn plaintext_foreign_tls_and_tls_1_2_are_refused_on_a_strict_port() {
    let scene = Scene::new().await;
    let address = scene.db.inbound(5432);

    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: db\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = in_time("the end", plain.read_to_end(&mut answer)).await;
    assert!(
        !answer.windows(4).any(|bytes| bytes == b"HTTP" || bytes == b"GET "),
        "{answer:?}"
    );
    scene.counted("plaintext_refused", "STRICT").await;

    // TLS of the application's own: no protocol of ours among those it offers.
    let shown = Forge::of(&scene.mesh).sign(&id("web"), |_| {});
    let foreign = tls::connect(address, tls::client(Some(&shown), &[b"h2", b"http/1.1"])).await;
    assert!(foreign.is_err(), "an unknown ALPN is refused in the handshake");
    scene.counted("no_protocol", "").await;

    let papers = scene.mesh.issue("web").await;
    let output = Command::new("openssl")
        .args([
            "s_client",
            "-tls1_2",
            "-alpn",
            "squire-tls/1",
            "-connect",
            &address.to_string(),
        ])
        .arg("-cert")
        .arg(&papers.cert)
        .arg("-key")
        .arg(&papers.key)
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = in_time("openssl", output).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("alert protocol version"),
        "{said}"
    );
    scene.counted("tls_incompatible", "").await;
    scene.ends_undisturbed().await;
}

/// The endpoint's address is taken over by somebody with a good certificate of another workload.
#[tokio::test]
async fn a_server_with_the_right_ca_but_the_wrong_spiffe_id_never_sees_our_certificate() {
    let mesh = Mesh::strict();
    mesh.declare("db", "squire");
    let web = mesh.pod("web").reaches("db:5432");
    mesh.start().await;
    let web = web.start().await;
    let listener = tokio::net::TcpListener::bind((mesh.address("db"), 5432)).await.unwrap();
    let impostor = Forge::of(&mesh).sign(&id("batch"), |_| {});
    let acceptor = tokio_rustls::TlsAcceptor::from(tls::server(&impostor, &[b"squire/1"]));
    let met = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        acceptor.accept(tcp).await.map(drop)
    });

    let error = apps::echoes(web.to("db:5432")).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let met = in_time("the impostor's handshake ends", met).await.unwrap();
    assert!(
        met.is_err(),
        "the handshake is broken off before anything of ours is sent"
    );
    let line = web.logged(&[("outcome", "peer_identity")]).await;
    let detail = line["detail"].as_str().unwrap();
    assert!(detail.contains(&id("batch")) && detail.contains(&id("db")), "{detail}");
    web.counts(FAILURES, &[("role", "client"), ("reason", "unexpected_id")], 1.0)
        .await;
}

#[tokio::test]
async fn a_connection_ends_when_the_certificate_it_stands_on_expires() {
    let mesh = Mesh::strict();
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address());
    mesh.start().await;
    let db = db.start().await;
    let short = Forge::of(&mesh).sign(&id("web"), |c| {
        c.not_after = (SystemTime::now() + Duration::from_secs(3)).into();
    });
    let mut stream = tls::connect(db.inbound(5432), tls::client(Some(&short), &[tls::SPIFFE]))
        .await
        .unwrap();
    apps::round_trip(&mut stream, b"as long as it lasts").await.unwrap();
    let end = in_time("the end", stream.read(&mut [0; 1])).await;
    assert!(end.is_err(), "not an orderly end: {end:?}");
    let line = db.logged(&[("outcome", "cut_expired")]).await;
    assert_eq!(line["source"], id("web"));
}
