//! Protocols that nobody declared, with servers and clients as they come: who speaks first does not matter, nobody waits
//! for a guess, and the application's own TLS arrives untouched.

use std::{fs, path::Path};

use squire_tests::{Capture, Cluster, ClusterPod, Mesh, PodSidecar, Process, eventually, id, namespace, require};

use super::MARK;

/// Whether the mesh takes plaintext too; a server that speaks first must be heard either way.
const MODES: [bool; 2] = [true, false];

fn mesh(strict: bool) -> Mesh {
    if strict { Mesh::strict() } else { Mesh::new() }
}

/// Waits until everything sent so far has been captured.
pub(super) async fn all_has_crossed(capture: &Capture, from: &ClusterPod<'_>, to: &ClusterPod<'_>) {
    from.tries("python3", &["-c", MARK, &to.v4(), "all has crossed"])
        .await
        .unwrap();
    capture.sees(b"all has crossed").await;
}

/// Both ends saw the connection, and by mutual TLS.
async fn by_mutual_tls(of_web: &PodSidecar<'_>, of_db: &PodSidecar<'_>) {
    for (sidecar, direction) in [(of_web, "outbound"), (of_db, "inbound")] {
        let line = sidecar
            .logged(&[("direction", direction), ("outcome", "complete")])
            .await;
        assert_eq!(
            (&line["source"], &line["destination"]),
            (&id("web").into(), &id("db").into()),
            "{line}"
        );
        assert_eq!(line["tls_version"], "TLSv1.3", "{line}");
    }
}

/// MariaDB on port 3306 of a pod, with a user `shop` and an empty password.
async fn mariadb(pod: &ClusterPod<'_>) -> Process {
    let dir = pod.dir().join("mariadb");
    fs::create_dir(&dir).unwrap();
    let data = format!("--datadir={}", dir.display());
    let mut install = pod.namespace().command("mariadb-install-db");
    install.args([
        "--no-defaults",
        "--user=root",
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
        &data,
    ]);
    let installed = install.output().await.unwrap();
    assert!(installed.status.success(), "{installed:?}");
    let init = dir.join("init.sql");
    fs::write(&init, "CREATE USER shop@'%';\nGRANT ALL ON *.* TO shop@'%';\n").unwrap();
    let server = require("mariadbd");
    let mut command = pod.namespace().command(server.path());
    command.args([
        "--no-defaults",
        "--user=root",
        "--skip-name-resolve",
        "--bind-address=*",
        &data,
    ]);
    command.arg(format!("--init-file={}", init.display()));
    command.args([
        format!("--socket={}/socket", dir.display()),
        format!("--pid-file={}/pid", dir.display()),
    ]);
    pod.starts(3306, "mariadbd", &mut command).await
}

#[tokio::test]
async fn a_mariadb_server_which_speaks_first_answers_its_client_unseen_on_the_wire() {
    if !namespace::possible() {
        return;
    }
    const QUERY: &str = "SELECT CONCAT('what the ', REVERSE('revres'), ' says')";
    for strict in MODES {
        let cluster = Cluster::new(mesh(strict));
        let (web, db) = (cluster.pod("web", "squire"), cluster.pod("db", "squire"));
        cluster.start().await;
        let _server = mariadb(&db).await;
        let (of_web, of_db) = tokio::join!(web.sidecar(&[]), db.sidecar(&[]));
        let capture = cluster.capture().await;
        for address in db.addresses() {
            let arguments = [
                "--no-defaults",
                "--skip-ssl",
                "-N",
                "-u",
                "shop",
                "-h",
                &address,
                "-e",
                QUERY,
            ];
            let answer = eventually("the server answers", async || {
                web.tries("mariadb", &arguments).await.ok()
            })
            .await;
            assert_eq!(answer.trim(), "what the server says");
        }
        by_mutual_tls(&of_web, &of_db).await;
        all_has_crossed(&capture, &web, &db).await;
        for plaintext in [&b"mysql_native_password"[..], b"REVERSE", b"what the server says"] {
            assert!(!capture.saw(plaintext), "{}", String::from_utf8_lossy(plaintext));
        }
    }
}

#[tokio::test]
async fn a_mail_server_which_greets_and_waits_is_heard_in_both_modes() {
    if !namespace::possible() {
        return;
    }
    const SERVER: &str = r#"
import socket, threading
s = socket.create_server(("::", 25), family=socket.AF_INET6, dualstack_ipv6=True)
def serve(c):
    f = c.makefile("rwb")
    def say(line):
        f.write(line + b"\r\n")
        f.flush()
    say(b"220 db.shop ESMTP")
    for line in f:
        say(b"221 bye" if line.startswith(b"QUIT") else b"250 ok")
        if line.startswith(b"QUIT"):
            break
    f.close()
    c.close()
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"#;
    const CLIENT: &str = r#"
import smtplib, sys
c = smtplib.SMTP(timeout=20)
code, text = c.connect(sys.argv[1], 25)
c.ehlo("web")
c.quit()
print(code, text.decode())
"#;
    for strict in MODES {
        let cluster = Cluster::new(mesh(strict));
        let (web, db) = (cluster.pod("web", "squire"), cluster.pod("db", "squire"));
        cluster.start().await;
        let mut command = db.namespace().command("python3");
        let _server = db.starts(25, "mail", command.args(["-c", SERVER])).await;
        // Whoever waited for a silent client to speak would wait longer than anybody has patience here.
        let settings = ["limits.handshakeTimeout=10m"];
        let (of_web, of_db) = tokio::join!(web.sidecar(&settings), db.sidecar(&settings));
        for address in db.addresses() {
            let said = async || web.tries("python3", &["-c", CLIENT, &address]).await.ok();
            assert_eq!(eventually("it is greeted", said).await.trim(), "220 db.shop ESMTP");
        }
        by_mutual_tls(&of_web, &of_db).await;
        // A client without a sidecar is greeted where plaintext is taken, though it says nothing itself.
        let plain = cluster.pod("plain", "plaintext");
        let greeted = plain.tries("python3", &["-c", CLIENT, &db.v4()]).await;
        assert_eq!(greeted.is_ok(), !strict, "{greeted:?}");
    }
}

/// A certificate of the application's own, of which the mesh knows nothing.
fn own_certificate(dir: &Path) {
    let pair = rcgen::generate_simple_self_signed(vec!["db.example.org".to_owned()]).unwrap();
    fs::write(dir.join("own.crt"), pair.cert.pem()).unwrap();
    fs::write(dir.join("own.key"), pair.signing_key.serialize_pem()).unwrap();
}

/// PostgreSQL on port 5432 of a pod, with TLS of its own, a superuser `shop` whom everybody may be.
async fn postgres(pod: &ClusterPod<'_>) -> Process {
    let dir = pod.dir().join("postgres");
    fs::create_dir(&dir).unwrap();
    own_certificate(&dir);
    pod.namespace()
        .run(&["chmod", "600", dir.join("own.key").to_str().unwrap()]);
    let owned = |path: &Path| {
        pod.namespace()
            .run(&["chown", "-R", "postgres", path.to_str().unwrap()])
    };
    owned(&dir);
    let uid = std::process::Command::new("id")
        .args(["-u", "postgres"])
        .output()
        .unwrap();
    let uid: u32 = String::from_utf8(uid.stdout).unwrap().trim().parse().unwrap();
    let bin = fs::read_dir("/usr/lib/postgresql")
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path()
        .join("bin");
    let data = dir.join("data");
    let mut init = pod.namespace().command_as(uid, bin.join("initdb"));
    init.args(["-A", "trust", "-U", "shop", "--no-sync", "--locale=C", "-D"])
        .arg(&data);
    let made = init.current_dir("/").output().await.unwrap();
    assert!(made.status.success(), "{made:?}");
    fs::write(data.join("pg_hba.conf"), "host all all all trust\n").unwrap();
    let mut command = pod.namespace().command_as(uid, bin.join("postgres"));
    command.current_dir("/").arg("-D").arg(&data);
    for setting in [
        "listen_addresses=*".to_owned(),
        format!("unix_socket_directories={}", dir.display()),
        "ssl=on".to_owned(),
        format!("ssl_cert_file={}/own.crt", dir.display()),
        format!("ssl_key_file={}/own.key", dir.display()),
        "fsync=off".to_owned(),
    ] {
        command.args(["-c", &setting]);
    }
    pod.starts(5432, "postgres", &mut command).await
}

#[tokio::test]
async fn a_postgres_client_which_speaks_first_gets_through_plain_and_with_tls_of_its_own() {
    if !namespace::possible() {
        return;
    }
    const QUERY: &str =
        "SELECT 'what the ' || reverse('revres') || ' says', ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let cluster = Cluster::new(Mesh::new());
    let (web, db) = (cluster.pod("web", "squire"), cluster.pod("db", "squire"));
    cluster.start().await;
    let _server = postgres(&db).await;
    let (of_web, of_db) = tokio::join!(web.sidecar(&[]), db.sidecar(&[]));
    let capture = cluster.capture().await;
    for (own_tls, expected) in [
        ("disable", "what the server says|f"),
        ("require", "what the server says|t"),
    ] {
        for address in db.addresses() {
            let target = format!("host={address} user=shop dbname=postgres sslmode={own_tls} gssencmode=disable");
            let asked = async || web.tries("psql", &["-X", "-A", "-t", "-c", QUERY, &target]).await.ok();
            assert_eq!(eventually("the server answers", asked).await.trim(), expected);
        }
    }
    by_mutual_tls(&of_web, &of_db).await;
    all_has_crossed(&capture, &web, &db).await;
    for plaintext in [&b"what the server says"[..], b"revres", b"application_name"] {
        assert!(!capture.saw(plaintext), "{}", String::from_utf8_lossy(plaintext));
    }
}

/// nginx on ports 8080 (plain), 8081 (HTTP/2 with prior knowledge) and 8443 (TLS of its own) of a pod.
pub(super) async fn nginx(pod: &ClusterPod<'_>) -> Process {
    let dir = pod.dir();
    own_certificate(&dir);
    let at = dir.display();
    let config = format!(
        "daemon off; master_process off; pid {at}/nginx.pid; error_log stderr warn;\nevents {{ }}\nhttp {{\n  access_log \
         off;\n  client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi;\n  \
         uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;\n  server {{\n    listen 8080; listen [::]:8080;\n    \
         listen 8443 ssl; listen [::]:8443 ssl;\n    ssl_certificate {at}/own.crt; ssl_certificate_key \
         {at}/own.key;\n    location / {{ return 200 \"nginx on $server_addr by $scheme\\n\"; }}\n  }}\n  server {{\n    listen 8081 http2; \
         listen [::]:8081 http2;\n    location / {{ return 200 \"nginx by http/2\\n\"; }}\n  }}\n}}\n"
    );
    fs::write(dir.join("nginx.conf"), config).unwrap();
    let server = require("nginx");
    let mut command = pod.namespace().command(server.path());
    command.args(["-e", "stderr", "-c"]).arg(dir.join("nginx.conf"));
    pod.starts(8443, "nginx", &mut command).await
}

#[tokio::test]
async fn nginx_is_reached_by_curl_over_http_and_over_its_own_tls_which_ends_at_nginx() {
    if !namespace::possible() {
        return;
    }
    let cluster = Cluster::new(Mesh::new());
    let (web, db) = (cluster.pod("web", "squire"), cluster.pod("db", "squire"));
    cluster.service("db", &["10.96.0.3", "fd96::3"], 443, 8443);
    cluster.start().await;
    let _server = nginx(&db).await;
    let (of_web, of_db) = tokio::join!(web.sidecar(&[]), db.sidecar(&[]));
    let capture = cluster.capture().await;
    // The client takes this certificate and no other: had anybody ended the TLS on the way, it would show another.
    let certificate = db.dir().join("own.crt").display().to_string();
    for (vip, own) in ["10.96.0.3", "fd96::3"].iter().zip(&db.addresses()) {
        let host = if own.contains(':') {
            format!("[{own}]")
        } else {
            own.clone()
        };
        let url = format!("http://{host}:8080/");
        let got = eventually("nginx answers", async || web.tries("curl", &["-sSf", &url]).await.ok()).await;
        assert_eq!(got.trim(), format!("nginx on {own} by http"));
        let resolve = format!(
            "db.example.org:443:{}",
            if vip.contains(':') {
                format!("[{vip}]")
            } else {
                (*vip).to_owned()
            }
        );
        let arguments = [
            "-sSf",
            "--cacert",
            &certificate,
            "--resolve",
            &resolve,
            "https://db.example.org/",
        ];
        let got = web.tries("curl", &arguments).await.unwrap();
        assert_eq!(got.trim(), format!("nginx on {own} by https"));
    }
    by_mutual_tls(&of_web, &of_db).await;
    all_has_crossed(&capture, &web, &db).await;
    for plaintext in [&b"nginx on"[..], b"GET / HTTP", b"db.example.org"] {
        assert!(!capture.saw(plaintext), "{}", String::from_utf8_lossy(plaintext));
    }
    // Without sidecars the same bytes are plain to see: the capture does not miss them.
    let plain = cluster.pod("plain", "plaintext");
    let got = plain
        .tries("curl", &["-sSf", &format!("http://{}:8080/", db.v4())])
        .await
        .unwrap();
    assert!(got.contains("by http"), "{got}");
    capture.sees(b"nginx on").await;
}
