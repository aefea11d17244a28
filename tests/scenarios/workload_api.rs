//! The SPIFFE Workload API of a sidecar, by clients that we did not write (the Rust `spiffe` crate, the Python package) and by
//! tools that use what these fetched (openssl); and by clients that must not get anything.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Stdio};

use serde_json::{Value, json};
use spiffe::{JwtSvid, WorkloadApiClient, bundle::BundleSource as _};
use squire_mesh::wire::workload_api::{JwtSvidRequest, ValidateJwtsvidRequest, X509SvidRequest};
use squire_tests::{
    Mesh, Sidecar, Signal, apps, eventually, id, in_time, require,
    workload_api::{bare, client, python, socket},
};
use tokio::{io::AsyncWriteExt as _, process::Command};
use tokio_stream::StreamExt as _;
use tonic::{Code, Request};

const PYTHON: &str = include_str!("workload_api.py");

/// `web` with the Workload API, and `db`, which lets nobody but web in.
struct Scene {
    mesh: Mesh,
    db: Sidecar,
    web: Sidecar,
    _echo: apps::App,
}

impl Scene {
    async fn new() -> Self {
        let mesh = Mesh::strict();
        let echo = apps::echo().await;
        mesh.allow("only-web", "db", &["web"]);
        let db = mesh.pod("db").serves(5432, echo.address()).workload_api();
        let web = mesh.pod("web").workload_api();
        mesh.start().await;
        let (db, web) = tokio::join!(db.start(), web.start());
        Self {
            mesh,
            db,
            web,
            _echo: echo,
        }
    }

    async fn client(&self) -> WorkloadApiClient {
        client(&socket(&self.mesh, "web")).await
    }

    async fn squire(&self, arguments: &[&str]) -> String {
        let output = self.mesh.squire(arguments).await;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }
}

async fn openssl(arguments: &[&str], input: &str) -> (bool, String) {
    let mut command = Command::new(require("openssl").path());
    command.args(arguments).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    let output = in_time("openssl ends", child.wait_with_output()).await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test]
async fn the_python_client_gets_everything_and_openssl_reaches_a_peer_with_what_it_fetched() {
    let scene = Scene::new().await;
    let dir = scene.mesh.dir().join("python");
    fs::create_dir(&dir).unwrap();
    let endpoint = format!("unix:{}", socket(&scene.mesh, "web").display());
    let got = python(PYTHON, &[&endpoint, dir.to_str().unwrap(), "db"]).await;
    assert_eq!(
        (&got["id"], &got["offline"], &got["online"]),
        (&json!(id("web")), &json!(id("web")), &json!(id("web")))
    );
    assert_eq!((&got["chain"], &got["audience"]), (&json!(2), &json!(["db"])));
    assert!(got["refused"].as_str().unwrap().contains("somebody else"), "{got}");
    let status: Value =
        serde_json::from_str(&scene.squire(&["ca", "status", "--dir", "ca", "-o", "json"]).await).unwrap();
    assert_eq!(got["keys"][0], status["jwt_keys"][0]["kid"]);

    // The key is the application's own: not the sidecar's certificate, and not its key.
    let (_, config) = scene.web.page("/config").await;
    assert_ne!(config["identity"]["svid"]["serial"], got["serial"]);
    let file = |name: &str| dir.join(name).display().to_string();
    let (cert, key, bundle) = (file("cert.pem"), file("key.pem"), file("bundle.pem"));
    let verify = [
        "verify",
        "-x509_strict",
        "-purpose",
        "sslclient",
        "-CAfile",
        &bundle,
        "-untrusted",
        &cert,
        &cert,
    ];
    let (good, words) = openssl(&verify, "").await;
    assert!(good, "{words}");
    let to = scene.db.inbound(5432).to_string();
    let connect = [
        "s_client",
        "-quiet",
        "-verify_quiet",
        "-verify_return_error",
        "-connect",
        &to,
        "-alpn",
        "squire-tls/1",
        "-CAfile",
        &bundle,
        "-cert",
        &cert,
        "-cert_chain",
        &cert,
        "-key",
        &key,
        "-tls1_3",
        "-no_ign_eof",
    ];
    // Echoed bytes, then the end of input ends it.
    let answer = eventually("openssl is echoed", async || {
        let mut command = Command::new(require("openssl").path());
        command
            .args(connect)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"hello from an app\n").await.unwrap();
        let mut line = String::new();
        let mut stdout = tokio::io::BufReader::new(child.stdout.take().unwrap());
        let read = tokio::io::AsyncBufReadExt::read_line(&mut stdout, &mut line);
        in_time("an echo, or the end", read).await.unwrap();
        child.kill().await.unwrap();
        (line == "hello from an app\n").then_some(line)
    })
    .await;
    assert_eq!(answer, "hello from an app\n");
    scene.db.logged(&[("source", &id("web")), ("verdict", "ALLOW")]).await;
}

#[tokio::test]
async fn the_streams_of_the_rust_client_bring_a_new_svid_under_a_new_key_when_it_is_renewed() {
    let scene = Scene::new().await;
    let client = scene.client().await;
    let mut contexts = in_time("a stream opens", client.stream_x509_contexts()).await.unwrap();
    let first = in_time("the first answer", contexts.next()).await.unwrap().unwrap();
    let first_svid = first.default_svid().unwrap().clone();
    assert_eq!(first_svid.spiffe_id().to_string(), id("web"));
    let bundle = first
        .bundle_set()
        .bundle_for_trust_domain(first_svid.spiffe_id().trust_domain())
        .unwrap()
        .unwrap();
    assert_eq!(bundle.authorities().len(), 1);

    scene.web.process.signal(Signal::USR1);
    let next = in_time("the next answer", contexts.next()).await.unwrap().unwrap();
    let next_svid = next.default_svid().unwrap();
    assert_eq!(next_svid.spiffe_id(), first_svid.spiffe_id());
    assert_ne!(
        next_svid.cert_chain()[0].as_bytes(),
        first_svid.cert_chain()[0].as_bytes()
    );
    assert_ne!(next_svid.private_key().as_bytes(), first_svid.private_key().as_bytes());
    scene
        .web
        .counts("squire_workload_api_streams", &[("method", "FetchX509SVID")], 1.0)
        .await;
    drop(contexts);
    eventually("the stream is gone", async || {
        (scene.web.figure("squire_workload_api_streams", &[]).await == 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn tokens_are_for_their_audience_alone_and_are_verified_by_the_published_keys_until_an_admin_drops_them() {
    let scene = Scene::new().await;
    let client = scene.client().await;
    let mut bundles = in_time("a stream opens", client.stream_jwt_bundles()).await.unwrap();
    let first = in_time("the first answer", bundles.next()).await.unwrap().unwrap();
    let svid = in_time("a token", client.fetch_jwt_svid(["db", "api"], None))
        .await
        .unwrap();
    let token = svid.token().to_owned();
    assert_eq!(svid.spiffe_id().to_string(), id("web"));
    let verified = JwtSvid::parse_and_validate(&token, &first, &["api"]).unwrap();
    assert_eq!(verified.audience(), ["db", "api"]);
    assert!(JwtSvid::parse_and_validate(&token, &first, &["cache"]).is_err());
    client.validate_jwt_token("db", &token).await.unwrap();
    assert!(client.validate_jwt_token("cache", &token).await.is_err());
    let again = in_time("a token", client.fetch_jwt_svid(["db", "api"], None))
        .await
        .unwrap();
    assert_eq!(again.token(), token, "handed out again while it is fresh");
    let log = scene.squire(&["ca", "log", "--dir", "ca", "--id", &id("web")]).await;
    assert_eq!(log.matches("jwt-svid").count(), 1, "{log}");

    // A new key is published beside the old one, and what the old one signed stays good.
    let soft = scene.squire(&["ca", "rotate-jwt-key", "--dir", "ca"]).await;
    let both = in_time("both keys", bundles.next()).await.unwrap().unwrap();
    let domain = svid.spiffe_id().trust_domain();
    let keys = both.bundle_for_trust_domain(domain).unwrap().unwrap();
    assert!(keys.find_jwt_authority(soft.trim()).is_some() && keys.find_jwt_authority(svid.key_id()).is_some());
    client.validate_jwt_token("db", &token).await.unwrap();

    // A lost key is dropped: its tokens are refused, new ones are signed with the new key.
    let hard = scene
        .squire(&["ca", "rotate-jwt-key", "--dir", "ca", "--at-once", "--drop-old"])
        .await;
    let one = in_time("one key", bundles.next()).await.unwrap().unwrap();
    let keys = one.bundle_for_trust_domain(domain).unwrap().unwrap();
    assert_eq!(keys.jwt_authorities().count(), 1);
    assert!(client.validate_jwt_token("db", &token).await.is_err());
    let new = in_time("a token", client.fetch_jwt_svid(["mail"], None)).await.unwrap();
    assert_eq!(new.key_id(), hard.trim());
    client.validate_jwt_token("mail", new.token()).await.unwrap();
}

#[tokio::test]
async fn requests_without_the_header_for_others_or_for_nobody_are_refused_by_code() {
    let scene = Scene::new().await;
    let mut bare = bare(&socket(&scene.mesh, "web")).await.unwrap();
    let headerless = bare.fetch_x509svid(X509SvidRequest {}).await.unwrap_err();
    assert_eq!(headerless.code(), Code::InvalidArgument, "{headerless}");
    let with = |request: JwtSvidRequest, header: &'static str| {
        let mut request = Request::new(request);
        request
            .metadata_mut()
            .insert("workload.spiffe.io", header.parse().unwrap());
        request
    };
    let asks = |audience: &[&str], spiffe_id: &str| JwtSvidRequest {
        audience: audience.iter().map(|name| (*name).to_owned()).collect(),
        spiffe_id: spiffe_id.to_owned(),
    };
    for (request, header, code) in [
        (asks(&["db"], ""), "True", Code::InvalidArgument),
        (asks(&[], ""), "true", Code::InvalidArgument),
        (asks(&[""], ""), "true", Code::InvalidArgument),
        (asks(&["db"], "web"), "true", Code::InvalidArgument),
        (asks(&["db"], &id("db")), "true", Code::PermissionDenied),
    ] {
        let refused = bare.fetch_jwtsvid(with(request.clone(), header)).await.unwrap_err();
        assert_eq!(refused.code(), code, "{request:?} {refused}");
    }
    assert!(
        bare.fetch_jwtsvid(with(asks(&["db"], &id("web")), "true"))
            .await
            .is_ok()
    );
    let mut nonsense = Request::new(ValidateJwtsvidRequest {
        audience: "db".into(),
        svid: "a.b.c".into(),
    });
    nonsense
        .metadata_mut()
        .insert("workload.spiffe.io", "true".parse().unwrap());
    assert_eq!(
        bare.validate_jwtsvid(nonsense).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    assert_eq!(
        scene
            .web
            .figure("squire_workload_api_refused_total", &[("reason", "header")])
            .await,
        2.0
    );
}

#[tokio::test]
async fn what_a_revoked_identity_was_given_is_refused_and_it_is_given_nothing_more() {
    let scene = Scene::new().await;
    let client = scene.client().await;
    let token = in_time("a token", client.fetch_jwt_svid(["db"], None)).await.unwrap();
    let others = squire_tests::workload_api::client(&socket(&scene.mesh, "db")).await;
    others.validate_jwt_token("db", token.token()).await.unwrap();
    scene
        .squire(&["ca", "revoke", &id("web"), "--dir", "ca", "--reason", "broken into"])
        .await;
    let refused = eventually("the token is refused", async || {
        others.validate_jwt_token("db", token.token()).await.err()
    })
    .await;
    assert!(refused.to_string().contains("broken into"), "{refused}");
    let refused = in_time("an answer", client.fetch_jwt_svid(["other"], None)).await;
    assert!(refused.is_err(), "it is given nothing new");
    let issued = async || {
        scene
            .squire(&["ca", "log", "--dir", "ca", "--id", &id("web")])
            .await
            .matches("svid serial:")
            .count()
    };
    let before = issued().await;
    scene.web.process.signal(Signal::USR1);
    scene.web.process.said(&["the SVID was not renewed"]).await;
    assert_eq!(issued().await, before);
}

/// Whether a user gets as far as an answer over the socket.
async fn answered_as(user: u32, socket: &Path) -> bool {
    let mut command = Command::new(require("setpriv").path());
    let user = user.to_string();
    command.args([
        "--reuid",
        &user,
        "--regid",
        &user,
        "--clear-groups",
        "curl",
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
    ]);
    command.args([
        "--http2-prior-knowledge",
        "-X",
        "POST",
        "-H",
        "content-type: application/grpc",
    ]);
    command
        .arg("--unix-socket")
        .arg(socket)
        .arg("http://localhost/SpiffeWorkloadAPI/FetchJWTSVID");
    let output = in_time("curl ends", command.output()).await.unwrap();
    output.stdout == b"200"
}

#[tokio::test]
async fn only_the_users_that_are_named_may_ask() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root can ask as another user");
    }
    let mesh = Mesh::new();
    fs::set_permissions(mesh.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let own = mesh.pod("own").workload_api();
    let some = mesh.pod("some").workload_api().set("workloadApi.users=61000,61001");
    mesh.start().await;
    let (own, some) = tokio::join!(own.start(), some.start());
    assert!(answered_as(0, &socket(&mesh, "own")).await, "its own user");
    assert!(
        !answered_as(61_000, &socket(&mesh, "own")).await,
        "the file system keeps others out"
    );
    assert!(answered_as(61_001, &socket(&mesh, "some")).await);
    assert!(!answered_as(61_002, &socket(&mesh, "some")).await);
    some.counts("squire_workload_api_refused_total", &[("reason", "user")], 1.0)
        .await;
    some.process.said(&["61002", "workloadApi.users"]).await;
    assert_eq!(
        own.figure("squire_workload_api_refused_total", &[("reason", "user")])
            .await,
        0.0
    );
}
